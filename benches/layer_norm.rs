//! Layer norm, by the bytes it must move.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{LayerNormParams, Operations};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    for dtype in [DType::F32, DType::BF16] {
        let mut group = criterion.benchmark_group(format!("layer_norm/{dtype}"));
        for (num_tokens, hidden_size) in [(1024, 768), (16384, 768), (16384, 4096)] {
            let len = num_tokens * hidden_size;
            let x = common::random(ops, dtype, len, 1);
            let mut out = common::random(ops, dtype, len, 2);
            let gamma = common::random(ops, DType::F32, hidden_size, 3);
            let bytes = (2 * len * dtype.size() + 4 * hidden_size) as u64;
            common::bench(&mut group, ops, format!("{num_tokens}x{hidden_size}"), bytes, |ops| {
                ops.layer_norm(LayerNormParams {
                    out: out.tensor_mut(&[num_tokens, hidden_size]),
                    x: x.tensor(&[num_tokens, hidden_size]),
                    residual: None,
                    gamma: gamma.tensor(&[hidden_size]),
                    beta: None,
                    eps: 1e-5,
                })
            });
        }
        group.finish();
    }
}
