//! The CUDA driver as a [`Device`], through cudarc, which loads libcuda at run time.

use std::ffi::{CString, c_uint, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut, DriverError, result};

use super::{
    Device, DeviceProperties, FunctionAttributes, LaunchConfig, ModuleImage, RawEvent, RawFunction, RawGraph,
    RawModule, RawStream, TensorMap, TensorMapSpec, next_id,
};
use crate::error::{Error, Result};
use crate::kernels::compiled;
use crate::tensor::{DType, Element, Place, Tensor, TensorMut, TensorView};

/// Driver branch that runs code of CUDA 13.
const DRIVER_BRANCH: u32 = 580;

/// What this file calls in the driver, through cudarc too, which panics at the first call of one that is not there.
const ENTRY_POINTS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
];

/// One NVIDIA GPU, in its primary context.
#[derive(Debug)]
pub struct CudaDevice {
    context: Arc<CudaContext>,
    id: u64,
    properties: DeviceProperties,
}

/// Whether a driver and a device answer, asked without cudarc (which panics where there is no driver).
///
/// # Errors
/// [`Error::NoDriver`], [`Error::NoDevice`], [`Error::DriverTooOld`].
pub fn probe() -> Result<()> {
    // SAFETY: loading the driver runs its initialisers, as every CUDA program does.
    let library = unsafe { libloading::Library::new("libcuda.so.1") }
        .map_err(|error| Error::NoDriver(error.to_string()))?;
    let entry = |name: &str| -> Result<usize> {
        // SAFETY: the symbol is only kept as an address here.
        unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }
            .map(|symbol| *symbol as usize)
            .map_err(|_| Error::NoDriver(format!("libcuda.so.1 lacks {name}")))
    };
    let init = entry("cuInit")?;
    let get_version = entry("cuDriverGetVersion")?;
    // SAFETY: these are the C signatures of cuInit and cuDriverGetVersion in every driver.
    let (init, get_version) = unsafe {
        (
            std::mem::transmute::<usize, unsafe extern "C" fn(c_uint) -> i32>(init),
            std::mem::transmute::<usize, unsafe extern "C" fn(*mut i32) -> i32>(get_version),
        )
    };
    // SAFETY: cuInit takes 0 flags and may be called any number of times.
    match unsafe { init(0) } {
        0 => {}
        34 => {
            let message = "libcuda.so.1 is a toolkit's stub, not a driver: CUDA_ERROR_STUB_LIBRARY";
            return Err(Error::NoDriver(message.to_owned()));
        }
        100 => return Err(Error::NoDevice("CUDA_ERROR_NO_DEVICE".to_owned())),
        code => return Err(Error::NoDevice(format!("cuInit returned {code}"))),
    }
    let mut version = 0;
    // SAFETY: the pointer is to a live i32.
    let code = unsafe { get_version(&mut version) };
    let built = compiled::compiler_version()?;
    let built_major: i32 = built.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if code == 0 && version / 1000 < built_major {
        return Err(Error::DriverTooOld {
            driver: format!("{}.{}", version / 1000, version % 1000 / 10),
            built: built.to_owned(),
            needed_branch: DRIVER_BRANCH,
        });
    }
    // After the version, which says more of an old driver than what it lacks.
    for name in ENTRY_POINTS {
        entry(name)?;
    }
    // Which of the two cudarc calls depends on the CUDA version it was built for.
    entry("cuEventElapsedTime_v2").or_else(|_| entry("cuEventElapsedTime"))?;
    // The driver stays loaded: unloading it while it has threads is not supported.
    std::mem::forget(library);
    Ok(())
}

