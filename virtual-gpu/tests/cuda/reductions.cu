// targets: sm_80 sm_90a
// Sums, scans and searches: shuffles, votes, cooperative groups, atomics.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <stdint.h>
namespace cg = cooperative_groups;

// The sum of each row of [rows, n], one block a row: shuffles within a warp, shared memory between warps.
extern "C" __global__ void row_sums(const float* x, float* out, int n) {
    __shared__ float partial[32];
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[blockIdx.x * n + i];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0;
        for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffff, sum, offset);
        if (threadIdx.x == 0) out[blockIdx.x] = sum;
    }
}

// Softmax of each row of [rows, n], one warp a row.
extern "C" __global__ void softmax(const float* x, float* out, int rows, int n) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float largest = -INFINITY, sum = 0;
    for (int i = lane; i < n; i += 32) largest = fmaxf(largest, x[row * n + i]);
    for (int offset = 16; offset > 0; offset /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, offset));
    for (int i = lane; i < n; i += 32) sum += __expf(x[row * n + i] - largest);
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
    for (int i = lane; i < n; i += 32) out[row * n + i] = __expf(x[row * n + i] - largest) / sum;
}

// Groups of 8 lanes reduce and scan with cooperative groups, then the whole block.
extern "C" __global__ void groups(const int* x, int* sums, int* scans, int* largest) {
    cg::thread_block block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    int i = block.group_index().x * block.size() + block.thread_rank();
    int value = x[i];
    int sum = cg::reduce(tile, value, cg::plus<int>());
    if (tile.thread_rank() == 0) sums[i / 8] = sum;
    scans[i] = cg::inclusive_scan(tile, value, cg::plus<int>());
    __shared__ int best;
    if (block.thread_rank() == 0) best = INT32_MIN;
    block.sync();
    int high = __reduce_max_sync(0xffffffff, value);
    if (cg::tiled_partition<32>(block).thread_rank() == 0) atomicMax(&best, high);
    block.sync();
    if (block.thread_rank() == 0) largest[block.group_index().x] = best;
}

// Every kind of vote, match and redux.
extern "C" __global__ void votes(const uint32_t* x, uint32_t* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t v = x[i], *o = out + 8 * i;
    o[0] = __ballot_sync(0xffffffff, v & 1);
    o[1] = __any_sync(0xffffffff, v > 90) | __all_sync(0xffffffff, v < 99) << 1;
    o[2] = __match_any_sync(0xffffffff, v % 5);
    int same;
    o[3] = __match_all_sync(0xffffffff, v / 200, &same);
    o[4] = same;
    o[5] = __reduce_add_sync(0xffffffff, v) + __reduce_xor_sync(0xffffffff, v);
    o[6] = __shfl_sync(0xffffffff, v, v & 7, 8) + __shfl_up_sync(0xffffffff, v, 3);
    // A vote among the odd lanes only.
    o[7] = threadIdx.x & 1 ? __reduce_min_sync(0xaaaaaaaa, v) : __activemask();
}

// Keeps the positive elements in order within each warp's 32, and appends them by an atomic counter.
extern "C" __global__ void compact(const int* x, int* out, int* count, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    int v = i < n ? x[i] : 0;
    uint32_t keep = __ballot_sync(0xffffffff, v > 0);
    int base = 0;
    if (lane == 0) base = atomicAdd(count, __popc(keep));
    base = __shfl_sync(0xffffffff, base, 0);
    if (v > 0) out[base + __popc(keep & ((1u << lane) - 1))] = v;
}

// Inclusive scan of one block's elements in shared memory (Hillis and Steele).
extern "C" __global__ void block_scan(const int* x, int* out) {
    extern __shared__ int buffer[];
    int t = threadIdx.x, n = blockDim.x;
    buffer[t] = x[blockIdx.x * n + t];
    __syncthreads();
    for (int offset = 1; offset < n; offset *= 2) {
        int v = t >= offset ? buffer[t - offset] : 0;
        __syncthreads();
        buffer[t] += v;
        __syncthreads();
    }
    out[blockIdx.x * n + t] = buffer[t];
}

// Scan of the whole array in one pass with decoupled look-back (Merrill and Garland 2016): each block publishes its
// total, then its running total, as flag << 32 | value. Blocks take their number in the order they start.
extern "C" __global__ void look_back_scan(const int* x, int* out, unsigned long long* state, int* next, int n) {
    __shared__ int block_idx, exclusive;
    __shared__ int buffer[128];
    int t = threadIdx.x;
    if (t == 0) block_idx = atomicAdd(next, 1);
    __syncthreads();
    int i = block_idx * 128 + t;
    buffer[t] = i < n ? x[i] : 0;
    __syncthreads();
    for (int offset = 1; offset < 128; offset *= 2) {
        int v = t >= offset ? buffer[t - offset] : 0;
        __syncthreads();
        buffer[t] += v;
        __syncthreads();
    }
    if (t == 0) {
        int total = buffer[127], running = 0;
        const unsigned long long kTotal = 1ull << 32, kPrefix = 2ull << 32;
        if (block_idx > 0) {
            atomicExch(&state[block_idx], kTotal | uint32_t(total));
            for (int before = block_idx - 1; before >= 0;) {
                unsigned long long s = atomicAdd(&state[before], 0ull);
                if (s == 0) continue;
                running += int(uint32_t(s));
                if (s >= kPrefix) break;
                before--;
            }
        }
        atomicExch(&state[block_idx], kPrefix | uint32_t(running + total));
        exclusive = running;
    }
    __syncthreads();
    if (i < n) out[i] = buffer[t] + exclusive;
}

// Counts of 64 bins: in shared memory first, then added to the global ones.
extern "C" __global__ void histogram(const uint8_t* x, uint32_t* bins, int n) {
    __shared__ uint32_t counts[64];
    for (int b = threadIdx.x; b < 64; b += blockDim.x) counts[b] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&counts[x[i] & 63], 1);
    __syncthreads();
    for (int b = threadIdx.x; b < 64; b += blockDim.x) atomicAdd(&bins[b], counts[b]);
}

// All atomic operations on one word each; f64 maximum by compare-and-swap.
extern "C" __global__ void atomics(const int* x, int* ints, float* floats, double* doubles, unsigned long long* longs) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, v = x[i];
    atomicAdd(&ints[0], v);
    atomicMin(&ints[1], v);
    atomicMax(&ints[2], v);
    atomicAnd(&ints[3], v | 0xf0);
    atomicOr(&ints[4], v);
    atomicXor(&ints[5], v);
    atomicInc(reinterpret_cast<unsigned*>(&ints[6]), 99);
    atomicDec(reinterpret_cast<unsigned*>(&ints[7]), 50);
    atomicExch(&ints[8], 7);
    atomicSub(&ints[9], v);
    atomicAdd(&floats[0], float(v));
    atomicAdd(&doubles[0], double(v));
    atomicAdd(&longs[0], 1ull << 33);
    unsigned long long* word = reinterpret_cast<unsigned long long*>(&doubles[1]);
    unsigned long long seen = 0;  // the host's initial value
    while (__longlong_as_double(seen) < v) {
        unsigned long long before = atomicCAS(word, seen, __double_as_longlong(double(v)));
        if (before == seen) break;
        seen = before;
    }
    __syncthreads();
    atomicAdd_block(&ints[blockIdx.x == 0 ? 10 : 12], 1);
    atomicAdd_system(&ints[11], 2);
}
