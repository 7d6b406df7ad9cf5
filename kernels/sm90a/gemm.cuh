// Matrix product with a fused epilogue, for Hopper (sm_90a), bf16 and f16:
//     out[M, N] = activation(a[M, K] * b[N, K]^T + bias[N]) + residual[M, N]
// out, residual: a's type, residual possibly out itself    bias: f32
// A warp loads tiles of a and b by TMA into a ring of stages; two warpgroups multiply them with wgmma, sums in
// registers, and hand the result to TMA again, which stores it under the next tile. Tiles, and a split:
//   256x256 a cluster (128x256 a CTA)   for large K: reads L2 least, 6.2 TB/s at 790 TFLOP/s
//   128x192                             where its tiles fit all SMs at once and smaller ones do not: GPT-2 at 1,024 tokens
//   128x128 ping-pong                   for small K, where half of a tile's time is its epilogue: one warpgroup's hides
//                                       under the other's products. 256x128 is the same in a cluster of two that share b
//   64x64, 128x128 or 128x192 over a    for outputs too small to fill the GPU: each CTA sums a part of K, the parts are
//   cluster along K                     added through distributed shared memory in one fixed order
// Kernels: gemm_bf16.cu, gemm_f16.cu. Main loop: wgmma_mainloop.cuh. Launcher: src/kernels/sm90a/gemm.rs
#pragma once

#include "split_k.cuh"
#include "wgmma_gemm.cuh"

template <class T>
using Cooperative128x256 = WgmmaConfig<T, 128, 256, 4, 2, Roles::kCooperative, 2>;
template <class T>
using Cooperative128x192 = WgmmaConfig<T, 128, 192, 4, 3, Roles::kCooperative>;
template <class T>
using PingPong128x128 = WgmmaConfig<T, 128, 128, 5, 2, Roles::kPingPong>;
template <class T>
using PingPong256x128 = WgmmaConfig<T, 128, 128, 5, 2, Roles::kPingPong, 2>;

// Five stages of 16 KB: two CTAs an SM, whose 80 KB of weights under way cover HBM's latency.
template <class T>
using Split64x64 = WgmmaConfig<T, 64, 64, 5, 1, Roles::kSingle>;
template <class T>
using Split128x128 = WgmmaConfig<T, 128, 128, 6, 1, Roles::kCooperative>;
template <class T>
using Split128x192 = WgmmaConfig<T, 128, 192, 5, 1, Roles::kCooperative>;

struct WgmmaGemmParams {
    OutputParams output;
    int32_t m;
    int32_t n;
    int32_t k;
    int32_t stores_tensors;  // map_out is set
};

template <class Config, bool kHasGelu>
__device__ __forceinline__ void dense_kernel(
    const TensorMap& map_a, const TensorMap& map_b, const TensorMap& map_out, const TensorMap& map_residual,
    const WgmmaGemmParams& params) {
    using Epilogue = PanelEpilogue<Config, kHasGelu, false>;
    using Shared = WgmmaShared<Config, typename Epilogue::Shared>;
    extern __shared__ __align__(1024) unsigned char dynamic_smem[];
    Shared& smem = *reinterpret_cast<Shared*>(dynamic_smem);
    const TileShare share{
        static_cast<int>(blockIdx.x) / Config::kClusterM, static_cast<int>(gridDim.x) / Config::kClusterM};
    const DenseScheduler<Config::kBlockM * Config::kClusterM, Config::kBlockN> scheduler(params.m, params.n, share);
    const GatherRows<typename Config::T> rows{nullptr, nullptr, 0, params.m, params.k};
    const Epilogue epilogue{params.output, map_out, map_residual, params.stores_tensors != 0, smem.epilogue};
    wgmma_gemm<Config>(map_a, map_b, rows, scheduler, epilogue, smem);
}

#define DEFINE_GEMM(name, dtype, T, kConfig, kHasGelu)                                                      \
    extern "C" __global__ void __launch_bounds__(kConfig<T>::kNumThreads, 1) name##_##dtype(                \
        const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,                   \
        const __grid_constant__ TensorMap map_out, const __grid_constant__ TensorMap map_residual,          \
        const __grid_constant__ WgmmaGemmParams params) {                                                   \
        dense_kernel<kConfig<T>, kHasGelu>(map_a, map_b, map_out, map_residual, params);                    \
    }

template <class Config, int kSplits>
__device__ __forceinline__ void split_kernel(
    const TensorMap& map_a, const TensorMap& map_b, const WgmmaGemmParams& params) {
    using T = typename Config::T;
    extern __shared__ __align__(1024) unsigned char dynamic_smem[];
    auto& smem = *reinterpret_cast<SplitKShared<Config, kSplits>*>(dynamic_smem);
    const DenseScheduler<Config::kBlockM, Config::kBlockN> scheduler(params.m, params.n, split_k_share<kSplits>());
    const GatherRows<T> rows{nullptr, nullptr, 0, params.m, params.k};
    const LinearEpilogue<T, FloatOr<T>, AnyActivation> epilogue{params.output};
    split_k_gemm<Config, kSplits>(map_a, map_b, rows, scheduler, epilogue, smem);
}

#define DEFINE_SPLIT_GEMM(name, dtype, T, kConfig, kSplits)                                                  \
    extern "C" __global__ void __launch_bounds__(kConfig<T>::kNumThreads, kConfig<T>::kMinBlocks)            \
        name##kSplits##_##dtype(                                                                             \
            const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,                \
            const __grid_constant__ WgmmaGemmParams params) {                                                \
        split_kernel<kConfig<T>, kSplits>(map_a, map_b, params);                                             \
    }

#define DEFINE_GEMMS(dtype, T)                                                        \
    DEFINE_GEMM(wgmma_gemm_256x256, dtype, T, Cooperative128x256, false)              \
    DEFINE_GEMM(wgmma_gemm_gelu_256x256, dtype, T, Cooperative128x256, true)          \
    DEFINE_GEMM(wgmma_gemm_128x192, dtype, T, Cooperative128x192, false)              \
    DEFINE_GEMM(wgmma_gemm_gelu_128x192, dtype, T, Cooperative128x192, true)          \
    DEFINE_GEMM(wgmma_gemm_256x128, dtype, T, PingPong256x128, false)                 \
    DEFINE_GEMM(wgmma_gemm_gelu_256x128, dtype, T, PingPong256x128, true)             \
    DEFINE_GEMM(wgmma_gemm_128x128, dtype, T, PingPong128x128, false)                 \
    DEFINE_GEMM(wgmma_gemm_gelu_128x128, dtype, T, PingPong128x128, true)             \
    DEFINE_SPLIT_GEMM(wgmma_gemm_split, dtype, T, Split64x64, 1)                      \
    DEFINE_SPLIT_GEMM(wgmma_gemm_split, dtype, T, Split64x64, 2)                      \
    DEFINE_SPLIT_GEMM(wgmma_gemm_split, dtype, T, Split64x64, 4)                      \
    DEFINE_SPLIT_GEMM(wgmma_gemm_split, dtype, T, Split64x64, 8)                      \
    DEFINE_SPLIT_GEMM(wgmma_gemm_128x128_split, dtype, T, Split128x128, 2)            \
    DEFINE_SPLIT_GEMM(wgmma_gemm_128x128_split, dtype, T, Split128x128, 4)            \
    DEFINE_SPLIT_GEMM(wgmma_gemm_128x192_split, dtype, T, Split128x192, 4)
