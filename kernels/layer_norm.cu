// Layer norm over the last dimension (Ba et al. 2016, arXiv:1607.06450), optionally with the residual add before it:
//     sum[t, :] = x[t, :] + delta[t, :]                  (rounded to its type; without delta, sum is x)
//     out[t, :] = (sum[t, :] - mean) * rsqrt(var + eps) * gamma + beta
// x, delta, sum, out: [num_tokens, hidden_size]    gamma, beta: f32 [hidden_size]
// One row of threads a token: a warp up to 1,024 two-byte elements, then a block. The row is read once and kept in
// registers, so mean and variance are two passes (the second corrects the first's rounding, Chan et al. 1983), not
// E[x^2] - E[x]^2, which cancels when |mean| >> std. What of a row is beyond a block's registers is read again.
// Memory bound: 2 accesses an element.
// Launcher: src/kernels/layer_norm.rs
#include "chunk.cuh"
#include "reduce.cuh"

struct LayerNormParams {
    uint64_t out;
    uint64_t x;
    uint64_t delta;  // 0: none
    uint64_t sum;    // 0: none
    uint64_t gamma;
    uint64_t beta;  // 0: none
    int64_t out_stride;  // strides in elements
    int64_t x_stride;
    int64_t delta_stride;
    int64_t sum_stride;
    int64_t num_tokens;
    int32_t hidden_size;
    float eps;
    uint32_t whole_chunks;  // 1: rows, gamma and beta start at multiples of 16 bytes and consist of whole chunks
    uint32_t reserved;
};

// Most threads of a block: 128 registers each hold 32 elements without spilling.
constexpr int kMaxThreads = 512;

// Elements of the row that a thread keeps.
constexpr int kElementsPerThread = 32;

// Sum over the threads of a row: blockDim.x of them, a warp or the whole block.
__device__ __forceinline__ float row_sum(float value, float (&smem_partial)[kWarpSize]) {
    value = warp_reduce<Sum>(value);
    if (blockDim.x == kWarpSize) return value;
    __syncthreads();  // the previous sum has been read
    if (threadIdx.x % kWarpSize == 0) smem_partial[threadIdx.x / kWarpSize] = value;
    __syncthreads();
    const int lane_idx = threadIdx.x % kWarpSize;
    return warp_reduce<Sum>(lane_idx < int(blockDim.x) / kWarpSize ? smem_partial[lane_idx] : 0.0f);
}

// The chunk of `sum` at `first`: x, plus delta when there is one, rounded to T.
template <class T, bool kWhole>
__device__ __forceinline__ void load_sum(
    float (&values)[kVectorLength<T>], const T* x_row, const T* delta_row, int first, const LayerNormParams& p) {
    const int valid = p.hidden_size - first;
    load_chunk<kWhole>(values, x_row + first, valid);
    if (p.delta != 0) {
        float delta[kVectorLength<T>];
        load_chunk<kWhole>(delta, delta_row + first, valid);
#pragma unroll
        for (int i = 0; i < kVectorLength<T>; ++i) values[i] = to_float(from_float<T>(values[i] + delta[i]));
    }
}

