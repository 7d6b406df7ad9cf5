// targets: sm_90a
// Bugs planted in what wgmma does to registers, and in setmaxnreg. Variant 0 is correct.
#include "ptx.cuh"

#define ACCUM "{d0,d1,d2,d3,d4,d5,d6,d7,d8,d9,d10,d11,d12,d13,d14,d15}"
#define PRODUCT(ACCUMULATE) \
    "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 " ACCUM ", {a0,a1,a2,a3}, %20, " ACCUMULATE ", 1, 1, 0;\n"

// c[64, 32] = 2 a[64, 16] b[32, 16]^T of f16, A in registers, as two products in one sum. In one asm statement, since
// the compiler would give new names to registers between several. Block 128.
#define IN_REGISTERS(BUG, ...) IN_REGISTERS_AS(in_registers_##BUG, __VA_ARGS__)
#define IN_REGISTERS_AS(NAME, FENCE, FENCED, BETWEEN, IN_FLIGHT, WAIT, TAKE)                                      \
    extern "C" __global__ void NAME(const __half* a, const __half* b, float* c) {                                 \
        __shared__ alignas(128) __half b_tile[32 * 16];                                                           \
        int t = threadIdx.x, lane = t % 32, row = t / 32 * 16 + lane / 4, col = lane % 4 * 2;                     \
        for (int i = t; i < 32 * 16; i += 128) {                                                                  \
            int n = i / 16, k = i % 16;                                                                           \
            b_tile[n / 8 * 128 + k / 8 * 64 + n % 8 * 8 + k % 8] = b[i];                                          \
        }                                                                                                         \
        uint32_t af[4];                                                                                           \
        for (int r = 0; r < 4; r++)                                                                               \
            af[r] = *reinterpret_cast<const uint32_t*>(&a[(row + r % 2 * 8) * 16 + col + r / 2 * 8]);             \
        ptx::fence_proxy_async();                                                                                 \
        __syncthreads();                                                                                          \
        float d[16] = {};                                                                                         \
        asm volatile("{\n.reg .f32 d<16>, u<4>;\n.reg .b32 a<4>, v;\n.reg .pred no, yes, p;\n"                    \
                     "setp.ne.u32 no, 0, 0;\nsetp.eq.u32 yes, 0, 0;\nsetp.lt.u32 p, %21, 32;\n"                   \
                     "mov.b32 a0, %16;\nmov.b32 a1, %17;\nmov.b32 a2, %18;\nmov.b32 a3, %19;\n"                   \
                     FENCE FENCED PRODUCT("no") BETWEEN PRODUCT("yes")                                            \
                     "wgmma.commit_group.sync.aligned;\n" IN_FLIGHT WAIT TAKE "}"                                 \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
                       "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
                       "+f"(d[14]), "+f"(d[15])                                                                   \
                     : "r"(af[0]), "r"(af[1]), "r"(af[2]), "r"(af[3]),                                            \
                       "l"(ptx::matrix_descriptor(b_tile, 128, 256, ptx::Swizzle::kNone)), "r"(t), "l"(c)         \
                     : "memory");                                                                                 \
        for (int i = 0; i < 16; i++) c[(row + i / 2 % 2 * 8) * 32 + col + i / 4 * 8 + i % 2] = d[i];              \
    }
#define FENCE "wgmma.fence.sync.aligned;\n"
#define WAIT "wgmma.wait_group.sync.aligned 0;\n"
#define TAKE                                                                                                      \
    "mov.f32 %0, d0;\nmov.f32 %1, d1;\nmov.f32 %2, d2;\nmov.f32 %3, d3;\nmov.f32 %4, d4;\nmov.f32 %5, d5;\n"      \
    "mov.f32 %6, d6;\nmov.f32 %7, d7;\nmov.f32 %8, d8;\nmov.f32 %9, d9;\nmov.f32 %10, d10;\nmov.f32 %11, d11;\n"  \
    "mov.f32 %12, d12;\nmov.f32 %13, d13;\nmov.f32 %14, d14;\nmov.f32 %15, d15;\n"
