//! What a forward pass hands out, and its collection on the way.

use super::Workspace;
use super::request::{Forward, HeadPass, HiddenStates, Step};
use super::workspace::{HeadWorkspace, download_f32, download_i32};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::operations::Operations;

/// What was asked for; the rest is empty.
#[derive(Clone, Debug, Default)]
pub struct ForwardOutput {
    /// `[rows, vocab_size]`, the rows asked for.
    pub logits: Vec<f32>,
    /// `[rows]`, the rows asked for.
    pub argmax: Vec<i32>,
    /// `[batch_size]`: the ids drawn, -1 from logits with a NaN.
    pub drawn: Vec<i32>,
    /// `[batch_size]`: logarithms of the drawn ids' probabilities, before temperature and limits.
    pub logprobs: Vec<f32>,
    /// `[num_tokens]`: negative log-likelihood in nats of each target, 0 where ignored.
    pub token_losses: Vec<f32>,
    /// Mean over the targets that count, NaN if none does.
    pub cross_entropy: Option<f64>,
    /// The cross-entropy plus the weighted sums over layers of the routers' losses that the configuration has on.
    pub loss_with_auxiliary: Option<f64>,
    /// Times `[num_tokens, hidden_size]`: the states of the residual stream asked for; all are `[num_layers + 1]`.
    pub hidden_states: Vec<Vec<f32>>,
    /// `[num_tokens, hidden_size]`: what the head reads.
    pub final_norm: Vec<f32>,
    /// What the router of each MoE layer decided.
    pub routing: Vec<LayerRouting>,
    /// `[batch_size, seq_len, seq_len]`: how much each query (second) attends to each key, in the head asked for.
    pub attention_weights: Vec<f32>,
}

impl ForwardOutput {
    /// Where the first number that is not finite comes from, in a pass that handed out all its hidden states.
    pub fn origin_of_not_finite(&self) -> String {
        let not_finite = |values: &[f32]| values.iter().any(|value| !value.is_finite());
        match self.hidden_states.iter().position(|state| not_finite(state)) {
            Some(0) => "the embedding".to_owned(),
            Some(state) => format!("block {}", state - 1),
            None if not_finite(&self.final_norm) => "the final norm".to_owned(),
            None => "the head".to_owned(),
        }
    }
}

/// The decisions of one router.
#[derive(Clone, Debug)]
pub struct LayerRouting {
    /// Its block.
    pub layer: usize,
    /// Experts of the layer.
    pub num_experts: usize,
    /// Experts of a token.
    pub num_experts_per_token: usize,
    /// Slots of an expert, in capacity mode.
    pub capacity: Option<usize>,
    /// `[num_tokens, num_experts]`, noise included.
    pub router_logits: Vec<f32>,
    /// `[num_tokens, k]`, in order of preference.
    pub expert_ids: Vec<i32>,
    /// `[num_tokens, k]`: the weights before dropping.
    pub expert_weights: Vec<f32>,
    /// `[num_tokens, k]`: the row of the expert's batch, or -1 where the assignment was dropped.
    pub slots: Vec<i32>,
    /// Auxiliary loss: `E · Σ_e f_e · P_e`, k when balanced.
    pub aux_loss: f32,
    /// Router z loss: the mean of `logsumexp(logits)²`.
    pub z_loss: f32,
}

impl LayerRouting {
    /// The weights an expert's output is multiplied by, `[num_tokens, num_experts]`: 0 where not chosen or dropped.
    pub fn combine_weights(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.router_logits.len()];
        for (index, &id) in self.expert_ids.iter().enumerate() {
            if self.slots[index] >= 0 {
                weights[index / self.num_experts_per_token * self.num_experts + id as usize] =
                    self.expert_weights[index];
            }
        }
        weights
    }

    /// Assignments each expert was chosen for, `[num_experts]`.
    pub fn chosen_per_expert(&self) -> Vec<i32> {
        self.count(|_| true)
    }

    /// Assignments each expert worked on, `[num_experts]`. As in nanoMoE a weight that is exactly 0 does not count.
    pub fn kept_per_expert(&self) -> Vec<i32> {
        self.count(|index| self.slots[index] >= 0 && self.expert_weights[index] != 0.0)
    }

    /// Assignments that were dropped.
    pub fn num_dropped(&self) -> usize {
        self.slots.iter().filter(|&&slot| slot < 0).count()
    }

    fn count(&self, which: impl Fn(usize) -> bool) -> Vec<i32> {
        let mut counts = vec![0; self.num_experts];
        for (index, &id) in self.expert_ids.iter().enumerate() {
            counts[id as usize] += i32::from(which(index));
        }
        counts
    }
}

/// Collects what was asked for while the forward pass runs; does nothing where nothing was.
pub(super) struct Recorder<'a> {
    request: &'a Forward<'a>,
    config: &'a ModelConfig,
    num_tokens: usize,
    output: ForwardOutput,
}

impl<'a> Recorder<'a> {
    pub fn new(request: &'a Forward<'a>, config: &'a ModelConfig, num_tokens: usize) -> Self {
        Recorder { request, config, num_tokens, output: ForwardOutput::default() }
    }

    /// Whether gating is to compute its losses: for the record, or because a loss contains them.
    pub fn wants_router_losses(&self) -> bool {
        let counts = self.config.moe.as_ref().is_some_and(|moe| moe.use_aux_loss || moe.use_z_loss);
        self.request.routing || (self.request.targets.is_some() && counts)
    }

