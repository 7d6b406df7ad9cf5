//! A recorded forward pass gives the bits of one that is not, and asks the device for one launch.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::Error;
use nanomoe::device::Device;
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::DeviceOperations;
use nanomoe::model::{Forward, ForwardOutput, LogitRows, Model, MoeMode, Targets};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use nanomoe::weights::Checkpoint;
use virtual_gpu::{Description, Options};

use crate::common::{Calls, CountingDevice, Executor, executors, golden, trial};

const SHAPE: [usize; 2] = [2, 9];

/// Ids that differ with `salt`.
fn ids(vocab_size: usize, salt: usize) -> Vec<u32> {
    (0..SHAPE[0] * SHAPE[1]).map(|i| ((i * 7 + salt * 13) % vocab_size) as u32).collect()
}

fn targets(vocab_size: usize, salt: usize) -> Vec<i64> {
    ids(vocab_size, salt + 1)
        .iter()
        .enumerate()
        .map(|(i, &id)| if i % 5 == 0 { -1 } else { id.into() })
        .collect()
}

/// All that a recorded pass hands out, of rows of their own.
fn request<'a>(moe: MoeMode, targets: &'a [i64]) -> Forward<'a> {
    Forward {
        moe,
        logits: LogitRows::Chosen(&[3, 0, 17]),
        argmax: LogitRows::Last,
        targets: Some(Targets { ids: targets, ignore_index: -1 }),
        ..Forward::default()
    }
}

fn same_bits(run: usize, expected: &ForwardOutput, got: &ForwardOutput) -> Result<(), Failed> {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let same = bits(&expected.logits) == bits(&got.logits)
        && expected.argmax == got.argmax
        && bits(&expected.token_losses) == bits(&got.token_losses)
        && expected.loss_with_auxiliary == got.loss_with_auxiliary;
    if same { Ok(()) } else { Err(format!("run {run}: {expected:?}\nrecorded: {got:?}").into()) }
}

fn run_recorded(ops: &dyn Operations, name: &str, dtype: DType, moe: MoeMode) -> Result<(), Failed> {
    let model = Model::load(ops, &Checkpoint::open(&golden(name))?, dtype)?;
    let vocab_size = model.config().vocab_size;
    let [batch_size, seq_len] = SHAPE;
    let mut plain = model.workspace(ops, batch_size * seq_len)?;
    let first = targets(vocab_size, 0);
    let workspace = model.workspace(ops, batch_size * seq_len)?;
    let mut recorded = model.record(ops, workspace, batch_size, seq_len, request(moe, &first))?;
    for run in 0..3 {
        let (ids, targets) = (ids(vocab_size, run), targets(vocab_size, run));
        let expected = model.forward(ops, &mut plain, batch_size, &ids, &request(moe, &targets))?;
        same_bits(run, &expected, &recorded.run(&ids, Some(&targets))?)?;
    }
    let refused = [
        recorded.run(&ids(vocab_size, 0)[1..], Some(&first)),
        recorded.run(&ids(vocab_size, 0), None),
        recorded.run(&[vocab_size as u32; 18], Some(&first)),
    ];
    for refused in refused {
        if !matches!(refused, Err(Error::Input(_))) {
            return Err(format!("expected a refusal, got {refused:?}").into());
        }
    }
    Ok(())
}

/// What a run asks the device for: copies in and out, and one graph.
fn run_calls(executor: Executor) -> Result<(), Failed> {
    let inner: Arc<dyn Device> = match executor.name {
        "virtual" => Arc::new(VirtualDevice::new()),
        "ampere" => Arc::new(VirtualDevice::with(Description::a100(), Options::default())),
        _ => Arc::new(CudaDevice::new(0)?),
    };
    let device = Arc::new(CountingDevice::new(inner));
    let ops = DeviceOperations::new(device.clone())?;
    let model = Model::load(&ops, &Checkpoint::open(&golden("nanomoe-capacity"))?, DType::BF16)?;
    let vocab_size = model.config().vocab_size;
    let workspace = model.workspace(&ops, 18)?;
    let request = Forward { argmax: LogitRows::Last, ..Forward::default() };
    let mut recorded = model.record(&ops, workspace, SHAPE[0], SHAPE[1], request)?;
    device.take();
    recorded.run(&ids(vocab_size, 1), None)?;
    // The ids and the rows of the head go in, the best ids come out.
    let expected = Calls { uploads: 2, downloads: 1, graph_launches: 1, ..Calls::default() };
    let got = device.take();
    if got == expected { Ok(()) } else { Err(format!("{got:?}, expected {expected:?}").into()) }
}

fn run_cpu(ops: &dyn Operations) -> Result<(), Failed> {
    let model = Model::load(ops, &Checkpoint::open(&golden("nanomoe-dense"))?, DType::F32)?;
    let workspace = model.workspace(ops, 18)?;
    match model.record(ops, workspace, SHAPE[0], SHAPE[1], Forward::default()) {
        Err(Error::Usage(message)) if message.contains("records no graphs") => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for &executor in executors() {
        if executor.name == "cpu" {
            trials.push(trial("recorded", DType::F32, "refused", executor, run_cpu));
            continue;
        }
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for (name, moe) in [
                ("gpt2", MoeMode::Dropless),
                ("nanomoe-capacity", MoeMode::Capacity),
                ("nanomoe-bias-top1", MoeMode::Dropless),
            ] {
                let run = move |ops: &dyn Operations| run_recorded(ops, name, dtype, moe);
                trials.push(trial("recorded", dtype, name, executor, run));
            }
        }
        trials.push(trial("recorded", DType::BF16, "calls", executor, move |_| run_calls(executor)));
    }
    trials
}
