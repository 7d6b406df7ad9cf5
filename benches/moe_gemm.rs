//! The first grouped product of a layer of experts, its rows gathered.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{Activation, MoeGemmParams, Operations};
use nanomoe::tensor::DType;

use crate::common;
use crate::common::routing::Routing;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let mut group = criterion.benchmark_group("moe_gemm/bf16");
    for (tokens, width, inner, experts, k) in
        [(1, 384, 1536, 8, 2), (12288, 384, 1536, 8, 2), (4096, 4096, 1024, 8, 2)]
    {
        let mut routing = Routing::new(ops, tokens, experts, k);
        ops.moe_dispatch(routing.params()).expect("dispatch");
        let rows = tokens * k;
        let x = common::random(ops, DType::BF16, tokens * width, 1);
        let weight = common::random(ops, DType::BF16, experts * inner * width, 2);
        let mut out = common::random(ops, DType::BF16, rows * inner, 3);
        let bytes = (2 * (tokens * width + experts.min(rows) * inner * width + rows * inner)) as u64;
        common::bench(&mut group, ops, format!("{tokens}x{width}x{inner}x{experts}x{k}"), bytes, |ops| {
            ops.moe_gemm(MoeGemmParams {
                out: out.tensor_mut(&[rows, inner]),
                a: x.tensor(&[tokens, width]),
                row_index: Some(routing.row_tokens.tensor(&[rows])),
                b: weight.tensor(&[experts, inner, width]),
                bias: None,
                expert_offsets: routing.offsets.tensor(&[experts + 1]),
                activation: Activation::GeluErf,
            })
        });
    }
    group.finish();
}
