// Grouped matrix product of a Mixture of Experts for Hopper (sm_90a), bf16 and f16: for each row r of expert e,
// expert_offsets[e] <= r < expert_offsets[e + 1],
//     out[r, :] = activation(a[row_index[r], :] * b[e]^T + bias[e])
// The dense main loop under the grouped scheduler: experts of any load fill tiles of their own, none is padded, and the
// host never learns the loads. Gathered rows go through cp.async by the producer warpgroup, rows in place through TMA.
// A tile that its expert does not fill is stored by threads, since the rows behind it are the next expert's.
//   128x128 ping-pong   for many rows an expert: one warpgroup's epilogue (GELU) hides under the other's products
//   64x128              for few: as many bytes of weights under way, half the rows wasted
// Launcher: src/kernels/sm90a/moe_gemm.rs
#include "wgmma_gemm.cuh"

template <class T>
using MoePingPong = WgmmaConfig<T, 128, 128, 5, 2, Roles::kPingPong>;
template <class T>
using MoePingPongGather = WgmmaConfig<T, 128, 128, 5, 2, Roles::kPingPong, 1, true>;
template <class T>
using MoeSingle = WgmmaConfig<T, 64, 128, 4, 2, Roles::kSingle>;  // 112 KB: two an SM
template <class T>
using MoeSingleGather = WgmmaConfig<T, 64, 128, 4, 2, Roles::kSingle, 1, true>;

struct WgmmaMoeGemmParams {
    OutputParams output;
    const int32_t* expert_offsets;  // [num_experts + 1]
    const void* a;                  // [num_a_rows, K]: where rows are gathered from
    const int32_t* row_index;       // [max_rows]
    uint32_t a_row_chunks;          // from row to row of a, in 16 bytes
    int32_t num_a_rows;
    int32_t num_experts;
    int32_t max_rows;
    int32_t n;
    int32_t k;
    int32_t stores_tensors;  // map_out is set
};

template <class Config, bool kHasGelu>
__device__ __forceinline__ void grouped_kernel(
    const TensorMap& map_a, const TensorMap& map_b, const TensorMap& map_out, const WgmmaMoeGemmParams& params) {
    using T = typename Config::T;
    using Epilogue = PanelEpilogue<Config, kHasGelu, true>;
    using Shared = WgmmaShared<Config, typename Epilogue::Shared>;
    extern __shared__ __align__(1024) unsigned char dynamic_smem[];
    Shared& smem = *reinterpret_cast<Shared*>(dynamic_smem);
    const GroupedScheduler<Config::kBlockM, Config::kBlockN> scheduler(
        params.expert_offsets, params.num_experts, params.max_rows, params.n);
    const GatherRows<T> rows{
        static_cast<const T*>(params.a), params.row_index, params.a_row_chunks, params.num_a_rows, params.k};
    const Epilogue epilogue{params.output, map_out, map_out, params.stores_tensors != 0, smem.epilogue};
    wgmma_gemm<Config>(map_a, map_b, rows, scheduler, epilogue, smem);
}

#define DEFINE_MOE_GEMM(name, dtype, T, kConfig, kHasGelu)                                                    \
    extern "C" __global__ void __launch_bounds__(kConfig<T>::kNumThreads, kConfig<T>::kMinBlocks) name##_##dtype(                  \
        const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,                     \
        const __grid_constant__ TensorMap map_out, const __grid_constant__ WgmmaMoeGemmParams params) {       \
        grouped_kernel<kConfig<T>, kHasGelu>(map_a, map_b, map_out, params);                                  \
    }
#define DEFINE_MOE_GEMMS(dtype, T)                                                          \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_128x128, dtype, T, MoePingPong, false)                   \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gelu_128x128, dtype, T, MoePingPong, true)               \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gather_128x128, dtype, T, MoePingPongGather, false)      \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gather_gelu_128x128, dtype, T, MoePingPongGather, true)  \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_64x128, dtype, T, MoeSingle, false)                      \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gelu_64x128, dtype, T, MoeSingle, true)                  \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gather_64x128, dtype, T, MoeSingleGather, false)         \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gather_gelu_64x128, dtype, T, MoeSingleGather, true)

DEFINE_MOE_GEMMS(bf16, Bf16)
DEFINE_MOE_GEMMS(f16, F16)
