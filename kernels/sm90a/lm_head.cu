// Logits, argmax and cross-entropy over the vocabulary for Hopper (sm_90a), bf16 and f16; what is computed: lm_head.cu.
// A consumer reduces its tile of 128 ids while the logits are still its sums: four lanes hold a row, 32 ids each, so a
// row costs two shuffles a quantity and no shared memory; logits go to memory only if asked for. lm_head_reduce of the
// portable set merges the tiles.
//   256x128 a cluster (128x128 a CTA), ping-pong   all rows: the reduction hides under the other consumer's products, and
//                                                  the cluster shares the weights
//   128x128 ping-pong, gathered                    many chosen rows
//   64x128                                         few rows, chosen or not: bound by the weights' bytes, 128 KB of them
//                                                  under way an SM; GPT-2's 393 tiles are 2.98 waves
// Launcher: src/kernels/sm90a/lm_head.rs
#include "vocab_partials.cuh"
#include "wgmma_gemm.cuh"

template <class T>
using VocabPingPong = WgmmaConfig<T, 128, kVocabTile, 6, 1, Roles::kPingPong, 2>;
template <class T>
using VocabPingPongGather = WgmmaConfig<T, 128, kVocabTile, 6, 1, Roles::kPingPong, 1, true>;
template <class T>
using VocabSingleGather = WgmmaConfig<T, 64, kVocabTile, 8, 1, Roles::kSingle, 1, true>;

struct WgmmaLmHeadParams {
    LmHeadReduction reduction;  // its num_rows and vocab_size are M and N
    const float* bias;          // [vocab_size]; null for none
    float* logits;              // [num_rows, vocab_size]; null if not asked for
    const void* x;              // [num_x_rows, hidden_size]: where rows are gathered from
    const int32_t* rows;        // [num_rows]; null for all
    uint32_t x_row_chunks;      // from row to row of x, in 16 bytes
    int32_t num_x_rows;
    int32_t k;
};

template <class Config>
struct VocabEpilogue {
    struct Shared {};
    static constexpr int kValues = Config::kBlockN / 4;  // of a row in a lane
    static_assert(Config::kBlockN == kVocabTile && Config::kConsumersPerTile == 1);

    const WgmmaLmHeadParams& params;

    static __device__ __forceinline__ void init(Shared&) {}
    __device__ __forceinline__ void prefetch(const Tile&) const {}
    __device__ __forceinline__ void finish() const {}

