// targets: sm_80 sm_90a
// Asynchronous copies and tensor cores of the Ampere generation.
#include "ptx.cuh"
#include <cuda_pipeline.h>

// out = 2 x through four stages of shared memory filled by cp.async. Block 128, n a multiple of 512 elements a block.
extern "C" __global__ void async_pipeline(const float* x, float* out, int tiles) {
    __shared__ alignas(16) float stages[4][512];
    const float* mine = x + blockIdx.x * tiles * 512;
    int t = threadIdx.x;
    for (int s = 0; s < 3; s++) {
        if (s < tiles) ptx::cp_async_16(&stages[s][4 * t], mine + s * 512 + 4 * t);
        ptx::cp_async_commit_group();
    }
    for (int i = 0; i < tiles; i++) {
        ptx::cp_async_wait_group<2>();
        __syncthreads();
        int next = i + 3;
        if (next < tiles) ptx::cp_async_16(&stages[next % 4][4 * t], mine + next * 512 + 4 * t);
        ptx::cp_async_commit_group();
        for (int j = t; j < 512; j += 128) out[(blockIdx.x * tiles + i) * 512 + j] = 2 * stages[i % 4][511 - j];
    }
    ptx::cp_async_wait_all();
}

// The library's pipeline primitives, with a tail filled by zeros. Block 64.
extern "C" __global__ void async_tail(const int* x, int* out, int n) {
    __shared__ int buffer[64];
    int i = blockIdx.x * 64 + threadIdx.x;
    ptx::cp_async_4(&buffer[threadIdx.x], x + (i < n ? i : 0), i < n ? 4 : 0);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    out[i] = buffer[63 - threadIdx.x];
}

// c[m, n] = a[m, k] b[n, k]^T with ldmatrix and mma.sync, tiles of 64 by 64 by 32, two stages. Block 128: four warps of
// 32 by 32. m and n multiples of 64, k of 32.
template <class T>
__device__ void mma_gemm(const T* a, const T* b, float* c, int m, int n, int k) {
    constexpr int kPitch = 40;  // 32 elements and 16 bytes of padding: rows of a matrix fall on different banks
    __shared__ alignas(16) T a_tile[2][64][kPitch], b_tile[2][64][kPitch];
    int t = threadIdx.x, lane = t % 32, warp = t / 32;
    int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64, warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
    auto load = [&](int stage, int start) {
        for (int i = t; i < 256; i += 128) {
            int row = i / 4, col = i % 4 * 8;
            ptx::cp_async_16(&a_tile[stage][row][col], a + (row0 + row) * k + start + col);
            ptx::cp_async_16(&b_tile[stage][row][col], b + (col0 + row) * k + start + col);
        }
        ptx::cp_async_commit_group();
    };
    float accum[2][4][4] = {};
    load(0, 0);
    for (int start = 0, stage = 0; start < k; start += 32, stage ^= 1) {
        if (start + 32 < k) {
            load(stage ^ 1, start + 32);
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
                ptx::ldmatrix_x2(bf[j], &b_tile[stage][warp_col + 8 * j + lane % 8][kk + lane / 8 % 2 * 8]);
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) ptx::mma_m16n8k16<T>(accum[i][j], af[i], bf[j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e += 2) {
                int row = row0 + warp_row + 16 * i + lane / 4 + 4 * e, col = col0 + warp_col + 8 * j + lane % 4 * 2;
                *reinterpret_cast<float2*>(&c[row * n + col]) = make_float2(accum[i][j][e], accum[i][j][e + 1]);
            }
}
extern "C" __global__ void mma_gemm_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int m, int n,
                                         int k) {
    mma_gemm(a, b, c, m, n, k);
}
extern "C" __global__ void mma_gemm_f16(const __half* a, const __half* b, float* c, int m, int n, int k) {
    mma_gemm(a, b, c, m, n, k);
}

// One warp: c[16, 8] = a[16, k] b[k, 8], B row-major through ldmatrix.trans. f16.
extern "C" __global__ void mma_trans(const __half* a, const __half* b, float* c, int k) {
    __shared__ alignas(16) __half a_tile[16][16], b_tile[16][8];
    int lane = threadIdx.x;
    float accum[4] = {};
    for (int start = 0; start < k; start += 16) {
        for (int i = lane; i < 256; i += 32) a_tile[i / 16][i % 16] = a[i / 16 * k + start + i % 16];
        for (int i = lane; i < 128; i += 32) b_tile[i / 8][i % 8] = b[(start + i / 8) * 8 + i % 8];
        __syncwarp();
        uint32_t af[4], bf[2];
        ptx::ldmatrix_x4(af, &a_tile[lane % 16][lane / 16 * 8]);
        ptx::ldmatrix_x2_trans(bf, &b_tile[lane % 16][0]);
        ptx::mma_m16n8k16<__half>(accum, af, bf);
        __syncwarp();
    }
    for (int e = 0; e < 4; e++) c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = accum[e];
}

// One warp: c[16, 8] = a[16, 8] b[8, 8]^T in tf32.
extern "C" __global__ void mma_tf32(const float* a, const float* b, float* c) {
    int group = threadIdx.x / 4, tid = threadIdx.x % 4;
    uint32_t af[4], bf[2];
    for (int r = 0; r < 4; r++) af[r] = ptx::cvt_rna_tf32(a[(group + r % 2 * 8) * 8 + tid + r / 2 * 4]);
    for (int r = 0; r < 2; r++) bf[r] = ptx::cvt_rna_tf32(b[group * 8 + tid + r * 4]);
    float accum[4] = {};
    ptx::mma_m16n8k8_tf32(accum, af, bf);
    for (int e = 0; e < 4; e++) c[(group + e / 2 * 8) * 8 + tid * 2 + e % 2] = accum[e];
}

// One warp: c[16, 8] = a[16, 32] b[8, 32]^T in signed bytes.
extern "C" __global__ void mma_s8(const int* a, const int* b, int* c) {
    int group = threadIdx.x / 4, tid = threadIdx.x % 4;
    uint32_t af[4], bf[2];
    for (int r = 0; r < 4; r++) af[r] = a[(group + r % 2 * 8) * 8 + tid + r / 2 * 4];
    for (int r = 0; r < 2; r++) bf[r] = b[group * 8 + tid + r * 4];
    int accum[4] = {};
    ptx::mma_m16n8k32_s8(accum, af, bf);
    for (int e = 0; e < 4; e++) c[(group + e / 2 * 8) * 8 + tid * 2 + e % 2] = accum[e];
}
