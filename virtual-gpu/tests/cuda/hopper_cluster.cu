// targets: sm_90a
// Clusters: distributed shared memory, multicast, remote mbarriers; and kernels that overlap.
#include "ptx.cuh"
#include <cooperative_groups.h>
#include <cuda.h>
namespace cg = cooperative_groups;

// Sums 256 floats a CTA, then over the cluster through distributed shared memory. Block 128.
extern "C" __global__ void cluster_sum(const float* x, float* out) {
    __shared__ float total;
    __shared__ float partial[4];
    cg::cluster_group cluster = cg::this_cluster();
    int t = threadIdx.x;
    float sum = x[blockIdx.x * 256 + t] + x[blockIdx.x * 256 + 128 + t];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
    if (t % 32 == 0) partial[t / 32] = sum;
    __syncthreads();
    if (t == 0) total = partial[0] + partial[1] + partial[2] + partial[3];
    cluster.sync();
    if (t == 0) {
        float all = 0;
        for (unsigned rank = 0; rank < cluster.num_blocks(); rank++) all += *cluster.map_shared_rank(&total, rank);
        out[blockIdx.x] = all;
    }
    cluster.sync();  // nobody exits while others read its memory
}

// A histogram spread over the cluster: each CTA holds 32 of the bins, remote atomics add to them. Block 128.
extern "C" __global__ void cluster_histogram(const uint32_t* x, uint32_t* bins, int n) {
    __shared__ uint32_t counts[32];
    cg::cluster_group cluster = cg::this_cluster();
    unsigned rank = cluster.block_rank(), blocks = cluster.num_blocks();
    if (threadIdx.x < 32) counts[threadIdx.x] = 0;
    cluster.sync();
    for (int i = rank * blockDim.x + threadIdx.x; i < n; i += blocks * blockDim.x) {
        unsigned bin = x[i] % (32 * blocks);
        atomicAdd(cluster.map_shared_rank(&counts[bin % 32], bin / 32), 1);
    }
    cluster.sync();
    if (threadIdx.x < 32) bins[rank * 32 + threadIdx.x] = counts[threadIdx.x];
}

// The CTA of rank 0 loads a 32 by 16 box for the whole cluster; each CTA adds its rank. Cluster 2, block 128.
extern "C" __global__ void multicast(const __grid_constant__ CUtensorMap map, float* out, int boxes) {
    __shared__ alignas(1024) float box[16 * 32];
    __shared__ alignas(8) uint64_t full, empty;
    uint32_t rank = ptx::cluster_rank();
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&full, 1);
        ptx::mbarrier_init(&empty, 2);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    ptx::cluster_arrive();
    ptx::cluster_wait();
    for (int i = 0; i < boxes; i++) {
        if (threadIdx.x == 0) {
            ptx::mbarrier_arrive_expect_tx(&full, sizeof(box));
            // The other CTA's barrier must expect the bytes too: it does so for itself, before or after they come.
            if (rank == 0) {
                ptx::mbarrier_wait(&empty, (i & 1) ^ 1);
                ptx::tensor_load_2d_multicast(box, &map, &full, 32 * i, 0, 3);
            }
        }
        ptx::mbarrier_wait(&full, i & 1);
        for (int j = threadIdx.x; j < 512; j += 128) out[(i * 2 + rank) * 512 + j] = box[j] + rank;
        __syncthreads();
        if (threadIdx.x == 0) ptx::mbarrier_arrive_remote(&empty, 0);
    }
    ptx::cluster_arrive();
    ptx::cluster_wait();
}

// Each CTA reads its neighbour's shared memory with mapa and ld.shared::cluster. Block 32.
extern "C" __global__ void neighbours(const float* x, float* out) {
    __shared__ float mine[32];
    uint32_t rank = ptx::cluster_rank();
    mine[threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x];
    ptx::cluster_arrive();
    ptx::cluster_wait();
    out[blockIdx.x * 32 + threadIdx.x] = ptx::load_remote(&mine[31 - threadIdx.x], rank ^ 1);
    ptx::cluster_arrive();
    ptx::cluster_wait();
}

// Two kernels that overlap (programmatic dependent launch): the second waits for what the first wrote.
extern "C" __global__ void first_kernel(const float* x, float* between, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    ptx::griddepcontrol_launch_dependents();
    if (i < n) between[i] = x[i] * 3;
}
extern "C" __global__ void second_kernel(const float* between, float* out, int n) {
    __shared__ float scale;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x == 0) scale = 0.5f;  // work that needs nothing of the first kernel
    __syncthreads();
    ptx::griddepcontrol_wait();
    if (i < n) out[i] = between[i] * scale;
}
