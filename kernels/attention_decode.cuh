// Attention of a few queries over many keys (decoding), fused, the keys split over the whole GPU (Flash-Decoding,
// Dao et al. 2023): what attention.cu computes, for up to 8 rows of a key-value head.
// q, out, k, v: as in attention.cu    partials: f32 [problems, splits, rows, head_dim + 2]    counters: i32 [problems]
// A block takes one key-value head of one sequence and a run of keys_per_split keys, which it reads once for all the
// query heads that share them. Lanes side by side hold a key, groups of lanes take the keys in turn, each with an
// online softmax of its own; the groups are merged at the end. Where the keys are more than one split, every block
// leaves its row unnormalised, and the last one to come merges the splits in ascending order: the same bits every time.
// Splits begin at multiples of keys_per_split whatever the batch is, and blocks behind a sequence's last key end at once,
// so a recorded launch serves every length up to the one it was recorded for. Memory bound: keys and values once.
// Launcher: src/kernels/attention.rs
#pragma once

#include "attention_tiles.cuh"
#include "chunk.cuh"
#include "online_softmax.cuh"
#include "ptx/griddep.cuh"

constexpr int kNumWarps = 8;
constexpr int kThreads = kNumWarps * kWarpSize;
constexpr int kLaneElements = 8;

struct AttentionDecodeParams {
    AttentionParams attention;
    float* partials;       // null: one split
    int32_t* counters;     // blocks of each problem that are done: zero before and after
    int32_t keys_per_split;
    int32_t reserved;
};

// A chunk of 8 elements at `column` of a row; null is a row of zeros.
template <class T>
__device__ __forceinline__ void load_lane(
    float (&values)[kLaneElements], const T* row, int column, const AttentionParams& p) {
    const int valid = row == nullptr ? 0 : p.head_dim - column;
    if (p.whole_chunks && valid >= kLaneElements) {
        load_chunk<true>(values, row + column, valid);
    } else {
        load_chunk<false>(values, row + column, valid);
    }
}

template <int kHeadDim, int kMaxRows>
struct DecodeStorage {
    float max[kMaxRows][kNumWarps];
    float sum[kMaxRows][kNumWarps];
    float parts[kNumWarps][kHeadDim];  // of one row
    float rows[kMaxRows][kHeadDim];
    bool is_last;
};

template <class T, int kHeadDim, int kMaxRows>
__device__ __forceinline__ void attention_decode(const AttentionDecodeParams& params) {
    constexpr int kKeyLanes = kHeadDim / kLaneElements;  // lanes that share a key
    constexpr int kKeyGroups = kThreads / kKeyLanes;     // keys the block reads at once
    constexpr int kUnroll = kMaxRows > 4 ? 2 : 4;        // keys in flight for each lane
    __shared__ DecodeStorage<kHeadDim, kMaxRows> smem;
    const AttentionParams& p = params.attention;
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    const Problem problem(p, blockIdx.x);
    const int32_t num_rows = problem.num_rows;
    const int32_t num_keys = problem.visible_keys(p, num_rows - 1);
    const int32_t num_splits = max(1, (num_keys + params.keys_per_split - 1) / params.keys_per_split);
    if (blockIdx.y >= num_splits) return;
    const int32_t first_key = blockIdx.y * params.keys_per_split;
    const int32_t last_key = min(first_key + params.keys_per_split, num_keys);
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    const int group = threadIdx.x / kKeyLanes;
    const int column = threadIdx.x % kKeyLanes * kLaneElements;

    float q[kMaxRows][kLaneElements], out[kMaxRows][kLaneElements] = {};
    OnlineSoftmax softmax[kMaxRows];
    int32_t visible[kMaxRows];
#pragma unroll
    for (int r = 0; r < kMaxRows; ++r) {
        const T* row = nullptr;
        if (r < num_rows) row = reinterpret_cast<const T*>(p.q) + problem.row_offset(p, p.q_strides, r);
        load_lane(q[r], row, column, p);
        visible[r] = r < num_rows ? problem.visible_keys(p, r) : 0;
    }

    // Each group of lanes takes every kKeyGroups-th key
    for (int32_t begin = first_key; begin < last_key; begin += kKeyGroups * kUnroll) {
        float scores[kMaxRows][kUnroll], values[kUnroll][kLaneElements];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int32_t key = begin + u * kKeyGroups + group;
            const bool is_there = key < last_key;
            float k[kLaneElements];
            load_lane(k, is_there ? problem.kv_row<T>(p, p.k, p.k_strides, key) : nullptr, column, p);
            load_lane(values[u], is_there ? problem.kv_row<T>(p, p.v, p.v_strides, key) : nullptr, column, p);
#pragma unroll
            for (int r = 0; r < kMaxRows; ++r) {
                float score = 0.0f;
#pragma unroll
                for (int i = 0; i < kLaneElements; ++i) score = fmaf(q[r][i], k[i], score);
                score = warp_reduce<Sum, kKeyLanes>(score);
                scores[r][u] = is_there && key < visible[r] ? score : -INFINITY;
            }
        }
#pragma unroll
        for (int r = 0; r < kMaxRows; ++r) {
            const float correction = softmax[r].template update<kUnroll, 1>(
                [&](int i) -> float& { return scores[r][i]; }, p.softmax_scale_log2);
#pragma unroll
            for (int i = 0; i < kLaneElements; ++i) {
                out[r][i] *= correction;
#pragma unroll
                for (int u = 0; u < kUnroll; ++u) out[r][i] = fmaf(scores[r][u], values[u][i], out[r][i]);
            }
        }
    }

    // Bring all groups to the block's maximum
