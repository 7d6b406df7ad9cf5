// Softmax of a row that arrives in pieces (Milakov and Gimelshein 2018, arXiv:1805.02867), in base 2: with the scale
// folded into the exponent, an element costs one FMA and one ex2.
#pragma once

#include "ptx/math.cuh"
#include "reduce.cuh"

// The running state of one row. Its lanes agree on `max`; each has its own part of `sum` until finish().
struct OnlineSoftmax {
    float max = -INFINITY;  // of the scores so far, before the scale
    float sum = 0.0f;       // of exp(scale * (score - max))

    // Takes the row's next scores, of which this lane has score(0 .. kCount) and its kNumLanes neighbours the others,
    // and replaces them by exp(scale * (score - max)). Returns the factor by which what was accumulated so far must
    // be multiplied. Scores of -inf are masked; a row with nothing else keeps weights of 0.
    template <int kCount, int kNumLanes, class Score>
    __device__ __forceinline__ float update(Score score, float scale_log2) {
        float maxima[2] = {max, max};  // two chains: one alone is bound by its latency
#pragma unroll
        for (int i = 0; i < kCount; ++i) maxima[i % 2] = fmaxf(maxima[i % 2], score(i));
        const float new_max = warp_reduce<Max, kNumLanes>(fmaxf(maxima[0], maxima[1]));
        const float shift = new_max == -INFINITY ? 0.0f : new_max * scale_log2;
        // Exactly 1 while the maximum stands, which the rounding of shift would spoil: scores that are all masked then
        // leave no trace, so a row's bits do not depend on how many tiles behind its last key are visited
        const float correction = new_max == max        ? 1.0f
                                 : max == -INFINITY ? 0.0f
                                                    : ptx::ex2_approx_ftz_f32(fmaf(max, scale_log2, -shift));
        float new_sum = sum * correction;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            score(i) = ptx::ex2_approx_ftz_f32(fmaf(score(i), scale_log2, -shift));
            new_sum += score(i);
        }
        max = new_max;
        sum = new_sum;
        return correction;
    }

    // Adds the lanes' sums; returns the factor that turns the accumulated output into the result: 0 for a row that saw
    // no key.
    template <int kNumLanes>
    __device__ __forceinline__ float finish() {
        sum = warp_reduce<Sum, kNumLanes>(sum);
        return sum == 0.0f ? 0.0f : 1.0f / sum;
    }
};