impl CudaDevice {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// What [`probe`] gives, and [`Error::NoDevice`] when there is no such device.
    pub fn new(ordinal: usize) -> Result<Self> {
        probe()?;
        let context = CudaContext::new(ordinal)
            .map_err(|error| Error::NoDevice(format!("device {ordinal}: {}", words(error))))?;
        // SAFETY: nothing was allocated yet; this crate orders its work by streams alone, and makes no CudaSlice.
        unsafe { context.disable_event_tracking() };
        let call = |what: &str, error: DriverError| device_error(what, error);
        let attribute = |which: sys::CUdevice_attribute| -> Result<u32> {
            context.attribute(which).map(|value| value as u32).map_err(|e| call("cuDeviceGetAttribute", e))
        };
        use sys::CUdevice_attribute as A;
        let properties = DeviceProperties {
            name: context.name().map_err(|e| call("cuDeviceGetName", e))?,
            compute_capability: (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            num_sms: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            max_shared_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            registers_per_sm: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
            l2_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as u64,
            memory_bytes: context.total_mem().map_err(|e| call("cuDeviceTotalMem", e))? as u64,
        };
        Ok(CudaDevice { context, id: next_id(), properties })
    }

    /// cudarc's own handle, for engines that use it too.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A tensor over a cudarc slice or view, dense in `shape`. Work on it must be ordered after what cudarc still has
    /// to do with it: in the slice's own stream, or after waiting for that.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the slice has another number of elements or is on another device.
    pub fn tensor<'a, T, S>(
        &self,
        slice: &'a S,
        stream: &'a CudaStream,
        shape: &[usize],
    ) -> Result<Tensor<'a>>
    where
        T: Element,
        S: DevicePtr<T>,
    {
        let (pointer, _guard) = slice.device_ptr(stream);
        let view = self.view::<T>(pointer, slice.len(), stream, shape)?;
        // SAFETY: `view` checked the length and the device; the slice is borrowed for 'a.
        Ok(unsafe { Tensor::from_raw(view, Place::Device(self.id)) })
    }

    /// As [`CudaDevice::tensor`], for writing.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the slice has another number of elements or is on another device.
    pub fn tensor_mut<'a, T, S>(
        &self,
        slice: &'a mut S,
        stream: &'a CudaStream,
        shape: &[usize],
    ) -> Result<TensorMut<'a>>
    where
        T: Element,
        S: DevicePtrMut<T>,
    {
        let len = slice.len();
        let (pointer, _guard) = slice.device_ptr_mut(stream);
        let view = self.view::<T>(pointer, len, stream, shape)?;
        // SAFETY: `view` checked the length and the device; the slice is borrowed exclusively for 'a.
        Ok(unsafe { TensorMut::from_raw(view, Place::Device(self.id)) })
    }

    fn view<T: Element>(
        &self,
        pointer: u64,
        len: usize,
        stream: &CudaStream,
        shape: &[usize],
    ) -> Result<TensorView> {
        let wanted: usize = shape.iter().product();
        let same_device = stream.context().cu_device() == self.context.cu_device();
        if wanted != len || !same_device {
            let message = format!(
                "shape {shape:?} on device {}, the slice has {len} elements on device {}",
                self.context.ordinal(),
                stream.context().ordinal()
            );
            return Err(Error::Tensor { operation: "tensor", message });
        }
        Ok(TensorView::dense(pointer, T::DTYPE, shape))
    }

    /// Makes this device's context the thread's current one, and names the call that failed.
    fn call<T>(&self, what: &str, work: impl FnOnce() -> std::result::Result<T, DriverError>) -> Result<T> {
        self.context.bind_to_thread().and_then(|()| work()).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => Error::NoCodeForDevice {
                device: self.properties.name.clone(),
                capability: format!(
                    "{}.{}",
                    self.properties.compute_capability.0, self.properties.compute_capability.1
                ),
                built: "compute capability 8.0 and newer".to_owned(),
            },
            _ => device_error(what, error),
        })
    }
}

/// The driver's code; its words need a second driver call, so the code's own name is used.
fn words(error: DriverError) -> String {
    format!("{:?}", error.0)
}

fn device_error(call: &str, error: DriverError) -> Error {
    Error::Device { call: call.to_owned(), message: words(error) }
}

