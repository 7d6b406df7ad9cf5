//! GPT-2's MLP: two products with GELU between them.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{Activation, MlpParams, Operations, Residual};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let (width, inner) = (768, 3072);
    let mut group = criterion.benchmark_group("mlp/bf16");
    for tokens in [1, 1024, 16384] {
        let x = common::random(ops, DType::BF16, tokens * width, 1);
        let (fc, proj) = (
            common::random(ops, DType::BF16, inner * width, 2),
            common::random(ops, DType::BF16, inner * width, 3),
        );
        let mut hidden = common::random(ops, DType::BF16, tokens * inner, 4);
        let mut out = common::random(ops, DType::BF16, tokens * width, 5);
        let bytes = (2 * (2 * tokens * width + 2 * inner * width)) as u64;
        common::bench(&mut group, ops, format!("{tokens}x{width}x{inner}"), bytes, |ops| {
            ops.mlp(MlpParams {
                out: out.tensor_mut(&[tokens, width]),
                x: x.tensor(&[tokens, width]),
                hidden: hidden.tensor_mut(&[tokens, inner]),
                fc: fc.tensor(&[inner, width]),
                fc_bias: None,
                proj: proj.tensor(&[width, inner]),
                proj_bias: None,
                activation: Activation::GeluTanh,
                residual: Residual::None,
            })
        });
    }
    group.finish();
}
