// Causal scaled-dot-product attention for Hopper (sm_90a), bf16 and f16, head_dim 64 and 128, after FlashAttention-3
// (Shah et al. 2024, arXiv:2407.08608). What is computed: attention.cu of the portable set.
// q, out: [batch_size, seq_len, num_heads, head_dim]    k, v: [batch_size, kv_len, num_kv_heads, head_dim]
// kv_len >= seq_len: every query sees a key.
//
// A tile is 64 queries for each consumer warpgroup; a producer warp brings its keys and values in blocks of 128 through
// two rings, the last visible block first, so that masked blocks come before the others and the main loop masks nothing.
// Three things run under each other:
//   - one consumer's softmax under another's products: they issue their products in turn
//   - a block's softmax under the block before's product with the values: weights stay in registers, where wgmma reads
//     them while the scores of the next block are turned into weights
//   - a tile's way out under the next tile's loads: the kernel is persistent
// Tiles are dealt longest first, in rows of CTAs to and fro, so that all CTAs get the same work; heads come in sections
// whose keys and values fit the L2 cache.
//
// head_dim 128: 2 consumers, 128x128, compute bound (a block of scores is 1,024 clocks of tensor cores a consumer, 512 of
// exponentials). head_dim 64: 3 consumers, 192x128, bound by exponentials and tensor cores alike (512 clocks each).
// Launcher: src/kernels/sm90a/attention.rs
#include "attention_consumer.cuh"
#include "ptx/cluster.cuh"
#include "ptx/griddep.cuh"

template <class T>
using Attention64 = WgmmaAttentionConfig<T, 64, 3, 4>;
template <class T>
using Attention128 = WgmmaAttentionConfig<T, 128, 2, 2>;

struct WgmmaAttentionParams {
    AttentionSequence sequence;
    int32_t num_heads;
    int32_t heads_per_kv_head;
    int32_t num_problems;   // batch_size * num_heads
    int32_t section;        // problems whose keys and values fit the L2 cache together
    int32_t num_row_tiles;  // of a problem
    float softmax_scale_log2;
};

struct AttentionTile {
    int32_t first_row;
    int32_t head;
    int32_t batch;
};

// Deals this CTA its tiles.
struct SnakeScheduler {
    const WgmmaAttentionParams& p;
    int round = 0;

    template <int kBlockM>
    __device__ __forceinline__ bool next(AttentionTile& tile) {
        const int num_ctas = static_cast<int>(gridDim.x), cta = static_cast<int>(blockIdx.x);
        const int rank = round * num_ctas + (round % 2 == 0 ? cta : num_ctas - 1 - cta);
        ++round;
        if (rank >= p.num_problems * p.num_row_tiles) return false;
        const int first_problem = rank / (p.section * p.num_row_tiles) * p.section;
        const int num_problems = min(p.section, p.num_problems - first_problem);
        const int in_section = rank - first_problem * p.num_row_tiles;
        const int problem = first_problem + in_section % num_problems;
        tile.first_row = (p.num_row_tiles - 1 - in_section / num_problems) * kBlockM;
        tile.batch = problem / p.num_heads;
        tile.head = problem % p.num_heads;
        return true;
    }
};

// Loads queries once a tile, and its blocks of keys and values. One thread runs it.
template <class Config>
struct AttentionProducer {
    const TensorMap& map_q;  // (head_dim, num_heads, seq_len, batch_size), box (64, 1, kBlockM, 1)
    const TensorMap& map_k;  // (head_dim, num_kv_heads, kv_len, batch_size), box (64, 1, kBlockN, 1)
    const TensorMap& map_v;  // the same
    WgmmaAttentionShared<Config>& smem;
    RingPosition<Config::kNumStages> k_ring = {};
    RingPosition<Config::kNumStages> v_ring = {};
    uint32_t q_phase = 0;

