//! `x += experts(normed)`: router, dispatch, grouped matrix products, combine. Counts and offsets stay on the device.

use super::output::Recorder;
use super::parameters::Experts;
use super::request::{MoeMode, Step};
use super::{Model, Workspace};
use crate::error::Result;
use crate::operations::{
    Activation, GatingSpec, MoeCombineParams, MoeDispatchParams, MoeGemmParams, Residual, RouteParams,
    RouterLogitsParams, RouterNoise, TopkGatingParams,
};

impl Model {
    pub(super) fn moe(
        &self,
        step: &Step<'_>,
        workspace: &mut Workspace,
        layer: usize,
        experts: &Experts,
        record: &mut Recorder<'_>,
    ) -> Result<()> {
        let (Some(config), Some(moe)) = (&self.config.moe, &mut workspace.moe) else { return Ok(()) };
        let (ops, tokens) = (step.ops, step.num_tokens);
        let (hidden_size, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (num_experts, k) = (config.num_experts, config.num_experts_per_token);
        let normed = workspace.normed.tensor(&[tokens, hidden_size]);
        let moe_index = layer / config.stride;
        let capacity = (step.request.moe == MoeMode::Capacity).then(|| config.capacity(tokens));

        // Route
        ops.router_logits(RouterLogitsParams {
            logits: moe.router_logits.tensor_mut(&[tokens, num_experts]),
            x: normed,
            weight: experts.router.tensor(&[num_experts, hidden_size]),
            noise: experts.noise.as_ref().map(|noise| RouterNoise {
                weight: noise.tensor(&[num_experts, hidden_size]),
                seed: step.noise_seed(moe_index),
            }),
        })?;
        let num_layers = moe.losses.len() / 2;
        let forced_ids = step.request.route_override.map(|_| {
            let layers = moe.forced_ids.tensor(&[num_layers, tokens, k]);
            layers.narrow(0, moe_index, 1).reshape(&[tokens, k])
        });
        ops.route(RouteParams {
            gating: TopkGatingParams {
                logits: moe.router_logits.tensor(&[tokens, num_experts]),
                selection_bias: None,
                forced_ids,
                spec: GatingSpec::NANO_MOE,
                expert_ids: moe.expert_ids.tensor_mut(&[tokens, k]),
                expert_weights: moe.expert_weights.tensor_mut(&[tokens, k]),
                counts: None,
                losses: record
                    .wants_router_losses()
                    .then(|| moe.losses.tensor_mut(&[2 * num_layers]).narrow(0, 2 * moe_index, 2)),
                scratch: moe.gating_scratch.tensor_mut(&[TopkGatingParams::scratch_len(num_experts)]),
            },
            capacity,
            expert_offsets: moe.expert_offsets.tensor_mut(&[num_experts + 1]),
            row_tokens: moe.row_tokens.tensor_mut(&[tokens * k]),
            slots: moe.slots.tensor_mut(&[tokens, k]),
            scratch: moe.dispatch_scratch.tensor_mut(&[MoeDispatchParams::scratch_len(num_experts)]),
        })?;

        // Run the experts on their rows
        ops.moe_gemm(MoeGemmParams {
            out: workspace.hidden.tensor_mut(&[tokens * k, inner]),
            a: normed,
            row_index: Some(moe.row_tokens.tensor(&[tokens * k])),
            b: experts.up.weight.tensor(&[num_experts, inner, hidden_size]),
            bias: experts.up.bias(num_experts * inner).map(|bias| bias.reshape(&[num_experts, inner])),
            expert_offsets: moe.expert_offsets.tensor(&[num_experts + 1]),
            activation: self.config.activation,
        })?;
        ops.moe_gemm(MoeGemmParams {
            out: moe.expert_out.tensor_mut(&[tokens * k, hidden_size]),
            a: workspace.hidden.tensor(&[tokens * k, inner]),
            row_index: None,
            b: experts.down.weight.tensor(&[num_experts, hidden_size, inner]),
            bias: experts
                .down
                .bias(num_experts * hidden_size)
                .map(|bias| bias.reshape(&[num_experts, hidden_size])),
            expert_offsets: moe.expert_offsets.tensor(&[num_experts + 1]),
            activation: Activation::Identity,
        })?;
        ops.moe_combine(MoeCombineParams {
            out: workspace.x.tensor_mut(&[tokens, hidden_size]),
            expert_out: moe.expert_out.tensor(&[tokens * k, hidden_size]),
            slots: moe.slots.tensor(&[tokens, k]),
            weights: moe.expert_weights.tensor(&[tokens, k]),
            residual: Residual::InPlace,
        })?;
        record.routing(ops, workspace, layer, capacity)
    }
}
