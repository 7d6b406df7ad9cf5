// The router of a Mixture-of-Experts layer, in f32 (Shazeer et al. 2017, arXiv:1701.06538).
//     router_logits: logits = x · weight^T, plus softplus(x · noise_weight^T) * N(0, 1) with noise
//     topk_gating:   the k experts of the largest score + selection_bias, lowest index on ties, and their weights
// x: [num_tokens, hidden_size]    weight: f32 [num_experts, hidden_size]    logits: f32 [num_tokens, num_experts]
// expert_ids, expert_weights: [num_tokens, k] in order of preference
// A warp computes 4 x 8 logits with its lanes along hidden_size; for few tokens eight warps share hidden_size and add
// their sums in order. A few lanes gate a token, four experts or more each, so a warp has up to 32 tokens. Logits are
// read once and become integer keys of the same order; k rounds of a butterfly maximum pick the experts. Counts and
// losses (Fedus et al. 2021, arXiv:2101.03961; Zoph et al. 2022, arXiv:2202.08906) are summed by warp, by block and then
// in a second launch in a fixed order, without atomics.
// Launcher: src/kernels/topk_gating.rs
#include "chunk.cuh"
#include "reduce.cuh"
#include "router_totals.cuh"
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
    uint32_t num_splits;    // warps that share the sums of their tokens: 1, or all kTokenGroups of a block's y
};

constexpr int kTokenGroups = 8;
constexpr int kExpertGroups = 2;
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

