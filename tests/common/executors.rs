//! What can run operations on this machine.

use std::sync::OnceLock;

use libtest_mimic::{Failed, Trial};
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
