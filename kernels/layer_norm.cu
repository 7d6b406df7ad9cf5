// Layer norm over the last dimension (Ba et al. 2016, arXiv:1607.06450), optionally with the residual add before it:
//     sum[t, :] = x[t, :] + delta[t, :]                  (rounded to its type; without delta, sum is x)
//     out[t, :] = (sum[t, :] - mean) * rsqrt(var + eps) * gamma + beta
// x, delta, sum, out: [num_tokens, hidden_size]    gamma, beta: f32 [hidden_size]
// A row of threads a token, a warp or more; a block of up to 16 warps takes token after token with gamma and beta in
// shared memory. The row is read once and kept in registers, so mean and variance are two passes (the second corrects
// the first's rounding, Chan et al. 1983), not E[x^2] - E[x]^2, which cancels when |mean| >> std. Rows of whole chunks
// that fit their threads' registers have a kernel of their own; what of others is beyond them is read again. Memory
// bound: 2 accesses an element.
// Launcher: src/kernels/layer_norm.rs
#include "chunk.cuh"
#include "ptx/griddep.cuh"
#include "ptx/mbarrier.cuh"
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
    uint32_t stage_parameters;  // 1: gamma and beta fit shared memory
    uint32_t fits_registers;  // 1: both, and a thread keeps its part of a row
};

// Most threads of a block: with 128 registers each a row of four chunks a thread stays in registers.
constexpr int kMaxThreads = 512;

// Chunks of the row that a thread keeps. Element by element there are eight addresses a chunk: no room for more.
template <bool kWhole>
constexpr int kKeptChunks = kWhole ? 4 : 1;

// Dynamic shared memory: gamma, then beta, each of hidden_size rounded up to 4.
extern __shared__ float smem_parameters[];

// Partial sums of the warps: one plane for the mean, two for the deviations, so that a barrier a sum is enough.
struct RowSums {
    float planes[3][kWarpSize];
};

// Sums over the threads of a row: blockDim.x of them, one warp or several.
template <int kFirstPlane, int kNumValues>
__device__ __forceinline__ void row_sum(float (&values)[kNumValues], RowSums& smem) {
#pragma unroll
    for (int v = 0; v < kNumValues; ++v) values[v] = warp_reduce<Sum>(values[v]);
    if (blockDim.x == kWarpSize) return;
    const int num_warps = blockDim.x / kWarpSize;
    const int first_warp = threadIdx.y * num_warps;
    const int lane_idx = threadIdx.x % kWarpSize;
#pragma unroll
    for (int v = 0; v < kNumValues; ++v) {
        if (lane_idx == 0) smem.planes[kFirstPlane + v][first_warp + threadIdx.x / kWarpSize] = values[v];
    }
    ptx::bar_sync(threadIdx.y, blockDim.x);
#pragma unroll
    for (int v = 0; v < kNumValues; ++v) {
        const float* partial = smem.planes[kFirstPlane + v] + first_warp;
        values[v] = warp_reduce<Sum>(lane_idx < num_warps ? partial[lane_idx] : 0.0f);
    }
}

// Gamma or beta. In shared memory the four-float groups of a chunk stand in planes, one group of every chunk each:
// neighbouring threads read neighbouring groups.
template <class T, bool kWhole>
struct Parameter {
    static constexpr int kCount = kVectorLength<T>;
    static constexpr int kGroups = kCount / 4;
    const float* gmem;
    float* smem;
    const LayerNormParams& p;

    __device__ __forceinline__ void stage() const {
        const int thread_idx = threadIdx.y * blockDim.x + threadIdx.x, num_threads = blockDim.x * blockDim.y;
        if constexpr (kWhole) {
            const int num_chunks = p.hidden_size / kCount;
            for (int group = thread_idx; group < num_chunks * kGroups; group += num_threads) {
                float values[4];
                load_vec(values, gmem + group * 4);
                store_vec(smem + (group % kGroups * num_chunks + group / kGroups) * 4, values);
            }
        } else {
            for (int i = thread_idx; i < p.hidden_size; i += num_threads) smem[i] = gmem[i];
        }
    }

