//! The whole forward pass of the model in `model/`: a prompt as one recorded graph, and one token more in a cache.

use std::path::Path;

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::model::{Forward, Input, LogitRows, Model, SessionOptions};
use nanomoe::tensor::DType;
use nanomoe::weights::Checkpoint;

use crate::common;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let checkpoint = match Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("model")) {
        Ok(checkpoint) => checkpoint,
        Err(reason) => {
            eprintln!("forward is not measured: {reason}");
            return;
        }
    };
    let model = Model::load(ops, &checkpoint, DType::BF16).expect("upload");
    let (seq, vocab_size) = (model.config().block_size, model.config().vocab_size);
    let bytes = 2 * checkpoint.num_parameters();
    let request = Forward { argmax: LogitRows::Last, ..Forward::default() };
    let ids: Vec<u32> = (0..seq).map(|t| (t * 7919 % vocab_size) as u32).collect();
    let mut group = criterion.benchmark_group("forward/bf16");

    let workspace = model.workspace(ops, seq).expect("device memory");
    let mut recorded = model.record(ops, workspace, 1, seq, request).expect("record");
    common::bench(&mut group, ops, format!("prefill-{seq}"), bytes, |_| recorded.run(&ids, None).map(drop));

    let mut session = model.session(ops, SessionOptions::new(1, seq)).expect("device memory");
    let sequence = session.start().expect("room for one");
    session.prefill(sequence, Input::Ids(&ids[..seq - 1]), &Forward::default()).expect("prefill");
    common::bench(&mut group, ops, format!("decode-{seq}"), bytes, |_| {
        session.decode(&[(sequence, ids[seq - 1])], &request)?;
        session.truncate(sequence, seq - 1)
    });
    group.finish();
}
