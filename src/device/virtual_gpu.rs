//! The virtual GPU as a [`Device`]: runs the PTX of the compiled kernels on the CPU, with every access checked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::{DataType, Fill, TensorMap as VirtualTensorMap};
use virtual_gpu::{Description, Event, Function, Gpu, Graph, Launch, Module, Options, Stream};

use super::{
    Deflated, Device, DeviceProperties, FunctionAttributes, LaunchConfig, ModuleImage, RawEvent, RawFunction,
    RawGraph, RawModule, RawStream, TensorMap, TensorMapSpec, next_id,
};
use crate::error::{Error, Result};
use crate::kernels::compiled::CompiledKernel;
use crate::tensor::DType;

/// A virtual GPU. What it finds wrong in a kernel is the error of the launch, or of the copy that reads the result.
pub struct VirtualDevice {
    gpu: Gpu,
    id: u64,
    properties: DeviceProperties,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    modules: Vec<(Module, &'static [CompiledKernel])>,
    functions: Vec<Function>,
    graphs: HashMap<RawGraph, Graph>,
    last_graph: u64,
}

impl std::fmt::Debug for VirtualDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualDevice").field("id", &self.id).field("properties", &self.properties).finish()
    }
}

impl Default for VirtualDevice {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtualDevice {
    /// A virtual H200 with every check on, on all cores where the blocks of a kernel do not talk to each
    /// other.
    pub fn new() -> Self {
        Self::with(Description::h200(), Options { threads: 0, ..Options::default() })
    }

    /// A virtual GPU of this description, with these checks and this order of what nothing orders.
    pub fn with(description: Description, options: Options) -> Self {
        let properties = DeviceProperties {
            name: description.name.clone(),
            compute_capability: description.compute_capability,
            num_sms: description.num_sms,
            max_shared_bytes: description.shared_per_cta_optin,
            registers_per_sm: description.registers_per_sm,
            l2_bytes: description.l2_bytes.into(),
            memory_bytes: description.memory_bytes,
        };
        let gpu = Gpu::with_options(description, options);
        VirtualDevice { gpu, id: next_id(), properties, state: Mutex::default() }
    }

    /// The virtual GPU itself: its findings, counters and options.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns what the virtual GPU said or found into this call's result. Findings are taken, so that each is reported
    /// once, by the call that caused it.
    fn outcome(&self, call: &str, result: std::result::Result<(), virtual_gpu::Error>) -> Result<()> {
        let findings = self.gpu.take_findings();
        let message = match (findings.first(), result) {
            (None, Ok(())) => return Ok(()),
            (None, Err(error)) => error.to_string(),
            (Some(first), _) if findings.len() == 1 => format!("the virtual GPU found\n{first}"),
            (Some(first), _) => {
                format!("the virtual GPU found {} things, the first\n{first}", findings.len())
            }
        };
        Err(Error::Device { call: call.to_owned(), message })
    }

    /// The module of this PTX. Decoding it takes longer than most launches, so the process keeps what it decoded.
    fn decoded(&self, ptx: Deflated<'_>) -> std::result::Result<Module, String> {
        /// By packed PTX. Held while it is decoded, so that this happens once.
        type Decoded = BTreeMap<Vec<u8>, Arc<Mutex<Option<Module>>>>;
        static DECODED: Mutex<Decoded> = Mutex::new(BTreeMap::new());
        let entry = {
            let mut decoded = DECODED.lock().unwrap_or_else(PoisonError::into_inner);
            decoded.entry(ptx.0.to_vec()).or_default().clone()
        };
        let mut known = entry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = &*known
            && let Some(module) = self.gpu.load_decoded(module).map_err(|error| error.to_string())?
        {
            return Ok(module);
        }
        let text = ptx.inflate().map_err(|error| error.to_string())?;
        let text = String::from_utf8(text).map_err(|_| "its PTX is not text".to_owned())?;
        let module = self.gpu.load_module(&text).map_err(|error| error.to_string())?;
        *known = Some(module.clone());
        Ok(module)
    }

