// targets: sm_90a
// Bugs planted in kernels of the Hopper generation: mbarriers, bulk and tensor copies, clusters, wgmma. Variant 0 is
// correct; the others have one bug each.
#include "ptx.cuh"
#include <cuda.h>

// out = in + 1 through shared memory, 256 floats a block, bulk copies both ways. Block 128.
template <int BUG>
__device__ void bulk(const float* in, float* out) {
    __shared__ alignas(128) float buffer[256];
    __shared__ alignas(8) uint64_t full;
    if (threadIdx.x == 0) {
        if (BUG != 7) ptx::mbarrier_init(&full, BUG == 10 ? 2 : 1);
        if (BUG != 8) ptx::fence_mbarrier_init();
        if (BUG == 4) ptx::mbarrier_arrive(&full);
        else ptx::mbarrier_arrive_expect_tx(&full, BUG == 3 ? 512 : BUG == 5 ? 2048 : 1024);
        ptx::bulk_load(buffer, in + blockIdx.x * 256 + (BUG == 6 ? 1 : 0), 1024, &full);
    }
    __syncthreads();
    if (BUG != 2) ptx::mbarrier_wait(&full, BUG == 11 ? 1 : 0);
    for (int i = threadIdx.x; i < 256; i += 128) buffer[i] += 1;
    if (BUG != 1) ptx::fence_proxy_async();
    if (BUG != 12) __syncthreads();
    if (threadIdx.x == 0) {
        ptx::bulk_store(out + (BUG == 13 ? blockIdx.x * 256 + 4 : blockIdx.x * 256), buffer, 1024);
        ptx::bulk_commit_group();
        if (BUG != 9) ptx::bulk_wait_group<0>();
    }
    if (BUG == 14) buffer[threadIdx.x] = 0;  // while the copy may still read it
}
#define BULK(BUG) \
    extern "C" __global__ void bulk_##BUG(const float* in, float* out) { bulk<BUG>(in, out); }
BULK(0) BULK(1) BULK(2) BULK(3) BULK(4) BULK(5) BULK(6) BULK(7) BULK(8) BULK(9) BULK(10) BULK(11) BULK(12) BULK(13)
BULK(14)

// A ring of two stages between a producer warp and three consumer warps, 192 floats a tile. Block 128.
template <int BUG>
__device__ void ring(const float* in, float* out, int tiles) {
    constexpr int kStages = 2, kElements = 192;
    __shared__ alignas(128) float stages[kStages][kElements];
    __shared__ alignas(8) uint64_t full[kStages], empty[kStages];
    int warp = threadIdx.x / 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kStages; s++) {
            ptx::mbarrier_init(&full[s], 1);
            ptx::mbarrier_init(&empty[s], BUG == 1 ? 4 : BUG == 7 ? 2 : 3);
        }
        ptx::fence_mbarrier_init();
    }
    if (BUG != 8) __syncthreads();
    if (warp == 0) {
        if (ptx::elect_one()) {
            for (int i = 0; i < tiles; i++) {
                int s = i % kStages, phase = i / kStages & 1;
                if (BUG != 2) ptx::mbarrier_wait(&empty[s], BUG == 3 ? phase : phase ^ 1);
                ptx::mbarrier_arrive_expect_tx(&full[s], sizeof(stages[s]));
                ptx::bulk_load(stages[BUG == 9 ? s ^ 1 : s], in + i * kElements, sizeof(stages[s]), &full[s]);
            }
        }
    } else {
        int t = threadIdx.x - 32;
        float sum0 = 0, sum1 = 0;
        for (int i = 0; i < tiles; i++) {
            int s = i % kStages, phase = BUG == 5 ? 0 : i / kStages & 1;
            ptx::mbarrier_wait(&full[BUG == 6 ? 0 : s], phase);
            if (BUG == 4 && t % 32 == 0) ptx::mbarrier_arrive(&empty[s]);
            sum0 += stages[s][t];
            sum1 += stages[s][t + 96];
            __syncwarp();
            if (BUG != 4 && t % 32 == 0) ptx::mbarrier_arrive(&empty[s]);
        }
        out[t] = sum0;
        out[t + 96] = sum1;
    }
}
#define RING(BUG) \
    extern "C" __global__ void ring_##BUG(const float* in, float* out, int tiles) { ring<BUG>(in, out, tiles); }
