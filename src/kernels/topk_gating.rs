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
pub(super) const WARP_EXPERTS: usize = 8;
/// `kSplits`, `kExpertGroups` and `kStrip` of the kernel.
const SPLITS: usize = 8;
const EXPERT_GROUPS: usize = 2;
const STRIP: usize = 128;
/// Warps of a block of the router that is not split.
const ROUTER_WARPS: usize = 16;
/// The sums of split blocks, for whole chunks and for others.
pub(super) const ROUTER_STATIC_SHARED_BYTES: usize = 2 * 4 * EXPERT_GROUPS * SPLITS * 32;
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
    is_split: u32,
}

/// Router logits in f32: see [`RouterLogitsParams`].
///
/// Budget: 256 or 512 threads of 128 registers, one block an SM. Up to 528 tokens on 132 SMs a block has 4 and its 8
/// warps share hidden_size: one wave, bound by latency, 768 elements in one step of a warp instead of six. Beyond that
/// blocks are persistent with the weights of 16 experts in shared memory, 48 KB at 768: asked for once an SM, x once
/// for every 8 experts. A step of a warp is 12 vectors for 128 FMA a lane: bound by FFMA and shared memory alike, and by x
/// where there are 8 experts or fewer. Weights that do not fit shared memory are split too, whatever the tokens.
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
    let cut = RouterCut::of(kernels, [num_tokens, num_experts, hidden_size], p.noise.is_some());
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
        is_split: cut.is_split.into(),
    };
    let grid = [narrow("router_logits", "blocks", cut.token_blocks)?, cut.expert_blocks as u32, 1];
    let mut config = LaunchConfig::new(grid, 32).with_shared(cut.shared_bytes as u32);
    config.block = [32, cut.warps as u32, cut.expert_groups as u32];
    let kernel = format!("topk_gating_router_logits_{}", p.x.dtype);
    // SAFETY: `RouterKernelParams` mirrors `RouterLogitsParams` of the kernel file; `check` saw the shapes, the caller
    // vouches for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}

/// How the router is cut into blocks.
pub(super) struct RouterCut {
    /// The warps of a block share hidden_size, else each has tokens of its own.
    is_split: bool,
    pub(super) token_blocks: usize,
    expert_blocks: usize,
    /// Warps of each of the groups of experts of a block.
    warps: usize,
    expert_groups: usize,
    shared_bytes: usize,
}

impl RouterCut {
    pub(super) fn of(
        kernels: &Kernels,
        [num_tokens, num_experts, hidden_size]: [usize; 3],
        has_noise: bool,
    ) -> Self {
        // A warp alone would walk over all of hidden_size while most SMs have nothing to do.
        let properties = kernels.device().properties();
        let num_sms = properties.num_sms as usize;
        let token_groups = num_tokens.div_ceil(WARP_TOKENS);
        let is_small = kernels.numerics() == Numerics::Fast && token_groups <= num_sms;
        let group_bytes = router_weight_bytes(hidden_size, if has_noise { 2 } else { 1 });
        let most_groups = (properties.max_shared_bytes as usize - ROUTER_STATIC_SHARED_BYTES)
            .checked_div(group_bytes)
            .unwrap_or(EXPERT_GROUPS);
        let is_split = is_small || most_groups == 0;
        let expert_groups = num_experts.div_ceil(WARP_EXPERTS).min(if is_split {
            EXPERT_GROUPS
        } else {
            most_groups.min(EXPERT_GROUPS)
        });
        let expert_blocks = num_experts.div_ceil(expert_groups * WARP_EXPERTS);
        let (warps, token_blocks) = if is_split {
            (SPLITS, token_groups)
        } else {
            let warps = ROUTER_WARPS / expert_groups;
            (warps, token_groups.div_ceil(warps).min((num_sms / expert_blocks).max(1)))
        };
        let shared_bytes = if is_split { 0 } else { expert_groups * group_bytes };
        RouterCut { is_split, token_blocks, expert_blocks, warps, expert_groups, shared_bytes }
    }
}

/// Shared memory for the weights of a group of experts, with or without those of the noise.
pub(super) fn router_weight_bytes(hidden_size: usize, num_matrices: usize) -> usize {
    4 * num_matrices * WARP_EXPERTS * hidden_size.next_multiple_of(STRIP)
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
    num_groups: i32,
    top_groups: i32,
    group_score: u32,
    score: u32,
    renormalize: u32,
    epsilon: f32,
    scale: f32,
    lanes_per_token: i32,
    whole_chunks: u32,
    padding: u32,
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
/// Budget: 256 threads of 64 registers, 4 blocks an SM, up to 128 experts; 128 of 96, 5 blocks, up to 256: 16 or 20 KB of
/// logits under way an SM. 65,536 tokens of 256 experts are 16,384 blocks, 24.8 waves on 132 SMs; with statistics as many as
/// run together, 512 at most. Bound by the copy bandwidth for few experts and small k (logits once, ids and weights once),
/// by the k rounds of a maximum, about 40 instructions each, for many.
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
    let kernel = GatingKernel::of(dims.num_experts);
    let rounds = dims.num_tokens.div_ceil(kernel.warps * 32 / lanes);
    // Each block leaves sums to be added up, so no more than run together.
    let num_sms = kernels.device().properties().num_sms as usize;
    let most = (num_sms * kernel.blocks_per_sm).min(TopkGatingParams::MAX_BLOCKS);
    let num_blocks = if counted { rounds.min(most) } else { rounds };
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
            padding: 0,
        };
        let threads = 32 * kernel.warps as u32;
        let config = LaunchConfig::linear(narrow("topk_gating", "blocks", num_blocks)?, threads)
            .with_shared(kernel.shared_bytes(&dims, p, 32 / lanes, counted));
        // SAFETY: `GatingKernelParams` mirrors `TopkGatingParams` of the kernel file; `check` saw the shapes, and that
        // the scratch holds MAX_BLOCKS blocks; the caller vouches for the memory.
        unsafe { kernels.launch(kernel.name, &config, &params, stream)? };
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

/// One of the kernels, by how many experts it takes.
pub(super) struct GatingKernel {
    pub(super) name: &'static str,
    pub(super) warps: usize,
    pub(super) registers: u32,
    pub(super) blocks_per_sm: usize,
}

impl GatingKernel {
    /// Up to 128, 256 and 1024 experts.
    pub(super) const ALL: [GatingKernel; 3] = [
        GatingKernel { name: "topk_gating_128", warps: 8, registers: 64, blocks_per_sm: 4 },
        GatingKernel { name: "topk_gating_256", warps: 4, registers: 96, blocks_per_sm: 5 },
        GatingKernel { name: "topk_gating_1024", warps: 4, registers: 256, blocks_per_sm: 2 },
    ];

    fn of(num_experts: usize) -> &'static GatingKernel {
        match num_experts {
            0..=128 => &Self::ALL[0],
            129..=256 => &Self::ALL[1],
            _ => &Self::ALL[2],
        }
    }

    /// `GatingStorage` for every warp, each of which gates `warp_tokens` at a time, or the warps' statistics.
    fn shared_bytes(
        &self,
        dims: &TopkGatingDims,
        p: &TopkGatingParams,
        warp_tokens: usize,
        counted: bool,
    ) -> u32 {
        let groups = p.spec.groups.map_or(0, |groups| groups.num_groups + dims.num_experts);
        let storage = warp_tokens * (2 * dims.num_experts_per_token + groups);
        let statistics = if counted { 2 * dims.num_experts } else { 0 };
        (4 * self.warps * storage.max(statistics)) as u32
    }
}
