// Grouped matrix product of a Mixture of Experts: for each row r of expert e, expert_offsets[e] <= r < expert_offsets[e+1],
//     out[r, :] = activation(a[row_index[r], :] * b[e]^T + bias[e])
// a: [num_a_rows, K]    b: [num_experts, N, K]    out: [max_rows, N]    f32, bf16 or f16    bias: f32 [num_experts, N]
// expert_offsets: i32 [num_experts + 1]    row_index: i32 [max_rows], or null: row r itself
// The dense main loop under another tile scheduler: a block finds its expert by scanning the offsets on the device, so
// the host never waits for the router. Rows are gathered on their way to shared memory. As in MegaBlocks (Gale et al.
// 2022, arXiv:2211.15841), experts of any load, and empty ones, cost only the tiles that they fill.
// Launcher: src/kernels/moe_gemm.rs
#include "epilogue.cuh"
#include "gemm_configs.cuh"

template <class T>
struct MoeGemmParams {
    GemmOperands<T> operands;
    OutputParams output;
    const int32_t* expert_offsets;  // [num_experts + 1]
    int64_t num_experts;
};

template <class Config>
__device__ __forceinline__ void moe_gemm_kernel(const MoeGemmParams<typename Config::T>& params) {
    using T = typename Config::T;
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const GroupedScheduler<Config::kBlockM, Config::kBlockN> scheduler(
        params.expert_offsets, static_cast<int>(params.num_experts), params.operands.m, params.operands.n);
    const LinearEpilogue<T, T, AnyActivation> epilogue{params.output};
    gemm<Config>(params.operands, scheduler, epilogue);
}

#define DEFINE_MOE_GEMM(dtype, T, tile)                                                                  \
    extern "C" __global__ void __launch_bounds__(Tile##tile<T>::kNumThreads, Tile##tile<T>::kMinBlocks)  \
        moe_gemm_##dtype##_##tile(const __grid_constant__ MoeGemmParams<T> params) {                     \
        moe_gemm_kernel<Tile##tile<T>>(params);                                                          \
    }

DEFINE_MOE_GEMM(f32, float, 128x128)
DEFINE_MOE_GEMM(f32, float, 64x64)
DEFINE_MOE_GEMM(f32, float, 16x32)
DEFINE_MOE_GEMM(bf16, Bf16, 128x128)
DEFINE_MOE_GEMM(bf16, Bf16, 64x64)
DEFINE_MOE_GEMM(bf16, Bf16, 16x32)
DEFINE_MOE_GEMM(f16, F16, 128x128)
DEFINE_MOE_GEMM(f16, F16, 64x64)
DEFINE_MOE_GEMM(f16, F16, 16x32)
