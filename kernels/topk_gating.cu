// The router of a Mixture-of-Experts layer, in f32 (Shazeer et al. 2017, arXiv:1701.06538).
//     router_logits: logits = x · weight^T, plus softplus(x · noise_weight^T) * N(0, 1) with noise
//     topk_gating:   the k experts of the largest score + selection_bias, lowest index on ties, and their weights
// x: [num_tokens, hidden_size]    weight: f32 [num_experts, hidden_size]    logits: f32 [num_tokens, num_experts]
// expert_ids, expert_weights: [num_tokens, k] in order of preference
// A warp computes 4 x 8 logits with its lanes along hidden_size, so a logit's sum has one order whatever the launch.
// A warp gates a token: its logits become integer keys of the same order, k rounds of an integer maximum pick the
// experts. Counts and losses (Fedus et al. 2021, arXiv:2101.03961; Zoph et al. 2022, arXiv:2202.08906) are summed by
// warp, by block and then in a second launch in a fixed order, without atomics.
// Launcher: src/kernels/topk_gating.rs
#include "chunk.cuh"
#include "reduce.cuh"
#include "philox.cuh"
#include "ptx/griddep.cuh"

struct RouterLogitsParams {
    uint64_t logits;
    uint64_t x;
    uint64_t weight;
    uint64_t noise_weight;  // 0: none
    uint64_t seed;
    int64_t x_stride;  // elements
    int64_t num_tokens;
    int32_t num_experts;
    int32_t hidden_size;
    uint32_t whole_chunks;  // 1: rows start at multiples of 16 bytes and consist of whole chunks
    uint32_t reserved;
};

constexpr int kWarpTokens = 4;
constexpr int kWarpExperts = 8;
constexpr int kLaneElements = 4;

// values[i] of all lanes summed over the lanes, for i = this lane. Each step halves what a lane still has to sum.
template <int kOffset = kWarpSize / 2>
__device__ __forceinline__ float transposed_warp_sum(float (&values)[kWarpSize]) {
    const bool upper = threadIdx.x & kOffset;
#pragma unroll
    for (int i = 0; i < kOffset; ++i) {
        const float given = upper ? values[i] : values[i + kOffset];
        const float kept = upper ? values[i + kOffset] : values[i];
        values[i] = kept + __shfl_xor_sync(kFullMask, given, kOffset);
    }
    if constexpr (kOffset > 1) return transposed_warp_sum<kOffset / 2>(values);
    return values[0];
}

// PyTorch's softplus: linear above 20.
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// Block: a warp in x, y groups of 4 tokens, z groups of 8 experts.
template <class T, bool kWhole>
__device__ __forceinline__ void router_logits(const RouterLogitsParams& p) {
    static_assert(kWarpTokens * kWarpExperts == kWarpSize, "a lane ends up with one logit");
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const int lane_idx = threadIdx.x;
    const int64_t first_token = (int64_t(blockIdx.x) * blockDim.y + threadIdx.y) * kWarpTokens;
    const int first_expert = (blockIdx.y * blockDim.z + threadIdx.z) * kWarpExperts;
    if (first_token >= p.num_tokens || first_expert >= p.num_experts) return;

    // Rows past the end repeat the last one; their sums are not written
    const T* x_rows[kWarpTokens];
#pragma unroll
    for (int t = 0; t < kWarpTokens; ++t) {
        x_rows[t] = reinterpret_cast<const T*>(p.x) + min(first_token + t, p.num_tokens - 1) * p.x_stride;
    }
    const int64_t token_idx = first_token + lane_idx / kWarpExperts;
    const int expert = first_expert + lane_idx % kWarpExperts;

    float logit = 0.0f;
#pragma unroll 1
    for (int pass = 0; pass < (p.noise_weight != 0 ? 2 : 1); ++pass) {
        const auto* weight = reinterpret_cast<const float*>(pass == 0 ? p.weight : p.noise_weight);
        float sums[kWarpSize] = {};  // [kWarpTokens, kWarpExperts]
        for (int first = lane_idx * kLaneElements; first < p.hidden_size; first += kWarpSize * kLaneElements) {
            const int valid = p.hidden_size - first;
            float x[kWarpTokens][kLaneElements];
#pragma unroll
            for (int t = 0; t < kWarpTokens; ++t) load_chunk<kWhole>(x[t], x_rows[t] + first, valid);
#pragma unroll
            for (int e = 0; e < kWarpExperts; ++e) {
                const int64_t row = min(first_expert + e, p.num_experts - 1);
                float w[kLaneElements];
                load_chunk<kWhole>(w, weight + row * p.hidden_size + first, valid);
#pragma unroll
                for (int t = 0; t < kWarpTokens; ++t) {
#pragma unroll
                    for (int i = 0; i < kLaneElements; ++i) {
                        sums[t * kWarpExperts + e] = fmaf(x[t][i], w[i], sums[t * kWarpExperts + e]);
                    }
                }
            }
        }
        const float sum = transposed_warp_sum(sums);
        logit = pass == 0 ? sum : logit + softplus(sum) * philox_normal(p.seed, uint32_t(token_idx), expert);
    }
    if (token_idx < p.num_tokens && expert < p.num_experts) {
        reinterpret_cast<float*>(p.logits)[token_idx * p.num_experts + expert] = logit;
    }
}

