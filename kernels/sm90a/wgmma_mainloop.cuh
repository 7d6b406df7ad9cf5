// accum[M, N] = A[M, K] * B[N, K]^T for one tile, on Hopper: the producer fills a ring of stages in shared memory, the
// consumers multiply from it. One main loop for dense, grouped and vocabulary products.
//
// A stage is full when its bytes have landed and empty when its readers are done; both are mbarriers, so no warp waits
// for another but through the data. Tails of M, N and K are zeros from the copy engine's bounds.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ptx/cluster.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "tile_scheduler.cuh"
#include "wgmma_config.cuh"

// Steps of kBlockK that a CTA sums.
struct KTiles {
    int begin;
    int end;
};

// Loads stages by tensor copies. One thread runs it.
template <class Config>
struct TensorProducer {
    using Stages = WgmmaOperandStages<Config>;
    static constexpr int kBlockK = Config::kBlockK;

    const TensorMap& map_a;  // [M, K], box [kBlockM, 64]
    const TensorMap& map_b;  // [num_groups, N, K], box [1, kLoadRowsB, 64]
    Stages& stages;
    WgmmaBarriers<Config>& barriers;
    RingPosition<Config::kNumStages> ring = {};

    __device__ __forceinline__ void load_tile(const Tile& tile, KTiles k_tiles, uint32_t cta_rank) {
#pragma unroll 1
        for (int k_tile = k_tiles.begin; k_tile < k_tiles.end; ++k_tile) {
            // Wait for the stage to be empty in every CTA that this one writes to.
            wait_empty();
            ptx::mbarrier_arrive_expect_tx(&barriers.full[ring.stage], Config::kBytesA + Config::kBytesB);
            ptx::tma_load_2d(
                stages.a[ring.stage], map_a, &barriers.full[ring.stage], k_tile * kBlockK, tile.row_begin);
            load_b(tile, k_tile, cta_rank);
            ring.advance();
        }
    }

    __device__ __forceinline__ void wait_empty() {
        if constexpr (Config::kClusterM == 1) {
            ptx::mbarrier_wait_parity(&barriers.empty[ring.stage], ring.phase ^ 1);
        } else {
            ptx::mbarrier_wait_parity_cluster(&barriers.empty[ring.stage], ring.phase ^ 1);
        }
    }

    __device__ __forceinline__ void load_b(const Tile& tile, int k_tile, uint32_t cta_rank) {
        if constexpr (Config::kClusterM == 1) {
            ptx::tma_load_3d(
                stages.b[ring.stage], map_b, &barriers.full[ring.stage], k_tile * kBlockK, tile.column_begin,
                tile.group);
        } else {
            constexpr uint16_t kAllCtas = (1 << Config::kClusterM) - 1;
            const int row = static_cast<int>(cta_rank) * Config::kLoadRowsB;
            ptx::tma_load_3d_multicast(
                stages.b[ring.stage] + row * kBlockK, map_b, &barriers.full[ring.stage], k_tile * kBlockK,
                tile.column_begin + row, tile.group, kAllCtas);
        }
    }
};

template <class T>
struct GatherRows {
    const T* a;                // [num_a_rows, K], rows a_row_chunks chunks of 16 bytes apart
    const int32_t* row_index;  // [M]: which row of a; the same row without. Outside of a: a row of zeros
    uint32_t a_row_chunks;     // num_a_rows of them fit 32 bits
    int32_t num_a_rows;
    int32_t k;
};

// Loads stages whose rows of A stand anywhere: cp.async by all 128 threads of the producer warpgroup, since the copy
// engine of Hopper gathers no rows, and one bulk copy a row would be 128 instructions of one thread a stage where this
// is 8 a thread. Copies by threads are ordinary writes to the tensor cores' eyes: each thread waits for its own, fences,
// and only then arrives; kGatherLag stages later, so that the copies overlap.
template <class Config>
struct GatherProducer {
    using T = typename Config::T;
    static constexpr int kRowsPerPass = kWarpgroupThreads / 8;
    static constexpr int kPasses = Config::kBlockM / kRowsPerPass;
    static constexpr uint32_t kNoRow = 0xffffffff;

