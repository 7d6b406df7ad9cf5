//! A CUDA driver whose only device is a virtual GPU: `libcuda.so.1` for programs that load the driver at run time.
//!
//! Put it on `LD_LIBRARY_PATH` under that name. It has the entry points that cudarc calls to run kernels: device,
//! primary context, memory, streams, events, modules, launches, graphs, tensor maps. Modules must contain PTX: text, or
//! a fatbin, compressed (nvcc 13) or not. What the virtual GPU finds wrong goes to standard error, and fails the call
//! that waits for the work with CUDA_ERROR_LAUNCH_FAILED. What kernels print goes to standard output.
//!
//! Environment: `VIRTUAL_GPU_DEVICE` is `h200` (default), `a100`, `t4` (compute capability 7.5 and nothing else of a T4:
//! for code that does not run there) or `none`; `VIRTUAL_GPU_MEMORY` limits device memory in bytes; `VIRTUAL_GPU_DRIVER_VERSION` is what the driver says of itself, such as 12040 (default 13000).

mod attributes;
mod fatbin;
mod launch;
mod modules;
mod objects;

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use virtual_gpu::{Description, Error, Function, Gpu, Graph, Module};

/// The driver's result codes that this one gives.
#[allow(missing_docs)]
pub mod code {
    pub const SUCCESS: i32 = 0;
    pub const INVALID_VALUE: i32 = 1;
    pub const OUT_OF_MEMORY: i32 = 2;
    pub const NOT_INITIALIZED: i32 = 3;
    pub const NO_DEVICE: i32 = 100;
    pub const INVALID_DEVICE: i32 = 101;
    pub const NO_BINARY_FOR_GPU: i32 = 209;
    pub const INVALID_PTX: i32 = 218;
    pub const INVALID_HANDLE: i32 = 400;
    pub const ILLEGAL_STATE: i32 = 401;
    pub const NOT_FOUND: i32 = 500;
    pub const NOT_READY: i32 = 600;
    pub const ILLEGAL_ADDRESS: i32 = 700;
    pub const LAUNCH_OUT_OF_RESOURCES: i32 = 701;
    pub const LAUNCH_TIMEOUT: i32 = 702;
    pub const ASSERT: i32 = 710;
    pub const ILLEGAL_INSTRUCTION: i32 = 715;
    pub const MISALIGNED_ADDRESS: i32 = 716;
    pub const LAUNCH_FAILED: i32 = 719;
    pub const COOPERATIVE_LAUNCH_TOO_LARGE: i32 = 720;
    pub const STREAM_CAPTURE_UNSUPPORTED: i32 = 900;
    pub const STREAM_CAPTURE_INVALIDATED: i32 = 901;
    pub const STREAM_CAPTURE_MERGE: i32 = 902;
    pub const STREAM_CAPTURE_UNMATCHED: i32 = 903;
    pub const STREAM_CAPTURE_UNJOINED: i32 = 904;
    pub const STREAM_CAPTURE_ISOLATION: i32 = 905;
    pub const STREAM_CAPTURE_IMPLICIT: i32 = 906;
    pub const CAPTURED_EVENT: i32 = 907;
    pub const INVALID_CLUSTER_SIZE: i32 = 912;
}

/// The one device, and what handles stand for. Handles are small numbers, never addresses.
struct Driver {
    gpu: Gpu,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    last: usize,
    modules: HashMap<usize, Module>,
    /// Decoded modules without variables, by their image.
    images: HashMap<Vec<u8>, Module>,
    functions: HashMap<usize, Function>,
    graphs: HashMap<usize, Graph>,
}

impl Objects {
    fn new_handle(&mut self) -> usize {
        self.last += 1;
        self.last
    }
}

static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();

fn driver() -> Result<&'static Driver, i32> {
    match DRIVER.get() {
        Some(Some(driver)) => Ok(driver),
        Some(None) => Err(code::NO_DEVICE),
        None => Err(code::NOT_INITIALIZED),
    }
}

fn objects(driver: &Driver) -> MutexGuard<'_, Objects> {
    driver.objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result code of a call: what it failed with, or what the virtual GPU found in the meantime.
