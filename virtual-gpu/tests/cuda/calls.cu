// targets: sm_80
// Functions that stay functions: calls, recursion, arrays in local memory.
#include <assert.h>
#include <stdint.h>
#include <stdio.h>

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
extern "C" __global__ void recursive(const int* n, int* out, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = fibonacci(n[i]);
}

struct Pair {
    float sum, product;
    int64_t count;
};
__device__ __noinline__ Pair combine(Pair a, Pair b) { return {a.sum + b.sum, a.product * b.product, a.count + b.count}; }
extern "C" __global__ void structures(const float* x, Pair* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Pair p = {x[i], x[i], 1};
    for (int j = 1; j < 4; j++) p = combine(p, Pair{x[(i + j) % n], 2.0f, j});
    out[i] = p;
}

// An array indexed by values known only at run time lives in local memory.
extern "C" __global__ void local_sort(const int* in, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int values[16];
    for (int j = 0; j < 16; j++) values[j] = in[16 * i + j];
    for (int j = 1; j < 16; j++) {
        int v = values[j], k = j;
        while (k > 0 && values[k - 1] > v) {
            values[k] = values[k - 1];
            k--;
        }
        values[k] = v;
    }
    for (int j = 0; j < 16; j++) out[16 * i + j] = values[j];
}

// An array whose length is known only at run time lies on the stack, below the frames of functions called after.
__device__ __noinline__ int weighted(const int* values, int n) {
    int own[4] = {1, 2, 3, 4}, sum = 0;
    for (int i = 0; i < n; i++) sum += values[i] * own[(i + n) & 3];
    return sum;
}
extern "C" __global__ void stack_array(int* out, int n) {
    int t = threadIdx.x, count = n + t % 3, sum = 0;
    for (int round = 0; round < 2; round++) {
        int* values = static_cast<int*>(__builtin_alloca(count * sizeof(int)));
        for (int i = 0; i < count; i++) values[i] = t + i * round;
        sum += weighted(values, count);
    }
    out[t] = sum;
}

// out[i] = n - i; every i must be below n.
extern "C" __global__ void asserting(int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    assert(i < n);
    if (i == 0) printf("%d of %s: %f\n", n, "them", 0.5);
    out[i] = n - i;
}