    __device__ __forceinline__ void load_tile(const AttentionTile& tile, const WgmmaAttentionParams& p) {
        const int kv_head = tile.head / p.heads_per_kv_head;
        const int num_blocks = p.sequence.template num_blocks<Config>(tile.first_row, Config::kBlockM);

        ptx::mbarrier_wait_parity(&smem.barriers.q_empty, q_phase ^ 1);
        ptx::mbarrier_arrive_expect_tx(&smem.barriers.q_full, sizeof(smem.q));
        q_phase ^= 1;
#pragma unroll
        for (int panel = 0; panel < Config::kNumPanels; ++panel) {
            ptx::tma_load_4d(
                smem.q[panel], map_q, &smem.barriers.q_full, panel * kPanelColumns, tile.head, tile.first_row,
                tile.batch, ptx::L2Policy::kEvictFirst);
        }
        // Keys run one block ahead of values, as their use does.
        load(smem.k, map_k, smem.barriers.k_full, smem.barriers.k_empty, k_ring, num_blocks - 1, kv_head, tile.batch);
#pragma unroll 1
        for (int block = num_blocks - 1; block >= 0; --block) {
            if (block > 0) {
                load(smem.k, map_k, smem.barriers.k_full, smem.barriers.k_empty, k_ring, block - 1, kv_head,
                     tile.batch);
            }
            load(smem.v, map_v, smem.barriers.v_full, smem.barriers.v_empty, v_ring, block, kv_head, tile.batch);
        }
    }

   private:
    using Blocks = typename WgmmaAttentionShared<Config>::Block[Config::kNumStages];
    using Barriers = uint64_t[Config::kNumStages];

    __device__ __forceinline__ void load(
        Blocks& blocks, const TensorMap& map, Barriers& full, Barriers& empty, RingPosition<Config::kNumStages>& ring,
        int block, int kv_head, int batch) {
        ptx::mbarrier_wait_parity(&empty[ring.stage], ring.phase ^ 1);
        ptx::mbarrier_arrive_expect_tx(&full[ring.stage], sizeof(blocks[0]));
#pragma unroll
        for (int panel = 0; panel < Config::kNumPanels; ++panel) {
            ptx::tma_load_4d(
                blocks[ring.stage].panels[panel], map, &full[ring.stage], panel * kPanelColumns, kv_head,
                block * Config::kBlockN, batch);
        }
        ring.advance();
    }
};

template <class Config>
__device__ __forceinline__ void wgmma_attention(
    const TensorMap& map_q, const TensorMap& map_k, const TensorMap& map_v, const TensorMap& map_out,
    const WgmmaAttentionParams& p) {
    extern __shared__ __align__(1024) unsigned char dynamic_smem[];
    auto& smem = *reinterpret_cast<WgmmaAttentionShared<Config>*>(dynamic_smem);
    const int warp_idx = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x / kWarpSize), 0);
    const int warpgroup_idx = warp_idx / (kWarpgroupThreads / kWarpSize);

    // Set the barriers up, then let the next kernel come and wait for the last one's results.
    if (threadIdx.x == 0) {
        for (const TensorMap* map : {&map_q, &map_k, &map_v, &map_out}) ptx::prefetch_tensormap(*map);
        smem.barriers.init();
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();

    SnakeScheduler scheduler{p};
    AttentionTile tile;
    if (warpgroup_idx == Config::kNumConsumers) {
        // Produce.
        ptx::setmaxnreg_dec<Config::kProducerRegisters>();
        if (warp_idx == Config::kNumConsumers * static_cast<int>(kWarpgroupThreads / kWarpSize) && ptx::elect_sync()) {
            AttentionProducer<Config> producer{map_q, map_k, map_v, smem};
            while (scheduler.next<Config::kBlockM>(tile)) producer.load_tile(tile, p);
        }
    } else {
        // Consume.
        ptx::setmaxnreg_inc<Config::kConsumerRegisters>();
        AttentionConsumer<Config> consumer(smem, warpgroup_idx, p.softmax_scale_log2);
        while (scheduler.next<Config::kBlockM>(tile)) {
            const int num_blocks = p.sequence.template num_blocks<Config>(tile.first_row, Config::kBlockM);
            const int first_row = tile.first_row + warpgroup_idx * 64;
            consumer.run(p.sequence, first_row, num_blocks);
            consumer.store(map_out, p.sequence, tile.head, first_row, tile.batch);
        }
        consumer.finish();
    }
}

#define DEFINE_ATTENTION(head_dim, dtype, T)                                                                  \
    extern "C" __global__ void __launch_bounds__(Attention##head_dim<T>::kNumThreads, 1)                      \
        wgmma_attention_##head_dim##_##dtype(                                                                 \
            const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k,                 \
            const __grid_constant__ TensorMap map_v, const __grid_constant__ TensorMap map_out,               \
            const __grid_constant__ WgmmaAttentionParams params) {                                            \
        wgmma_attention<Attention##head_dim<T>>(map_q, map_k, map_v, map_out, params);                        \
    }

DEFINE_ATTENTION(64, bf16, Bf16)
DEFINE_ATTENTION(64, f16, F16)
DEFINE_ATTENTION(128, bf16, Bf16)
DEFINE_ATTENTION(128, f16, F16)
