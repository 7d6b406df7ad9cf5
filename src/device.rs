//! The seam between launchers and what runs compiled kernels: the CUDA driver, or the virtual GPU.
//!
//! Everything is a plain number: device pointers and streams are `u64`, so a launcher works on memory and streams
//! that another engine made.

pub mod cuda;
mod graph;
pub mod virtual_gpu;

pub use graph::Graph;

use std::fmt::Debug;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::kernels::compiled::CompiledKernel;

/// A number no other device of this process has.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A stream as the driver names it; 0 is the default stream. May come from another engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawStream(pub u64);

/// An event as the device names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawEvent(pub u64);

/// An instantiated graph as the device names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawGraph(pub u64);

/// A loaded kernel as the device names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawFunction(pub u64);

/// A loaded module as the device names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawModule(pub u64);

/// What a launcher may know of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceProperties {
    /// For people.
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub num_sms: u32,
    /// Most dynamic plus static shared memory of a block, in bytes, after opting in.
    pub max_shared_bytes: u32,
    /// Registers of a multiprocessor.
    pub registers_per_sm: u32,
    /// L2 cache in bytes.
    pub l2_bytes: u64,
    /// Device memory in bytes.
    pub memory_bytes: u64,
}

/// Grid, block and what else a launch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y, z; all ones for none.
    pub cluster: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared_bytes: u32,
    /// All blocks must be resident together.
    pub cooperative: bool,
    /// May start before the kernel ahead in the stream ends (`griddepcontrol`).
    pub programmatic_dependent: bool,
}

impl LaunchConfig {
    /// A one-dimensional launch.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Self::new([blocks, 1, 1], threads)
    }

    /// A launch of `grid` blocks of `threads` threads without extras.
    pub fn new(grid: [u32; 3], threads: u32) -> Self {
        LaunchConfig {
            grid,
            block: [threads, 1, 1],
            cluster: [1; 3],
            dynamic_shared_bytes: 0,
            cooperative: false,
            programmatic_dependent: false,
        }
    }

    /// The same with this much dynamic shared memory.
    pub fn with_shared(self, bytes: u32) -> Self {
        LaunchConfig { dynamic_shared_bytes: bytes, ..self }
    }
}

/// What a compiled kernel needs, as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionAttributes {
    /// Registers a thread; `None` where the device does not know.
    pub registers: Option<u32>,
    /// Static shared memory in bytes.
    pub static_shared_bytes: u32,
    /// Local memory a thread in bytes: spills and stack.
    pub local_bytes: u32,
    /// Most threads of a block.
    pub max_threads: u32,
}

/// How a tensor map reads memory: the arguments of `cuTensorMapEncodeTiled`, innermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapSpec {
    /// Element type.
    pub dtype: crate::tensor::DType,
    /// Device address, 16-byte aligned.
    pub pointer: u64,
    /// Elements of each dimension.
    pub dims: Vec<u64>,
    /// Bytes between elements of dimension 1, 2, …: one fewer than `dims`, multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of the box in each dimension.
    pub tile: Vec<u32>,
    /// Shared-memory swizzle in bytes: 0, 32, 64 or 128.
    pub swizzle_bytes: u32,
}

/// An encoded tensor map; passed to a kernel as a 64-byte aligned `__grid_constant__` argument.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct TensorMap(pub [u8; 128]);

/// Bytes as zlib packed them: code is kept small until a device wants it.
#[derive(Clone, Copy)]
pub struct Deflated<'a>(pub &'a [u8]);

impl Deflated<'_> {
    /// The bytes.
    ///
    /// # Errors
    /// [`Error::Device`] for bytes that zlib did not pack.
    pub fn inflate(self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        flate2::read::ZlibDecoder::new(self.0)
            .read_to_end(&mut out)
            .map_err(|error| Error::Device { call: "unpack code".to_owned(), message: error.to_string() })?;
        Ok(out)
    }
}

impl Debug for Deflated<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} packed bytes", self.0.len())
    }
}

/// The compiled code of one kernel file.
#[derive(Clone, Copy, Debug)]
pub struct ModuleImage<'a> {
    /// Machine code (and portable PTX) for a real GPU.
    pub fatbin: Deflated<'a>,
    /// The PTX of the same compile, for the virtual GPU.
    pub ptx: Deflated<'a>,
    /// What ptxas said of its kernels, for the virtual GPU.
    pub kernels: &'static [CompiledKernel],
}

