use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK_LOGITS: Checker = Checker { operation: "router_logits" };
const CHECK: Checker = Checker { operation: "topk_gating" };

/// Most experts the kernels take.
pub(crate) const MAX_EXPERTS: usize = 1024;

/// Router logits in f32: `logits = x · weightᵀ`, plus `softplus(x · noise.weightᵀ) · N(0, 1)` with noise.
#[derive(Clone, Copy, Debug)]
pub struct RouterLogitsParams<I = TensorView, O = TensorView> {
    /// f32 `[num_tokens, num_experts]`, dense.
    pub logits: O,
    /// `[num_tokens, hidden_size]`, f32, bf16 or f16.
    pub x: I,
    /// f32 `[num_experts, hidden_size]`
    pub weight: I,
    /// nanoMoE's noisy top-k.
    pub noise: Option<RouterNoise<I>>,
}

/// Noise of nanoMoE's router. The normal deviate of (token, expert) comes from Philox4x32-10 keyed by the seed, so it
/// does not depend on the launch.
#[derive(Clone, Copy, Debug)]
pub struct RouterNoise<I = TensorView> {
    /// f32 `[num_experts, hidden_size]`
    pub weight: I,
    /// Different for every layer and call that must differ.
    pub seed: u64,
}

impl<I: AsView, O: AsView> RouterLogitsParams<I, O> {
    /// Checks shapes and types; gives (num_tokens, num_experts, hidden_size).
    pub fn check(&self) -> Result<(usize, usize, usize)> {
        let x = CHECK_LOGITS.rank("x", &self.x, 2)?;
        CHECK_LOGITS.float("x", &x)?;
        let &[num_tokens, hidden_size] = x.shape() else { unreachable!("rank was checked") };
        let num_experts = CHECK_LOGITS.rank("weight", &self.weight, 2)?.shape()[0];
        CHECK_LOGITS.that((1..=MAX_EXPERTS).contains(&num_experts), || {
            format!("{num_experts} experts, expected 1 to {MAX_EXPERTS}")
        })?;
        let (shape, what) = ([num_experts, hidden_size], "[num_experts, hidden_size]");
        CHECK_LOGITS.dense("weight", &self.weight, DType::F32, &shape, what)?;
        if let Some(noise) = &self.noise {
            CHECK_LOGITS.dense("noise weight", &noise.weight, DType::F32, &shape, what)?;
        }
        let what = "[num_tokens, num_experts]";
        CHECK_LOGITS.dense("logits", &self.logits, DType::F32, &[num_tokens, num_experts], what)?;
        Ok((num_tokens, num_experts, hidden_size))
    }
}

impl RouterLogitsParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<RouterLogitsParams> {
        CHECK_LOGITS.place(
            place,
            &[
                ("logits", self.logits.place()),
                ("x", self.x.place()),
                ("weight", self.weight.place()),
                ("noise weight", self.noise.map_or(Place::Unknown, |n| n.weight.place())),
            ],
        )?;
        Ok(RouterLogitsParams {
            logits: self.logits.view(),
            x: self.x.view(),
            weight: self.weight.view(),
            noise: self.noise.map(|n| RouterNoise { weight: n.weight.view(), seed: n.seed }),
        })
    }
}

/// What turns a router logit into a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreFunction {
    /// Softmax, over all experts or the chosen ones ([`SoftmaxOrder`]).
    Softmax,
    /// Logistic function of each logit by itself (DeepSeek-V3).
    Sigmoid,
}

/// When the softmax is taken. Without meaning for [`ScoreFunction::Sigmoid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftmaxOrder {
    /// Over all experts, then the k largest (Mixtral, OLMoE, Qwen).
    BeforeTopK,
    /// Over the k largest logits only, so weights sum to 1 (nanoMoE, gpt-oss).
    AfterTopK,
}

/// How a group of experts is scored (DeepSeek).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// By its best expert (DeepSeek-V2).
    Max,
    /// By the sum of its two best (DeepSeek-V3).
    SumOfTop2,
}

/// Selection limited to the best groups of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Equal groups of consecutive experts.
    pub num_groups: usize,
    /// Groups that stay eligible.
    pub top_groups: usize,
    /// How groups are compared.
    pub score: GroupScore,
}

/// Gating as data: every family's router is a value of this.
///
/// Selection is by `score + selection_bias` (scores before the softmax where the softmax comes after), lowest index
/// on ties; weights are scores without the bias, divided by `sum + epsilon` if `renormalize`, times `scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatingSpec {
    /// Score of a logit.
    pub score: ScoreFunction,
    /// When the softmax is taken.
    pub softmax_order: SoftmaxOrder,
    /// Divide the chosen weights by their sum.
    pub renormalize: bool,
    /// Added to that sum.
    pub epsilon: f32,
    /// Multiplies every weight.
    pub scale: f32,
    /// Limit to groups.
    pub groups: Option<ExpertGroups>,
}

impl GatingSpec {
    /// nanoMoE (and gpt-oss): top-k on logits, softmax over the chosen.
    pub const NANO_MOE: GatingSpec = GatingSpec {
        score: ScoreFunction::Softmax,
        softmax_order: SoftmaxOrder::AfterTopK,
        renormalize: false,
        epsilon: 0.0,
        scale: 1.0,
        groups: None,
    };
}

