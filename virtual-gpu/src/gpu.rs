//! The host's side: memory, modules, launches.

use crate::counters::{KernelCounters, Raw};
use crate::decode::program::{Frame, Place, Program};
use crate::description::Description;
use crate::exec::engine::{Ended, Engine};
use crate::exec::{Grid, Random, parallel};
use crate::findings::{Finding, Findings, Kind};
use crate::memory::{BadAddress, GlobalMemory};
use crate::options::{Options, Order};
use crate::ptx::{self, LoadError, ast};
use crate::stream::{Event, EventState, Graph, Queue, Queues, Stream, Work};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a call to the virtual GPU can fail with; the variants are those of a driver's error codes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An argument is wrong (CUDA_ERROR_INVALID_VALUE); says which.
    InvalidValue(String),
    /// Device memory is exhausted (CUDA_ERROR_OUT_OF_MEMORY).
    OutOfMemory,
    /// More threads, registers or shared memory than the device has (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES).
    OutOfResources(String),
    /// The cluster does not fit (CUDA_ERROR_INVALID_CLUSTER_SIZE).
    InvalidCluster(String),
    /// A cooperative launch with more CTAs than fit at once (CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE).
    CooperativeTooLarge(String),
    /// A kernel accessed memory outside its bounds (CUDA_ERROR_ILLEGAL_ADDRESS).
    IllegalAddress,
    /// A kernel's access was not aligned (CUDA_ERROR_MISALIGNED_ADDRESS).
    MisalignedAddress,
    /// A kernel executed an instruction with illegal operands (CUDA_ERROR_ILLEGAL_INSTRUCTION).
    IllegalInstruction,
    /// A kernel trapped (CUDA_ERROR_LAUNCH_FAILED).
    LaunchFailed,
    /// A kernel cannot come to an end: deadlock or the instruction limit (CUDA_ERROR_LAUNCH_TIMEOUT).
    Timeout,
    /// A stream that is being captured cannot do this (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED).
    CaptureUnsupported(String),
    /// Not ready yet (CUDA_ERROR_NOT_READY).
    NotReady,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::InvalidValue(m) => write!(f, "invalid value: {m}"),
            Error::OutOfMemory => write!(f, "out of memory"),
            Error::OutOfResources(m) => write!(f, "too many resources requested for launch: {m}"),
            Error::InvalidCluster(m) => write!(f, "invalid cluster size: {m}"),
            Error::CooperativeTooLarge(m) => write!(f, "cooperative launch too large: {m}"),
            Error::IllegalAddress => write!(f, "an illegal memory access was encountered"),
            Error::MisalignedAddress => write!(f, "misaligned address"),
            Error::IllegalInstruction => write!(f, "an illegal instruction was encountered"),
            Error::LaunchFailed => write!(f, "unspecified launch failure"),
            Error::Timeout => write!(f, "the launch cannot end"),
            Error::CaptureUnsupported(m) => {
                write!(f, "operation not permitted when stream is capturing: {m}")
            }
            Error::NotReady => write!(f, "not ready"),
        }
    }
}

impl std::error::Error for Error {}

/// A virtual GPU. A cheap handle; clones share the device. Usable from several threads.
#[derive(Clone)]
pub struct Gpu {
    state: Arc<Mutex<State>>,
    description: Arc<Description>,
}

struct State {
    memory: GlobalMemory,
    findings: Findings,
    options: Options,
    counters: HashMap<String, KernelCounters>,
    fault: Option<Error>,
    launches: u64,
    queues: Queues,
    random: Random,
    /// Virtual time in nanoseconds.
    time: u64,
}

/// A loaded module.
#[derive(Clone)]
pub struct Module {
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
}

/// A kernel of a loaded module.
#[derive(Clone)]
pub struct Function {
    program: Arc<Program>,
    settings: Arc<Mutex<Settings>>,
}

