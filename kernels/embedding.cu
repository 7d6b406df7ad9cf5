// Token plus position embedding (Radford et al. 2019, GPT-2):
//     out[b, t, :] = token_table[token_ids[b, t], :] + position_table[position, :]
//     position = first_position + first_positions[b] + t
// out: [batch_size, seq_len, hidden_size]    token_ids, first_positions: i32 [batch_size, seq_len], [batch_size]
// token_table: [vocab_size, hidden_size]     position_table: [num_positions, hidden_size]
// A row of threads has the tokens at one position of a few sequences of the batch, 16 bytes a thread at a time, so that
// the row of positions is read once for them all. An id or position outside its table gives a row of NaN instead of a
// read out of bounds. Memory bound: two to three rows of traffic a token.
// Launcher: src/kernels/embedding.rs
#include "chunk.cuh"
#include "ptx/griddep.cuh"

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
    int64_t batch_size;
    int64_t seq_len;
    int64_t num_rows;  // seq_len * ceil(batch_size / run): rows of threads
    int32_t run;       // sequences of the batch that a row of threads has, up to kMaxRun
    int32_t hidden_size;
    uint32_t whole_chunks;  // 1: rows start at multiples of 16 bytes and consist of whole chunks
    uint32_t reserved;
};

constexpr int kMaxThreads = 256;
constexpr int kMaxRun = 8;

// Rows of the two tables; -1 where either has none.
struct TableRows {
    int32_t token;
    int32_t position;
};

// Block: x threads share a row, y rows a block.
template <class T, bool kWhole>
__device__ __forceinline__ void embedding(const EmbeddingParams& p, TableRows* smem_rows) {
    constexpr int kCount = kVectorLength<T>;

    // Find the rows of the block's tokens, each once
    const int num_threads = blockDim.x * blockDim.y;
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < int(p.run * blockDim.y); i += num_threads) {
        const int64_t row_idx = int64_t(blockIdx.x) * blockDim.y + i % blockDim.y;
        const int64_t seq_idx = row_idx % p.seq_len;
        const int64_t batch_idx = row_idx / p.seq_len * p.run + i / blockDim.y;
        if (row_idx >= p.num_rows || batch_idx >= p.batch_size) continue;
        const int32_t token_id = reinterpret_cast<const int32_t*>(p.token_ids)[batch_idx * p.seq_len + seq_idx];
        int64_t position = p.first_position + seq_idx;
        if (p.first_positions != 0) position += reinterpret_cast<const int32_t*>(p.first_positions)[batch_idx];
        const bool known =
            token_id >= 0 && token_id < p.vocab_size && position >= 0 && position < p.num_positions;
        smem_rows[i] = known ? TableRows{token_id, int32_t(position)} : TableRows{-1, -1};
    }
    __syncthreads();
    const int64_t row_idx = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row_idx >= p.num_rows) return;
    const int64_t seq_idx = row_idx % p.seq_len;
    const int64_t first_batch = row_idx / p.seq_len * p.run;
    const int run = int(min(int64_t(p.run), p.batch_size - first_batch));
    const T* token_table = reinterpret_cast<const T*>(p.token_table);
    const T* position_table = reinterpret_cast<const T*>(p.position_table);
    T* out = reinterpret_cast<T*>(p.out) + first_batch * p.out_batch_stride + seq_idx * p.out_token_stride;

    // Add them strip by strip: all tokens under way before the first is used
    for (int first = 0; first < p.hidden_size; first += blockDim.x * kCount) {
        const int valid = p.hidden_size - first;
        Packed<T> tokens[kMaxRun];
#pragma unroll
        for (int r = 0; r < kMaxRun; ++r) {
            if (r >= run) break;
            const int32_t token = max(smem_rows[r * blockDim.y + threadIdx.y].token, 0);
            const T* strip = token_table + token * p.token_table_stride + first;
            tokens[r] = load_packed_strip<kWhole>(strip, threadIdx.x, blockDim.x, valid);
        }
        float position_values[kCount];
        int32_t loaded = -1;
#pragma unroll
        for (int r = 0; r < kMaxRun; ++r) {
            if (r >= run) break;
            const int32_t position = smem_rows[r * blockDim.y + threadIdx.y].position;
            if (position >= 0 && position != loaded) {
                loaded = position;
                const T* strip = position_table + position * p.position_table_stride + first;
                load_strip<kWhole>(position_values, strip, threadIdx.x, blockDim.x, valid);
            }
            float values[kCount];
            tokens[r].unpack(values);
#pragma unroll
            for (int i = 0; i < kCount; ++i) values[i] = position >= 0 ? values[i] + position_values[i] : nanf("");
            T* strip = out + r * p.out_batch_stride + first;
            store_strip<kWhole>(strip, values, threadIdx.x, blockDim.x, valid);
        }
    }
}

template <class T>
__device__ __forceinline__ void embedding(const EmbeddingParams& p) {
    __shared__ TableRows smem_rows[kMaxRun * kMaxThreads];  // [run, y]
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (p.whole_chunks) {
        embedding<T, true>(p, smem_rows);
    } else {
        embedding<T, false>(p, smem_rows);
    }
}

extern "C" __global__ void __launch_bounds__(kMaxThreads)
    embedding_f32(const __grid_constant__ EmbeddingParams p) {
    embedding<float>(p);
}
extern "C" __global__ void __launch_bounds__(kMaxThreads)
    embedding_bf16(const __grid_constant__ EmbeddingParams p) {
    embedding<Bf16>(p);
}
extern "C" __global__ void __launch_bounds__(kMaxThreads)
    embedding_f16(const __grid_constant__ EmbeddingParams p) {
    embedding<F16>(p);
}
