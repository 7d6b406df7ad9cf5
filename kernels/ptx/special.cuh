// Special registers, where CUDA C++'s own names do not do.
#pragma once

#include <cstdint>

namespace ptx {

// threadIdx.x, read here and now: what is computed from it is not carried in registers over the loop before.
__device__ __forceinline__ uint32_t tid_x() {
    uint32_t tid;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
    return tid;
}

}  // namespace ptx
