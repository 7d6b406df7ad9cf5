//! The whole forward pass of a checkpoint in f64, written apart from [`crate::model`].

use super::{
    AttentionShape, Dispatch, Gating, add_bias, add_residual, attention, cross_entropy, embedding,
    expert_capacity, gelu_erf, gelu_tanh, gemm, layer_norm, lm_head, mlp, moe_combine, moe_dispatch,
    moe_gemm, router_logits, topk_gating,
};
use crate::config::{ModelConfig, MoeConfig};
use crate::error::Result;
use crate::operations::{Activation, GatingSpec};
use crate::weights::{Checkpoint, LayerWeight, Weight};

/// Everything a forward pass computes on the way.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// `[num_layers + 1]` times `[num_tokens, hidden_size]`
    pub hidden_states: Vec<Vec<f64>>,
    /// `[num_tokens, hidden_size]`
    pub final_norm: Vec<f64>,
    /// `[num_tokens, vocab_size]`
    pub logits: Vec<f64>,
    /// For each MoE layer: its block, router logits `[num_tokens, num_experts]`, and what was decided.
    pub routing: Vec<(usize, Vec<f64>, Gating, Dispatch)>,
    /// Mean over targets that are not -1.
    pub cross_entropy: Option<f64>,
    /// With the routers' losses that the configuration has on.
    pub loss_with_auxiliary: Option<f64>,
}

/// How a forward pass routes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routing<'a> {
    /// Experts have the configuration's capacity; otherwise nothing is dropped.
    pub capacity: bool,
    /// Expert ids `[num_tokens, k]` of each MoE layer, instead of the routers' choices.
    pub forced_ids: Option<&'a [Vec<i32>]>,
    /// Key of the noise of noisy routers; the n-th MoE layer, counted from 1, adds n times 2⁶⁴/φ to it.
    pub noise_seed: u64,
}

/// The forward pass of `checkpoint` over `ids` `[batch_size, seq_len]`, with the cross-entropy of `targets`
/// (already shifted, -1 ignored).
///
/// # Errors
/// What reading the checkpoint refuses.
pub fn forward(
    checkpoint: &Checkpoint,
    batch_size: usize,
    ids: &[i32],
    targets: Option<&[i32]>,
    routing: Routing<'_>,
) -> Result<Trace> {
    let config = checkpoint.config();
    let pass = Pass { checkpoint, config, batch_size, seq_len: ids.len() / batch_size, routing };
    let mut trace = Trace::default();
    let positions: Vec<usize> = (0..ids.len()).map(|token| token % pass.seq_len).collect();
    let token_table = pass.read(Weight::TokenEmbedding)?;
    let position_table = pass.read(Weight::PositionEmbedding)?;
    let mut x = embedding(ids, &positions, &token_table, &position_table, config.hidden_size);
    trace.hidden_states.push(x.clone());
    for layer in 0..config.num_layers {
        let normed = pass.norm(layer, LayerWeight::Norm1Gamma, LayerWeight::Norm1Beta, &x)?;
        add_residual(&mut x, &pass.attention(layer, &normed)?);
        let normed = pass.norm(layer, LayerWeight::Norm2Gamma, LayerWeight::Norm2Beta, &x)?;
        let update = match config.moe_layer(layer) {
            None => pass.dense(layer, &normed)?,
            Some(moe) => pass.experts(layer, moe, &normed, &mut trace)?,
        };
        add_residual(&mut x, &update);
        trace.hidden_states.push(x.clone());
    }
    let beta = pass.optional(Weight::FinalNormBeta)?;
    let gamma = pass.read(Weight::FinalNormGamma)?;
    trace.final_norm = layer_norm(&x, &gamma, beta.as_deref(), f64::from(config.norm_eps));
    let head = pass.optional(Weight::Head)?.unwrap_or(token_table);
    let head_bias = pass.optional(Weight::HeadBias)?;
    trace.logits = lm_head(&trace.final_norm, &head, head_bias.as_deref(), config.hidden_size);
    if let Some(targets) = targets {
        let losses = cross_entropy(&trace.logits, targets, config.vocab_size, -1);
        let scored = targets.iter().filter(|&&target| target != -1).count();
        let mut loss = losses.iter().sum::<f64>() / scored as f64;
        trace.cross_entropy = Some(loss);
        if let Some(moe) = &config.moe {
            for (_, _, gating, _) in &trace.routing {
                loss += if moe.use_aux_loss { moe.aux_loss_weight * gating.aux_loss } else { 0.0 };
                loss += if moe.use_z_loss { moe.z_loss_weight * gating.z_loss } else { 0.0 };
            }
        }
        trace.loss_with_auxiliary = Some(loss);
    }
    Ok(trace)
}

struct Pass<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    batch_size: usize,
    seq_len: usize,
    routing: Routing<'a>,
}

