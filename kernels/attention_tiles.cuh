// What the attention kernels share: which rows and keys a block works on, and how tiles of them reach shared memory.
#pragma once

#include "ptx/cp_async.cuh"
#include "types.cuh"

struct AttentionParams {
    uint64_t out;
    uint64_t q;
    uint64_t k;
    uint64_t v;
    uint64_t kv_lengths;   // i32 [batch_size], 0: kv_len for all
    uint64_t block_table;  // i32 [batch_size, max_blocks], 0: k and v are [batch_size, kv_capacity, ...]
    int64_t out_strides[3];  // batch, token, head; in elements
    int64_t q_strides[3];
    int64_t k_strides[3];  // batch (or block), token, head
    int64_t v_strides[3];
    int32_t kv_len;
    int32_t kv_capacity;  // most keys of a sequence; kv_lengths beyond it are cut
    int32_t seq_len;
    int32_t num_kv_heads;
    int32_t heads_per_kv_head;
    int32_t head_dim;
    int32_t num_blocks;  // of the block table's pool
    int32_t block_size;
    int32_t max_blocks;
    float softmax_scale_log2;  // softmax_scale * log2(e), above 0
    uint32_t whole_chunks;     // 1: rows start at multiples of 16 bytes and consist of whole chunks
    uint32_t reserved;
};

// One key-value head of one sequence. The query heads that share it stand side by side: row r of the problem is token
// r / heads_per_kv_head, query head r % heads_per_kv_head of the group, so keys and values are read once for all.
struct Problem {
    int32_t batch_idx;
    int32_t kv_head;
    int32_t num_rows;
    int32_t kv_len;
    int32_t first_visible;  // keys that token 0 sees; may be below 0

    __device__ __forceinline__ Problem(const AttentionParams& p, int32_t index) {
        batch_idx = index / p.num_kv_heads;
        kv_head = index - batch_idx * p.num_kv_heads;
        num_rows = p.seq_len * p.heads_per_kv_head;
        kv_len = p.kv_lengths != 0 ? reinterpret_cast<const int32_t*>(p.kv_lengths)[batch_idx] : p.kv_len;
        kv_len = max(0, min(kv_len, p.kv_capacity));
        first_visible = kv_len - p.seq_len + 1;
    }

    // Keys that this row sees: a causal prefix.
    __device__ __forceinline__ int32_t visible_keys(const AttentionParams& p, int32_t row) const {
        return max(0, first_visible + row / p.heads_per_kv_head);
    }

    // Offset of a row of q or out.
    __device__ __forceinline__ int64_t row_offset(
        const AttentionParams& p, const int64_t (&strides)[3], int32_t row) const {
        const int32_t token_idx = row / p.heads_per_kv_head;
        const int32_t head = kv_head * p.heads_per_kv_head + row - token_idx * p.heads_per_kv_head;
        return batch_idx * strides[0] + token_idx * strides[1] + head * strides[2];
    }

    // Row `key` of k or v, through the block table if there is one; null where the table points nowhere.
    template <class T>
    __device__ __forceinline__ const T* kv_row(
        const AttentionParams& p, uint64_t base, const int64_t (&strides)[3], int32_t key) const {
        int32_t outer = batch_idx, inner = key;
        if (p.block_table != 0) {
            const int32_t block = key / p.block_size;
            outer = reinterpret_cast<const int32_t*>(p.block_table)[int64_t(batch_idx) * p.max_blocks + block];
            inner = key - block * p.block_size;
            if (outer < 0 || outer >= p.num_blocks) return nullptr;
        }
        return reinterpret_cast<const T*>(base) + outer * strides[0] + inner * strides[1] + kv_head * strides[2];
    }
};

// A tile of kRows rows of kHeadDim elements in shared memory, in chunks of 16 bytes.
template <class T, int kRows, int kHeadDim>
struct Tile {
    static constexpr int kChunkLength = 16 / sizeof(T);
    static constexpr int kRowChunks = kHeadDim / kChunkLength;
    // Eight rows of one column of chunks must fall into different banks: 16-bit tiles exchange chunks within a row,
    // f32 tiles, which are read by element as well, are one chunk wider.
    static constexpr bool kSwizzled = sizeof(T) == 2;
    static constexpr int kRowLength = kSwizzled ? kHeadDim : kHeadDim + kChunkLength;

    alignas(16) T elements[kRows * kRowLength];

    __device__ __forceinline__ T* chunk(int row, int chunk_idx) {
        return elements + row * kRowLength + (kSwizzled ? chunk_idx ^ (row & 7) : chunk_idx) * kChunkLength;
    }

