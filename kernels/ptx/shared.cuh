// Stores of vectors to shared memory as one instruction: the compiler takes apart those that it makes of single values.
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

// Writes 8 bytes at a multiple of 8.
__device__ __forceinline__ void st_shared_v2_f32(void* smem, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(cvta_to_shared(smem)), "f"(x), "f"(y) : "memory");
}

// Writes 16 bytes at a multiple of 16.
__device__ __forceinline__ void st_shared_v4_f32(void* smem, float x, float y, float z, float w) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(cvta_to_shared(smem)), "f"(x), "f"(y), "f"(z), "f"(w)
                 : "memory");
}
__device__ __forceinline__ void st_shared_v4_s32(void* smem, int32_t x, int32_t y, int32_t z, int32_t w) {
    asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};" ::"r"(cvta_to_shared(smem)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

}  // namespace ptx
