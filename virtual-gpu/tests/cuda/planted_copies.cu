// targets: sm_90a
// Bugs planted between the copy engine and global memory, the proxies, and mbarriers. Variant 0 is correct.
#include "ptx.cuh"

namespace ptx {
__device__ __forceinline__ void fence_proxy_async_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
__device__ __forceinline__ void fence_proxy_alias() { asm volatile("fence.proxy.alias;" ::: "memory"); }
__device__ __forceinline__ void fence_proxy_tensormap() {
    asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
}
__device__ __forceinline__ void cp_async_16_partial(void* shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void cp_async_mbarrier_arrive_noinc(uint64_t* barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}
}  // namespace ptx

// Each CTA stores a row by a bulk copy, raises its flag, and loads the row of the CTA before by another. Block 32.
template <int BUG>
__device__ void pass_on(const int* in, int* between, int* out, unsigned* flags) {
    __shared__ alignas(128) int mine[32], theirs[32];
    __shared__ alignas(8) uint64_t full;
    int t = threadIdx.x, before = (blockIdx.x + gridDim.x - 1) % gridDim.x;
    mine[t] = in[blockIdx.x * 32 + t] + 1;
    ptx::fence_proxy_async();
    if (t == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (t == 0) {
        ptx::bulk_store(between + (BUG == 1 ? 0 : blockIdx.x * 32), mine, sizeof(mine));
        ptx::bulk_commit_group();
        if (BUG == 3) ptx::bulk_wait_group_read<0>();
        else ptx::bulk_wait_group<0>();
        __threadfence();
        atomicExch(&flags[blockIdx.x], 1);
        if (BUG != 2)
            while (atomicAdd(&flags[before], 0) == 0) {
            }
        __threadfence();
        ptx::fence_proxy_async_global();
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(theirs));
        ptx::bulk_load(theirs, between + before * 32, sizeof(theirs), &full);
    }
    ptx::mbarrier_wait(&full, 0);
    out[blockIdx.x * 32 + t] = theirs[t];
}
#define PASS_ON(BUG)                                                                                       \
    extern "C" __global__ void pass_on_##BUG(const int* in, int* between, int* out, unsigned* flags) {     \
        pass_on<BUG>(in, between, out, flags);                                                             \
    }
PASS_ON(0) PASS_ON(1) PASS_ON(2) PASS_ON(3)

// Threads write 2 x to global memory, from where the copy engine loads it again. Block 128.
template <int BUG>
__device__ void detour(const int* x, int* between, int* out) {
    __shared__ alignas(128) int row[128];
    __shared__ alignas(8) uint64_t full;
    int i = blockIdx.x * 128 + threadIdx.x;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
    }
    between[i] = 2 * x[i];
    if (BUG == 2) ptx::fence_proxy_async();  // of shared memory
    else if (BUG == 3) ptx::fence_proxy_alias();
    else if (BUG != 1) ptx::fence_proxy_async_global();
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(row));
        ptx::bulk_load(row, between + blockIdx.x * 128, sizeof(row), &full);
    }
    ptx::mbarrier_wait(&full, 0);
    out[i] = row[threadIdx.x];
}
#define DETOUR(BUG) \
    extern "C" __global__ void detour_##BUG(const int* x, int* between, int* out) { detour<BUG>(x, between, out); }
DETOUR(0) DETOUR(1) DETOUR(2) DETOUR(3)

// out = in + 1 on its way through shared memory, then the mbarrier's place is used for something else. Block 128.
template <int BUG>
__device__ void fences(const float* in, float* out) {
    __shared__ alignas(128) float row[128];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(row));
        ptx::bulk_load(row, in + blockIdx.x * 128, sizeof(row), &full);
    }
    __syncthreads();
    ptx::mbarrier_wait(&full, 0);
    row[threadIdx.x] += 1;
    if (BUG == 1) ptx::fence_proxy_alias();
    else if (BUG == 2) ptx::fence_proxy_async_global();
    else if (BUG == 3) ptx::fence_proxy_tensormap();
    else if (BUG == 4) ptx::fence_mbarrier_init();
    else ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::bulk_store(out + blockIdx.x * 128, row, sizeof(row));
        ptx::bulk_commit_group();
        ptx::bulk_wait_group<0>();
        if (BUG != 5) ptx::mbarrier_inval(&full);
        *reinterpret_cast<volatile uint32_t*>(&full) = 1;
    }
}
#define FENCES(BUG) \
    extern "C" __global__ void fences_##BUG(const float* in, float* out) { fences<BUG>(in, out); }
FENCES(0) FENCES(1) FENCES(2) FENCES(3) FENCES(4) FENCES(5)

// Copies of 8 of 16 bytes from global memory that the block itself has written. Block 32.
template <int BUG>
__device__ void halves(const int* in, int* between, int* out) {
    __shared__ alignas(16) int buffer[32][4];
    int t = threadIdx.x, first = blockIdx.x * 128;
    for (int i = t; i < 128; i += 32) between[first + i] = in[first + i];
    __syncthreads();
    int block = BUG == 1 ? (blockIdx.x + 1) % gridDim.x : blockIdx.x;
    ptx::cp_async_16_partial(buffer[t], between + block * 128 + 4 * t, 8);
    ptx::cp_async_wait_all();
    for (int j = 0; j < 4; j++) out[first + 4 * t + j] = buffer[t][j];
}
#define HALVES(BUG) \
    extern "C" __global__ void halves_##BUG(const int* in, int* between, int* out) { halves<BUG>(in, between, out); }
