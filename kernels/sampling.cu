// One id a row, drawn from its logits:
//     repetition penalty (Keskar et al. 2019, arXiv:1909.05858), temperature, top-k (Fan et al. 2018, arXiv:1805.04833),
//     top-p (Holtzman et al. 2020, arXiv:1904.09751), min-p (Nguyen et al. 2024, arXiv:2407.01082), then Philox
// logits: f32 [num_rows, vocab_size]    allowed: bits [vocab_size]    seen: bits [num_rows, vocab_size]
// ids: [num_rows]    logprobs: f32 [num_rows], of the softmax over the logits as they came
// All that is summed are integers (fixed_weight.cuh), and equal logits are taken in the order of ids, so neither the block
// nor the executor shows in the ids. A block a row. Logits become integer keys of the same order; top-k and top-p are found
// by radix selection, the largest digit first, in histograms of counts or of weights; what is left is a threshold. Every
// thread's largest key bounds the k-th largest from below, so that for usual k few keys are counted at all. The draw
// narrows the row by the sums of the warps' parts, down to 32 ids.
// Memory bound: 4 bytes an id, once. Keys stay in shared memory up to about 53,000 ids on Hopper, else each pass reads the
// row again, from L2 as a rule. Passes: 1 for an argmax, 2 without limits, 3 more for top-k, 3 more for top-p, 1 more each
// where equal logits are divided, and 1 for logprobs.
// Launcher: src/kernels/sampling.rs
#include "fixed_weight.cuh"
#include "philox.cuh"
#include "ptx/griddep.cuh"
#include "reduce.cuh"

// Mirrored by `SamplingSettings` in src/operations/sampling.rs.
struct SamplingSettings {
    float inverse_temperature;  // 0: argmax
    int32_t top_k;              // 0: all
    uint32_t top_p;             // of 2^32; 0: all
    uint32_t min_p;             // of 2^32
    float repetition_penalty;
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t sequence;
};

struct SamplingParams {
    const float* logits;
    const uint32_t* allowed;  // null: all
    uint32_t* seen;           // null: none
    const SamplingSettings* settings;
    const int32_t* positions;
    int32_t* ids;
    float* logprobs;  // null: not asked for
    int64_t vocab_size;
};

constexpr uint32_t kOut = 0;                // the key of what cannot be drawn
constexpr uint32_t kNanKey = 0xffffffffu;   // above that of +inf
constexpr uint32_t kInfinityKey = 0xff800000u;
constexpr uint32_t kMinusInfinityKey = 0x007fffffu;
constexpr uint32_t kLastId = 0xffffffffu;