    fn function_of(&self, function: RawFunction) -> Result<Function> {
        let found = self.state().functions.get(function.0 as usize).cloned();
        found.ok_or_else(|| device_error("launch", format!("no function {function:?} on this device")))
    }
}

fn device_error(call: &str, message: String) -> Error {
    Error::Device { call: call.to_owned(), message }
}

impl Device for VirtualDevice {
    fn id(&self) -> u64 {
        self.id
    }

    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn memory_info(&self) -> Result<(u64, u64)> {
        Ok(self.gpu.mem_info())
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        self.gpu.alloc(bytes.max(1)).map_err(|error| match error {
            virtual_gpu::Error::OutOfMemory => {
                let (free, total) = self.gpu.mem_info();
                Error::OutOfMemory { wanted: bytes, free, total }
            }
            other => device_error("allocate", other.to_string()),
        })
    }

    unsafe fn free(&self, pointer: u64) {
        // An address that is not the start of an allocation is left alone, as the driver does.
        let _ = self.gpu.free(pointer);
    }

    unsafe fn set(&self, pointer: u64, value: u8, bytes: u64, stream: RawStream) -> Result<()> {
        self.outcome("set", self.gpu.set_async(pointer, &[value], bytes, Stream(stream.0)))
    }

    unsafe fn copy_to_device(&self, to: u64, from: &[u8], stream: RawStream) -> Result<()> {
        self.outcome("copy to the device", self.gpu.write_async(to, from, Stream(stream.0)))
    }

    unsafe fn copy_to_host(&self, to: &mut [u8], from: u64, stream: RawStream) -> Result<()> {
        self.outcome("copy to the host", self.gpu.read_async(from, to, Stream(stream.0)))
    }

    unsafe fn copy_on_device(&self, to: u64, from: u64, bytes: u64, stream: RawStream) -> Result<()> {
        self.outcome("copy on the device", self.gpu.copy_async(to, from, bytes, Stream(stream.0)))
    }

    fn create_stream(&self) -> Result<RawStream> {
        Ok(RawStream(self.gpu.create_stream(false).0))
    }

    fn destroy_stream(&self, stream: RawStream) {
        // What its last work did wrong would have been said by a synchronise, had anyone asked.
        let _ = self.gpu.destroy_stream(Stream(stream.0));
    }

    fn synchronize(&self, stream: RawStream) -> Result<()> {
        self.outcome("synchronize", self.gpu.stream_synchronize(Stream(stream.0)))
    }

    fn create_event(&self) -> Result<RawEvent> {
        Ok(RawEvent(self.gpu.create_event().0))
    }

    fn destroy_event(&self, event: RawEvent) {
        // As for streams.
        let _ = self.gpu.destroy_event(Event(event.0));
    }

    fn record_event(&self, event: RawEvent, stream: RawStream) -> Result<()> {
        self.outcome("record event", self.gpu.record_event(Event(event.0), Stream(stream.0)))
    }

    fn wait_event(&self, event: RawEvent, stream: RawStream) -> Result<()> {
        self.outcome("wait for event", self.gpu.wait_event(Stream(stream.0), Event(event.0)))
    }

    fn elapsed_us(&self, _start: RawEvent, _end: RawEvent) -> Result<f64> {
        // Its events count instructions and bytes, which no clock of a chip does.
        Err(device_error("elapsed", "the virtual GPU counts work and has no time".to_owned()))
    }

    fn load_module(&self, name: &str, image: ModuleImage<'_>) -> Result<RawModule> {
        let module = self
            .decoded(image.ptx)
            .map_err(|message| device_error(&format!("load of module {name}"), message))?;
        let mut state = self.state();
        state.modules.push((module, image.kernels));
        Ok(RawModule(state.modules.len() as u64 - 1))
    }