    GatherRows<T> rows;
    TensorProducer<Config> tensor;
    uint32_t cta_rank;  // gathered rows are no other CTA's, but B is
    RingPosition<Config::kNumStages> handed_over = {};
    int num_under_way = 0;
    int32_t a_rows[kPasses];

    // Look up this thread's rows of a tile. Early: what depends on it is used one tile later.
    __device__ __forceinline__ void look_up(const Tile& tile) {
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int row = tile.row_begin + thread() / 8 + pass * kRowsPerPass;
            a_rows[pass] = row >= tile.row_end ? -1 : rows.row_index != nullptr ? rows.row_index[row] : row;
        }
    }

    // `next` is the tile after this one, if there is one.
    __device__ __forceinline__ void load_tile(const Tile& tile, KTiles k_tiles, const Tile& next, bool has_next) {
        const int chunk = thread() % 8;
        // In chunks, not as pointers: half the registers.
        uint32_t sources[kPasses];
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const bool exists = a_rows[pass] >= 0 && a_rows[pass] < rows.num_a_rows;
            sources[pass] = exists ? a_rows[pass] * rows.a_row_chunks + chunk : kNoRow;
        }
        if (has_next) look_up(next);

#pragma unroll 1
        for (int k_tile = k_tiles.begin; k_tile < k_tiles.end; ++k_tile) {
            tensor.wait_empty();
            const int stage = tensor.ring.stage;
            if (thread() == 0) {
                ptx::mbarrier_arrive_expect_tx(&tensor.barriers.full[stage], Config::kBytesB);
                tensor.load_b(tile, k_tile, cta_rank);
            }
            // All rows of a thread swizzle alike: they are 16 apart.
            const int row = thread() / 8;
            T* target = tensor.stages.a[stage] + row * Config::kBlockK + (chunk ^ row % 8) * 8;
            const int k = k_tile * Config::kBlockK;
            const int valid_bytes = min(max(rows.k - k - chunk * 8, 0), 8) * 2;
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) {
                const bool is_inside = sources[pass] != kNoRow && valid_bytes > 0;
                const T* source = rows.a + static_cast<uint64_t>(is_inside ? sources[pass] + k / 8 : 0) * 8;
                ptx::cp_async_cg_16(
                    target + pass * kRowsPerPass * Config::kBlockK, source, is_inside ? valid_bytes : 0);
            }
            ptx::cp_async_commit_group();
            tensor.ring.advance();
            if (++num_under_way > Config::kGatherLag) {
                ptx::cp_async_wait_group<Config::kGatherLag>();
                hand_over();
            }
        }
    }

    // After the last tile.
    __device__ __forceinline__ void finish() {
        ptx::cp_async_wait_group<0>();
        while (num_under_way > 0) hand_over();
    }

   private:
    static __device__ __forceinline__ int thread() {
        return static_cast<int>(threadIdx.x % kWarpgroupThreads);
    }

    // Show the oldest stage under way to the tensor cores.
    __device__ __forceinline__ void hand_over() {
        ptx::fence_proxy_async_shared();
        __syncwarp();
        if (threadIdx.x % kWarpSize == 0) ptx::mbarrier_arrive(&tensor.barriers.full[handed_over.stage]);
        handed_over.advance();
        --num_under_way;
    }
};

// A consumer warpgroup's sums: rows 64 i + ... of its share of the tile (layout: ptx/wgmma.cuh).
template <class Config>
struct WgmmaAccum {
    float sums[Config::kMmaTiles][Config::kBlockN / 2];
};

template <class Config>
struct WgmmaConsumer {
    using T = typename Config::T;
    static constexpr int kStepsK = Config::kBlockK / 16;

