// The GELU MLP as two matrix products (main loop: gemm_mainloop.cuh):
//     hidden[M, I] = gelu(x[M, C] * fc[I, C]^T + fc_bias[I])                      mlp_up
//     out[M, C]    = hidden[M, I] * proj[C, I]^T + proj_bias[C] + residual[M, C]  mlp_down
// x, fc, proj, hidden, out: f32, bf16 or f16    biases: f32    M tokens, C = hidden_size, I = intermediate_size
// GELU runs on the f32 sums in the first product's epilogue, so `hidden` goes to memory once, already activated; the
// residual is added in the second's. Tiles as in gemm.cu.
// Launcher: src/kernels/mlp.rs
#include "epilogue.cuh"
#include "gemm_configs.cuh"

template <class T>
struct MlpParams {
    GemmOperands<T> operands;
    OutputParams output;
};

template <class Config, class Activate>
__device__ __forceinline__ void mlp_kernel(const MlpParams<typename Config::T>& params) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const DenseScheduler<Config::kBlockM, Config::kBlockN> scheduler(params.operands.m, params.operands.n);
    const LinearEpilogue<typename Config::T, typename Config::T, Activate> epilogue{params.output};
    gemm<Config>(params.operands, scheduler, epilogue);
}

#define DEFINE_MLP(dtype, T, tile)                                                                       \
    extern "C" __global__ void __launch_bounds__(Tile##tile<T>::kNumThreads, Tile##tile<T>::kMinBlocks)  \
        mlp_up_##dtype##_##tile(const __grid_constant__ MlpParams<T> params) {                           \
        mlp_kernel<Tile##tile<T>, GeluActivation>(params);                                               \
    }                                                                                                    \
    extern "C" __global__ void __launch_bounds__(Tile##tile<T>::kNumThreads, Tile##tile<T>::kMinBlocks)  \
        mlp_down_##dtype##_##tile(const __grid_constant__ MlpParams<T> params) {                         \
        mlp_kernel<Tile##tile<T>, NoActivation>(params);                                                 \
    }

DEFINE_MLP(f32, float, 128x128)
DEFINE_MLP(f32, float, 64x64)
DEFINE_MLP(f32, float, 16x32)
DEFINE_MLP(bf16, Bf16, 128x128)
DEFINE_MLP(bf16, Bf16, 64x64)
DEFINE_MLP(bf16, Bf16, 16x32)
DEFINE_MLP(f16, F16, 128x128)
DEFINE_MLP(f16, F16, 64x64)
DEFINE_MLP(f16, F16, 16x32)
