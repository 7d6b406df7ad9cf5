//! What can run operations on this machine.

use std::sync::{Arc, OnceLock};

use libtest_mimic::{Failed, Trial};
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;

/// One provider of operations.
#[derive(Clone, Copy, Debug)]
pub struct Executor {
    /// `cpu`, `virtual` or `cuda`.
    pub name: &'static str,
    open: fn() -> nanomoe::Result<Box<dyn Operations>>,
}

impl Executor {
    /// Opens it, once for each trial, so that a finding belongs to one trial.
    pub fn open(&self) -> Box<dyn Operations> {
        (self.open)().expect("it opened when the trials were listed")
    }

    /// Why it cannot run `dtype` here, if so.
    pub fn absent(&self, dtype: DType) -> Option<String> {
        if self.name == "cpu" && matches!(dtype, DType::BF16 | DType::F16) {
            return Some("the cpu computes in f32".to_owned());
        }
        static REASONS: OnceLock<Vec<(&'static str, Option<String>)>> = OnceLock::new();
        let reasons = REASONS.get_or_init(|| {
            executors()
                .iter()
                .map(|e| (e.name, (e.open)().err().map(|error| short(&error.to_string()))))
                .collect()
        });
        reasons.iter().find(|(name, _)| *name == self.name).and_then(|(_, reason)| reason.clone())
    }
}

/// The reason without its advice: it stands beside every ignored trial.
fn short(reason: &str) -> String {
    reason.split([':', ';', '(']).next().unwrap_or(reason).trim().to_owned()
}

/// Every executor there is, at hand or not.
pub fn executors() -> &'static [Executor] {
    &[
        Executor { name: "cpu", open: || Ok(Box::new(nanomoe::cpu::CpuOperations::new())) },
        Executor {
            name: "virtual",
            open: || Ok(Box::new(nanomoe::kernels::DeviceOperations::open_virtual()?)),
        },
        Executor { name: "cuda", open: || Ok(Box::new(nanomoe::kernels::DeviceOperations::open_cuda(0)?)) },
    ]
}

/// A trial `operation::dtype::shape::executor`: ignored, with the reason, where the executor is absent. The executor
/// is synchronised after `run`, so what it found wrong fails the trial.
pub fn trial(
    operation: &str,
    dtype: DType,
    shape: impl std::fmt::Display,
    executor: Executor,
    run: impl FnOnce(&dyn Operations) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let name = format!("{operation}::{dtype}::{shape}::{}", executor.name);
    match executor.absent(dtype) {
        Some(reason) => Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true),
        None => Trial::test(name, move || {
            let ops = executor.open();
            run(ops.as_ref())?;
            ops.synchronize().map_err(|error| error.to_string().into())
        }),
    }
}

/// A device's operations with these numerics, for calling launchers directly.
pub fn device_operations(executor: Executor, numerics: Numerics) -> nanomoe::Result<DeviceOperations> {
    match executor.name {
        "virtual" => DeviceOperations::with_numerics(Arc::new(VirtualDevice::new()), numerics),
        _ => DeviceOperations::with_numerics(Arc::new(CudaDevice::new(0)?), numerics),
    }
}

/// A [`trial`] of the Hopper kernels themselves: ignored where the device is none.
pub fn hopper_trial(
    operation: &str,
    dtype: DType,
    shape: impl std::fmt::Display,
    executor: Executor,
    run: impl FnOnce(&dyn Operations) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    static HAS_SM90A: OnceLock<bool> = OnceLock::new();
    let is_present =
        || device_operations(executor, Numerics::Fast).is_ok_and(|ops| ops.kernels().has_sm90a());
    if executor.name == "cuda" && executor.absent(dtype).is_none() && !*HAS_SM90A.get_or_init(is_present) {
        let name = format!("{operation}::{dtype}::{shape}::{}", executor.name);
        let reason = "the device is no Hopper".to_owned();
        return Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true);
    }
    trial(operation, dtype, shape, executor, run)
}
