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

// A strip: the elements of a row that `width` threads move together, kCount each. kWhole: kCount neighbours a thread, in
// one access. Otherwise kCount elements `width` apart, so that neighbouring threads still touch neighbouring elements.
template <bool kWhole, int kCount>
__device__ __forceinline__ int strip_element(int thread_idx, int width, int i) {
    return kWhole ? thread_idx * kCount + i : i * width + thread_idx;
}

// A chunk of 16 bytes as it is stored: the registers of what is only kept or under way.
template <class T>
struct alignas(16) Packed {
    static constexpr int kCount = kVectorLength<T>;
    uint32_t words[4];

    __device__ __forceinline__ void unpack(float (&values)[kCount]) const {
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            if constexpr (sizeof(T) == 4) {
                values[w] = __uint_as_float(words[w]);
            } else {
                values[2 * w] = to_float(T{uint16_t(words[w])});
                values[2 * w + 1] = to_float(T{uint16_t(words[w] >> 16)});
            }
        }
    }

    // Rounds to T.
    static __device__ __forceinline__ Packed pack(const float (&values)[kCount]) {
        Packed packed;
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            if constexpr (sizeof(T) == 4) {
                packed.words[w] = __float_as_uint(values[w]);
            } else {
                packed.words[w] = pack2<T>(values[2 * w], values[2 * w + 1]);
            }
        }
        return packed;
    }
};

// Reads this thread's part of the strip that begins at `strip` and whose row ends `valid` elements on; 0 beyond.
template <bool kWhole, int kCount, class T>
__device__ __forceinline__ void load_strip(
    float (&values)[kCount], const T* strip, int thread_idx, int width, int valid) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = 0.0f;
    if constexpr (kWhole) {
        if (thread_idx * kCount < valid) load_chunk<true>(values, strip + thread_idx * kCount, valid);
    } else {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int element = strip_element<false, kCount>(thread_idx, width, i);
            if (element < valid) values[i] = to_float(strip[element]);
        }
    }
}

// The same, as it is stored.
template <bool kWhole, class T>
__device__ __forceinline__ Packed<T> load_packed_strip(const T* strip, int thread_idx, int width, int valid) {
    if constexpr (kWhole) {
        Packed<T> packed{};
        const int element = thread_idx * kVectorLength<T>;
        if (element < valid) packed = *reinterpret_cast<const Packed<T>*>(strip + element);
        return packed;
    } else {
        float values[kVectorLength<T>];
        load_strip<false>(values, strip, thread_idx, width, valid);
        return Packed<T>::pack(values);
    }
}

// Writes this thread's part of a strip, rounding to T.
template <bool kWhole, int kCount, class T>
__device__ __forceinline__ void store_strip(
    T* strip, const float (&values)[kCount], int thread_idx, int width, int valid) {
    if constexpr (kWhole) {
        if (thread_idx * kCount < valid) store_chunk<true>(strip + thread_idx * kCount, values, valid);
    } else {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int element = strip_element<false, kCount>(thread_idx, width, i);
            if (element < valid) strip[element] = from_float<T>(values[i]);
        }
    }
}