template <class T>
__device__ __forceinline__ void router_logits(const RouterLogitsParams& p) {
    if (p.whole_chunks) {
        router_logits<T, true>(p);
    } else {
        router_logits<T, false>(p);
    }
}

extern "C" __global__ void __launch_bounds__(512)
    topk_gating_router_logits_f32(const __grid_constant__ RouterLogitsParams p) {
    router_logits<float>(p);
}
extern "C" __global__ void __launch_bounds__(512)
    topk_gating_router_logits_bf16(const __grid_constant__ RouterLogitsParams p) {
    router_logits<Bf16>(p);
}
extern "C" __global__ void __launch_bounds__(512)
    topk_gating_router_logits_f16(const __grid_constant__ RouterLogitsParams p) {
    router_logits<F16>(p);
}

enum ScoreKind : uint32_t { kSoftmaxBeforeTopK, kSoftmaxAfterTopK, kSigmoid };
enum GroupScore : uint32_t { kGroupMax, kGroupSumOfTop2 };

struct TopkGatingParams {
    uint64_t logits;
    uint64_t selection_bias;  // 0: none
    uint64_t forced_ids;      // 0: none
    uint64_t expert_ids;
    uint64_t expert_weights;
    uint64_t block_counts;   // i32 [num_experts, num_blocks], 0: neither counts nor losses
    uint64_t block_weights;  // f32 [num_experts, num_blocks]
    uint64_t block_z;        // f32 [num_blocks]
    int64_t num_tokens;
    int32_t num_experts;
    int32_t num_experts_per_token;
    int32_t tokens_per_block;
    int32_t num_groups;  // 0: none
    int32_t top_groups;
    GroupScore group_score;
    ScoreKind score;
    uint32_t renormalize;
    float epsilon;
    float scale;
};

constexpr int kGatingWarps = 4;

// Dynamic shared memory, for each warp in turn; the launcher asks for the sum of what is used.
extern __shared__ uint32_t gating_smem[];

struct GatingStorage {
    int32_t* chosen_ids;     // [k]
    float* chosen_weights;   // [k]
    float* choices;          // [num_experts], with groups
    uint32_t* group_keys;    // [num_groups]
    int32_t* expert_counts;  // [num_experts], with statistics
    float* expert_weights;   // [num_experts], with statistics

    __device__ __forceinline__ GatingStorage(const TopkGatingParams& p, int warp_idx) {
        const int k = p.num_experts_per_token;
        const int grouped = p.num_groups > 0 ? p.num_experts : 0;
        const int counted = p.block_counts != 0 ? p.num_experts : 0;
        uint32_t* next = gating_smem + warp_idx * (2 * k + grouped + p.num_groups + 2 * counted);
        chosen_ids = reinterpret_cast<int32_t*>(next);
        chosen_weights = reinterpret_cast<float*>(next += k);
        choices = reinterpret_cast<float*>(next += k);
        group_keys = next += grouped;
        expert_counts = reinterpret_cast<int32_t*>(next += p.num_groups);
        expert_weights = reinterpret_cast<float*>(next + counted);
    }
};

// An integer of the order of `value`, never 0: that is the key of what cannot be chosen. Both zeros are equal.
__device__ __forceinline__ uint32_t order_key(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return max(bits & 0x80000000u ? ~bits : bits | 0x80000000u, 1u);
}