    // A chunk that is in shared memory.
    __device__ __forceinline__ void load_staged(float (&values)[kCount], int chunk) const {
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            float part[4];
            load_vec(part, smem + (group * (p.hidden_size / kCount) + chunk) * 4);
#pragma unroll
            for (int i = 0; i < 4; ++i) values[group * 4 + i] = part[i];
        }
    }

    // This thread's part of the strip that begins at element `first`.
    __device__ __forceinline__ void load(float (&values)[kCount], int first) const {
        const int valid = p.hidden_size - first;
        if (!p.stage_parameters) {
            load_strip<kWhole>(values, gmem + first, threadIdx.x, blockDim.x, valid);
        } else if constexpr (kWhole) {
            const int chunk = first / kCount + threadIdx.x;
            if (chunk < p.hidden_size / kCount) load_staged(values, chunk);
        } else {
            load_strip<false>(values, smem + first, threadIdx.x, blockDim.x, valid);
        }
    }
};

// Rows of whole chunks that fit the registers of their threads, with gamma and beta in shared memory: the usual case.
// Unpacked once, nothing is guarded but a whole chunk, and the next row is asked for before this one is summed.
template <class T, bool kHasResidual>
__device__ __forceinline__ void layer_norm_in_registers(const LayerNormParams& p, RowSums& smem_sums) {
    constexpr int kCount = kVectorLength<T>;
    constexpr int kNumChunks = kKeptChunks<true>;
    const Parameter<T, true> gamma{reinterpret_cast<const float*>(p.gamma), smem_parameters, p};
    const Parameter<T, true> beta{reinterpret_cast<const float*>(p.beta), smem_parameters + p.hidden_size, p};
    const int strip_size = blockDim.x * kCount;
    const int first = threadIdx.x * kCount;
    const float per_element = 1.0f / p.hidden_size;
    const int64_t token_step = int64_t(gridDim.x) * blockDim.y;
    int64_t token_idx = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const auto exists = [&](int c) { return first + c * strip_size < p.hidden_size; };
    const auto begin = [&](uint64_t tensor, int64_t stride) {
        return reinterpret_cast<T*>(tensor) + token_idx * stride + first;
    };
    const auto chunk = [&](T* row, int c) { return reinterpret_cast<Packed<T>*>(row + c * strip_size); };
    // This thread's first chunk in its next row to read, and in its row to write
    T* next_x = begin(p.x, p.x_stride);
    T* next_delta = begin(p.delta, p.delta_stride);
    T* sum = begin(p.sum, p.sum_stride);
    T* out = begin(p.out, p.out_stride);

    Packed<T> x[kNumChunks], delta[kHasResidual ? kNumChunks : 1];
    const auto load_row = [&] {
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            if (!exists(c)) continue;
            x[c] = *chunk(next_x, c);
            if constexpr (kHasResidual) delta[c] = *chunk(next_delta, c);
        }
        next_x += token_step * p.x_stride;
        next_delta += token_step * p.delta_stride;
    };

    // Read the first row; gamma and beta while it is under way
    if (token_idx < p.num_tokens) load_row();
    gamma.stage();
    if (p.beta != 0) beta.stage();
    __syncthreads();
    for (; token_idx < p.num_tokens; token_idx += token_step) {
        // Add, write the residual stream, sum
        float values[kNumChunks][kCount];
        float sums[1] = {0.0f};
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            if (!exists(c)) continue;
            x[c].unpack(values[c]);
            if constexpr (kHasResidual) {
                float more[kCount];
                delta[c].unpack(more);
#pragma unroll
                for (int i = 0; i < kCount; ++i) values[c][i] += more[i];
                const Packed<T> rounded = Packed<T>::pack(values[c]);
                *chunk(sum, c) = rounded;
                rounded.unpack(values[c]);
            }
#pragma unroll
            for (int i = 0; i < kCount; ++i) sums[0] += values[c][i];
        }
        if (token_idx + token_step < p.num_tokens) load_row();
        row_sum<0>(sums, smem_sums);
        const float mean = sums[0] * per_element;

        // Sum the deviations and their squares. What the deviations sum to is the rounding error of the mean
        float deviations[2] = {0.0f, 0.0f};
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            if (!exists(c)) continue;
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                values[c][i] -= mean;
                deviations[0] += values[c][i];
                deviations[1] = fmaf(values[c][i], values[c][i], deviations[1]);
            }
        }
        row_sum<1>(deviations, smem_sums);
        const float mean_error = deviations[0] * per_element;
        const float variance = fmaf(-mean_error, mean_error, deviations[1] * per_element);
        const float rstd = rsqrtf(variance + p.eps);
        const float offset = -mean_error * rstd;

        // Normalise, scale, shift
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            if (!exists(c)) continue;
            float scale[kCount], shift[kCount] = {};
            gamma.load_staged(scale, threadIdx.x + c * blockDim.x);
            if (p.beta != 0) beta.load_staged(shift, threadIdx.x + c * blockDim.x);
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                values[c][i] = fmaf(fmaf(values[c][i], rstd, offset), scale[i], shift[i]);
            }
            *chunk(out, c) = Packed<T>::pack(values[c]);
        }
        sum += token_step * p.sum_stride;
        out += token_step * p.out_stride;
    }
}

