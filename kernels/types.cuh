// Storage types and their way to and from f32, in which everything is computed.
#pragma once

#include <cstdint>

#include "ptx/cvt.cuh"

// bfloat16 and IEEE binary16 as bits: nothing is computed in them.
struct Bf16 {
    static constexpr bool kIsBf16 = true;
    uint16_t bits;
};
struct F16 {
    static constexpr bool kIsBf16 = false;
    uint16_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Bf16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float to_float(F16 value) { return ptx::cvt_f32_f16(value.bits); }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ Bf16 from_float<Bf16>(float value) {
    return Bf16{ptx::cvt_rn_bf16_f32(value)};
}
template <>
__device__ __forceinline__ F16 from_float<F16>(float value) {
    return F16{ptx::cvt_rn_f16_f32(value)};
}

// Two neighbouring elements in 32 bits, the first in the lower half: what mma.sync takes.
template <class T>
__device__ __forceinline__ uint32_t pack2(float first, float second);
template <>
__device__ __forceinline__ uint32_t pack2<Bf16>(float first, float second) {
    return ptx::cvt_rn_bf16x2_f32(first, second);
}
template <>
__device__ __forceinline__ uint32_t pack2<F16>(float first, float second) {
    return ptx::cvt_rn_f16x2_f32(first, second);
}

// `kSize` neighbouring elements that move as one access of sizeof(Vec) bytes: a power of two up to 16.
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Vec {
    T values[kSize];
    static_assert(sizeof(T) * kSize <= 16, "no access is wider than 16 bytes");
};

// The widest vector of T: 16 bytes.
template <class T>
using Vec16 = Vec<T, 16 / sizeof(T)>;

// Reads Vec<T, kSize> in one access. `pointer` is aligned to its size.
template <int kSize, class T>
__device__ __forceinline__ void load_vec(float (&values)[kSize], const T* pointer) {
    const Vec<T, kSize> vec = *reinterpret_cast<const Vec<T, kSize>*>(pointer);
#pragma unroll
    for (int i = 0; i < kSize; ++i) values[i] = to_float(vec.values[i]);
}

// Writes Vec<T, kSize> in one access. `pointer` is aligned to its size.
template <int kSize, class T>
__device__ __forceinline__ void store_vec(T* pointer, const float (&values)[kSize]) {
    if constexpr (sizeof(T) == 2 && kSize % 2 == 0) {
        Vec<uint32_t, kSize / 2> vec;  // one conversion instruction a pair
#pragma unroll
        for (int i = 0; i < kSize / 2; ++i) vec.values[i] = pack2<T>(values[2 * i], values[2 * i + 1]);
        *reinterpret_cast<Vec<uint32_t, kSize / 2>*>(pointer) = vec;
    } else {
        Vec<T, kSize> vec;
#pragma unroll
        for (int i = 0; i < kSize; ++i) vec.values[i] = from_float<T>(values[i]);
        *reinterpret_cast<Vec<T, kSize>*>(pointer) = vec;
    }
}

// Whether rows of T that start at `pointer` and stand `row_stride` elements apart are all `bytes`-aligned.
template <class T>
__host__ __device__ __forceinline__ bool rows_are_aligned(const T* pointer, int64_t row_stride, int bytes) {
    return (reinterpret_cast<uint64_t>(pointer) | static_cast<uint64_t>(row_stride) * sizeof(T)) % bytes == 0;
}

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