#[derive(Default)]
struct Settings {
    max_dynamic_shared: Option<u32>,
    nonportable_cluster: bool,
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
    /// Registers of a thread as far as PTX says: `.maxnreg`, else what `.maxntid` and `.minnctapersm` leave, else 255
    /// or what lets a CTA of 1024 threads run.
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

    /// Allows clusters above the portable size.
    pub fn allow_nonportable_cluster(&self, allow: bool) {
        lock(&self.settings).nonportable_cluster = allow;
    }

    /// Bytes and offset of each parameter.
    pub fn parameters(&self) -> &[crate::decode::program::Parameter] {
        &self.program.parameters
    }
}

/// How to launch a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads of a CTA.
    pub block: [u32; 3],
    /// CTAs of a cluster; `None` takes the kernel's own.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub dynamic_shared_bytes: u32,
    /// All CTAs must be resident together.
    pub cooperative: bool,
    /// May begin before the kernel before it in the stream has ended (programmatic stream serialisation).
    pub programmatic_dependent: bool,
    /// The arguments' bytes, in the kernel's order.
    pub args: &'a [&'a [u8]],
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            grid: [1; 3],
            block: [32, 1, 1],
            cluster: None,
            dynamic_shared_bytes: 0,
            cooperative: false,
            programmatic_dependent: false,
            args: &[],
        }
    }
}

/// Registers of a thread as far as PTX says.
fn registers(p: &Program, d: &Description) -> u32 {
    let max_threads = p.max_threads.map_or(d.threads_per_cta, |t| t.iter().product::<u32>());
    let by_threads = d.registers_per_sm / max_threads.max(1) / p.min_ctas.max(1);
    p.max_registers.unwrap_or((by_threads / 8 * 8).min(255))
}