// The index of the largest key of the warp, the lowest on ties. Each lane gives its best.
__device__ __forceinline__ int warp_arg_max(uint32_t key, int index) {
    const uint32_t best = __reduce_max_sync(kFullMask, key);
    return __reduce_min_sync(kFullMask, key == best ? uint32_t(index) : 0xffffffffu);
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Makes experts outside the best groups impossible to choose. choices are in shared memory.
template <int kLaneExperts>
__device__ __forceinline__ void keep_best_groups(
    const TopkGatingParams& p, const GatingStorage& smem, uint32_t (&keys)[kLaneExperts]) {
    const int lane_idx = threadIdx.x % kWarpSize;
    const int group_size = p.num_experts / p.num_groups;

    // Score the groups
    for (int group = lane_idx; group < p.num_groups; group += kWarpSize) {
        const float* choices = smem.choices + group * group_size;
        float best = choices[0], second = -INFINITY;
        for (int i = 1; i < group_size; ++i) {
            second = fmaxf(second, fminf(best, choices[i]));
            best = fmaxf(best, choices[i]);
        }
        smem.group_keys[group] = order_key(p.group_score == kGroupMax ? best : best + second);
    }
    __syncwarp();

    // Take the best groups: their key becomes 0
    for (int round = 0; round < p.top_groups; ++round) {
        uint32_t best_key = 0;
        int best_group = p.num_groups;
        for (int group = lane_idx; group < p.num_groups; group += kWarpSize) {
            if (smem.group_keys[group] > best_key) best_key = smem.group_keys[best_group = group];
        }
        const int chosen = warp_arg_max(best_key, best_group);
        // The lane that reads this key in every round: none other has to wait
        if (chosen % kWarpSize == lane_idx) smem.group_keys[chosen] = 0;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
        const int expert = i * kWarpSize + lane_idx;
        if (expert < p.num_experts && smem.group_keys[expert / group_size] != 0) keys[i] = 0;
    }
}

// What a token's weights need from its whole row.
struct RowSums {
    float max;      // of the logits
    float shift;    // the maximum, or 0 where every logit is -inf
    float exp_sum;  // of exp(logit - shift)
    bool defined;   // no NaN in it
};

// Gates one token: ids and weights end up in shared memory.
template <int kLaneExperts>
__device__ __forceinline__ RowSums gate(const TopkGatingParams& p, const GatingStorage& smem, int64_t token_idx) {
    const int lane_idx = threadIdx.x % kWarpSize;
    const int k = p.num_experts_per_token;
    const float* logits = reinterpret_cast<const float*>(p.logits) + token_idx * p.num_experts;
    const auto* forced_ids = reinterpret_cast<const int32_t*>(p.forced_ids);
    const auto* bias = reinterpret_cast<const float*>(p.selection_bias);

    // Read the row
    float values[kLaneExperts];
    bool has_nan = false;
    RowSums row{-INFINITY, 0.0f, 0.0f, true};
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
        const int expert = i * kWarpSize + lane_idx;
        values[i] = expert < p.num_experts ? logits[expert] : -INFINITY;
        has_nan |= isnan(values[i]);
        row.max = fmaxf(row.max, values[i]);
    }
    row.max = warp_reduce<Max>(row.max);
    row.defined = !__any_sync(kFullMask, has_nan);
    if (!row.defined) {
        for (int j = lane_idx; j < k; j += kWarpSize) {
            smem.chosen_ids[j] = p.forced_ids != 0 ? forced_ids[token_idx * k + j] : j;
            smem.chosen_weights[j] = 0.0f;
        }
        __syncwarp();
        return row;
    }
    row.shift = row.max > -INFINITY ? row.max : 0.0f;
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) row.exp_sum += expf(values[i] - row.shift);
    row.exp_sum = warp_reduce<Sum>(row.exp_sum);

    // Choose k experts
    if (p.forced_ids != 0) {
        for (int j = lane_idx; j < k; j += kWarpSize) smem.chosen_ids[j] = forced_ids[token_idx * k + j];
    } else {
        // Scores grow with the logits, so without a bias and a sum of scores the logits decide, unrounded
        const bool by_score = p.selection_bias != 0 || (p.num_groups > 0 && p.group_score == kGroupSumOfTop2);
        uint32_t keys[kLaneExperts];
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            const int expert = i * kWarpSize + lane_idx;
            float choice = values[i];
            if (by_score) {
                if (p.score == kSigmoid) choice = sigmoid(choice);
                if (p.score == kSoftmaxBeforeTopK) choice = row.exp_sum > 0.0f ? expf(choice - row.shift) / row.exp_sum : 0.0f;
                if (p.selection_bias != 0 && expert < p.num_experts) choice += bias[expert];
            }
            keys[i] = expert < p.num_experts ? order_key(choice) : 0;
            if (p.num_groups > 0 && expert < p.num_experts) smem.choices[expert] = choice;
        }
        __syncwarp();
        if (p.num_groups > 0) keep_best_groups(p, smem, keys);
        for (int j = 0; j < k; ++j) {
            uint32_t best_key = 0;
            int best_expert = p.num_experts;
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) {
                if (keys[i] > best_key) {
                    best_key = keys[i];
                    best_expert = i * kWarpSize + lane_idx;
                }
            }
            const int chosen = warp_arg_max(best_key, best_expert);
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) {
                if (i * kWarpSize + lane_idx == chosen) keys[i] = 0;
            }
            if (lane_idx == 0) smem.chosen_ids[j] = chosen;
        }
    }
    __syncwarp();

    // Weigh them; each lane keeps to its own entries. A forced id that is no expert gets weight 0
    const auto logit_of = [&](int j) {
        const int expert = smem.chosen_ids[j];
        return expert >= 0 && expert < p.num_experts ? logits[expert] : -INFINITY;
    };
    float shift = row.shift;
    if (p.score == kSoftmaxAfterTopK) {
        float max = -INFINITY;
        for (int j = lane_idx; j < k; j += kWarpSize) max = fmaxf(max, logit_of(j));
        max = warp_reduce<Max>(max);
        shift = max > -INFINITY ? max : 0.0f;
    }
    float sum = 0.0f;
    for (int j = lane_idx; j < k; j += kWarpSize) {
        const float logit = logit_of(j);
        const float raw = p.score == kSigmoid ? sigmoid(logit) : expf(logit - shift);
        smem.chosen_weights[j] = raw;
        sum += raw;
    }
    sum = warp_reduce<Sum>(sum);
    const float denominator =
        p.score == kSoftmaxBeforeTopK ? row.exp_sum : p.score == kSoftmaxAfterTopK ? sum : 1.0f;
    const float total = p.renormalize ? sum / denominator + p.epsilon : 1.0f;
    const float factor = sum > 0.0f ? p.scale / (denominator * total) : 0.0f;
    for (int j = lane_idx; j < k; j += kWarpSize) {
        smem.chosen_weights[j] = sum > 0.0f ? smem.chosen_weights[j] * factor : 0.0f;
    }
    __syncwarp();
    return row;
}

