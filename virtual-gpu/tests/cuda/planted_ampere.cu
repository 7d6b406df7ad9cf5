// targets: sm_80
// Bugs planted in kernels of the Ampere generation: cp.async, ldmatrix, mma.sync. Variant 0 is correct.
#include "ptx.cuh"

// out = 2 x, each tile reversed, through four stages filled by cp.async. Block 128, tiles of 512 elements.
template <int BUG>
__device__ void pipeline(const float* x, float* out, int tiles) {
    __shared__ alignas(16) float stages[4][512 + 4];
    constexpr int kShift = BUG == 5 ? 1 : 0;  // not a multiple of 16 bytes
    int t = threadIdx.x;
    for (int s = 0; s < 3; s++) {
        if (s < tiles) ptx::cp_async_16(&stages[s][4 * t + kShift], x + s * 512 + 4 * t);
        if (BUG != 7) ptx::cp_async_commit_group();
    }
    for (int i = 0; i < tiles; i++) {
        if (BUG == 1) ptx::cp_async_wait_group<3>();
        else if (BUG != 3) ptx::cp_async_wait_group<2>();
        if (BUG != 2) __syncthreads();
        int next = i + 3;
        if (BUG == 6 || next < tiles)
            ptx::cp_async_16(&stages[(BUG == 4 ? i : next) % 4][4 * t + kShift], x + next * 512 + 4 * t);
        ptx::cp_async_commit_group();
        for (int j = t; j < 512; j += 128) out[i * 512 + j] = 2 * stages[i % 4][BUG == 8 ? j : 511 - j];
    }
    ptx::cp_async_wait_all();
}
#define PIPELINE(BUG) \
    extern "C" __global__ void pipeline_##BUG(const float* x, float* out, int tiles) { pipeline<BUG>(x, out, tiles); }
PIPELINE(0) PIPELINE(1) PIPELINE(2) PIPELINE(3) PIPELINE(4) PIPELINE(5) PIPELINE(6) PIPELINE(7) PIPELINE(8)

// c[64, 64] = a[64, k] b[64, k]^T of bf16. Block 128: four warps of 32 by 32, two stages.
template <int BUG>
__device__ void mma_gemm(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k) {
    constexpr int kPitch = BUG == 3 ? 36 : 40;
    __shared__ alignas(16) __nv_bfloat16 a_tile[2][64][kPitch], b_tile[2][64][kPitch];
    int t = threadIdx.x, lane = t % 32, warp = t / 32, warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
    auto load = [&](int stage, int start) {
        for (int i = t; i < 256; i += 128) {
            int row = i / 4, col = i % 4 * 8;
            if (BUG == 3) {
                for (int e = 0; e < 8; e++) a_tile[stage][row][col + e] = a[row * k + start + col + e];
                for (int e = 0; e < 8; e++) b_tile[stage][row][col + e] = b[row * k + start + col + e];
            } else {
                ptx::cp_async_16(&a_tile[stage][row][col], a + row * k + start + col);
                if (BUG != 5 || row < 63) ptx::cp_async_16(&b_tile[stage][row][col], b + row * k + start + col);
            }
        }
        ptx::cp_async_commit_group();
    };
    float accum[2][4][4];
    for (int i = 0; i < 32; i++)
        if (BUG != 6 || i != 5) (&accum[0][0][0])[i] = 0;
    load(0, 0);
    for (int start = 0, stage = 0; start < k; start += 32, stage ^= 1) {
        if (start + 32 < k) {
            load(stage ^ 1, start + 32);
            ptx::cp_async_wait_group<1>();
        } else if (BUG == 2) {
            ptx::cp_async_wait_group<1>();
        } else {
            ptx::cp_async_wait_group<0>();
        }
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            uint32_t af[2][4], bf[4][2];
            for (int i = 0; i < 2; i++)
                ptx::ldmatrix_x4(af[i], &a_tile[stage][warp_row + 16 * i + lane % 16][kk + lane / 16 * 8]);
            for (int j = 0; j < 4; j++)
                ptx::ldmatrix_x2(bf[j], &b_tile[stage][warp_col + 8 * j + (BUG == 4 ? 40 : 0) + lane % 8]
                                              [kk + lane / 8 % 2 * 8]);
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) {
                    if (BUG == 7) {
                        uint32_t swapped[2] = {bf[j][1], bf[j][0]};
                        ptx::mma_m16n8k16<__nv_bfloat16>(accum[i][j], af[i], swapped);
                    } else {
                        ptx::mma_m16n8k16<__nv_bfloat16>(accum[i][j], af[i], bf[j]);
                    }
                }
        }
        if (BUG != 1) __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = warp_row + 16 * i + lane / 4 + (BUG == 8 ? e / 2 * 40 : e / 2 * 8);
                int col = warp_col + 8 * j + lane % 4 * 2 + e % 2;
                c[row * 64 + col] = accum[i][j][e];
            }
}
#define MMA_GEMM(BUG)                                                                                              \
    extern "C" __global__ void mma_gemm_##BUG(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k) { \
        mma_gemm<BUG>(a, b, c, k);                                                                                 \
    }
MMA_GEMM(0) MMA_GEMM(1) MMA_GEMM(2) MMA_GEMM(3) MMA_GEMM(4) MMA_GEMM(5) MMA_GEMM(6) MMA_GEMM(7) MMA_GEMM(8)
