//! Launcher of `kernels/moe_dispatch.cu`.

use super::Kernels;
use super::rows::narrow;
use super::topk_gating::{Totals, gate};
use crate::device::{LaunchConfig, RawStream};
use crate::error::{Error, Result};
use crate::operations::{MoeDispatchParams, TopkGatingParams};

/// `kNumWarps` and `kNumThreads` of the kernel.
const NUM_WARPS: usize = 8;
const NUM_THREADS: u32 = 256;
/// More blocks than this cost more in reading each other's counts than they save.
const MAX_BLOCKS: usize = 256;
/// 8 rounds of 32 lanes for each warp: up to here one block, and so one launch, is enough.
const ASSIGNMENTS_PER_BLOCK: usize = 2048;
/// The sums of the router's totals and of the blocks' counts.
pub(super) const STATIC_SHARED_BYTES: usize = 2 * 2 * 4 * NUM_THREADS as usize + 4 * NUM_WARPS;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    expert_ids: u64,
    expert_offsets: u64,
    row_tokens: u64,
    slots: u64,
    block_counts: u64,
    num_tokens: i32,
    num_assignments: i32,
    assignments_per_warp: i32,
    num_experts_per_token: i32,
    num_experts: i32,
    capacity: i32,
    num_blocks: i32,
    choice_stride: i32,
    totals: Totals,
}

/// Rows of assignments in expert-major order: see [`MoeDispatchParams`]. One launch up to 2,048 assignments, else two.
///
/// Budget: 256 threads of 32 registers, 1 block for 2,048 assignments and 256 at most, so under two a SM; shared memory 36
/// bytes an expert and 4 an assignment. 131,072 assignments are 64 blocks, half a wave. Bound by latency: 8 rounds of 32
/// assignments a warp in each launch, ids read once before the rounds that place, and the counts of all blocks, which every
/// block reads (64 KB for 256 experts).
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn moe_dispatch(kernels: &Kernels, p: &MoeDispatchParams, stream: RawStream) -> Result<()> {
    // SAFETY: as of this function.
    unsafe { dispatch(kernels, p, None, stream) }
}

/// [`topk_gating`](super::topk_gating()), then [`moe_dispatch`] of its choice: together two launches up to 2,048
/// assignments, three beyond, counts and losses included.
///
/// # Errors
/// As of both, and [`Error::Tensor`](crate::Error::Tensor) where the dispatch is not of the ids that the gating writes.
///
/// # Safety
/// As of both.
pub unsafe fn route(
    kernels: &Kernels,
    gating: &TopkGatingParams,
    p: &MoeDispatchParams,
    stream: RawStream,
) -> Result<()> {
    if gating.expert_ids != p.expert_ids {
        let message = "the ids are not those that the gating writes".to_owned();
        return Err(Error::Tensor { operation: "moe_dispatch", message });
    }
    p.check()?;
    // SAFETY: as of this function.
    let totals = unsafe { gate(kernels, gating, stream)? };
    // SAFETY: as of this function; the gating's scratch stays as it is until the dispatch is done.
    unsafe { dispatch(kernels, p, totals, stream) }
}

/// [`moe_dispatch`], and one block more for the router's totals where there are any.
///
/// # Safety
/// As [`moe_dispatch`], also of what `totals` names.
unsafe fn dispatch(
    kernels: &Kernels,
    p: &MoeDispatchParams,
    totals: Option<Totals>,
    stream: RawStream,
) -> Result<()> {
    const { assert!(MAX_BLOCKS <= MoeDispatchParams::MAX_BLOCKS) };
    let (num_tokens, k) = p.check()?;
    let num_assignments = num_tokens * k;
    let num_blocks = num_blocks(num_assignments);
    let per_warp = num_assignments.div_ceil(num_blocks * NUM_WARPS).next_multiple_of(32);
    let histograms = 4 * NUM_WARPS * p.num_experts;
    let offsets = 4 * (p.num_experts + 1);
    let (choice_stride, kept_ids) = match num_blocks {
        1 => (choice_stride(num_tokens, k), choice_stride(num_tokens, k) * k),
        _ => (1, NUM_WARPS * per_warp),
    };
    // Ids that shared memory has no room for, several million of them, are read twice.
    let placing = histograms + offsets + 4 * kept_ids;
    let fits = placing + STATIC_SHARED_BYTES <= kernels.device().properties().max_shared_bytes as usize;
    let params = KernelParams {
        expert_ids: p.expert_ids.pointer,
        expert_offsets: p.expert_offsets.pointer,
        row_tokens: p.row_tokens.pointer,
        slots: p.slots.pointer,
        block_counts: p.scratch.pointer,
        num_tokens: narrow("moe_dispatch", "num_tokens", num_tokens)?,
        num_assignments: narrow("moe_dispatch", "num_tokens * k", num_assignments)?,
        assignments_per_warp: narrow("moe_dispatch", "assignments of a warp", per_warp)?,
        num_experts_per_token: narrow("moe_dispatch", "k", k)?,
        num_experts: narrow("moe_dispatch", "num_experts", p.num_experts)?,
        capacity: p.capacity.map_or(i32::MAX, |capacity| i32::try_from(capacity).unwrap_or(i32::MAX)),
        num_blocks: num_blocks as i32,
        choice_stride: if fits { choice_stride as i32 } else { 0 },
        totals: totals.unwrap_or_else(bytemuck::Zeroable::zeroed),
    };
    let config = LaunchConfig::linear(num_blocks as u32, NUM_THREADS);
    // SAFETY: `KernelParams` mirrors `MoeDispatchParams` of the kernel file; `check` saw the shapes and the length of
    // the scratch, the kernel drops ids outside the experts, the caller vouches for the memory.
    unsafe {
        if num_blocks > 1 {
            let count = config.with_shared(histograms as u32);
            kernels.launch("moe_dispatch_count", &count, &params, stream)?;
        }
        let extra = u32::from(totals.is_some());
        let place = LaunchConfig::linear(num_blocks as u32 + extra, NUM_THREADS).with_shared(if fits {
            placing
        } else {
            histograms + offsets
        }
            as u32);
        kernels.launch("moe_dispatch_place", &place, &params, stream)
    }
}

/// Blocks that place so many assignments.
pub(super) fn num_blocks(num_assignments: usize) -> usize {
    num_assignments.div_ceil(ASSIGNMENTS_PER_BLOCK).clamp(1, MAX_BLOCKS)
}

/// How far apart a lone block keeps the choices: so that 32 neighbours in memory, `32 / k` of each choice, are in as many
/// banks. With more choices than banks that is no matter.
fn choice_stride(num_tokens: usize, k: usize) -> usize {
    let bank = if k <= 32 { 32usize.div_ceil(k) % 32 } else { num_tokens % 32 };
    (num_tokens + (bank + 32 - num_tokens % 32) % 32).max(1)
}
