//! The router: logits by dot products, then k rounds of picking the largest score.

use super::gemm::{Add, Epilogue, How, product};
use super::rows::{Rows, RowsMut};
use super::simd;
use crate::error::Result;
use crate::operations::{
    Activation, ExpertGroups, GatingSpec, GroupScore, Numerics, RouterLogitsParams, ScoreFunction,
    SoftmaxOrder, TopkGatingParams,
};
use crate::philox::router_normal;
use crate::tensor::{Place, Tensor, TensorMut};

pub(super) fn router_logits(
    p: RouterLogitsParams<Tensor<'_>, TensorMut<'_>>,
    numerics: Numerics,
) -> Result<()> {
    const NAME: &str = "router_logits";
    let (num_tokens, num_experts, _) = p.check()?;
    p.raw(Place::Host)?;
    let x = Rows::new(p.x, NAME)?;
    let plain = Epilogue { bias: None, activation: Activation::Identity, residual: Add::None };
    let logits = p.logits.into_slice::<f32>(NAME)?;
    let out = RowsMut::dense_groups(logits, num_experts, num_tokens, num_experts);
    product(out, x, Rows::new(p.weight, NAME)?, plain, How::parallel(numerics));
    if let Some(noise) = p.noise {
        let mut spread = vec![0.0; num_tokens * num_experts];
        let out = RowsMut::dense_groups(&mut spread, num_experts, num_tokens, num_experts);
        product(out, x, Rows::new(noise.weight, NAME)?, plain, How::parallel(numerics));
        for (index, (logit, spread)) in logits.iter_mut().zip(spread).enumerate() {
            // PyTorch's softplus: linear where e^-20 is below f32's resolution.
            let softplus = if spread > 20.0 { spread } else { spread.exp().ln_1p() };
            *logit += softplus * router_normal(noise.seed, index / num_experts, index % num_experts);
        }
    }
    Ok(())
}

pub(super) fn topk_gating(p: TopkGatingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
    const NAME: &str = "topk_gating";
    let dims = p.check()?;
    p.raw(Place::Host)?;
    let (num_experts, k) = (dims.num_experts, dims.num_experts_per_token);
    let logits = p.logits.as_slice::<f32>(NAME)?;
    let bias = p.selection_bias.map(|bias| bias.as_slice::<f32>(NAME)).transpose()?;
    let forced = p.forced_ids.map(|ids| ids.as_slice::<i32>(NAME)).transpose()?;
    let all_ids = p.expert_ids.into_slice::<i32>(NAME)?;
    let all_weights = p.expert_weights.into_slice::<f32>(NAME)?;
    let mut gate = Gate::new(p.spec, bias, num_experts);
    let mut counts = vec![0i32; num_experts];
    let mut weight_sums = vec![0.0f64; num_experts];
    let mut z_sum = 0.0f64;
    for (token, row) in logits.chunks_exact(num_experts).enumerate() {
        let ids = &mut all_ids[token * k..][..k];
        let weights = &mut all_weights[token * k..][..k];
        if let Some(forced) = forced {
            ids.copy_from_slice(&forced[token * k..][..k]);
        }
        if row.iter().any(|logit| logit.is_nan()) {
            weights.fill(0.0);
            if forced.is_none() {
                ids.iter_mut().enumerate().for_each(|(index, id)| *id = index as i32);
            }
        } else {
            gate.gate(row, ids, weights, forced.is_some());
            if p.losses.is_some() {
                z_sum += f64::from(gate.log_sum_exp(row)).powi(2);
            }
        }
        for (&id, &weight) in ids.iter().zip(weights.iter()) {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
                weight_sums[id as usize] += f64::from(weight);
            }
        }
    }
    if let Some(out) = p.counts {
        out.into_slice::<i32>(NAME)?.copy_from_slice(&counts);
    }
    if let Some(out) = p.losses {
        let tokens = dims.num_tokens.max(1) as f64;
        let balance: f64 = counts.iter().zip(&weight_sums).map(|(&count, sum)| f64::from(count) * sum).sum();
        let aux_loss = num_experts as f64 * balance / (tokens * tokens);
        out.into_slice::<f32>(NAME)?.copy_from_slice(&[aux_loss as f32, (z_sum / tokens) as f32]);
    }
    Ok(())
}