// An integer of the order of `value`, from that of -inf to that of +inf. Both zeros are equal.
__device__ __forceinline__ uint32_t order_key(float value) {
    if (isnan(value)) return kNanKey;
    const uint32_t bits = __float_as_uint(__fadd_rn(value, 0.0f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float key_value(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

constexpr int kDigitBits = 11;
constexpr int kNumBins = 1 << kDigitBits;
constexpr int kBatch = 4;  // keys a thread asks for before it looks at them

template <int kThreads>
struct SamplingStorage {
    static constexpr int kNumWarps = kThreads / kWarpSize;
    uint32_t low[kNumBins];  // of the amounts of each digit
    uint32_t high[kNumBins];
    uint64_t warp_values[kNumWarps];
    uint64_t above;   // amount of larger digits than the one selected
    uint32_t digit;
};

// Dynamic shared memory: the keys of the row, where they fit.
extern __shared__ uint32_t smem_keys[];

// The logits of a row as keys.
template <bool kInShared>
struct LogitRow {
    const float* logits;
    const uint32_t* allowed;
    const uint32_t* seen;  // null: no penalty
    float penalty;
    int vocab_size;

    __device__ __forceinline__ uint32_t key_of(float logit, int id) const {
        const uint32_t bit = uint32_t(1) << (id % 32);
        if (allowed != nullptr && !(allowed[id / 32] & bit)) return kOut;
        if (seen != nullptr && (seen[id / 32] & bit)) {
            logit = logit > 0.0f ? __fdiv_rn(logit, penalty) : __fmul_rn(logit, penalty);
        }
        return order_key(logit);
    }

    __device__ __forceinline__ uint32_t key(int id) const {
        if constexpr (kInShared) {
            return smem_keys[id];
        } else {
            return key_of(logits[id], id);
        }
    }
};

// Calls f(key, id) for this thread's part of the row: neighbouring threads have neighbouring ids.
template <int kThreads, class Row, class F>
__device__ __forceinline__ void for_each_key(const Row& row, F f) {
#pragma unroll 1
    for (int first = threadIdx.x; first < row.vocab_size; first += kBatch * kThreads) {
        uint32_t keys[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int id = first + i * kThreads;
            keys[i] = id < row.vocab_size ? row.key(id) : kOut;
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            if (keys[i] != kOut) f(keys[i], uint32_t(first + i * kThreads));
        }
    }
}

struct SumOf {
    __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
struct LargerOf {
    __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

template <class Op>
__device__ __forceinline__ uint64_t warp_reduce_u64(uint64_t value) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
        value = Op()(value, __shfl_xor_sync(kFullMask, value, offset));
    }
    return value;
}

// Sum of the values of the lanes up to this one.
__device__ __forceinline__ uint64_t warp_inclusive_sum(uint64_t value) {
#pragma unroll
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
        const uint64_t before = __shfl_up_sync(kFullMask, value, offset);
        if (threadIdx.x % kWarpSize >= offset) value += before;
    }
    return value;
}

// Lane l of every warp gets the value that warp l gives, 0 beyond the warps.
template <int kThreads>
__device__ __forceinline__ uint64_t exchange_warp_values(SamplingStorage<kThreads>& smem, uint64_t value) {
    const int lane_idx = threadIdx.x % kWarpSize;
    __syncthreads();  // what was exchanged before has been read
    if (lane_idx == 0) smem.warp_values[threadIdx.x / kWarpSize] = value;
    __syncthreads();
    return lane_idx < smem.kNumWarps ? smem.warp_values[lane_idx] : 0;
}

template <class Op, int kThreads>
__device__ __forceinline__ uint64_t block_reduce_u64(SamplingStorage<kThreads>& smem, uint64_t value) {
    return warp_reduce_u64<Op>(exchange_warp_values(smem, warp_reduce_u64<Op>(value)));
}

struct Selection {
    uint32_t key;     // kOut: there is less than was wanted
    uint64_t needed;  // of that key
    uint64_t amount;  // of that key
};

// The largest key for which the amounts of it and of all larger ones reach `wanted(total)`, at least 1. `each(add)` calls
// add(key, amount) for this thread's keys, the same at every call.
template <int kThreads, class Each, class Wanted>
__device__ __forceinline__ Selection
    radix_select(SamplingStorage<kThreads>& smem, Each each, Wanted wanted_of_total) {
    constexpr int kThreadBins = kNumBins / kThreads;
    Selection selected{0, 0, 0};
    uint64_t wanted = 0;
#pragma unroll 1
    for (int end = 32; end > 0; end -= kDigitBits) {
        const int shift = max(end - kDigitBits, 0);
        const uint32_t mask = (uint32_t(1) << (end - shift)) - 1;

        // Count the digits of the keys that begin as the one selected
        for (int bin = threadIdx.x; bin < kNumBins; bin += kThreads) smem.low[bin] = smem.high[bin] = 0;
        __syncthreads();
        each([&](uint32_t key, uint64_t amount) {
            if (amount == 0 || (end < 32 && key >> end != selected.key >> end)) return;
            const uint32_t bin = (key >> shift) & mask;
            const uint32_t low = uint32_t(amount), before = atomicAdd(&smem.low[bin], low);
            const uint32_t high = uint32_t(amount >> 32) + (before + low < low ? 1 : 0);
            if (high != 0) atomicAdd(&smem.high[bin], high);
        });
        __syncthreads();

        // Sum them from the largest digit down
        const int last_bin = kNumBins - 1 - threadIdx.x * kThreadBins;
        uint64_t amounts[kThreadBins];
        uint64_t sum = 0;
#pragma unroll
        for (int i = 0; i < kThreadBins; ++i) {
            amounts[i] = uint64_t(smem.high[last_bin - i]) << 32 | smem.low[last_bin - i];
            sum += amounts[i];
        }
        const uint64_t up_to_thread = warp_inclusive_sum(sum);
        const uint64_t of_warp = exchange_warp_values(smem, __shfl_sync(kFullMask, up_to_thread, kWarpSize - 1));
        const uint64_t up_to_warp = warp_inclusive_sum(of_warp);
        const int warp_idx = threadIdx.x / kWarpSize;
        const uint64_t before_warp = __shfl_sync(kFullMask, up_to_warp - of_warp, warp_idx);
        if (end == 32) {
            const uint64_t total = __shfl_sync(kFullMask, up_to_warp, kWarpSize - 1);
            wanted = wanted_of_total(total);
            if (total < wanted) return selected;
        }
        uint64_t above = before_warp + up_to_thread - sum;
#pragma unroll
        for (int i = 0; i < kThreadBins; ++i) {
            if (above < wanted && above + amounts[i] >= wanted) {
                smem.digit = last_bin - i;
                smem.above = above;
            }
            above += amounts[i];
        }
        __syncthreads();
        const uint32_t bin = smem.digit;
        selected.key |= bin << shift;
        selected.amount = uint64_t(smem.high[bin]) << 32 | smem.low[bin];
        wanted -= smem.above;
        __syncthreads();
    }
    selected.needed = wanted;
    return selected;
}

// The first id at which the running sum of amount_of(key, id) exceeds `target(total)`, below the total.
template <int kThreads, class Row, class Amount, class Target>
__device__ __forceinline__ uint32_t find_in_order(
    SamplingStorage<kThreads>& smem, const Row& row, Amount amount_of, Target target_of_total) {
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    const auto amount_at = [&](int id, int end) {
        const uint32_t key = id < end ? row.key(id) : kOut;
        return key != kOut ? amount_of(key, uint32_t(id)) : uint64_t(0);
    };
    int begin = 0, end = row.vocab_size;
    uint64_t target = 0;
#pragma unroll 1
    for (bool is_first = true; is_first || end - begin > kWarpSize; is_first = false) {
        // Divide what is left among the warps
        const int share = (end - begin + kThreads - 1) / kThreads * kWarpSize;
        const int warp_begin = begin + warp_idx * share, warp_end = min(end, warp_begin + share);
        uint64_t sum = 0;
#pragma unroll 4
        for (int first = warp_begin; first < warp_end; first += kWarpSize) {
            sum += amount_at(first + lane_idx, warp_end);
        }
        const uint64_t of_warp = exchange_warp_values(smem, warp_reduce_u64<SumOf>(sum));
        const uint64_t up_to_warp = warp_inclusive_sum(of_warp);
        if (is_first) target = target_of_total(__shfl_sync(kFullMask, up_to_warp, kWarpSize - 1));
        const int found = __ffs(__ballot_sync(kFullMask, up_to_warp > target)) - 1;
        target -= __shfl_sync(kFullMask, up_to_warp - of_warp, found);
        begin += found * share;
        end = min(end, begin + share);
    }
    const uint64_t up_to_lane = warp_inclusive_sum(amount_at(begin + lane_idx, end));
    return begin + __ffs(__ballot_sync(kFullMask, up_to_lane > target)) - 1;
}

// What stays: larger keys, and of equal ones the lower ids.
struct Cut {
    uint32_t key;
    uint32_t last_id;

    __device__ __forceinline__ bool keeps(uint32_t other, uint32_t id) const {
        return other > key || (other == key && id <= last_id);
    }
};

// Draws below +inf. `thread_key` is the largest key of this thread, `best_key` that of all.
template <int kThreads, class Row>
__device__ __forceinline__ uint32_t draw(
    SamplingStorage<kThreads>& smem, const Row& row, const SamplingSettings& s, int position, uint32_t thread_key,
    uint32_t best_key) {
    const float max = key_value(best_key);
    const float inverse_temperature = fminf(s.inverse_temperature, __FLT_MAX__);
    const auto weight = [=](uint32_t key) {
        return fixed_weight(__fmul_rn(__fsub_rn(key_value(key), max), inverse_temperature));
    };
    Cut cut{kOut + 1, kLastId};
    const auto cut_ties = [&](uint32_t key, uint64_t num_kept) {
        const auto is_tie = [&](uint32_t other, uint32_t id) {
            return uint64_t(other == key && cut.keeps(other, id));
        };
        return find_in_order(smem, row, is_tie, [=](uint64_t) { return num_kept - 1; });
    };

    if (s.top_k > 0 && s.top_k < row.vocab_size) {
        const uint64_t k = s.top_k;
        const auto wanted = [=](uint64_t) { return k; };
        // k threads have a key as large as this, so k keys are
        uint32_t least = kOut + 1;
        if (k <= kThreads) {
            const auto each = [=](auto add) { add(thread_key, uint64_t(thread_key != kOut)); };
            least = radix_select(smem, each, wanted).key;
        }
        const auto each = [&](auto add) {
            for_each_key<kThreads>(row, [&](uint32_t key, uint32_t) { add(key, uint64_t(key >= least)); });
        };
        const Selection kth = radix_select(smem, each, wanted);
        if (kth.key != kOut) {
            const uint32_t last_id = kth.needed < kth.amount ? cut_ties(kth.key, kth.needed) : kLastId;
            cut = {kth.key, last_id};
        }
    }
    if (s.top_p != 0) {
        const auto each = [&](auto add) {
            for_each_key<kThreads>(row, [&](uint32_t key, uint32_t id) {
                if (cut.keeps(key, id)) add(key, weight(key));
            });
        };
        // total * top_p / 2^32, rounded up
        const auto wanted = [&](uint64_t total) {
            const uint64_t share = uint64_t(s.top_p) << 32;
            return __umul64hi(total, share) + (total * share != 0 ? 1 : 0);
        };
        const Selection least = radix_select(smem, each, wanted);
        const uint64_t one = weight(least.key);
        const uint64_t num_kept = (least.needed + one - 1) / one;
        if (num_kept * one < least.amount) {
            cut = {least.key, cut_ties(least.key, num_kept)};
        } else if (least.key > cut.key) {
            cut = {least.key, kLastId};
        }
    }

    const uint64_t min_weight = uint64_t(s.min_p) << (kWeightBits - 32);
    const auto amount = [&](uint32_t key, uint32_t id) {
        const uint64_t of_key = cut.keeps(key, id) ? weight(key) : 0;
        return of_key >= min_weight ? of_key : 0;
    };
    return find_in_order(smem, row, amount, [&](uint64_t total) {
        const PhiloxWords random =
            philox_4x32_10({{s.sequence, uint32_t(position), 0, 0}}, s.seed_low, s.seed_high);
        return __umul64hi(uint64_t(random.words[0]) << 32 | random.words[1], total);
    });
}

template <int kThreads, bool kInShared>
__device__ __forceinline__ void sampling(const SamplingParams& p) {
    __shared__ SamplingStorage<kThreads> smem;
    __shared__ SamplingSettings settings;
    __shared__ int position;
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const int row_idx = blockIdx.x;
    constexpr int kSettingsWords = sizeof(SamplingSettings) / 4;
    if (threadIdx.x < kSettingsWords) {
        reinterpret_cast<uint32_t*>(&settings)[threadIdx.x] =
            reinterpret_cast<const uint32_t*>(p.settings + row_idx)[threadIdx.x];
    }
    if (threadIdx.x == kSettingsWords) position = p.positions[row_idx];
    __syncthreads();
    uint32_t* seen = p.seen == nullptr ? nullptr : p.seen + row_idx * ((p.vocab_size + 31) / 32);
    LogitRow<kInShared> row;
    row.logits = p.logits + row_idx * p.vocab_size;
    row.allowed = p.allowed;
    row.seen = settings.repetition_penalty == 1.0f ? nullptr : seen;
    row.penalty = settings.repetition_penalty;
    row.vocab_size = int(p.vocab_size);
    const bool is_greedy = !(settings.inverse_temperature > 0.0f);
    const bool wants_logprob = p.logprobs != nullptr;

    // Read the row: the largest key, and of equal ones the lowest id
    uint64_t best = 0, largest = 0;
#pragma unroll 1
    for (int first = threadIdx.x; first < row.vocab_size; first += 2 * kBatch * kThreads) {
        float logits[2 * kBatch];
#pragma unroll
        for (int i = 0; i < 2 * kBatch; ++i) {
            const int id = first + i * kThreads;
            logits[i] = id < row.vocab_size ? row.logits[id] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 2 * kBatch; ++i) {
            const int id = first + i * kThreads;
            if (id >= row.vocab_size) continue;
            const uint32_t key = row.key_of(logits[i], id);
            best = LargerOf()(best, uint64_t(key) << 32 | ~uint32_t(id));
            if (wants_logprob) largest = LargerOf()(largest, order_key(logits[i]));
            if (kInShared && !is_greedy) smem_keys[id] = key;
        }
    }
    const uint32_t thread_key = best >> 32;
    best = block_reduce_u64<LargerOf>(smem, best);
    const uint32_t best_key = best >> 32;
    uint32_t id = ~uint32_t(best);
    if (best_key == kOut || best_key == kNanKey) {
        id = uint32_t(-1);
    } else if (!is_greedy && best_key != kInfinityKey && best_key != kMinusInfinityKey) {
        id = draw(smem, row, settings, position, thread_key, best_key);
    }

    float logprob = __uint_as_float(0x7fc00000u);  // NaN
    if (wants_logprob) {
        largest = block_reduce_u64<LargerOf>(smem, largest);
        if (id != uint32_t(-1) && largest < kInfinityKey && largest != kMinusInfinityKey) {
            const float max = key_value(uint32_t(largest));
            uint64_t sum = 0;
#pragma unroll 4
            for (int i = threadIdx.x; i < row.vocab_size; i += kThreads) {
                sum += fixed_weight(__fsub_rn(row.logits[i], max));
            }
            sum = block_reduce_u64<SumOf>(smem, sum);
            logprob = row.logits[id] - max - logf(float(sum) * 0x1p-43f);
        }
    }
    __syncthreads();  // the bits of the ids seen have been read
    if (threadIdx.x != 0) return;
    p.ids[row_idx] = id;
    if (wants_logprob) p.logprobs[row_idx] = logprob;
    if (seen != nullptr && id != uint32_t(-1)) seen[id / 32] |= uint32_t(1) << (id % 32);
}

extern "C" __global__ void __launch_bounds__(256, 4) sampling_256(const __grid_constant__ SamplingParams p) {
    sampling<256, true>(p);
}
extern "C" __global__ void __launch_bounds__(1024, 1) sampling_1024(const __grid_constant__ SamplingParams p) {
    sampling<1024, true>(p);
}
extern "C" __global__ void __launch_bounds__(1024, 1)
    sampling_1024_streamed(const __grid_constant__ SamplingParams p) {
    sampling<1024, false>(p);
}
