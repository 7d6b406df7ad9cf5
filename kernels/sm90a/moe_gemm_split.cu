// The grouped product of moe_gemm.cuh for so few rows that larger tiles would leave SMs without weights to read: 64x64
// over a cluster along K, as the split dense product. The kernels choose the activation at run time.
// Launcher: src/kernels/sm90a/moe_gemm.rs
#include "moe_gemm_params.cuh"
#include "split_k.cuh"

template <class T, bool kGather>
using MoeSplit64x64 = WgmmaConfig<T, 64, 64, 5, 1, Roles::kSingle, 1, kGather>;

template <class Config, int kSplits>
__device__ __forceinline__ void grouped_split_kernel(
    const TensorMap& map_a, const TensorMap& map_b, const WgmmaMoeGemmParams& params) {
    using T = typename Config::T;
    extern __shared__ __align__(1024) unsigned char dynamic_smem[];
    auto& smem = *reinterpret_cast<SplitKShared<Config, kSplits>*>(dynamic_smem);
    const GroupedScheduler<Config::kBlockM, Config::kBlockN> scheduler(
        params.expert_offsets, params.num_experts, params.max_rows, params.n, split_k_share<kSplits>());
    const GatherRows<T> rows{
        static_cast<const T*>(params.a), params.row_index, params.a_row_chunks, params.num_a_rows, params.k};
    const LinearEpilogue<T, T, AnyActivation> epilogue{params.output};
    split_k_gemm<Config, kSplits>(map_a, map_b, rows, scheduler, epilogue, smem);
}

#define DEFINE_MOE_SPLIT(name, kConfig, kSplits)                                                              \
    extern "C" __global__ void __launch_bounds__(kConfig::kNumThreads, 2) name(                               \
        const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,                     \
        const __grid_constant__ TensorMap map_out, const __grid_constant__ WgmmaMoeGemmParams params) {       \
        grouped_split_kernel<kConfig, kSplits>(map_a, map_b, params);                                         \
    }
#define DEFINE_MOE_SPLITS(splits, dtype, T)                                                         \
    using Split##splits##dtype = MoeSplit64x64<T, false>;                                           \
    using Split##splits##dtype##Gather = MoeSplit64x64<T, true>;                                    \
    DEFINE_MOE_SPLIT(wgmma_moe_gemm_split##splits##_##dtype, Split##splits##dtype, splits)          \
    DEFINE_MOE_SPLIT(wgmma_moe_gemm_gather_split##splits##_##dtype, Split##splits##dtype##Gather, splits)
#define DEFINE_ALL(dtype, T)        \
    DEFINE_MOE_SPLITS(1, dtype, T)  \
    DEFINE_MOE_SPLITS(2, dtype, T)  \
    DEFINE_MOE_SPLITS(4, dtype, T)  \
    DEFINE_MOE_SPLITS(8, dtype, T)

DEFINE_ALL(bf16, Bf16)
DEFINE_ALL(f16, F16)
