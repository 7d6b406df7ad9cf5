// Barriers in shared memory that threads and asynchronous copies arrive at (sm_90).
// A barrier counts arrivals and bytes of its current phase; when none is missing, the next phase begins. A wait names
// the parity (0, 1, 0, ...) of the phase whose end it waits for, so parity 1 passes at once on a fresh barrier.
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t num_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(cvta_to_shared(barrier)), "r"(num_arrivals)
                 : "memory");
}

// Makes initialised barriers visible to the asynchronous copies and to the other CTAs of the cluster, once these have
// synchronised with this thread.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(cvta_to_shared(barrier)) : "memory");
}

// Arrives at the same barrier of another CTA of the cluster (or of this one).
__device__ __forceinline__ void mbarrier_arrive_cluster(uint64_t* barrier, uint32_t cta_rank) {
    asm volatile(
        "{\n"
        ".reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
        "}" ::"r"(cvta_to_shared(barrier)),
        "r"(cta_rank)
        : "memory");
}

// Arrives, and makes the phase wait for `bytes` more of asynchronous copies.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(cvta_to_shared(barrier)), "r"(bytes)
                 : "memory");
}

// Whether the phase of this parity is over; may first sleep for a while that the hardware chooses.
__device__ __forceinline__ bool mbarrier_try_wait_parity(uint64_t* barrier, uint32_t parity) {
    uint32_t is_over;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(is_over)
        : "r"(cvta_to_shared(barrier)), "r"(parity)
        : "memory");
    return is_over != 0;
}

// The same, also acquiring what other CTAs of the cluster did before they arrived.
__device__ __forceinline__ bool mbarrier_try_wait_parity_cluster(uint64_t* barrier, uint32_t parity) {
    uint32_t is_over;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(is_over)
        : "r"(cvta_to_shared(barrier)), "r"(parity)
        : "memory");
    return is_over != 0;
}

// Waits until the phase of this parity is over.
__device__ __forceinline__ void mbarrier_wait_parity(uint64_t* barrier, uint32_t parity) {
    while (!mbarrier_try_wait_parity(barrier, parity)) {
    }
}

__device__ __forceinline__ void mbarrier_wait_parity_cluster(uint64_t* barrier, uint32_t parity) {
    while (!mbarrier_try_wait_parity_cluster(barrier, parity)) {
    }
}

// Barriers among some of the block's warps; 0 is __syncthreads's. `num_threads` is a multiple of 32.
__device__ __forceinline__ void bar_sync(uint32_t id, uint32_t num_threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}
__device__ __forceinline__ void bar_arrive(uint32_t id, uint32_t num_threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

}  // namespace ptx
