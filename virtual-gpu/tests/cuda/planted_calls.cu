// targets: sm_80
// Bugs planted in calls through addresses, wmma and printf. Variant 0 is correct; the others have one bug each.
// The table of what must find them: tests/planted/mod.rs.
#include <mma.h>
#include <new>
#include <stdio.h>

// Warp 0 takes its own values plus one, warp 1 its neighbours'; block 1 adds 3. Block 64.
typedef int (*Function)(int, const int*);
template <int BUG>
__device__ __noinline__ int successor(int i, const int* row) {
    if (BUG != 5) __syncthreads();
    return row[i] + 1;
}
template <int BUG>
__device__ __noinline__ int neighbour(int i, const int* row) {
    if (BUG != 5) __syncthreads();
    return row[i ^ 1];
}
__device__ __noinline__ int of_wide_arguments(double i, double j) { return (int)(i + j); }
__device__ int data[4] = {1, 2, 3, 4};

struct Offset {
    virtual __device__ int by(int block) const { return 2 * block; }
};
struct Larger : Offset {
    __device__ int by(int block) const override { return 3 * block; }
};

template <int BUG>
__device__ void dispatch(const int* x, int* out) {
    __shared__ int row[64];
    __shared__ Function functions[2];
    __shared__ Larger object;
    int i = threadIdx.x;
    row[i] = x[64 * blockIdx.x + i];
    if (i == 0) {
        functions[0] = BUG == 7 ? neighbour<BUG> : successor<BUG>;
        if (BUG == 1) functions[1] = nullptr;
        else if (BUG == 3) functions[1] = reinterpret_cast<Function>(of_wide_arguments);
        else if (BUG == 4) functions[1] = reinterpret_cast<Function>(data);
        else if (BUG != 2) functions[1] = neighbour<BUG>;
    }
    if (i == 32) {
        new (&object) Larger;
        if (BUG == 6) *reinterpret_cast<void**>(&object) = nullptr;
    }
    // The functions meet at a barrier of their own for the rows; this one is for the pointers.
    if (BUG == 5) {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        row[i] = x[64 * blockIdx.x + i];
    } else {
        __syncthreads();
    }
    const Offset* offset = &object;
    out[64 * blockIdx.x + i] = functions[i / 32](i, row) + offset->by(blockIdx.x);
}
#define DISPATCH(BUG) extern "C" __global__ void dispatch_##BUG(const int* x, int* out) { dispatch<BUG>(x, out); }
DISPATCH(0) DISPATCH(1) DISPATCH(2) DISPATCH(3) DISPATCH(4) DISPATCH(5) DISPATCH(6) DISPATCH(7)

// out[2, 16, 16]: both warps compute a[16, 16] b[16, 16]^T. Block 64.
template <int BUG>
__device__ void tiles(const half* a, const half* b, float* out) {
    using namespace nvcuda::wmma;
    __shared__ alignas(32) half a_tile[256 + 16];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x; i < (BUG == 8 ? 240 : 256); i += 64) a_tile[i] = a[i];
    if (BUG != 4) __syncthreads();
    fragment<matrix_a, 16, 16, 16, half, row_major> rows;
    fragment<matrix_a, 16, 16, 16, half, col_major> columns;
    fragment<matrix_b, 16, 16, 16, half, col_major> b_fragment;
    fragment<accumulator, 16, 16, 16, float> sums;
    load_matrix_sync(rows, a_tile + (BUG == 2 ? 4 : 0), BUG == 1 ? 32 : BUG == 3 ? 20 : 16);
    load_matrix_sync(columns, a_tile, 16);
    load_matrix_sync(b_fragment, b + (BUG == 6 ? 16 * (lane % 2) : 0), 16);
    if (BUG == 5) {
        float unset[1];
        asm volatile("{ .reg .f32 u; mov.f32 %0, u; }" : "=f"(unset[0]));
        fill_fragment(sums, unset[0]);
    } else {
        fill_fragment(sums, 0.0f);
    }
    if (BUG == 9) mma_sync(sums, columns, b_fragment, sums);
    else if (BUG != 7 || lane < 16) mma_sync(sums, rows, b_fragment, sums);
    store_matrix_sync(out + 256 * warp, sums, 16, mem_row_major);
}
#define TILES(BUG) \
    extern "C" __global__ void tiles_##BUG(const half* a, const half* b, float* out) { tiles<BUG>(a, b, out); }
TILES(0) TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6) TILES(7) TILES(8) TILES(9)

// Prints a line a lane. Block 32.
__device__ char unended[4] = {'l', 'a', 'n', 'e'};
template <int BUG>
__device__ void report(const int* x) {
    int value = x[threadIdx.x];
    if (BUG == 1) asm volatile("{ .reg .b32 u; mov.b32 %0, u; }" : "=r"(value));
    if (BUG == 2)
        printf("%s %d: %d\n", unended, threadIdx.x, value);
    else if (BUG == 3)
        printf("%s %d: %d\n", (const char*)(long long)value, threadIdx.x, value);
    else
        printf("lane %d: %d\n", threadIdx.x, value);
}
#define REPORT(BUG) extern "C" __global__ void report_##BUG(const int* x) { report<BUG>(x); }
REPORT(0) REPORT(1) REPORT(2) REPORT(3)