/// Queued work beyond this is done at once.
const MAX_PENDING: usize = 4096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves state that is still safe to read.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Gpu {
    /// A device with the default options.
    pub fn new(description: Description) -> Self {
        Self::with_options(description, Options::default())
    }

    /// A device with these options.
    pub fn with_options(description: Description, options: Options) -> Self {
        let state = State {
            memory: GlobalMemory::default(),
            findings: Findings::default(),
            options,
            counters: HashMap::new(),
            fault: None,
            launches: 0,
            queues: Queues::default(),
            random: Random(0x5eed),
            time: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), description: Arc::new(description) }
    }

    /// What device this is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Current options.
    pub fn options(&self) -> Options {
        lock(&self.state).options
    }

    /// Sets the options of later launches.
    pub fn set_options(&self, options: Options) {
        lock(&self.state).options = options;
    }

    /// Allocates `bytes` of undefined device memory.
    pub fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        let mut state = lock(&self.state);
        if bytes == 0 {
            return Err(Error::InvalidValue("allocation of 0 bytes".into()));
        }
        if state.memory.used().saturating_add(bytes) > self.description.memory_bytes {
            return Err(Error::OutOfMemory);
        }
        Ok(state.memory.alloc(bytes, None, false))
    }

    /// Frees an allocation by its address.
    pub fn free(&self, address: u64) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.flush(&self.description, None)?;
        if address == 0 || state.memory.free(address) {
            return Ok(());
        }
        Err(Error::InvalidValue(format!("{address:#x} is not the start of an allocation")))
    }

    /// Free and total bytes of device memory.
    pub fn mem_info(&self) -> (u64, u64) {
        let total = self.description.memory_bytes;
        (total - lock(&self.state).memory.used().min(total), total)
    }

    fn bad(state: &State, what: &str, address: u64, len: u64, bad: BadAddress) -> Error {
        let why = match bad {
            BadAddress::Nowhere => "no allocation is there".to_string(),
            BadAddress::Freed => "the allocation has been freed".to_string(),
            BadAddress::Outside(size) => format!("the allocation has {size} bytes"),
        };
        Error::InvalidValue(format!("{what} of {len} bytes at {}: {why}", state.memory.describe(address)))
    }

    /// Writes host bytes to device memory.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Error> {
        self.settle("write")?;
        let mut state = lock(&self.state);
        state.check_fault()?;
        if data.is_empty() {
            return Ok(());
        }
        match state.memory.range(address, data.len() as u64) {
            Ok((a, at)) => {
                a.bytes.whole().write(at, data);
                Ok(())
            }
            Err(bad) => Err(Self::bad(&state, "write", address, data.len() as u64, bad)),
        }
    }

    /// Waits for stream 0 and the blocking streams, then reads device memory. Undefined bytes are a finding.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Error> {
        self.settle("read")?;
        self.read_now(address, data)
    }

    /// Waits for the streams that synchronous calls wait for.
    fn settle(&self, what: &str) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.capturing() {
            return Err(Error::CaptureUnsupported(what.into()));
        }
        let blocking: Vec<u64> = state
            .queues
            .streams
            .iter()
            .filter(|(id, q)| **id == 0 || q.blocking)
            .map(|(id, _)| *id)
            .collect();
        for stream in blocking {
            state.flush(&self.description, Some(stream))?;
        }
        Ok(())
    }

    fn read_now(&self, address: u64, data: &mut [u8]) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if data.is_empty() {
            return Ok(());
        }
        let len = data.len() as u64;
        let undefined = match state.memory.range(address, len) {
            Ok((a, at)) => {
                data.copy_from_slice(&a.bytes.whole().data[at..at + data.len()]);
                a.bytes.whole().first_undefined(at, data.len()).map(|byte| byte - at)
            }
            Err(bad) => return Err(Self::bad(&state, "read", address, len, bad)),
        };
        if let Some(byte) = undefined
            && state.options.checks == crate::options::Checks::All
        {
            let place = state.memory.describe(address + byte as u64);
            state.host_finding(
                Kind::Undefined,
                format!("the host reads {len} bytes of which byte {byte} is undefined ({place})"),
            );
        }
        Ok(())
    }

    /// Sets `bytes` bytes to a value.
    pub fn memset(&self, address: u64, value: u8, bytes: u64) -> Result<(), Error> {
        self.settle("memset")?;
        let mut state = lock(&self.state);
        state.check_fault()?;
        if bytes == 0 {
            return Ok(());
        }
        match state.memory.range(address, bytes) {
            Ok((a, at)) => {
                a.bytes.whole().fill(at, bytes as usize, value);
                Ok(())
            }
            Err(bad) => Err(Self::bad(&state, "memset", address, bytes, bad)),
        }
    }

    /// Copies device memory to device memory, undefined bytes included. The ranges may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Error> {
        self.settle("copy")?;
        let mut state = lock(&self.state);
        state.check_fault()?;
        if bytes == 0 {
            return Ok(());
        }
        let result = state.memory.copy(to, from, bytes);
        result.map_err(|bad| Self::bad(&state, "copy", to, bytes, bad))
    }

    /// Parses and decodes a PTX module. An instruction that is not known is an error that names it and its line.
    pub fn load_module(&self, text: &str) -> Result<Module, LoadError> {
        let module = ptx::parse(text)?;
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
        Ok(Module { functions, globals })
    }

    /// A kernel's attributes on this device.
    pub fn attributes(&self, function: &Function) -> Attributes {
        let p = &function.program;
        let d = &self.description;
        let settings = lock(&function.settings);
        let max_threads = p.max_threads.map_or(d.threads_per_cta, |t| t.iter().product::<u32>());
        let registers = registers(p, d);
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

    /// CTAs of this kernel that one multiprocessor can hold, as far as PTX says.
    pub fn occupancy(&self, function: &Function, threads: u32, dynamic_shared_bytes: u32) -> u32 {
        let d = &self.description;
        let threads = threads.next_multiple_of(32).max(32);
        let shared = function.program.dynamic_shared_at + dynamic_shared_bytes + 1024;
        (d.threads_per_sm / threads).min(d.shared_per_sm / shared).min(d.ctas_per_sm)
    }

    /// Launches a kernel.
    pub fn launch(&self, function: &Function, launch: &Launch<'_>, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let grid = Box::new(self.grid(&mut state, function, launch)?);
        self.enqueue(&mut state, stream, Work::Launch { grid, dependent: launch.programmatic_dependent })
    }

    /// Queues work, and in eager order does it at once.
    fn enqueue(&self, state: &mut State, stream: Stream, work: Work) -> Result<(), Error> {
        let queued = state.queues.push(stream.0, work);
        if queued && (state.options.order == Order::Eager || state.queues.pending() > MAX_PENDING) {
            return state.flush(&self.description, None);
        }
        Ok(())
    }

    /// A new stream. A blocking one synchronises with stream 0, a non-blocking one does not.
    pub fn create_stream(&self, blocking: bool) -> Stream {
        let mut state = lock(&self.state);
        let id = state.queues.handle();
        state.queues.streams.insert(id, Queue { blocking, ..Queue::default() });
        Stream(id)
    }

    /// Does a stream's work and forgets it.
    pub fn destroy_stream(&self, stream: Stream) -> Result<(), Error> {
        let result = self.stream_synchronize(stream);
        lock(&self.state).queues.streams.remove(&stream.0);
        result
    }

    /// Waits for a stream's work.
    pub fn stream_synchronize(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.streams.get(&stream.0).is_some_and(|q| q.capture.is_some()) {
            return Err(Error::CaptureUnsupported("synchronize".into()));
        }
        state.flush(&self.description, Some(stream.0))
    }

    /// Whether a stream's work is done; a question makes one piece of work be done.
    pub fn stream_query(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.streams.get(&stream.0).is_none_or(|q| q.work.is_empty()) {
            return Ok(());
        }
        state.step(&self.description, None)?;
        Err(Error::NotReady)
    }

    /// A new event, as if recorded before all work.
    pub fn create_event(&self) -> Event {
        let mut state = lock(&self.state);
        let id = state.queues.handle();
        state.queues.events.insert(id, EventState::default());
        Event(id)
    }

    /// Forgets an event.
    pub fn destroy_event(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.flush(&self.description, None)?;
        state.queues.events.remove(&event.0);
        Ok(())
    }

    /// Records an event after the work so far in a stream.
    pub fn record_event(&self, event: Event, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let capturing = state.queues.streams.get(&stream.0).is_some_and(|q| q.capture.is_some());
        let Some(e) = state.queues.events.get_mut(&event.0) else {
            return Err(Error::InvalidValue(format!("event {} does not exist", event.0)));
        };
        if !capturing {
            e.recorded += 1;
            e.capture = None;
        }
        let number = e.recorded;
        self.enqueue(&mut state, stream, Work::Record { event: event.0, number })
    }

    /// Makes later work of a stream wait for an event.
    pub fn wait_event(&self, stream: Stream, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let Some(e) = state.queues.events.get(&event.0) else {
            return Err(Error::InvalidValue(format!("event {} does not exist", event.0)));
        };
        let (number, capture) = (e.recorded, e.capture);
        if let Some(capture) = capture {
            // A stream that waits for an event of a capture joins it.
            let queue = state.queues.streams.entry(stream.0).or_default();
            queue.capture = Some(capture);
            return Ok(());
        }
        self.enqueue(&mut state, stream, Work::Wait { event: event.0, number })
    }

    /// Whether an event has been reached; a question makes one piece of work be done.
    pub fn event_query(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        match state.queues.events.get(&event.0) {
            None => Err(Error::InvalidValue(format!("event {} does not exist", event.0))),
            Some(e) if e.reached >= e.recorded => Ok(()),
            Some(_) => {
                state.step(&self.description, None)?;
                Err(Error::NotReady)
            }
        }
    }

    /// Waits for an event.
    pub fn event_synchronize(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        while state.queues.events.get(&event.0).is_some_and(|e| e.reached < e.recorded) {
            if !state.step(&self.description, None)? {
                break;
            }
        }
        Ok(())
    }

    /// Virtual milliseconds between two reached events: a nanosecond for each warp instruction and each KiB copied.
    pub fn event_elapsed(&self, start: Event, end: Event) -> Result<f32, Error> {
        let state = lock(&self.state);
        let time = |event: Event| match state.queues.events.get(&event.0) {
            Some(e) if e.reached >= e.recorded => Ok(e.time),
            Some(_) => Err(Error::NotReady),
            None => Err(Error::InvalidValue(format!("event {} does not exist", event.0))),
        };
        Ok((time(end)? as f64 - time(start)? as f64) as f32 / 1e6)
    }

    /// Queues a host-to-device copy; the bytes are taken at once.
    pub fn write_async(&self, address: u64, data: &[u8], stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if data.is_empty() {
            return Ok(());
        }
        state.check_range("write", address, data.len() as u64)?;
        self.enqueue(&mut state, stream, Work::Write { to: address, data: data.to_vec() })
    }

    /// Queues a copy inside the device.
    pub fn copy_async(&self, to: u64, from: u64, bytes: u64, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if bytes == 0 {
            return Ok(());
        }
        state.check_range("copy", to, bytes)?;
        state.check_range("copy", from, bytes)?;
        self.enqueue(&mut state, stream, Work::Copy { to, from, bytes })
    }

    /// Queues setting `count` elements to a pattern of 1, 2 or 4 bytes.
    pub fn set_async(&self, address: u64, pattern: &[u8], count: u64, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if count == 0 {
            return Ok(());
        }
        if !matches!(pattern.len(), 1 | 2 | 4) || !address.is_multiple_of(pattern.len() as u64) {
            return Err(Error::InvalidValue(format!("a pattern of {} bytes at {address:#x}", pattern.len())));
        }
        state.check_range("memset", address, count.saturating_mul(pattern.len() as u64))?;
        self.enqueue(&mut state, stream, Work::Set { address, pattern: pattern.to_vec(), count })
    }

    /// Waits for a stream's work, then reads device memory; see [`Gpu::read`].
    pub fn read_async(&self, address: u64, data: &mut [u8], stream: Stream) -> Result<(), Error> {
        self.stream_synchronize(stream)?;
        self.read_now(address, data)
    }

    /// Begins to capture a stream's work (and that of streams that wait for its events) instead of doing it.
    pub fn begin_capture(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if stream.0 == 0 {
            return Err(Error::CaptureUnsupported("the default stream cannot be captured".into()));
        }
        state.flush(&self.description, Some(stream.0))?;
        let id = state.queues.handle();
        let queue = state.queues.streams.entry(stream.0).or_default();
        if queue.capture.is_some() {
            return Err(Error::CaptureUnsupported("the stream is being captured already".into()));
        }
        queue.capture = Some(id);
        state.queues.captures.insert(id, Graph::default());
        state.queues.capture_origin.insert(id, stream.0);
        Ok(())
    }

    /// Whether a stream is being captured.
    pub fn is_capturing(&self, stream: Stream) -> bool {
        lock(&self.state).queues.streams.get(&stream.0).is_some_and(|q| q.capture.is_some())
    }

    /// Ends the capture that began in this stream.
    pub fn end_capture(&self, stream: Stream) -> Result<Graph, Error> {
        let mut state = lock(&self.state);
        let capture = state.queues.streams.get(&stream.0).and_then(|q| q.capture);
        let Some(capture) = capture.filter(|c| state.queues.capture_origin.get(c) == Some(&stream.0)) else {
            return Err(Error::CaptureUnsupported("no capture began in this stream".into()));
        };
        for queue in state.queues.streams.values_mut().filter(|q| q.capture == Some(capture)) {
            queue.capture = None;
        }
        for event in state.queues.events.values_mut().filter(|e| e.capture == Some(capture)) {
            event.capture = None;
        }
        state.queues.capture_origin.remove(&capture);
        Ok(state.queues.captures.remove(&capture).unwrap_or_default())
    }

    /// Queues all work of a graph.
    pub fn launch_graph(&self, graph: &Graph, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        for node in &graph.nodes {
            let mut work = node.clone();
            if let Work::Launch { grid, .. } = &mut work {
                state.launches += 1;
                grid.id = state.launches;
            }
            self.enqueue(&mut state, stream, work)?;
        }
        Ok(())
    }

    fn grid(&self, state: &mut State, function: &Function, launch: &Launch<'_>) -> Result<Grid, Error> {
        let (d, p) = (&self.description, &function.program);
        let invalid = |m: String| Err(Error::InvalidValue(format!("{}: {m}", p.name)));
        if launch.grid.contains(&0) || launch.block.contains(&0) {
            return invalid(format!(
                "grid {:?} and block {:?} must not contain 0",
                launch.grid, launch.block
            ));
        }
        if launch.grid[0] > i32::MAX as u32 || launch.grid[1] > 65535 || launch.grid[2] > 65535 {
            return invalid(format!("grid {:?} is above the limits", launch.grid));
        }
        let threads: u64 = launch.block.iter().map(|&x| u64::from(x)).product();
        if launch.block[2] > 64
            || launch.block[0] > 1024
            || launch.block[1] > 1024
            || threads > u64::from(d.threads_per_cta)
        {
            return invalid(format!("block {:?} has more than {} threads", launch.block, d.threads_per_cta));
        }
        if let Some(max) = p.max_threads
            && threads > max.iter().map(|&x| u64::from(x)).product()
        {
            return invalid(format!("{threads} threads, the kernel allows {max:?}"));
        }
        if let Some(required) = p.required_threads
            && launch.block != required
        {
            return invalid(format!("block {:?}, the kernel requires {required:?}", launch.block));
        }
        let settings = lock(&function.settings);
        let shared = u64::from(p.dynamic_shared_at) + u64::from(launch.dynamic_shared_bytes);
        let default = d.shared_per_cta.saturating_sub(p.static_shared);
        let allowed = settings.max_dynamic_shared.unwrap_or(default).max(default);
        if launch.dynamic_shared_bytes > allowed || shared > u64::from(d.shared_per_cta_optin) {
            return invalid(format!(
                "{} bytes of dynamic shared memory beside {} static ones; allowed are {allowed}",
                launch.dynamic_shared_bytes, p.static_shared
            ));
        }
        if p.max_registers.unwrap_or(0) as u64 * threads > u64::from(d.registers_per_sm) {
            return Err(Error::OutOfResources(format!("{}: registers of {threads} threads", p.name)));
        }
        if p.architecture > 10 * d.compute_capability.0 + d.compute_capability.1 {
            return invalid(format!(
                "PTX for sm_{} on a device of {:?}",
                p.architecture, d.compute_capability
            ));
        }
        let cluster = launch.cluster.or(p.required_cluster).unwrap_or([1; 3]);
        let size: u64 = cluster.iter().map(|&x| u64::from(x)).product();
        let most = if settings.nonportable_cluster { d.max_cluster_nonportable } else { d.max_cluster };
        if cluster.contains(&0) || size > u64::from(most) {
            return Err(Error::InvalidCluster(format!(
                "{}: cluster {cluster:?}, at most {most} CTAs",
                p.name
            )));
        }
        if p.required_cluster.is_some_and(|r| r != cluster) {
            return Err(Error::InvalidCluster(format!(
                "{}: cluster {cluster:?}, the kernel requires {:?}",
                p.name, p.required_cluster
            )));
        }
        if (0..3).any(|i| !launch.grid[i].is_multiple_of(cluster[i])) {
            return Err(Error::InvalidCluster(format!(
                "{}: grid {:?} is no multiple of cluster {cluster:?}",
                p.name, launch.grid
            )));
        }
        if launch.args.len() != p.parameters.len() {
            return invalid(format!("{} arguments, expected {}", launch.args.len(), p.parameters.len()));
        }
        let mut parameters = vec![0u8; p.parameter_bytes as usize];
        for (i, (arg, parameter)) in launch.args.iter().zip(&p.parameters).enumerate() {
            if arg.len() != parameter.bytes as usize {
                return invalid(format!(
                    "argument {i} has {} bytes, expected {}",
                    arg.len(),
                    parameter.bytes
                ));
            }
            parameters[parameter.offset as usize..][..arg.len()].copy_from_slice(arg);
        }
        state.launches += 1;
        let grid = Grid {
            program: p.clone(),
            grid: launch.grid,
            block: launch.block,
            cluster,
            dynamic_shared: launch.dynamic_shared_bytes,
            parameters,
            id: state.launches,
            next: 0,
            end: launch.grid.iter().zip(cluster).map(|(g, c)| u64::from(g / c)).product(),
            finished: 0,
            started: 0,
            counters: Raw::new(p),
            waits_for_others: false,
            registers: registers(p, d),
        };
        if launch.cooperative && grid.ctas() > Engine::capacity(&grid, d) {
            return Err(Error::CooperativeTooLarge(format!("{}: {} CTAs", p.name, grid.ctas())));
        }
        Ok(grid)
    }

    /// Waits for all work. Returns the error of a kernel that failed, as often as it is asked.
    pub fn synchronize(&self) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.capturing() {
            return Err(Error::CaptureUnsupported("synchronize".into()));
        }
        state.flush(&self.description, None)
    }

    /// All findings so far.
    pub fn findings(&self) -> Vec<Finding> {
        lock(&self.state).findings.list.clone()
    }

    /// Takes all findings and clears the error of a failed kernel: the device can be used again.
    pub fn take_findings(&self) -> Vec<Finding> {
        let mut state = lock(&self.state);
        state.fault = None;
        std::mem::take(&mut state.findings.list)
    }

    /// Counters of each kernel launched so far, by name.
    pub fn counters(&self) -> Vec<KernelCounters> {
        let state = lock(&self.state);
        let mut all: Vec<KernelCounters> = state.counters.values().cloned().collect();
        all.sort_by(|a, b| a.kernel.cmp(&b.kernel));
        all
    }

    /// Forgets all counters.
    pub fn reset_counters(&self) {
        lock(&self.state).counters.clear();
    }
}

