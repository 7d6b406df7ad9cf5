//! Launchers of `kernels/topk_gating.cu`: router logits, and the choice of experts from them.

use super::rows::{narrow, whole_chunks};
use super::{Kernels, Numerics};
use crate::device::{LaunchConfig, RawStream};
use crate::error::Result;
use crate::operations::{
    GroupScore, RouterLogitsParams, ScoreFunction, SoftmaxOrder, TopkGatingDims, TopkGatingParams,
};

/// `kWarpTokens` and `kWarpExperts` of the kernel.
const WARP_TOKENS: usize = 4;
const WARP_EXPERTS: usize = 8;
/// `kTokenGroups` and `kExpertGroups` of the kernel: what a block of the router computes.
const TOKEN_GROUPS: usize = 8;
const EXPERT_GROUPS: usize = 2;
/// `kGatingWarps` of the kernel.
const GATING_WARPS: usize = 4;
/// `kRouterTotalsThreads` of the kernel.
const TOTALS_THREADS: u32 = 1024;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RouterKernelParams {
    logits: u64,
    x: u64,
    weight: u64,
    noise_weight: u64,
    seed: u64,
    x_stride: i64,
    num_tokens: i64,
    num_experts: i32,
    hidden_size: i32,
    whole_chunks: u32,
    num_splits: u32,
}

/// Router logits in f32: see [`RouterLogitsParams`].
///
/// Budget: 256 or 512 threads of 128 registers, 4 KB, one block an SM. Up to 528 tokens on 132 SMs a block has 4 and
/// its 8 warps share hidden_size: one wave, bound by latency, 768 elements in one step of a warp instead of six. Beyond
/// that a block has 32 tokens by 16 experts and reads 12 vectors for 128 FMA a lane: bound by FFMA and L1, x once.
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn router_logits(kernels: &Kernels, p: &RouterLogitsParams, stream: RawStream) -> Result<()> {
    let (num_tokens, num_experts, hidden_size) = p.check()?;
    if num_tokens == 0 {
        return Ok(());
    }
    let noise_weight = p.noise.map(|noise| noise.weight);
    let whole = [Some(p.x), Some(p.weight), noise_weight].iter().flatten().all(whole_chunks);
    // A warp alone would walk over all of hidden_size while most SMs have nothing to do.
    let num_sms = kernels.device().properties().num_sms as usize;
    let is_split = kernels.numerics() == Numerics::Fast && num_tokens.div_ceil(WARP_TOKENS) <= num_sms;
    let params = RouterKernelParams {
        logits: p.logits.pointer,
        x: p.x.pointer,
        weight: p.weight.pointer,
        noise_weight: noise_weight.map_or(0, |t| t.pointer),
        seed: p.noise.map_or(0, |noise| noise.seed),
        x_stride: p.x.strides()[0] as i64,
        num_tokens: num_tokens as i64,
        num_experts: narrow("router_logits", "num_experts", num_experts)?,
        hidden_size: narrow("router_logits", "hidden_size", hidden_size)?,
        whole_chunks: whole.into(),
        num_splits: if is_split { TOKEN_GROUPS as u32 } else { 1 },
    };
    let block_tokens = if is_split { WARP_TOKENS } else { TOKEN_GROUPS * WARP_TOKENS };
    let expert_groups = num_experts.div_ceil(WARP_EXPERTS).min(EXPERT_GROUPS);
    let grid = [
        narrow("router_logits", "blocks", num_tokens.div_ceil(block_tokens))?,
        num_experts.div_ceil(expert_groups * WARP_EXPERTS) as u32,
        1,
    ];
    let mut config = LaunchConfig::new(grid, 32);
    config.block = [32, TOKEN_GROUPS as u32, expert_groups as u32];
    let kernel = format!("topk_gating_router_logits_{}", p.x.dtype);
    // SAFETY: `RouterKernelParams` mirrors `RouterLogitsParams` of the kernel file; `check` saw the shapes, the caller
    // vouches for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GatingKernelParams {
    logits: u64,
    selection_bias: u64,
    forced_ids: u64,
    expert_ids: u64,
    expert_weights: u64,
    block_counts: u64,
    block_weights: u64,
    block_z: u64,
    num_tokens: i64,
    num_experts: i32,
    num_experts_per_token: i32,
    tokens_per_block: i32,
    num_groups: i32,
    top_groups: i32,
    group_score: u32,
    score: u32,
    renormalize: u32,
    epsilon: f32,
    scale: f32,
    lanes_per_token: i32,
    whole_chunks: u32,
}

/// `RouterTotals` of the kernels: what topk_gating leaves to sum up.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Totals {
    block_counts: u64,
    block_weights: u64,
    block_z: u64,
    counts: u64,
    losses: u64,
    num_tokens: i64,
    num_experts: i32,
    num_blocks: i32,
}

