//! Modules, their kernels and what is known of these.

use super::{Gpu, lock};
use crate::decode::program::Program;
use crate::description::Description;
use crate::hash::Fast;
use crate::memory::{FUNCTION_WINDOW, OFFSET_MASK};
use crate::ptx::{self, LoadError, ast};
use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Arc, Mutex};

/// A loaded module.
#[derive(Clone)]
pub struct Module {
    target: String,
    functions: HashMap<String, Function>,
    globals: HashMap<String, (u64, u64)>,
}

impl Module {
    /// The kernel of this (mangled) name.
    pub fn function(&self, name: &str) -> Option<Function> {
        self.functions.get(name).cloned()
    }

    /// Names of all kernels, sorted.
    pub fn functions(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.functions.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Address and size in bytes of a `__device__` or `__constant__` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }

    /// Whether it has any `__device__` or `__constant__` variable.
    pub fn has_globals(&self) -> bool {
        !self.globals.is_empty()
    }
}

/// A kernel of a loaded module.
#[derive(Clone)]
pub struct Function {
    pub(super) program: Arc<Program>,
    pub(super) settings: Arc<Mutex<Settings>>,
}

#[derive(Default)]
pub(super) struct Settings {
    pub(super) max_dynamic_shared: Option<u32>,
    pub(super) nonportable_cluster: bool,
    pub(super) registers: Option<u32>,
}

/// Attributes of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Static shared memory in bytes.
    pub static_shared_bytes: u32,
    /// Dynamic shared memory that a launch may ask for, in bytes.
    pub max_dynamic_shared_bytes: u32,
    /// Local memory of a thread in bytes (of PTX: spills are unknown).
    pub local_bytes: u32,
    /// Registers of a thread: what [`Function::set_registers`] said, else as far as PTX says: `.maxnreg`,
    /// else what `.maxntid` and `.minnctapersm` leave, else 255 or what lets a CTA of 1024 threads run.
    pub registers: u32,
    /// Threads of a CTA at most.
    pub max_threads: u32,
    /// `.reqnctapercluster`
    pub required_cluster: Option<[u32; 3]>,
    /// Architecture that the PTX is for, such as 80 or 90.
    pub ptx_version: u32,
    /// Size in bytes of each parameter.
    pub parameters: Vec<u32>,
}

impl Function {
    /// The kernel's (mangled) name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Allows launches to ask for up to `bytes` of dynamic shared memory.
    pub fn set_max_dynamic_shared(&self, bytes: u32) {
        lock(&self.settings).max_dynamic_shared = Some(bytes);
    }

    /// Says how many registers a thread has, which PTX does not and `ptxas -v` does. Occupancy, the limits of
    /// a launch and the pool that `setmaxnreg` draws on go by it.
    pub fn set_registers(&self, count: u32) {
        lock(&self.settings).registers = Some(count);
    }

    /// Allows clusters above the portable size.
    pub fn allow_nonportable_cluster(&self, allow: bool) {
        lock(&self.settings).nonportable_cluster = allow;
    }

    /// Bytes and offset of each parameter.
    pub fn parameters(&self) -> &[crate::decode::program::Parameter] {
        &self.program.parameters
    }
}

/// Registers of a thread, where somebody said so.
pub(super) fn known_registers(p: &Program, settings: &Settings) -> Option<u32> {
    settings.registers.or(p.max_registers)
}

/// Registers of a thread: known, or as far as PTX says.
pub(super) fn registers(p: &Program, d: &Description, settings: &Settings) -> u32 {
    if let Some(count) = known_registers(p, settings) {
        return count;
    }
    let max_threads = p.max_threads.map_or(d.threads_per_cta, |t| t.iter().product::<u32>());
    let by_threads = d.registers_per_sm / max_threads.max(1) / p.min_ctas.max(1);
    (by_threads / 8 * 8).min(255)
}

fn text_hash(text: &str) -> u32 {
    let mut hasher = Fast::default();
    hasher.write(text.as_bytes());
    hasher.finish() as u32
}

