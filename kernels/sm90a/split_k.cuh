// A matrix product whose output is too small to fill the GPU: the CTAs of a cluster each sum a part of K of one tile,
// then each adds up its share of the rows from all of them, through distributed shared memory and in the order of the
// parts, so that the bits do not depend on which CTA comes first. No scratch memory, no second kernel. Dense or grouped,
// as the scheduler has it; a cluster takes one tile.
#pragma once

#include "epilogue.cuh"
#include "ptx/griddep.cuh"
#include "ptx/shared.cuh"
#include "wgmma_mainloop.cuh"

// The rows that a CTA adds up and stores, as the portable epilogues see a tile.
template <class Config, int kSplits>
struct SplitKSlice {
    static constexpr int kBlockM = Config::kBlockM / kSplits;
    static constexpr int kBlockN = Config::kBlockN;
    // Of the consumers, those that have whole rows: 128, 256, or 192 of 256 where a row is 48 threads'.
    static constexpr int kThreadsPerRow = kBlockN / kEpilogueColumns;
    static constexpr int kNumThreads = (Config::kNumConsumerThreads / kThreadsPerRow & ~3) * kThreadsPerRow;
    static constexpr int kAccumStride = kBlockN + 8;  // eight rows of a warp's sums begin in eight banks
    static_assert(kNumThreads % kWarpSize == 0);
};

template <class Config, int kSplits>
struct SplitKShared {
    using Slice = SplitKSlice<Config, kSplits>;
    struct Sums {
        alignas(16) float partial[kSplits > 1 ? Config::kBlockM * Slice::kAccumStride : 4];  // read by the other CTAs
        alignas(16) float whole[Slice::kBlockM * Slice::kAccumStride];                       // this CTA's rows
    };
    union {
        WgmmaOperandStages<Config> stages;
        Sums sums;  // once all stages are multiplied
    };
    WgmmaBarriers<Config> barriers;
};

// The cluster this CTA is part of, as a worker.
template <int kSplits>
__device__ __forceinline__ TileShare split_k_share() {
    return {static_cast<int>(blockIdx.x) / kSplits, static_cast<int>(gridDim.x) / kSplits};
}

template <class Config, int kSplits, class Scheduler, class Epilogue>
__device__ __forceinline__ void split_k_gemm(
    const TensorMap& map_a, const TensorMap& map_b, const GatherRows<typename Config::T>& rows, Scheduler scheduler,
    const Epilogue& epilogue, SplitKShared<Config, kSplits>& smem) {
    using Slice = SplitKSlice<Config, kSplits>;
    constexpr uint32_t kConsumerThreads = Config::kNumConsumerThreads;
    constexpr uint32_t kConsumerBarrier = 1;  // 0 is __syncthreads's
    const int warp_idx = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x / kWarpSize), 0);
    const int split = kSplits > 1 ? static_cast<int>(ptx::cluster_ctarank()) : 0;

    // Set the barriers up, then let the next kernel come and wait for the last one's results.
    if (threadIdx.x == 0) {
        if (!Config::kGatherA) ptx::prefetch_tensormap(map_a);
        ptx::prefetch_tensormap(map_b);
        smem.barriers.init();
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();

    // The host launches as many clusters as there can be tiles; those without one leave, whole.
    Tile tile;
    if (!scheduler.next(tile)) return;
    const int num_k_tiles = ceil_div(rows.k, Config::kBlockK);
    const KTiles k_tiles{num_k_tiles * split / kSplits, num_k_tiles * (split + 1) / kSplits};

    if (warp_idx >= Config::kNumConsumerThreads / kWarpSize) {
        // Produce.
        const TensorProducer<Config> tensor{map_a, map_b, smem.stages, smem.barriers};
        if constexpr (Config::kGatherA) {
            GatherProducer<Config> producer{rows, tensor, 0};
            producer.look_up(tile);
            producer.load_tile(tile, k_tiles, tile, false);
            producer.finish();
        } else if (warp_idx == Config::kNumConsumerThreads / kWarpSize) {
            TensorProducer<Config> producer = tensor;
            if (ptx::elect_sync()) producer.load_tile(tile, k_tiles, 0);
            __syncwarp();
        }
    } else {
        // Consume: at least one step, the launcher sees to it.
        const int warpgroup_idx = warp_idx / static_cast<int>(kWarpgroupThreads / kWarpSize);
        WgmmaConsumer<Config> consumer{smem.stages, smem.barriers, warpgroup_idx};
        WgmmaAccum<Config> accum;
        consumer.compute(accum, k_tiles.end - k_tiles.begin);
        static_assert(Config::kMmaTiles == 1, "a warp has 16 rows");
        // The sums take the place of the operands, which no consumer reads any more.
        ptx::bar_sync(kConsumerBarrier, kConsumerThreads);
        const int lane_idx = static_cast<int>(threadIdx.x % kWarpSize);
        float* partial = (kSplits > 1 ? smem.sums.partial : smem.sums.whole) +
                         (warp_idx * 16 + lane_idx / 4) * Slice::kAccumStride + lane_idx % 4 * 2;
#pragma unroll
        for (int j = 0; j < Config::kBlockN / 8; ++j) {
            const float* sums = accum.sums[0] + 4 * j;
            ptx::st_shared_v2_f32(partial + j * 8, sums[0], sums[1]);
            ptx::st_shared_v2_f32(partial + j * 8 + 8 * Slice::kAccumStride, sums[2], sums[3]);
        }
    }

    if constexpr (kSplits > 1) {
        // Add this CTA's rows up over the parts.
        ptx::barrier_cluster_arrive();
        ptx::barrier_cluster_wait();
        if (threadIdx.x < kConsumerThreads) {
            constexpr int kVecsPerRow = Config::kBlockN / 4;
            const int first_row = split * Slice::kBlockM;
#pragma unroll 2
            for (int i = threadIdx.x; i < Slice::kBlockM * kVecsPerRow; i += kConsumerThreads) {
                const int row = i / kVecsPerRow;
                const int column = i % kVecsPerRow * 4;
                const float* source = smem.sums.partial + (first_row + row) * Slice::kAccumStride + column;
                float4 sum = ptx::ld_shared_cluster_f32x4(ptx::mapa_shared(source, 0));
#pragma unroll
                for (int part = 1; part < kSplits; ++part) {
                    const float4 more = ptx::ld_shared_cluster_f32x4(ptx::mapa_shared(source, part));
                    sum.x += more.x;
                    sum.y += more.y;
                    sum.z += more.z;
                    sum.w += more.w;
                }
                float* target = smem.sums.whole + row * Slice::kAccumStride + column;
                ptx::st_shared_v4_f32(target, sum.x, sum.y, sum.z, sum.w);
            }
        }
        // The others may still read this CTA's part: it stays until they have it.
        ptx::barrier_cluster_arrive();
    }
    if (threadIdx.x < kConsumerThreads) {
        ptx::bar_sync(kConsumerBarrier, kConsumerThreads);
        const int row_begin = tile.row_begin + split * Slice::kBlockM;
        const Tile slice{row_begin, min(row_begin + Slice::kBlockM, tile.row_end), tile.column_begin, tile.group};
        if (threadIdx.x < Slice::kNumThreads) epilogue.template run<Slice>(smem.sums.whole, slice);
    }
    if constexpr (kSplits > 1) {
        __syncwarp();
        ptx::barrier_cluster_wait();
    }
}