/// Experts and weights of every token: see [`TopkGatingParams`]. A second launch where counts or losses are asked for.
/// A forced id that is no expert gets weight 0 and is not counted.
///
/// Budget: 128 threads of 64 registers, 8 blocks an SM, up to 128 experts; of 96, 5 blocks, up to 256: 16 or 20 KB of
/// logits under way an SM. 65,536 tokens of 256 experts are 16,384 blocks, 24.8 waves on 132 SMs. Bound by the copy
/// bandwidth for few experts and small k (logits once, ids and weights once), by the k rounds of a maximum, about 40
/// instructions each, for many.
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn topk_gating(kernels: &Kernels, p: &TopkGatingParams, stream: RawStream) -> Result<()> {
    // SAFETY: as of this function.
    let Some(totals) = (unsafe { gate(kernels, p, stream)? }) else { return Ok(()) };
    let config = LaunchConfig::linear(1, TOTALS_THREADS);
    // SAFETY: `Totals` mirrors `RouterTotals` of the kernel file, `gate` filled the scratch that it names; the caller
    // vouches for the memory.
    unsafe { kernels.launch("topk_gating_totals", &config, &totals, stream) }
}

/// [`topk_gating`] up to its totals, which are left to the caller where counts or losses are asked for.
///
/// # Safety
/// As [`topk_gating`].
pub(super) unsafe fn gate(
    kernels: &Kernels,
    p: &TopkGatingParams,
    stream: RawStream,
) -> Result<Option<Totals>> {
    let dims = p.check()?;
    let counted = p.counts.is_some() || p.losses.is_some();
    let lanes = lanes_per_token(dims.num_experts);
    let (num_blocks, tokens_per_block) = blocks(dims.num_tokens, GATING_WARPS * 32 / lanes, counted);
    let block_counts = p.scratch.pointer;
    let block_weights = block_counts + 4 * (num_blocks * dims.num_experts) as u64;
    let block_z = block_weights + 4 * (num_blocks * dims.num_experts) as u64;
    if dims.num_tokens > 0 {
        let params = GatingKernelParams {
            logits: p.logits.pointer,
            selection_bias: p.selection_bias.map_or(0, |t| t.pointer),
            forced_ids: p.forced_ids.map_or(0, |t| t.pointer),
            expert_ids: p.expert_ids.pointer,
            expert_weights: p.expert_weights.pointer,
            block_counts: if counted { block_counts } else { 0 },
            block_weights,
            block_z,
            num_tokens: dims.num_tokens as i64,
            num_experts: dims.num_experts as i32,
            num_experts_per_token: dims.num_experts_per_token as i32,
            tokens_per_block: narrow("topk_gating", "tokens of a block", tokens_per_block)?,
            num_groups: p.spec.groups.map_or(0, |groups| groups.num_groups as i32),
            top_groups: p.spec.groups.map_or(0, |groups| groups.top_groups as i32),
            group_score: p.spec.groups.map_or(0, |groups| match groups.score {
                GroupScore::Max => 0,
                GroupScore::SumOfTop2 => 1,
            }),
            score: match (p.spec.score, p.spec.softmax_order) {
                (ScoreFunction::Softmax, SoftmaxOrder::BeforeTopK) => 0,
                (ScoreFunction::Softmax, SoftmaxOrder::AfterTopK) => 1,
                (ScoreFunction::Sigmoid, _) => 2,
            },
            renormalize: p.spec.renormalize.into(),
            epsilon: p.spec.epsilon,
            scale: p.spec.scale,
            lanes_per_token: lanes as i32,
            whole_chunks: whole_chunks(&p.logits).into(),
        };
        let kernel = match dims.num_experts {
            0..=128 => "topk_gating_128",
            129..=256 => "topk_gating_256",
            _ => "topk_gating_1024",
        };
        let threads = 32 * GATING_WARPS as u32;
        let config = LaunchConfig::linear(narrow("topk_gating", "blocks", num_blocks)?, threads)
            .with_shared(shared_bytes(&dims, p, 32 / lanes, counted));
        // SAFETY: `GatingKernelParams` mirrors `TopkGatingParams` of the kernel file; `check` saw the shapes, and that
        // the scratch holds MAX_BLOCKS blocks; the caller vouches for the memory.
        unsafe { kernels.launch(kernel, &config, &params, stream)? };
    }
    Ok(counted.then(|| Totals {
        block_counts,
        block_weights,
        block_z,
        counts: p.counts.map_or(0, |t| t.pointer),
        losses: p.losses.map_or(0, |t| t.pointer),
        num_tokens: dims.num_tokens as i64,
        num_experts: dims.num_experts as i32,
        num_blocks: num_blocks as i32,
    }))
}

/// Lanes that share a token: four experts each, or a whole warp.
fn lanes_per_token(num_experts: usize) -> usize {
    num_experts.div_ceil(4).next_power_of_two().min(32)
}

/// Blocks and tokens of each: one round of `block_tokens`, or with statistics as many as leave not more blocks than the
/// scratch has room for.
fn blocks(num_tokens: usize, block_tokens: usize, counted: bool) -> (usize, usize) {
    let least = if counted { num_tokens.div_ceil(TopkGatingParams::MAX_BLOCKS) } else { 1 };
    let per_block = least.max(1).next_multiple_of(block_tokens);
    (num_tokens.div_ceil(per_block), per_block)
}

/// The kernel's `GatingStorage`, for every warp, each of which gates `warp_tokens` at a time.
fn shared_bytes(dims: &TopkGatingDims, p: &TopkGatingParams, warp_tokens: usize, counted: bool) -> u32 {
    let groups = p.spec.groups.map_or(0, |groups| groups.num_groups + dims.num_experts);
    let statistics = if counted { 2 * dims.num_experts } else { 0 };
    (4 * GATING_WARPS * (warp_tokens * (2 * dims.num_experts_per_token + groups) + statistics)) as u32
}
