// targets: sm_80
// Bugs planted in simple kernels. A kernel's variant 0 is correct; the others each have one bug, marked `BUG n`.
// The table of what must find them: tests/planted/mod.rs.
#include <stdint.h>

// The sums of the rows of [gridDim.x, n]. Block 128.
template <int BUG>
__device__ void row_sums(const float* x, float* out, int n) {
    __shared__ float partial[BUG == 4 ? 3 : 4];
    int t = threadIdx.x;
    float sum = BUG == 12 ? 1.0f : 0.0f;
    for (int i = t; BUG == 2 ? i <= n : i < n; i += 128) sum += x[blockIdx.x * n + i];
    for (int offset = BUG == 13 ? 8 : 16; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(BUG == 6 ? 0x0000ffff : 0xffffffff, sum, offset);
    if (t % 32 == 0 && (BUG != 5 || t > 0)) partial[t / 32] = sum;
    if (BUG == 7) {
        if (t < 64) __syncthreads();
    } else if (BUG != 1) {
        __syncthreads();
    }
    if (t == 0) {
        sum = partial[0] + partial[1] + partial[2] + partial[BUG == 3 ? 4 : 3];
        if (BUG == 8) out[0] += sum;  // every block, without an atomic
        else if (BUG == 9) out[blockIdx.x + 1] = sum;
        else if (BUG == 10) { if (blockIdx.x > 0) out[blockIdx.x] = sum; }
        else if (BUG == 11) *reinterpret_cast<float*>(reinterpret_cast<char*>(out) + 4 * blockIdx.x + 2) = sum;
        else out[blockIdx.x] = sum;
    }
}
#define ROW_SUMS(BUG) \
    extern "C" __global__ void row_sums_##BUG(const float* x, float* out, int n) { row_sums<BUG>(x, out, n); }
ROW_SUMS(0) ROW_SUMS(1) ROW_SUMS(2) ROW_SUMS(3) ROW_SUMS(4) ROW_SUMS(5) ROW_SUMS(6) ROW_SUMS(7) ROW_SUMS(8)
ROW_SUMS(9) ROW_SUMS(10) ROW_SUMS(11) ROW_SUMS(12) ROW_SUMS(13)

// y[i] = 2 x[i] + 1 for i < n; the buffers are exactly n long. Block 64.
template <int BUG>
__device__ void scale(const float* x, float* y, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (BUG == 1 || i < n) {
        if (BUG == 2) {
            // Four at a time, from an address that is not a multiple of 16.
            if (i * 4 + 5 <= n) reinterpret_cast<float4*>(y)[i] = *reinterpret_cast<const float4*>(x + 4 * i + 1);
        } else if (BUG == 3) {
            asm volatile("mov.u64 %0, 0;" : "=l"(y));  // a null pointer the compiler does not see
            y[i] = 2 * x[i] + 1;
        } else if (BUG == 4) {
            y[i] = 2 * y[i] + 1;  // the output, not yet written, in place of the input
        } else if (BUG == 5) {
            y[i] = x[i] > 0.5f ? 2 * x[i] + 1 : 2 * x[i];
        } else {
            y[i] = 2 * x[i] + 1;
        }
    }
}
#define SCALE(BUG) extern "C" __global__ void scale_##BUG(const float* x, float* y, int n) { scale<BUG>(x, y, n); }
SCALE(0) SCALE(1) SCALE(2) SCALE(3) SCALE(4) SCALE(5)

// out[n, m] = in[m, n]^T. Block (32, 8).
template <int BUG>
__device__ void transpose(const float* in, float* out, int m, int n) {
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < n && y + j < m) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * n + x];
    if (BUG != 1) __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (BUG == 2 ? x < n : (x < m && y + j < n))
            out[(y + j) * m + x] = BUG == 3 ? tile[threadIdx.y + j][threadIdx.x] : tile[threadIdx.x][threadIdx.y + j];
}
#define TRANSPOSE(BUG)                                                                       \
    extern "C" __global__ void transpose_##BUG(const float* in, float* out, int m, int n) { \
        transpose<BUG>(in, out, m, n);                                                       \
    }