/// Selects `num_experts_per_token` experts a token and weighs them (Shazeer et al. 2017, arXiv:1701.06538; auxiliary
/// loss: Fedus et al. 2021, arXiv:2101.03961; z loss: Zoph et al. 2022, arXiv:2202.08906).
///
/// A row with a NaN gives ids `0..k` with weight 0; it is counted, and adds nothing to P and z.
#[derive(Clone, Copy, Debug)]
pub struct TopkGatingParams<I = TensorView, O = TensorView> {
    /// f32 `[num_tokens, num_experts]`
    pub logits: I,
    /// f32 `[num_experts]`: added for the selection only.
    pub selection_bias: Option<I>,
    /// i32 `[num_tokens, k]`: these ids instead of a selection; the weights follow from the logits.
    pub forced_ids: Option<I>,
    /// The family's rule.
    pub spec: GatingSpec,
    /// i32 `[num_tokens, k]`, in order of preference.
    pub expert_ids: O,
    /// f32 `[num_tokens, k]`
    pub expert_weights: O,
    /// i32 `[num_experts]`: assignments to each expert, before any capacity.
    pub counts: Option<O>,
    /// f32 `[2]`: auxiliary loss `E · Σ_e f_e · P_e` (f: assignments a token, P: mean weight) and z loss, the mean of
    /// `logsumexp(logits)²`.
    pub losses: Option<O>,
    /// f32 scratch of at least [`TopkGatingParams::scratch_len`] elements.
    pub scratch: O,
}

/// Sizes of a checked [`TopkGatingParams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopkGatingDims {
    pub num_tokens: usize,
    pub num_experts: usize,
    pub num_experts_per_token: usize,
}

impl TopkGatingParams {
    /// Most blocks that leave partial sums for the losses; the kernel's grid never exceeds it.
    pub const MAX_BLOCKS: usize = 512;

    /// Elements of scratch for any number of tokens: a partial row of counts, weights and z a block.
    pub fn scratch_len(num_experts: usize) -> usize {
        Self::MAX_BLOCKS * (2 * num_experts + 2) + 2 * num_experts + 2
    }
}

impl<I: AsView, O: AsView> TopkGatingParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<TopkGatingDims> {
        let logits = CHECK.rank("logits", &self.logits, 2)?;
        let &[num_tokens, num_experts] = logits.shape() else { unreachable!("rank was checked") };
        CHECK.dense("logits", &self.logits, DType::F32, logits.shape(), "[num_tokens, num_experts]")?;
        let ids = CHECK.rank("expert_ids", &self.expert_ids, 2)?;
        let k = ids.shape()[1];
        CHECK.that((1..=MAX_EXPERTS).contains(&num_experts) && (1..=num_experts).contains(&k), || {
            format!("k = {k} of {num_experts} experts, expected 1 <= k <= experts <= {MAX_EXPERTS}")
        })?;
        let (shape, what) = ([num_tokens, k], "[num_tokens, k]");
        CHECK.dense("expert_ids", &self.expert_ids, DType::I32, &shape, what)?;
        CHECK.dense("expert_weights", &self.expert_weights, DType::F32, &shape, what)?;
        if let Some(forced) = &self.forced_ids {
            CHECK.dense("forced_ids", forced, DType::I32, &shape, what)?;
        }
        if let Some(bias) = &self.selection_bias {
            CHECK.dense("selection_bias", bias, DType::F32, &[num_experts], "[num_experts]")?;
        }
        if let Some(counts) = &self.counts {
            CHECK.dense("counts", counts, DType::I32, &[num_experts], "[num_experts]")?;
        }
        if let Some(losses) = &self.losses {
            CHECK.dense("losses", losses, DType::F32, &[2], "(auxiliary, z)")?;
        }
        let scratch = self.scratch.view();
        let needed = TopkGatingParams::scratch_len(num_experts);
        CHECK.dtype("scratch", &scratch, DType::F32)?;
        CHECK.that(scratch.is_dense() && scratch.num_elements() >= needed, || {
            format!("scratch has {} elements, expected {needed}", scratch.num_elements())
        })?;
        if let Some(groups) = self.spec.groups {
            let g = groups.num_groups;
            let size = if g > 0 && num_experts % g == 0 { num_experts / g } else { 0 };
            CHECK.that(size > 0 && (1..=g).contains(&groups.top_groups), || {
                format!("{g} groups, {} kept, of {num_experts} experts", groups.top_groups)
            })?;
            CHECK.that(groups.top_groups * size >= k, || {
                format!("{} groups of {size} experts leave fewer than k = {k}", groups.top_groups)
            })?;
            CHECK.that(size >= 2 || groups.score == GroupScore::Max, || {
                "groups of one expert have no two best".to_owned()
            })?;
        }
        Ok(TopkGatingDims { num_tokens, num_experts, num_experts_per_token: k })
    }
}

impl TopkGatingParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<TopkGatingParams> {
        let optional = |t: &Option<TensorMut<'_>>| t.as_ref().map_or(Place::Unknown, AsView::place);
        CHECK.place(
            place,
            &[
                ("logits", self.logits.place()),
                ("selection_bias", self.selection_bias.map_or(Place::Unknown, |t| t.place())),
                ("forced_ids", self.forced_ids.map_or(Place::Unknown, |t| t.place())),
                ("expert_ids", self.expert_ids.place()),
                ("expert_weights", self.expert_weights.place()),
                ("counts", optional(&self.counts)),
                ("losses", optional(&self.losses)),
                ("scratch", self.scratch.place()),
            ],
        )?;
        Ok(TopkGatingParams {
            logits: self.logits.view(),
            selection_bias: view_of(&self.selection_bias),
            forced_ids: view_of(&self.forced_ids),
            spec: self.spec,
            expert_ids: self.expert_ids.view(),
            expert_weights: self.expert_weights.view(),
            counts: view_of(&self.counts),
            losses: view_of(&self.losses),
            scratch: self.scratch.view(),
        })
    }
}