impl Pass<'_> {
    fn read(&self, weight: Weight) -> Result<Vec<f64>> {
        Ok(self.checkpoint.read_f32(weight)?.into_iter().map(f64::from).collect())
    }

    fn optional(&self, weight: Weight) -> Result<Option<Vec<f64>>> {
        if weight.is_in(self.config) { self.read(weight).map(Some) } else { Ok(None) }
    }

    fn layer(&self, layer: usize, weight: LayerWeight) -> Result<Vec<f64>> {
        self.read(Weight::Layer(layer, weight))
    }

    fn bias(&self, layer: usize, weight: LayerWeight) -> Result<Option<Vec<f64>>> {
        self.optional(Weight::Layer(layer, weight))
    }

    fn gelu(&self) -> fn(f64) -> f64 {
        match self.config.activation {
            Activation::Identity => |x| x,
            Activation::GeluErf => gelu_erf,
            Activation::GeluTanh => gelu_tanh,
        }
    }

    fn norm(&self, layer: usize, gamma: LayerWeight, beta: LayerWeight, x: &[f64]) -> Result<Vec<f64>> {
        let (gamma, beta) = (self.layer(layer, gamma)?, self.bias(layer, beta)?);
        Ok(layer_norm(x, &gamma, beta.as_deref(), f64::from(self.config.norm_eps)))
    }

    fn attention(&self, layer: usize, normed: &[f64]) -> Result<Vec<f64>> {
        let hidden_size = self.config.hidden_size;
        let mut qkv = gemm(normed, &self.layer(layer, LayerWeight::Qkv)?, hidden_size);
        if let Some(bias) = self.bias(layer, LayerWeight::QkvBias)? {
            add_bias(&mut qkv, &bias);
        }
        let part = |index: usize| -> Vec<f64> {
            let rows = qkv.chunks_exact(3 * hidden_size);
            rows.flat_map(|row| &row[index * hidden_size..(index + 1) * hidden_size]).copied().collect()
        };
        let head_dim = hidden_size / self.config.num_heads;
        let shape = AttentionShape {
            batch_size: self.batch_size,
            query_len: self.seq_len,
            kv_len: self.seq_len,
            num_heads: self.config.num_heads,
            num_kv_heads: self.config.num_heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            causal: true,
        };
        let attended = attention(&part(0), &part(1), &part(2), &shape, None);
        let mut out = gemm(&attended, &self.layer(layer, LayerWeight::Out)?, hidden_size);
        if let Some(bias) = self.bias(layer, LayerWeight::OutBias)? {
            add_bias(&mut out, &bias);
        }
        Ok(out)
    }

    fn dense(&self, layer: usize, normed: &[f64]) -> Result<Vec<f64>> {
        let (up, down) = (self.layer(layer, LayerWeight::Up)?, self.layer(layer, LayerWeight::Down)?);
        let up_bias = self.bias(layer, LayerWeight::UpBias)?;
        let down_bias = self.bias(layer, LayerWeight::DownBias)?;
        let (up_bias, down_bias) = (up_bias.as_deref(), down_bias.as_deref());
        Ok(mlp(normed, &up, up_bias, &down, down_bias, self.config.hidden_size, self.gelu()))
    }

    fn experts(&self, layer: usize, moe: &MoeConfig, normed: &[f64], trace: &mut Trace) -> Result<Vec<f64>> {
        let (hidden_size, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (num_experts, k) = (moe.num_experts, moe.num_experts_per_token);
        let num_tokens = normed.len() / hidden_size;
        let scale = self.optional(Weight::Layer(layer, LayerWeight::RouterNoise))?;
        let step = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(trace.routing.len() as u64 + 1);
        let noise = scale.as_deref().map(|scale| (scale, self.routing.noise_seed.wrapping_add(step)));
        let logits = router_logits(normed, &self.layer(layer, LayerWeight::Router)?, noise, hidden_size);
        let forced = self.routing.forced_ids.map(|layers| layers[trace.routing.len()].as_slice());
        let gating = topk_gating(&logits, num_experts, k, &GatingSpec::NANO_MOE, None, forced);
        let capacity = expert_capacity(num_tokens, num_experts, k, moe.eval_capacity, moe.min_capacity);
        let dispatch =
            moe_dispatch(&gating.expert_ids, k, num_experts, self.routing.capacity.then_some(capacity));
        let bias = self.bias(layer, LayerWeight::ExpertsUpBias)?;
        let hidden = moe_gemm(
            normed,
            Some(&dispatch.tokens),
            &dispatch.offsets,
            &self.layer(layer, LayerWeight::ExpertsUp)?,
            bias.as_deref(),
            (inner, hidden_size),
            self.gelu(),
        );
        let bias = self.bias(layer, LayerWeight::ExpertsDownBias)?;
        let expert_out = moe_gemm(
            &hidden,
            None,
            &dispatch.offsets,
            &self.layer(layer, LayerWeight::ExpertsDown)?,
            bias.as_deref(),
            (hidden_size, inner),
            |x| x,
        );
        let out = moe_combine(&expert_out, &dispatch.slots, &gating.expert_weights, k, hidden_size, None);
        trace.routing.push((layer, logits, gating, dispatch));
        Ok(out)
    }
}
