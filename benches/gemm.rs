//! Matrix products of GPT-2's and nanoMoE's shapes.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{Activation, GemmParams, Operations, Residual};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    for dtype in [DType::F32, DType::BF16] {
        let mut group = criterion.benchmark_group(format!("gemm/{dtype}"));
        for (m, n, k) in [(1, 3072, 768), (1024, 2304, 768), (16384, 3072, 768), (4096, 4096, 4096)] {
            let a = common::random(ops, dtype, m * k, 1);
            let b = common::random(ops, dtype, n * k, 2);
            let mut out = common::random(ops, dtype, m * n, 3);
            let bytes = ((m * k + n * k + m * n) * dtype.size()) as u64;
            common::bench(&mut group, ops, format!("{m}x{n}x{k}"), bytes, |ops| {
                ops.gemm(GemmParams {
                    out: out.tensor_mut(&[m, n]),
                    a: a.tensor(&[m, k]),
                    b: b.tensor(&[n, k]),
                    bias: None,
                    activation: Activation::Identity,
                    residual: Residual::None,
                })
            });
        }
        group.finish();
    }
}
