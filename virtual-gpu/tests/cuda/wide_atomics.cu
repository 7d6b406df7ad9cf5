// targets: sm_90a
// Atomics of 128 bits, in global and in shared memory.
typedef unsigned __int128 u128;
typedef unsigned long long u64;

__device__ u128 compare_and_swap(u128* at, u128 expected, u128 desired) {
    __nv_atomic_compare_exchange_n(at, &expected, desired, false, __NV_ATOMIC_ACQ_REL, __NV_ATOMIC_RELAXED,
                                   __NV_THREAD_SCOPE_DEVICE);
    return expected;
}

// A 128-bit sum and a count side by side: (sum of x) 2^64 + n.
extern "C" __global__ void sum_and_count(const u64* x, u128* total, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u128 seen = 0, expected;
    do {
        expected = seen;
        seen = compare_and_swap(total, expected, expected + ((u128)x[i] << 64) + 1);
    } while (seen != expected);
}

// Every thread leaves its value and takes that of the one before: all but one come back.
extern "C" __global__ void pass_around(const u64* x, u128* slot, u64* low, u64* high) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    u128 mine = (u128)x[i] << 64 | (u64)i;
    u128 taken = __nv_atomic_exchange_n(slot, mine, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
    low[i] = (u64)taken;
    high[i] = (u64)(taken >> 64);
}

// The same in shared memory, and whole loads and stores.
extern "C" __global__ void in_shared(u64* out) {
    __shared__ u128 slot;
    if (threadIdx.x == 0) {
        u128 start = (u128)1 << 100;
        __nv_atomic_store_n(&slot, start, __NV_ATOMIC_RELEASE, __NV_THREAD_SCOPE_BLOCK);
    }
    __syncthreads();
    u128 seen = __nv_atomic_load_n(&slot, __NV_ATOMIC_ACQUIRE, __NV_THREAD_SCOPE_BLOCK), expected;
    do {
        expected = seen;
        __nv_atomic_compare_exchange_n(&slot, &seen, expected + threadIdx.x, false, __NV_ATOMIC_ACQ_REL,
                                       __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_BLOCK);
    } while (seen != expected);
    __syncthreads();
    if (threadIdx.x == 0) {
        out[0] = (u64)slot;
        out[1] = (u64)(slot >> 64);
    }
}