    WgmmaOperandStages<Config>& stages;
    WgmmaBarriers<Config>& barriers;
    int warpgroup_idx;  // the same in all lanes, and known to be so
    RingPosition<Config::kNumStages> ring = {};
    uint32_t turn_phase = warpgroup_idx == 0 ? 1 : 0;  // the first consumer's first turn waits for nobody

    // Add up num_k_tiles (at least 1) stages.
    __device__ __forceinline__ void compute(WgmmaAccum<Config>& accum, int num_k_tiles) {
        const int tile_consumer = Config::kConsumersPerTile == 1 ? 0 : warpgroup_idx;
        const uint64_t a_begin =
            ptx::matrix_descriptor_128b(stages.a[0] + tile_consumer * Config::kConsumerRows * Config::kBlockK);
        const uint64_t b_begin = ptx::matrix_descriptor_128b(stages.b[0]);
        int previous_stage = 0;
        if constexpr (Config::kRoles == Roles::kPingPong) {
            // Wait until the other consumer has all of its tile's stages. It keeps the tensor cores to one tile, and
            // the parity of a barrier tells a stage's uses apart only if none is waited for before the one ahead of it
            // has landed.
            ptx::mbarrier_wait_parity(&barriers.turn[warpgroup_idx], turn_phase);
            turn_phase ^= 1;
        }
#pragma unroll 1
        for (int k_tile = 0; k_tile < num_k_tiles; ++k_tile) {
            // Wait for the stage to fill.
            ptx::mbarrier_wait_parity(&barriers.full[ring.stage], ring.phase);
            // Multiply it, 16 of K at a time.
            const uint64_t a = ptx::advance_descriptor(a_begin, ring.stage * Config::kBytesA);
            const uint64_t b = ptx::advance_descriptor(b_begin, ring.stage * Config::kBytesB);
            ptx::wgmma_fence();
#pragma unroll
            for (int step = 0; step < kStepsK; ++step) {
#pragma unroll
                for (int i = 0; i < Config::kMmaTiles; ++i) {
                    mma(accum.sums[i], ptx::advance_descriptor(a, i * 64 * 128 + step * 32),
                        ptx::advance_descriptor(b, step * 32), step > 0 || k_tile > 0);
                }
            }
            ptx::wgmma_commit_group();
            // Give back the stage before: its products are done when only this one's are under way.
            ptx::wgmma_wait_group<1>();
            if (k_tile > 0) release(previous_stage);
            previous_stage = ring.stage;
            ring.advance();
        }
        if constexpr (Config::kRoles == Roles::kPingPong) {
            if (threadIdx.x % kWarpgroupThreads == 0) ptx::mbarrier_arrive(&barriers.turn[1 - warpgroup_idx]);
        }
        ptx::wgmma_wait_group<0>();
#pragma unroll
        for (int i = 0; i < Config::kMmaTiles; ++i) ptx::wgmma_fence_registers(accum.sums[i]);
        release(previous_stage);
    }

    // Pass over the stages of a tile that the other consumer takes.
    __device__ __forceinline__ void skip(int num_k_tiles) { ring.advance(num_k_tiles); }

   private:
    __device__ __forceinline__ void release(int stage) {
        const int thread = static_cast<int>(threadIdx.x % kWarpgroupThreads);
        if constexpr (Config::kClusterM == 1) {
            if (thread == 0) ptx::mbarrier_arrive(&barriers.empty[stage]);
        } else {
            if (thread < Config::kClusterM) ptx::mbarrier_arrive_cluster(&barriers.empty[stage], thread);
        }
    }

    template <int kSize>
    static __device__ __forceinline__ void mma(float (&d)[kSize], uint64_t a, uint64_t b, bool accumulate) {
        if constexpr (T::kIsBf16) {
            ptx::wgmma_m64k16_bf16(d, a, b, accumulate);
        } else {
            ptx::wgmma_m64k16_f16(d, a, b, accumulate);
        }
    }
};
