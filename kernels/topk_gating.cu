// The router of a Mixture-of-Experts layer, in f32 (Shazeer et al. 2017, arXiv:1701.06538).
//     router_logits: logits = x · weight^T, plus softplus(x · noise_weight^T) * N(0, 1) with noise
//     topk_gating:   the k experts of the largest score + selection_bias, lowest index on ties, and their weights
// x: [num_tokens, hidden_size]    weight: f32 [num_experts, hidden_size]    logits: f32 [num_tokens, num_experts]
// expert_ids, expert_weights: [num_tokens, k] in order of preference
// A warp computes 4 x 8 logits with its lanes along hidden_size, for group after group of tokens with the weights in
// shared memory; for few tokens eight warps share hidden_size and add their sums in order. A few lanes gate a token, four
// experts or more each, so a warp has up to 32 tokens. Logits are read once and become integer keys of the same order;
// k rounds of a butterfly maximum pick the experts. Counts and losses (Fedus et al. 2021, arXiv:2101.03961; Zoph et al.
// 2022, arXiv:2202.08906) are summed by lane, each for the experts whose logits it reads, by block and then in a second
// launch in a fixed order, without atomics.
// Launcher: src/kernels/topk_gating.rs
#include "chunk.cuh"
#include "reduce.cuh"
#include "router_totals.cuh"
#include "philox.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/griddep.cuh"
#include "ptx/shared.cuh"

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
    uint32_t is_split;      // 1: the kSplits warps of a block's y share the sums of their tokens
};

constexpr int kSplits = 8;
constexpr int kExpertGroups = 2;
constexpr int kWarpTokens = 4;
constexpr int kWarpExperts = 8;
constexpr int kLaneElements = 4;
constexpr int kStrip = kWarpSize * kLaneElements;

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

// Weights of a warp's experts where they stand: each is asked for once a warp.
template <bool kWhole>
struct GmemWeights {
    const float* weight;
    int first_expert, num_experts, hidden_size;

    __device__ __forceinline__ void load(float (&w)[kLaneElements], int e, int first) const {
        const int64_t row = min(first_expert + e, num_experts - 1);
        load_strip<kWhole>(w, weight + row * hidden_size + first, threadIdx.x, kWarpSize, hidden_size - first);
    }
};

// The same in shared memory, [num_strips, kWarpExperts, kStrip], zero beyond the last expert and element.
template <bool kWhole>
struct StagedWeights {
    float* smem;

    __device__ __forceinline__ void load(float (&w)[kLaneElements], int e, int first) const {
        load_strip<kWhole>(w, smem + first * kWarpExperts + e * kStrip, threadIdx.x, kWarpSize, kStrip);
    }

    // By all warps of a block that have these experts. To be waited for.
    __device__ __forceinline__ void stage(const GmemWeights<kWhole>& source) const {
        constexpr int kCount = kWhole ? kLaneElements : 1;
        const int thread_idx = threadIdx.y * kWarpSize + threadIdx.x, num_threads = blockDim.y * kWarpSize;
        const int num_strips = ceil_div(source.hidden_size, kStrip);
        for (int i = thread_idx * kCount; i < num_strips * kWarpExperts * kStrip; i += num_threads * kCount) {
            const int expert = source.first_expert + i / kStrip % kWarpExperts;
            const int element = i / (kWarpExperts * kStrip) * kStrip + i % kStrip;
            const bool exists = expert < source.num_experts && element < source.hidden_size;
            const float* from = source.weight + (exists ? int64_t(expert) * source.hidden_size + element : 0);
            if constexpr (kWhole) {
                ptx::cp_async_cg_16(smem + i, from, exists ? 16 : 0);
            } else {
                ptx::cp_async_ca_4(smem + i, from, exists ? 4 : 0);
            }
        }
    }
};

// Rows of x that a warp multiplies. Those past the end repeat the last one; their sums are not written.
template <class T>
struct TokenRows {
    const T* first;
    int64_t stride;
    int last;
};

