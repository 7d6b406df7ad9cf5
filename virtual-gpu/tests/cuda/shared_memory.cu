// targets: sm_80 sm_90a
// Tiles in shared memory: transpose, product, stencil, sorts; and blocks that meet.
#include <stdint.h>

constexpr int kTile = 32;

// out[n, m] = in[m, n]^T with one column of padding against bank conflicts. Block (32, 8).
extern "C" __global__ void transpose(const float* in, float* out, int m, int n) {
    __shared__ float tile[kTile][kTile + 1];
    int x = blockIdx.x * kTile + threadIdx.x, y = blockIdx.y * kTile + threadIdx.y;
    for (int j = 0; j < kTile; j += 8)
        if (x < n && y + j < m) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * n + x];
    __syncthreads();
    x = blockIdx.y * kTile + threadIdx.x;
    y = blockIdx.x * kTile + threadIdx.y;
    for (int j = 0; j < kTile; j += 8)
        if (x < m && y + j < n) out[(y + j) * m + x] = tile[threadIdx.x][threadIdx.y + j];
}

// c[m, n] = a[m, k] b[k, n] in tiles of 16 by 16. Block (16, 16).
extern "C" __global__ void tiled_gemm(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float a_tile[16][16], b_tile[16][16];
    int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 16 + ty, col = blockIdx.x * 16 + tx;
    float sum = 0;
    for (int start = 0; start < k; start += 16) {
        a_tile[ty][tx] = row < m && start + tx < k ? a[row * k + start + tx] : 0;
        b_tile[ty][tx] = start + ty < k && col < n ? b[(start + ty) * n + col] : 0;
        __syncthreads();
        for (int i = 0; i < 16; i++) sum += a_tile[ty][i] * b_tile[i][tx];
        __syncthreads();
    }
    if (row < m && col < n) c[row * n + col] = sum;
}

// Five-point stencil with a halo of one. Block (16, 16).
extern "C" __global__ void stencil(const float* in, float* out, int width, int height) {
    __shared__ float tile[18][18];
    int tx = threadIdx.x + 1, ty = threadIdx.y + 1;
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
    auto at = [&](int x, int y) { return x >= 0 && x < width && y >= 0 && y < height ? in[y * width + x] : 0.0f; };
    tile[ty][tx] = at(x, y);
    if (threadIdx.x == 0) tile[ty][0] = at(x - 1, y);
    if (threadIdx.x == 15) tile[ty][17] = at(x + 1, y);
    if (threadIdx.y == 0) tile[0][tx] = at(x, y - 1);
    if (threadIdx.y == 15) tile[17][tx] = at(x, y + 1);
    __syncthreads();
    if (x < width && y < height)
        out[y * width + x] =
            0.5f * tile[ty][tx] + 0.125f * (tile[ty][tx - 1] + tile[ty][tx + 1] + tile[ty - 1][tx] + tile[ty + 1][tx]);
}

// Sorts 256 keys a block (Batcher's bitonic network). Block 128.
extern "C" __global__ void bitonic_sort(uint32_t* keys) {
    __shared__ uint32_t s[256];
    int t = threadIdx.x;
    uint32_t* mine = keys + blockIdx.x * 256;
    s[t] = mine[t];
    s[t + 128] = mine[t + 128];
    for (int size = 2; size <= 256; size *= 2) {
        for (int stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            int low = 2 * t - (t & (stride - 1));
            bool up = (low & size) == 0;
            uint32_t x = s[low], y = s[low + stride];
            if ((x > y) == up) {
                s[low] = y;
                s[low + stride] = x;
            }
        }
    }
    __syncthreads();
    mine[t] = s[t];
    mine[t + 128] = s[t + 128];
}

// Merges two sorted arrays; each thread finds its output's place by a search on the diagonal (merge path).
extern "C" __global__ void merge(const int* a, int na, const int* b, int nb, int* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= na + nb) return;
    int low = max(0, i - nb), high = min(i, na);
    while (low < high) {
        int middle = (low + high) / 2;
        if (a[middle] <= b[i - middle - 1])
            low = middle + 1;
        else
            high = middle;
    }
    int j = i - low;
    out[i] = low < na && (j >= nb || a[low] <= b[j]) ? a[low] : b[j];
}

// A barrier of the whole grid by a counter in global memory; all blocks must be resident at once.
__device__ void grid_barrier(unsigned* counter, unsigned target) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(counter, 1);
        while (atomicAdd(counter, 0) < target) {
        }
        __threadfence();
    }
    __syncthreads();
}
// `rounds` times: x[i] = x[i - 1] + x[i + 1] over the whole array, with a barrier between rounds.
extern "C" __global__ void grid_rounds(int* x, int* y, unsigned* counter, int n, int rounds) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    for (int r = 0; r < rounds; r++) {
        if (i < n) y[i] = x[(i + n - 1) % n] + x[(i + 1) % n];
        grid_barrier(counter, gridDim.x * (2 * r + 1));
        if (i < n) x[i] = y[i];
        grid_barrier(counter, gridDim.x * (2 * r + 2));
    }
}

// A persistent kernel: blocks take tasks from a counter until none is left.
extern "C" __global__ void work_queue(const int* tasks, int* out, int* next, int n) {
    __shared__ int task;
    while (true) {
        if (threadIdx.x == 0) task = atomicAdd(next, 1);
        __syncthreads();
        int mine = task;
        __syncthreads();
        if (mine >= n) return;
        int sum = 0;
        for (int i = threadIdx.x; i < tasks[mine]; i += blockDim.x) sum += i;
        atomicAdd(&out[mine], sum);
    }
}

// Two halves of a block hand a buffer over with named barriers: producers arrive, consumers wait. Block 64.
extern "C" __global__ void named_barriers(const int* in, int* out, int n) {
    __shared__ int buffer[2][32];
    int t = threadIdx.x % 32;
    bool producer = threadIdx.x < 32;
    for (int i = 0; i < n; i++) {
        int stage = i % 2;
        if (producer) {
            if (i >= 2) asm volatile("bar.sync %0, 64;" ::"r"(3 + stage) : "memory");
            buffer[stage][t] = in[i * 32 + t];
            asm volatile("bar.arrive %0, 64;" ::"r"(1 + stage) : "memory");
        } else {
            asm volatile("bar.sync %0, 64;" ::"r"(1 + stage) : "memory");
            out[i * 32 + t] = buffer[stage][31 - t] * 2;
            if (i + 2 < n) asm volatile("bar.arrive %0, 64;" ::"r"(3 + stage) : "memory");
        }
    }
}

// Counts with barriers that reduce.
extern "C" __global__ void barrier_reductions(const int* x, int* out) {
    int v = x[blockIdx.x * blockDim.x + threadIdx.x];
    int count = __syncthreads_count(v > 0), all = __syncthreads_and(v < 1000), any = __syncthreads_or(v == 5);
    if (threadIdx.x == 0) out[blockIdx.x] = count | (all != 0) << 16 | (any != 0) << 17;
}
