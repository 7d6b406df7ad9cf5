// Gives each assignment of a token to an expert its row in expert-major order (GShard, Lepikhin et al. 2020,
// arXiv:2006.16668; here by index instead of a dense [token, expert, slot] mask):
//     rank[n, j] = how many assignments to the same expert stand ahead, in choice-major order: j first, then n
//     slots[n, j] = expert_offsets[expert] + rank if rank < capacity, else -1
//     row_tokens[slots[n, j]] = n, and -1 beyond the last row
// expert_ids, slots: i32 [num_tokens, k]    expert_offsets: i32 [num_experts + 1]    row_tokens: i32 [num_tokens * k]
// A stable counting sort. Each warp owns a contiguous piece of the sequence and a histogram of its own; a lane's rank
// in its warp is the number of lower lanes with the same expert. So nothing depends on the order in which warps run,
// and there are no atomics. Small inputs take one block and one launch; others count first, then place. Counts and losses
// that the router before left to sum up are summed by one more block, beside those that place.
// An id outside [0, num_experts) is dropped.
// Launcher: src/kernels/moe_dispatch.rs
#include "ptx/griddep.cuh"
#include "reduce.cuh"
#include "router_totals.cuh"

struct MoeDispatchParams {
    uint64_t expert_ids;
    uint64_t expert_offsets;
    uint64_t row_tokens;
    uint64_t slots;
    uint64_t block_counts;  // i32 [num_experts, num_blocks], between the two launches
    int32_t num_tokens;
    int32_t num_assignments;   // num_tokens * k
    int32_t assignments_per_warp;  // a multiple of 32
    int32_t num_experts_per_token;
    int32_t num_experts;
    int32_t capacity;
    int32_t num_blocks;  // that place: one more has the router's totals
    int32_t reserved;
    RouterTotals totals;
};

constexpr int kNumWarps = 8;
constexpr int kNumThreads = kNumWarps * kWarpSize;

// Dynamic shared memory: the warps' histograms, then (while placing) where each expert begins.
extern __shared__ int32_t smem[];

// Where this warp's piece of the choice-major sequence begins and ends.
struct Piece {
    int32_t begin;
    int32_t end;
};

__device__ __forceinline__ Piece warp_piece(const MoeDispatchParams& p) {
    const int64_t warp_idx = int64_t(blockIdx.x) * kNumWarps + threadIdx.x / kWarpSize;
    const int64_t begin = warp_idx * p.assignments_per_warp;
    const int64_t end = begin + p.assignments_per_warp;
    return {int32_t(min(begin, int64_t(p.num_assignments))), int32_t(min(end, int64_t(p.num_assignments)))};
}

// Calls visit(lane's assignment, expert, lanes with the same expert) for 32 assignments at a time, in order. Lanes
// without a valid assignment get expert -1.
struct Assignment {
    int32_t token_idx;
    int32_t index;  // into expert_ids and slots
};

template <class Visit>
__device__ __forceinline__ void for_each_assignment(const MoeDispatchParams& p, Visit visit) {
    const auto* expert_ids = reinterpret_cast<const int32_t*>(p.expert_ids);
    const Piece piece = warp_piece(p);
    const int lane_idx = threadIdx.x % kWarpSize;
    for (int32_t first = piece.begin; first < piece.end; first += kWarpSize) {
        const int32_t sequence_idx = first + lane_idx;
        Assignment assignment{0, -1};
        int32_t expert = -1;
        if (sequence_idx < piece.end) {
            const int32_t choice = uint32_t(sequence_idx) / uint32_t(p.num_tokens);
            assignment.token_idx = sequence_idx - choice * p.num_tokens;
            assignment.index = assignment.token_idx * p.num_experts_per_token + choice;
            expert = expert_ids[assignment.index];
            if (expert < 0 || expert >= p.num_experts) expert = -1;
        }
        visit(assignment, expert, __match_any_sync(kFullMask, expert));
    }
}

// Fills smem[warp][expert] with the warps' counts.
__device__ __forceinline__ void count_by_warp(const MoeDispatchParams& p) {
    for (int i = threadIdx.x; i < kNumWarps * p.num_experts; i += kNumThreads) smem[i] = 0;
    __syncthreads();
    int32_t* counts = smem + threadIdx.x / kWarpSize * p.num_experts;
    const uint32_t lane_bit = 1u << threadIdx.x % kWarpSize;
    for_each_assignment(p, [&](Assignment, int32_t expert, uint32_t peers) {
        const bool is_first = (peers & (lane_bit - 1)) == 0;
        if (expert >= 0 && is_first) counts[expert] += __popc(peers);
        __syncwarp();
    });
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(kNumThreads)
    moe_dispatch_count(const __grid_constant__ MoeDispatchParams p) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    count_by_warp(p);
    auto* block_counts = reinterpret_cast<int32_t*>(p.block_counts);
    for (int expert = threadIdx.x; expert < p.num_experts; expert += kNumThreads) {
        int32_t count = 0;
        for (int warp_idx = 0; warp_idx < kNumWarps; ++warp_idx) count += smem[warp_idx * p.num_experts + expert];
        block_counts[int64_t(expert) * p.num_blocks + blockIdx.x] = count;
    }
}