TRANSPOSE(0) TRANSPOSE(1) TRANSPOSE(2) TRANSPOSE(3)

// c[m, n] = a[m, k] b[k, n]. Block (16, 16).
template <int BUG>
__device__ void gemm(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float a_tile[16][16], b_tile[16][16];
    int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 16 + ty, col = blockIdx.x * 16 + tx;
    float sum = 0;
    for (int start = 0; start < k; start += 16) {
        if (BUG == 3)
            a_tile[ty][tx] = a[row * k + start + tx];
        else
            a_tile[ty][tx] = row < m && start + tx < k ? a[row * k + start + tx] : 0;
        if (BUG != 4 || ty < 15) b_tile[ty][tx] = start + ty < k && col < n ? b[(start + ty) * n + col] : 0;
        if (BUG != 1) __syncthreads();
        for (int i = 0; i < 16; i++) sum += a_tile[ty][i] * (BUG == 5 ? b_tile[tx][i] : b_tile[i][tx]);
        if (BUG != 2) __syncthreads();
    }
    if (row < m && col < n) c[row * n + col] = sum;
}
#define GEMM(BUG)                                                                                         \
    extern "C" __global__ void gemm_##BUG(const float* a, const float* b, float* c, int m, int n, int k) { \
        gemm<BUG>(a, b, c, m, n, k);                                                                      \
    }
GEMM(0) GEMM(1) GEMM(2) GEMM(3) GEMM(4) GEMM(5)

// Counts of 64 bins. Block 128.
template <int BUG>
__device__ void histogram(const uint8_t* x, uint32_t* bins, int n) {
    __shared__ uint32_t counts[64];
    if (BUG != 1 && threadIdx.x < 64) counts[threadIdx.x] = 0;
    if (BUG != 2) __syncthreads();
    for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) {
        int bin = BUG == 5 ? x[i] : x[i] & 63;
        if (BUG == 3)
            counts[bin] += 1;
        else
            atomicAdd(&counts[bin], 1);
    }
    __syncthreads();
    if (threadIdx.x < 64) {
        if (BUG == 4)
            bins[threadIdx.x] += counts[threadIdx.x];
        else
            atomicAdd(&bins[threadIdx.x], counts[threadIdx.x]);
    }
}
#define HISTOGRAM(BUG) \
    extern "C" __global__ void histogram_##BUG(const uint8_t* x, uint32_t* bins, int n) { histogram<BUG>(x, bins, n); }
HISTOGRAM(0) HISTOGRAM(1) HISTOGRAM(2) HISTOGRAM(3) HISTOGRAM(4) HISTOGRAM(5)

// Sorts 16 values a thread in local memory.
template <int BUG>
__device__ void local_sort(const int* in, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int values[16];
    for (int j = 0; j < (BUG == 2 ? 15 : 16); j++) values[j] = in[16 * i + j];
    for (int j = 1; j < (BUG == 1 ? n : 16); j++) {
        int v = values[j], k = j;
        while (k > 0 && values[k - 1] > v) {
            values[k] = values[k - 1];
            k--;
        }
        values[k] = v;
    }
    for (int j = 0; j < 16; j++) out[16 * i + j] = values[j];
}
#define LOCAL_SORT(BUG) \
    extern "C" __global__ void local_sort_##BUG(const int* in, int* out, int n) { local_sort<BUG>(in, out, n); }
LOCAL_SORT(0) LOCAL_SORT(1) LOCAL_SORT(2)

