// Copies of tensor tiles between global and shared memory by the copy engine (sm_90).
//
// The tensor map says where the tensor is, its shape and strides, the box and the swizzle; coordinates come innermost
// first. Parts of a box outside of the tensor are read as zeros and not written. Shared addresses are 128-byte
// aligned (1024 with the 128-byte swizzle, whose pattern follows the address). Maps are __grid_constant__ parameters.
#pragma once

#include <cstdint>

#include "address.cuh"

// CUtensorMap: what cuTensorMapEncodeTiled wrote.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

namespace ptx {

// What a load says about its use to the L2 cache: createpolicy.fractional of that name.
enum class L2Policy : uint64_t {
    kEvictNormal = 0x1000000000000000,
    kEvictFirst = 0x12f0000000000000,  // read once
    kEvictLast = 0x14f0000000000000,   // read again and again
};

__device__ __forceinline__ void prefetch_tensormap(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Loads a box; its bytes count at `barrier`, which is told to expect them.
__device__ __forceinline__ void tma_load_2d(
    void* smem, const TensorMap& map, uint64_t* barrier, int x, int y, L2Policy policy = L2Policy::kEvictNormal) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(cvta_to_shared(smem)),
        "l"(&map), "r"(cvta_to_shared(barrier)), "r"(x), "r"(y), "l"(static_cast<uint64_t>(policy))
        : "memory");
}

__device__ __forceinline__ void tma_load_3d(
    void* smem, const TensorMap& map, uint64_t* barrier, int x, int y, int z,
    L2Policy policy = L2Policy::kEvictNormal) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(cvta_to_shared(smem)),
        "l"(&map), "r"(cvta_to_shared(barrier)), "r"(x), "r"(y), "r"(z), "l"(static_cast<uint64_t>(policy))
        : "memory");
}

__device__ __forceinline__ void tma_load_4d(
    void* smem, const TensorMap& map, uint64_t* barrier, int x, int y, int z, int w,
    L2Policy policy = L2Policy::kEvictNormal) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(cvta_to_shared(smem)),
        "l"(&map), "r"(cvta_to_shared(barrier)), "r"(x), "r"(y), "r"(z), "r"(w), "l"(static_cast<uint64_t>(policy))
        : "memory");
}

// Loads a box into the same place of each CTA of `cta_mask`; its bytes count at the same barrier of each of them.
__device__ __forceinline__ void tma_load_2d_multicast(
    void* smem, const TensorMap& map, uint64_t* barrier, int x, int y, uint16_t cta_mask,
    L2Policy policy = L2Policy::kEvictNormal) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(cvta_to_shared(smem)),
        "l"(&map), "r"(cvta_to_shared(barrier)), "r"(x), "r"(y), "h"(cta_mask), "l"(static_cast<uint64_t>(policy))
        : "memory");
}

__device__ __forceinline__ void tma_load_3d_multicast(
    void* smem, const TensorMap& map, uint64_t* barrier, int x, int y, int z, uint16_t cta_mask,
    L2Policy policy = L2Policy::kEvictNormal) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(cvta_to_shared(smem)),
        "l"(&map), "r"(cvta_to_shared(barrier)), "r"(x), "r"(y), "r"(z), "h"(cta_mask),
        "l"(static_cast<uint64_t>(policy))
        : "memory");
}

// Stores a box, in this thread's open bulk group. Shared memory written by ordinary stores needs, before it,
// fence_proxy_async_shared in every writing thread and a barrier.
__device__ __forceinline__ void tma_store_2d(const TensorMap& map, const void* smem, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
                 "r"(cvta_to_shared(smem)), "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void tma_store_3d(const TensorMap& map, const void* smem, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
                 "r"(cvta_to_shared(smem)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void tma_store_4d(const TensorMap& map, const void* smem, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
                     &map),
                 "r"(cvta_to_shared(smem)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// Closes this thread's bulk group.
__device__ __forceinline__ void bulk_commit_group() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all but the latest `kPending` of this thread's groups have read their shared memory.
template <int kPending>
__device__ __forceinline__ void bulk_wait_group_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// The same, until they have also been written.
template <int kPending>
__device__ __forceinline__ void bulk_wait_group() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

// Orders this thread's ordinary accesses to shared memory and those of the copy engine and the tensor cores.
__device__ __forceinline__ void fence_proxy_async_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace ptx
