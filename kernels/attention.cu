// Causal scaled-dot-product attention, fused (FlashAttention-2, Dao 2023, arXiv:2307.08691):
//     out[b, t, h, :] = softmax(softmax_scale * q[b, t, h, :] · k[b, :n, h', :]^T) · v[b, :n, h', :]
//     n = kv_len - seq_len + t + 1: the last query stands at the last key    h' = h / (num_heads / num_kv_heads)
// q, out: [batch_size, seq_len, num_heads, head_dim]    k, v: [batch_size, kv_capacity, num_kv_heads, head_dim], or
// [num_blocks, block_size, num_kv_heads, head_dim] behind a block table. Any strides but the last.
// A block takes a tile of queries and walks over tiles of keys, keeping a running maximum and sum of each row, so the
// scores never leave registers. Tiles behind the last visible key are not visited; only the tiles on the diagonal are
// masked. A row's bits depend on its keys alone, not on the tile it falls into. Two kernels: tensor cores for 16-bit
// types, FFMA for f32. Compute bound. A few rows over many keys are attention_decode.cuh's.
// Launcher: src/kernels/attention.rs
#include <type_traits>

#include "attention_tiles.cuh"
#include "online_softmax.cuh"
#include "ptx/griddep.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

extern __shared__ uint8_t smem_bytes[];

template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (std::is_same_v<T, Bf16>) {
        ptx::mma_m16n8k16_bf16(d, a, b0, b1);
    } else {
        ptx::mma_m16n8k16_f16(d, a, b0, b1);
    }
}

// ---- 16-bit types: a warp has 16 rows of queries --------------------------------------------------------------------

template <int kHeadDim_>
struct MmaConfig {
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kNumWarps = 4;
    static constexpr int kThreads = kNumWarps * kWarpSize;
    static constexpr int kBlockM = kNumWarps * 16;
    static constexpr int kBlockN = kHeadDim <= 128 ? 64 : 32;  // two stages of 64 do not fit 99 KiB at 256
    static constexpr bool kKeepQ = kHeadDim <= 128;            // in registers; at 256 the output needs them
};

template <class T, class Config>
__device__ __forceinline__ void attention_mma(const AttentionParams& p) {
    constexpr int kHeadDim = Config::kHeadDim, kBlockN = Config::kBlockN;
    constexpr int kScoreTiles = kBlockN / 8, kOutTiles = kHeadDim / 8, kHeadSteps = kHeadDim / 16;
    using Block = AttentionBlock<T, Config::kBlockM, kBlockN, kHeadDim, Config::kThreads>;
    using KvTile = Tile<T, kBlockN, kHeadDim>;
    auto& smem = *reinterpret_cast<typename Block::Storage*>(smem_bytes);
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    Block block(p, smem);
    const int lane_idx = threadIdx.x % kWarpSize;
    const int warp_row = threadIdx.x / kWarpSize * 16;
    const int lane_row = warp_row + lane_idx / 4;  // and lane_row + 8

    float out[kOutTiles][4] = {};
    OnlineSoftmax softmax[2];
    int32_t visible[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) visible[r] = block.problem.visible_keys(p, block.first_row + lane_row + 8 * r);

    // Load queries and the first tile of keys
    uint32_t q_fragments[Config::kKeepQ ? kHeadSteps : 1][4];
    const auto load_q_fragment = [&](uint32_t(&fragment)[4], int step) {
        ptx::ldmatrix_x4(fragment, smem.q.chunk(warp_row + lane_idx % 16, 2 * step + lane_idx / 16));
    };
    if (block.num_tiles > 0) {
        block.load_q();
        block.load_kv(0);
        ptx::cp_async_commit_group();
        if constexpr (Config::kKeepQ) {
            ptx::cp_async_wait_group<0>();
            __syncthreads();
#pragma unroll
            for (int step = 0; step < kHeadSteps; ++step) load_q_fragment(q_fragments[step], step);
        }
    }

    const auto work = [&](int tile_idx, KvTile& k, KvTile& v, auto is_masked) {
        // Scores = q · k^T
        float scores[kScoreTiles][4] = {};
#pragma unroll
        for (int step = 0; step < kHeadSteps; ++step) {
            uint32_t(&q)[4] = q_fragments[Config::kKeepQ ? step : 0];
            if constexpr (!Config::kKeepQ) load_q_fragment(q, step);
#pragma unroll
            for (int n = 0; n < kScoreTiles; n += 2) {
                uint32_t b[4];
                const int key = 8 * n + lane_idx % 8 + lane_idx / 16 * 8;
                ptx::ldmatrix_x4(b, k.chunk(key, 2 * step + lane_idx / 8 % 2));
                mma<T>(scores[n], q, b[0], b[1]);
                mma<T>(scores[n + 1], q, b[2], b[3]);
            }
        }

        // Hide what stands behind the query
        if constexpr (decltype(is_masked)::value) {
#pragma unroll
            for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int32_t key = tile_idx * kBlockN + 8 * n + lane_idx % 4 * 2 + i % 2;
                    if (key >= visible[i / 2]) scores[n][i] = -INFINITY;
                }
            }
        }

        // Turn scores into weights, and bring the output to the new maximum
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const auto score = [&](int i) -> float& { return scores[i / 2][2 * r + i % 2]; };
            const float correction = softmax[r].template update<2 * kScoreTiles, 4>(score, p.softmax_scale_log2);