// Block: x threads share a row (32 to kMaxThreads, a power of two), y rows a block.
template <class T, bool kWhole>
__device__ __forceinline__ void layer_norm(const LayerNormParams& p, RowSums& smem_sums) {
    constexpr int kCount = kVectorLength<T>;
    constexpr int kNumChunks = kKeptChunks<kWhole>;
    const int padded_size = (p.hidden_size + 3) / 4 * 4;
    const Parameter<T, kWhole> gamma{reinterpret_cast<const float*>(p.gamma), smem_parameters, p};
    const Parameter<T, kWhole> beta{reinterpret_cast<const float*>(p.beta), smem_parameters + padded_size, p};
    const int strip_size = blockDim.x * kCount;
    const int first_unkept = kNumChunks * strip_size;

    const auto row = [&](uint64_t tensor, int64_t stride, int64_t token_idx) {
        return reinterpret_cast<T*>(tensor) + token_idx * stride;
    };
    const auto load = [&](float(&values)[kCount], uint64_t tensor, int64_t stride, int64_t token_idx, int first) {
        const T* strip = row(tensor, stride, token_idx) + first;
        load_strip<kWhole>(values, strip, threadIdx.x, blockDim.x, p.hidden_size - first);
    };
    const auto store = [&](uint64_t tensor, int64_t stride, int64_t token_idx, const float(&values)[kCount], int first) {
        T* strip = row(tensor, stride, token_idx) + first;
        store_strip<kWhole>(strip, values, threadIdx.x, blockDim.x, p.hidden_size - first);
    };
    // x, plus delta where there is one, rounded to T
    const auto load_sum = [&](float(&values)[kCount], int64_t token_idx, int first) {
        load(values, p.x, p.x_stride, token_idx, first);
        if (p.delta == 0) return;
        float delta[kCount];
        load(delta, p.delta, p.delta_stride, token_idx, first);
#pragma unroll
        for (int i = 0; i < kCount; ++i) values[i] = to_float(from_float<T>(values[i] + delta[i]));
    };
    Packed<T> kept[kNumChunks];
    const auto load_kept = [&](int64_t token_idx) {
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            const int first = c * strip_size;
            const T* strip = row(p.x, p.x_stride, token_idx) + first;
            kept[c] = load_packed_strip<kWhole>(strip, threadIdx.x, blockDim.x, p.hidden_size - first);
        }
        if (p.delta == 0) return;
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            float values[kCount], delta[kCount];
            load(delta, p.delta, p.delta_stride, token_idx, c * strip_size);
            kept[c].unpack(values);
#pragma unroll
            for (int i = 0; i < kCount; ++i) values[i] += delta[i];
            kept[c] = Packed<T>::pack(values);
        }
    };

    // Read the first row; gamma and beta while it is under way
    const int64_t token_step = int64_t(gridDim.x) * blockDim.y;
    int64_t token_idx = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (token_idx < p.num_tokens) load_kept(token_idx);
    if (p.stage_parameters) {
        gamma.stage();
        if (p.beta != 0) beta.stage();
        __syncthreads();
    }
    while (token_idx < p.num_tokens) {
        // Sum, and write the residual stream. It may stand where delta or x did, so later passes read it, not them
        float sums[1] = {0.0f};
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            if (c * strip_size >= p.hidden_size) break;
            float values[kCount];
            kept[c].unpack(values);
            if (p.sum != 0) store(p.sum, p.sum_stride, token_idx, values, c * strip_size);
#pragma unroll
            for (int i = 0; i < kCount; ++i) sums[0] += values[i];
        }
        for (int first = first_unkept; first < p.hidden_size; first += strip_size) {
            float values[kCount];
            load_sum(values, token_idx, first);
            if (p.sum != 0) store(p.sum, p.sum_stride, token_idx, values, first);
#pragma unroll
            for (int i = 0; i < kCount; ++i) sums[0] += values[i];
        }
        row_sum<0>(sums, smem_sums);
        const float mean = sums[0] / p.hidden_size;
        const auto reload = [&](float(&values)[kCount], int first) {
            if (p.sum != 0) {
                load(values, p.sum, p.sum_stride, token_idx, first);
            } else {
                load_sum(values, token_idx, first);
            }
        };

        // Sum the deviations and their squares. What the deviations sum to is the rounding error of the mean
        float deviations[2] = {0.0f, 0.0f};
        const auto add_deviations = [&](const float(&values)[kCount], int first) {
            // A whole chunk is in the row or is not.
            if (kWhole && first + static_cast<int>(threadIdx.x) * kCount >= p.hidden_size) return;
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const int element = first + strip_element<kWhole, kCount>(threadIdx.x, blockDim.x, i);
                const float deviation = kWhole || element < p.hidden_size ? values[i] - mean : 0.0f;
                deviations[0] += deviation;
                deviations[1] = fmaf(deviation, deviation, deviations[1]);
            }
        };
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            if (c * strip_size >= p.hidden_size) break;
            float values[kCount];
            kept[c].unpack(values);
            add_deviations(values, c * strip_size);
        }
        for (int first = first_unkept; first < p.hidden_size; first += strip_size) {
            float values[kCount];
            reload(values, first);
            add_deviations(values, first);
        }
        row_sum<1>(deviations, smem_sums);
        const float mean_error = deviations[0] / p.hidden_size;
        const float variance = fmaf(-mean_error, mean_error, deviations[1] / p.hidden_size);
        const float rstd = 1.0f / sqrtf(variance + p.eps);

        // Normalise, scale, shift
        const auto write = [&](float(&values)[kCount], int first) {
            float scale[kCount] = {}, shift[kCount] = {};
            gamma.load(scale, first);
            if (p.beta != 0) beta.load(shift, first);
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                values[i] = fmaf((values[i] - mean - mean_error) * rstd, scale[i], shift[i]);
            }
            store(p.out, p.out_stride, token_idx, values, first);
        };
#pragma unroll
        for (int c = 0; c < kNumChunks; ++c) {
            if (c * strip_size >= p.hidden_size) break;
            float values[kCount];
            kept[c].unpack(values);
            write(values, c * strip_size);
        }
        for (int first = first_unkept; first < p.hidden_size; first += strip_size) {
            float values[kCount];
            reload(values, first);
            write(values, first);
        }
        token_idx += token_step;
        if (token_idx < p.num_tokens) load_kept(token_idx);
    }
}

template <class T>
__device__ __forceinline__ void layer_norm(const LayerNormParams& p) {
    __shared__ RowSums smem_sums;
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (p.fits_registers) {
        if (p.delta != 0) {
            layer_norm_in_registers<T, true>(p, smem_sums);
        } else {
            layer_norm_in_registers<T, false>(p, smem_sums);
        }
    } else if (p.whole_chunks) {
        layer_norm<T, true>(p, smem_sums);
    } else {
        layer_norm<T, false>(p, smem_sums);
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
