//! From options to a loaded model on a device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nanomoe::cpu::CpuOperations;
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::DeviceOperations;
use nanomoe::model::{Model, MoeMode};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use nanomoe::tokenizer::Tokenizer;
use nanomoe::weights::Checkpoint;
use nanomoe::{Error, Result};

use super::{DeviceName, ModelArgs};

/// A model, ready to run.
pub struct Session {
    /// What runs it.
    pub ops: Box<dyn Operations>,
    /// The model, uploaded.
    pub model: Model,
    /// Its folder.
    pub dir: PathBuf,
    /// Capacity or dropless.
    pub moe: MoeMode,
}

/// What a command takes where nothing is said.
#[derive(Clone, Copy)]
pub struct Defaults {
    /// The type on a device; the cpu always computes in f32.
    pub device_dtype: DType,
    /// Capacity or dropless.
    pub moe: MoeMode,
}

impl Session {
    /// Opens the model `args` names on the device it names.
    pub fn open(args: &ModelArgs, defaults: Defaults) -> Result<Self> {
        let dir = model_dir(args)?;
        let checkpoint = Checkpoint::open(&dir)?;
        let (device, ops) = open_device(args.device)?;
        let dtype = dtype(args, device, defaults.device_dtype)?;
        if args.check_weights {
            checkpoint.check_finite(dtype)?;
        }
        let model = Model::load(ops.as_ref(), &checkpoint, dtype)?;
        let moe = args.moe.map_or(defaults.moe, MoeMode::from);
        Ok(Session { ops, model, dir, moe })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::for_model(&self.dir, self.model.config().vocab_size)
    }
}

/// The folder of the model: the one named, else the one in this repository.
pub fn model_dir(args: &ModelArgs) -> Result<PathBuf> {
    if let Some(dir) = &args.model {
        return Ok(dir.clone());
    }
    let here = Path::new("model");
    let home = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/model"));
    for dir in [home, here] {
        if dir.join("model.safetensors").is_file() {
            return Ok(dir.to_owned());
        }
    }
    Err(Error::Usage(format!("no default model in {} nor in ./model: name one with --model", home.display())))
}

/// The type a model is loaded in on `device`.
pub fn dtype(args: &ModelArgs, device: DeviceName, default: DType) -> Result<DType> {
    match (device, args.dtype.map(DType::from)) {
        (DeviceName::Cpu, Some(dtype)) if dtype != DType::F32 => {
            Err(Error::Usage(format!("--device cpu computes in f32, not in {dtype}")))
        }
        (DeviceName::Cpu, _) => Ok(DType::F32),
        (_, Some(dtype)) => Ok(dtype),
        (_, None) => Ok(default),
    }
}

/// Opens the device named; where none is, a GPU if one answers, else the CPU, which is said on standard error.
pub fn open_device(name: Option<DeviceName>) -> Result<(DeviceName, Box<dyn Operations>)> {
    let cuda = || -> Result<Box<dyn Operations>> {
        Ok(Box::new(DeviceOperations::new(Arc::new(CudaDevice::new(0)?))?))
    };
    match name {
        Some(DeviceName::Cuda) => Ok((DeviceName::Cuda, cuda()?)),
        Some(DeviceName::Virtual) => {
            Ok((DeviceName::Virtual, Box::new(DeviceOperations::new(Arc::new(VirtualDevice::new()))?)))
        }
        Some(DeviceName::Cpu) => Ok((DeviceName::Cpu, Box::new(CpuOperations::new()))),
        None => match cuda() {
            Ok(ops) => {
                eprintln!("running on {}", ops.name());
                Ok((DeviceName::Cuda, ops))
            }
            Err(error) => {
                let ops = CpuOperations::new();
                eprintln!("running on {}, since no GPU can be used: {}", ops.name(), reason(&error));
                Ok((DeviceName::Cpu, Box::new(ops)))
            }
        },
    }
}

/// An error without the advice that follows it.
fn reason(error: &Error) -> String {
    match error {
        Error::NoDriver(_) => "no NVIDIA driver".to_owned(),
        other => other.to_string(),
    }
}
