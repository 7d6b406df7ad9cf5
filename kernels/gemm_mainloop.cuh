// accum[M, N] = A[M, K] * B[N, K]^T for one tile of the output: the main loop of every matrix product here.
//
// A and B stand K-major in global memory, rows strided, elements of a row contiguous. Tiles of 128 bytes of K go through
// a ring of stages in swizzled shared memory (layout.cuh, pipeline.cuh), from there to registers: tensor cores for bf16
// and f16 (mma.sync m16n8k16), FFMA for f32, never TF32. Tails of M, N and K are filled with zeros on the way in.
//
// Every output element is the sum over k in ascending order (in steps of 16 inside one mma), whatever the tile: a
// row's bits do not depend on the tile size that the launcher picks, and so not on how many rows there are.
#pragma once

#include <cstdint>
#include <type_traits>

#include "layout.cuh"
#include "pipeline.cuh"
#include "ptx/griddep.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"
#include "tile_scheduler.cuh"
#include "types.cuh"

template <class T>
struct GemmOperands {
    const T* a;                // [num_a_rows, K], rows a_row_stride apart
    const T* b;                // [num_groups, N, K], rows b_row_stride apart
    const int32_t* row_index;  // [M]: which row of a; the same row without. Outside of a: a row of zeros
    int64_t a_row_stride;
    int64_t b_row_stride;
    int64_t b_group_stride;
    int32_t num_a_rows;
    int32_t m;
    int32_t n;
    int32_t k;
};

template <class T_, int kBlockM_, int kBlockN_, int kWarpsM_, int kWarpsN_, int kNumStages_, int kMinBlocks_>
struct GemmConfig {
    using T = T_;
    static constexpr int kBlockM = kBlockM_;
    static constexpr int kBlockN = kBlockN_;
    static constexpr int kBlockK = kRowElements<T>;
    static constexpr int kWarpsM = kWarpsM_;
    static constexpr int kWarpsN = kWarpsN_;
    static constexpr int kNumStages = kNumStages_;
    static constexpr int kMinBlocks = kMinBlocks_;  // an SM: what the registers are budgeted for
    static constexpr int kNumThreads = kWarpsM * kWarpsN * kWarpSize;
    // 8 (mod 32) words: a warp's eight-by-four lanes hit different banks when they put their sums there.
    static constexpr int kAccumStride = kBlockN + 8;
    static_assert(kBlockN % 32 == 0 && kBlockM % 8 == 0);
};

template <class Config>
struct alignas(128) GemmSharedStorage {
    using T = typename Config::T;
    struct Operands {
        T a[Config::kNumStages][Config::kBlockM * Config::kBlockK];
        T b[Config::kNumStages][Config::kBlockN * Config::kBlockK];
    };
    union {
        Operands operands;                                     // during the main loop
        float accum[Config::kBlockM * Config::kAccumStride];  // [kBlockM][kAccumStride], during the epilogue
    };
    int64_t a_row_offset[Config::kBlockM];  // elements from a to the row; -1 for a row of zeros
};

// A warp's share of a tile on tensor cores: kTilesM x kTilesN products of 16 x 8.
template <class Config>
struct TensorCoreMma {
    using T = typename Config::T;
    static constexpr int kWarpM = Config::kBlockM / Config::kWarpsM;
    static constexpr int kWarpN = Config::kBlockN / Config::kWarpsN;
    static constexpr int kTilesM = kWarpM / 16;
    static constexpr int kTilesN = kWarpN / 8;
    static constexpr int kStepsK = Config::kBlockK / 16;
    static_assert(kWarpM % 16 == 0 && (kTilesN == 1 || kTilesN % 2 == 0));

    struct Fragments {
        uint32_t a[kTilesM][4];
        uint32_t b[kTilesN][2];
    };

    float accum[kTilesM][kTilesN][4] = {};

    // Where the warp's share begins in the tile.
    static __device__ __forceinline__ int warp_row() { return threadIdx.x / kWarpSize % Config::kWarpsM * kWarpM; }
    static __device__ __forceinline__ int warp_column() { return threadIdx.x / kWarpSize / Config::kWarpsM * kWarpN; }

