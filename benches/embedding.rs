//! Rows of two tables, added.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{EmbeddingParams, Operations};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let vocab_size = 50257;
    for dtype in [DType::F32, DType::BF16] {
        let mut group = criterion.benchmark_group(format!("embedding/{dtype}"));
        for (batch, seq, width) in [(1, 1024, 768), (16, 1024, 768)] {
            let ids = common::integers(ops, batch * seq, vocab_size, 1);
            let tokens = common::random(ops, dtype, vocab_size * width, 2);
            let positions = common::random(ops, dtype, seq * width, 3);
            let mut out = common::random(ops, dtype, batch * seq * width, 4);
            let bytes = ((2 * batch + 1) * seq * width * dtype.size()) as u64;
            common::bench(&mut group, ops, format!("{batch}x{seq}x{width}"), bytes, |ops| {
                ops.embedding(EmbeddingParams {
                    out: out.tensor_mut(&[batch, seq, width]),
                    token_ids: ids.tensor(&[batch, seq]),
                    token_table: tokens.tensor(&[vocab_size, width]),
                    position_table: positions.tensor(&[seq, width]),
                    first_positions: None,
                    first_position: 0,
                })
            });
        }
        group.finish();
    }
}