HALVES(0) HALVES(1)

// cp.async that arrives at an mbarrier; the row goes out once by threads, once by a bulk copy. Block 64.
template <int BUG>
__device__ void arrivals(const int* in, int* out, int* copy) {
    __shared__ alignas(128) int row[256];
    __shared__ alignas(8) uint64_t full;
    int t = threadIdx.x, first = blockIdx.x * 256;
    if (t == 0) ptx::mbarrier_init(&full, 64);
    __syncthreads();
    ptx::cp_async_16(&row[4 * t], in + first + 4 * t);
    ptx::cp_async_mbarrier_arrive_noinc(&full);
    if (BUG == 1) out[first + 4 * t] = row[4 * t];  // its own, but not yet there
    ptx::mbarrier_wait(&full, 0);
    for (int j = 0; j < 4; j++) out[first + 4 * t + j] = row[4 * t + j];
    if (BUG != 2) ptx::fence_proxy_async();
    __syncthreads();
    if (t == 0) {
        ptx::bulk_store(copy + first, row, sizeof(row));
        ptx::bulk_commit_group();
        ptx::bulk_wait_group<0>();
    }
}
#define ARRIVALS(BUG) \
    extern "C" __global__ void arrivals_##BUG(const int* in, int* out, int* copy) { arrivals<BUG>(in, out, copy); }
ARRIVALS(0) ARRIVALS(1) ARRIVALS(2)

// Two kernels that overlap: the second must wait before the copy engine loads what the first writes. Block 128.
extern "C" __global__ void rows_upstream(const float* x, float* between) {
    int i = blockIdx.x * 128 + threadIdx.x;
    ptx::griddepcontrol_launch_dependents();
    between[i] = x[i] * 3;
}
template <int BUG>
__device__ void early_load(const float* between, float* out) {
    __shared__ alignas(128) float row[128];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (BUG != 1) ptx::griddepcontrol_wait();
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(row));
        ptx::bulk_load(row, between + blockIdx.x * 128, sizeof(row), &full);
    }
    if (BUG == 1) ptx::griddepcontrol_wait();
    ptx::mbarrier_wait(&full, 0);
    out[blockIdx.x * 128 + threadIdx.x] = row[threadIdx.x] * 0.5f;
}
extern "C" __global__ void early_load_0(const float* between, float* out) { early_load<0>(between, out); }
extern "C" __global__ void early_load_1(const float* between, float* out) { early_load<1>(between, out); }

// One thread waits for the first kernel and a barrier passes that on; block 1 learns it from block 0. Block 128.
template <int BUG>
__device__ void one_waits(const float* between, float* out, unsigned* flag) {
    int i = blockIdx.x * 128 + threadIdx.x, warp = threadIdx.x / 32;
    if (BUG == 3) __syncthreads();
    if (threadIdx.x == 0 && blockIdx.x != 1) {
        if (BUG != 5) ptx::griddepcontrol_wait();
        asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
    }
    if (threadIdx.x == 0 && blockIdx.x == 1 && BUG != 6) {
        unsigned seen;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
        while (!seen);
    }
    // The others of warp 0 (1), all others (2), warp 3 (4) read without having waited for the one.
    if (BUG == 1 && warp > 0 || BUG == 0 || BUG >= 5) __syncthreads();
    if (BUG == 4 && warp < 3) asm volatile("bar.sync 1, 96;" ::: "memory");
    out[i] = between[i] * 0.5f;
    if (BUG == 1 && warp == 0) __syncthreads();
    if (BUG == 5) ptx::griddepcontrol_wait();
}
#define ONE_WAITS(BUG) \
    extern "C" __global__ void one_waits_##BUG(const float* between, float* out, unsigned* flag) { \
        one_waits<BUG>(between, out, flag);                                                        \
    }
ONE_WAITS(0) ONE_WAITS(1) ONE_WAITS(2) ONE_WAITS(3) ONE_WAITS(4) ONE_WAITS(5) ONE_WAITS(6)

// Two CTAs of a cluster hand rows to each other through global memory, ordered by the cluster's barrier. Block 32.
template <int BUG>
__device__ void cluster_rows(const int* in, int* between, int* out) {
    int t = threadIdx.x;
    between[blockIdx.x * 32 + t] = in[blockIdx.x * 32 + t] + 1;
    if (BUG == 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    else ptx::cluster_arrive();
    ptx::cluster_wait();
    out[blockIdx.x * 32 + t] = between[(blockIdx.x ^ 1) * 32 + t];
}
extern "C" __global__ void cluster_rows_0(const int* in, int* between, int* out) { cluster_rows<0>(in, between, out); }
extern "C" __global__ void cluster_rows_1(const int* in, int* between, int* out) { cluster_rows<1>(in, between, out); }