    static __device__ __forceinline__ void load(Fragments& fragments, const T* smem_a, const T* smem_b, int step) {
        const int lane_idx = threadIdx.x % kWarpSize;
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
            const int row = warp_row() + i * 16 + lane_idx % 16;
            ptx::ldmatrix_x4(fragments.a[i], smem_a + swizzled_offset<T>(row, 2 * step + lane_idx / 16));
        }
        if constexpr (kTilesN == 1) {
            const int row = warp_column() + lane_idx % 8;
            ptx::ldmatrix_x2(fragments.b[0], smem_b + swizzled_offset<T>(row, 2 * step + lane_idx / 8 % 2));
        } else {
#pragma unroll
            for (int j = 0; j < kTilesN; j += 2) {
                const int row = warp_column() + j * 8 + lane_idx / 16 * 8 + lane_idx % 8;
                uint32_t pair[4];
                ptx::ldmatrix_x4(pair, smem_b + swizzled_offset<T>(row, 2 * step + lane_idx / 8 % 2));
                fragments.b[j][0] = pair[0];
                fragments.b[j][1] = pair[1];
                fragments.b[j + 1][0] = pair[2];
                fragments.b[j + 1][1] = pair[3];
            }
        }
    }

    // Add one stage's product.
    __device__ __forceinline__ void compute(const T* smem_a, const T* smem_b) {
        // Two sets of fragments: one is loaded while the tensor cores work on the other.
        Fragments fragments[2];
        load(fragments[0], smem_a, smem_b, 0);
#pragma unroll
        for (int step = 0; step < kStepsK; ++step) {
            if (step + 1 < kStepsK) load(fragments[(step + 1) % 2], smem_a, smem_b, step + 1);
            const Fragments& current = fragments[step % 2];
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
                for (int j = 0; j < kTilesN; ++j) mma(accum[i][j], current.a[i], current.b[j]);
            }
        }
    }

    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        if constexpr (T::kIsBf16) {
            ptx::mma_m16n8k16_bf16(d, a, b[0], b[1]);
        } else {
            ptx::mma_m16n8k16_f16(d, a, b[0], b[1]);
        }
    }

    // Put the sums into shared memory as [kBlockM][kAccumStride].
    __device__ __forceinline__ void store(float* smem_accum) const {
        const int lane_idx = threadIdx.x % kWarpSize;
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesN; ++j) {
                const int row = warp_row() + i * 16 + lane_idx / 4;
                const int column = warp_column() + j * 8 + lane_idx % 4 * 2;
                float* upper = smem_accum + row * Config::kAccumStride + column;
                ptx::st_shared_v2_f32(upper, accum[i][j][0], accum[i][j][1]);
                ptx::st_shared_v2_f32(upper + 8 * Config::kAccumStride, accum[i][j][2], accum[i][j][3]);
            }
        }
    }
};

// A thread's share of a tile in f32: rows and columns kStrideM and kStrideN apart, a warp 4 x 8 threads, so that eight
// lanes read one row of A (a broadcast) and eight neighbouring rows of B (no bank twice).
template <class Config>
struct FfmaMma {
    static constexpr int kStrideM = 4 * Config::kWarpsM;
    static constexpr int kStrideN = 8 * Config::kWarpsN;
    static constexpr int kRows = Config::kBlockM / kStrideM;
    static constexpr int kColumns = Config::kBlockN / kStrideN;
    static_assert(kStrideM % kChunksPerRow == 0, "all rows of a thread swizzle alike");

    float accum[kRows][kColumns] = {};

    static __device__ __forceinline__ int first_row() {
        return threadIdx.x / kWarpSize % Config::kWarpsM * 4 + threadIdx.x % kWarpSize / 8;
    }
    static __device__ __forceinline__ int first_column() {
        return threadIdx.x / kWarpSize / Config::kWarpsM * 8 + threadIdx.x % 8;
    }