// Each warp reverses 32 values through shared memory. Block 64.
template <int BUG>
__device__ void warp_reverse(const int* in, int* out) {
    __shared__ int buffer[2][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, i = blockIdx.x * 64 + threadIdx.x;
    buffer[warp][lane] = in[i];
    if (BUG != 1) __syncwarp();
    out[i] = buffer[BUG == 2 ? 1 - warp : warp][31 - lane];
    if (BUG == 3 && lane < 16) {
        uint32_t all = __ballot_sync(0xffffffff, in[i] > 0);
        out[i] = all;
    }
}
#define WARP_REVERSE(BUG) \
    extern "C" __global__ void warp_reverse_##BUG(const int* in, int* out) { warp_reverse<BUG>(in, out); }
WARP_REVERSE(0) WARP_REVERSE(1) WARP_REVERSE(2) WARP_REVERSE(3)

// A producer warp hands 32 values at a time to a consumer warp over named barriers. Block 64.
template <int BUG>
__device__ void hand_over(const int* in, int* out, int n) {
    __shared__ int buffer[2][32];
    int t = threadIdx.x % 32;
    constexpr int kThreads = BUG == 1 ? 96 : 64;
    for (int i = 0; i < n; i++) {
        int stage = BUG == 4 ? 0 : i % 2;
        if (threadIdx.x < 32) {
            if (i >= 2 && BUG != 3) asm volatile("bar.sync %0, 64;" ::"r"(3 + i % 2) : "memory");
            buffer[stage][t] = in[i * 32 + t];
            if (BUG != 2 || i != 1) asm volatile("bar.arrive %0, %1;" ::"r"(1 + i % 2), "n"(kThreads) : "memory");
        } else {
            asm volatile("bar.sync %0, %1;" ::"r"(1 + i % 2), "n"(kThreads) : "memory");
            out[i * 32 + t] = buffer[stage][31 - t] * 2;
            if (i + 2 < n && BUG != 3) asm volatile("bar.arrive %0, 64;" ::"r"(3 + i % 2) : "memory");
        }
    }
}
#define HAND_OVER(BUG) \
    extern "C" __global__ void hand_over_##BUG(const int* in, int* out, int n) { hand_over<BUG>(in, out, n); }
HAND_OVER(0) HAND_OVER(1) HAND_OVER(2) HAND_OVER(3) HAND_OVER(4)

// Blocks exchange their values over a barrier of the whole grid. Block 64.
template <int BUG>
__device__ void exchange(const int* in, int* between, int* out, unsigned* counter) {
    int i = blockIdx.x * 64 + threadIdx.x, n = gridDim.x * 64;
    between[i] = in[i] + 1;
    if (BUG != 3) __syncthreads();
    if (threadIdx.x == 0) {
        if (BUG != 1) __threadfence();
        if (BUG != 2) {
            atomicAdd(counter, 1);
            while (atomicAdd(counter, 0) < gridDim.x) {
            }
        }
        if (BUG != 1) __threadfence();
    }
    __syncthreads();
    out[i] = between[(i + 64) % n];
}
#define EXCHANGE(BUG)                                                                                     \
    extern "C" __global__ void exchange_##BUG(const int* in, int* between, int* out, unsigned* counter) { \
        exchange<BUG>(in, between, out, counter);                                                         \
    }
EXCHANGE(0) EXCHANGE(1) EXCHANGE(2) EXCHANGE(3)

// Inclusive scan of a block in dynamic shared memory.
template <int BUG>
__device__ void block_scan(const int* x, int* out) {
    extern __shared__ int buffer[];
    int t = threadIdx.x, n = blockDim.x;
    buffer[t] = x[blockIdx.x * n + t];
    __syncthreads();
    for (int offset = 1; offset < n; offset *= 2) {
        int v = t >= offset ? buffer[t - offset] : 0;
        if (BUG != 1) __syncthreads();
        buffer[t] += v;
        __syncthreads();
    }
    out[blockIdx.x * n + t] = buffer[t];
}
#define BLOCK_SCAN(BUG) \
    extern "C" __global__ void block_scan_##BUG(const int* x, int* out) { block_scan<BUG>(x, out); }
BLOCK_SCAN(0) BLOCK_SCAN(1)

// Blocks count themselves in one word. Block 32.
template <int BUG>
__device__ void tickets(unsigned* counter) {
    if (threadIdx.x == 0) {
        if (BUG == 1) asm volatile("red.relaxed.cta.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
        else atomicAdd(counter, 1);
    }
}
extern "C" __global__ void tickets_0(unsigned* counter) { tickets<0>(counter); }
extern "C" __global__ void tickets_1(unsigned* counter) { tickets<1>(counter); }