RING(0) RING(1) RING(2) RING(3) RING(4) RING(5) RING(6) RING(7) RING(8) RING(9)

// out = 2 in of f32 in boxes of 32 by 16, 128-byte swizzle, tensor loads and stores. Block 128.
template <int BUG>
__device__ void tensor(const CUtensorMap* in, const CUtensorMap* out) {
    __shared__ alignas(1024) float box[16 * 32];
    __shared__ alignas(8) uint64_t full;
    int x = blockIdx.x * 32, y = blockIdx.y * 16;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    float* target = BUG == 5 ? box + 4 : box;
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&full, sizeof(box));
        ptx::tensor_load_2d(target, in, &full, BUG == 2 ? x + 1 : x, y);
    }
    ptx::mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < 512; i += 128) {
        int row = i / 32, col = i % 32;
        int at = BUG == 3 ? (row * 32 + ((col / 4 ^ row % 4) * 4 + col % 4)) : row * 32 + ((col / 4 ^ row % 8) * 4 + col % 4);
        if (BUG == 3) box[at] = box[at] * (col < 8 ? 2 : 3);
        else box[at] = box[at] * 2;
    }
    if (BUG != 1) ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::tensor_store_2d(out, box, x, y);
        if (BUG != 4) ptx::bulk_commit_group();
        ptx::bulk_wait_group<0>();
    }
}
#define TENSOR(BUG)                                                                           \
    extern "C" __global__ void tensor_##BUG(const __grid_constant__ CUtensorMap in,           \
                                            const __grid_constant__ CUtensorMap out) {       \
        tensor<BUG>(&in, &out);                                                               \
    }
TENSOR(0) TENSOR(1) TENSOR(2) TENSOR(3) TENSOR(4) TENSOR(5)

// Each CTA of a cluster of two writes what its neighbour holds. Block 32.
template <int BUG>
__device__ void neighbours(const float* x, float* out) {
    __shared__ float mine[32];
    uint32_t rank = ptx::cluster_rank();
    mine[threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x];
    if (BUG != 1) {
        ptx::cluster_arrive();
        ptx::cluster_wait();
    }
    out[blockIdx.x * 32 + threadIdx.x] = ptx::load_remote(&mine[31 - threadIdx.x], BUG == 3 ? rank + 1 : rank ^ 1);
    if (BUG != 2) {
        ptx::cluster_arrive();
        if (BUG != 4 || rank == 0) ptx::cluster_wait();
    }
}
#define NEIGHBOURS(BUG) \
    extern "C" __global__ void neighbours_##BUG(const float* x, float* out) { neighbours<BUG>(x, out); }
NEIGHBOURS(0) NEIGHBOURS(1) NEIGHBOURS(2) NEIGHBOURS(3)

// Rank 0 loads boxes of 32 by 16 floats for a cluster of two. Block 128.
template <int BUG>
__device__ void multicast(const CUtensorMap* map, float* out, int boxes) {
    __shared__ alignas(1024) float box[16 * 32];
    __shared__ alignas(8) uint64_t full, empty;
    uint32_t rank = ptx::cluster_rank();
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::mbarrier_init(&empty, 2);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (BUG != 1) {
        ptx::cluster_arrive();
        ptx::cluster_wait();
    }
    for (int i = 0; i < boxes; i++) {
        if (threadIdx.x == 0) {
            ptx::mbarrier_arrive_expect_tx(&full, sizeof(box));
            if (rank == 0) {
                if (BUG != 2) ptx::mbarrier_wait(&empty, (i & 1) ^ 1);
                ptx::tensor_load_2d_multicast(box, map, &full, 32 * i, 0, BUG == 3 ? 1 : 3);
            }
        }
        ptx::mbarrier_wait(&full, i & 1);
        for (int j = threadIdx.x; j < 512; j += 128) out[(i * 2 + rank) * 512 + j] = box[j] + rank;
        if (BUG != 5) __syncthreads();
        if (threadIdx.x == 0) ptx::mbarrier_arrive_remote(&empty, 0);
    }
    if (BUG != 4) {
        ptx::cluster_arrive();
        ptx::cluster_wait();
    }
}
#define MULTICAST(BUG)                                                                                    \
    extern "C" __global__ void multicast_##BUG(const __grid_constant__ CUtensorMap map, float* out, int boxes) { \
        multicast<BUG>(&map, out, boxes);                                                                 \
    }