impl State {
    fn check_fault(&self) -> Result<(), Error> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    fn host_finding(&mut self, kind: Kind, message: String) {
        self.findings.add(Finding {
            kind,
            message,
            kernel: String::new(),
            place: Place { frames: Vec::<Frame>::new(), ptx_line: 0, opcode: String::new() },
            cta: [0; 3],
            warp: None,
            lane: None,
            address: None,
            other: None,
            count: 1,
            fatal: false,
        });
    }

    fn check_range(&mut self, what: &str, address: u64, bytes: u64) -> Result<(), Error> {
        match self.memory.range(address, bytes) {
            Ok(_) => Ok(()),
            Err(bad) => Err(Gpu::bad(self, what, address, bytes, bad)),
        }
    }

    /// Does queued work until the stream (or everything) is done.
    fn flush(&mut self, description: &Description, stream: Option<u64>) -> Result<(), Error> {
        loop {
            let done = match stream {
                Some(id) => self.queues.streams.get(&id).is_none_or(|q| q.work.is_empty()),
                None => self.queues.pending() == 0,
            };
            if done || !self.step(description, stream)? {
                return Ok(());
            }
        }
    }

    /// Does one piece of queued work, if any can be done.
    fn step(&mut self, description: &Description, _wanted: Option<u64>) -> Result<bool, Error> {
        let runnable = self.queues.runnable(None);
        if runnable.is_empty() {
            return Ok(false);
        }
        let front = |id: &u64| self.queues.streams[id].work.front().map_or(0, |(s, _)| *s);
        let chosen = match self.options.order {
            Order::Eager => runnable.iter().copied().min_by_key(front),
            Order::Lazy => runnable.iter().copied().max_by_key(front),
            Order::Random(_) => Some(runnable[self.random.below(runnable.len())]),
        };
        let Some(queue) = chosen.and_then(|id| self.queues.streams.get_mut(&id)) else { return Ok(false) };
        let Some((_, work)) = queue.work.pop_front() else { return Ok(false) };
        match work {
            Work::Launch { grid, .. } => {
                // Launches that may begin early run together with the one before them.
                let mut grids = vec![*grid];
                while let Some((_, Work::Launch { dependent: true, .. })) = queue.work.front() {
                    if let Some((_, Work::Launch { grid, .. })) = queue.work.pop_front() {
                        grids.push(*grid);
                    }
                }
                self.run(grids, description)?;
            }
            Work::Set { address, pattern, count } => {
                let bytes = count * pattern.len() as u64;
                self.time += bytes / 1024;
                if let Ok((a, at)) = self.memory.range(address, bytes) {
                    if let [value] = pattern[..] {
                        a.bytes.whole().fill(at, bytes as usize, value);
                    } else {
                        a.bytes.whole().write(at, &pattern.repeat(count as usize));
                    }
                }
            }
            Work::Copy { to, from, bytes } => {
                self.time += bytes / 1024;
                if let Err(bad) = self.memory.copy(to, from, bytes) {
                    return Err(Gpu::bad(self, "copy", to, bytes, bad));
                }
            }
            Work::Write { to, data } => {
                self.time += data.len() as u64 / 1024;
                if let Ok((a, at)) = self.memory.range(to, data.len() as u64) {
                    a.bytes.whole().write(at, &data);
                }
            }
            Work::Record { event, number } => {
                let time = self.time;
                if let Some(e) = self.queues.events.get_mut(&event) {
                    e.reached = e.reached.max(number);
                    e.time = time;
                }
            }
            Work::Wait { .. } => {}
        }
        Ok(true)
    }