/// One device: memory, streams, events, modules, launches, graphs. Implemented by `cuda` and `virtual_gpu`.
///
/// All handles are the device's own; a handle of another device is an error or, for raw pointers and streams from
/// outside, the caller's responsibility. Methods may be called from any thread.
pub trait Device: Send + Sync + Debug {
    /// Different for every device opened in this process.
    fn id(&self) -> u64;
    /// What it is.
    fn properties(&self) -> &DeviceProperties;
    /// Bytes free and in all.
    fn memory_info(&self) -> Result<(u64, u64)>;

    /// Device memory of at least `bytes`, 256-byte aligned; zero bytes give an address that is not dereferenced.
    fn allocate(&self, bytes: u64) -> Result<u64>;
    /// Gives memory back.
    ///
    /// # Safety
    /// `pointer` came from `allocate`, is not used again, and no work in flight uses it.
    unsafe fn free(&self, pointer: u64);
    /// Sets bytes, in stream order.
    ///
    /// # Safety
    /// `pointer..pointer + bytes` is device memory that lives until the stream has done it.
    unsafe fn set(&self, pointer: u64, value: u8, bytes: u64, stream: RawStream) -> Result<()>;
    /// Copies from the host; returns when `from` may be reused.
    ///
    /// # Safety
    /// `to..to + from.len()` is device memory.
    unsafe fn copy_to_device(&self, to: u64, from: &[u8], stream: RawStream) -> Result<()>;
    /// Copies to the host, after the work before it in `stream`; returns when it is there.
    ///
    /// # Safety
    /// `from..from + to.len()` is device memory.
    unsafe fn copy_to_host(&self, to: &mut [u8], from: u64, stream: RawStream) -> Result<()>;
    /// Copies between device addresses in stream order.
    ///
    /// # Safety
    /// Both ranges are device memory that lives until the stream has done it, and do not overlap.
    unsafe fn copy_on_device(&self, to: u64, from: u64, bytes: u64, stream: RawStream) -> Result<()>;

    /// A new stream that does not wait for the default stream.
    fn create_stream(&self) -> Result<RawStream>;
    /// Destroys a stream made here.
    fn destroy_stream(&self, stream: RawStream);
    /// Waits for everything in `stream`, and returns what went wrong in it.
    fn synchronize(&self, stream: RawStream) -> Result<()>;
    /// A new event with timing.
    fn create_event(&self) -> Result<RawEvent>;
    /// Destroys an event.
    fn destroy_event(&self, event: RawEvent);
    /// Records `event` after what is in `stream` now.
    fn record_event(&self, event: RawEvent, stream: RawStream) -> Result<()>;
    /// Makes later work in `stream` wait for `event`.
    fn wait_event(&self, event: RawEvent, stream: RawStream) -> Result<()>;
    /// Microseconds between two recorded events, after waiting for the later one. The virtual GPU has no
    /// time: its answer is an error.
    fn elapsed_us(&self, start: RawEvent, end: RawEvent) -> Result<f64>;

    /// Loads a compiled kernel file. Fails with [`crate::Error::NoCodeForDevice`] where nothing in it fits.
    fn load_module(&self, name: &str, image: ModuleImage<'_>) -> Result<RawModule>;
    /// A kernel by its `extern "C"` name.
    fn function(&self, module: RawModule, name: &str) -> Result<RawFunction>;
    /// What the kernel needs.
    fn function_attributes(&self, function: RawFunction) -> Result<FunctionAttributes>;
    /// Allows launches with up to this much dynamic shared memory.
    fn set_max_dynamic_shared(&self, function: RawFunction, bytes: u32) -> Result<()>;
    /// Encodes a tensor map.
    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap>;
    /// Puts a kernel into `stream`. `args` are the bytes of each kernel parameter in order.
    ///
    /// # Safety
    /// `args` match the kernel's parameters, and every address in them is memory the kernel may use until it ends.
    unsafe fn launch(
        &self,
        function: RawFunction,
        config: &LaunchConfig,
        args: &[&[u8]],
        stream: RawStream,
    ) -> Result<()>;

    /// Starts recording what is put into `stream` (not the default stream) instead of running it.
    fn begin_capture(&self, stream: RawStream) -> Result<()>;
    /// Ends the recording.
    fn end_capture(&self, stream: RawStream) -> Result<RawGraph>;
    /// Puts a recorded graph into `stream`.
    ///
    /// # Safety
    /// All memory the recorded launches use still lives.
    unsafe fn launch_graph(&self, graph: RawGraph, stream: RawStream) -> Result<()>;
    /// Destroys a graph.
    fn destroy_graph(&self, graph: RawGraph);
}