    // Turns the sums into logits in place: there are no registers for both.
    __device__ __forceinline__ void run(WgmmaAccum<Config>& accum, const Tile& tile) const {
        const int thread_idx = static_cast<int>(ptx::tid_x() % kWarpgroupThreads);
        const int lane_idx = thread_idx % kWarpSize;
        const int first_row = tile.row_begin + thread_idx / kWarpSize * 16 + lane_idx / 4;
        const int first_id = tile.column_begin + lane_idx % 4 * 2;
#pragma unroll
        for (int i = 0; i < Config::kMmaTiles; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Values values{accum.sums[i], half};
#pragma unroll
                for (int v = 0; v < kValues; ++v) {
                    const int id = id_of(first_id, v);
                    const bool exists = id < params.reduction.vocab_size;
                    const float bias = params.bias != nullptr && exists ? params.bias[id] : 0.0f;
                    values[v] = exists ? values[v] + bias : Max::kIdentity;
                }
                const int row = first_row + i * 64 + half * 8;
                if (params.logits != nullptr && row < tile.row_end) store_logits(values, row, first_id);
                if (params.reduction.partials != nullptr) reduce_row(values, row, tile, first_id);
            }
        }
    }

   private:
    // A row's values in a lane, out of its sums.
    struct Values {
        float (&sums)[Config::kBlockN / 2];
        int half;  // a constant once unrolled
        __device__ __forceinline__ float& operator[](int v) const { return sums[v / 2 * 4 + half * 2 + v % 2]; }
    };

    // Values are of two neighbouring ids every eight.
    static __device__ __forceinline__ int id_of(int first_id, int v) { return first_id + v / 2 * 8 + v % 2; }

    __device__ __forceinline__ void store_logits(const Values& values, int row, int first_id) const {
        const int vocab_size = params.reduction.vocab_size;
        float* logits = params.logits + static_cast<int64_t>(row) * vocab_size;
        const bool is_paired = vocab_size % 2 == 0 && reinterpret_cast<uint64_t>(params.logits) % sizeof(float2) == 0;
#pragma unroll
        for (int v = 0; v < kValues; v += 2) {
            const int id = id_of(first_id, v);
            if (is_paired) {
                if (id < vocab_size) *reinterpret_cast<float2*>(logits + id) = make_float2(values[v], values[v + 1]);
            } else {
                if (id < vocab_size) logits[id] = values[v];
                if (id + 1 < vocab_size) logits[id + 1] = values[v + 1];
            }
        }
    }

    // One row's partial results, by its four lanes. Rows beyond the last are reduced too, but not stored.
    __device__ __forceinline__ void reduce_row(
        const Values& values, int row, const Tile& tile, int first_id) const {
        constexpr float kLog2E = 1.4426950408889634f;
        const LmHeadReduction& reduction = params.reduction;
        float max_logit = Max::kIdentity;
        float argmax_logit = Max::kIdentity;
        int argmax_id = kNoId;
        int has_nan = 0;
#pragma unroll
        for (int v = 0; v < kValues; ++v) {
            const int id = id_of(first_id, v);
            max_logit = fmaxf(max_logit, values[v]);
            if (id < reduction.allowed_vocab) {
                has_nan |= isnan(values[v]) ? 1 : 0;
                // Ids ascend: the first of equals stays. The second condition takes minus infinity once.
                if (values[v] > argmax_logit || (values[v] == argmax_logit && argmax_id == kNoId)) {
                    argmax_logit = values[v];
                    argmax_id = id;
                }
            }
        }
#pragma unroll
        for (int offset = 1; offset < 4; offset *= 2) {
            max_logit = fmaxf(max_logit, __shfl_xor_sync(kFullMask, max_logit, offset));
            has_nan |= __shfl_xor_sync(kFullMask, has_nan, offset);
            const float logit = __shfl_xor_sync(kFullMask, argmax_logit, offset);
            const int id = __shfl_xor_sync(kFullMask, argmax_id, offset);
            if (logit > argmax_logit || (logit == argmax_logit && id < argmax_id)) {
                argmax_logit = logit;
                argmax_id = id;
            }
        }
        const float shift = exponent_shift(max_logit);
        float sum_exp = 0.0f;
#pragma unroll
        for (int v = 0; v < kValues; ++v) sum_exp += ptx::ex2_approx_ftz_f32((values[v] - shift) * kLog2E);
#pragma unroll
        for (int offset = 1; offset < 4; offset *= 2) sum_exp += __shfl_xor_sync(kFullMask, sum_exp, offset);

        if (row >= tile.row_end) return;
        const int vocab_tile = tile.column_begin / kVocabTile;
        if (first_id == tile.column_begin) {
            reduction.partial(kArgmaxLogit, row, vocab_tile) = argmax_logit;
            reduction.partial(kArgmaxId, row, vocab_tile) = __int_as_float(has_nan != 0 ? -1 : argmax_id);
            reduction.partial(kMaxLogit, row, vocab_tile) = max_logit;
            reduction.partial(kSumExp, row, vocab_tile) = sum_exp;
        }
        if (reduction.targets != nullptr) {
            const int target = reduction.targets[row];
#pragma unroll
            for (int v = 0; v < kValues; ++v) {
                const int id = id_of(first_id, v);
                if (id == target && id < reduction.vocab_size) {
                    reduction.partial(kTargetLogit, row, vocab_tile) = values[v];
                }
            }
        }
    }
};

template <class Config>
__device__ __forceinline__ void lm_head_kernel(
    const TensorMap& map_x, const TensorMap& map_weight, const WgmmaLmHeadParams& params) {
    using T = typename Config::T;
    using Epilogue = VocabEpilogue<Config>;
    using Shared = WgmmaShared<Config, typename Epilogue::Shared>;
    extern __shared__ __align__(1024) unsigned char dynamic_smem[];
    Shared& smem = *reinterpret_cast<Shared*>(dynamic_smem);
    const TileShare share{
        static_cast<int>(blockIdx.x) / Config::kClusterM, static_cast<int>(gridDim.x) / Config::kClusterM};
    const DenseScheduler<Config::kBlockM * Config::kClusterM, Config::kBlockN> scheduler(
        params.reduction.num_rows, params.reduction.vocab_size, share);
    const GatherRows<T> rows{
        static_cast<const T*>(params.x), params.rows, params.x_row_chunks, params.num_x_rows, params.k};
    wgmma_gemm<Config>(map_x, map_weight, rows, scheduler, Epilogue{params}, smem);
}

#define DEFINE_LM_HEAD(name, dtype, T, kConfig)                                                               \
    extern "C" __global__ void __launch_bounds__(kConfig<T>::kNumThreads, kConfig<T>::kMinBlocks)             \
        name##_##dtype(                                                                                       \
            const __grid_constant__ TensorMap map_x, const __grid_constant__ TensorMap map_weight,            \
            const __grid_constant__ WgmmaLmHeadParams params) {                                               \
        lm_head_kernel<kConfig<T>>(map_x, map_weight, params);                                                \
    }

DEFINE_LM_HEAD(wgmma_lm_head_256x128, bf16, Bf16, VocabPingPong)
DEFINE_LM_HEAD(wgmma_lm_head_256x128, f16, F16, VocabPingPong)
DEFINE_LM_HEAD(wgmma_lm_head_gather_128x128, bf16, Bf16, VocabPingPongGather)
DEFINE_LM_HEAD(wgmma_lm_head_gather_128x128, f16, F16, VocabPingPongGather)
DEFINE_LM_HEAD(wgmma_lm_head_gather_64x128, bf16, Bf16, VocabSingleGather)
DEFINE_LM_HEAD(wgmma_lm_head_gather_64x128, f16, F16, VocabSingleGather)