fn stream_of(stream: RawStream) -> sys::CUstream {
    stream.0 as sys::CUstream
}

fn event_of(event: RawEvent) -> sys::CUevent {
    event.0 as sys::CUevent
}

fn function_of(function: RawFunction) -> sys::CUfunction {
    function.0 as sys::CUfunction
}

impl Device for CudaDevice {
    fn id(&self) -> u64 {
        self.id
    }

    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn memory_info(&self) -> Result<(u64, u64)> {
        self.call("cuMemGetInfo", result::mem_get_info).map(|(free, total)| (free as u64, total as u64))
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        // SAFETY: allocation has no preconditions but a current context.
        let allocated =
            self.call("cuMemAlloc", || Ok(unsafe { result::malloc_sync(bytes.max(1) as usize) }))?;
        match allocated {
            Ok(pointer) => Ok(pointer),
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.memory_info()?;
                Err(Error::OutOfMemory { wanted: bytes, free, total })
            }
            Err(error) => Err(device_error("cuMemAlloc", error)),
        }
    }

    unsafe fn free(&self, pointer: u64) {
        // A failure here means that the context is gone, and the memory with it.
        // SAFETY: the caller vouches for the pointer.
        let _ = self.call("cuMemFree", || unsafe { result::free_sync(pointer) });
    }

    unsafe fn set(&self, pointer: u64, value: u8, bytes: u64, stream: RawStream) -> Result<()> {
        // SAFETY: the caller vouches for the range.
        self.call("cuMemsetD8Async", || unsafe {
            result::memset_d8_async(pointer, value, bytes as usize, stream_of(stream))
        })
    }

    unsafe fn copy_to_device(&self, to: u64, from: &[u8], stream: RawStream) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller vouches for `to`; pageable memory is staged before the call returns, and the
        // synchronise covers a caller that passes pinned memory.
        self.call("cuMemcpyHtoDAsync", || unsafe {
            result::memcpy_htod_async(to, from, stream_of(stream))?;
            result::stream::synchronize(stream_of(stream))
        })
    }

    unsafe fn copy_to_host(&self, to: &mut [u8], from: u64, stream: RawStream) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller vouches for `from`; `to` is borrowed until the synchronise is done.
        self.call("cuMemcpyDtoHAsync", || unsafe {
            result::memcpy_dtoh_async(to, from, stream_of(stream))?;
            result::stream::synchronize(stream_of(stream))
        })
    }

    unsafe fn copy_on_device(&self, to: u64, from: u64, bytes: u64, stream: RawStream) -> Result<()> {
        // SAFETY: the caller vouches for both ranges.
        self.call("cuMemcpyDtoDAsync", || unsafe {
            result::memcpy_dtod_async(to, from, bytes as usize, stream_of(stream))
        })
    }

    fn create_stream(&self) -> Result<RawStream> {
        let create = || result::stream::create(result::stream::StreamKind::NonBlocking);
        self.call("cuStreamCreate", create).map(|stream| RawStream(stream as u64))
    }

    fn destroy_stream(&self, stream: RawStream) {
        // A failure here means that the context is gone, and the stream with it.
        // SAFETY: the stream was made by `create_stream`; the driver finishes its work before it goes.
        let _ = self.call("cuStreamDestroy", || unsafe { result::stream::destroy(stream_of(stream)) });
    }

    fn synchronize(&self, stream: RawStream) -> Result<()> {
        // SAFETY: a stream of this context.
        self.call("cuStreamSynchronize", || unsafe { result::stream::synchronize(stream_of(stream)) })
    }

    fn create_event(&self) -> Result<RawEvent> {
        let create = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        self.call("cuEventCreate", create).map(|event| RawEvent(event as u64))
    }

    fn destroy_event(&self, event: RawEvent) {
        // A failure here means that the context is gone, and the event with it.
        // SAFETY: the event was made by `create_event`.
        let _ = self.call("cuEventDestroy", || unsafe { result::event::destroy(event_of(event)) });
    }

    fn record_event(&self, event: RawEvent, stream: RawStream) -> Result<()> {
        // SAFETY: an event and a stream of this context.
        self.call("cuEventRecord", || unsafe { result::event::record(event_of(event), stream_of(stream)) })
    }

    fn wait_event(&self, event: RawEvent, stream: RawStream) -> Result<()> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: an event and a stream of this context.
        self.call("cuStreamWaitEvent", || unsafe {
            result::stream::wait_event(stream_of(stream), event_of(event), flags)
        })
    }

    fn elapsed_us(&self, start: RawEvent, end: RawEvent) -> Result<f64> {
        // SAFETY: events of this context; the later one is waited for first.
        self.call("cuEventElapsedTime", || unsafe {
            result::event::synchronize(event_of(end))?;
            result::event::elapsed(event_of(start), event_of(end))
        })
        .map(|milliseconds| milliseconds as f64 * 1e3)
    }

    fn load_module(&self, name: &str, image: ModuleImage<'_>) -> Result<RawModule> {
        let fatbin = image.fatbin.inflate()?;
        // SAFETY: the image is a whole fatbin made by nvcc; the driver copies what it needs.
        self.call(&format!("cuModuleLoadData({name})"), || unsafe {
            result::module::load_data(fatbin.as_ptr().cast::<c_void>())
        })
        .map(|module| RawModule(module as u64))
    }

    fn function(&self, module: RawModule, name: &str) -> Result<RawFunction> {
        let c_name = CString::new(name).map_err(|_| Error::Device {
            call: "cuModuleGetFunction".to_owned(),
            message: format!("{name:?} holds a zero byte"),
        })?;
        // SAFETY: the module was loaded by this device and is never unloaded.
        self.call(&format!("cuModuleGetFunction({name})"), || unsafe {
            result::module::get_function(module.0 as sys::CUmodule, c_name)
        })
        .map(|function| RawFunction(function as u64))
    }

    fn function_attributes(&self, function: RawFunction) -> Result<FunctionAttributes> {
        use sys::CUfunction_attribute_enum as A;
        let attribute = |which: A| {
            // SAFETY: a function of this context.
            self.call("cuFuncGetAttribute", || unsafe {
                result::function::get_function_attribute(function_of(function), which)
            })
            .map(|value| value as u32)
        };
        Ok(FunctionAttributes {
            registers: Some(attribute(A::CU_FUNC_ATTRIBUTE_NUM_REGS)?),
            static_shared_bytes: attribute(A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            local_bytes: attribute(A::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            max_threads: attribute(A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        })
    }

    fn set_max_dynamic_shared(&self, function: RawFunction, bytes: u32) -> Result<()> {
        let which = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a function of this context.
        self.call(&format!("cuFuncSetAttribute(dynamic shared memory, {bytes})"), || unsafe {
            result::function::set_function_attribute(function_of(function), which, bytes as i32)
        })
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        use sys::{
            CUtensorMapDataType as Type, CUtensorMapFloatOOBfill as Fill,
            CUtensorMapInterleave as Interleave, CUtensorMapL2promotion as Promotion,
            CUtensorMapSwizzle as Swizzle,
        };
        let refuse = |message: String| Error::Device { call: "cuTensorMapEncodeTiled".to_owned(), message };
        let rank = spec.dims.len();
        if !(1..=5).contains(&rank) || spec.strides.len() + 1 != rank || spec.tile.len() != rank {
            return Err(refuse(format!(
                "{rank} dimensions, {} strides, {} tile sizes",
                spec.strides.len(),
                spec.tile.len()
            )));
        }
        let dtype = match spec.dtype {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
        };
        let swizzle = match spec.swizzle_bytes {
            0 => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            other => return Err(refuse(format!("a swizzle of {other} bytes, expected 0, 32, 64 or 128"))),
        };
        let mut map = TensorMap([0; 128]);
        let ones = [1u32; 5];
        // SAFETY: every array has `rank` (strides: rank - 1) elements, as checked; the map is 128 bytes, 128-aligned.
        self.call("cuTensorMapEncodeTiled", || unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                dtype,
                rank as u32,
                spec.pointer as *mut c_void,
                spec.dims.as_ptr(),
                spec.strides.as_ptr(),
                spec.tile.as_ptr(),
                ones.as_ptr(),
                Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
        })?;
        Ok(map)
    }

    unsafe fn launch(
        &self,
        function: RawFunction,
        config: &LaunchConfig,
        args: &[&[u8]],
        stream: RawStream,
    ) -> Result<()> {
        let mut pointers: Vec<*mut c_void> = args.iter().map(|arg| arg.as_ptr() as *mut c_void).collect();
        // SAFETY: an all-zero attribute is a valid value of this plain C struct.
        let mut attributes: [sys::CUlaunchAttribute; 3] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        let mut add = |id, value| {
            attributes[count].id = id;
            attributes[count].value = value;
            count += 1;
        };
        // SAFETY: an all-zero value is valid for each member of this plain C union.
        let zeroed = || unsafe { std::mem::zeroed::<sys::CUlaunchAttributeValue>() };
        use sys::CUlaunchAttributeID as Id;
        if config.cluster != [1; 3] {
            let mut value = zeroed();
            value.clusterDim.x = config.cluster[0];
            value.clusterDim.y = config.cluster[1];
            value.clusterDim.z = config.cluster[2];
            add(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, value);
        }
        if config.cooperative {
            let mut value = zeroed();
            value.cooperative = 1;
            add(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, value);
        }
        if config.programmatic_dependent {
            let mut value = zeroed();
            value.programmaticStreamSerializationAllowed = 1;
            add(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, value);
        }
        let launch = sys::CUlaunchConfig {
            gridDimX: config.grid[0],
            gridDimY: config.grid[1],
            gridDimZ: config.grid[2],
            blockDimX: config.block[0],
            blockDimY: config.block[1],
            blockDimZ: config.block[2],
            sharedMemBytes: config.dynamic_shared_bytes,
            hStream: stream_of(stream),
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        };
        // SAFETY: the caller vouches for the arguments; attributes and pointers live through the call.
        self.call("cuLaunchKernelEx", || unsafe {
            sys::cuLaunchKernelEx(&launch, function_of(function), pointers.as_mut_ptr(), std::ptr::null_mut())
                .result()
        })
    }

    fn begin_capture(&self, stream: RawStream) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream of this context.
        self.call("cuStreamBeginCapture", || unsafe {
            result::stream::begin_capture(stream_of(stream), mode)
        })
    }

    fn end_capture(&self, stream: RawStream) -> Result<RawGraph> {
        // SAFETY: the stream is being captured, or the driver says that it is not; the graph is destroyed once its
        // executable form exists.
        self.call("cuStreamEndCapture", || unsafe {
            let graph = result::stream::end_capture(stream_of(stream))?;
            let mut executable = std::ptr::null_mut();
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result();
            result::graph::destroy(graph)?;
            made.map(|()| RawGraph(executable as u64))
        })
    }

    unsafe fn launch_graph(&self, graph: RawGraph, stream: RawStream) -> Result<()> {
        // SAFETY: the caller vouches for the memory the graph uses.
        self.call("cuGraphLaunch", || unsafe {
            result::graph::launch(graph.0 as sys::CUgraphExec, stream_of(stream))
        })
    }

    fn destroy_graph(&self, graph: RawGraph) {
        // A failure here means that the context is gone, and the graph with it.
        // SAFETY: the graph was made by `end_capture`.
        let _ = self.call("cuGraphExecDestroy", || unsafe {
            result::graph::exec_destroy(graph.0 as sys::CUgraphExec)
        });
    }
}
