// Clusters: CTAs that run at once and reach each other's shared memory (sm_90).
#pragma once

#include <cstdint>

#include "address.cuh"

namespace ptx {

__device__ __forceinline__ uint32_t cluster_ctarank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Every thread of the cluster arrives and waits, whole warps together. What was written before is visible after.
__device__ __forceinline__ void barrier_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void barrier_cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address, in the cluster's shared window, of the same place in another CTA's shared memory.
__device__ __forceinline__ uint32_t mapa_shared(const void* smem, uint32_t cta_rank) {
    uint32_t address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(cvta_to_shared(smem)), "r"(cta_rank));
    return address;
}

// Reads 16 bytes at such an address.
__device__ __forceinline__ float4 ld_shared_cluster_f32x4(uint32_t address) {
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

// True in one lane of the warp, the same one each time. All lanes call it.
__device__ __forceinline__ bool elect_sync() {
    uint32_t is_elected;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "elect.sync _|p, 0xffffffff;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(is_elected));
    return is_elected != 0;
}

}  // namespace ptx
