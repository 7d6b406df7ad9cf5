// What happens to a tile of sums before it is stored: an epilogue is a type with
//     run<Config>(const float* smem_accum, const Tile& tile)
// that all threads of the block call once a tile. Fusions are types; what differs from call to call is data.
#pragma once

#include <cstdint>

#include "gemm_mainloop.cuh"
#include "types.cuh"

// Codes shared with src/kernels/gemm.rs.
enum class Activation : int32_t { kIdentity = 0, kGeluErf = 1, kGeluTanh = 2 };

// x / 2 * (1 + erf(x / sqrt(2)))
__device__ __forceinline__ float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

// x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3), as x * sigmoid(2 u): no cancellation at u << 0.
__device__ __forceinline__ float gelu_tanh(float x) {
    const float u = 0.79788456080286536f * fmaf(0.044715f * x * x, x, x);
    return x / (1.0f + expf(-2.0f * u));
}

__device__ __forceinline__ float activate(float x, Activation activation) {
    switch (activation) {  // the same for all threads
        case Activation::kGeluErf: return gelu_erf(x);
        case Activation::kGeluTanh: return gelu_tanh(x);
        default: return x;
    }
}

// A matrix of [num_batches, rows_per_batch, columns] seen as rows; elements of a row are contiguous.
template <class P>
struct BatchedRows {
    P pointer;
    int64_t row_stride;
    int64_t batch_stride;

    // Element offset of a row.
    __device__ __forceinline__ int64_t row_offset(int row, int rows_per_batch) const {
        return row / rows_per_batch * batch_stride + row % rows_per_batch * row_stride;
    }

    template <class T>
    __device__ __forceinline__ bool is_aligned(int bytes) const {
        return rows_are_aligned(static_cast<const T*>(pointer), row_stride | batch_stride, bytes);
    }
};

// out = activation(sums + bias) + residual
struct OutputParams {
    BatchedRows<void*> out;             // of T, or f32 if out_is_f32
    BatchedRows<const void*> residual;  // of out's type; null for none. May be out itself
    const float* bias;                  // [num_groups, N]; null for none
    int32_t rows_per_batch;
    int32_t num_columns;  // N
    int32_t out_is_f32;
    Activation activation;
};

// Neighbouring columns that a thread takes together, and rows it has under way: loads of the residual must not wait
// for the stores before them, which they may alias.
constexpr int kEpilogueColumns = 4;
constexpr int kEpilogueRows = 4;

// Identity and GELUs, chosen by OutputParams.
struct AnyActivation {
    static __device__ __forceinline__ float apply(float x, Activation activation) { return activate(x, activation); }
};

struct NoActivation {
    static __device__ __forceinline__ float apply(float x, Activation) { return x; }
};

struct GeluActivation {
    static __device__ __forceinline__ float apply(float x, Activation activation) {
        return activation == Activation::kGeluTanh ? gelu_tanh(x) : gelu_erf(x);
    }
};

// An output type that a call chooses: T, or f32 if OutputParams says so.
template <class T>
struct FloatOr {};

// Bias, activation and residual, each optional; a thread takes 4 columns, a warp whole rows of 128.
template <class T, class Out, class Activate>
struct LinearEpilogue {
    const OutputParams& params;

    template <class Config>
    __device__ __forceinline__ void run(const float* smem_accum, const Tile& tile) const {
        if constexpr (std::is_same_v<Out, FloatOr<T>>) {
            if (params.out_is_f32 || sizeof(T) == 4) {
                run_as<Config, float>(smem_accum, tile);
            } else {
                run_as<Config, T>(smem_accum, tile);
            }
        } else {
            run_as<Config, Out>(smem_accum, tile);
        }
    }

