// What the matrix products over the vocabulary left of each row, merged over its tiles of 128 ids:
//     argmax[r] = id of the largest logit, lowest on ties, -1 where there is a NaN
//     losses[r] = logsumexp(logits[r, :]) - logits[r, targets[r]]
// partials: planes of [num_rows, num_vocab_tiles] (vocab_partials.cuh)    argmax, losses, targets: [num_rows]
// A warp a row. Memory bound: up to 5 floats for each 128 logits, a thousandth of the product before it.
// Launcher: src/kernels/lm_head.rs
#include "ptx/griddep.cuh"
#include "vocab_partials.cuh"

constexpr int kReduceThreads = 128;

// Merges the partial results of one row a warp: lane l takes tiles l, l + 32, ..., then the lanes merge.
extern "C" __global__ void __launch_bounds__(kReduceThreads)
    lm_head_reduce(const __grid_constant__ LmHeadReduction params) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const int row = blockIdx.x * (kReduceThreads / kWarpSize) + threadIdx.x / kWarpSize;
    const int lane_idx = threadIdx.x % kWarpSize;
    const int num_vocab_tiles = ceil_div(params.vocab_size, kVocabTile);
    if (row >= params.num_rows) return;

    if (params.argmax != nullptr) {
        float best_logit = Max::kIdentity;
        int best_id = kNoId;
        bool has_nan = false;
        for (int vocab_tile = lane_idx; vocab_tile < num_vocab_tiles; vocab_tile += kWarpSize) {
            const float logit = params.partial(kArgmaxLogit, row, vocab_tile);
            const int id = __float_as_int(params.partial(kArgmaxId, row, vocab_tile));
            has_nan |= id < 0;
            if (logit > best_logit || (logit == best_logit && id < best_id)) {
                best_logit = logit;
                best_id = id;
            }
        }
#pragma unroll
        for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
            const float logit = __shfl_xor_sync(kFullMask, best_logit, offset);
            const int id = __shfl_xor_sync(kFullMask, best_id, offset);
            if (logit > best_logit || (logit == best_logit && id < best_id)) {
                best_logit = logit;
                best_id = id;
            }
        }
        has_nan = __any_sync(kFullMask, has_nan);
        if (lane_idx == 0) params.argmax[row] = has_nan ? -1 : best_id;
    }

    if (params.targets != nullptr) {
        float max_logit = Max::kIdentity;
        for (int vocab_tile = lane_idx; vocab_tile < num_vocab_tiles; vocab_tile += kWarpSize) {
            max_logit = fmaxf(max_logit, params.partial(kMaxLogit, row, vocab_tile));
        }
        const float shift = exponent_shift(warp_reduce<Max>(max_logit));
        float sum_exp = 0.0f;
        for (int vocab_tile = lane_idx; vocab_tile < num_vocab_tiles; vocab_tile += kWarpSize) {
            const float tile_shift = exponent_shift(params.partial(kMaxLogit, row, vocab_tile));
            sum_exp += params.partial(kSumExp, row, vocab_tile) * expf(tile_shift - shift);
        }
        sum_exp = warp_reduce<Sum>(sum_exp);
        if (lane_idx == 0) {
            const int target = params.targets[row];
            float loss = 0.0f;
            if (target != params.ignore_index) {
                const bool exists = target >= 0 && target < params.vocab_size;
                loss = exists ? shift + logf(sum_exp) - params.partial(kTargetLogit, row, target / kVocabTile)
                              : __int_as_float(0x7fc00000);  // NaN
            }
            params.losses[row] = loss;
        }
    }
}
