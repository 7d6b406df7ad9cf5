//! Drawing ids from logits over GPT-2's vocabulary.

use criterion::Criterion;
use nanomoe::generate::Sampling;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{Operations, SamplingParams, SamplingSettings};
use nanomoe::tensor::DType;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let vocab_size = 50257;
    let rules = [
        ("argmax", Sampling { temperature: 0.0, ..Sampling::default() }),
        ("all", Sampling { top_k: None, ..Sampling::default() }),
        ("top_k", Sampling::default()),
        ("top_p", Sampling { top_k: None, top_p: Some(0.9), ..Sampling::default() }),
    ];
    for (name, rule) in rules {
        let mut group = criterion.benchmark_group(format!("sampling/{name}"));
        for rows in [1, 8, 64, 128] {
            let logits = common::random(ops, DType::F32, rows * vocab_size, 1);
            let words: Vec<SamplingSettings> = (0..rows as u32).map(|row| rule.settings(row)).collect();
            let len = rows * SamplingSettings::WORDS;
            let mut settings = common::integers(ops, len, 1, 2);
            ops.upload(settings.tensor_mut(&[len]), bytemuck::cast_slice(&words)).expect("upload");
            let positions = common::integers(ops, rows, 1024, 3);
            let mut ids = common::integers(ops, rows, 1, 4);
            let bytes = (4 * rows * (vocab_size + SamplingSettings::WORDS + 2)) as u64;
            common::bench(&mut group, ops, format!("{rows}x{vocab_size}"), bytes, |ops| {
                ops.sampling(SamplingParams {
                    logits: logits.tensor(&[rows, vocab_size]),
                    allowed: None,
                    seen: None,
                    settings: settings.tensor(&[rows, SamplingSettings::WORDS]),
                    positions: positions.tensor(&[rows]),
                    ids: ids.tensor_mut(&[rows]),
                    logprobs: None,
                })
            });
        }
        group.finish();
    }
}
