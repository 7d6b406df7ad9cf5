// The whole of a Hopper matrix product: a persistent kernel whose blocks, or clusters, take tiles from a scheduler.
//
// An epilogue is a type with Shared, init(Shared&), prefetch(tile), run(accum, tile) and finish(); the consumer
// warpgroups call it. Launched with the programmatic-dependent attribute, the setup runs under the kernel ahead.
#pragma once

#include "ptx/griddep.cuh"
#include "wgmma_epilogue.cuh"
#include "wgmma_mainloop.cuh"

template <class Config, class EpilogueShared>
struct WgmmaShared {
    WgmmaOperandStages<Config> stages;
    static_assert(sizeof(stages) % 1024 == 0, "the staging buffers behind them are swizzled");
    EpilogueShared epilogue;
    WgmmaBarriers<Config> barriers;
};

// The next tile of this CTA: its rows of the cluster's.
template <class Config, class Scheduler>
__device__ __forceinline__ bool next_tile(Scheduler& scheduler, Tile& tile, uint32_t cta_rank) {
    if (!scheduler.next(tile)) return false;
    if constexpr (Config::kClusterM > 1) {
        tile.row_begin += static_cast<int>(cta_rank) * Config::kBlockM;
        tile.row_end = min(tile.row_end, tile.row_begin + Config::kBlockM);
    }
    return true;
}

// `Scheduler` cuts tiles of kBlockM * kClusterM rows.
template <class Config, class Scheduler, class Epilogue>
__device__ __forceinline__ void wgmma_gemm(
    const TensorMap& map_a, const TensorMap& map_b, const GatherRows<typename Config::T>& rows, Scheduler scheduler,
    Epilogue epilogue, WgmmaShared<Config, typename Epilogue::Shared>& smem) {
    const int warp_idx = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x / kWarpSize), 0);
    const int warpgroup_idx = warp_idx / (kWarpgroupThreads / kWarpSize);
    const uint32_t cta_rank = Config::kClusterM > 1 ? ptx::cluster_ctarank() : 0;

    // Set the barriers up, then let the next kernel come and wait for the last one's results.
    if (threadIdx.x == 0) {
        if (!Config::kGatherA) ptx::prefetch_tensormap(map_a);
        ptx::prefetch_tensormap(map_b);
        smem.barriers.init();
        Epilogue::init(smem.epilogue);
        ptx::fence_mbarrier_init();
    }
    if constexpr (Config::kClusterM > 1) {
        __syncwarp();
        ptx::barrier_cluster_arrive();
        ptx::barrier_cluster_wait();
    } else {
        __syncthreads();
    }
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();

    const int num_k_tiles = ceil_div(rows.k, Config::kBlockK);
    if (warpgroup_idx == Config::kNumConsumers) {
        // Produce.
        if constexpr (Config::kMovesRegisters) ptx::setmaxnreg_dec<Config::kProducerRegisters>();
        TensorProducer<Config> tensor{map_a, map_b, smem.stages, smem.barriers};
        Tile tile;
        if constexpr (Config::kGatherA) {
            GatherProducer<Config> producer{rows, tensor, cta_rank};
            bool has_tile = next_tile<Config>(scheduler, tile, cta_rank);
            if (has_tile) producer.look_up(tile);
            while (has_tile) {
                Tile next = tile;
                const bool has_next = next_tile<Config>(scheduler, next, cta_rank);
                producer.load_tile(tile, {0, num_k_tiles}, next, has_next);
                tile = next;
                has_tile = has_next;
            }
            producer.finish();
        } else if (warp_idx == Config::kNumConsumers * (kWarpgroupThreads / kWarpSize)) {
            const bool is_elected = ptx::elect_sync();
            while (next_tile<Config>(scheduler, tile, cta_rank)) {
                if (is_elected) tensor.load_tile(tile, {0, num_k_tiles}, cta_rank);
                __syncwarp();
            }
        }
    } else {
        // Consume.
        if constexpr (Config::kMovesRegisters) ptx::setmaxnreg_inc<Config::kConsumerRegisters>();
        WgmmaConsumer<Config> consumer{smem.stages, smem.barriers, warpgroup_idx};
        Tile tile;
        for (int turn = 0; next_tile<Config>(scheduler, tile, cta_rank); turn ^= 1) {
            if (Config::kRoles == Roles::kPingPong && turn != warpgroup_idx) {
                consumer.skip(num_k_tiles);
                continue;
            }
            epilogue.prefetch(tile);
            WgmmaAccum<Config> accum;
            consumer.compute(accum, num_k_tiles);
            epilogue.run(accum, tile);
        }
        epilogue.finish();
    }

    // A CTA stays until nobody writes into it any more.
    if constexpr (Config::kClusterM > 1) {
        __syncwarp();
        ptx::barrier_cluster_arrive();
        ptx::barrier_cluster_wait();
    }
}