    // Add one stage's product, four k at a time, k ascending.
    __device__ __forceinline__ void compute(const float* smem_a, const float* smem_b) {
        const float* a_rows = smem_a + first_row() * Config::kBlockK;
        const float* b_rows = smem_b + first_column() * Config::kBlockK;
#pragma unroll 2
        for (int chunk = 0; chunk < kChunksPerRow; ++chunk) {
            const int a_chunk = (chunk ^ (first_row() % kChunksPerRow)) * 4;
            const int b_chunk = (chunk ^ (first_column() % kChunksPerRow)) * 4;
            float4 a[kRows];
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                a[i] = *reinterpret_cast<const float4*>(a_rows + i * kStrideM * Config::kBlockK + a_chunk);
            }
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                const float4 b =
                    *reinterpret_cast<const float4*>(b_rows + j * kStrideN * Config::kBlockK + b_chunk);
#pragma unroll
                for (int i = 0; i < kRows; ++i) {
                    accum[i][j] = fmaf(a[i].x, b.x, accum[i][j]);
                    accum[i][j] = fmaf(a[i].y, b.y, accum[i][j]);
                    accum[i][j] = fmaf(a[i].z, b.z, accum[i][j]);
                    accum[i][j] = fmaf(a[i].w, b.w, accum[i][j]);
                }
            }
        }
    }

    __device__ __forceinline__ void store(float* smem_accum) const {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                const int row = first_row() + i * kStrideM;
                smem_accum[row * Config::kAccumStride + first_column() + j * kStrideN] = accum[i][j];
            }
        }
    }
};

template <class Config>
using MmaFor = std::conditional_t<sizeof(typename Config::T) == 2, TensorCoreMma<Config>, FfmaMma<Config>>;

// Copies a chunk of which `valid` elements (0 to all) are inside the matrix; the rest becomes zero.
// `is_aligned`: source and all rows are 16-byte aligned.
template <class T>
__device__ __forceinline__ void copy_chunk(T* smem, const T* gmem, int valid, bool is_aligned) {
    if (is_aligned) {
        ptx::cp_async_cg_16(smem, gmem, valid * static_cast<int>(sizeof(T)));
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) ptx::cp_async_ca_4(smem + i, i < valid ? gmem + i : gmem, i < valid ? 4 : 0);
    } else {
        // 16-bit elements at odd addresses: no cp.async is that small.
        Vec16<T> vec;
#pragma unroll
        for (int i = 0; i < kChunkElements<T>; ++i) vec.values[i] = i < valid ? gmem[i] : T{};
        *reinterpret_cast<Vec16<T>*>(smem) = vec;
    }
}

// Fills one stage with A's and B's next 128 bytes of K, from `k_begin` on.
template <class Config>
struct TileLoader {
    using T = typename Config::T;
    static constexpr int kRowsPerPass = Config::kNumThreads / kChunksPerRow;
    static_assert(Config::kBlockM % kRowsPerPass == 0 && Config::kBlockN % kRowsPerPass == 0);

    const GemmOperands<T>& operands;
    GemmSharedStorage<Config>& smem;
    const T* gmem_b;    // this thread's first row of B in the tile
    int num_b_rows;     // rows of B from there on that exist
    bool a_is_aligned;
    bool b_is_aligned;

    __device__ __forceinline__ TileLoader(
        const GemmOperands<T>& operands, GemmSharedStorage<Config>& smem, const Tile& tile)
        : operands(operands), smem(smem) {
        const T* group_b = operands.b + tile.group * operands.b_group_stride;
        const int first_row = tile.column_begin + static_cast<int>(threadIdx.x) / kChunksPerRow;
        gmem_b = group_b + first_row * operands.b_row_stride;
        num_b_rows = operands.n - first_row;
        a_is_aligned = rows_are_aligned(operands.a, operands.a_row_stride, kChunkBytes);
        b_is_aligned = rows_are_aligned(group_b, operands.b_row_stride, kChunkBytes);

        // Look up the tile's rows of A once.
        for (int row = threadIdx.x; row < Config::kBlockM; row += Config::kNumThreads) {
            const int out_row = tile.row_begin + row;
            int a_row = -1;
            if (out_row < tile.row_end) a_row = operands.row_index ? operands.row_index[out_row] : out_row;
            const bool exists = a_row >= 0 && a_row < operands.num_a_rows;
            smem.a_row_offset[row] = exists ? a_row * operands.a_row_stride : -1;
        }
        __syncthreads();
    }