#pragma unroll
            for (int d = 0; d < kOutTiles; ++d) {
                out[d][2 * r] *= correction;
                out[d][2 * r + 1] *= correction;
            }
        }

        // out += weights · v; two tiles of scores have the layout of one operand a
#pragma unroll
        for (int step = 0; step < kBlockN / 16; ++step) {
            const float(&left)[4] = scores[2 * step], (&right)[4] = scores[2 * step + 1];
            const uint32_t weights[4] = {pack2<T>(left[0], left[1]), pack2<T>(left[2], left[3]),
                                         pack2<T>(right[0], right[1]), pack2<T>(right[2], right[3])};
#pragma unroll
            for (int d = 0; d < kOutTiles; d += 2) {
                uint32_t b[4];
                ptx::ldmatrix_x4_trans(b, v.chunk(16 * step + lane_idx % 16, d + lane_idx / 16));
                mma<T>(out[d], weights, b[0], b[1]);
                mma<T>(out[d + 1], weights, b[2], b[3]);
            }
        }
    };
    block.for_each_tile([&](int tile_idx, KvTile& k, KvTile& v) {
        if (tile_idx < block.num_unmasked_tiles) {
            work(tile_idx, k, v, std::false_type());
        } else {
            work(tile_idx, k, v, std::true_type());
        }
    });

    // Normalise and write; a warp's rows of the tile q are its own by now, but another lane may still load them
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float factor = softmax[r].template finish<4>();
#pragma unroll
        for (int d = 0; d < kOutTiles; ++d) {
            T* pair = smem.q.chunk(lane_row + 8 * r, d) + lane_idx % 4 * 2;
            *reinterpret_cast<uint32_t*>(pair) = pack2<T>(out[d][2 * r] * factor, out[d][2 * r + 1] * factor);
        }
    }
    __syncwarp();
    block.template store_rows<16>(warp_row);
}

// ---- f32: a thread has 2 rows, 1/8 of the keys and 1/8 of the output's columns --------------------------------------

template <int kHeadDim_>
struct FfmaConfig {
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kThreads = 128;
    static constexpr int kBlockM = 32;
    static constexpr int kBlockN = kHeadDim <= 128 ? 32 : 8;  // two stages must fit 99 KiB
};

template <class Config>
struct FfmaStorage {
    AttentionStorage<float, Config::kBlockM, Config::kBlockN, Config::kHeadDim> tiles;
    float weights[Config::kBlockM][Config::kBlockN + 4];  // padded: two rows, two banks
};

