// targets: sm_90a
// The copy engine: bulk copies, tensor copies in 1 to 5 dimensions, mbarriers, stmatrix.
#include "ptx.cuh"
#include <cuda.h>

// out[i] = in[i] + 1 through shared memory, copied both ways in bulk; 256 floats a block. Block 128.
extern "C" __global__ void bulk_copy(const float* in, float* out) {
    __shared__ alignas(128) float buffer[256];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(buffer));
        ptx::bulk_load(buffer, in + blockIdx.x * 256, sizeof(buffer), &full);
    }
    __syncthreads();
    ptx::mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < 256; i += blockDim.x) buffer[i] += 1;
    ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::bulk_store(out + blockIdx.x * 256, buffer, sizeof(buffer));
        ptx::bulk_commit_group();
        ptx::bulk_wait_group<0>();
        ptx::mbarrier_inval(&full);
    }
}

// Every block adds its 64 floats to the same 64 by a bulk reduction. Block 64.
extern "C" __global__ void bulk_reduce(const float* in, float* out) {
    __shared__ alignas(128) float buffer[64];
    buffer[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
    ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::bulk_reduce_add_f32(out, buffer, sizeof(buffer));
        ptx::bulk_commit_group();
        ptx::bulk_wait_group_read<0>();
    }
}

// A ring of four stages between a producer warp and three consumer warps, full and empty barriers. Block 128.
extern "C" __global__ void bulk_ring(const float* in, float* out, int tiles) {
    constexpr int kStages = 4, kElements = 192;
    __shared__ alignas(128) float stages[kStages][kElements];
    __shared__ alignas(8) uint64_t full[kStages], empty[kStages];
    int warp = threadIdx.x / 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kStages; s++) {
            ptx::mbarrier_init(&full[s], 1);
            ptx::mbarrier_init(&empty[s], 3);
        }
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == 0) {
        if (ptx::elect_one()) {
            for (int i = 0; i < tiles; i++) {
                int s = i % kStages;
                ptx::mbarrier_wait(&empty[s], (i / kStages & 1) ^ 1);
                ptx::mbarrier_arrive_expect_tx(&full[s], sizeof(stages[s]));
                ptx::bulk_load(stages[s], in + i * kElements, sizeof(stages[s]), &full[s]);
            }
        }
    } else {
        int t = threadIdx.x - 32;
        float sum0 = 0, sum1 = 0;
        for (int i = 0; i < tiles; i++) {
            int s = i % kStages;
            ptx::mbarrier_wait(&full[s], i / kStages & 1);
            sum0 += stages[s][t];
            sum1 += stages[s][t + 96];
            __syncwarp();
            if (t % 32 == 0) ptx::mbarrier_arrive(&empty[s]);
        }
        out[t] = sum0;
        out[t + 96] = sum1;
    }
}

// Writes the box at `x` of a tensor of f32, in each number of dimensions, densely. Block 64.
template <int kRank>
__device__ void tensor_box(const CUtensorMap* map, float* out, int elements, const int* x) {
    extern __shared__ __align__(1024) float box[];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        ptx::prefetch_tensormap(map);
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect_tx(&full, elements * 4);
        if constexpr (kRank == 1) ptx::tensor_load_1d(box, map, &full, x[0]);
        if constexpr (kRank == 2) ptx::tensor_load_2d(box, map, &full, x[0], x[1]);
        if constexpr (kRank == 3) ptx::tensor_load_3d(box, map, &full, x[0], x[1], x[2]);
        if constexpr (kRank == 4) ptx::tensor_load_4d(box, map, &full, x[0], x[1], x[2], x[3]);
        if constexpr (kRank == 5) ptx::tensor_load_5d(box, map, &full, x[0], x[1], x[2], x[3], x[4]);
    }
    __syncthreads();
    ptx::mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < elements; i += blockDim.x) out[i] = box[i];
}
extern "C" __global__ void tensor_1d(const __grid_constant__ CUtensorMap map, float* out, int elements, const int* x) {
    tensor_box<1>(&map, out, elements, x);
}
extern "C" __global__ void tensor_2d(const __grid_constant__ CUtensorMap map, float* out, int elements, const int* x) {
    tensor_box<2>(&map, out, elements, x);
}
extern "C" __global__ void tensor_3d(const __grid_constant__ CUtensorMap map, float* out, int elements, const int* x) {
    tensor_box<3>(&map, out, elements, x);
}
extern "C" __global__ void tensor_4d(const __grid_constant__ CUtensorMap map, float* out, int elements, const int* x) {
    tensor_box<4>(&map, out, elements, x);
}
extern "C" __global__ void tensor_5d(const __grid_constant__ CUtensorMap map, float* out, int elements, const int* x) {
    tensor_box<5>(&map, out, elements, x);
}

// out = 2 in for a tensor of f32 in boxes of 32 by 16 with 128-byte swizzle, by tensor loads and stores; the kernel reads
// and writes through the swizzle itself. With `add`, the result is added to `out`. Block 128.
extern "C" __global__ void tensor_double(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out,
                                         int add) {
    __shared__ alignas(1024) float box[16 * 32];
    __shared__ alignas(8) uint64_t full;
    int x = blockIdx.x * 32, y = blockIdx.y * 16;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(box));
        ptx::tensor_load_2d(box, &in, &full, x, y);
    }
    ptx::mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < 512; i += 128) {
        int row = i / 32, col = i % 32;
        int at = row * 32 + ((col / 4 ^ row % 8) * 4 + col % 4);
        box[at] = box[at] * 2;
    }
    ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        if (add)
            ptx::tensor_reduce_add_2d(&out, box, x, y);
        else
            ptx::tensor_store_2d(&out, box, x, y);
        ptx::bulk_commit_group();
        ptx::bulk_wait_group<0>();
    }
}

// One warp stores four 8 by 8 matrices with stmatrix, and two transposed. out: [32][8] then [16][8] of u16.
extern "C" __global__ void store_matrices(uint16_t* out) {
    __shared__ alignas(16) uint16_t rows[48][8];
    int lane = threadIdx.x;
    uint32_t d[4], turned[2];
    for (int i = 0; i < 4; i++) d[i] = (i * 64 + lane * 2) | (i * 64 + lane * 2 + 1) << 16;
    for (int i = 0; i < 2; i++) turned[i] = d[i];
    ptx::stmatrix_x4(&rows[lane], d);
    ptx::stmatrix_x2_trans(&rows[32 + lane % 16], turned);
    __syncwarp();
    for (int i = lane; i < 384; i += 32) out[i] = rows[i / 8][i % 8];
}
