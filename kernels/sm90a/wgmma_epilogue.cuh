// A consumer's sums on their way out of a Hopper matrix product: bias, activation, residual, and the store.
//
// The sums go to shared memory in panels of 64 columns, with the copy engine's swizzle so that neither stmatrix nor the
// engine meets a bank twice, and the engine stores them while the next panel, or the next tile, is worked on. A residual
// comes the same way: it is asked for before the main loop and waits in the panel it is added in.
#pragma once

#include "epilogue.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/math.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/special.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "wgmma_mainloop.cuh"

struct PlainActivation {
    static __device__ __forceinline__ float apply(float x) { return x; }
};
// x * Phi(x) as max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2)), with erfc by Abramowitz and Stegun 7.1.26: within 1.5e-7, and
// nothing cancels. Half the instructions of erff, of which a tile of 128 x 128 would spend more than a product of K = 768.
struct GeluErfActivation {
    static __device__ __forceinline__ float apply(float x) {
        constexpr float kMinusHalfLog2E = -0.72134752044448170f;
        const float h = fminf(fabsf(x), 16.0f);  // erfc is 0 there, and infinity times 0 must not be
        const float t = ptx::rcp_approx_ftz_f32(fmaf(0.3275911f * 0.70710678118654752f, h, 1.0f));
        float p = fmaf(1.061405429f, t, -1.453152027f);
        p = fmaf(p, t, 1.421413741f);
        p = fmaf(p, t, -0.284496736f);
        p = fmaf(p, t, 0.254829592f);
        const float erfc = p * t * ptx::ex2_approx_ftz_f32(kMinusHalfLog2E * h * h);
        return fmaf(-0.5f * h, erfc, x < 0.0f ? 0.0f : x);  // a NaN stays one
    }
};
// gelu_tanh() with the special function unit's exponential and reciprocal, 2 ulp each: far below the 16-bit store.
struct GeluTanhActivation {
    static __device__ __forceinline__ float apply(float x) {
        constexpr float kMinusTwoLog2E = -2.8853900817779268f;
        const float u = 0.79788456080286536f * fmaf(0.044715f * x * x, x, x);
        return x * ptx::rcp_approx_ftz_f32(1.0f + ptx::ex2_approx_ftz_f32(kMinusTwoLog2E * u));
    }
};

// Named barriers; 0 is __syncthreads's.
enum class WgmmaNamedBarrier : uint32_t { kFirstConsumer = 1 };

template <class Config>
struct WgmmaStaging {
    // At a multiple of 1024 bytes: they stand behind the stages. The barriers behind them share the last kilobyte.
    typename Config::T panels[Config::kNumConsumers][Config::kNumPanels][Config::kConsumerRows * kPanelColumns];
    uint64_t residual_full[Config::kNumConsumers][Config::kNumPanels];
};

// out = activation(sums + bias) + residual, of T. kHasGelu: one of the GELUs, chosen by the parameters; else none.
// kIsGrouped: rows behind a tile's last are another expert's; there is no residual.
template <class Config, bool kHasGelu, bool kIsGrouped>
struct PanelEpilogue {
    using T = typename Config::T;
    using Shared = WgmmaStaging<Config>;
    static constexpr int kTilePanels = Config::kBlockN / kPanelColumns;
    static constexpr int kNumPanels = Config::kNumPanels;
    static constexpr uint32_t kPanelBytes = Config::kConsumerRows * kPanelColumns * sizeof(T);
    static_assert(Config::kBlockN % kPanelColumns == 0 && kNumPanels <= kTilePanels);

    const OutputParams& params;
    const TensorMap& map_out;       // [M, N], box [kConsumerRows, 64]
    const TensorMap& map_residual;  // the same
    bool stores_tensors;            // map_out is set. Without, or for a tile cut short by its expert: by threads
    Shared& shared;
    int next_panel = 0;             // the staging buffer used longest ago
    uint32_t residual_phases = 0;   // one bit a buffer

    // By one thread of the block, before anything else.
    static __device__ __forceinline__ void init(Shared& shared) {
        for (int consumer = 0; consumer < Config::kNumConsumers; ++consumer) {
            for (int panel = 0; panel < kNumPanels; ++panel) {
                ptx::mbarrier_init(&shared.residual_full[consumer][panel], 1);
            }
        }
    }

    // Before the main loop of a tile: ask for what the epilogue will need.
    __device__ __forceinline__ void prefetch(const Tile& tile) {
        if (kIsGrouped || params.residual.pointer == nullptr || thread() != 0) return;
        ptx::bulk_wait_group_read<0>();
#pragma unroll
        for (int panel = 0; panel < kNumPanels; ++panel) {
            load_residual(tile, panel, (next_panel + panel) % kNumPanels);
        }
    }

    __device__ __forceinline__ void run(const WgmmaAccum<Config>& accum, const Tile& tile) {
        if constexpr (kHasGelu) {
            if (params.activation == Activation::kGeluTanh) {
                run_with<GeluTanhActivation>(accum, tile);
            } else {
                run_with<GeluErfActivation>(accum, tile);
            }
        } else {
            run_with<PlainActivation>(accum, tile);
        }
    }

    // After the last tile: shared memory stays until the engine has read it.
    __device__ __forceinline__ void finish() {
        if (thread() == 0) ptx::bulk_wait_group_read<0>();
    }

