// A chunk: a few consecutive elements of one row, held in registers as f32.
// kWhole: every row starts at a multiple of 16 bytes and consists of whole chunks, so a chunk moves in accesses of up to
// 16 bytes and nothing is guarded. Otherwise it goes element by element, and elements past the row read 0.
#pragma once

#include "types.cuh"

// Elements of T in the widest access.
template <class T>
constexpr int kVectorLength = 16 / sizeof(T);

// Reads source[0, valid).
template <bool kWhole, int kCount, class T>
__device__ __forceinline__ void load_chunk(float (&values)[kCount], const T* source, int valid) {
    if constexpr (kWhole) {
        constexpr int kSize = kCount < kVectorLength<T> ? kCount : kVectorLength<T>;
#pragma unroll
        for (int first = 0; first < kCount; first += kSize) {
            float part[kSize];
            load_vec(part, source + first);
#pragma unroll
            for (int i = 0; i < kSize; ++i) values[first + i] = part[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < kCount; ++i) values[i] = i < valid ? to_float(source[i]) : 0.0f;
    }
}

// Writes target[0, valid), rounding to T.
template <bool kWhole, int kCount, class T>
__device__ __forceinline__ void store_chunk(T* target, const float (&values)[kCount], int valid) {
    static_assert(kCount <= kVectorLength<T>);
    if constexpr (kWhole) {
        store_vec(target, values);
    } else {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            if (i < valid) target[i] = from_float<T>(values[i]);
        }
    }
}
