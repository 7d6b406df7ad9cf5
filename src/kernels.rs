//! Launchers of the CUDA kernels: one module an operation, with the stem of its kernel file.
//!
//! The core of each is `unsafe fn op(&Kernels, &OpParams, RawStream) -> Result<()>` on raw device pointers, shapes and
//! strides. It checks what can be seen from the arguments, launches, allocates nothing, never synchronises, and can be
//! captured in a graph once the kernels are loaded ([`Kernels::load_all`]).

mod attention;
pub mod budget;
pub mod compiled;
mod embedding;
mod gemm;
mod layer_norm;
mod lm_head;
mod mlp;
mod moe_combine;
mod moe_dispatch;
mod moe_gemm;
mod qkv;
mod rows;
mod sampling;
mod sm90a;
mod topk_gating;
pub mod traffic;

pub use attention::attention;
pub use embedding::embedding;
pub use gemm::{GemmTile, gemm, gemm_with_tile};
pub use layer_norm::layer_norm;
pub use lm_head::{lm_head, lm_head_with_wgmma};
pub use mlp::mlp;
pub use moe_combine::moe_combine;
pub use moe_dispatch::{moe_dispatch, route};
pub use moe_gemm::{moe_gemm, moe_gemm_with_tile};
pub use qkv::qkv;
pub use sampling::sampling;
pub use sm90a::WgmmaTile;
pub use sm90a::attention::attention_with_wgmma;
pub use sm90a::gemm::gemm_with_wgmma;
pub use sm90a::moe_gemm::moe_gemm_with_wgmma;
pub use topk_gating::{router_logits, topk_gating};

mod operations;

pub use operations::DeviceOperations;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::device::{Device, LaunchConfig, RawFunction, RawModule, RawStream};
use crate::error::{Error, Result};
pub use crate::operations::Numerics;
use compiled::{CompiledModule, Target};

/// Shared memory, static and dynamic together, that every kernel may use without being told.
const DEFAULT_SHARED_BYTES: u32 = 48 * 1024;

/// The compiled kernels on one device, loaded as they are first used.
#[derive(Debug)]
pub struct Kernels {
    device: Arc<dyn Device>,
    numerics: Numerics,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<(&'static str, Target), RawModule>,
    functions: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    raw: RawFunction,
    target: Target,
    max_dynamic_shared: u32,
}

impl Kernels {
    /// The kernels of this build on `device`.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`] when the crate was built without nvcc.
    pub fn new(device: Arc<dyn Device>) -> Result<Self> {
        Self::with_numerics(device, Numerics::default())
    }

    /// [`Kernels::new`] with a choice of numerics.
    ///
    /// # Errors
    /// As [`Kernels::new`].
    pub fn with_numerics(device: Arc<dyn Device>, numerics: Numerics) -> Result<Self> {
        compiled::modules()?;
        Ok(Kernels { device, numerics, loaded: Mutex::default() })
    }

    /// The device they run on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Whether this device runs the Hopper set.
    pub fn has_sm90a(&self) -> bool {
        self.device.properties().compute_capability == (9, 0)
    }

    /// What a row's bits may depend on.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// Whether launchers take the Hopper set where it fits.
    fn uses_sm90a(&self) -> bool {
        self.has_sm90a() && self.numerics == Numerics::Fast
    }

    /// Loads every kernel this device can run, so that no later launch loads code: call it before capturing a graph.
    pub fn load_all(&self) -> Result<()> {
        for module in compiled::modules()? {
            if module.target == Target::Sm90a && !self.has_sm90a() {
                continue;
            }
            for kernel in module.kernels {
                // Of a kernel compiled for both targets only the one that launches take
                if self.find(kernel.name)?.0.target == module.target {
                    self.function(kernel.name, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Launches `kernel` with `params`, its only argument, passed by value.
    ///
    /// # Safety
    /// `P` is the kernel's parameter struct, and every address in it is memory the kernel may use until it ends.
    pub(crate) unsafe fn launch<P: bytemuck::Pod>(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        params: &P,
        stream: RawStream,
    ) -> Result<()> {
        // SAFETY: the caller vouches for the argument and its addresses.
        unsafe { self.launch_args(kernel, config, &[bytemuck::bytes_of(params)], stream) }
    }

    /// Launches `kernel` with the bytes of each of its parameters, in order. Every kernel of the Hopper set waits for
    /// the one ahead by itself, so it may start early.
    ///
    /// # Safety
    /// `args` are the kernel's parameters, and every address in them is memory the kernel may use until it ends.
    unsafe fn launch_args(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        args: &[&[u8]],
        stream: RawStream,
    ) -> Result<()> {
        let function = self.function(kernel, config.dynamic_shared_bytes)?;
        let programmatic_dependent = function.target == Target::Sm90a;
        let config = LaunchConfig { programmatic_dependent, ..*config };
        // SAFETY: the caller vouches for the arguments and their addresses.
        unsafe { self.device.launch(function.raw, &config, args, stream) }
    }

    /// The loaded kernel, allowed to use this much dynamic shared memory.
    fn function(&self, kernel: &str, dynamic_shared_bytes: u32) -> Result<Function> {
        let mut loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = loaded.functions.get_key_value(kernel).map(|(name, function)| (*name, *function));
        let (name, mut function) = match known {
            Some(found) => found,
            None => {
                let (module, name) = self.find(kernel)?;
                let raw_module = match loaded.modules.get(&(module.name, module.target)) {
                    Some(&raw) => raw,
                    None => {
                        let raw = self.device.load_module(module.name, module.image())?;
                        loaded.modules.insert((module.name, module.target), raw);
                        raw
                    }
                };
                let raw = self.device.function(raw_module, name)?;
                let compiled = module.kernels.iter().filter(|kernel| kernel.name == name);
                let static_shared = compiled.map(|kernel| kernel.shared_bytes).max().unwrap_or(0);
                let max_dynamic_shared = DEFAULT_SHARED_BYTES.saturating_sub(static_shared);
                (name, Function { raw, target: module.target, max_dynamic_shared })
            }
        };
        if dynamic_shared_bytes > function.max_dynamic_shared {
            self.device.set_max_dynamic_shared(function.raw, dynamic_shared_bytes)?;
            function.max_dynamic_shared = dynamic_shared_bytes;
        }
        loaded.functions.insert(name, function);
        Ok(function)
    }

    /// The module that holds `kernel`. A name stands once in a target: a Hopper takes the build for it, which every
    /// portable kernel has too, other GPUs the portable one.
    fn find(&self, kernel: &str) -> Result<(&'static CompiledModule, &'static str)> {
        let order = match self.has_sm90a() {
            true => [Target::Sm90a, Target::Portable],
            false => [Target::Portable, Target::Sm90a],
        };
        let modules = compiled::modules()?;
        let of = |target| modules.iter().filter(move |module| module.target == target);
        order
            .into_iter()
            .flat_map(of)
            .find_map(|module| module.kernels.iter().find(|k| k.name == kernel).map(|k| (module, k.name)))
            .ok_or_else(|| Error::KernelsNotBuilt(format!("there is no kernel `{kernel}` in it")))
    }
}
