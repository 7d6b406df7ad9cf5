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

use super::output::tell;
use super::{DeviceName, ModelArgs};

/// A model's files, looked at and not yet read: what is wrong with them or with the text is said before the work.
pub struct Source {
    /// The weights' file.
    pub checkpoint: Checkpoint,
    /// The folder; `None` for the model inside the program.
    dir: Option<PathBuf>,
}

/// A model, ready to run.
pub struct Session {
    /// What runs it.
    pub ops: Box<dyn Operations>,
    /// The model, uploaded.
    pub model: Model,
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

impl Source {
    /// The model `args` names; where it names none, the one inside the program, or the one in this repository.
    pub fn open(args: &ModelArgs) -> Result<Self> {
        if let Some(dir) = &args.model {
            return Self::in_folder(dir);
        }
        let none_inside = match Checkpoint::embedded() {
            Ok(checkpoint) => return Ok(Source { checkpoint, dir: None }),
            Err(error) => error,
        };
        let home = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/model"));
        for dir in [home, Path::new("model")] {
            if dir.join("model.safetensors").is_file() {
                return Self::in_folder(dir);
            }
        }
        let home = home.display();
        Err(Error::Usage(format!(
            "no default model in {home} nor in ./model: name one with --model ({none_inside})"
        )))
    }

    fn in_folder(dir: &Path) -> Result<Self> {
        Ok(Source { checkpoint: Checkpoint::open(dir)?, dir: Some(dir.to_owned()) })
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.dir.as_ref().map_or("inside this program".to_owned(), |dir| dir.display().to_string())
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.dir {
            Some(dir) => Tokenizer::for_model(dir, self.checkpoint.config().vocab_size),
            None => Tokenizer::embedded(),
        }
    }

    /// Loads the model on the device `args` names.
    pub fn load(&self, args: &ModelArgs, defaults: Defaults) -> Result<Session> {
        let (device, ops) = open_device(args.device)?;
        let dtype = dtype(args, device, defaults.device_dtype)?;
        if args.check_weights {
            self.checkpoint.check_finite(dtype)?;
        }
        let model = Model::load(ops.as_ref(), &self.checkpoint, dtype)?;
        Ok(Session { ops, model, moe: args.moe.map_or(defaults.moe, MoeMode::from) })
    }
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
                tell(format_args!("running on {}", ops.name()));
                Ok((DeviceName::Cuda, ops))
            }
            Err(error) => {
                let ops = CpuOperations::new();
                let name = ops.name();
                tell(format_args!("running on {name}, since no GPU can be used: {}", reason(&error)));
                Ok((DeviceName::Cpu, Box::new(ops)))
            }
        },
    }
}

/// An error without the advice that follows it.
fn reason(error: &Error) -> String {
    match error {
        Error::NoDriver(why) => why.clone(),
        other => other.to_string(),
    }
}
