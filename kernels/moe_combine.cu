// Weighted sum of each token's expert outputs (Shazeer et al. 2017, arXiv:1701.06538):
//     out[t, :] = residual[t, :] + sum_j weights[t, j] * expert_out[slots[t, j], :]
// out, residual: [num_tokens, hidden_size]    expert_out: [max_rows, hidden_size]    slots, weights: [num_tokens, k]
// Each token gathers its own rows, always in the order of j, so that the sum needs no atomics and repeats bit by bit.
// A dropped assignment (slot -1) adds nothing. Memory bound: k + 2 rows of traffic a token.
// Launcher: src/kernels/moe_combine.rs
#include "chunk.cuh"
#include "ptx/griddep.cuh"

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

constexpr int kMaxThreads = 256;
constexpr int kMaxAssignments = 1024;  // of a block's tokens
constexpr int kUnroll = 4;             // expert rows under way for each thread

struct Assignments {
    int32_t slots[kMaxAssignments];
    float weights[kMaxAssignments];
};

// Block: x threads share a row, y rows a block.
template <class T, bool kWhole>
__device__ __forceinline__ void moe_combine(const MoeCombineParams& p, Assignments& smem) {
    constexpr int kCount = kVectorLength<T>;

    // Read slots and weights of the block's tokens, each once; a slot that is no row becomes -1
    const int k = p.num_experts_per_token;
    const int64_t first_token = int64_t(blockIdx.x) * blockDim.y;
    const int num_assignments = int(min(int64_t(blockDim.y), p.num_tokens - first_token)) * k;
    const int32_t* slots = reinterpret_cast<const int32_t*>(p.slots) + first_token * k;
    const float* weights = reinterpret_cast<const float*>(p.weights) + first_token * k;
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < num_assignments; i += blockDim.x * blockDim.y) {
        const int32_t slot = slots[i];
        smem.slots[i] = slot < p.max_rows ? slot : -1;
        smem.weights[i] = weights[i];
    }
    __syncthreads();
    const int64_t token_idx = first_token + threadIdx.y;
    if (token_idx >= p.num_tokens) return;
    const T* expert_out = reinterpret_cast<const T*>(p.expert_out);
    const T* residual_row = reinterpret_cast<const T*>(p.residual) + token_idx * p.residual_stride;
    T* out_row = reinterpret_cast<T*>(p.out) + token_idx * p.out_stride;

    for (int first = 0; first < p.hidden_size; first += blockDim.x * kCount) {
        const int valid = p.hidden_size - first;
        float residual[kCount] = {};
        if (p.residual != 0) {
            load_strip<kWhole>(residual, residual_row + first, threadIdx.x, blockDim.x, valid);
        }
        float accum[kCount] = {};
        for (int first_j = 0; first_j < k; first_j += kUnroll) {
            Packed<T> rows[kUnroll];
            int32_t row_slots[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                row_slots[u] = first_j + u < k ? smem.slots[threadIdx.y * k + first_j + u] : -1;
                if (row_slots[u] < 0) continue;
                const T* strip = expert_out + row_slots[u] * p.expert_out_stride + first;
                rows[u] = load_packed_strip<kWhole>(strip, threadIdx.x, blockDim.x, valid);
            }
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                if (row_slots[u] < 0) continue;
                float values[kCount];
                rows[u].unpack(values);
                const float weight = smem.weights[threadIdx.y * k + first_j + u];
#pragma unroll
                for (int i = 0; i < kCount; ++i) accum[i] = fmaf(weight, values[i], accum[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < kCount; ++i) accum[i] += residual[i];
        store_strip<kWhole>(out_row + first, accum, threadIdx.x, blockDim.x, valid);
    }
}

template <class T>
__device__ __forceinline__ void moe_combine(const MoeCombineParams& p) {
    __shared__ Assignments smem;
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (p.whole_chunks) {
        moe_combine<T, true>(p, smem);
    } else {
        moe_combine<T, false>(p, smem);
    }
}

extern "C" __global__ void __launch_bounds__(kMaxThreads)
    moe_combine_f32(const __grid_constant__ MoeCombineParams p) {
    moe_combine<float>(p);
}
extern "C" __global__ void __launch_bounds__(kMaxThreads)
    moe_combine_bf16(const __grid_constant__ MoeCombineParams p) {
    moe_combine<Bf16>(p);
}
extern "C" __global__ void __launch_bounds__(kMaxThreads)
    moe_combine_f16(const __grid_constant__ MoeCombineParams p) {
    moe_combine<F16>(p);
}
