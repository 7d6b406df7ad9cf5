// A ring of shared-memory stages filled by cp.async while the stages before are computed on.
//
// Every thread commits exactly one group for each stage in order, empty ones included, so that "all but the latest
// kNumStages - 2 groups have landed" means: the oldest stage is full. The barrier behind the wait publishes every
// thread's share, and also says that all warps are done with the stage that is filled next.
#pragma once

#include "ptx/cp_async.cuh"

template <int kNumStages>
struct AsyncPipeline {
    static_assert(kNumStages >= 2);
    int read_stage = 0;
    int write_stage = 0;

    // Close the copies of `write_stage`.
    __device__ __forceinline__ void commit() {
        ptx::cp_async_commit_group();
        write_stage = write_stage + 1 == kNumStages ? 0 : write_stage + 1;
    }

    // Wait until `read_stage` is full and `write_stage` is free, with kNumStages - 1 groups committed ahead.
    __device__ __forceinline__ void wait() const {
        ptx::cp_async_wait_group<kNumStages - 2>();
        __syncthreads();
    }

    __device__ __forceinline__ void release() { read_stage = read_stage + 1 == kNumStages ? 0 : read_stage + 1; }

    // Wait until nothing is on its way and all warps are done reading: the memory may be used for something else.
    __device__ __forceinline__ void drain() {
        ptx::cp_async_wait_group<0>();
        __syncthreads();
        read_stage = write_stage = 0;
    }
};