template <class Config>
__device__ __forceinline__ void attention_ffma(const AttentionParams& p) {
    constexpr int kHeadDim = Config::kHeadDim, kBlockN = Config::kBlockN;
    constexpr int kLaneKeys = kBlockN / 8, kLaneChunks = kHeadDim / 32;
    using Block = AttentionBlock<float, Config::kBlockM, kBlockN, kHeadDim, Config::kThreads>;
    using KvTile = Tile<float, kBlockN, kHeadDim>;
    auto& smem = *reinterpret_cast<FfmaStorage<Config>*>(smem_bytes);
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    Block block(p, smem.tiles);
    const int part = threadIdx.x % 8;
    const int row = threadIdx.x / 8 * 2;  // and row + 1

    float out[2][kLaneChunks][4] = {};
    OnlineSoftmax softmax[2];
    int32_t visible[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) visible[r] = block.problem.visible_keys(p, block.first_row + row + r);

    if (block.num_tiles > 0) {
        block.load_q();
        block.load_kv(0);
        ptx::cp_async_commit_group();
    }
    block.for_each_tile([&](int tile_idx, KvTile& k, KvTile& v) {
        // Scores of keys part, part + 8, ...
        float scores[2][kLaneKeys] = {};
#pragma unroll 4
        for (int chunk_idx = 0; chunk_idx < kHeadDim / 4; ++chunk_idx) {
            float q[2][4];
            load_vec(q[0], smem.tiles.q.chunk(row, chunk_idx));
            load_vec(q[1], smem.tiles.q.chunk(row + 1, chunk_idx));
#pragma unroll
            for (int n = 0; n < kLaneKeys; ++n) {
                float key[4];
                load_vec(key, k.chunk(part + 8 * n, chunk_idx));
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    scores[0][n] = fmaf(q[0][i], key[i], scores[0][n]);
                    scores[1][n] = fmaf(q[1][i], key[i], scores[1][n]);
                }
            }
        }

        // Hide what stands behind the query, then weigh
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
            for (int n = 0; n < kLaneKeys; ++n) {
                if (tile_idx * kBlockN + part + 8 * n >= visible[r]) scores[r][n] = -INFINITY;
            }
            const auto score = [&](int i) -> float& { return scores[r][i]; };
            const float correction = softmax[r].template update<kLaneKeys, 8>(score, p.softmax_scale_log2);
#pragma unroll
            for (int c = 0; c < kLaneChunks; ++c) {
#pragma unroll
                for (int i = 0; i < 4; ++i) out[r][c][i] *= correction;
            }
#pragma unroll
            for (int n = 0; n < kLaneKeys; ++n) smem.weights[row + r][part + 8 * n] = scores[r][n];
        }
        __syncwarp();  // a row's weights come from lanes of one warp

        // out += weights · v, columns 4 * part + 32 * c
#pragma unroll 4
        for (int key = 0; key < kBlockN; ++key) {
            const float weight[2] = {smem.weights[row][key], smem.weights[row + 1][key]};
#pragma unroll
            for (int c = 0; c < kLaneChunks; ++c) {
                float value[4];
                load_vec(value, v.chunk(key, part + 8 * c));
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    out[0][c][i] = fmaf(weight[0], value[i], out[0][c][i]);
                    out[1][c][i] = fmaf(weight[1], value[i], out[1][c][i]);
                }
            }
        }
        __syncwarp();  // before the weights are overwritten
    });

    // Normalise and write; the 8 rows of a warp in the tile q are its own by now
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float factor = softmax[r].template finish<8>();
#pragma unroll
        for (int c = 0; c < kLaneChunks; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) out[r][c][i] *= factor;
            store_vec(smem.tiles.q.chunk(row + r, part + 8 * c), out[r][c]);
        }
    }
    __syncwarp();
    block.template store_rows<8>(threadIdx.x / kWarpSize * 8);
}

#define ATTENTION_MMA(dtype, T, head_dim)                                                                  \
    extern "C" __global__ void __launch_bounds__(MmaConfig<head_dim>::kThreads)                            \
        attention_mma_##head_dim##_##dtype(const __grid_constant__ AttentionParams p) {                    \
        attention_mma<T, MmaConfig<head_dim>>(p);                                                          \
    }
#define ATTENTION_FFMA(head_dim)                                                                           \
    extern "C" __global__ void __launch_bounds__(FfmaConfig<head_dim>::kThreads)                           \
        attention_ffma_##head_dim##_f32(const __grid_constant__ AttentionParams p) {                       \
        attention_ffma<FfmaConfig<head_dim>>(p);                                                           \
    }
#define ATTENTION(head_dim)             \
    ATTENTION_MMA(bf16, Bf16, head_dim) \
    ATTENTION_MMA(f16, F16, head_dim)   \
    ATTENTION_FFMA(head_dim)

// head_dim is rounded up to one of these.
ATTENTION(64)
ATTENTION(128)
ATTENTION(256)