    __device__ __forceinline__ void load(int stage, int k_begin) const {
        const int row = threadIdx.x / kChunksPerRow;
        const int chunk = threadIdx.x % kChunksPerRow;
        const int k = k_begin + chunk * kChunkElements<T>;
        const int valid = min(max(operands.k - k, 0), kChunkElements<T>);
        T* smem_a = smem.operands.a[stage] + swizzled_offset<T>(row, chunk);
        T* smem_b = smem.operands.b[stage] + swizzled_offset<T>(row, chunk);
        constexpr int kPassElements = kRowsPerPass * Config::kBlockK;
        static_assert(kRowsPerPass % kChunksPerRow == 0, "all rows of a thread swizzle alike");

        if (a_is_aligned) {
#pragma unroll
            for (int pass = 0; pass < Config::kBlockM / kRowsPerPass; ++pass) {
                load_a(smem_a + pass * kPassElements, row + pass * kRowsPerPass, k, valid, true);
            }
        } else {
#pragma unroll 1
            for (int pass = 0; pass < Config::kBlockM / kRowsPerPass; ++pass) {
                load_a(smem_a + pass * kPassElements, row + pass * kRowsPerPass, k, valid, false);
            }
        }
        if (b_is_aligned) {
#pragma unroll
            for (int pass = 0; pass < Config::kBlockN / kRowsPerPass; ++pass) {
                load_b(smem_b + pass * kPassElements, pass * kRowsPerPass, k, valid, true);
            }
        } else {
#pragma unroll 1
            for (int pass = 0; pass < Config::kBlockN / kRowsPerPass; ++pass) {
                load_b(smem_b + pass * kPassElements, pass * kRowsPerPass, k, valid, false);
            }
        }
    }

   private:
    __device__ __forceinline__ void load_a(T* smem_chunk, int row, int k, int valid, bool is_aligned) const {
        const int64_t offset = smem.a_row_offset[row];
        const bool exists = offset >= 0 && valid > 0;
        copy_chunk(smem_chunk, operands.a + (exists ? offset + k : 0), exists ? valid : 0, is_aligned);
    }

    __device__ __forceinline__ void load_b(T* smem_chunk, int row, int k, int valid, bool is_aligned) const {
        const bool exists = row < num_b_rows && valid > 0;
        const T* source = exists ? gmem_b + row * operands.b_row_stride + k : operands.b;
        copy_chunk(smem_chunk, source, exists ? valid : 0, is_aligned);
    }
};

// Computes one tile and leaves the sums in smem.accum, visible to all threads.
template <class Config>
__device__ __forceinline__ void gemm_mainloop(
    const GemmOperands<typename Config::T>& operands, GemmSharedStorage<Config>& smem, const Tile& tile) {
    const TileLoader<Config> loader(operands, smem, tile);
    AsyncPipeline<Config::kNumStages> pipeline;
    MmaFor<Config> mma;
    const int num_k_tiles = ceil_div(operands.k, Config::kBlockK);

    // Fill all stages but one.
#pragma unroll 1
    for (int k_tile = 0; k_tile < Config::kNumStages - 1; ++k_tile) {
        if (k_tile < num_k_tiles) loader.load(pipeline.write_stage, k_tile * Config::kBlockK);
        pipeline.commit();
    }

    // Compute on the oldest stage while the one computed on before is filled again.
#pragma unroll 1
    for (int k_tile = 0; k_tile < num_k_tiles; ++k_tile) {
        pipeline.wait();
        const int next_k_tile = k_tile + Config::kNumStages - 1;
        if (next_k_tile < num_k_tiles) loader.load(pipeline.write_stage, next_k_tile * Config::kBlockK);
        pipeline.commit();
        mma.compute(smem.operands.a[pipeline.read_stage], smem.operands.b[pipeline.read_stage]);
        pipeline.release();
    }

    // Hand the sums to the epilogue in the operands' memory.
    pipeline.drain();
    mma.store(smem.accum);
    __syncthreads();
}

// The whole of a matrix product: tiles from the scheduler, sums from the main loop, the rest by the epilogue.
template <class Config, class Scheduler, class Epilogue>
__device__ __forceinline__ void gemm(
    const GemmOperands<typename Config::T>& operands, Scheduler scheduler, const Epilogue& epilogue) {
    extern __shared__ __align__(128) unsigned char dynamic_smem[];
    auto& smem = *reinterpret_cast<GemmSharedStorage<Config>*>(dynamic_smem);
    Tile tile;
    while (scheduler.next(tile)) {
        gemm_mainloop<Config>(operands, smem, tile);
        epilogue.template run<Config>(smem.accum, tile);
        __syncthreads();  // the next tile's operands overwrite the sums
    }
}
