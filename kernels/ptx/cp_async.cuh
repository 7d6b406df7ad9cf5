// Copies from global to shared memory that run beside the thread that asked for them (sm_80).
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

// cp.async 16 bytes past L1. Only the first `source_bytes` (0 to 16) are read; the rest becomes zero.
// Both addresses are 16-byte aligned.
__device__ __forceinline__ void cp_async_cg_16(void* smem, const void* gmem, int source_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(cvta_to_shared(smem)), "l"(__cvta_generic_to_global(gmem)), "r"(source_bytes)
                 : "memory");
}

// cp.async 4 bytes. `source_bytes` is 4, or 0 for a zero. Both addresses are 4-byte aligned.
__device__ __forceinline__ void cp_async_ca_4(void* smem, const void* gmem, int source_bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(cvta_to_shared(smem)), "l"(__cvta_generic_to_global(gmem)), "r"(source_bytes)
                 : "memory");
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's latest groups are still on their way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace ptx
