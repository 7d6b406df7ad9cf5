//! Causal attention of GPT-2's heads.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{AttentionParams, Operations};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let mut group = criterion.benchmark_group("attention/bf16");
    for (batch, seq, heads, head_dim) in [(1, 1024, 12, 64), (16, 1024, 12, 64), (4, 4096, 16, 128)] {
        let len = batch * seq * heads * head_dim;
        let shape = [batch, seq, heads, head_dim];
        let (q, k, v) = (
            common::random(ops, DType::BF16, len, 1),
            common::random(ops, DType::BF16, len, 2),
            common::random(ops, DType::BF16, len, 3),
        );
        let mut out = common::random(ops, DType::BF16, len, 4);
        let name = format!("{batch}x{seq}x{heads}x{head_dim}");
        common::bench(&mut group, ops, name, (8 * len) as u64, |ops| {
            ops.attention(AttentionParams {
                out: out.tensor_mut(&shape),
                q: q.tensor(&shape),
                k: k.tensor(&shape),
                v: v.tensor(&shape),
                kv_len: seq,
                kv_lengths: None,
                block_table: None,
                softmax_scale: 1.0 / (head_dim as f32).sqrt(),
                split: None,
            })
        });
    }
    group.finish();
}
