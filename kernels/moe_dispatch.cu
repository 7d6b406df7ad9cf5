// Gives each assignment of a token to an expert its row in expert-major order (GShard, Lepikhin et al. 2020,
// arXiv:2006.16668; here by index instead of a dense [token, expert, slot] mask):
//     rank[n, j] = how many assignments to the same expert stand ahead, in choice-major order: j first, then n
//     slots[n, j] = expert_offsets[expert] + rank if rank < capacity, else -1
//     row_tokens[slots[n, j]] = n, and -1 beyond the last row
// expert_ids, slots: i32 [num_tokens, k]    expert_offsets: i32 [num_experts + 1]    row_tokens: i32 [num_tokens * k]
// A stable counting sort. Each warp owns a contiguous piece of the sequence and a histogram of its own; a lane's rank
// in its warp is the number of lower lanes with the same expert. So nothing depends on the order in which warps run,
// and there are no atomics. Small inputs take one block and one launch; others count first, then place. A launch reads
// its ids once: blocks that place keep them in shared memory. Counts and losses that the router before left to sum up are
// summed by one more block, beside those that place.
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
    uint64_t block_counts;  // i32 [num_blocks, num_experts], between the two launches
    int32_t num_tokens;
    int32_t num_assignments;   // num_tokens * k
    int32_t assignments_per_warp;  // a multiple of 32
    int32_t num_experts_per_token;
    int32_t num_experts;
    int32_t capacity;
    int32_t num_blocks;  // that place: one more has the router's totals
    int32_t choice_stride;  // of the ids that a lone block keeps; 0: no room to keep ids
    RouterTotals totals;
};

constexpr int kNumWarps = 8;
constexpr int kNumThreads = kNumWarps * kWarpSize;

// Dynamic shared memory: the warps' histograms, then (while placing) where each expert begins, and ids.
extern __shared__ int32_t smem[];

// Where a warp's or a block's piece of the choice-major sequence begins and ends.
struct Piece {
    int32_t begin;
    int32_t end;
};

__device__ __forceinline__ Piece piece_of(const MoeDispatchParams& p, int64_t idx, int64_t size) {
    const int64_t begin = idx * size;
    return {int32_t(min(begin, int64_t(p.num_assignments))), int32_t(min(begin + size, int64_t(p.num_assignments)))};
}

__device__ __forceinline__ Piece warp_piece(const MoeDispatchParams& p) {
    return piece_of(p, int64_t(blockIdx.x) * kNumWarps + threadIdx.x / kWarpSize, p.assignments_per_warp);
}

__device__ __forceinline__ Piece block_piece(const MoeDispatchParams& p) {
    return piece_of(p, blockIdx.x, int64_t(kNumWarps) * p.assignments_per_warp);
}

struct Assignment {
    int32_t token_idx;
    int32_t index;  // into expert_ids and slots
    int32_t kept;   // where a block keeps it

    __device__ __forceinline__ Assignment(const MoeDispatchParams& p, int32_t sequence_idx, int32_t block_begin) {
        const int32_t choice = uint32_t(sequence_idx) / uint32_t(p.num_tokens);
        token_idx = sequence_idx - choice * p.num_tokens;
        index = token_idx * p.num_experts_per_token + choice;
        kept = p.num_blocks == 1 ? choice * p.choice_stride + token_idx : sequence_idx - block_begin;
    }
};

// The ids of a lone block, in memory token by token and kept choice by choice, `choice_stride` apart so that neither
// way meets a bank twice.
template <class Visit>
__device__ __forceinline__ void for_each_of_all(const MoeDispatchParams& p, Visit visit) {
#pragma unroll 4
    for (int32_t i = threadIdx.x; i < p.num_assignments; i += kNumThreads) {
        const int32_t token_idx = uint32_t(i) / uint32_t(p.num_experts_per_token);
        visit(i, (i - token_idx * p.num_experts_per_token) * p.choice_stride + token_idx);
    }
}

__device__ __forceinline__ void keep_all(const MoeDispatchParams& p, int32_t* smem_ids) {
    const auto* expert_ids = reinterpret_cast<const int32_t*>(p.expert_ids);
    for_each_of_all(p, [&](int32_t index, int32_t kept) { smem_ids[kept] = expert_ids[index]; });
}

