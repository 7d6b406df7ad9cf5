// Weighted sum of each token's expert outputs (Shazeer et al. 2017, arXiv:1701.06538):
//     out[t, :] = residual[t, :] + sum_j weights[t, j] * expert_out[slots[t, j], :]
// out, residual: [num_tokens, hidden_size]    expert_out: [max_rows, hidden_size]    slots, weights: [num_tokens, k]
// Each token gathers its own rows, always in the order of j, so that the sum needs no atomics and repeats bit by bit.
// A dropped assignment (slot -1) adds nothing. Memory bound: k + 2 rows of traffic a token.
// Launcher: src/kernels/moe_combine.rs
#include "chunk.cuh"

struct MoeCombineParams {
    uint64_t out;
    uint64_t expert_out;
    uint64_t slots;
    uint64_t weights;
    uint64_t residual;  // 0: none; may be `out`
    int64_t out_stride;  // strides in elements
    int64_t expert_out_stride;
    int64_t residual_stride;
    int64_t num_tokens;
    int32_t max_rows;
    int32_t hidden_size;
    int32_t num_experts_per_token;
    uint32_t whole_chunks;  // 1: rows start at multiples of 16 bytes and consist of whole chunks
};

// Block: x threads share a row, y rows a block.
template <class T, bool kWhole>
__device__ __forceinline__ void moe_combine(const MoeCombineParams& p) {
    constexpr int kCount = kVectorLength<T>;
    const int64_t token_idx = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (token_idx >= p.num_tokens) return;
    const int32_t* slots = reinterpret_cast<const int32_t*>(p.slots) + token_idx * p.num_experts_per_token;
    const float* weights = reinterpret_cast<const float*>(p.weights) + token_idx * p.num_experts_per_token;
    const T* expert_out = reinterpret_cast<const T*>(p.expert_out);
    const T* residual_row = reinterpret_cast<const T*>(p.residual) + token_idx * p.residual_stride;
    T* out_row = reinterpret_cast<T*>(p.out) + token_idx * p.out_stride;

    for (int first = threadIdx.x * kCount; first < p.hidden_size; first += blockDim.x * kCount) {
        const int valid = p.hidden_size - first;
        float accum[kCount] = {};
        for (int j = 0; j < p.num_experts_per_token; ++j) {
            const int32_t slot = slots[j];
            if (slot < 0 || slot >= p.max_rows) continue;
            const float weight = weights[j];
            float row[kCount];
            load_chunk<kWhole>(row, expert_out + slot * p.expert_out_stride + first, valid);
#pragma unroll
            for (int i = 0; i < kCount; ++i) accum[i] = fmaf(weight, row[i], accum[i]);
        }
        if (p.residual != 0) {
            float row[kCount];
            load_chunk<kWhole>(row, residual_row + first, valid);
#pragma unroll
            for (int i = 0; i < kCount; ++i) accum[i] += row[i];
        }
        store_chunk<kWhole>(out_row + first, accum, valid);
    }
}

template <class T>
__device__ __forceinline__ void moe_combine(const MoeCombineParams& p) {
    if (p.whole_chunks) {
        moe_combine<T, true>(p);
    } else {
        moe_combine<T, false>(p);
    }
}

extern "C" __global__ void moe_combine_f32(const __grid_constant__ MoeCombineParams p) {
    moe_combine<float>(p);
}
extern "C" __global__ void moe_combine_bf16(const __grid_constant__ MoeCombineParams p) {
    moe_combine<Bf16>(p);
}
extern "C" __global__ void moe_combine_f16(const __grid_constant__ MoeCombineParams p) {
    moe_combine<F16>(p);
}
