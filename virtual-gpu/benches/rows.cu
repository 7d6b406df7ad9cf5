// Kernels whose speed on the virtual GPU is measured: what surrounds the products of a language model.
// benches/rows.ptx: nvcc -ptx -std=c++17 -arch=compute_80 -lineinfo -o rows.ptx rows.cu
#include <stdint.h>

constexpr unsigned kFullMask = 0xffffffffu;

__device__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullMask, value, offset);
    return value;
}

// Sum over a block of 128 threads; `partial` is free again after the caller's next barrier.
__device__ float block_sum(float value, float (&partial)[4]) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    return partial[0] + partial[1] + partial[2] + partial[3];
}

// out[t, :] = (x[t, :] - mean) * rsqrt(var + eps) * gamma + beta
// x, out: [gridDim.x, hidden_size]    gamma, beta: [hidden_size], a multiple of 4, at most 2048
// A block of 128 threads a row, which stays in registers.
extern "C" __global__ void layer_norm(const float4* x, const float4* gamma, const float4* beta, float4* out,
                                      int hidden_size) {
    __shared__ float sums[4], squares[4];
    const int chunks = hidden_size / 4;
    const float4* row = x + int64_t(blockIdx.x) * chunks;
    float4 kept[4];
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const int at = threadIdx.x + 128 * c;
        kept[c] = at < chunks ? row[at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        sum += kept[c].x + kept[c].y + kept[c].z + kept[c].w;
    }
    const float mean = block_sum(sum, sums) / hidden_size;
    float square = 0.0f;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        if (threadIdx.x + 128 * c >= chunks) continue;
        const float4 d = {kept[c].x - mean, kept[c].y - mean, kept[c].z - mean, kept[c].w - mean};
        square += d.x * d.x + d.y * d.y + d.z * d.z + d.w * d.w;
    }
    const float rstd = rsqrtf(block_sum(square, squares) / hidden_size + 1e-5f);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const int at = threadIdx.x + 128 * c;
        if (at >= chunks) continue;
        const float4 g = gamma[at], b = beta[at], v = kept[c];
        out[int64_t(blockIdx.x) * chunks + at] =
            make_float4((v.x - mean) * rstd * g.x + b.x, (v.y - mean) * rstd * g.y + b.y,
                        (v.z - mean) * rstd * g.z + b.z, (v.w - mean) * rstd * g.w + b.w);
    }
}

// The same, a warp a row of 16-bit elements (bf16), four warps a block. hidden_size: a multiple of 8, at most 1024.
extern "C" __global__ void layer_norm_bf16(const uint4* x, const float4* gamma, const float4* beta, uint4* out,
                                           int rows, int hidden_size) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, chunks = hidden_size / 8;
    if (row >= rows) return;
    float kept[4][8];
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const int at = lane + 32 * c;
        const uint4 raw = at < chunks ? x[int64_t(row) * chunks + at] : make_uint4(0, 0, 0, 0);
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            kept[c][2 * i] = __uint_as_float(words[i] << 16);
            kept[c][2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
            sum += kept[c][2 * i] + kept[c][2 * i + 1];
        }
    }
    const float mean = warp_sum(sum) / hidden_size;
    float square = 0.0f;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float d = lane + 32 * c < chunks ? kept[c][i] - mean : 0.0f;
            square = fmaf(d, d, square);
        }
    }
    const float rstd = rsqrtf(warp_sum(square) / hidden_size + 1e-5f);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const int at = lane + 32 * c;
        if (at >= chunks) continue;
        uint32_t words[4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float4 g = gamma[2 * at + half], b = beta[2 * at + half];
            const float* v = kept[c] + 4 * half;
            const float first = (v[0] - mean) * rstd * g.x + b.x, second = (v[1] - mean) * rstd * g.y + b.y;
            const float third = (v[2] - mean) * rstd * g.z + b.z, fourth = (v[3] - mean) * rstd * g.w + b.w;
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[2 * half]) : "f"(second), "f"(first));
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[2 * half + 1]) : "f"(fourth), "f"(third));
        }
        out[int64_t(row) * chunks + at] = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// logits[t, e] = x[t, :] · weight[e, :], 8 experts a warp, which walks along hidden_size (a multiple of 128).
// x: [tokens, hidden_size]    weight: [experts, hidden_size]    logits: [tokens, experts], experts a multiple of 8
// Block: a warp in x, 4 groups of experts in y. Grid: tokens, groups of 32 experts.
extern "C" __global__ void router_logits(const float4* x, const float4* weight, float* logits, int experts,
                                         int hidden_size) {
    const int chunks = hidden_size / 4, first = (blockIdx.y * 4 + threadIdx.y) * 8, lane = threadIdx.x;
    if (first >= experts) return;
    float sums[8] = {};
    for (int at = lane; at < chunks; at += 32) {
        const float4 a = x[int64_t(blockIdx.x) * chunks + at];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const float4 w = weight[int64_t(first + e) * chunks + at];
            sums[e] = fmaf(a.x, w.x, fmaf(a.y, w.y, fmaf(a.z, w.z, fmaf(a.w, w.w, sums[e]))));
        }
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
        const float sum = warp_sum(sums[e]);
        if (lane == e) logits[int64_t(blockIdx.x) * experts + first + e] = sum;
    }
}

// Softmax over experts and the k largest in order, lowest index on ties: a warp a token, four warps a block.
// logits: [tokens, experts], experts at most 128    ids, weights: [tokens, k]
extern "C" __global__ void topk_gating(const float* logits, int* ids, float* weights, int tokens, int experts, int k) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    float score[4];
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int e = lane + 32 * i;
        score[i] = e < experts ? logits[int64_t(token) * experts + e] : -INFINITY;
        largest = fmaxf(largest, score[i]);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, offset));
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        score[i] = __expf(score[i] - largest);
        sum += score[i];
    }
    sum = warp_sum(sum);
    for (int round = 0; round < k; ++round) {
        // Scores are not negative, so their bits have their order
        uint32_t best = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) best = max(best, __float_as_uint(score[i]));
        best = __reduce_max_sync(kFullMask, best);
        uint32_t mine = 0xffffffffu;
#pragma unroll
        for (int i = 3; i >= 0; --i) mine = __float_as_uint(score[i]) == best ? lane + 32 * i : mine;
        const uint32_t id = __reduce_min_sync(kFullMask, mine);
#pragma unroll
        for (int i = 0; i < 4; ++i) score[i] = lane + 32 * i == int(id) ? 0.0f : score[i];
        if (lane == 0) {
            ids[token * k + round] = id;
            weights[token * k + round] = __uint_as_float(best) / sum;
        }
    }
}
