// targets: sm_90a
// Products by warpgroups.
#include "ptx.cuh"
#include <cuda.h>

// Writes a warpgroup's 64 by 32 accumulators to c[row0.., col0..] with n columns.
__device__ void store_accumulators(float* c, const float (&accum)[16], int row0, int col0, int n) {
    int t = threadIdx.x % 128, lane = t % 32, row = row0 + t / 32 * 16 + lane / 4, col = col0 + lane % 4 * 2;
    for (int i = 0; i < 16; i++) c[(row + i / 2 % 2 * 8) * n + col + i / 4 * 8 + i % 2] = accum[i];
}

// c[64, 32] = a[64, k] b[32, k]^T of bf16, tiles of 64 along k loaded by tensor copies with 128-byte swizzle. Block 128.
extern "C" __global__ void wgmma_bf16(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                                      float* c, int k) {
    __shared__ alignas(1024) __nv_bfloat16 a_tile[64 * 64], b_tile[32 * 64];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    float accum[16];
    for (int i = 0; i < k / 64; i++) {
        if (threadIdx.x == 0) {
            ptx::mbarrier_arrive_expect_tx(&full, sizeof(a_tile) + sizeof(b_tile));
            ptx::tensor_load_2d(a_tile, &a, &full, 64 * i, 0);
            ptx::tensor_load_2d(b_tile, &b, &full, 64 * i, 0);
        }
        ptx::mbarrier_wait(&full, i & 1);
        ptx::wgmma_fence();
        for (int kk = 0; kk < 4; kk++) {
            uint64_t da = ptx::matrix_descriptor(a_tile + 16 * kk, 16, 1024, ptx::Swizzle::k128B);
            uint64_t db = ptx::matrix_descriptor(b_tile + 16 * kk, 16, 1024, ptx::Swizzle::k128B);
            ptx::wgmma_m64n32k16_bf16<0, 0>(accum, da, db, i + kk > 0);
        }
        ptx::wgmma_commit_group();
        ptx::wgmma_wait_group<0>();
        __syncthreads();
    }
    store_accumulators(c, accum, 0, 0, 32);
}

// The same with A and B stored [k][64] and [k][32]: M and N contiguous. A with 128-byte, B with 64-byte swizzle.
extern "C" __global__ void wgmma_transposed(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                                            float* c) {
    __shared__ alignas(1024) __nv_bfloat16 a_tile[64 * 64], b_tile[64 * 32];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(a_tile) + sizeof(b_tile));
        ptx::tensor_load_2d(a_tile, &a, &full, 0, 0);
        ptx::tensor_load_2d(b_tile, &b, &full, 0, 0);
    }
    __syncthreads();
    ptx::mbarrier_wait(&full, 0);
    float accum[16];
    ptx::wgmma_fence();
    for (int kk = 0; kk < 4; kk++) {
        // Sixteen rows of k further on: 16 rows of 128 and of 64 bytes.
        uint64_t da = ptx::matrix_descriptor(a_tile + kk * 16 * 64, 0, 1024, ptx::Swizzle::k128B);
        uint64_t db = ptx::matrix_descriptor(b_tile + kk * 16 * 32, 0, 512, ptx::Swizzle::k64B);
        ptx::wgmma_m64n32k16_bf16<1, 1>(accum, da, db, kk > 0);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    store_accumulators(c, accum, 0, 0, 32);
}

// c = a b^T of f16 without swizzle: core matrices of 8 rows by 16 bytes, written by the threads. K is 16. Block 128.
extern "C" __global__ void wgmma_plain_f16(const __half* a, const __half* b, float* c) {
    __shared__ alignas(128) __half a_tile[64 * 16], b_tile[32 * 16];
    auto place = [](int row, int k) { return row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8; };
    for (int i = threadIdx.x; i < 64 * 16; i += 128) a_tile[place(i / 16, i % 16)] = a[i];
    for (int i = threadIdx.x; i < 32 * 16; i += 128) b_tile[place(i / 16, i % 16)] = b[i];
    ptx::fence_proxy_async();
    __syncthreads();
    float accum[16];
    ptx::wgmma_fence();
    ptx::wgmma_m64n32k16_f16(accum, ptx::matrix_descriptor(a_tile, 128, 256, ptx::Swizzle::kNone),
                             ptx::matrix_descriptor(b_tile, 128, 256, ptx::Swizzle::kNone), false);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    store_accumulators(c, accum, 0, 0, 32);
}

