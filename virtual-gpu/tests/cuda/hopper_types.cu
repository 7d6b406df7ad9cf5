// targets: sm_90a
// Products by warpgroups of 8-bit numbers, and sums in f16. Rows of a[64] and b[16] are 32 bytes, all of K.
#include "ptx.cuh"

// Rows as core matrices of 8 rows by 16 bytes, two in K beside each other.
__device__ void place(uint4* tile, const uint4* rows, int num_rows) {
    for (int i = threadIdx.x; i < 2 * num_rows; i += 128) tile[i / 16 * 16 + i % 2 * 8 + i / 2 % 8] = rows[i];
}

struct Operands {
    uint64_t a, b;
};
__device__ Operands load(uint4* tiles, const uint4* a, const uint4* b) {
    place(tiles, a, 64);
    place(tiles + 128, b, 16);
    ptx::fence_proxy_async();
    __syncthreads();
    return {ptx::matrix_descriptor(tiles, 128, 256, ptx::Swizzle::kNone),
            ptx::matrix_descriptor(tiles + 128, 128, 256, ptx::Swizzle::kNone)};
}

// Where accumulator i of a thread stands in c[64, 16].
__device__ int at(int i) {
    int t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8;
    return row * 16 + i / 4 * 8 + t % 4 * 2 + i % 2;
}

#define SUMS_8 "{%0, %1, %2, %3, %4, %5, %6, %7}"

// c[64, 16] = a b^T in f32. Block 128.
#define F32_SUMS(name, types)                                                                                      \
    extern "C" __global__ void name(const uint4* a, const uint4* b, float* c) {                                    \
        __shared__ alignas(1024) uint4 tiles[160];                                                                 \
        Operands o = load(tiles, a, b);                                                                            \
        float d[8];                                                                                                \
        ptx::wgmma_fence();                                                                                        \
        asm volatile("wgmma.mma_async.sync.aligned.m64n16" types " " SUMS_8 ", %8, %9, 0, 1, 1;"                   \
                     : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]), "=f"(d[4]), "=f"(d[5]), "=f"(d[6]),         \
                       "=f"(d[7])                                                                                  \
                     : "l"(o.a), "l"(o.b));                                                                        \
        ptx::wgmma_commit_group();                                                                                 \
        ptx::wgmma_wait_group<0>();                                                                                \
        for (int i = 0; i < 8; i++) c[at(i)] = d[i];                                                               \
    }
F32_SUMS(wgmma_e4m3, "k32.f32.e4m3.e4m3")
F32_SUMS(wgmma_e5m2, "k32.f32.e5m2.e5m2")
F32_SUMS(wgmma_e4m3_e5m2, "k32.f32.e4m3.e5m2")

// The same in f16, two sums a register.
#define F16_SUMS(name, types)                                                                                      \
    extern "C" __global__ void name(const uint4* a, const uint4* b, __half* c) {                                   \
        __shared__ alignas(1024) uint4 tiles[160];                                                                 \
        Operands o = load(tiles, a, b);                                                                            \
        uint32_t d[4];                                                                                             \
        ptx::wgmma_fence();                                                                                        \
        asm volatile("wgmma.mma_async.sync.aligned.m64n16" types ";"                                               \
                     : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                              \
                     : "l"(o.a), "l"(o.b));                                                                        \
        ptx::wgmma_commit_group();                                                                                 \
        ptx::wgmma_wait_group<0>();                                                                                \
        for (int i = 0; i < 4; i++) *reinterpret_cast<uint32_t*>(&c[at(2 * i)]) = d[i];                            \
    }
F16_SUMS(wgmma_f16_sums, "k16.f16.f16.f16 {%0, %1, %2, %3}, %4, %5, 0, 1, 1, 0, 0")
F16_SUMS(wgmma_e4m3_f16_sums, "k32.f16.e4m3.e4m3 {%0, %1, %2, %3}, %4, %5, 0, 1, 1")

// c[64, 16] = a b^T of bytes with a sign, in 32-bit integers; twice, to accumulate.
extern "C" __global__ void wgmma_s8(const uint4* a, const uint4* b, int* c) {
    __shared__ alignas(1024) uint4 tiles[160];
    Operands o = load(tiles, a, b);
    int d[8] = {};
    ptx::wgmma_fence();
    ptx::wgmma_m64n16k32_s8(d, o.a, o.b, false);
    ptx::wgmma_m64n16k32_s8(d, o.a, o.b, true);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    for (int i = 0; i < 8; i++) c[at(i)] = d[i];
}
