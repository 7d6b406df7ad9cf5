// Queries, keys and values of new tokens in one matrix product, keys and values straight into their rows of the cache:
//     [q | kv] = a * weight^T + bias    q[m, :] and kv[kv_rows[m], :]
// a: [num_tokens, K]    weight: [q_columns + kv_columns, K]    q: [num_tokens, q_columns]    kv: [num_cache_rows, kv_columns]
// kv_rows: i32 [num_tokens]; a row outside of kv is not stored    all f32, bf16 or f16, rows strided; bias: f32
// The tiles and main loop of gemm.cu; here only where the sums go differs. Bound by reading the weights, since the
// tokens are few: long prompts go through gemm.cu.
// Launcher: src/kernels/qkv.rs
#include "gemm_configs.cuh"

template <class T>
struct QkvOutput {
    T* q;
    T* kv;
    const int32_t* kv_rows;
    const float* bias;  // [q_columns + kv_columns]; null for none
    int64_t q_row_stride;
    int64_t kv_row_stride;
    int32_t q_columns;
    int32_t num_columns;  // q_columns + kv_columns
    int32_t num_cache_rows;
    int32_t reserved;
};

template <class T>
struct QkvParams {
    GemmOperands<T> operands;
    QkvOutput<T> output;
};

// A thread takes kColumns neighbouring columns of a row.
template <class T>
struct QkvEpilogue {
    static constexpr int kColumns = 4;
    const QkvOutput<T>& params;

    template <class Config>
    __device__ __forceinline__ void run(const float* smem_accum, const Tile& tile) const {
        constexpr int kThreadsPerRow = Config::kBlockN / kColumns;
        constexpr int kRowsPerPass = Config::kNumThreads / kThreadsPerRow;
        static_assert(Config::kNumThreads % kThreadsPerRow == 0);
        const int column_in_tile = threadIdx.x % kThreadsPerRow * kColumns;
        const int column = tile.column_begin + column_in_tile;
        if (column >= params.num_columns) return;
        float bias[kColumns] = {};
        if (params.bias != nullptr) {
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                if (column + j < params.num_columns) bias[j] = params.bias[column + j];
            }
        }
        // All columns on one side, and rows that can be written in one access
        const bool is_kv = column >= params.q_columns;
        const bool is_whole = column + kColumns <= (is_kv ? params.num_columns : params.q_columns);
        const bool is_aligned =
            is_kv ? rows_are_aligned(params.kv, params.kv_row_stride | (column - params.q_columns), kColumns * sizeof(T))
                  : rows_are_aligned(params.q, params.q_row_stride, kColumns * sizeof(T));

#pragma unroll 1
        for (int accum_row = threadIdx.x / kThreadsPerRow; accum_row < Config::kBlockM; accum_row += kRowsPerPass) {
            const int row = tile.row_begin + accum_row;
            if (row >= tile.row_end) break;
            float values[kColumns];
            load_vec(values, smem_accum + accum_row * Config::kAccumStride + column_in_tile);
#pragma unroll
            for (int j = 0; j < kColumns; ++j) values[j] += bias[j];
            const int kv_row = params.kv_rows[row];
            const bool has_kv_row = kv_row >= 0 && kv_row < params.num_cache_rows;
            T* const q_target = params.q + row * params.q_row_stride + column;
            T* const kv_target = params.kv + kv_row * params.kv_row_stride + (column - params.q_columns);
            if (is_whole && is_aligned) {
                if (!is_kv) store_vec(q_target, values);
                if (is_kv && has_kv_row) store_vec(kv_target, values);
                continue;
            }
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                if (column + j < params.q_columns) {
                    q_target[j] = from_float<T>(values[j]);
                } else if (column + j < params.num_columns && has_kv_row) {
                    kv_target[j] = from_float<T>(values[j]);
                }
            }
        }
    }
};

template <class Config>
__device__ __forceinline__ void qkv_kernel(const QkvParams<typename Config::T>& params) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const DenseScheduler<Config::kBlockM, Config::kBlockN> scheduler(params.operands.m, params.operands.n);
    gemm<Config>(params.operands, scheduler, QkvEpilogue<typename Config::T>{params.output});
}

#define DEFINE_QKV(dtype, T, tile)                                                                       \
    extern "C" __global__ void __launch_bounds__(Tile##tile<T>::kNumThreads, Tile##tile<T>::kMinBlocks)  \
        qkv_##dtype##_##tile(const __grid_constant__ QkvParams<T> params) {                              \
        qkv_kernel<Tile##tile<T>>(params);                                                               \
    }

DEFINE_QKV(f32, float, 64x64)
DEFINE_QKV(f32, float, 16x32)
DEFINE_QKV(bf16, Bf16, 64x64)
DEFINE_QKV(bf16, Bf16, 16x32)
DEFINE_QKV(f16, F16, 64x64)
DEFINE_QKV(f16, F16, 16x32)