IN_REGISTERS(0, FENCE, "", "", "", WAIT, TAKE)
IN_REGISTERS(1, FENCE, "", "", "mov.b32 a0, 0;\n", WAIT, TAKE)
IN_REGISTERS(2, FENCE, "", "", "setp.gt.f32 p, d0, 0f00000000;\n", WAIT, TAKE)
IN_REGISTERS(3, FENCE, "", "", "mov.b32 v, d0;\nshfl.sync.bfly.b32 v, v, 1, 0x1f, 0xffffffff;\n", WAIT, TAKE)
IN_REGISTERS(4, FENCE, "", "", "@p red.global.add.f32 [%22], d5;\n", WAIT, TAKE)
IN_REGISTERS(5, FENCE, "", "",
             "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {u0,u1,u2,u3}, {a0,a1,a2,a3}, {a0,a1}, {d0,d1,d2,d3};\n",
             WAIT, TAKE)
IN_REGISTERS(6, FENCE, "", "mov.f32 d3, 0f3f800000;\n", "", WAIT, TAKE)
IN_REGISTERS(7, "", "", "", "", WAIT, TAKE)
IN_REGISTERS(8, "@p " FENCE, "", "", "", WAIT, TAKE)
IN_REGISTERS(9, FENCE, "", "", "", "", "")
IN_REGISTERS(10, FENCE, "and.b32 a1, a1, 0x7fffffff;\n", "", "", WAIT, TAKE)
IN_REGISTERS(11, FENCE, "", "mov.f32 u0, d0;\n", "", WAIT "add.f32 d0, d0, u0;\n", TAKE)
IN_REGISTERS(12, FENCE, "", "mov.f32 u0, d0;\nmov.f32 u1, u0;\nmov.f32 d0, u1;\n", "",
             WAIT "mov.f32 u2, u1;\nmul.f32 d0, d0, u2;\n", TAKE)

// The same; moves hand the sums from name to name, as the compiler does, and one copy is not used again.
IN_REGISTERS_AS(renamed_0, FENCE, "", "mov.f32 u0, d0;\nmov.f32 u1, u0;\nmov.f32 d0, u1;\n", "mov.f32 u2, d0;\nmov.f32 d0, u2;\n",
             WAIT "mov.f32 u0, 0f3f800000;\nmul.f32 d0, d0, u0;\n", TAKE)

// out = in; a producer warpgroup gives registers up for two others. Block 384.
template <int BUG>
__device__ void pools(const int* in, int* out) {
    int warp = threadIdx.x / 32;
    if (warp < 4) {
        if (BUG != 1 || warp == 0) ptx::setmaxnreg_dec<40>();
    } else if (BUG == 2 && warp == 5) {
        ptx::setmaxnreg_inc<200>();
    } else {
        ptx::setmaxnreg_inc<232>();
    }
    out[threadIdx.x] = in[threadIdx.x];
}
#define POOLS(BUG) \
    extern "C" __global__ void __launch_bounds__(384, 1) pools_##BUG(const int* in, int* out) { pools<BUG>(in, out); }
POOLS(0) POOLS(1) POOLS(2)

// So few threads that each may have begun with 255 registers. Block 128.
template <int BUG>
__device__ void few_threads(const int* in, int* out) {
    if (BUG == 1) ptx::setmaxnreg_inc<232>();
    else ptx::setmaxnreg_dec<40>();
    ptx::setmaxnreg_inc<200>();
    out[threadIdx.x] = in[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(128, 1) few_threads_0(const int* in, int* out) { few_threads<0>(in, out); }
extern "C" __global__ void __launch_bounds__(128, 1) few_threads_1(const int* in, int* out) { few_threads<1>(in, out); }