   private:
    template <class Config, class Store>
    __device__ __forceinline__ void run_as(const float* smem_accum, const Tile& tile) const {
        constexpr int kThreadsPerRow = Config::kBlockN / kEpilogueColumns;
        constexpr int kRowsPerPass = Config::kNumThreads / kThreadsPerRow;
        constexpr int kNumPasses = Config::kBlockM / kRowsPerPass;
        constexpr int kBatch = kNumPasses < kEpilogueRows ? kNumPasses : kEpilogueRows;
        static_assert(Config::kNumThreads % kThreadsPerRow == 0 && Config::kBlockM % kRowsPerPass == 0);
        static_assert(kNumPasses % kBatch == 0);

        Store* out = static_cast<Store*>(params.out.pointer);
        const Store* residual = static_cast<const Store*>(params.residual.pointer);
        const int row_in_tile = threadIdx.x / kThreadsPerRow;
        const int column_in_tile = threadIdx.x % kThreadsPerRow * kEpilogueColumns;
        const int column = tile.column_begin + column_in_tile;
        const int num_columns = min(params.num_columns - column, kEpilogueColumns);
        if (num_columns <= 0 || tile.row_begin + row_in_tile >= tile.row_end) return;
        constexpr int kAccessBytes = kEpilogueColumns * sizeof(Store);
        const bool is_vector = num_columns == kEpilogueColumns && params.out.is_aligned<Store>(kAccessBytes) &&
                               (residual == nullptr || params.residual.is_aligned<Store>(kAccessBytes));

        float bias[kEpilogueColumns] = {};
        if (params.bias != nullptr) {
            const float* group_bias = params.bias + static_cast<int64_t>(tile.group) * params.num_columns + column;
            const bool is_aligned = reinterpret_cast<uintptr_t>(group_bias) % sizeof(bias) == 0;
            load_columns(bias, group_bias, num_columns, num_columns == kEpilogueColumns && is_aligned);
        }

#pragma unroll 1
        for (int pass = 0; pass < kNumPasses; pass += kBatch) {
            // Load the residual of all rows of the batch.
            float values[kBatch][kEpilogueColumns] = {};
            if (residual != nullptr) {
#pragma unroll
                for (int i = 0; i < kBatch; ++i) {
                    const int row = tile.row_begin + row_in_tile + (pass + i) * kRowsPerPass;
                    if (row >= tile.row_end) continue;
                    const Store* source = residual + params.residual.row_offset(row, params.rows_per_batch) + column;
                    load_columns(values[i], source, num_columns, is_vector);
                }
            }
            // Add the activated sums to it and store.
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                const int accum_row = row_in_tile + (pass + i) * kRowsPerPass;
                const int row = tile.row_begin + accum_row;
                if (row >= tile.row_end) continue;
                float sums[kEpilogueColumns];
                load_vec(sums, smem_accum + accum_row * Config::kAccumStride + column_in_tile);
#pragma unroll
                for (int j = 0; j < kEpilogueColumns; ++j) {
                    values[i][j] += Activate::apply(sums[j] + bias[j], params.activation);
                }
                Store* target = out + params.out.row_offset(row, params.rows_per_batch) + column;
                store_columns(target, values[i], num_columns, is_vector);
            }
        }
    }

    template <class Store>
    static __device__ __forceinline__ void load_columns(
        float (&values)[kEpilogueColumns], const Store* source, int num_columns, bool is_vector) {
        if (is_vector) {
            load_vec(values, source);
        } else {
#pragma unroll
            for (int i = 0; i < kEpilogueColumns; ++i) {
                if (i < num_columns) values[i] = to_float(source[i]);
            }
        }
    }

    template <class Store>
    static __device__ __forceinline__ void store_columns(
        Store* target, const float (&values)[kEpilogueColumns], int num_columns, bool is_vector) {
        if (is_vector) {
            store_vec(target, values);
        } else {
#pragma unroll
            for (int i = 0; i < kEpilogueColumns; ++i) {
                if (i < num_columns) target[i] = from_float<Store>(values[i]);
            }
        }
    }
};