// Block: a warp in x, y groups of 4 tokens, or parts of hidden_size for one group; z groups of 8 experts.
template <class T, bool kWhole>
__device__ __forceinline__ void router_logits(const RouterLogitsParams& p) {
    static_assert(kWarpTokens * kWarpExperts == kWarpSize, "a lane ends up with one logit");
    __shared__ float smem_sums[kExpertGroups][kTokenGroups][kWarpSize];
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const int lane_idx = threadIdx.x;
    const bool is_split = p.num_splits > 1;
    const int split_idx = threadIdx.y & (p.num_splits - 1);  // of 1 or a power of two
    const int64_t group_idx = is_split ? blockIdx.x : int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const int64_t first_token = group_idx * kWarpTokens;
    const int first_expert = (blockIdx.y * blockDim.z + threadIdx.z) * kWarpExperts;
    if (!is_split && (first_token >= p.num_tokens || first_expert >= p.num_experts)) return;

    // Rows past the end repeat the last one; their sums are not written
    const T* x_rows = reinterpret_cast<const T*>(p.x) + first_token * p.x_stride;
    const int last_row = int(min(int64_t(kWarpTokens), p.num_tokens - first_token)) - 1;
    const int64_t token_idx = first_token + lane_idx / kWarpExperts;
    const int expert = first_expert + lane_idx % kWarpExperts;

    float logit = 0.0f;
#pragma unroll 1
    for (int pass = 0; pass < (p.noise_weight != 0 ? 2 : 1); ++pass) {
        const auto* weight = reinterpret_cast<const float*>(pass == 0 ? p.weight : p.noise_weight);
        float sums[kWarpSize] = {};  // [kWarpTokens, kWarpExperts]
#pragma unroll 1
        for (int first = (split_idx * kWarpSize + lane_idx) * kLaneElements; first < p.hidden_size;
             first += p.num_splits * kWarpSize * kLaneElements) {
            const int valid = p.hidden_size - first;
            float x[kWarpTokens][kLaneElements];
#pragma unroll
            for (int t = 0; t < kWarpTokens; ++t) {
                load_chunk<kWhole>(x[t], x_rows + min(t, last_row) * p.x_stride + first, valid);
            }
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
        float sum = transposed_warp_sum(sums);
        if (is_split) {
            __syncthreads();  // the sums of the pass before have been read
            smem_sums[threadIdx.z][threadIdx.y][lane_idx] = sum;
            __syncthreads();
            sum = 0.0f;
#pragma unroll 1
            for (int split = 0; split < kTokenGroups; ++split) sum += smem_sums[threadIdx.z][split][lane_idx];
        }
        logit = pass == 0 ? sum : logit + softplus(sum) * philox_normal(p.seed, uint32_t(token_idx), expert);
    }
    if (split_idx == 0 && token_idx < p.num_tokens && expert < p.num_experts) {
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
    int32_t lanes_per_token;  // a power of two
    uint32_t whole_chunks;    // 1: rows of logits start at multiples of 16 bytes
};

constexpr int kGatingWarps = 4;
constexpr int kChunkExperts = 4;

// Dynamic shared memory, for each warp in turn; the launcher asks for the sum of what is used.
extern __shared__ uint32_t gating_smem[];

// T is how many tokens a warp gates at a time.
struct GatingStorage {
    int32_t* chosen_ids;     // [T, k]
    float* chosen_weights;   // [T, k], logits first
    float* choices;          // [T, num_experts], with groups
    uint32_t* group_keys;    // [T, num_groups]
    int32_t* expert_counts;  // [num_experts], with statistics
    float* expert_weights;   // [num_experts], with statistics

    __device__ __forceinline__ GatingStorage(const TopkGatingParams& p, int warp_idx) {
        const int num_tokens = kWarpSize / p.lanes_per_token;
        const int k = num_tokens * p.num_experts_per_token;
        const int grouped = p.num_groups > 0 ? num_tokens * p.num_experts : 0;
        const int num_groups = num_tokens * p.num_groups;
        const int counted = p.block_counts != 0 ? p.num_experts : 0;
        uint32_t* next = gating_smem + warp_idx * (2 * k + grouped + num_groups + 2 * counted);
        chosen_ids = reinterpret_cast<int32_t*>(next);
        chosen_weights = reinterpret_cast<float*>(next += k);
        choices = reinterpret_cast<float*>(next += k);
        group_keys = next += grouped;
        expert_counts = reinterpret_cast<int32_t*>(next += num_groups);
        expert_weights = reinterpret_cast<float*>(next + counted);
    }
};

// The lanes that share a token.
struct TokenLanes {
    int width;
    int lane;   // of them
    int token;  // of the warp's

    __device__ __forceinline__ explicit TokenLanes(int width)
        : width(width), lane(threadIdx.x % width), token(threadIdx.x % kWarpSize / width) {}

    template <class Op>
    __device__ __forceinline__ float reduce(float value) const {
        for (int offset = width / 2; offset > 0; offset /= 2) {
            value = Op()(value, __shfl_xor_sync(kFullMask, value, offset));
        }
        return value;
    }

    // The index of the largest key, the lowest on ties. Each lane gives its best.
    __device__ __forceinline__ int arg_max(uint32_t key, int index) const {
        for (int offset = width / 2; offset > 0; offset /= 2) {
            const uint32_t other_key = __shfl_xor_sync(kFullMask, key, offset);
            const int other_index = __shfl_xor_sync(kFullMask, index, offset);
            if (other_key > key || (other_key == key && other_index < index)) {
                key = other_key;
                index = other_index;
            }
        }
        return index;
    }
};

// An integer of the order of `value`, never 0: that is the key of what cannot be chosen. Both zeros are equal.
__device__ __forceinline__ uint32_t order_key(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return max(bits & 0x80000000u ? ~bits : bits | 0x80000000u, 1u);
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The experts of a lane: kNumChunks of four, as strips over the lanes of the token.
template <bool kWhole>
__device__ __forceinline__ int expert_of(const TokenLanes& lanes, int i) {
    const int strip = i / kChunkExperts * kChunkExperts * lanes.width;
    return strip + strip_element<kWhole, kChunkExperts>(lanes.lane, lanes.width, i % kChunkExperts);
}

// Makes experts outside the best groups impossible to choose. choices are in shared memory.
template <int kLaneExperts, bool kWhole>
__device__ __forceinline__ void keep_best_groups(
    const TopkGatingParams& p, const GatingStorage& smem, const TokenLanes& lanes, uint32_t (&keys)[kLaneExperts]) {
    const int group_size = p.num_experts / p.num_groups;
    uint32_t* group_keys = smem.group_keys + lanes.token * p.num_groups;

    // Score the groups
    for (int group = lanes.lane; group < p.num_groups; group += lanes.width) {
        const float* choices = smem.choices + lanes.token * p.num_experts + group * group_size;
        float best = choices[0], second = -INFINITY;
        for (int i = 1; i < group_size; ++i) {
            second = fmaxf(second, fminf(best, choices[i]));
            best = fmaxf(best, choices[i]);
        }
        group_keys[group] = order_key(p.group_score == kGroupMax ? best : best + second);
    }
    __syncwarp();

    // Take the best groups: their key becomes 0
    for (int round = 0; round < p.top_groups; ++round) {
        uint32_t best_key = 0;
        int best_group = p.num_groups;
        for (int group = lanes.lane; group < p.num_groups; group += lanes.width) {
            if (group_keys[group] > best_key) best_key = group_keys[best_group = group];
        }
        const int chosen = lanes.arg_max(best_key, best_group);
        // The lane that reads this key in every round: none other has to wait
        if (chosen % lanes.width == lanes.lane) group_keys[chosen] = 0;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
        const int expert = expert_of<kWhole>(lanes, i);
        if (expert < p.num_experts && group_keys[expert / group_size] != 0) keys[i] = 0;
    }
}

// What a token's weights need from its whole row.
struct RowSums {
    float max;      // of the logits
    float shift;    // the maximum, or 0 where every logit is -inf
    float exp_sum;  // of exp(logit - shift)
    bool defined;   // no NaN in it
};

// Gates the tokens of a warp from `first_token` on, up to `last_token`: ids and weights end up in shared memory.
template <int kLaneExperts, bool kWhole>
__device__ __forceinline__ RowSums gate(
    const TopkGatingParams& p, const GatingStorage& smem, const TokenLanes& lanes, int64_t first_token,
    int64_t last_token) {
    const int k = p.num_experts_per_token;
    const int64_t token_idx = first_token + lanes.token;
    const float* logits = reinterpret_cast<const float*>(p.logits) + token_idx * p.num_experts;
    const auto* bias = reinterpret_cast<const float*>(p.selection_bias);
    int32_t* chosen_ids = smem.chosen_ids + lanes.token * k;
    float* chosen_weights = smem.chosen_weights + lanes.token * k;

    // Read the row
    float values[kLaneExperts];
#pragma unroll
    for (int first = 0; first < kLaneExperts; first += kChunkExperts) {
        float chunk[kChunkExperts];
        const int strip = first * lanes.width;
        const int valid = token_idx < last_token ? p.num_experts - strip : 0;
        load_strip<kWhole>(chunk, logits + strip, lanes.lane, lanes.width, valid);
#pragma unroll
        for (int i = 0; i < kChunkExperts; ++i) values[first + i] = chunk[i];
    }
    float num_nan = 0.0f;
    RowSums row{-INFINITY, 0.0f, 0.0f, true};
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
        if (expert_of<kWhole>(lanes, i) >= p.num_experts) values[i] = -INFINITY;
        num_nan += isnan(values[i]) ? 1.0f : 0.0f;
        row.max = fmaxf(row.max, values[i]);
    }
    row.max = lanes.reduce<Max>(row.max);
    row.defined = lanes.reduce<Sum>(num_nan) == 0.0f;
    row.shift = row.max > -INFINITY ? row.max : 0.0f;
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) row.exp_sum += expf(values[i] - row.shift);
    row.exp_sum = lanes.reduce<Sum>(row.exp_sum);

    // Choose k experts, and leave their logits where the weights go
    const auto leave_logit = [&](int j, int expert) {
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            if (expert_of<kWhole>(lanes, i) == expert && expert < p.num_experts) chosen_weights[j] = values[i];
        }
    };
    if (p.forced_ids != 0) {
        // A forced id that is no expert gets weight 0
        const auto* forced_ids = reinterpret_cast<const int32_t*>(p.forced_ids) + first_token * k;
        const int num_ids = int(min(int64_t(kWarpSize / lanes.width), last_token - first_token)) * k;
        for (int i = threadIdx.x % kWarpSize; i < kWarpSize / lanes.width * k; i += kWarpSize) {
            smem.chosen_ids[i] = i < num_ids ? forced_ids[i] : -1;
            smem.chosen_weights[i] = -INFINITY;
        }
        __syncwarp();
        for (int j = 0; j < k; ++j) leave_logit(j, chosen_ids[j]);
    } else {
        // Scores grow with the logits, so without a bias and a sum of scores the logits decide, unrounded
        const bool by_score = p.selection_bias != 0 || (p.num_groups > 0 && p.group_score == kGroupSumOfTop2);
        uint32_t keys[kLaneExperts];
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            const int expert = expert_of<kWhole>(lanes, i);
            float choice = values[i];
            if (by_score) {
                if (p.score == kSigmoid) choice = sigmoid(choice);
                if (p.score == kSoftmaxBeforeTopK) {
                    choice = row.exp_sum > 0.0f ? expf(choice - row.shift) / row.exp_sum : 0.0f;
                }
                if (p.selection_bias != 0 && expert < p.num_experts) choice += bias[expert];
            }
            keys[i] = expert < p.num_experts ? order_key(choice) : 0;
            if (p.num_groups > 0 && expert < p.num_experts) {
                smem.choices[lanes.token * p.num_experts + expert] = choice;
            }
        }
        __syncwarp();
        if (p.num_groups > 0) keep_best_groups<kLaneExperts, kWhole>(p, smem, lanes, keys);
        for (int j = 0; j < k; ++j) {
            uint32_t best_key = 0;
            int best_expert = p.num_experts;
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) {
                const int expert = expert_of<kWhole>(lanes, i);
                if (keys[i] > best_key || (keys[i] == best_key && keys[i] != 0 && expert < best_expert)) {
                    best_key = keys[i];
                    best_expert = expert;
                }
            }
            const int chosen = lanes.arg_max(best_key, best_expert);
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) {
                if (expert_of<kWhole>(lanes, i) == chosen) {
                    keys[i] = 0;
                    chosen_ids[j] = chosen;
                    chosen_weights[j] = values[i];
                }
            }
        }
    }
    __syncwarp();

    // Weigh them; each lane keeps to its own entries
    float shift = row.shift;
    if (p.score == kSoftmaxAfterTopK) {
        float max = -INFINITY;
        for (int j = lanes.lane; j < k; j += lanes.width) max = fmaxf(max, chosen_weights[j]);
        max = lanes.reduce<Max>(max);
        shift = max > -INFINITY ? max : 0.0f;
    }
    float sum = 0.0f;
    for (int j = lanes.lane; j < k; j += lanes.width) {
        const float logit = chosen_weights[j];
        const float raw = p.score == kSigmoid ? sigmoid(logit) : expf(logit - shift);
        chosen_weights[j] = raw;
        sum += raw;
    }
    sum = lanes.reduce<Sum>(sum);
    const float denominator =
        p.score == kSoftmaxBeforeTopK ? row.exp_sum : p.score == kSoftmaxAfterTopK ? sum : 1.0f;
    const float total = p.renormalize ? sum / denominator + p.epsilon : 1.0f;
    const float factor = sum > 0.0f ? p.scale / (denominator * total) : 0.0f;
    for (int j = lanes.lane; j < k; j += lanes.width) {
        chosen_weights[j] = row.defined && sum > 0.0f ? chosen_weights[j] * factor : 0.0f;
        if (!row.defined && p.forced_ids == 0) chosen_ids[j] = j;
    }
    __syncwarp();
    return row;
}

