// A matrix product whose output is too small to fill the GPU: the CTAs of a cluster each sum a part of K of one tile,
// then each adds up its share of the rows from all of them, through distributed shared memory and in the order of the
// parts, so that the bits do not depend on which CTA comes first. No scratch memory, no second kernel. Dense or grouped,
// as the scheduler has it; a cluster takes one tile.
#pragma once

#include "epilogue.cuh"
#include "ptx/griddep.cuh"
#include "wgmma_mainloop.cuh"

// The rows that a CTA adds up and stores, as the portable epilogues see a tile.
template <int kRows, int kColumns>
struct SplitKSlice {
    static constexpr int kBlockM = kRows;
    static constexpr int kBlockN = kColumns;
    static constexpr int kNumThreads = kWarpgroupThreads;
    static constexpr int kAccumStride = kColumns + 8;
};

template <class Config, int kSplits>
struct SplitKShared {
    static constexpr int kAccumStride = Config::kBlockN + 8;
    WgmmaOperandStages<Config> stages;
    alignas(16) float partial[kSplits > 1 ? Config::kBlockM * kAccumStride : 4];  // read by the other CTAs
    alignas(16) float sums[Config::kBlockM / kSplits * kAccumStride];  // this CTA's rows, whole
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
    using Slice = SplitKSlice<Config::kBlockM / kSplits, Config::kBlockN>;
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
        WgmmaConsumer<Config> consumer{smem.stages, smem.barriers, 0};
        WgmmaAccum<Config> accum;
        consumer.compute(accum, k_tiles.end - k_tiles.begin);
        const int lane_idx = static_cast<int>(threadIdx.x % kWarpSize);
        float* partial = (kSplits > 1 ? smem.partial : smem.sums) +
                         (warp_idx * 16 + lane_idx / 4) * Slice::kAccumStride + lane_idx % 4 * 2;
#pragma unroll
        for (int j = 0; j < Config::kBlockN / 8; ++j) {
            float* upper = partial + j * 8;
            float* lower = upper + 8 * Slice::kAccumStride;
            *reinterpret_cast<float2*>(upper) = make_float2(accum.sums[0][4 * j], accum.sums[0][4 * j + 1]);
            *reinterpret_cast<float2*>(lower) = make_float2(accum.sums[0][4 * j + 2], accum.sums[0][4 * j + 3]);
        }
    }

    if constexpr (kSplits > 1) {
        // Add this CTA's rows up over the parts.
        ptx::barrier_cluster_arrive();
        ptx::barrier_cluster_wait();
        if (threadIdx.x < kWarpgroupThreads) {
            constexpr int kVecsPerRow = Config::kBlockN / 4;
            const int first_row = split * Slice::kBlockM;
            for (int i = threadIdx.x; i < Slice::kBlockM * kVecsPerRow; i += kWarpgroupThreads) {
                const int row = i / kVecsPerRow;
                const int column = i % kVecsPerRow * 4;
                const float* source = smem.partial + (first_row + row) * Slice::kAccumStride + column;
                float4 sum = ptx::ld_shared_cluster_f32x4(ptx::mapa_shared(source, 0));
#pragma unroll
                for (int part = 1; part < kSplits; ++part) {
                    const float4 more = ptx::ld_shared_cluster_f32x4(ptx::mapa_shared(source, part));
                    sum.x += more.x;
                    sum.y += more.y;
                    sum.z += more.z;
                    sum.w += more.w;
                }
                *reinterpret_cast<float4*>(smem.sums + row * Slice::kAccumStride + column) = sum;
            }
        }
        // The others may still read this CTA's part: it stays until they have it.
        ptx::barrier_cluster_arrive();
    }
    if (threadIdx.x < kWarpgroupThreads) {
        ptx::bar_sync(1, kWarpgroupThreads);
        const int row_begin = tile.row_begin + split * Slice::kBlockM;
        const Tile slice{row_begin, min(row_begin + Slice::kBlockM, tile.row_end), tile.column_begin, tile.group};
        epilogue.template run<Slice>(smem.sums, slice);
    }
    if constexpr (kSplits > 1) {
        __syncwarp();
        ptx::barrier_cluster_wait();
    }
}