    fn function(&self, module: RawModule, name: &str) -> Result<RawFunction> {
        let mut state = self.state();
        let found = state.modules.get(module.0 as usize).and_then(|(module, kernels)| {
            let function = module.function(name)?;
            let (major, minor) = self.properties.compute_capability;
            let arch = format!("sm_{major}{minor}");
            let runs = |k: &&CompiledKernel| k.name == name && k.arch.trim_end_matches('a') == arch;
            // PTX does not say how many registers its machine code takes; ptxas did.
            kernels.iter().find(runs).into_iter().for_each(|k| function.set_registers(k.registers));
            Some(function)
        });
        let function =
            found.ok_or_else(|| device_error("function", format!("no kernel {name} in the module")))?;
        state.functions.push(function);
        Ok(RawFunction(state.functions.len() as u64 - 1))
    }

    fn function_attributes(&self, function: RawFunction) -> Result<FunctionAttributes> {
        let attributes = self.gpu.attributes(&self.function_of(function)?);
        Ok(FunctionAttributes {
            registers: Some(attributes.registers),
            static_shared_bytes: attributes.static_shared_bytes,
            local_bytes: attributes.local_bytes,
            max_threads: attributes.max_threads,
        })
    }

    fn set_max_dynamic_shared(&self, function: RawFunction, bytes: u32) -> Result<()> {
        let function = self.function_of(function)?;
        let most = self.properties.max_shared_bytes - self.gpu.attributes(&function).static_shared_bytes;
        if bytes > most {
            let message = format!("{bytes} bytes for {}, at most {most}", function.name());
            return Err(device_error("dynamic shared memory", message));
        }
        function.set_max_dynamic_shared(bytes);
        Ok(())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        let refuse = |message: String| device_error("encode tensor map", message);
        let data_type = match spec.dtype {
            DType::F32 => DataType::F32,
            DType::BF16 => DataType::Bf16,
            DType::F16 => DataType::F16,
            DType::I32 => DataType::I32,
        };
        let swizzle = match spec.swizzle_bytes {
            0 => Swizzle::None,
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            128 => Swizzle::B128,
            other => return Err(refuse(format!("a swizzle of {other} bytes, expected 0, 32, 64 or 128"))),
        };
        let map = VirtualTensorMap {
            data_type,
            address: spec.pointer,
            dims: spec.dims.clone(),
            strides: spec.strides.clone(),
            box_dims: spec.tile.clone(),
            element_strides: vec![1; spec.dims.len()],
            swizzle,
            fill: Fill::Zero,
        };
        map.encode().map(TensorMap).map_err(|error| refuse(error.to_string()))
    }

    unsafe fn launch(
        &self,
        function: RawFunction,
        config: &LaunchConfig,
        args: &[&[u8]],
        stream: RawStream,
    ) -> Result<()> {
        let function = self.function_of(function)?;
        let launch = Launch {
            grid: config.grid,
            block: config.block,
            cluster: (config.cluster != [1; 3]).then_some(config.cluster),
            dynamic_shared_bytes: config.dynamic_shared_bytes,
            cooperative: config.cooperative,
            programmatic_dependent: config.programmatic_dependent,
            args,
        };
        let result = self.gpu.launch(&function, &launch, Stream(stream.0));
        self.outcome(&format!("launch of {}", function.name()), result)
    }

    fn begin_capture(&self, stream: RawStream) -> Result<()> {
        self.outcome("begin capture", self.gpu.begin_capture(Stream(stream.0)))
    }

    fn end_capture(&self, stream: RawStream) -> Result<RawGraph> {
        let captured = self.gpu.end_capture(Stream(stream.0));
        let graph = captured.map_err(|error| device_error("end capture", error.to_string()))?;
        let mut state = self.state();
        state.last_graph += 1;
        let raw = RawGraph(state.last_graph);
        state.graphs.insert(raw, graph);
        Ok(raw)
    }

    unsafe fn launch_graph(&self, graph: RawGraph, stream: RawStream) -> Result<()> {
        let found = self.state().graphs.get(&graph).cloned();
        let found = found
            .ok_or_else(|| device_error("launch graph", format!("no graph {graph:?} on this device")))?;
        self.outcome("launch graph", self.gpu.launch_graph(&found, Stream(stream.0)))
    }

    fn destroy_graph(&self, graph: RawGraph) {
        self.state().graphs.remove(&graph);
    }
}
