//! The best id of each row over GPT-2's vocabulary, logits never written.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{LmHeadParams, Operations};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let (vocab_size, width) = (50304, 768);
    let weight = common::random(ops, DType::BF16, vocab_size * width, 1);
    let mut group = criterion.benchmark_group("lm_head/bf16");
    for rows in [1, 64, 1024] {
        let x = common::random(ops, DType::BF16, rows * width, 2);
        let mut argmax = common::integers(ops, rows, vocab_size, 3);
        let len = LmHeadParams::scratch_len(rows, vocab_size);
        let mut scratch = common::random(ops, DType::F32, len, 4);
        let bytes = (2 * width * (rows + vocab_size) + 4 * rows) as u64;
        common::bench(&mut group, ops, format!("{rows}x{vocab_size}x{width}"), bytes, |ops| {
            ops.lm_head(LmHeadParams {
                x: x.tensor(&[rows, width]),
                rows: None,
                weight: weight.tensor(&[vocab_size, width]),
                bias: None,
                logits: None,
                argmax: Some(argmax.tensor_mut(&[rows])),
                allowed_vocab: vocab_size,
                cross_entropy: None,
                scratch: scratch.tensor_mut(&[len]),
            })
        });
    }
    group.finish();
}
