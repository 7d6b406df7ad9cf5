// Random numbers by counter: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
#pragma once

#include <cstdint>

struct PhiloxWords {
    uint32_t words[4];
};

// Ten rounds over `counter` under `key`.
__device__ __forceinline__ PhiloxWords philox_4x32_10(PhiloxWords counter, uint32_t key_low, uint32_t key_high) {
    uint32_t(&c)[4] = counter.words;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
        const uint32_t high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
        c[0] = high1 ^ c[1] ^ key_low;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key_high;
        c[3] = low0;
        key_low += 0x9E3779B9u;
        key_high += 0xBB67AE85u;
    }
    return counter;
}

// A normal deviate for (row, column) of a matrix, by Box and Muller, from words w of counter (row, column, 0, 0) under
// the seed's low and high half:
//     u = ((w0 >> 8) + 1) / 2^24    v = (w1 >> 8) / 2^24    sqrt(-2 ln u) * cos(2 pi v)
__device__ __forceinline__ float philox_normal(uint64_t seed, uint32_t row, uint32_t column) {
    const PhiloxWords w = philox_4x32_10({{row, column, 0, 0}}, uint32_t(seed), uint32_t(seed >> 32));
    const float u = float((w.words[0] >> 8) + 1) * 0x1p-24f;
    const float v = float(w.words[1] >> 8) * 0x1p-24f;
    return sqrtf(-2.0f * logf(u)) * cospif(2.0f * v);
}
