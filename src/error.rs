//! One error type for the whole crate. Every variant says what was wanted and what was got.

use std::borrow::Cow;
use std::path::PathBuf;

/// What can go wrong, from a wrong argument to a device that is out of memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A wrong argument or option: the program ends with exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The operating system refused to open, read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file that was read but is not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was wanted and what was found.
        message: String,
    },
    /// A tensor handed to an operation has the wrong shape, type, layout or place.
    #[error("{operation}: {message}")]
    Tensor {
        /// The operation that refused it.
        operation: &'static str,
        /// The tensor, what was wanted and what was got.
        message: String,
    },
    /// A model input that the model cannot take: ids outside the vocabulary, a sequence too long.
    #[error("{0}")]
    Input(String),
    /// A model configuration that contradicts itself or is not supported.
    #[error("model configuration: {0}")]
    Config(String),
    /// Text that cannot be turned into ids or back.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// No NVIDIA driver on this machine, or what goes by its name is none: says which.
    #[error("no NVIDIA driver can be used ({0}); use --device cpu or --device virtual")]
    NoDriver(String),
    /// A driver that finds no usable device.
    #[error("the NVIDIA driver answers, but gives no device: {0}")]
    NoDevice(String),
    /// The driver is older than the compiler that built the kernels.
    #[error(
        "the NVIDIA driver supports CUDA {driver}, the kernels were built by CUDA {built}: \
         install a driver of the R{needed_branch} line or newer"
    )]
    DriverTooOld {
        /// The driver's CUDA version, as `13.0`.
        driver: String,
        /// The compiler's CUDA version.
        built: String,
        /// The first driver branch that runs it.
        needed_branch: u32,
    },
    /// This build has no kernels: nvcc was not found when it was compiled.
    #[error("this build has no GPU kernels ({0}); build again with nvcc, or use --device cpu")]
    KernelsNotBuilt(String),
    /// This program has no model inside.
    #[error("no model is built into this program: {0}")]
    NoEmbeddedModel(String),
    /// The device cannot run any of the machine code or PTX in this build.
    #[error("no kernel of this build runs on {device} (compute capability {capability}); built for {built}")]
    NoCodeForDevice {
        /// The device's name.
        device: String,
        /// Its compute capability, as `7.5`.
        capability: String,
        /// The targets in this build.
        built: String,
    },
    /// Not enough memory of the device, which for the CPU is this process's.
    #[error("out of device memory: {wanted} bytes wanted, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes free on the device.
        free: u64,
        /// Bytes the device has.
        total: u64,
    },
    /// A driver call or a launch failed.
    #[error("{call}: {message}")]
    Device {
        /// The call, with the kernel's name where there is one.
        call: String,
        /// The driver's code and words, or the virtual GPU's finding.
        message: String,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::File`] naming `path`; names out of the file are made [`printable`].
    pub fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        let message = message.into();
        Error::File { path: path.into(), message: printable(&message).into_owned() }
    }

    /// A [`Error::Io`] naming `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// The program's exit code: 2 for usage, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// The text in one line and without power over a terminal: control characters are written out.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}
