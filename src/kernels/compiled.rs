//! What build.rs compiled: machine code, PTX and resources of every kernel.

use crate::device::{Deflated, ModuleImage};
use crate::error::{Error, Result};

/// Which devices a kernel file was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Compute capability 8.0 and newer.
    Portable,
    /// Compute capability 9.0 only: wgmma and TMA, or portable kernels again with programmatic dependent launch.
    Sm90a,
}

/// One kernel file, compiled. Code is deflated.
#[derive(Debug)]
pub struct CompiledModule {
    /// The file's stem.
    pub name: &'static str,
    /// What it was compiled for.
    pub target: Target,
    fatbin: &'static [u8],
    ptx: &'static [u8],
    /// Every kernel in it, once a machine-code target.
    pub kernels: &'static [CompiledKernel],
    /// Warnings C75xx: wgmma serialised or setmaxnreg ignored.
    pub warnings: &'static [&'static str],
}

/// Resources of one kernel on one machine-code target, as ptxas reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledKernel {
    /// Its `extern "C"` name.
    pub name: &'static str,
    /// As `sm_90`.
    pub arch: &'static str,
    /// Registers a thread.
    pub registers: u32,
    /// Static shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Stack of a thread in bytes.
    pub stack_bytes: u32,
    /// Bytes of registers spilled to local memory.
    pub spill_store_bytes: u32,
    /// Bytes of spilled registers read back.
    pub spill_load_bytes: u32,
    /// Instructions of its machine code; `None` where the compiler left no cubin to count them in.
    pub opcodes: Option<Opcodes>,
}

/// How often a kernel's machine code holds some instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcodes {
    /// Matrix products of a warpgroup.
    pub hgmma: u32,
    /// Loads by the copy engine.
    pub utmaldg: u32,
    /// Stores by the copy engine.
    pub utmastg: u32,
    /// Waits for the kernels ahead: griddepcontrol.wait.
    pub acqbulk: u32,
    /// Leaves for the next kernel to start: griddepcontrol.launch_dependents.
    pub preexit: u32,
    /// Registers handed from warps that load to warps that multiply.
    pub usetmaxreg: u32,
    /// Loads and stores of local memory: LDL, STL.
    pub local: u32,
}

include!(concat!(env!("OUT_DIR"), "/compiled_kernels.rs"));

impl CompiledModule {
    /// Its code, as a device takes it.
    pub fn image(&self) -> ModuleImage<'static> {
        ModuleImage { fatbin: Deflated(self.fatbin), ptx: Deflated(self.ptx), kernels: self.kernels }
    }
}

/// Every module in this build.
///
/// # Errors
/// [`Error::KernelsNotBuilt`] when the crate was built without nvcc.
pub fn modules() -> Result<&'static [CompiledModule]> {
    match COMPILER {
        Ok(_) => Ok(MODULES),
        Err(reason) => Err(Error::KernelsNotBuilt(reason.to_owned())),
    }
}

/// Version of the compiler that built the kernels, as `13.0`.
///
/// # Errors
/// [`Error::KernelsNotBuilt`] when the crate was built without nvcc.
pub fn compiler_version() -> Result<&'static str> {
    COMPILER.map_err(|reason| Error::KernelsNotBuilt(reason.to_owned()))
}
