// Counts and losses of a router from what the blocks of topk_gating left, by one block:
//     counts[e] = sum over blocks    losses = [E * sum_e f_e * P_e, mean of logsumexp^2]
// f_e: assignments to expert e a token, P_e: its mean weight (Fedus et al. 2021, arXiv:2101.03961). Fixed order, no
// atomics. A kernel of its own after topk_gating, or one block beside those of moe_dispatch.
#pragma once

#include "reduce.cuh"

constexpr int kRouterTotalsThreads = 1024;

struct RouterTotals {
    uint64_t block_counts;   // i32 [num_experts, num_blocks]; 0: nothing to do
    uint64_t block_weights;  // f32 [num_experts, num_blocks]
    uint64_t block_z;        // f32 [num_blocks]
    uint64_t counts;         // 0: not asked for
    uint64_t losses;         // 0: not asked for
    int64_t num_tokens;
    int32_t num_experts;
    int32_t num_blocks;
};

// smem_partial: a float a warp of the block.
__device__ __forceinline__ void router_totals(const RouterTotals& p, float* smem_partial) {
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    const int num_warps = blockDim.x / kWarpSize;
    const auto* block_counts = reinterpret_cast<const int32_t*>(p.block_counts);
    const auto* block_weights = reinterpret_cast<const float*>(p.block_weights);
    const auto* block_z = reinterpret_cast<const float*>(p.block_z);
    auto* counts = reinterpret_cast<int32_t*>(p.counts);
    auto* losses = reinterpret_cast<float*>(p.losses);
    const float per_token = p.num_tokens > 0 ? 1.0f / float(p.num_tokens) : 0.0f;

    // Sum each expert's blocks, a warp an expert
    float balance = 0.0f;
    for (int expert = warp_idx; expert < p.num_experts; expert += num_warps) {
        int32_t count = 0;
        float weight = 0.0f;
        for (int block_idx = lane_idx; block_idx < p.num_blocks; block_idx += kWarpSize) {
            count += block_counts[int64_t(expert) * p.num_blocks + block_idx];
            weight += block_weights[int64_t(expert) * p.num_blocks + block_idx];
        }
        count = __reduce_add_sync(kFullMask, count);
        weight = warp_reduce<Sum>(weight);
        if (lane_idx == 0 && p.counts != 0) counts[expert] = count;
        balance = fmaf(float(count) * per_token, weight * per_token, balance);
    }
    if (p.losses == 0) return;

    // Sum over experts and tokens
    if (lane_idx == 0) smem_partial[warp_idx] = balance;
    __syncthreads();
    if (warp_idx == 0) {
        balance = lane_idx < num_warps ? smem_partial[lane_idx] : 0.0f;
        const float auxiliary = warp_reduce<Sum>(balance) * float(p.num_experts);
        float z = 0.0f;
        for (int block_idx = lane_idx; block_idx < p.num_blocks; block_idx += kWarpSize) z += block_z[block_idx];
        z = warp_reduce<Sum>(z) * per_token;
        if (lane_idx == 0) {
            losses[0] = auxiliary;
            losses[1] = z;
        }
    }
}
