// What the matrix products over the vocabulary leave behind: partial results of each row over tiles of 128 ids, which
// lm_head_reduce.cu merges.
#pragma once

#include <cstdint>

#include "reduce.cuh"
#include "types.cuh"

constexpr int kVocabTile = 128;
constexpr int kColumnsPerLane = kVocabTile / kWarpSize;
constexpr int kNoId = 0x7fffffff;  // loses against every id

// Partial results of one row over one vocabulary tile, in planes of [num_rows, num_vocab_tiles].
enum Plane { kArgmaxLogit, kArgmaxId, kMaxLogit, kSumExp, kTargetLogit };

struct LmHeadReduction {
    const int32_t* targets;  // [num_rows]; null without cross-entropy
    float* losses;           // [num_rows]
    int32_t* argmax;         // [num_rows]; null if not asked for
    float* partials;         // [5, num_rows, num_vocab_tiles]; null if only logits are asked for
    int32_t num_rows;
    int32_t vocab_size;
    int32_t allowed_vocab;
    int32_t ignore_index;

    __device__ __forceinline__ float& partial(Plane plane, int row, int vocab_tile) const {
        const int64_t num_vocab_tiles = ceil_div(vocab_size, kVocabTile);
        return partials[(plane * static_cast<int64_t>(num_rows) + row) * num_vocab_tiles + vocab_tile];
    }
};

// What is taken out of the exponent: infinities must not meet as inf - inf.
__device__ __forceinline__ float exponent_shift(float max_logit) { return isinf(max_logit) ? 0.0f : max_logit; }