// Lane l's logit: of token l / kWarpExperts and expert l % kWarpExperts, over every `num_splits`th strip.
template <bool kWhole, class T, class Weights>
__device__ __forceinline__ float warp_logit(
    const TokenRows<T>& rows, int hidden_size, const Weights& weights, int split_idx, int num_splits) {
    static_assert(kWarpTokens * kWarpExperts == kWarpSize, "a lane ends up with one logit");
    float sums[kWarpSize] = {};  // [kWarpTokens, kWarpExperts]
#pragma unroll 1
    for (int first = split_idx * kStrip; first < hidden_size; first += num_splits * kStrip) {
        float x[kWarpTokens][kLaneElements];
#pragma unroll
        for (int t = 0; t < kWarpTokens; ++t) {
            const T* strip = rows.first + min(t, rows.last) * rows.stride + first;
            load_strip<kWhole>(x[t], strip, threadIdx.x, kWarpSize, hidden_size - first);
        }
#pragma unroll
        for (int e = 0; e < kWarpExperts; ++e) {
            float w[kLaneElements];
            weights.load(w, e, first);
#pragma unroll
            for (int t = 0; t < kWarpTokens; ++t) {
#pragma unroll
                for (int i = 0; i < kLaneElements; ++i) {
                    sums[t * kWarpExperts + e] = fmaf(x[t][i], w[i], sums[t * kWarpExperts + e]);
                }
            }
        }
    }
    return transposed_warp_sum(sums);
}

extern __shared__ __align__(16) float smem_weights[];