// Turns smem[warp][expert] from counts into the rank of the warp's first assignment, and leaves each expert's total,
// limited by the capacity, in smem_offsets.
__device__ __forceinline__ void ranks_and_totals(const MoeDispatchParams& p, int32_t* smem_offsets) {
    const auto* block_counts = reinterpret_cast<const int32_t*>(p.block_counts);
    const int warp_idx = threadIdx.x / kWarpSize, lane_idx = threadIdx.x % kWarpSize;
    for (int expert = warp_idx; expert < p.num_experts; expert += kNumWarps) {
        // Count this expert in the blocks before this one, and in all; a lone block knows without
        int32_t before = 0, total = 0;
        if (p.num_blocks > 1) {
            for (int block_idx = lane_idx; block_idx < p.num_blocks; block_idx += kWarpSize) {
                const int32_t count = block_counts[int64_t(expert) * p.num_blocks + block_idx];
                total += count;
                if (block_idx < int(blockIdx.x)) before += count;
            }
            before = __reduce_add_sync(kFullMask, before);
            total = __reduce_add_sync(kFullMask, total);
        }
        if (lane_idx == 0) {
            int32_t rank = before;
            for (int warp = 0; warp < kNumWarps; ++warp) {
                const int32_t count = smem[warp * p.num_experts + expert];
                smem[warp * p.num_experts + expert] = rank;
                rank += count;
            }
            smem_offsets[expert] = min(p.num_blocks > 1 ? total : rank, p.capacity);
        }
    }
    __syncthreads();
}

// Replaces smem_offsets[0, num_experts) by its exclusive prefix sum; the whole sum goes behind it.
__device__ __forceinline__ void exclusive_scan(int32_t* smem_offsets, int num_experts) {
    if (threadIdx.x < kWarpSize) {
        int32_t carry = 0;
        for (int first = 0; first < num_experts; first += kWarpSize) {
            const int expert = first + threadIdx.x;
            const int32_t own = expert < num_experts ? smem_offsets[expert] : 0;
            int32_t sum = own;
#pragma unroll
            for (int offset = 1; offset < kWarpSize; offset *= 2) {
                const int32_t other = __shfl_up_sync(kFullMask, sum, offset);
                if (int(threadIdx.x) >= offset) sum += other;
            }
            if (expert < num_experts) smem_offsets[expert] = carry + sum - own;
            carry += __shfl_sync(kFullMask, sum, kWarpSize - 1);
        }
        if (threadIdx.x == 0) smem_offsets[num_experts] = carry;
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(kNumThreads)
    moe_dispatch_place(const __grid_constant__ MoeDispatchParams p) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (blockIdx.x == p.num_blocks) {
        __shared__ float smem_partial[kNumWarps];
        router_totals(p.totals, smem_partial);
        return;
    }
    int32_t* smem_offsets = smem + kNumWarps * p.num_experts;
    count_by_warp(p);
    ranks_and_totals(p, smem_offsets);
    exclusive_scan(smem_offsets, p.num_experts);

    // Place this warp's assignments
    auto* slots = reinterpret_cast<int32_t*>(p.slots);
    auto* row_tokens = reinterpret_cast<int32_t*>(p.row_tokens);
    int32_t* ranks = smem + threadIdx.x / kWarpSize * p.num_experts;
    const uint32_t lane_bit = 1u << threadIdx.x % kWarpSize;
    for_each_assignment(p, [&](Assignment assignment, int32_t expert, uint32_t peers) {
        const int num_ahead = __popc(peers & (lane_bit - 1));
        const int32_t first_rank = expert >= 0 ? ranks[expert] : p.capacity;
        __syncwarp();
        if (expert >= 0 && num_ahead == 0) ranks[expert] = first_rank + __popc(peers);
        __syncwarp();
        const int32_t rank = first_rank + num_ahead;
        const bool is_kept = expert >= 0 && rank < p.capacity;
        const int32_t slot = is_kept ? smem_offsets[expert] + rank : -1;
        if (assignment.index >= 0) slots[assignment.index] = slot;
        if (is_kept) row_tokens[slot] = assignment.token_idx;
    });

    // Write the offsets, and clear the rows behind the last
    if (blockIdx.x == 0) {
        auto* expert_offsets = reinterpret_cast<int32_t*>(p.expert_offsets);
        for (int i = threadIdx.x; i <= p.num_experts; i += kNumThreads) expert_offsets[i] = smem_offsets[i];
    }
    const int64_t first_row = smem_offsets[p.num_experts] + int64_t(blockIdx.x) * kNumThreads + threadIdx.x;
    for (int64_t row = first_row; row < p.num_assignments; row += int64_t(p.num_blocks) * kNumThreads) {
        row_tokens[row] = -1;
    }
}