    fn run(&mut self, grids: Vec<Grid>, description: &Description) -> Result<(), Error> {
        let seed = match self.options.order {
            Order::Random(seed) => seed.wrapping_add(self.launches),
            _ => 0,
        };
        let mut engine = Engine::new(seed);
        engine.clock = self.time;
        engine.grids = grids;
        let options = self.options;
        let ended = parallel::run(&mut engine, &mut self.memory, &mut self.findings, &options, description);
        for grid in &engine.grids {
            self.time += grid.counters.instructions;
            let counters = self.counters.entry(grid.program.name.clone()).or_default();
            counters.kernel = grid.program.name.clone();
            counters.add(&grid.program, &grid.counters);
        }
        if ended == Ended::Fault {
            let kind = self.findings.list.iter().rev().find(|f| f.fatal).map(|f| f.kind);
            let error = match kind {
                Some(Kind::OutOfBounds | Kind::InvalidAccess) => Error::IllegalAddress,
                Some(Kind::Misaligned) => Error::MisalignedAddress,
                Some(Kind::Deadlock | Kind::TimeLimit) => Error::Timeout,
                Some(Kind::Barrier | Kind::WarpSync | Kind::Wgmma | Kind::Mbarrier) => {
                    Error::IllegalInstruction
                }
                _ => Error::LaunchFailed,
            };
            self.fault = Some(error.clone());
            return Err(error);
        }
        Ok(())
    }
}