// Block: x threads share a row (32 to kMaxThreads), y rows a block (1 unless x is 32).
template <class T, bool kWhole>
__device__ __forceinline__ void layer_norm(const LayerNormParams& p) {
    constexpr int kCount = kVectorLength<T>;
    constexpr int kNumChunks = kElementsPerThread / kCount;
    __shared__ float smem_partial[kWarpSize];

    const int64_t token_idx = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (token_idx >= p.num_tokens) return;  // a whole warp, or none: y > 1 only where a warp is a row
    const T* x_row = reinterpret_cast<const T*>(p.x) + token_idx * p.x_stride;
    const T* delta_row = reinterpret_cast<const T*>(p.delta) + token_idx * p.delta_stride;
    T* sum_row = reinterpret_cast<T*>(p.sum) + token_idx * p.sum_stride;
    T* out_row = reinterpret_cast<T*>(p.out) + token_idx * p.out_stride;
    const float* gamma = reinterpret_cast<const float*>(p.gamma);
    const float* beta = reinterpret_cast<const float*>(p.beta);
    const int chunk_step = blockDim.x * kCount;
    const int thread_first = threadIdx.x * kCount;
    const int first_unkept = thread_first + kNumChunks * chunk_step;

    // Read the row, add the residual, sum
    float kept[kNumChunks][kCount];
    float partial = 0.0f;
#pragma unroll
    for (int c = 0; c < kNumChunks; ++c) {
        const int first = thread_first + c * chunk_step;
#pragma unroll
        for (int i = 0; i < kCount; ++i) kept[c][i] = 0.0f;
        if (first < p.hidden_size) load_sum<T, kWhole>(kept[c], x_row, delta_row, first, p);
    }
#pragma unroll
    for (int c = 0; c < kNumChunks; ++c) {
        const int first = thread_first + c * chunk_step;
        if (p.sum != 0 && first < p.hidden_size) store_chunk<kWhole>(sum_row + first, kept[c], p.hidden_size - first);
#pragma unroll
        for (int i = 0; i < kCount; ++i) partial += kept[c][i];
    }
    for (int first = first_unkept; first < p.hidden_size; first += chunk_step) {
        float values[kCount];
        load_sum<T, kWhole>(values, x_row, delta_row, first, p);
        // delta may be overwritten by sum, so later passes read sum, which this thread wrote
        if (p.sum != 0) store_chunk<kWhole>(sum_row + first, values, p.hidden_size - first);
#pragma unroll
        for (int i = 0; i < kCount; ++i) partial += values[i];
    }
    const float mean = row_sum(partial, smem_partial) / p.hidden_size;

    // Sum the deviations and their squares. What the deviations sum to is the rounding error of the mean
    const auto reload = [&](float (&values)[kCount], int first) {
        if (p.sum != 0) {
            load_chunk<kWhole>(values, static_cast<const T*>(sum_row) + first, p.hidden_size - first);
        } else {
            load_sum<T, kWhole>(values, x_row, delta_row, first, p);
        }
    };
    float partial_squares = 0.0f;
    const auto add_deviations = [&](const float (&values)[kCount], int first) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const float deviation = first + i < p.hidden_size ? values[i] - mean : 0.0f;
            partial += deviation;
            partial_squares = fmaf(deviation, deviation, partial_squares);
        }
    };
    partial = 0.0f;
#pragma unroll
    for (int c = 0; c < kNumChunks; ++c) add_deviations(kept[c], thread_first + c * chunk_step);
    for (int first = first_unkept; first < p.hidden_size; first += chunk_step) {
        float values[kCount];
        reload(values, first);
        add_deviations(values, first);
    }
    const float mean_error = row_sum(partial, smem_partial) / p.hidden_size;
    const float mean_square = row_sum(partial_squares, smem_partial) / p.hidden_size;
    const float rstd = 1.0f / sqrtf(fmaf(-mean_error, mean_error, mean_square) + p.eps);

    // Normalise, scale, shift
    const auto write = [&](const float (&values)[kCount], int first) {
        const int valid = p.hidden_size - first;
        float scale[kCount], shift[kCount] = {};
        load_chunk<kWhole>(scale, gamma + first, valid);
        if (p.beta != 0) load_chunk<kWhole>(shift, beta + first, valid);
        float normed[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i) normed[i] = fmaf((values[i] - mean - mean_error) * rstd, scale[i], shift[i]);
        store_chunk<kWhole>(out_row + first, normed, valid);
    };
#pragma unroll
    for (int c = 0; c < kNumChunks; ++c) {
        const int first = thread_first + c * chunk_step;
        if (first < p.hidden_size) write(kept[c], first);
    }
    for (int first = first_unkept; first < p.hidden_size; first += chunk_step) {
        float values[kCount];
        reload(values, first);
        write(values, first);
    }
}

template <class T>
__device__ __forceinline__ void layer_norm(const LayerNormParams& p) {
    if (p.whole_chunks) {
        layer_norm<T, true>(p);
    } else {
        layer_norm<T, false>(p);
    }
}

extern "C" __global__ void __launch_bounds__(kMaxThreads, 1) layer_norm_f32(const __grid_constant__ LayerNormParams p) {
    layer_norm<float>(p);
}
extern "C" __global__ void __launch_bounds__(kMaxThreads, 1) layer_norm_bf16(const __grid_constant__ LayerNormParams p) {
    layer_norm<Bf16>(p);
}
extern "C" __global__ void __launch_bounds__(kMaxThreads, 1) layer_norm_f16(const __grid_constant__ LayerNormParams p) {
    layer_norm<F16>(p);
}
