// What a consumer warpgroup of the Hopper attention does with a tile of 64 queries, and the shared memory it shares with
// the producer.
#pragma once

#include <cstdint>

#include "online_softmax.cuh"
#include "ptx/special.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "wgmma_config.cuh"

template <class T_, int kHeadDim_, int kNumConsumers_, int kNumStages_>
struct WgmmaAttentionConfig {
    using T = T_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kNumConsumers = kNumConsumers_;
    static constexpr int kNumStages = kNumStages_;  // of keys, and as many of values
    static constexpr int kBlockM = 64 * kNumConsumers;
    static constexpr int kBlockN = 128;
    static constexpr int kNumPanels = kHeadDim / kPanelColumns;
    static constexpr int kNumThreads = (kNumConsumers + 1) * static_cast<int>(kWarpgroupThreads);
    // Registers a thread: scores 64, weights 32, output 32 or 64.
    static constexpr int kProducerRegisters = kNumConsumers == 3 ? 32 : 40;
    static constexpr int kConsumerRegisters = kNumConsumers == 3 ? 160 : 232;
    static_assert(kHeadDim % kPanelColumns == 0 && kBlockN % 16 == 0);
    static_assert(kNumStages == 2 || kNumStages == 4, "rounds are counted modulo 2^32");
    static_assert(kConsumerRegisters * kNumConsumers + kProducerRegisters <= 65536 / static_cast<int>(kWarpgroupThreads));
};

template <class Config>
struct WgmmaAttentionBarriers {
    uint64_t q_full;
    uint64_t q_empty;
    uint64_t k_full[Config::kNumStages];
    uint64_t k_empty[Config::kNumStages];
    uint64_t v_full[Config::kNumStages];
    uint64_t v_empty[Config::kNumStages];
    uint64_t turn[Config::kNumConsumers];  // consumer i may issue products

    // By one thread.
    __device__ __forceinline__ void init() {
        ptx::mbarrier_init(&q_full, 1);
        ptx::mbarrier_init(&q_empty, Config::kNumConsumers);
        for (int stage = 0; stage < Config::kNumStages; ++stage) {
            ptx::mbarrier_init(&k_full[stage], 1);
            ptx::mbarrier_init(&k_empty[stage], Config::kNumConsumers);
            ptx::mbarrier_init(&v_full[stage], 1);
            ptx::mbarrier_init(&v_empty[stage], Config::kNumConsumers);
        }
        for (uint64_t& barrier : turn) ptx::mbarrier_init(&barrier, 1);
    }
};

// Panels of 64 columns, 128 bytes a row, in the copy engine's swizzle.
template <class Config>
struct alignas(1024) WgmmaAttentionShared {
    using T = typename Config::T;
    struct Block {
        T panels[Config::kNumPanels][Config::kBlockN * kPanelColumns];
    };
    T q[Config::kNumPanels][Config::kBlockM * kPanelColumns];
    Block k[Config::kNumStages];
    Block v[Config::kNumStages];
    T out[Config::kNumConsumers][Config::kNumPanels][64 * kPanelColumns];
    WgmmaAttentionBarriers<Config> barriers;
};

// Which keys the queries see.
struct AttentionSequence {
    int32_t seq_len;
    int32_t kv_len;

    // The last query stands at the last key.
    __device__ __forceinline__ int visible_keys(int row) const { return min(kv_len - seq_len + row + 1, kv_len); }

    // Blocks of keys that any of these queries sees; none for rows behind the last.
    template <class Config>
    __device__ __forceinline__ int num_blocks(int first_row, int num_rows) const {
        if (first_row >= seq_len) return 0;
        return ceil_div(visible_keys(first_row + num_rows - 1), Config::kBlockN);
    }
};

template <class Config>
class AttentionConsumer {
    using T = typename Config::T;
    using Shared = WgmmaAttentionShared<Config>;
    static constexpr int kBlockN = Config::kBlockN;
    static constexpr int kNumConsumers = Config::kNumConsumers;

   public:
    __device__ __forceinline__ AttentionConsumer(Shared& smem, int warpgroup_idx, float softmax_scale_log2)
        : smem_(smem), warpgroup_idx_(warpgroup_idx), softmax_scale_log2_(softmax_scale_log2) {}

    // Computes this consumer's 64 rows of a tile that takes num_tile_blocks blocks of keys.
    __device__ __forceinline__ void run(const AttentionSequence& sequence, int first_row, int num_tile_blocks) {
        const int num_blocks = sequence.template num_blocks<Config>(first_row, 64);
        const int num_unmasked = sequence.visible_keys(first_row) / kBlockN;
        softmax_[0] = softmax_[1] = OnlineSoftmax{};
#pragma unroll
        for (float& sum : out_) sum = 0.0f;

        // Wait for the queries, and let blocks pass that only consumers further down see.
        ptx::mbarrier_wait_parity(&smem_.barriers.q_full, q_phase_);
        q_phase_ ^= 1;
        for (int block = num_tile_blocks - 1; block >= num_blocks; --block) pass();
        if (num_blocks > 0) {
            // The first block has no products with values to run under.
            int block = num_blocks - 1;
            take_turn();
            issue_scores();
            pass_turn();
            ptx::wgmma_wait_group<0>();
            take_scores<true>(sequence, first_row, block);
            rescale_and_pack();
            ++round_;
            for (--block; block >= num_unmasked; --block) step<true>(sequence, first_row, block);
#pragma unroll 1
            for (; block >= 0; --block) step<false>(sequence, first_row, block);
        }
        arrive(smem_.barriers.q_empty);
        if (num_blocks > 0) {
            issue_output();
            ptx::wgmma_wait_group<0>();
            take_output();
        }
    }