// Block: a warp in x, y groups of 4 tokens, or parts of hidden_size for one group; z groups of 8 experts. Without a
// split the block is persistent: its weights serve one group of tokens after another.
template <class T, bool kWhole>
__device__ __forceinline__ void router_logits(const RouterLogitsParams& p) {
    __shared__ float smem_sums[kExpertGroups][kSplits][kWarpSize];
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const int lane_idx = threadIdx.x;
    const int first_expert = (blockIdx.y * blockDim.z + threadIdx.z) * kWarpExperts;
    const int expert = first_expert + lane_idx % kWarpExperts;
    const bool has_experts = first_expert < p.num_experts;
    const int num_passes = p.noise_weight != 0 ? 2 : 1;
    const auto in_memory = [&](int pass) {
        const auto* weight = reinterpret_cast<const float*>(pass == 0 ? p.weight : p.noise_weight);
        return GmemWeights<kWhole>{weight, first_expert, p.num_experts, p.hidden_size};
    };
    const auto rows_of = [&](int64_t first_token) {
        const T* first = reinterpret_cast<const T*>(p.x) + first_token * p.x_stride;
        const int last = int(min(int64_t(kWarpTokens), p.num_tokens - first_token)) - 1;
        return TokenRows<T>{first, p.x_stride, last};
    };
    const auto add = [&](float& logit, int pass, float sum, int64_t token_idx) {
        logit = pass == 0 ? sum : logit + softplus(sum) * philox_normal(p.seed, uint32_t(token_idx), expert);
    };
    const auto write = [&](float logit, int64_t token_idx) {
        if (token_idx >= p.num_tokens || expert >= p.num_experts) return;
        reinterpret_cast<float*>(p.logits)[token_idx * p.num_experts + expert] = logit;
    };

    if (p.is_split) {
        const int64_t first_token = int64_t(blockIdx.x) * kWarpTokens;
        const int64_t token_idx = first_token + lane_idx / kWarpExperts;
        float logit = 0.0f;
#pragma unroll 1
        for (int pass = 0; pass < num_passes; ++pass) {
            const GmemWeights<kWhole> weights = in_memory(pass);
            float part = 0.0f;
            if (has_experts) {
                part = warp_logit<kWhole>(rows_of(first_token), p.hidden_size, weights, threadIdx.y, kSplits);
            }
            __syncthreads();  // the sums of the pass before have been read
            smem_sums[threadIdx.z][threadIdx.y][lane_idx] = part;
            __syncthreads();
            float sum = 0.0f;
#pragma unroll 1
            for (int split = 0; split < kSplits; ++split) sum += smem_sums[threadIdx.z][split][lane_idx];
            add(logit, pass, sum, token_idx);
        }
        if (threadIdx.y == 0) write(logit, token_idx);
        return;
    }

    // Stage the weights
    const int pass_elements = ceil_div(p.hidden_size, kStrip) * kStrip * kWarpExperts;
    const auto staged = [&](int pass) {
        return StagedWeights<kWhole>{smem_weights + (threadIdx.z * num_passes + pass) * pass_elements};
    };
    for (int pass = 0; pass < num_passes; ++pass) staged(pass).stage(in_memory(pass));
    ptx::cp_async_commit_group();
    ptx::cp_async_wait_group<0>();
    __syncthreads();
    if (!has_experts) return;

    // Groups of tokens go to the blocks in turn: their shares differ by one group of a warp
    const int64_t num_groups = (p.num_tokens + kWarpTokens - 1) / kWarpTokens;
    for (int64_t group = int64_t(threadIdx.y) * gridDim.x + blockIdx.x; group < num_groups;
         group += int64_t(blockDim.y) * gridDim.x) {
        const TokenRows<T> rows = rows_of(group * kWarpTokens);
        const int64_t token_idx = group * kWarpTokens + lane_idx / kWarpExperts;
        float logit = 0.0f;
#pragma unroll 1
        for (int pass = 0; pass < num_passes; ++pass) {
            add(logit, pass, warp_logit<kWhole>(rows, p.hidden_size, staged(pass), 0, 1), token_idx);
        }
        write(logit, token_idx);
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
    uint64_t block_counts;   // i32 [num_blocks, num_experts], 0: neither counts nor losses
    uint64_t block_weights;  // f32 [num_blocks, num_experts]
    uint64_t block_z;        // f32 [num_blocks]
    int64_t num_tokens;
    int32_t num_experts;
    int32_t num_experts_per_token;
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

constexpr int kMaxGatingWarps = 8;
constexpr int kChunkExperts = 4;

// Dynamic shared memory: GatingStorage for each warp in turn, and at last, in its place, the warps' statistics.
extern __shared__ __align__(16) uint32_t gating_smem[];

// T is how many tokens a warp gates at a time.
struct GatingStorage {
    int32_t* chosen_ids;     // [T, k]
    float* chosen_weights;   // [T, k], logits first
    float* choices;          // [T, num_experts], with groups
    uint32_t* group_keys;    // [T, num_groups]

    __device__ __forceinline__ GatingStorage(const TopkGatingParams& p, int warp_idx) {
        const int num_tokens = kWarpSize / p.lanes_per_token;
        const int k = num_tokens * p.num_experts_per_token;
        const int grouped = p.num_groups > 0 ? num_tokens * p.num_experts : 0;
        const int num_groups = num_tokens * p.num_groups;
        uint32_t* next = gating_smem + warp_idx * (2 * k + grouped + num_groups);
        chosen_ids = reinterpret_cast<int32_t*>(next);
        chosen_weights = reinterpret_cast<float*>(next += k);
        choices = reinterpret_cast<float*>(next += k);
        group_keys = next + grouped;
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

// Assignments to each of a lane's experts, and their weights.
template <int kLaneExperts>
struct LaneStatistics {
    int32_t counts[kLaneExperts] = {};
    float weights[kLaneExperts] = {};
    float z = 0.0f;

    template <bool kWhole>
    __device__ __forceinline__ void add(
        const GatingStorage& smem, const TokenLanes& lanes, int num_experts_per_token, const RowSums& row) {
        for (int j = 0; j < num_experts_per_token; ++j) {
            const int32_t id = smem.chosen_ids[lanes.token * num_experts_per_token + j];
            const float weight = smem.chosen_weights[lanes.token * num_experts_per_token + j];
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) {
                if (expert_of<kWhole>(lanes, i) == id) {
                    counts[i] += 1;
                    weights[i] += weight;
                }
            }
        }
        if (row.defined && lanes.lane == 0) {
            const float log_sum = row.shift + logf(row.exp_sum);
            z = fmaf(log_sum, log_sum, z);
        }
    }

    // Sums over the tokens of the warp.
    __device__ __forceinline__ void reduce(const TokenLanes& lanes) {
        for (int offset = lanes.width; offset < kWarpSize; offset *= 2) {
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) {
                counts[i] += __shfl_xor_sync(kFullMask, counts[i], offset);
                weights[i] += __shfl_xor_sync(kFullMask, weights[i], offset);
            }
        }
        z = warp_reduce<Sum>(z);
    }

    // By the lanes of one token.
    template <bool kWhole>
    __device__ __forceinline__ void write(
        int32_t* smem_counts, float* smem_weights, const TokenLanes& lanes, int num_experts) const {
#pragma unroll
        for (int i = 0; i < kLaneExperts; i += kWhole ? 4 : 1) {
            const int expert = expert_of<kWhole>(lanes, i);
            if (expert >= num_experts) continue;
            if constexpr (kWhole) {
                ptx::st_shared_v4_s32(smem_counts + expert, counts[i], counts[i + 1], counts[i + 2], counts[i + 3]);
                ptx::st_shared_v4_f32(smem_weights + expert, weights[i], weights[i + 1], weights[i + 2], weights[i + 3]);
            } else {
                smem_counts[expert] = counts[i];
                smem_weights[expert] = weights[i];
            }
        }
    }
};

// Without statistics a block gates its tokens once; with them it goes on, so that few blocks leave sums.
template <int kLaneExperts, bool kWhole>
__device__ __forceinline__ void topk_gating(const TopkGatingParams& p, float (&smem_z)[kMaxGatingWarps]) {
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    const int num_warps = blockDim.x / kWarpSize;
    const int k = p.num_experts_per_token;
    const GatingStorage smem(p, warp_idx);
    const TokenLanes lanes(p.lanes_per_token);
    const int warp_tokens = kWarpSize / lanes.width;

    // Gate this warp's tokens
    LaneStatistics<kLaneExperts> statistics;
    const int64_t tokens_per_round = int64_t(gridDim.x) * num_warps * warp_tokens;
    const int64_t first_of_warp = (int64_t(blockIdx.x) * num_warps + warp_idx) * warp_tokens;
    for (int64_t first_token = first_of_warp; first_token < p.num_tokens; first_token += tokens_per_round) {
        __syncwarp();
        const RowSums row = gate<kLaneExperts, kWhole>(p, smem, lanes, first_token, p.num_tokens);
        auto* expert_ids = reinterpret_cast<int32_t*>(p.expert_ids) + first_token * k;
        auto* expert_weights = reinterpret_cast<float*>(p.expert_weights) + first_token * k;
        const int num_tokens = int(min(int64_t(warp_tokens), p.num_tokens - first_token));
        for (int i = lane_idx; i < num_tokens * k; i += kWarpSize) {
            expert_ids[i] = smem.chosen_ids[i];
            expert_weights[i] = smem.chosen_weights[i];
        }
        if (p.block_counts != 0 && lanes.token < num_tokens) statistics.template add<kWhole>(smem, lanes, k, row);
    }
    if (p.block_counts == 0) return;

    // Add up the warps' statistics
    statistics.reduce(lanes);
    auto* smem_counts = reinterpret_cast<int32_t*>(gating_smem);  // [num_warps, num_experts]
    auto* smem_weights = reinterpret_cast<float*>(smem_counts + num_warps * p.num_experts);
    __syncthreads();
    if (lanes.token == 0) {
        statistics.template write<kWhole>(
            smem_counts + warp_idx * p.num_experts, smem_weights + warp_idx * p.num_experts, lanes, p.num_experts);
    }
    if (lane_idx == 0) smem_z[warp_idx] = statistics.z;
    __syncthreads();
    auto* block_counts = reinterpret_cast<int32_t*>(p.block_counts) + int64_t(blockIdx.x) * p.num_experts;
    auto* block_weights = reinterpret_cast<float*>(p.block_weights) + int64_t(blockIdx.x) * p.num_experts;
    for (int expert = threadIdx.x; expert < p.num_experts; expert += blockDim.x) {
        int32_t count = 0;
        float weight = 0.0f;
        for (int warp = 0; warp < num_warps; ++warp) {
            count += smem_counts[warp * p.num_experts + expert];
            weight += smem_weights[warp * p.num_experts + expert];
        }
        block_counts[expert] = count;
        block_weights[expert] = weight;
    }
    if (threadIdx.x == 0) {
        float z = 0.0f;
        for (int warp = 0; warp < num_warps; ++warp) z += smem_z[warp];
        reinterpret_cast<float*>(p.block_z)[blockIdx.x] = z;
    }
}

template <int kLaneExperts>
__device__ __forceinline__ void topk_gating(const TopkGatingParams& p) {
    __shared__ float smem_z[kMaxGatingWarps];
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (p.whole_chunks) {
        topk_gating<kLaneExperts, true>(p, smem_z);
    } else {
        topk_gating<kLaneExperts, false>(p, smem_z);
    }
}

// Up to 128, 256 and 1024 experts, in blocks of 8, 4 and 4 warps. Four blocks of 8 warps an SM leave 64 registers a
// thread, five of 4 leave 96, two 256.
extern "C" __global__ void __launch_bounds__(8 * kWarpSize, 4)
    topk_gating_128(const __grid_constant__ TopkGatingParams p) {
    topk_gating<4>(p);
}
extern "C" __global__ void __launch_bounds__(4 * kWarpSize, 5)
    topk_gating_256(const __grid_constant__ TopkGatingParams p) {
    topk_gating<8>(p);
}
extern "C" __global__ void __launch_bounds__(4 * kWarpSize)
    topk_gating_1024(const __grid_constant__ TopkGatingParams p) {
    topk_gating<32>(p);
}

extern "C" __global__ void __launch_bounds__(kRouterTotalsThreads)
    topk_gating_totals(const __grid_constant__ RouterTotals p) {
    __shared__ RouterTotalsStorage<kRouterTotalsThreads> smem;
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    router_totals(p, smem);
}
