// Softmax weights as integers, so that sums do not depend on their order and two machines draw the same id.
#pragma once

#include <cstdint>

// A weight of 1. The 2^20 ids of the largest vocabulary sum to 2^63 at most. A weight of 2^-44 and more counts; those
// below together are less than 2^-24 of the total, the rounding of one f32.
constexpr int kWeightBits = 43;
constexpr uint64_t kWeightOne = uint64_t(1) << kWeightBits;

// exp(x) * 2^43 for x <= 0, to the nearest integer (halves up); 0 for NaN. Every operation is one of IEEE f32 or of
// integers, none may be contracted: src/cpu/sampling.rs does the same. Within 2 ulp of exp.
__device__ __forceinline__ uint64_t fixed_weight(float x) {
    if (!(x >= -30.5f)) return 0;  // exp(-30.5) is below half of 2^-43

    // x = n ln 2 + r; adding 1.5 * 2^23 rounds to a whole number
    const float n = __fsub_rn(__fmaf_rn(x, 1.44269504f, 12582912.0f), 12582912.0f);
    float r = __fmaf_rn(n, -0.693147182f, x);
    r = __fmaf_rn(n, 1.90465432e-9f, r);
    // exp(r) by Cephes' polynomial (Moshier 1992)
    float p = __fmaf_rn(1.9875691500e-4f, r, 1.3981999507e-3f);
    p = __fmaf_rn(p, r, 8.3334519073e-3f);
    p = __fmaf_rn(p, r, 4.1665795894e-2f);
    p = __fmaf_rn(p, r, 1.6666665459e-1f);
    p = __fmaf_rn(p, r, 5.0000001201e-1f);
    p = __fmaf_rn(p, __fmul_rn(r, r), r);
    const uint32_t bits = __float_as_uint(__fadd_rn(p, 1.0f));

    // 24 bits of significand at the top, down by as much as the exponent is below; 18 to 63 places
    const int exponent = int(n) + int(bits >> 23) - 127;
    const uint64_t significand = uint64_t((bits & 0x7fffffu) | 0x800000u) << 38;
    const int shift = 38 + 23 - kWeightBits - exponent;
    return (significand + (uint64_t(1) << (shift - 1))) >> shift;
}
