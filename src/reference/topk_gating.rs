//! Router logits, and gating by a full sort of every row.

use std::cmp::Ordering;

use super::gemm::gemm;
use super::{log_sum_exp, router_normal};
use crate::operations::{ExpertGroups, GatingSpec, GroupScore, ScoreFunction, SoftmaxOrder};

/// `x · weightᵀ`, with noise `+ softplus(x · noise_weightᵀ) · normal(seed, token, expert)`.
///
/// `x` `[num_tokens, hidden_size]`, both weights `[num_experts, hidden_size]`; the result `[num_tokens, num_experts]`.
pub fn router_logits(
    x: &[f64],
    weight: &[f64],
    noise: Option<(&[f64], u64)>,
    hidden_size: usize,
) -> Vec<f64> {
    let num_experts = weight.len() / hidden_size;
    let mut logits = gemm(x, weight, hidden_size);
    if let Some((noise_weight, seed)) = noise {
        let spread = gemm(x, noise_weight, hidden_size);
        for (index, logit) in logits.iter_mut().enumerate() {
            // softplus(s) = ln(1 + e^s), which is s where e^s would overflow
            let softplus = if spread[index] > 700.0 { spread[index] } else { spread[index].exp().ln_1p() };
            *logit += softplus * router_normal(seed, index / num_experts, index % num_experts);
        }
    }
    logits
}

/// What a router decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Gating {
    /// `[num_tokens, k]`, in order of preference.
    pub expert_ids: Vec<i32>,
    /// `[num_tokens, k]`
    pub expert_weights: Vec<f64>,
    /// `[num_experts]`: assignments to each expert.
    pub counts: Vec<i32>,
    /// `E · sum over e of f_e · P_e`, f the assignments a token and P the mean weight.
    pub aux_loss: f64,
    /// Mean of `logsumexp(logits)²`.
    pub z_loss: f64,
}

/// Selects `k` experts of each row of `logits` `[num_tokens, num_experts]` and weighs them as `spec` says; with
/// `forced_ids` `[num_tokens, k]` it only weighs them.
///
/// A row with a NaN gives ids `0..k` with weight 0, is counted, and adds nothing to P and z. A row whose chosen
/// logits are all -inf has weights 0 as well.
pub fn topk_gating(
    logits: &[f64],
    num_experts: usize,
    k: usize,
    spec: &GatingSpec,
    selection_bias: Option<&[f64]>,
    forced_ids: Option<&[i32]>,
) -> Gating {
    let num_tokens = logits.len() / num_experts;
    let mut gating = Gating {
        expert_ids: Vec::new(),
        expert_weights: Vec::new(),
        counts: vec![0; num_experts],
        aux_loss: 0.0,
        z_loss: 0.0,
    };
    let mut weight_sums = vec![0.0; num_experts];
    for (token, row) in logits.chunks_exact(num_experts).enumerate() {
        let forced = forced_ids.map(|ids| &ids[token * k..(token + 1) * k]);
        let is_nan = row.iter().any(|logit| logit.is_nan());
        let (ids, weights) = if is_nan {
            let ids = (0..k).collect();
            (forced.map_or(ids, indices), vec![0.0; k])
        } else {
            let scores = scores(row, spec);
            let ids = forced.map_or_else(|| select(&scores, k, spec.groups, selection_bias), indices);
            let weights = weigh(&scores, &ids, spec);
            (ids, weights)
        };
        for (&id, &weight) in ids.iter().zip(&weights) {
            gating.counts[id] += 1;
            weight_sums[id] += weight;
            gating.expert_ids.push(id as i32);
            gating.expert_weights.push(weight);
        }
        if !is_nan {
            gating.z_loss += log_sum_exp(row).powi(2) / num_tokens as f64;
        }
    }
    let tokens = num_tokens.max(1) as f64; // no tokens, no loss
    let balance =
        gating.counts.iter().zip(&weight_sums).map(|(&count, sum)| f64::from(count) / tokens * sum / tokens);
    gating.aux_loss = num_experts as f64 * balance.sum::<f64>();
    gating
}

fn indices(ids: &[i32]) -> Vec<usize> {
    ids.iter().map(|&id| id as usize).collect()
}

/// What is compared for the selection: probabilities, logistic values, or plain logits.
fn scores(row: &[f64], spec: &GatingSpec) -> Vec<f64> {
    match (spec.score, spec.softmax_order) {
        (ScoreFunction::Sigmoid, _) => row.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        (ScoreFunction::Softmax, SoftmaxOrder::BeforeTopK) => softmax(row),
        (ScoreFunction::Softmax, SoftmaxOrder::AfterTopK) => row.to_vec(),
    }
}

fn softmax(values: &[f64]) -> Vec<f64> {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return vec![0.0; values.len()];
    }
    let sum: f64 = values.iter().map(|value| (value - max).exp()).sum();
    values.iter().map(|value| (value - max).exp() / sum).collect()
}

/// Indices of `values` from the largest to the smallest, the lower index first among equals.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b)));
    order
}

fn select(scores: &[f64], k: usize, groups: Option<ExpertGroups>, bias: Option<&[f64]>) -> Vec<usize> {
    let biased: Vec<f64> =
        scores.iter().enumerate().map(|(id, score)| score + bias.map_or(0.0, |bias| bias[id])).collect();
    let mut order = descending(&biased);
    if let Some(groups) = groups {
        let size = scores.len() / groups.num_groups;
        let of_group = |members: &[f64]| {
            let best = descending(members);
            match groups.score {
                GroupScore::Max => members[best[0]],
                GroupScore::SumOfTop2 => members[best[0]] + members[best[1]],
            }
        };
        let group_scores: Vec<f64> = biased.chunks_exact(size).map(of_group).collect();
        let eligible = &descending(&group_scores)[..groups.top_groups];
        order.retain(|id| eligible.contains(&(id / size)));
    }
    order.truncate(k);
    order
}

fn weigh(scores: &[f64], ids: &[usize], spec: &GatingSpec) -> Vec<f64> {
    let chosen: Vec<f64> = ids.iter().map(|&id| scores[id]).collect();
    let weights = match (spec.score, spec.softmax_order) {
        (ScoreFunction::Softmax, SoftmaxOrder::AfterTopK) => softmax(&chosen),
        _ => chosen,
    };
    let divisor = if spec.renormalize { weights.iter().sum::<f64>() + f64::from(spec.epsilon) } else { 1.0 };
    weights.iter().map(|weight| weight / divisor * f64::from(spec.scale)).collect()
}