fn finish(work: impl FnOnce(&Driver) -> Result<(), i32>) -> i32 {
    let driver = match driver() {
        Ok(driver) => driver,
        Err(code) => return code,
    };
    let result = work(driver);
    let printed = driver.gpu.take_printed();
    if !printed.is_empty() {
        let mut out = std::io::stdout().lock();
        // Who has closed standard output does not want to read it.
        let _ = out.write_all(&printed).and_then(|()| out.flush());
    }
    let findings = driver.gpu.take_findings();
    for finding in &findings {
        eprintln!("virtual GPU: {finding}");
    }
    match result {
        Err(code) => code,
        Ok(()) if findings.is_empty() => code::SUCCESS,
        Ok(()) => code::LAUNCH_FAILED,
    }
}

/// The driver's code for what the virtual GPU says.
fn code_of(error: Error) -> i32 {
    match error {
        Error::InvalidValue(why) => {
            eprintln!("virtual GPU: {why}");
            code::INVALID_VALUE
        }
        Error::OutOfMemory => code::OUT_OF_MEMORY,
        Error::OutOfResources(why) => {
            eprintln!("virtual GPU: {why}");
            code::LAUNCH_OUT_OF_RESOURCES
        }
        Error::InvalidCluster(why) => {
            eprintln!("virtual GPU: {why}");
            code::INVALID_CLUSTER_SIZE
        }
        Error::CooperativeTooLarge(why) => {
            eprintln!("virtual GPU: {why}");
            code::COOPERATIVE_LAUNCH_TOO_LARGE
        }
        Error::InvalidPtx(why) => {
            eprintln!("virtual GPU: {why}");
            code::INVALID_PTX
        }
        Error::NoBinaryForGpu(why) => {
            eprintln!("virtual GPU: {why}");
            code::NO_BINARY_FOR_GPU
        }
        Error::IllegalAddress => code::ILLEGAL_ADDRESS,
        Error::MisalignedAddress => code::MISALIGNED_ADDRESS,
        Error::IllegalInstruction => code::ILLEGAL_INSTRUCTION,
        Error::Assert => code::ASSERT,
        Error::Timeout => code::LAUNCH_TIMEOUT,
        Error::CaptureUnsupported(_) => code::STREAM_CAPTURE_UNSUPPORTED,
        Error::CaptureInvalidated(_) => code::STREAM_CAPTURE_INVALIDATED,
        Error::CaptureMerge(_) => code::STREAM_CAPTURE_MERGE,
        Error::CaptureUnmatched(_) => code::STREAM_CAPTURE_UNMATCHED,
        Error::CaptureUnjoined(_) => code::STREAM_CAPTURE_UNJOINED,
        Error::CaptureIsolation(_) => code::STREAM_CAPTURE_ISOLATION,
        Error::CaptureImplicit(_) => code::STREAM_CAPTURE_IMPLICIT,
        Error::CapturedEvent(_) => code::CAPTURED_EVENT,
        Error::IllegalState(_) => code::ILLEGAL_STATE,
        Error::NotReady => code::NOT_READY,
        _ => code::LAUNCH_FAILED,
    }
}

/// Writes through an out pointer of the caller.
///
/// # Safety
/// `to` is null or points to a writable `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Result<(), i32> {
    if to.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: not null, so by contract a writable T; the caller of the driver may not have aligned it.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

fn open() -> Option<Driver> {
    let mut description = match std::env::var("VIRTUAL_GPU_DEVICE").as_deref() {
        Ok("none") => return None,
        Ok("a100") => Description::a100(),
        Ok("t4") => {
            Description { name: "Virtual T4".to_owned(), compute_capability: (7, 5), ..Description::a100() }
        }
        _ => Description::h200(),
    };
    if let Some(bytes) = std::env::var("VIRTUAL_GPU_MEMORY").ok().and_then(|bytes| bytes.parse().ok()) {
        description.memory_bytes = bytes;
    }
    Some(Driver { gpu: Gpu::new(description), objects: Mutex::default() })
}

/// Opens the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> c_int {
    if flags != 0 {
        return code::INVALID_VALUE;
    }
    match DRIVER.get_or_init(open) {
        Some(_) => code::SUCCESS,
        None => code::NO_DEVICE,
    }
}

/// The CUDA version of the driver.
///
/// # Safety
/// `version` is null or points to a writable int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    let says =
        std::env::var("VIRTUAL_GPU_DRIVER_VERSION").ok().and_then(|text| text.parse().ok()).unwrap_or(13000);
    // SAFETY: passed on from the caller.
    unsafe { put(version, says) }.err().unwrap_or(code::SUCCESS)
}