template <int kLaneExperts>
__device__ __forceinline__ void topk_gating(const TopkGatingParams& p) {
    __shared__ float smem_z[kGatingWarps];
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    const int k = p.num_experts_per_token;
    const GatingStorage smem(p, warp_idx);
    auto* expert_ids = reinterpret_cast<int32_t*>(p.expert_ids);
    auto* expert_weights = reinterpret_cast<float*>(p.expert_weights);
    if (p.block_counts != 0) {
        for (int expert = lane_idx; expert < p.num_experts; expert += kWarpSize) {
            smem.expert_counts[expert] = 0;
            smem.expert_weights[expert] = 0.0f;
        }
    }

    // Gate this warp's tokens; an expert occurs once in a token, so lanes never meet in the statistics
    const int64_t first_token = int64_t(blockIdx.x) * p.tokens_per_block;
    const int64_t last_token = min(first_token + p.tokens_per_block, p.num_tokens);
    float z_sum = 0.0f;
    for (int64_t token_idx = first_token + warp_idx; token_idx < last_token; token_idx += kGatingWarps) {
        __syncwarp();
        const RowSums row = gate<kLaneExperts>(p, smem, token_idx);
        for (int j = lane_idx; j < k; j += kWarpSize) {
            const int32_t expert = smem.chosen_ids[j];
            const float weight = smem.chosen_weights[j];
            expert_ids[token_idx * k + j] = expert;
            expert_weights[token_idx * k + j] = weight;
            if (p.block_counts != 0 && expert >= 0 && expert < p.num_experts) {
                smem.expert_counts[expert] += 1;
                smem.expert_weights[expert] += weight;
            }
        }
        if (row.defined) {
            const float log_sum = row.shift + logf(row.exp_sum);
            z_sum = fmaf(log_sum, log_sum, z_sum);
        }
    }
    if (p.block_counts == 0) return;

    // Add up the warps' statistics
    if (lane_idx == 0) smem_z[warp_idx] = z_sum;
    __syncthreads();
    auto* block_counts = reinterpret_cast<int32_t*>(p.block_counts);
    auto* block_weights = reinterpret_cast<float*>(p.block_weights);
    const GatingStorage first_warp(p, 0);
    const auto warp_stride = GatingStorage(p, 1).expert_counts - first_warp.expert_counts;
    for (int expert = threadIdx.x; expert < p.num_experts; expert += blockDim.x) {
        int32_t count = 0;
        float weight = 0.0f;
        for (int warp = 0; warp < kGatingWarps; ++warp) {
            count += first_warp.expert_counts[warp * warp_stride + expert];
            weight += first_warp.expert_weights[warp * warp_stride + expert];
        }
        block_counts[int64_t(expert) * gridDim.x + blockIdx.x] = count;
        block_weights[int64_t(expert) * gridDim.x + blockIdx.x] = weight;
    }
    if (threadIdx.x == 0) {
        float z = 0.0f;
        for (int warp = 0; warp < kGatingWarps; ++warp) z += smem_z[warp];
        reinterpret_cast<float*>(p.block_z)[blockIdx.x] = z;
    }
}