    pub fn hidden_state(&mut self, ops: &dyn Operations, workspace: &Workspace, index: usize) -> Result<()> {
        if self.request.hidden_states.wants(index) {
            let state = download_f32(ops, &workspace.x, self.num_tokens * self.config.hidden_size)?;
            self.output.hidden_states.push(state);
        }
        Ok(())
    }

    /// Of the layer just attended to: `softmax(q · kᵀ / √head_dim)`, causal, by the host in f64.
    pub fn attention_weights(&mut self, step: &Step<'_>, workspace: &Workspace, layer: usize) -> Result<()> {
        let Some((_, head)) = self.request.attention_weights.filter(|&(wanted, _)| wanted == layer) else {
            return Ok(());
        };
        let (hidden_size, head_dim) = (self.config.hidden_size, self.config.head_dim());
        let qkv = download_f32(step.ops, &workspace.qkv, self.num_tokens * 3 * hidden_size)?;
        let part = |token: usize, index: usize| {
            &qkv[(token * 3 + index) * hidden_size + head * head_dim..][..head_dim]
        };
        let score = |query: usize, key: usize| {
            let products =
                part(query, 0).iter().zip(part(key, 1)).map(|(&q, &k)| f64::from(q) * f64::from(k));
            products.sum::<f64>() / (head_dim as f64).sqrt()
        };
        for query in 0..self.num_tokens {
            let first = query / step.seq_len * step.seq_len;
            let scores: Vec<f64> = (first..=query).map(|key| score(query, key)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            let weights = scores.iter().map(|score| ((score - max).exp() / sum) as f32);
            self.output.attention_weights.extend(weights);
            let unseen = step.seq_len - scores.len();
            self.output.attention_weights.extend(std::iter::repeat_n(0.0, unseen));
        }
        Ok(())
    }

    pub fn final_norm(&mut self, ops: &dyn Operations, workspace: &Workspace) -> Result<()> {
        if self.request.hidden_states == HiddenStates::All {
            let len = self.num_tokens * self.config.hidden_size;
            self.output.final_norm = download_f32(ops, &workspace.normed, len)?;
        }
        Ok(())
    }

    pub fn routing(
        &mut self,
        ops: &dyn Operations,
        workspace: &Workspace,
        layer: usize,
        capacity: Option<usize>,
    ) -> Result<()> {
        let (true, Some(config), Some(moe)) = (self.request.routing, &self.config.moe, &workspace.moe) else {
            return Ok(());
        };
        let assignments = self.num_tokens * config.num_experts_per_token;
        self.output.routing.push(LayerRouting {
            layer,
            num_experts: config.num_experts,
            num_experts_per_token: config.num_experts_per_token,
            capacity,
            router_logits: download_f32(ops, &moe.router_logits, self.num_tokens * config.num_experts)?,
            expert_ids: download_i32(ops, &moe.expert_ids, assignments)?,
            expert_weights: download_f32(ops, &moe.expert_weights, assignments)?,
            slots: download_i32(ops, &moe.slots, assignments)?,
            aux_loss: 0.0,
            z_loss: 0.0,
        });
        Ok(())
    }

    fn head(&mut self, ops: &dyn Operations, head: &HeadWorkspace, pass: &HeadPass<'_>) -> Result<()> {
        if pass.logits {
            self.output.logits = download_f32(ops, &head.logits, pass.num_rows * self.config.vocab_size)?;
        }
        if pass.argmax {
            self.output.argmax = download_i32(ops, &head.argmax, pass.num_rows)?;
        }
        if let Some(targets) = pass.targets {
            let losses = download_f32(ops, &head.losses, pass.num_rows)?;
            let scored = targets.ids.iter().filter(|&&id| id != i64::from(targets.ignore_index)).count();
            let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
            self.output.cross_entropy = Some(sum / scored as f64);
            self.output.token_losses = losses;
        }
        Ok(())
    }

    /// What was asked for, once everything was.
    pub fn finish(mut self, step: &Step<'_>, workspace: &Workspace) -> Result<ForwardOutput> {
        let ops = step.ops;
        for (pass, head) in step.head_passes.iter().zip(&workspace.heads) {
            self.head(ops, head, pass)?;
        }
        if let Some(draw) = step.request.draw {
            self.output.drawn = download_i32(ops, &workspace.draw.ids, step.batch_size)?;
            if draw.logprobs {
                self.output.logprobs = download_f32(ops, &workspace.draw.logprobs, step.batch_size)?;
            }
        }
        let mut total = self.output.cross_entropy;
        if let (true, Some(config), Some(moe)) =
            (self.wants_router_losses(), &self.config.moe, &workspace.moe)
        {
            let losses = download_f32(ops, &moe.losses, moe.losses.len())?;
            for (routing, losses) in self.output.routing.iter_mut().zip(losses.chunks_exact(2)) {
                (routing.aux_loss, routing.z_loss) = (losses[0], losses[1]);
            }
            let sum = |which: usize| losses.chunks_exact(2).map(|pair| f64::from(pair[which])).sum::<f64>();
            if config.use_aux_loss {
                total = total.map(|total| total + config.aux_loss_weight * sum(0));
            }
            if config.use_z_loss {
                total = total.map(|total| total + config.z_loss_weight * sum(1));
            }
        }
        self.output.loss_with_auxiliary = total;
        Ok(self.output)
    }
}