#pragma unroll
    for (int r = 0; r < kMaxRows; ++r) {
        const float warp_max = warp_reduce<Max>(softmax[r].max);
        if (lane_idx == 0) smem.max[r][warp_idx] = warp_max;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kMaxRows; ++r) {
        float block_max = -INFINITY;
#pragma unroll
        for (int warp = 0; warp < kNumWarps; ++warp) block_max = fmaxf(block_max, smem.max[r][warp]);
        const float max = softmax[r].max;
        const float factor =
            max == -INFINITY ? 0.0f : ptx::ex2_approx_f32((max - block_max) * p.softmax_scale_log2);
        float sum = softmax[r].sum * factor;
#pragma unroll
        for (int i = 0; i < kLaneElements; ++i) out[r][i] *= factor;
#pragma unroll
        for (int offset = kKeyLanes; offset < kWarpSize; offset *= 2) {
            sum += __shfl_xor_sync(kFullMask, sum, offset);
#pragma unroll
            for (int i = 0; i < kLaneElements; ++i) out[r][i] += __shfl_xor_sync(kFullMask, out[r][i], offset);
        }
        if (lane_idx == 0) smem.sum[r][warp_idx] = sum;
    }

    // Add up the groups, row by row
#pragma unroll
    for (int r = 0; r < kMaxRows; ++r) {
        if (r >= num_rows) break;
        if (lane_idx < kKeyLanes) {
#pragma unroll
            for (int i = 0; i < kLaneElements; ++i) smem.parts[warp_idx][column + i] = out[r][i];
        }
        __syncthreads();
        for (int d = threadIdx.x; d < kHeadDim; d += kThreads) {
            float value = 0.0f;
#pragma unroll
            for (int warp = 0; warp < kNumWarps; ++warp) value += smem.parts[warp][d];
            smem.rows[r][d] = value;
        }
        __syncthreads();
    }

    // Write the rows, or leave them for the merge
    const int32_t partial_length = p.head_dim + 2;
    float* const problem_partials = params.partials + int64_t(blockIdx.x) * gridDim.y * num_rows * partial_length;
#pragma unroll 1
    for (int r = 0; r < num_rows; ++r) {
        float max = -INFINITY, total = 0.0f;
#pragma unroll
        for (int warp = 0; warp < kNumWarps; ++warp) {
            max = fmaxf(max, smem.max[r][warp]);
            total += smem.sum[r][warp];
        }
        T* const target = reinterpret_cast<T*>(p.out) + problem.row_offset(p, p.out_strides, r);
        float* const partial = problem_partials + (blockIdx.y * num_rows + r) * partial_length;
        for (int d = threadIdx.x; d < p.head_dim; d += kThreads) {
            const float value = smem.rows[r][d];
            if (num_splits == 1) {
                target[d] = from_float<T>(total == 0.0f ? 0.0f : value / total);
            } else {
                partial[d] = value;
            }
        }
        if (num_splits > 1 && threadIdx.x == 0) {
            partial[p.head_dim] = max;
            partial[p.head_dim + 1] = total;
        }
    }
    if (num_splits == 1) return;

    // The last block of the problem merges its splits
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        smem.is_last = atomicAdd(params.counters + blockIdx.x, 1) == num_splits - 1;
        if (smem.is_last) params.counters[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!smem.is_last) return;
    __threadfence();
    for (int32_t r = 0; r < num_rows; ++r) {
        const float* const row = problem_partials + r * partial_length;
        const int64_t stride = int64_t(num_rows) * partial_length;
        float max = -INFINITY;
        for (int split = 0; split < num_splits; ++split) max = fmaxf(max, __ldcg(row + split * stride + p.head_dim));
        T* const target = reinterpret_cast<T*>(p.out) + problem.row_offset(p, p.out_strides, r);
        for (int d = threadIdx.x; d < p.head_dim; d += kThreads) {
            float value = 0.0f, total = 0.0f;
            for (int split = 0; split < num_splits; ++split) {
                const float split_max = __ldcg(row + split * stride + p.head_dim);
                const float factor =
                    split_max == -INFINITY ? 0.0f : ptx::ex2_approx_f32((split_max - max) * p.softmax_scale_log2);
                total = fmaf(factor, __ldcg(row + split * stride + p.head_dim + 1), total);
                value = fmaf(factor, __ldcg(row + split * stride + d), value);
            }
            target[d] = from_float<T>(total == 0.0f ? 0.0f : value / total);
        }
    }
}

#define ATTENTION_DECODE(dtype, T, head_dim, rows)                                      \
    extern "C" __global__ void __launch_bounds__(kThreads)                              \
        attention_decode_##head_dim##x##rows##_##dtype(                                 \
            const __grid_constant__ AttentionDecodeParams p) {                          \
        attention_decode<T, head_dim, rows>(p);                                         \
    }