// Up to 32, 256 and 1024 experts. Eight blocks an SM leave 64 registers a thread, which is what the first two need.
extern "C" __global__ void __launch_bounds__(kGatingWarps* kWarpSize, 8)
    topk_gating_32(const __grid_constant__ TopkGatingParams p) {
    topk_gating<1>(p);
}
extern "C" __global__ void __launch_bounds__(kGatingWarps* kWarpSize, 8)
    topk_gating_256(const __grid_constant__ TopkGatingParams p) {
    topk_gating<8>(p);
}
extern "C" __global__ void __launch_bounds__(kGatingWarps* kWarpSize)
    topk_gating_1024(const __grid_constant__ TopkGatingParams p) {
    topk_gating<32>(p);
}

struct TopkGatingTotalsParams {
    uint64_t block_counts;   // i32 [num_experts, num_blocks]
    uint64_t block_weights;  // f32 [num_experts, num_blocks]
    uint64_t block_z;        // f32 [num_blocks]
    uint64_t counts;         // 0: not asked for
    uint64_t losses;         // 0: not asked for
    int64_t num_tokens;
    int32_t num_experts;
    int32_t num_blocks;
};

// One block: counts[e] = sum over blocks; losses = [E * sum_e f_e * P_e, mean of logsumexp^2].
extern "C" __global__ void __launch_bounds__(1024)
    topk_gating_totals(const __grid_constant__ TopkGatingTotalsParams p) {
    __shared__ float smem_partial[kWarpSize];
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    const auto* block_counts = reinterpret_cast<const int32_t*>(p.block_counts);
    const auto* block_weights = reinterpret_cast<const float*>(p.block_weights);
    const auto* block_z = reinterpret_cast<const float*>(p.block_z);
    auto* counts = reinterpret_cast<int32_t*>(p.counts);
    auto* losses = reinterpret_cast<float*>(p.losses);
    const float per_token = p.num_tokens > 0 ? 1.0f / float(p.num_tokens) : 0.0f;

    // Sum each expert's blocks, a warp an expert
    float balance = 0.0f;
    for (int expert = warp_idx; expert < p.num_experts; expert += kWarpSize) {
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
        const float auxiliary = warp_reduce<Sum>(smem_partial[lane_idx]) * float(p.num_experts);
        float z = 0.0f;
        for (int block_idx = lane_idx; block_idx < p.num_blocks; block_idx += kWarpSize) z += block_z[block_idx];
        z = warp_reduce<Sum>(z) * per_token;
        if (lane_idx == 0) {
            losses[0] = auxiliary;
            losses[1] = z;
        }
    }
}