MULTICAST(0) MULTICAST(1) MULTICAST(2) MULTICAST(3) MULTICAST(4) MULTICAST(5)

__device__ void store_accumulators(float* c, const float (&accum)[16], int row0, int col0, int n) {
    int t = threadIdx.x % 128, lane = t % 32, row = row0 + t / 32 * 16 + lane / 4, col = col0 + lane % 4 * 2;
    for (int i = 0; i < 16; i++) c[(row + i / 2 % 2 * 8) * n + col + i / 4 * 8 + i % 2] = accum[i];
}

// c[64, 32] = a[64, 16] b[32, 16]^T of f16, core matrices written by the threads. Block 128.
template <int BUG>
__device__ void product(const __half* a, const __half* b, float* c) {
    __shared__ alignas(128) __half a_tile[64 * 16], b_tile[32 * 16];
    auto place = [](int row, int k) { return row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8; };
    for (int i = threadIdx.x; i < 64 * 16; i += 128) a_tile[place(i / 16, i % 16)] = a[i];
    for (int i = threadIdx.x; i < (BUG == 9 ? 31 * 16 : 32 * 16); i += 128)
        b_tile[place(i / 16, i % 16)] = b[i];
    if (BUG != 1) ptx::fence_proxy_async();
    if (BUG != 2) __syncthreads();
    float accum[16];
    if (BUG == 3)
        for (int i = 0; i < 16; i++) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(accum[i]));
    if (BUG != 3) ptx::wgmma_fence();
    ptx::wgmma_m64n32k16_f16(accum,
                             ptx::matrix_descriptor(a_tile, BUG == 6 ? 256 : 128, BUG == 6 ? 128 : 256, ptx::Swizzle::kNone),
                             ptx::matrix_descriptor(b_tile, 128, BUG == 8 ? 2048 : 256, ptx::Swizzle::kNone),
                             BUG == 5 || BUG == 3);
    if (BUG != 7) ptx::wgmma_commit_group();
    if (BUG != 4) ptx::wgmma_wait_group<0>();
    store_accumulators(c, accum, 0, 0, 32);
    if (BUG == 4) ptx::wgmma_wait_group<0>();
}
#define PRODUCT(BUG) \
    extern "C" __global__ void product_##BUG(const __half* a, const __half* b, float* c) { product<BUG>(a, b, c); }
PRODUCT(0) PRODUCT(1) PRODUCT(2) PRODUCT(3) PRODUCT(4) PRODUCT(5) PRODUCT(6) PRODUCT(7) PRODUCT(8) PRODUCT(9)

