// Over the vocabulary, for chosen rows of x:
//     logits[r, :] = x[rows[r], :] * weight^T + bias        weight: [vocab_size, hidden_size]
//     argmax[r]    = lowest id of the largest logit among ids < allowed_vocab; -1 if one of those is NaN
//     losses[r]    = logsumexp(logits[r, :]) - logits[r, targets[r]]; 0 where the target is ignore_index
// x, weight: f32, bf16 or f16    logits, losses, bias: f32    rows, argmax, targets: i32 [num_rows]
// The epilogue reduces each row over its tile of 128 ids while the logits are on the chip, and lm_head_reduce merges the
// tiles' partial results; logits go to memory only if asked for. Both tiles are 128 ids wide and reduce in one
// fixed order, so a row's results do not depend on how many rows there are.
// Launcher: src/kernels/lm_head.rs
#include "gemm_configs.cuh"
#include "vocab_partials.cuh"

template <class T>
struct LmHeadParams {
    GemmOperands<T> operands;
    const float* bias;  // [vocab_size]; null for none
    float* logits;      // [num_rows, vocab_size]; null if not asked for
    LmHeadReduction reduction;
};

// Stores logits and leaves partial results. A warp takes whole rows, several at once to overlap their shuffles; a lane
// takes every 32nd column, so that stores are whole lines however odd the vocabulary is.
struct LmHeadEpilogue {
    const float* bias;
    float* logits;
    const LmHeadReduction& reduction;

    template <class Config>
    __device__ __forceinline__ void run(const float* smem_accum, const Tile& tile) const {
        static_assert(Config::kBlockN == kVocabTile);
        constexpr int kNumWarps = Config::kNumThreads / kWarpSize;
        constexpr int kRows = Config::kBlockM / kNumWarps < 4 ? Config::kBlockM / kNumWarps : 4;
        static_assert(Config::kBlockM % (kNumWarps * kRows) == 0);
        const int warp_idx = threadIdx.x / kWarpSize;
        const int lane_idx = threadIdx.x % kWarpSize;
        const int first_id = tile.column_begin + lane_idx;

        float lane_bias[kColumnsPerLane] = {};
        if (bias != nullptr) {
#pragma unroll
            for (int j = 0; j < kColumnsPerLane; ++j) {
                const int id = first_id + j * kWarpSize;
                if (id < reduction.vocab_size) lane_bias[j] = bias[id];
            }
        }

#pragma unroll 1
        for (int row_in_tile = warp_idx * kRows; row_in_tile < Config::kBlockM; row_in_tile += kNumWarps * kRows) {
            const int row = tile.row_begin + row_in_tile;
            if (row >= tile.row_end) break;
            float values[kRows][kColumnsPerLane];
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
#pragma unroll
                for (int j = 0; j < kColumnsPerLane; ++j) {
                    const int id = first_id + j * kWarpSize;
                    const float sum =
                        smem_accum[(row_in_tile + i) * Config::kAccumStride + lane_idx + j * kWarpSize];
                    const bool exists = id < reduction.vocab_size;
                    values[i][j] = exists ? sum + lane_bias[j] : Max::kIdentity;
                    if (logits != nullptr && exists && row + i < tile.row_end) {
                        logits[static_cast<int64_t>(row + i) * reduction.vocab_size + id] = values[i][j];
                    }
                }
            }
            if (reduction.partials == nullptr) continue;
#pragma unroll
            for (int i = 0; i < kRows; ++i) reduce_row(values[i], row + i, tile, first_id);
        }
    }

   private:
    // One row's partial results. Rows beyond the last are reduced too, all lanes in step, but not stored.
    __device__ __forceinline__ void reduce_row(
        const float (&values)[kColumnsPerLane], int row, const Tile& tile, int first_id) const {
        float lane_max = Max::kIdentity;
        float lane_allowed_max = Max::kIdentity;
        bool lane_has_nan = false;
#pragma unroll
        for (int j = 0; j < kColumnsPerLane; ++j) {
            const bool is_allowed = first_id + j * kWarpSize < reduction.allowed_vocab;
            lane_max = fmaxf(lane_max, values[j]);
            if (is_allowed) lane_allowed_max = fmaxf(lane_allowed_max, values[j]);
            lane_has_nan |= is_allowed && isnan(values[j]);
        }
        const float max_logit = warp_reduce<Max>(lane_max);

        float lane_sum = 0.0f;
#pragma unroll
        for (int j = 0; j < kColumnsPerLane; ++j) lane_sum += expf(values[j] - exponent_shift(max_logit));
        const float sum_exp = warp_reduce<Sum>(lane_sum);

        // The first id that has the largest allowed logit: columns of a smaller j come before all of a larger one.
        const float argmax_logit = warp_reduce<Max>(lane_allowed_max);
        int argmax_id = kNoId;
#pragma unroll
        for (int j = kColumnsPerLane - 1; j >= 0; --j) {
            const bool is_allowed = first_id + j * kWarpSize < reduction.allowed_vocab;
            const uint32_t lanes = __ballot_sync(kFullMask, is_allowed && values[j] == argmax_logit);
            if (lanes != 0) argmax_id = tile.column_begin + j * kWarpSize + __ffs(static_cast<int>(lanes)) - 1;
        }
        if (__any_sync(kFullMask, lane_has_nan)) argmax_id = -1;

        if (row >= tile.row_end) return;
        const int vocab_tile = tile.column_begin / kVocabTile;
        if (threadIdx.x % kWarpSize == 0) {
            reduction.partial(kArgmaxLogit, row, vocab_tile) = argmax_logit;
            reduction.partial(kArgmaxId, row, vocab_tile) = __int_as_float(argmax_id);
            reduction.partial(kMaxLogit, row, vocab_tile) = max_logit;
            reduction.partial(kSumExp, row, vocab_tile) = sum_exp;
        }
        if (reduction.targets != nullptr) {
            const int target = reduction.targets[row];
#pragma unroll
            for (int j = 0; j < kColumnsPerLane; ++j) {
                const int id = first_id + j * kWarpSize;
                if (id == target && id < reduction.vocab_size) {
                    reduction.partial(kTargetLogit, row, vocab_tile) = values[j];
                }
            }
        }
    }
};

template <class Config>
__device__ __forceinline__ void lm_head_kernel(const LmHeadParams<typename Config::T>& params) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const DenseScheduler<Config::kBlockM, Config::kBlockN> scheduler(params.operands.m, params.operands.n);
    const LmHeadEpilogue epilogue{params.bias, params.logits, params.reduction};
    gemm<Config>(params.operands, scheduler, epilogue);
}

#define DEFINE_LM_HEAD(dtype, T, tile)                                                                   \
    extern "C" __global__ void __launch_bounds__(Tile##tile<T>::kNumThreads, Tile##tile<T>::kMinBlocks)  \
        lm_head_##dtype##_##tile(const __grid_constant__ LmHeadParams<T> params) {                       \
        lm_head_kernel<Tile##tile<T>>(params);                                                           \
    }

DEFINE_LM_HEAD(f32, float, 128x128)
DEFINE_LM_HEAD(f32, float, 16x128)
DEFINE_LM_HEAD(bf16, Bf16, 128x128)
DEFINE_LM_HEAD(bf16, Bf16, 16x128)
DEFINE_LM_HEAD(f16, F16, 128x128)
DEFINE_LM_HEAD(f16, F16, 16x128)