// The ids of one block of several: one choice of its tokens, every k-th id.
__device__ __forceinline__ void keep_piece(const MoeDispatchParams& p, int32_t* smem_ids) {
    const auto* expert_ids = reinterpret_cast<const int32_t*>(p.expert_ids);
    const Piece piece = block_piece(p);
#pragma unroll 4
    for (int32_t i = piece.begin + threadIdx.x; i < piece.end; i += kNumThreads) {
        const Assignment assignment(p, i, piece.begin);
        smem_ids[assignment.kept] = expert_ids[assignment.index];
    }
}

__device__ __forceinline__ int32_t read_id(const MoeDispatchParams& p, const Assignment& assignment) {
    return reinterpret_cast<const int32_t*>(p.expert_ids)[assignment.index];
}

// Calls visit(lane's assignment, whether there is one, expert, lanes with the same expert) for 32 assignments at a time,
// in order. Lanes without a valid assignment get expert -1. Ids come from `smem_ids`, from memory where it is null.
template <class Visit>
__device__ __forceinline__ void for_each_assignment(const MoeDispatchParams& p, const int32_t* smem_ids, Visit visit) {
    const Piece piece = warp_piece(p);
    const int32_t block_begin = block_piece(p).begin;
    for (int32_t first = piece.begin; first < piece.end; first += kWarpSize) {
        const int32_t sequence_idx = first + int32_t(threadIdx.x % kWarpSize);
        const bool exists = sequence_idx < piece.end;
        const Assignment assignment(p, sequence_idx, block_begin);
        int32_t expert = -1;
        if (exists) {
            expert = smem_ids != nullptr ? smem_ids[assignment.kept] : read_id(p, assignment);
            if (expert < 0 || expert >= p.num_experts) expert = -1;
        }
        visit(assignment, exists, expert, __match_any_sync(kFullMask, expert));
    }
}