impl Gpu {
    /// Parses and decodes a PTX module. An instruction that is not known is an error that names it and its line.
    pub fn load_module(&self, text: &str) -> Result<Module, LoadError> {
        let module = ptx::parse(text)?;
        self.check_target(module.target)?;
        let mut state = lock(&self.state);
        let mut globals = HashMap::new();
        let mut symbols = HashMap::new();
        for v in &module.variables {
            if v.space == ast::Space::Shared {
                continue;
            }
            let Some(bytes) = v.bytes else {
                return Err(LoadError::new(v.position, format!("variable `{}` without a size", v.name)));
            };
            let address =
                state.memory.alloc(bytes.max(1), Some(v.name.to_string()), v.space == ast::Space::Const);
            symbols.insert(v.name.to_string(), address);
            globals.insert(v.name.to_string(), (address, bytes));
        }
        // The same in every load of a text, and different in modules that differ.
        let base = FUNCTION_WINDOW | u64::from(text_hash(text)) << 24 & OFFSET_MASK;
        for (f, number) in module.functions.iter().filter(|f| !f.entry && f.body.is_some()).zip(1u64..) {
            symbols.insert(f.name.to_string(), base | (16 * number) & 0xff_ffff);
        }
        for v in &module.variables {
            let Some(&(address, bytes)) = globals.get(v.name) else { continue };
            let mut data = vec![0u8; bytes as usize];
            let step = v.ty.bytes() as usize;
            for (i, initial) in v.initial.iter().enumerate() {
                let value = match initial {
                    ast::Initial::Value(value) => *value,
                    ast::Initial::AddressOf(name, offset) => match symbols.get(*name) {
                        Some(address) => address.wrapping_add(*offset as u64),
                        None => return Err(LoadError::new(v.position, format!("unknown name `{name}`"))),
                    },
                };
                let value = value.to_le_bytes();
                let Some(to) = data.get_mut(i * step..(i + 1) * step) else {
                    return Err(LoadError::new(v.position, format!("too many values for `{}`", v.name)));
                };
                to.copy_from_slice(&value[..step.min(8)]);
            }
            if let Ok((a, at)) = state.memory.range(address, bytes) {
                a.bytes.whole().write(at, &data);
            }
        }
        let mut functions = HashMap::new();
        for f in module.functions.iter().filter(|f| f.entry && f.body.is_some()) {
            let program = Arc::new(crate::decode::decode(&module, f, &symbols)?);
            functions.insert(f.name.to_string(), Function { program, settings: Default::default() });
        }
        Ok(Module { target: module.target.to_owned(), functions, globals })
    }

    /// The kernels of a module that another GPU has decoded, without decoding them again: as good as
    /// [`Gpu::load_module`] of its text. `None` for a module with variables, whose addresses are in its code.
    ///
    /// # Errors
    /// As [`Gpu::load_module`] for an architecture that does not run here.
    pub fn load_decoded(&self, module: &Module) -> Result<Option<Module>, LoadError> {
        self.check_target(&module.target)?;
        if module.has_globals() {
            return Ok(None);
        }
        let fresh = |(name, function): (&String, &Function)| {
            (name.clone(), Function { program: function.program.clone(), settings: Default::default() })
        };
        let functions = module.functions.iter().map(fresh).collect();
        Ok(Some(Module { target: module.target.clone(), functions, globals: HashMap::new() }))
    }

    /// PTX runs on its architecture and newer ones, that of `sm_90a` and its kin on their own alone, that of
    /// `sm_100f` on those of its family.
    fn check_target(&self, target: &str) -> Result<(), LoadError> {
        let digits: String = target.chars().filter(char::is_ascii_digit).collect();
        let Ok(wanted) = digits.parse::<u32>() else { return Ok(()) };
        let (major, minor) = self.description.compute_capability;
        let device = 10 * major + minor;
        let runs = match target.chars().last() {
            Some('a') => wanted == device,
            Some('f') => wanted <= device && wanted / 10 == major,
            _ => wanted <= device,
        };
        if runs {
            return Ok(());
        }
        let message =
            format!("PTX for {target} does not run on a device of compute capability {major}.{minor}");
        Err(LoadError::new(Default::default(), message))
    }

    /// A kernel's attributes on this device.
    pub fn attributes(&self, function: &Function) -> Attributes {
        let p = &function.program;
        let d = &self.description;
        let settings = lock(&function.settings);
        let max_threads = p.max_threads.map_or(d.threads_per_cta, |t| t.iter().product::<u32>());
        let registers = registers(p, d, &settings);
        Attributes {
            static_shared_bytes: p.static_shared,
            max_dynamic_shared_bytes: settings
                .max_dynamic_shared
                .unwrap_or(d.shared_per_cta.saturating_sub(p.static_shared)),
            local_bytes: p.frame_bytes,
            registers,
            max_threads: max_threads.min(d.threads_per_cta),
            required_cluster: p.required_cluster,
            ptx_version: p.architecture,
            parameters: p.parameters.iter().map(|p| p.bytes).collect(),
        }
    }

    /// CTAs of this kernel that one multiprocessor can hold. Registers count where they are known, by
    /// [`Function::set_registers`] or `.maxnreg`.
    pub fn occupancy(&self, function: &Function, threads: u32, dynamic_shared_bytes: u32) -> u32 {
        let registers = known_registers(&function.program, &lock(&function.settings));
        let shared = function.program.dynamic_shared_at.saturating_add(dynamic_shared_bytes);
        self.description.resident_ctas(threads, shared.min(u32::MAX - 1024), registers)
    }
}