    // Starts loading row_pointer(row), null for a row of zeros, with kThreads threads; columns past head_dim become 0.
    // Aligned rows come with cp.async (the caller commits), others element by element.
    template <int kThreads, class RowPointer>
    __device__ __forceinline__ void load(const AttentionParams& p, RowPointer row_pointer) {
        static_assert(kThreads % kRowChunks == 0);
        constexpr int kRowsAtOnce = kThreads / kRowChunks;
        const int chunk_idx = threadIdx.x % kRowChunks;
        const int column = chunk_idx * kChunkLength;
        if (p.whole_chunks) {
#pragma unroll
            for (int first_row = 0; first_row < kRows; first_row += kRowsAtOnce) {
                const int row = first_row + threadIdx.x / kRowChunks;
                if (kRows % kRowsAtOnce != 0 && row >= kRows) break;
                const T* source = row_pointer(row);
                const bool is_there = source != nullptr && column < p.head_dim;
                // cp.async of no bytes still wants an address that exists
                const void* address = is_there ? source + column : reinterpret_cast<const T*>(p.q);
                ptx::cp_async_cg_16(chunk(row, chunk_idx), address, is_there ? 16 : 0);
            }
        } else {
#pragma unroll 1
            for (int row = threadIdx.x / kRowChunks; row < kRows; row += kRowsAtOnce) {
                const T* source = row_pointer(row);
                Vec16<T> vec = {};
#pragma unroll
                for (int i = 0; i < kChunkLength; ++i) {
                    if (source != nullptr && column + i < p.head_dim) vec.values[i] = source[column + i];
                }
                *reinterpret_cast<Vec16<T>*>(chunk(row, chunk_idx)) = vec;
            }
        }
    }
};

// Shared memory of a kernel that goes through the keys tile by tile, the next tile arriving during work on this one.
template <class T, int kBlockM, int kBlockN, int kHeadDim>
struct AttentionStorage {
    Tile<T, kBlockM, kHeadDim> q;  // the output passes through it at the end
    Tile<T, kBlockN, kHeadDim> k[2];
    Tile<T, kBlockN, kHeadDim> v[2];
};

// The rows and keys of one block.
template <class T, int kBlockM, int kBlockN, int kHeadDim, int kThreads>
struct AttentionBlock {
    using Storage = AttentionStorage<T, kBlockM, kBlockN, kHeadDim>;
    const AttentionParams& p;
    Storage& smem;
    Problem problem;
    int32_t first_row;
    int32_t num_keys;            // that any row of the block sees
    int32_t num_tiles;           // of keys
    int32_t num_unmasked_tiles;  // that every row of the block sees whole

    __device__ __forceinline__ AttentionBlock(const AttentionParams& params, Storage& storage)
        : p(params), smem(storage), problem(params, blockIdx.x) {
        // The last rows see the most keys: start them first
        first_row = (gridDim.y - 1 - blockIdx.y) * kBlockM;
        num_keys = problem.visible_keys(p, min(first_row + kBlockM, problem.num_rows) - 1);
        num_tiles = (num_keys + kBlockN - 1) / kBlockN;
        num_unmasked_tiles = problem.visible_keys(p, first_row) / kBlockN;
    }

    __device__ __forceinline__ void load_q() {
        smem.q.template load<kThreads>(p, [&](int row) -> const T* {
            if (first_row + row >= problem.num_rows) return nullptr;
            return reinterpret_cast<const T*>(p.q) + problem.row_offset(p, p.q_strides, first_row + row);
        });
    }

    __device__ __forceinline__ void load_kv(int tile_idx) {
        const auto row_of = [&](uint64_t base, const int64_t(&strides)[3], int row) -> const T* {
            const int32_t key = tile_idx * kBlockN + row;
            return key < num_keys ? problem.kv_row<T>(p, base, strides, key) : nullptr;
        };
        const int stage = tile_idx % 2;
        smem.k[stage].template load<kThreads>(p, [&](int row) { return row_of(p.k, p.k_strides, row); });
        smem.v[stage].template load<kThreads>(p, [&](int row) { return row_of(p.v, p.v_strides, row); });
    }

    // Calls work(tile, k, v) for every tile in order, with the next one on its way; tile 0 is on its way already.
    template <class Work>
    __device__ __forceinline__ void for_each_tile(Work work) {
#pragma unroll 1
        for (int tile_idx = 0; tile_idx < num_tiles; ++tile_idx) {
            // Wait until the tile is here and everyone is done with the one before, then fetch into its place
            ptx::cp_async_wait_group<0>();
            __syncthreads();
            if (tile_idx + 1 < num_tiles) load_kv(tile_idx + 1);
            ptx::cp_async_commit_group();
            work(tile_idx, smem.k[tile_idx % 2], smem.v[tile_idx % 2]);
        }
    }

    // Writes kRows rows of the tile smem.q, from row `row` of the block on, with the threads of a warp.
    template <int kRows>
    __device__ __forceinline__ void store_rows(int row_begin) {
        constexpr int kRowChunks = Tile<T, kBlockM, kHeadDim>::kRowChunks;
        constexpr int kChunkLength = Tile<T, kBlockM, kHeadDim>::kChunkLength;
        for (int index = threadIdx.x % 32; index < kRows * kRowChunks; index += 32) {
            const int row = row_begin + index / kRowChunks, chunk_idx = index % kRowChunks;
            const int column = chunk_idx * kChunkLength;
            if (first_row + row >= problem.num_rows || column >= p.head_dim) continue;
            T* target = reinterpret_cast<T*>(p.out) + problem.row_offset(p, p.out_strides, first_row + row) + column;
            const Vec16<T> vec = *reinterpret_cast<const Vec16<T>*>(smem.q.chunk(row, chunk_idx));
            if (p.whole_chunks) {
                *reinterpret_cast<Vec16<T>*>(target) = vec;
            } else {
#pragma unroll
                for (int i = 0; i < kChunkLength; ++i) {
                    if (column + i < p.head_dim) target[i] = vec.values[i];
                }
            }
        }
    }
};
