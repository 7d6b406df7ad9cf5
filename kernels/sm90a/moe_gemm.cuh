// Grouped matrix product of a Mixture of Experts for Hopper (sm_90a), bf16 and f16: for each row r of expert e,
// expert_offsets[e] <= r < expert_offsets[e + 1],
//     out[r, :] = activation(a[row_index[r], :] * b[e]^T + bias[e])
// The dense main loop under the grouped scheduler: experts of any load fill tiles of their own, none is padded, and the
// host never learns the loads. Gathered rows go through cp.async by the producer warpgroup, rows in place through TMA.
// A tile that its expert does not fill is stored by threads, since the rows behind it are the next expert's.
//   256x256 a cluster (128x256 a CTA)             many rows an expert, large K: as the dense product
//   256x128 a cluster (128x128 a CTA), ping-pong  many rows, small K: an epilogue (GELU) hides under the next products
//   128x128 ping-pong                             about a hundred rows an expert
//   64x128                                        few: as many bytes of weights under way, half the rows wasted
// moe_gemm_split.cu has tiles for still fewer. Kernels: moe_gemm_bf16.cu, moe_gemm_f16.cu.
// Launcher: src/kernels/sm90a/moe_gemm.rs
#pragma once

#include "moe_gemm_params.cuh"
#include "wgmma_gemm.cuh"

template <class T, bool kGather>
using MoeCooperative256x256 = WgmmaConfig<T, 128, 256, 4, 2, Roles::kCooperative, 2, kGather>;
template <class T, bool kGather>
using MoePingPong256x128 = WgmmaConfig<T, 128, 128, 5, 2, Roles::kPingPong, 2, kGather>;
template <class T, bool kGather>
using MoePingPong128x128 = WgmmaConfig<T, 128, 128, 5, 2, Roles::kPingPong, 1, kGather>;
template <class T, bool kGather>
using MoeSingle64x128 = WgmmaConfig<T, 64, 128, 4, 2, Roles::kSingle, 1, kGather>;  // 112 KB: two an SM
template <class Config, bool kHasGelu>
__device__ __forceinline__ void grouped_kernel(
    const TensorMap& map_a, const TensorMap& map_b, const TensorMap& map_out, const WgmmaMoeGemmParams& params) {
    using T = typename Config::T;
    using Epilogue = PanelEpilogue<Config, kHasGelu, true>;
    using Shared = WgmmaShared<Config, typename Epilogue::Shared>;
    extern __shared__ __align__(1024) unsigned char dynamic_smem[];
    Shared& smem = *reinterpret_cast<Shared*>(dynamic_smem);
    const TileShare share{
        static_cast<int>(blockIdx.x) / Config::kClusterM, static_cast<int>(gridDim.x) / Config::kClusterM};
    const GroupedScheduler<Config::kBlockM * Config::kClusterM, Config::kBlockN> scheduler(
        params.expert_offsets, params.num_experts, params.max_rows, params.n, share);
    const GatherRows<T> rows{
        static_cast<const T*>(params.a), params.row_index, params.a_row_chunks, params.num_a_rows, params.k};
    const Epilogue epilogue{params.output, map_out, map_out, params.stores_tensors != 0, smem.epilogue};
    wgmma_gemm<Config>(map_a, map_b, rows, scheduler, epilogue, smem);
}

#define DEFINE_MOE_GEMM(name, kConfig, kHasGelu)                                                              \
    extern "C" __global__ void __launch_bounds__(kConfig::kNumThreads, kConfig::kMinBlocks) name(             \
        const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,                     \
        const __grid_constant__ TensorMap map_out, const __grid_constant__ WgmmaMoeGemmParams params) {       \
        grouped_kernel<kConfig, kHasGelu>(map_a, map_b, map_out, params);                                     \
    }

// A tile's kernels: rows in place and gathered, without and with a GELU.
#define DEFINE_MOE_GEMMS(tile, dtype, T, Config)                                                 \
    using Config##tile##dtype = Config##tile<T, false>;                                          \
    using Config##tile##dtype##Gather = Config##tile<T, true>;                                   \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_##tile##_##dtype, Config##tile##dtype, false)                 \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gelu_##tile##_##dtype, Config##tile##dtype, true)             \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gather_##tile##_##dtype, Config##tile##dtype##Gather, false)  \
    DEFINE_MOE_GEMM(wgmma_moe_gemm_gather_gelu_##tile##_##dtype, Config##tile##dtype##Gather, true)
#define DEFINE_ALL_MOE_GEMMS(dtype, T)                                     \
    DEFINE_MOE_GEMMS(256x256, dtype, T, MoeCooperative)          \
    DEFINE_MOE_GEMMS(256x128, dtype, T, MoePingPong)             \
    DEFINE_MOE_GEMMS(128x128, dtype, T, MoePingPong)             \
    DEFINE_MOE_GEMMS(64x128, dtype, T, MoeSingle)
