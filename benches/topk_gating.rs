//! The router: its logits, and the choice of experts.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{GatingSpec, Operations, RouterLogitsParams, TopkGatingParams};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let shapes = [(1024, 384, 8, 2), (16384, 384, 8, 2), (16384, 7168, 256, 8)];
    let mut group = criterion.benchmark_group("router_logits/bf16");
    for (tokens, width, experts, _) in shapes {
        let x = common::random(ops, DType::BF16, tokens * width, 1);
        let weight = common::random(ops, DType::F32, experts * width, 2);
        let mut logits = common::random(ops, DType::F32, tokens * experts, 3);
        let bytes = (2 * tokens * width + 4 * experts * (tokens + width)) as u64;
        common::bench(&mut group, ops, format!("{tokens}x{width}x{experts}"), bytes, |ops| {
            ops.router_logits(RouterLogitsParams {
                logits: logits.tensor_mut(&[tokens, experts]),
                x: x.tensor(&[tokens, width]),
                weight: weight.tensor(&[experts, width]),
                noise: None,
            })
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("topk_gating/f32");
    for (tokens, _, experts, k) in shapes {
        let logits = common::random(ops, DType::F32, tokens * experts, 4);
        let mut ids = common::integers(ops, tokens * k, experts, 5);
        let mut weights = common::random(ops, DType::F32, tokens * k, 6);
        let len = TopkGatingParams::scratch_len(experts);
        let mut scratch = common::random(ops, DType::F32, len, 7);
        let bytes = (4 * tokens * (experts + 2 * k)) as u64;
        common::bench(&mut group, ops, format!("{tokens}x{experts}x{k}"), bytes, |ops| {
            ops.topk_gating(TopkGatingParams {
                logits: logits.tensor(&[tokens, experts]),
                selection_bias: None,
                forced_ids: None,
                spec: GatingSpec::NANO_MOE,
                expert_ids: ids.tensor_mut(&[tokens, k]),
                expert_weights: weights.tensor_mut(&[tokens, k]),
                counts: None,
                losses: None,
                scratch: scratch.tensor_mut(&[len]),
            })
        });
    }
    group.finish();
}