// Fills smem[warp][expert] with the warps' counts.
__device__ __forceinline__ void count_by_warp(const MoeDispatchParams& p, const int32_t* smem_ids) {
    for (int i = threadIdx.x; i < kNumWarps * p.num_experts; i += kNumThreads) smem[i] = 0;
    __syncthreads();
    int32_t* counts = smem + threadIdx.x / kWarpSize * p.num_experts;
    const uint32_t lane_bit = 1u << threadIdx.x % kWarpSize;
    for_each_assignment(p, smem_ids, [&](const Assignment&, bool, int32_t expert, uint32_t peers) {
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
    count_by_warp(p, nullptr);
    auto* block_counts = reinterpret_cast<int32_t*>(p.block_counts) + int64_t(blockIdx.x) * p.num_experts;
    for (int expert = threadIdx.x; expert < p.num_experts; expert += kNumThreads) {
        int32_t count = 0;
        for (int warp_idx = 0; warp_idx < kNumWarps; ++warp_idx) count += smem[warp_idx * p.num_experts + expert];
        block_counts[expert] = count;
    }
}

// Turns smem[warp][expert] from counts into the rank of the warp's first assignment, and leaves each expert's total,
// limited by the capacity, in smem_offsets.
__device__ __forceinline__ void ranks_and_totals(
    const MoeDispatchParams& p, int32_t* smem_offsets, FoldStorage<kNumThreads, int32_t, int32_t>& smem_fold) {
    const auto* block_counts = reinterpret_cast<const int32_t*>(p.block_counts);
    const int num_columns = min(p.num_experts, kNumThreads);
    const int num_rows = kNumThreads / num_columns;
    const int row = threadIdx.x / num_columns, column = threadIdx.x % num_columns;
    for (int first = 0; first < p.num_experts; first += num_columns) {
        // Count this expert in the blocks before this one, and in all; a lone block knows without
        const int expert = first + column;
        int32_t before = 0, total = 0;
        if (p.num_blocks > 1) {
            if (row < num_rows && expert < p.num_experts) {
#pragma unroll 4
                for (int block_idx = row; block_idx < p.num_blocks; block_idx += num_rows) {
                    const int32_t count = block_counts[int64_t(block_idx) * p.num_experts + expert];
                    total += count;
                    if (block_idx < int(blockIdx.x)) before += count;
                }
            }
            fold_rows(before, total, num_rows, num_columns, smem_fold);
        }
        if (row == 0 && expert < p.num_experts) {
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

// Neighbours in the sequence go to as many runs of rows as they have experts.
__device__ __forceinline__ void place_row(const MoeDispatchParams& p, int32_t slot, int32_t token_idx) {
    reinterpret_cast<int32_t*>(p.row_tokens)[slot] = token_idx;
}

// One block of several has one choice of its tokens, every k-th slot.
__device__ __forceinline__ void write_slot(const MoeDispatchParams& p, const Assignment& assignment, int32_t slot) {
    reinterpret_cast<int32_t*>(p.slots)[assignment.index] = slot;
}

extern "C" __global__ void __launch_bounds__(kNumThreads)
    moe_dispatch_place(const __grid_constant__ MoeDispatchParams p) {
    ptx::griddepcontrol_launch_dependents();
    ptx::griddepcontrol_wait();
    if (blockIdx.x == p.num_blocks) {
        __shared__ RouterTotalsStorage<kNumThreads> smem_totals;
        router_totals(p.totals, smem_totals);
        return;
    }
    __shared__ FoldStorage<kNumThreads, int32_t, int32_t> smem_fold;
    const bool is_alone = p.num_blocks == 1;
    int32_t* smem_offsets = smem + kNumWarps * p.num_experts;
    int32_t* smem_ids = p.choice_stride > 0 ? smem_offsets + p.num_experts + 1 : nullptr;
    if (is_alone) {
        keep_all(p, smem_ids);
    } else if (smem_ids != nullptr) {
        keep_piece(p, smem_ids);
    }
    count_by_warp(p, smem_ids);
    ranks_and_totals(p, smem_offsets, smem_fold);
    exclusive_scan(smem_offsets, p.num_experts);

    // Place this warp's assignments; a lone block's slots replace the ids
    int32_t* ranks = smem + threadIdx.x / kWarpSize * p.num_experts;
    const uint32_t lane_bit = 1u << threadIdx.x % kWarpSize;
    for_each_assignment(p, smem_ids, [&](const Assignment& assignment, bool exists, int32_t expert, uint32_t peers) {
        const int num_ahead = __popc(peers & (lane_bit - 1));
        const int32_t first_rank = expert >= 0 ? ranks[expert] : p.capacity;
        __syncwarp();
        if (expert >= 0 && num_ahead == 0) ranks[expert] = first_rank + __popc(peers);
        __syncwarp();
        const int32_t rank = first_rank + num_ahead;
        const bool is_kept = expert >= 0 && rank < p.capacity;
        const int32_t slot = is_kept ? smem_offsets[expert] + rank : -1;
        if (exists && is_alone) smem_ids[assignment.kept] = slot;
        if (exists && !is_alone) write_slot(p, assignment, slot);
        if (is_kept) place_row(p, slot, assignment.token_idx);
    });
    if (is_alone) {
        __syncthreads();
        auto* slots = reinterpret_cast<int32_t*>(p.slots);
        for_each_of_all(p, [&](int32_t index, int32_t kept) { slots[index] = smem_ids[kept]; });
    }

    // Write the offsets, and clear the rows behind the last
    if (blockIdx.x == 0) {
        auto* expert_offsets = reinterpret_cast<int32_t*>(p.expert_offsets);
        for (int i = threadIdx.x; i <= p.num_experts; i += kNumThreads) expert_offsets[i] = smem_offsets[i];
    }
    auto* row_tokens = reinterpret_cast<int32_t*>(p.row_tokens);
    const int64_t first_row = smem_offsets[p.num_experts] + int64_t(blockIdx.x) * kNumThreads + threadIdx.x;
    for (int64_t row = first_row; row < p.num_assignments; row += int64_t(p.num_blocks) * kNumThreads) {
        row_tokens[row] = -1;
    }
}
