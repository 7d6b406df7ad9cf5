//! What can run operations on this machine.

use std::sync::{Arc, OnceLock};

use libtest_mimic::{Failed, Trial};
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use virtual_gpu::{Description, Options, Order};

/// One provider of operations.
#[derive(Clone, Copy, Debug)]
pub struct Executor {
    /// `cpu`, `virtual`, `ampere` or `cuda`; with the order behind it where that is not the eager one.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Cpu,
    /// A virtual GPU of this description, and the order of what nothing orders.
    Virtual(fn() -> Description, Order),
    Cuda,
}

impl Executor {
    /// The virtual Hopper GPU.
    pub const fn hopper(name: &'static str, order: Order) -> Self {
        Executor { name, kind: Kind::Virtual(Description::h200, order) }
    }

    /// A virtual Ampere GPU, where launchers can choose none but the portable kernels.
    pub const fn ampere(name: &'static str, order: Order) -> Self {
        Executor { name, kind: Kind::Virtual(Description::a100, order) }
    }

    /// Opens it, once for each trial, so that a finding belongs to one trial.
    pub fn open(&self) -> Box<dyn Operations> {
        self.try_open().expect("it opened when the trials were listed")
    }

    fn try_open(&self) -> nanomoe::Result<Box<dyn Operations>> {
        Ok(match self.kind {
            Kind::Cpu => Box::new(nanomoe::cpu::CpuOperations::new()),
            _ => Box::new(device_operations(*self, Numerics::default())?),
        })
    }

    /// Whether it computes on the CPU, without kernels.
    pub fn is_cpu(&self) -> bool {
        matches!(self.kind, Kind::Cpu)
    }

    /// Whether it could run the Hopper kernels, were it here.
    pub fn may_be_hopper(&self) -> bool {
        match self.kind {
            Kind::Cpu => false,
            Kind::Virtual(description, _) => description().compute_capability == (9, 0),
            Kind::Cuda => true,
        }
    }

    /// Why it cannot run `dtype` here, if so.
    pub fn absent(&self, dtype: DType) -> Option<String> {
        if self.is_cpu() && matches!(dtype, DType::BF16 | DType::F16) {
            return Some("the cpu computes in f32".to_owned());
        }
        // Virtual GPUs are here or not whatever they are and whatever their order.
        static REASONS: [OnceLock<Option<String>>; 3] = [const { OnceLock::new() }; 3];
        let index = match self.kind {
            Kind::Cpu => 0,
            Kind::Virtual(..) => 1,
            Kind::Cuda => 2,
        };
        REASONS[index].get_or_init(|| self.try_open().err().map(|error| short(&error.to_string()))).clone()
    }

    /// Why it cannot run the Hopper kernels here, if so.
    fn absent_hopper(&self, dtype: DType) -> Option<String> {
        static HAS_SM90A: OnceLock<bool> = OnceLock::new();
        let is_hopper = || match self.kind {
            Kind::Cuda => *HAS_SM90A.get_or_init(|| {
                device_operations(*self, Numerics::Fast).is_ok_and(|ops| ops.kernels().has_sm90a())
            }),
            _ => self.may_be_hopper(),
        };
        self.absent(dtype).or_else(|| (!is_hopper()).then(|| "the device is no Hopper".to_owned()))
    }
}

/// The reason without its advice: it stands beside every ignored trial.
fn short(reason: &str) -> String {
    reason.split([':', ';', '(']).next().unwrap_or(reason).trim().to_owned()
}

/// Every executor there is, at hand or not.
pub fn executors() -> &'static [Executor] {
    const ALL: [Executor; 4] = [
        Executor { name: "cpu", kind: Kind::Cpu },
        Executor::hopper("virtual", Order::Eager),
        Executor::ampere("ampere", Order::Eager),
        Executor { name: "cuda", kind: Kind::Cuda },
    ];
    &ALL
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
    unless(executor.absent(dtype), name, move || {
        let ops = executor.open();
        run(ops.as_ref())?;
        ops.synchronize().map_err(|error| error.to_string().into())
    })
}

/// A trial that is ignored where there is a reason.
fn unless(
    reason: Option<String>,
    name: String,
    run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    match reason {
        Some(reason) => Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true),
        None => Trial::test(name, run),
    }
}

/// A device's operations with these numerics, for calling launchers directly.
pub fn device_operations(executor: Executor, numerics: Numerics) -> nanomoe::Result<DeviceOperations> {
    match executor.kind {
        Kind::Cpu => unreachable!("the cpu launches no kernels"),
        Kind::Virtual(description, order) => {
            let options = Options { order, ..Options::default() };
            DeviceOperations::with_numerics(Arc::new(VirtualDevice::with(description(), options)), numerics)
        }
        Kind::Cuda => DeviceOperations::with_numerics(Arc::new(CudaDevice::new(0)?), numerics),
    }
}

/// A [`trial`] of the Hopper kernels themselves: ignored where the device is none.
pub fn hopper_trial(
    operation: &str,
    dtype: DType,
    shape: impl std::fmt::Display,
    executor: Executor,
    run: impl FnOnce(&DeviceOperations) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let name = format!("{operation}::{dtype}::{shape}::{}", executor.name);
    unless(executor.absent_hopper(dtype), name, move || {
        let ops = device_operations(executor, Numerics::Fast)?;
        run(&ops)?;
        ops.synchronize().map_err(|error| error.to_string().into())
    })
}
