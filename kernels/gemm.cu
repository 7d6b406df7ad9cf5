// Matrix product with a fused epilogue:
//     out[M, N] = activation(a[M, K] * b[N, K]^T + bias[N]) + residual[M, N]
// a, b: f32, bf16 or f16, rows strided    out, residual: a's type or f32, rows and batches strided    bias: f32
// Sums in f32, on tensor cores for bf16 and f16. Three tiles, picked by the launcher: 128x128 where the output has
// enough of them for the whole GPU, 64x64 in between, 16x32 for a few rows, where all the time goes into reading b.
// The main loop is in gemm_mainloop.cuh, what is fused behind it in epilogue.cuh.
// Launcher: src/kernels/gemm.rs
#include "epilogue.cuh"
#include "gemm_configs.cuh"

template <class T>
struct GemmParams {
    GemmOperands<T> operands;
    OutputParams output;
};

template <class Config, class Out>
__device__ __forceinline__ void gemm_kernel(const GemmParams<typename Config::T>& params) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const DenseScheduler<Config::kBlockM, Config::kBlockN> scheduler(params.operands.m, params.operands.n);
    const LinearEpilogue<typename Config::T, Out, AnyActivation> epilogue{params.output};
    gemm<Config>(params.operands, scheduler, epilogue);
}

#define DEFINE_GEMM(dtype, T, tile)                                                                      \
    extern "C" __global__ void __launch_bounds__(Tile##tile<T>::kNumThreads, Tile##tile<T>::kMinBlocks)  \
        gemm_##dtype##_##tile(const __grid_constant__ GemmParams<T> params) {                            \
        gemm_kernel<Tile##tile<T>, FloatOr<T>>(params);                                                  \
    }

DEFINE_GEMM(f32, float, 128x128)
DEFINE_GEMM(f32, float, 64x64)
DEFINE_GEMM(f32, float, 16x32)
DEFINE_GEMM(bf16, Bf16, 128x128)
DEFINE_GEMM(bf16, Bf16, 64x64)
DEFINE_GEMM(bf16, Bf16, 16x32)
DEFINE_GEMM(f16, F16, 128x128)
DEFINE_GEMM(f16, F16, 64x64)
DEFINE_GEMM(f16, F16, 16x32)
