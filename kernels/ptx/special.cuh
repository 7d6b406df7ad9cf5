// Instructions that tell the compiler where something is to happen.
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

// threadIdx.x, read here and now: what is computed from it is not carried in registers over the loop before.
__device__ __forceinline__ uint32_t tid_x() {
    uint32_t tid;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
    return tid;
}

// Stores a zero where x is negative: for an x that never is, a place in the program that what x is made of comes before.
__device__ __forceinline__ void st_shared_if_negative(void* smem, float x) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %1, 0f00000000;\n@p st.shared.u32 [%0], 0;\n}" ::"r"(
                     cvta_to_shared(smem)),
                 "f"(x)
                 : "memory");
}

}  // namespace ptx
