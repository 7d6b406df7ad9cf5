// Conversions between f32 and the 16-bit floating-point types, as bits. All round to nearest even.
#pragma once

#include <cstdint>

namespace ptx {

__device__ __forceinline__ uint16_t cvt_rn_bf16_f32(float value) {
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Two at once: `low` goes into the lower half.
__device__ __forceinline__ uint32_t cvt_rn_bf16x2_f32(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ __forceinline__ uint16_t cvt_rn_f16_f32(float value) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Two at once: `low` goes into the lower half.
__device__ __forceinline__ uint32_t cvt_rn_f16x2_f32(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ __forceinline__ float cvt_f32_f16(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

}  // namespace ptx