/// A gating rule, with room for a row of scores.
struct Gate<'a> {
    spec: GatingSpec,
    bias: Option<&'a [f32]>,
    scores: Vec<f32>,
    /// What is compared; -inf marks experts already taken or out of play.
    candidates: Vec<f32>,
    eligible: Vec<bool>,
}

impl<'a> Gate<'a> {
    fn new(spec: GatingSpec, bias: Option<&'a [f32]>, num_experts: usize) -> Self {
        let (scores, candidates) = (vec![0.0; num_experts], vec![0.0; num_experts]);
        Gate { spec, bias, scores, candidates, eligible: vec![true; num_experts] }
    }

    fn gate(&mut self, row: &[f32], ids: &mut [i32], weights: &mut [f32], forced: bool) {
        self.scores.copy_from_slice(row);
        let softmax_last =
            self.spec.score == ScoreFunction::Softmax && self.spec.softmax_order == SoftmaxOrder::AfterTopK;
        match self.spec.score {
            ScoreFunction::Sigmoid => self.scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            ScoreFunction::Softmax if !softmax_last => simd::softmax(&mut self.scores),
            ScoreFunction::Softmax => (),
        }
        if !forced {
            self.select(ids);
        }
        for (weight, &id) in weights.iter_mut().zip(ids.iter()) {
            // A forced id outside the experts weighs nothing.
            let missing = if softmax_last { f32::NEG_INFINITY } else { 0.0 };
            *weight = self.scores.get(id as usize).copied().unwrap_or(missing);
        }
        if softmax_last {
            simd::softmax(weights);
        }
        let mut factor = self.spec.scale;
        if self.spec.renormalize {
            factor /= weights.iter().sum::<f32>() + self.spec.epsilon;
        }
        if factor != 1.0 {
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
    }

    fn select(&mut self, ids: &mut [i32]) {
        self.candidates.copy_from_slice(&self.scores);
        if let Some(bias) = self.bias {
            simd::add_scaled(&mut self.candidates, 1.0, bias);
        }
        self.eligible.fill(true);
        if let Some(groups) = self.spec.groups {
            self.limit_to_groups(groups);
        }
        for id in ids {
            let mut best: Option<usize> = None;
            for (candidate, &score) in self.candidates.iter().enumerate() {
                if self.eligible[candidate] && best.is_none_or(|best| score > self.candidates[best]) {
                    best = Some(candidate);
                }
            }
            // There are at least k eligible experts: TopkGatingParams::check saw to it.
            let best = best.expect("an eligible expert is left");
            self.eligible[best] = false;
            *id = best as i32;
        }
    }

    fn limit_to_groups(&mut self, groups: ExpertGroups) {
        let size = self.candidates.len() / groups.num_groups;
        let score = |members: &[f32]| {
            let mut best = [f32::NEG_INFINITY; 2];
            for &member in members {
                if member > best[0] {
                    best = [member, best[0]];
                } else if member > best[1] {
                    best[1] = member;
                }
            }
            match groups.score {
                GroupScore::Max => best[0],
                GroupScore::SumOfTop2 => best[0] + best[1],
            }
        };
        let scores: Vec<f32> = self.candidates.chunks_exact(size).map(score).collect();
        for (group, &score) in scores.iter().enumerate() {
            let ahead = scores
                .iter()
                .enumerate()
                .filter(|&(other, &s)| s > score || (s == score && other < group))
                .count();
            self.eligible[group * size..][..size].fill(ahead < groups.top_groups);
        }
    }

    fn log_sum_exp(&mut self, row: &[f32]) -> f32 {
        self.candidates.copy_from_slice(row);
        simd::log_sum_exp(&mut self.candidates)
    }
}