    // Normalises the rows and hands them to the copy engine.
    __device__ __forceinline__ void store(
        const TensorMap& map_out, const AttentionSequence& sequence, int head, int first_row, int batch) {
        if (first_row >= sequence.seq_len) return;
        const float factors[2] = {softmax_[0].template finish<4>(), softmax_[1].template finish<4>()};
        // Wait until the engine has read what the tile before left.
        if (thread() == 0) ptx::bulk_wait_group_read<0>();
        sync_consumer();
        const int lane_idx = thread() % kWarpSize;
        const int row = thread() / kWarpSize * 16 + lane_idx % 16;
#pragma unroll
        for (int panel = 0; panel < Config::kNumPanels; ++panel) {
            T* smem_row = smem_.out[warpgroup_idx_][panel] + row * kPanelColumns;
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                uint32_t packed[4];
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const float* sums = &out_[panel * 32 + pair * 8 + 2 * r];
                    packed[r] = pack2<T>(sums[0] * factors[r % 2], sums[1] * factors[r % 2]);
                }
                ptx::stmatrix_x4(smem_row + ((2 * pair + lane_idx / 16) ^ (lane_idx % 8)) * 8, packed);
            }
        }
        ptx::fence_proxy_async_shared();
        sync_consumer();
        if (thread() == 0) {
#pragma unroll
            for (int panel = 0; panel < Config::kNumPanels; ++panel) {
                ptx::tma_store_4d(
                    map_out, smem_.out[warpgroup_idx_][panel], panel * kPanelColumns, head, first_row, batch);
            }
            ptx::bulk_commit_group();
        }
    }

    // After the last tile: shared memory stays until the engine has read it.
    __device__ __forceinline__ void finish() {
        if (thread() == 0) ptx::bulk_wait_group_read<0>();
    }

   private:
    static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x % kWarpgroupThreads); }
    // Barrier 0 is __syncthreads's.
    __device__ __forceinline__ void sync_consumer() { ptx::bar_sync(1 + warpgroup_idx_, kWarpgroupThreads); }
    static __device__ __forceinline__ void arrive(uint64_t& barrier) {
        if (thread() == 0) ptx::mbarrier_arrive(&barrier);
    }

    // Round n takes the n-th block of keys that came through the ring, and the values of the round before.
    static __device__ __forceinline__ uint32_t stage_of(uint32_t round) { return round % Config::kNumStages; }
    static __device__ __forceinline__ uint32_t phase_of(uint32_t round) { return round / Config::kNumStages % 2; }

    __device__ __forceinline__ void take_turn() {
        // The first consumer's first turn waits for nobody.
        ptx::mbarrier_wait_parity(
            &smem_.barriers.turn[warpgroup_idx_], (round_ + (warpgroup_idx_ == 0 ? 1 : 0)) % 2);
    }
    __device__ __forceinline__ void pass_turn() {
        arrive(smem_.barriers.turn[warpgroup_idx_ + 1 == kNumConsumers ? 0 : warpgroup_idx_ + 1]);
    }

    // Lets a block of keys and values pass. A stage is given back only after it was full: before, the arrival would count
    // for the stage's use ahead of this one. One warp waits for all: no product keeps the four together here, and a warp
    // that fell behind by two uses of a stage could not tell them apart by their parity.
    __device__ __forceinline__ void pass() {
        if (thread() < kWarpSize) {
            take_turn();
            pass_turn();
            const uint32_t stage = stage_of(round_), phase = phase_of(round_);
            ptx::mbarrier_wait_parity(&smem_.barriers.k_full[stage], phase);
            arrive(smem_.barriers.k_empty[stage]);
            ptx::mbarrier_wait_parity(&smem_.barriers.v_full[stage], phase);
            arrive(smem_.barriers.v_empty[stage]);
        }
        ++round_;
    }

    // One block: its scores, and the output of the block before.
    template <bool kIsMasked>
    __device__ __forceinline__ void step(const AttentionSequence& sequence, int first_row, int block) {
        take_turn();
        issue_scores();
        issue_output();
        pass_turn();
        ptx::wgmma_wait_group<1>();
        take_scores<kIsMasked>(sequence, first_row, block);
        // Sums of exponentials are not negative: nothing is stored. But ptxas may not wait for the output before this,
        // as it otherwise does, and the exponentials run under the products.
        ptx::st_shared_if_negative(smem_.q[0], softmax_[0].sum + softmax_[1].sum);
        ptx::wgmma_wait_group<0>();
        take_output();
        rescale_and_pack();
        ++round_;
    }

    // scores = q · k^T
    __device__ __forceinline__ void issue_scores() {
        // Out of one lane: ptxas then knows it to be uniform, and keeps the descriptors in uniform registers.
        const uint32_t stage = __shfl_sync(kFullMask, stage_of(round_), 0);
        ptx::mbarrier_wait_parity(&smem_.barriers.k_full[stage], phase_of(round_));
        ptx::wgmma_fence();
        const uint64_t q = ptx::advance_descriptor(
            ptx::matrix_descriptor_128b(smem_.q[0]), warpgroup_idx_ * 64 * kPanelColumns * sizeof(T));
        const uint64_t k =
            ptx::advance_descriptor(ptx::matrix_descriptor_128b(smem_.k), stage * sizeof(smem_.k[0]));
#pragma unroll
        for (int step = 0; step < Config::kHeadDim / 16; ++step) {
            const int panel = step / 4, column_bytes = step % 4 * 32;
            const uint64_t a = ptx::advance_descriptor(q, panel * sizeof(smem_.q[0]) + column_bytes);
            const uint64_t b = ptx::advance_descriptor(k, panel * sizeof(smem_.k[0].panels[0]) + column_bytes);
            if constexpr (T::kIsBf16) {
                ptx::wgmma_m64k16_bf16(scores_, a, b, step > 0);
            } else {
                ptx::wgmma_m64k16_f16(scores_, a, b, step > 0);
            }
        }
        ptx::wgmma_commit_group();
    }

    // out += weights · v
    __device__ __forceinline__ void issue_output() {
        const uint32_t stage = __shfl_sync(kFullMask, stage_of(round_ - 1), 0);
        ptx::mbarrier_wait_parity(&smem_.barriers.v_full[stage], phase_of(round_ - 1));
        ptx::wgmma_fence();
        // Values are [key, column]: columns, which are N, are contiguous; blocks of 64 of them stand in panels.
        const uint64_t v = ptx::advance_descriptor(
            ptx::matrix_descriptor_128b(smem_.v, sizeof(smem_.v[0].panels[0])), stage * sizeof(smem_.v[0]));
#pragma unroll
        for (int step = 0; step < kBlockN / 16; ++step) {
            const uint64_t b = ptx::advance_descriptor(v, step * 16 * kPanelColumns * sizeof(T));
            if constexpr (T::kIsBf16) {
                ptx::wgmma_m64k16_bf16<true>(out_, weights_[step], b, true);
            } else {
                ptx::wgmma_m64k16_f16<true>(out_, weights_[step], b, true);
            }
        }
        ptx::wgmma_commit_group();
    }

    // The scores have come: gives the keys back, and turns scores into weights.
    template <bool kIsMasked>
    __device__ __forceinline__ void take_scores(const AttentionSequence& sequence, int first_row, int block) {
        ptx::wgmma_fence_registers(scores_);
        arrive(smem_.barriers.k_empty[stage_of(round_)]);
        const int lane_idx = thread() % kWarpSize;
        if constexpr (kIsMasked) {
            const int row = first_row + thread() / kWarpSize * 16 + lane_idx / 4;
            const int first_key = block * kBlockN + lane_idx % 4 * 2;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int visible = sequence.visible_keys(row + 8 * half) - first_key;
#pragma unroll
                for (int i = 0; i < kBlockN / 4; ++i) {
                    if (i / 2 * 8 + i % 2 >= visible) scores_[i / 2 * 4 + 2 * half + i % 2] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const auto score = [&](int i) -> float& { return scores_[i / 2 * 4 + 2 * half + i % 2]; };
            corrections_[half] = softmax_[half].template update<kBlockN / 4, 4>(score, softmax_scale_log2_);
        }
    }

    // The output has come: gives the values back.
    __device__ __forceinline__ void take_output() {
        ptx::wgmma_fence_registers(out_);
        arrive(smem_.barriers.v_empty[stage_of(round_ - 1)]);
    }

    // Brings the output to the new maxima, and the weights into the shape of an operand: two blocks of eight columns of
    // sums are one operand of 16.
    __device__ __forceinline__ void rescale_and_pack() {
#pragma unroll
        for (int i = 0; i < Config::kHeadDim / 2; ++i) out_[i] *= corrections_[i / 2 % 2];
#pragma unroll
        for (int step = 0; step < kBlockN / 16; ++step) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                weights_[step][r] = pack2<T>(scores_[step * 8 + 2 * r], scores_[step * 8 + 2 * r + 1]);
            }
        }
    }

    Shared& smem_;
    int warpgroup_idx_;  // the same in all lanes, and known to be so
    float softmax_scale_log2_;
    uint32_t round_ = 0;
    uint32_t q_phase_ = 0;

    OnlineSoftmax softmax_[2];              // rows t / 4 and t / 4 + 8 of the warp's 16
    float corrections_[2];                  // what the output is multiplied by for the latest block
    float scores_[kBlockN / 2];             // of a block, then its weights
    uint32_t weights_[kBlockN / 16][4];     // of the block before, as operands
    float out_[Config::kHeadDim / 2];
};
