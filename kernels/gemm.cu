// Matrix product with a fused epilogue:
//     out[M, N] = activation(a[M, K] * b[N, K]^T + bias[N]) + residual[M, N]
// a, b: f32, bf16 or f16, rows strided    out, residual: a's type or f32, rows and batches strided    bias: f32
// Sums in f32, tensor cores for bf16 and f16. Three tiles, picked by the launcher: 128x128 when the output fills the
// GPU with them, 64x64 in between, 16x32 for a few rows, where the time goes into reading b once.
// The main loop is in gemm_mainloop.cuh, what is fused behind it in epilogue.cuh.
// Launcher: src/kernels/gemm.rs
#include "epilogue.cuh"
#include "gemm_configs.cuh"

template <class T>
struct GemmParams {
    GemmOperands<T> operands;
    OutputParams output;
};

template <class Config>
__device__ __forceinline__ void gemm_kernel(const GemmParams<typename Config::T>& params) {
    const DenseScheduler<Config::kBlockM, Config::kBlockN> scheduler(params.operands.m, params.operands.n);
    const LinearEpilogue<typename Config::T, AnyActivation> epilogue{params.output};
    gemm<Config>(params.operands, scheduler, epilogue);
}

#define DEFINE_GEMM(name, T, Tile)                                                     \
    extern "C" __global__ void __launch_bounds__(Tile<T>::kNumThreads, Tile<T>::kMinBlocks) \
        name(const __grid_constant__ GemmParams<T> params) {                           \
        gemm_kernel<Tile<T>>(params);                                                  \
    }

DEFINE_GEMM(gemm_f32_128x128, float, Tile128x128)
DEFINE_GEMM(gemm_f32_64x64, float, Tile64x64)
DEFINE_GEMM(gemm_f32_16x32, float, Tile16x32)
DEFINE_GEMM(gemm_bf16_128x128, Bf16, Tile128x128)
DEFINE_GEMM(gemm_bf16_64x64, Bf16, Tile64x64)
DEFINE_GEMM(gemm_bf16_16x32, Bf16, Tile16x32)
DEFINE_GEMM(gemm_f16_128x128, F16, Tile128x128)
DEFINE_GEMM(gemm_f16_64x64, F16, Tile64x64)
DEFINE_GEMM(gemm_f16_16x32, F16, Tile16x32)
