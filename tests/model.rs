//! The model on every executor against the golden folders, and against itself by other ways.

use libtest_mimic::{Failed, Trial};
use nanomoe::model::{Model, MoeMode};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use nanomoe::verify::verify;
use nanomoe::weights::Checkpoint;

use crate::common::{executors, golden_dirs, report, trial};

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for &executor in executors() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for (name, dir) in golden_dirs() {
                let run = move |ops: &dyn Operations| agrees_with_golden(ops, &dir, dtype);
                trials.push(trial("model", dtype, format!("golden_{name}"), executor, run));
            }
        }
    }
    trials
}

fn agrees_with_golden(ops: &dyn Operations, dir: &std::path::Path, dtype: DType) -> Result<(), Failed> {
    let model = Model::load(ops, &Checkpoint::open(dir)?, dtype)?;
    report(&verify(dir, ops, &model, MoeMode::Capacity)?)
}