/// Name of a result code.
///
/// # Safety
/// `text` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { put(text, name_of(error).as_ptr()) }.err().unwrap_or(code::SUCCESS)
}

/// Words for a result code.
///
/// # Safety
/// `text` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { put(text, name_of(error).as_ptr()) }.err().unwrap_or(code::SUCCESS)
}

fn name_of(error: c_int) -> &'static std::ffi::CStr {
    match error {
        code::SUCCESS => c"CUDA_SUCCESS",
        code::INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        code::OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        code::NOT_INITIALIZED => c"CUDA_ERROR_NOT_INITIALIZED",
        code::NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        code::INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        code::NO_BINARY_FOR_GPU => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        code::INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        code::INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        code::NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        code::NOT_READY => c"CUDA_ERROR_NOT_READY",
        code::ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        code::LAUNCH_OUT_OF_RESOURCES => c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        code::LAUNCH_TIMEOUT => c"CUDA_ERROR_LAUNCH_TIMEOUT",
        code::ASSERT => c"CUDA_ERROR_ASSERT",
        code::ILLEGAL_INSTRUCTION => c"CUDA_ERROR_ILLEGAL_INSTRUCTION",
        code::MISALIGNED_ADDRESS => c"CUDA_ERROR_MISALIGNED_ADDRESS",
        code::LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        code::COOPERATIVE_LAUNCH_TOO_LARGE => c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
        code::STREAM_CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        code::STREAM_CAPTURE_INVALIDATED => c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        code::STREAM_CAPTURE_MERGE => c"CUDA_ERROR_STREAM_CAPTURE_MERGE",
        code::STREAM_CAPTURE_UNMATCHED => c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
        code::STREAM_CAPTURE_UNJOINED => c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
        code::STREAM_CAPTURE_ISOLATION => c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        code::STREAM_CAPTURE_IMPLICIT => c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
        code::CAPTURED_EVENT => c"CUDA_ERROR_CAPTURED_EVENT",
        code::ILLEGAL_STATE => c"CUDA_ERROR_ILLEGAL_STATE",
        code::INVALID_CLUSTER_SIZE => c"CUDA_ERROR_INVALID_CLUSTER_SIZE",
        _ => c"CUDA_ERROR_UNKNOWN",
    }
}

/// Number of devices: one.
///
/// # Safety
/// `count` is null or points to a writable int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: passed on from the caller.
    finish(|_| unsafe { put(count, 1) })
}

/// The device of an ordinal; only 0 exists.
///
/// # Safety
/// `device` is null or points to a writable int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    finish(|_| match ordinal {
        // SAFETY: passed on from the caller.
        0 => unsafe { put(device, 0) },
        _ => Err(code::INVALID_DEVICE),
    })
}

/// The device's name, cut to `len` bytes with its zero.
///
/// # Safety
/// `name` points to `len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) -> c_int {
    finish(|driver| {
        let text = driver.gpu.description().name.as_bytes();
        if name.is_null() || len < 1 {
            return Err(code::INVALID_VALUE);
        }
        let shown = text.len().min(len as usize - 1);
        // SAFETY: `shown + 1 <= len` bytes, which the caller vouches for.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast::<u8>(), shown);
            name.add(shown).write(0);
        }
        Ok(())
    })
}

/// Bytes of device memory.
///
/// # Safety
/// `bytes` is null or points to a writable size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> c_int {
    // SAFETY: passed on from the caller.
    finish(|driver| unsafe { put(bytes, driver.gpu.description().memory_bytes as usize) })
}

/// The address that stands for the only context.
fn context() -> *mut c_void {
    static CONTEXT: u8 = 0;
    (&raw const CONTEXT).cast_mut().cast()
}

/// The primary context.
///
/// # Safety
/// `context_out` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context_out: *mut *mut c_void, _device: c_int) -> c_int {
    // SAFETY: passed on from the caller.
    finish(|_| unsafe { put(context_out, context()) })
}

/// Does nothing: the device lives as long as the process.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> c_int {
    code::SUCCESS
}

/// Does nothing: there is one context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_context: *mut c_void) -> c_int {
    code::SUCCESS
}

/// The only context.
///
/// # Safety
/// `context_out` is null or points to a writable pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context_out: *mut *mut c_void) -> c_int {
    // SAFETY: passed on from the caller.
    finish(|_| unsafe { put(context_out, context()) })
}

/// Waits for all work.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    finish(|driver| driver.gpu.synchronize().map_err(code_of))
}