   private:
    // Read again at each use: addresses made from it would take registers from the main loop.
    static __device__ __forceinline__ int thread() { return static_cast<int>(ptx::tid_x() % kWarpgroupThreads); }
    static __device__ __forceinline__ int consumer() { return static_cast<int>(ptx::tid_x() / kWarpgroupThreads); }
    static __device__ __forceinline__ void sync_consumer() {
        ptx::bar_sync(static_cast<uint32_t>(WgmmaNamedBarrier::kFirstConsumer) + consumer(), kWarpgroupThreads);
    }
    // The consumer's first row of the tile.
    static __device__ __forceinline__ int first_row(const Tile& tile) {
        return tile.row_begin + (Config::kConsumersPerTile == 1 ? 0 : consumer() * Config::kConsumerRows);
    }

    __device__ __forceinline__ void load_residual(const Tile& tile, int panel, int buffer) {
        const int column = tile.column_begin + panel * kPanelColumns;
        if (column >= params.num_columns) return;
        uint64_t* barrier = &shared.residual_full[consumer()][buffer];
        ptx::mbarrier_arrive_expect_tx(barrier, kPanelBytes);
        ptx::tma_load_2d(shared.panels[consumer()][buffer], map_residual, barrier, column, first_row(tile));
    }

    template <class Activate>
    __device__ __forceinline__ void run_with(const WgmmaAccum<Config>& accum, const Tile& tile) {
        const bool has_residual = !kIsGrouped && params.residual.pointer != nullptr;
        const bool is_tensor =
            stores_tensors && (!kIsGrouped || first_row(tile) + Config::kConsumerRows <= tile.row_end);
#pragma unroll
        for (int panel = 0; panel < kTilePanels; ++panel) {
            const int column = tile.column_begin + panel * kPanelColumns;
            if (column >= params.num_columns) break;
            const int buffer = next_panel;
            T* smem_panel = shared.panels[consumer()][buffer];

            // Wait for the buffer: until the residual is in it, or the engine has read what was.
            if (has_residual) {
                ptx::mbarrier_wait_parity(&shared.residual_full[consumer()][buffer], residual_phases >> buffer & 1);
                residual_phases ^= 1u << buffer;
            } else {
                if (thread() == 0) ptx::bulk_wait_group_read<kNumPanels - 1>();
                sync_consumer();
            }

            // Finish the sums and put them there.
            write_panel<Activate>(accum, tile, panel, smem_panel, has_residual);
            ptx::fence_proxy_async_shared();
            sync_consumer();

            // Send it off.
            if (is_tensor) {
                if (thread() == 0) ptx::tma_store_2d(map_out, smem_panel, column, first_row(tile));
            } else {
                copy_panel(smem_panel, tile, column);
            }
            if (thread() == 0) {
                ptx::bulk_commit_group();  // an empty one counts too: one a buffer
                if (has_residual && panel + kNumPanels < kTilePanels) {
                    ptx::bulk_wait_group_read<0>();
                    load_residual(tile, panel + kNumPanels, buffer);
                }
            }
            next_panel = next_panel + 1 == kNumPanels ? 0 : next_panel + 1;
        }
    }

    template <class Activate>
    __device__ __forceinline__ void write_panel(
        const WgmmaAccum<Config>& accum, const Tile& tile, int panel, T* smem_panel, bool has_residual) const {
        const int thread_idx = thread();
        const int lane_idx = thread_idx % kWarpSize;
        const int warp_row = thread_idx / kWarpSize * 16;
        const int column = tile.column_begin + panel * kPanelColumns + lane_idx % 4 * 2;
        float2 bias[8];
        const float* group_bias = params.bias + static_cast<int64_t>(tile.group) * params.num_columns;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const bool exists = params.bias != nullptr && column + 8 * j < params.num_columns;
            bias[j] = exists ? *reinterpret_cast<const float2*>(group_bias + column + 8 * j) : make_float2(0, 0);
        }
        // Lane l gives stmatrix the address of row l % 16 and of column block l / 16.
        T* smem_row = smem_panel + (warp_row + lane_idx % 16) * kPanelColumns;
#pragma unroll
        for (int i = 0; i < Config::kMmaTiles; ++i) {
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                const int chunk = (2 * pair + lane_idx / 16) ^ (lane_idx % 8);
                T* smem = smem_row + i * 64 * kPanelColumns + chunk * 8;
                uint32_t packed[4] = {};
                if (has_residual) ptx::ldmatrix_x4(packed, smem);
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const int j = 2 * pair + r / 2;
                    const int sum = panel * 32 + 4 * j + r % 2 * 2;
                    float low = Activate::apply(accum.sums[i][sum] + bias[j].x);
                    float high = Activate::apply(accum.sums[i][sum + 1] + bias[j].y);
                    if (has_residual) {
                        low += to_float(T{static_cast<uint16_t>(packed[r])});
                        high += to_float(T{static_cast<uint16_t>(packed[r] >> 16)});
                    }
                    packed[r] = pack2<T>(low, high);
                }
                ptx::stmatrix_x4(smem, packed);
            }
        }
    }

    // Store a panel by threads, 16 bytes each, whole lines of 128 together; rows beyond the tile's last are another
    // expert's.
    __device__ __forceinline__ void copy_panel(const T* smem_panel, const Tile& tile, int column) const {
        const int thread_idx = thread();
        const int chunk = thread_idx % 8;
        if (column + chunk * 8 >= params.num_columns) return;
        T* out = static_cast<T*>(params.out.pointer);
#pragma unroll 4
        for (int row_in_panel = thread_idx / 8; row_in_panel < Config::kConsumerRows; row_in_panel += 16) {
            const int row = first_row(tile) + row_in_panel;
            if (row >= tile.row_end) break;
            const T* source = smem_panel + row_in_panel * kPanelColumns + (chunk ^ row_in_panel % 8) * 8;
            T* target = out + params.out.row_offset(row, params.rows_per_batch) + column + chunk * 8;
            *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(source);
        }
    }
};
