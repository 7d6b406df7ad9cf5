//! The weighted sum of each token's expert outputs.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{MoeCombineParams, Operations, Residual};
use nanomoe::tensor::DType;

use crate::common;
use crate::common::routing::Routing;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    for dtype in [DType::F32, DType::BF16] {
        let mut group = criterion.benchmark_group(format!("moe_combine/{dtype}"));
        for (tokens, width, experts, k) in [(12288, 384, 8, 2), (4096, 4096, 8, 2)] {
            let mut routing = Routing::new(ops, tokens, experts, k);
            ops.moe_dispatch(routing.params()).expect("dispatch");
            let rows = common::random(ops, dtype, tokens * k * width, 1);
            let weights = common::random(ops, DType::F32, tokens * k, 2);
            let mut out = common::random(ops, dtype, tokens * width, 3);
            let bytes = (tokens * width * (k + 1) * dtype.size() + 8 * tokens * k) as u64;
            common::bench(&mut group, ops, format!("{tokens}x{width}x{k}"), bytes, |ops| {
                ops.moe_combine(MoeCombineParams {
                    out: out.tensor_mut(&[tokens, width]),
                    expert_out: rows.tensor(&[tokens * k, width]),
                    slots: routing.slots.tensor(&[tokens, k]),
                    weights: weights.tensor(&[tokens, k]),
                    residual: Residual::None,
                })
            });
        }
        group.finish();
    }
}
