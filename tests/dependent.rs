//! Programmatic dependent launch: on Hopper every kernel of a forward pass is launched before the one ahead has ended,
//! and waits itself.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::cpu::CpuOperations;
use nanomoe::device::Device;
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::generate::Sampling;
use nanomoe::kernels::{DeviceOperations, Numerics};
use nanomoe::model::{Forward, ForwardOutput, LogitRows, Model, MoeMode, Targets};
use nanomoe::operations::{Operations, SamplingParams, SamplingSettings};
use nanomoe::tensor::DType;
use nanomoe::weights::Checkpoint;
use virtual_gpu::{Description, Options, Order};

use crate::common::{
    CountingDevice, Executor, check_equal, download_i32, executors, golden, hopper_trial, random, upload,
    upload_i32,
};

/// A pass that launches every kind of kernel a forward pass has, the losses of the router among them.
fn forward(ops: &dyn Operations, model: &Model) -> Result<ForwardOutput, Failed> {
    let mut workspace = model.workspace(ops, 18)?;
    let ids: Vec<u32> = (0..18).map(|i| i * 7 % model.config().vocab_size as u32).collect();
    let targets: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let request = Forward {
        moe: MoeMode::Capacity,
        logits: LogitRows::Last,
        argmax: LogitRows::Last,
        targets: Some(Targets { ids: &targets, ignore_index: -1 }),
        ..Forward::default()
    };
    Ok(model.forward(ops, &mut workspace, 2, &ids, &request)?)
}

fn run_launches(executor: Executor, dtype: DType, numerics: Numerics) -> Result<(), Failed> {
    let inner: Arc<dyn Device> = match executor.name {
        "virtual" => Arc::new(VirtualDevice::new()),
        _ => Arc::new(CudaDevice::new(0)?),
    };
    let device = Arc::new(CountingDevice::new(inner));
    let ops = DeviceOperations::with_numerics(device.clone(), numerics)?;
    for name in ["gpt2", "nanomoe-capacity"] {
        let model = Model::load(&ops, &Checkpoint::open(&golden(name))?, dtype)?;
        device.take();
        forward(&ops, &model)?;
        let calls = device.take();
        if calls.launches == 0 || calls.dependent_launches != calls.launches {
            return Err(format!("{name}: {calls:?}, expected all launches dependent").into());
        }
    }
    Ok(())
}

/// However the kernels of a pass overlap, nothing races and the bits are the same.
fn run_orders(dtype: DType) -> Result<(), Failed> {
    let mut first = None;
    for order in [Order::Eager, Order::Lazy, Order::Random(1), Order::Random(2)] {
        let options = Options { order, ..Options::default() };
        let ops = DeviceOperations::new(Arc::new(VirtualDevice::with(Description::h200(), options)))?;
        let model = Model::load(&ops, &Checkpoint::open(&golden("nanomoe-capacity"))?, dtype)?;
        let output = forward(&ops, &model).map_err(|failed| format!("{order:?}: {failed:?}"))?;
        let bits: Vec<u32> =
            output.logits.iter().chain(&output.token_losses).map(|value| value.to_bits()).collect();
        if *first.get_or_insert_with(|| bits.clone()) != bits {
            return Err(format!("{order:?}: other bits than in the first order").into());
        }
    }
    Ok(())
}

/// Steps that draw one after the other, where each penalises what the ones before drew: the ids are those of the CPU.
fn run_sampling(order: Option<Order>) -> Result<Vec<i32>, Failed> {
    const STEPS: usize = 6;
    const VOCAB_SIZE: usize = 300;
    let ops: Box<dyn Operations> = match order {
        None => Box::new(CpuOperations::new()),
        Some(order) => {
            let options = Options { order, ..Options::default() };
            Box::new(DeviceOperations::new(Arc::new(VirtualDevice::with(Description::h200(), options)))?)
        }
    };
    let ops = ops.as_ref();
    let logits = upload(ops, DType::F32, &random(1, VOCAB_SIZE));
    let rule = Sampling { top_k: Some(9), repetition_penalty: 50.0, ..Sampling::default() };
    let settings = upload_i32(ops, bytemuck::cast_slice(&[rule.settings(0)]));
    let positions = upload_i32(ops, &(0..STEPS as i32).collect::<Vec<_>>());
    let num_words = VOCAB_SIZE.div_ceil(32);
    let mut seen = upload_i32(ops, &vec![0; num_words]);
    let mut ids = upload_i32(ops, &[-7; STEPS]);
    for step in 0..STEPS {
        ops.sampling(SamplingParams {
            logits: logits.tensor(&[1, VOCAB_SIZE]),
            allowed: None,
            seen: Some(seen.tensor_mut(&[1, num_words])),
            settings: settings.tensor(&[1, SamplingSettings::WORDS]),
            positions: positions.tensor(&[STEPS]).narrow(0, step, 1),
            ids: ids.tensor_mut(&[STEPS]).narrow(0, step, 1),
            logprobs: None,
        })?;
    }
    let ids = download_i32(ops, &ids);
    ops.synchronize()?;
    Ok(ids)
}

fn run_sampling_orders() -> Result<(), Failed> {
    let expected = run_sampling(None)?;
    for order in [Order::Eager, Order::Lazy, Order::Random(1), Order::Random(2)] {
        check_equal("ids", &[expected.len()], &run_sampling(Some(order))?, &expected)?;
    }
    Ok(())
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for &executor in executors().iter().filter(|executor| executor.name != "cpu") {
        for dtype in [DType::F32, DType::BF16] {
            for numerics in [Numerics::Fast, Numerics::BatchInvariant] {
                let shape = format!("launches-{numerics:?}");
                let run = move |_: &DeviceOperations| run_launches(executor, dtype, numerics);
                trials.push(hopper_trial("dependent", dtype, shape, executor, run));
            }
            if executor.name == "virtual" {
                let run = move |_: &DeviceOperations| run_orders(dtype);
                trials.push(hopper_trial("dependent", dtype, "orders", executor, run));
            }
        }
        if executor.name == "virtual" {
            let run = |_: &DeviceOperations| run_sampling_orders();
            trials.push(hopper_trial("dependent", DType::F32, "sampling-orders", executor, run));
        }
    }
    trials
}