template <int kLaneExperts, bool kWhole>
__device__ __forceinline__ void topk_gating(const TopkGatingParams& p, float (&smem_z)[kGatingWarps]) {
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    const int k = p.num_experts_per_token;
    const GatingStorage smem(p, warp_idx);
    const TokenLanes lanes(p.lanes_per_token);
    const int warp_tokens = kWarpSize / lanes.width;
    if (p.block_counts != 0) {
        for (int expert = lane_idx; expert < p.num_experts; expert += kWarpSize) {
            smem.expert_counts[expert] = 0;
            smem.expert_weights[expert] = 0.0f;
        }
    }

    // Gate this warp's tokens
    const int64_t first_of_block = int64_t(blockIdx.x) * p.tokens_per_block;
    const int64_t last_token = min(first_of_block + p.tokens_per_block, p.num_tokens);
    float z_sum = 0.0f;
    for (int64_t first_token = first_of_block + warp_idx * warp_tokens; first_token < last_token;
         first_token += kGatingWarps * warp_tokens) {
        __syncwarp();
        const RowSums row = gate<kLaneExperts, kWhole>(p, smem, lanes, first_token, last_token);
        auto* expert_ids = reinterpret_cast<int32_t*>(p.expert_ids) + first_token * k;
        auto* expert_weights = reinterpret_cast<float*>(p.expert_weights) + first_token * k;
        const int num_tokens = int(min(int64_t(warp_tokens), last_token - first_token));
        for (int i = lane_idx; i < num_tokens * k; i += kWarpSize) {
            expert_ids[i] = smem.chosen_ids[i];
            expert_weights[i] = smem.chosen_weights[i];
        }
        if (p.block_counts == 0) continue;
        // An expert occurs once in a token, so lanes never meet
        for (int token = 0; token < num_tokens; ++token) {
            for (int j = lane_idx; j < k; j += kWarpSize) {
                const int32_t expert = smem.chosen_ids[token * k + j];
                if (expert < 0 || expert >= p.num_experts) continue;
                smem.expert_counts[expert] += 1;
                smem.expert_weights[expert] += smem.chosen_weights[token * k + j];
            }
            __syncwarp();
        }
        if (row.defined && lanes.lane == 0 && lanes.token < num_tokens) {
            const float log_sum = row.shift + logf(row.exp_sum);
            z_sum = fmaf(log_sum, log_sum, z_sum);
        }
    }
    if (p.block_counts == 0) return;

    // Add up the warps' statistics
    z_sum = warp_reduce<Sum>(z_sum);
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

template <int kLaneExperts>
__device__ __forceinline__ void topk_gating(const TopkGatingParams& p) {
    __shared__ float smem_z[kGatingWarps];
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (p.whole_chunks) {
        topk_gating<kLaneExperts, true>(p, smem_z);
    } else {
        topk_gating<kLaneExperts, false>(p, smem_z);
    }
}

// Up to 128, 256 and 1024 experts. Eight blocks an SM leave 64 registers a thread, five 96: what the first two need.
extern "C" __global__ void __launch_bounds__(kGatingWarps* kWarpSize, 8)
    topk_gating_128(const __grid_constant__ TopkGatingParams p) {
    topk_gating<4>(p);
}
extern "C" __global__ void __launch_bounds__(kGatingWarps* kWarpSize, 5)
    topk_gating_256(const __grid_constant__ TopkGatingParams p) {
    topk_gating<8>(p);
}
extern "C" __global__ void __launch_bounds__(kGatingWarps* kWarpSize)
    topk_gating_1024(const __grid_constant__ TopkGatingParams p) {
    topk_gating<32>(p);
}

extern "C" __global__ void __launch_bounds__(kRouterTotalsThreads)
    topk_gating_totals(const __grid_constant__ RouterTotals p) {
    __shared__ float smem_partial[kRouterTotalsThreads / kWarpSize];
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    router_totals(p, smem_partial);
}