// c -= a b^T of bf16 with A in registers. K is 16. Block 128.
extern "C" __global__ void wgmma_registers(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c) {
    __shared__ alignas(128) __nv_bfloat16 b_tile[32 * 16];
    auto place = [](int row, int k) { return row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8; };
    for (int i = threadIdx.x; i < 32 * 16; i += 128) b_tile[place(i / 16, i % 16)] = b[i];
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, col = lane % 4 * 2;
    uint32_t af[4];
    for (int r = 0; r < 4; r++)
        af[r] = *reinterpret_cast<const uint32_t*>(&a[(row + r % 2 * 8) * 16 + col + r / 2 * 8]);
    float accum[16];
    for (int i = 0; i < 16; i++) accum[i] = c[(row + i / 2 % 2 * 8) * 32 + col + i / 4 * 8 + i % 2];
    ptx::fence_proxy_async();
    __syncthreads();
    ptx::wgmma_fence();
    ptx::wgmma_m64n32k16_bf16_registers(accum, af, ptx::matrix_descriptor(b_tile, 128, 256, ptx::Swizzle::kNone), true);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    store_accumulators(c, accum, 0, 0, 32);
}

// c = a b^T of tf32, K is 8, rows of 32 bytes with 32-byte swizzle. Block 128.
extern "C" __global__ void wgmma_tf32(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                                      float* c) {
    __shared__ alignas(1024) float a_tile[64 * 8], b_tile[32 * 8];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(a_tile) + sizeof(b_tile));
        ptx::tensor_load_2d(a_tile, &a, &full, 0, 0);
        ptx::tensor_load_2d(b_tile, &b, &full, 0, 0);
    }
    __syncthreads();
    ptx::mbarrier_wait(&full, 0);
    float accum[16];
    ptx::wgmma_fence();
    ptx::wgmma_m64n32k8_tf32(accum, ptx::matrix_descriptor(a_tile, 16, 256, ptx::Swizzle::k32B),
                             ptx::matrix_descriptor(b_tile, 16, 256, ptx::Swizzle::k32B), false);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    store_accumulators(c, accum, 0, 0, 32);
}

// A warp-specialised product: a producer warpgroup with few registers feeds two consumer warpgroups through a ring of
// four stages. c[128 gridDim.y, 32 gridDim.x] = a[.., k] b[.., k]^T, bf16 in, f32 out. Block 384, dynamic shared memory.
constexpr int kStages = 4;
struct Shared {
    __nv_bfloat16 a[kStages][128 * 64];
    __nv_bfloat16 b[kStages][32 * 64];
    uint64_t full[kStages], empty[kStages];
};
extern "C" __global__ void __launch_bounds__(384, 1)
    warp_specialised(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, float* c, int n,
                     int k) {
    extern __shared__ __align__(1024) uint8_t raw[];
    Shared& shared = *reinterpret_cast<Shared*>(raw);
    int warpgroup = threadIdx.x / 128, row0 = blockIdx.y * 128, col0 = blockIdx.x * 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kStages; s++) {
            ptx::mbarrier_init(&shared.full[s], 1);
            ptx::mbarrier_init(&shared.empty[s], 2);
        }
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    int tiles = k / 64;
    if (warpgroup == 0) {
        ptx::setmaxnreg_dec<40>();
        if (threadIdx.x == 0) {
            for (int i = 0; i < tiles; i++) {
                int s = i % kStages;
                ptx::mbarrier_wait(&shared.empty[s], (i / kStages & 1) ^ 1);
                ptx::mbarrier_arrive_expect_tx(&shared.full[s], sizeof(shared.a[s]) + sizeof(shared.b[s]));
                ptx::tensor_load_2d(shared.a[s], &a, &shared.full[s], 64 * i, row0);
                ptx::tensor_load_2d(shared.b[s], &b, &shared.full[s], 64 * i, col0);
            }
        }
    } else {
        ptx::setmaxnreg_inc<232>();
        float accum[16];
        for (int i = 0; i < tiles; i++) {
            int s = i % kStages;
            ptx::mbarrier_wait(&shared.full[s], i / kStages & 1);
            ptx::wgmma_fence();
            for (int kk = 0; kk < 4; kk++) {
                uint64_t da = ptx::matrix_descriptor(shared.a[s] + (warpgroup - 1) * 64 * 64 + 16 * kk, 16, 1024,
                                                     ptx::Swizzle::k128B);
                uint64_t db = ptx::matrix_descriptor(shared.b[s] + 16 * kk, 16, 1024, ptx::Swizzle::k128B);
                ptx::wgmma_m64n32k16_bf16<0, 0>(accum, da, db, i + kk > 0);
            }
            ptx::wgmma_commit_group();
            // All but the newest group are done: the stage before this one may be filled again.
            ptx::wgmma_wait_group<1>();
            if (i > 0 && threadIdx.x % 128 == 0) ptx::mbarrier_arrive(&shared.empty[(i - 1) % kStages]);
        }
        ptx::wgmma_wait_group<0>();
        store_accumulators(c, accum, row0 + (warpgroup - 1) * 64, col0, n);
    }
}
