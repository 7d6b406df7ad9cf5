// Counts and losses of a router from what the blocks of topk_gating left, by one block:
//     counts[e] = sum over blocks    losses = [E * sum_e f_e * P_e, mean of logsumexp^2]
// f_e: assignments to expert e a token, P_e: its mean weight (Fedus et al. 2021, arXiv:2101.03961). Fixed order, no
// atomics. A kernel of its own after topk_gating, or one block beside those of moe_dispatch.
#pragma once

#include "reduce.cuh"

constexpr int kRouterTotalsThreads = 1024;

struct RouterTotals {
    uint64_t block_counts;   // i32 [num_blocks, num_experts]; 0: nothing to do
    uint64_t block_weights;  // f32 [num_blocks, num_experts]
    uint64_t block_z;        // f32 [num_blocks]
    uint64_t counts;         // 0: not asked for
    uint64_t losses;         // 0: not asked for
    int64_t num_tokens;
    int32_t num_experts;
    int32_t num_blocks;
};

template <int kNumThreads>
struct RouterTotalsStorage {
    FoldStorage<kNumThreads, int32_t, float> fold;
    float partial[kNumThreads / kWarpSize];
};

// By a block of kNumThreads.
template <int kNumThreads>
__device__ __forceinline__ void router_totals(const RouterTotals& p, RouterTotalsStorage<kNumThreads>& smem) {
    const int thread_idx = threadIdx.x;
    const auto* block_counts = reinterpret_cast<const int32_t*>(p.block_counts);
    const auto* block_weights = reinterpret_cast<const float*>(p.block_weights);
    const auto* block_z = reinterpret_cast<const float*>(p.block_z);
    auto* counts = reinterpret_cast<int32_t*>(p.counts);
    auto* losses = reinterpret_cast<float*>(p.losses);
    const float per_token = p.num_tokens > 0 ? 1.0f / float(p.num_tokens) : 0.0f;

    // As many rows of experts at a time as there are threads for: neighbours read neighbours
    const int num_columns = min(p.num_experts, kNumThreads);
    const int num_rows = kNumThreads / num_columns;
    const int row = thread_idx / num_columns, column = thread_idx % num_columns;
    float balance = 0.0f;
    for (int first = 0; first < p.num_experts; first += num_columns) {
        const int expert = first + column;
        int32_t count = 0;
        float weight = 0.0f;
        if (row < num_rows && expert < p.num_experts) {
#pragma unroll 4
            for (int block_idx = row; block_idx < p.num_blocks; block_idx += num_rows) {
                count += block_counts[int64_t(block_idx) * p.num_experts + expert];
                weight += block_weights[int64_t(block_idx) * p.num_experts + expert];
            }
        }
        fold_rows(count, weight, num_rows, num_columns, smem.fold);
        if (row == 0 && expert < p.num_experts) {
            if (p.counts != 0) counts[expert] = count;
            balance = fmaf(float(count) * per_token, weight * per_token, balance);
        }
    }
    if (p.losses == 0) return;

    // Sum over experts and tokens
    const float auxiliary = block_reduce<Sum, kNumThreads>(balance, smem.partial) * float(p.num_experts);
    float z = 0.0f;
    for (int block_idx = thread_idx; block_idx < p.num_blocks; block_idx += kNumThreads) z += block_z[block_idx];
    __syncthreads();
    z = block_reduce<Sum, kNumThreads>(z, smem.partial) * per_token;
    if (thread_idx == 0) {
        losses[0] = auxiliary;
        losses[1] = z;
    }
}