// c[128, 32] = a[128, k] b[32, k]^T of bf16: a producer warpgroup, two consumer warpgroups, a ring of two stages.
// Block 384, dynamic shared memory of sizeof(Shared) and 1024 bytes.
constexpr int kStages = 2;
struct Shared {
    __nv_bfloat16 a[kStages][128 * 64];
    __nv_bfloat16 b[kStages][32 * 64];
    uint64_t full[kStages], empty[kStages];
};
template <int BUG>
__device__ void specialised(const CUtensorMap* a, const CUtensorMap* b, float* c, int k) {
    extern __shared__ __align__(1024) uint8_t raw[];
    Shared& shared = *reinterpret_cast<Shared*>(raw);
    int warpgroup = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kStages; s++) {
            ptx::mbarrier_init(&shared.full[s], 1);
            ptx::mbarrier_init(&shared.empty[s], BUG == 5 ? 256 : 2);
        }
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    int tiles = k / 64;
    if (warpgroup == 0) {
        ptx::setmaxnreg_dec<40>();
        if (threadIdx.x == 0) {
            for (int i = 0; i < tiles; i++) {
                int s = i % kStages;
                ptx::mbarrier_wait(&shared.empty[s], (i / kStages & 1) ^ 1);
                ptx::mbarrier_arrive_expect_tx(&shared.full[s], sizeof(shared.a[s]) + (BUG == 7 ? 0 : sizeof(shared.b[s])));
                ptx::tensor_load_2d(shared.a[s], a, &shared.full[s], 64 * i, 0);
                ptx::tensor_load_2d(shared.b[s], b, &shared.full[s], 64 * i, 0);
            }
        }
    } else {
        if (BUG == 3) ptx::setmaxnreg_inc<248>();
        else ptx::setmaxnreg_inc<232>();
        float accum[16];
        if (BUG == 8)
            for (int i = 0; i < 16; i++) accum[i] = 0;
        for (int i = 0; i < tiles; i++) {
            int s = i % kStages;
            ptx::mbarrier_wait(&shared.full[s], BUG == 6 ? 0 : i / kStages & 1);
            ptx::wgmma_fence();
            for (int kk = 0; kk < 4; kk++) {
                uint64_t da = ptx::matrix_descriptor(shared.a[s] + (BUG == 4 ? 0 : (warpgroup - 1) * 64 * 64) + 16 * kk, 16,
                                                     1024, ptx::Swizzle::k128B);
                uint64_t db = ptx::matrix_descriptor(shared.b[s] + 16 * kk, 16, 1024,
                                                     BUG == 9 ? ptx::Swizzle::k64B : ptx::Swizzle::k128B);
                ptx::wgmma_m64n32k16_bf16<0, 0>(accum, da, db, BUG == 2 ? true : BUG == 8 ? kk > 0 : i + kk > 0);
            }
            ptx::wgmma_commit_group();
            if (BUG == 1) {
                // The newest group may still read the stage that is given back here.
                ptx::wgmma_wait_group<1>();
                if (threadIdx.x % 128 == 0) ptx::mbarrier_arrive(&shared.empty[s]);
            } else {
                ptx::wgmma_wait_group<0>();
                if (threadIdx.x % 128 == 0) ptx::mbarrier_arrive(&shared.empty[s]);
            }
        }
        ptx::wgmma_wait_group<0>();
        store_accumulators(c, accum, (warpgroup - 1) * 64, 0, 32);
    }
}
#define SPECIALISED(BUG)                                                                                     \
    extern "C" __global__ void __launch_bounds__(384, 1)                                                     \
        specialised_##BUG(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, float* c, int k) { \
        specialised<BUG>(&a, &b, c, k);                                                                      \
    }
SPECIALISED(0) SPECIALISED(1) SPECIALISED(2) SPECIALISED(3) SPECIALISED(4) SPECIALISED(5) SPECIALISED(6) SPECIALISED(7)
SPECIALISED(8) SPECIALISED(9)

// Two kernels that overlap: the second must wait before it reads what the first writes.
extern "C" __global__ void upstream(const float* x, float* between, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    ptx::griddepcontrol_launch_dependents();
    if (i < n) between[i] = x[i] * 3;
}
template <int BUG>
__device__ void downstream(const float* between, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (BUG != 1) ptx::griddepcontrol_wait();
    if (i < n) out[i] = between[i] * 0.5f;
}
extern "C" __global__ void downstream_0(const float* between, float* out, int n) { downstream<0>(between, out, n); }
extern "C" __global__ void downstream_1(const float* between, float* out, int n) { downstream<1>(between, out, n); }
