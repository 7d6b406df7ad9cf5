// Sums and maxima over a warp and over a block, in a fixed order: equal inputs give equal bits.
#pragma once

#include <cstdint>

constexpr int kWarpSize = 32;
constexpr uint32_t kFullMask = 0xffffffffu;

struct Sum {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
    static constexpr float kIdentity = 0.0f;
};

// NaN is dropped where the other side is a number.
struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
    static constexpr float kIdentity = -__builtin_huge_valf();
};

// All lanes get the result over each aligned group of `kWidth` lanes.
template <class Op, int kWidth = kWarpSize>
__device__ __forceinline__ float warp_reduce(float value, Op op = Op()) {
#pragma unroll
    for (int offset = kWidth / 2; offset > 0; offset /= 2) {
        value = op(value, __shfl_xor_sync(kFullMask, value, offset));
    }
    return value;
}

// All threads of a block of `kThreads` get the result. `smem` is free for reuse after a barrier of the caller.
template <class Op, int kThreads>
__device__ __forceinline__ float block_reduce(float value, float (&smem)[kThreads / kWarpSize], Op op = Op()) {
    static_assert(kThreads % kWarpSize == 0 && kThreads <= 1024);
    constexpr int kNumWarps = kThreads / kWarpSize;
    value = warp_reduce<Op>(value);
    if (threadIdx.x % kWarpSize == 0) smem[threadIdx.x / kWarpSize] = value;
    __syncthreads();
    value = smem[0];
#pragma unroll
    for (int warp_idx = 1; warp_idx < kNumWarps; ++warp_idx) value = op(value, smem[warp_idx]);
    return value;
}

// Shared memory for fold_rows.
template <int kNumThreads, class A, class B>
struct FoldStorage {
    A first[kNumThreads];
    B second[kNumThreads];
};

// The block's threads as [num_rows, num_columns]; the first row gets both sums of its column. All threads call it, and
// none of them reads `smem` after it.
template <int kNumThreads, class A, class B>
__device__ __forceinline__ void fold_rows(
    A& first, B& second, int num_rows, int num_columns, FoldStorage<kNumThreads, A, B>& smem) {
    const int thread_idx = threadIdx.x;
    smem.first[thread_idx] = first;
    smem.second[thread_idx] = second;
    __syncthreads();
    for (int rows = num_rows; rows > 1; rows = (rows + 1) / 2) {
        const int other = thread_idx + (rows + 1) / 2 * num_columns;
        if (other < rows * num_columns) {
            smem.first[thread_idx] = first += smem.first[other];
            smem.second[thread_idx] = second += smem.second[other];
        }
        __syncthreads();
    }
}
