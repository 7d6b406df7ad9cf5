// Token plus position embedding (Radford et al. 2019, GPT-2):
//     out[b, t, :] = token_table[token_ids[b, t], :] + position_table[position, :]
//     position = first_position + first_positions[b] + t
// out: [batch_size, seq_len, hidden_size]    token_ids, first_positions: i32 [batch_size, seq_len], [batch_size]
// token_table: [vocab_size, hidden_size]     position_table: [num_positions, hidden_size]
// A row of threads a token, 16 bytes a thread. An id or position outside its table gives a row of NaN instead of a
// read out of bounds. Memory bound: three rows of traffic a token.
// Launcher: src/kernels/embedding.rs
#include "chunk.cuh"

struct EmbeddingParams {
    uint64_t out;
    uint64_t token_ids;
    uint64_t token_table;
    uint64_t position_table;
    uint64_t first_positions;  // 0: none
    int64_t first_position;
    int64_t out_batch_stride;  // strides in elements
    int64_t out_token_stride;
    int64_t token_table_stride;
    int64_t position_table_stride;
    int64_t vocab_size;
    int64_t num_positions;
    int64_t num_tokens;  // batch_size * seq_len
    int64_t seq_len;
    int32_t hidden_size;
    uint32_t whole_chunks;  // 1: rows start at multiples of 16 bytes and consist of whole chunks
};

// Block: x threads share a row, y rows a block.
template <class T, bool kWhole>
__device__ __forceinline__ void embedding(const EmbeddingParams& p) {
    constexpr int kCount = kVectorLength<T>;
    const int64_t token_idx = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (token_idx >= p.num_tokens) return;

    // Find the rows
    const int64_t batch_idx = token_idx / p.seq_len;
    const int64_t seq_idx = token_idx - batch_idx * p.seq_len;
    const int64_t token_id = reinterpret_cast<const int32_t*>(p.token_ids)[token_idx];
    int64_t position = p.first_position + seq_idx;
    if (p.first_positions != 0) position += reinterpret_cast<const int32_t*>(p.first_positions)[batch_idx];
    const bool known =
        token_id >= 0 && token_id < p.vocab_size && position >= 0 && position < p.num_positions;
    const T* token_row = reinterpret_cast<const T*>(p.token_table) + (known ? token_id : 0) * p.token_table_stride;
    const T* position_row =
        reinterpret_cast<const T*>(p.position_table) + (known ? position : 0) * p.position_table_stride;
    T* out_row = reinterpret_cast<T*>(p.out) + batch_idx * p.out_batch_stride + seq_idx * p.out_token_stride;

    // Add them chunk by chunk
    for (int first = threadIdx.x * kCount; first < p.hidden_size; first += blockDim.x * kCount) {
        const int valid = p.hidden_size - first;
        float token[kCount] = {}, position_value[kCount] = {};
        if (known) {
            load_chunk<kWhole>(token, token_row + first, valid);
            load_chunk<kWhole>(position_value, position_row + first, valid);
        }
#pragma unroll
        for (int i = 0; i < kCount; ++i) token[i] = known ? token[i] + position_value[i] : nanf("");
        store_chunk<kWhole>(out_row + first, token, valid);
    }
}

template <class T>
__device__ __forceinline__ void embedding(const EmbeddingParams& p) {
    if (p.whole_chunks) {
        embedding<T, true>(p);
    } else {
        embedding<T, false>(p);
    }
}

extern "C" __global__ void embedding_f32(const __grid_constant__ EmbeddingParams p) { embedding<float>(p); }
extern "C" __global__ void embedding_bf16(const __grid_constant__ EmbeddingParams p) { embedding<Bf16>(p); }
extern "C" __global__ void embedding_f16(const __grid_constant__ EmbeddingParams p) { embedding<F16>(p); }
