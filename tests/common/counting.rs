//! A device that counts what it is asked for.

use std::sync::Arc;
use std::sync::Mutex;

use nanomoe::Result;
use nanomoe::device::{
    Device, DeviceProperties, FunctionAttributes, LaunchConfig, ModuleImage, RawEvent, RawFunction, RawGraph,
    RawModule, RawStream, TensorMap, TensorMapSpec,
};

/// Calls since [`CountingDevice::take`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub allocations: usize,
    pub uploads: usize,
    pub downloads: usize,
    pub synchronizations: usize,
    pub launches: usize,
    /// Of those, with the programmatic-dependent attribute.
    pub dependent_launches: usize,
    pub graph_launches: usize,
}

/// Another device, and what it was asked for.
#[derive(Debug)]
pub struct CountingDevice {
    inner: Arc<dyn Device>,
    calls: Mutex<Calls>,
}

impl CountingDevice {
    pub fn new(inner: Arc<dyn Device>) -> Self {
        CountingDevice { inner, calls: Mutex::default() }
    }

    /// The calls so far, and starts anew.
    pub fn take(&self) -> Calls {
        std::mem::take(&mut self.calls.lock().expect("no panic while counting"))
    }

    fn count(&self, which: impl FnOnce(&mut Calls)) {
        which(&mut self.calls.lock().expect("no panic while counting"));
    }
}

impl Device for CountingDevice {
    fn id(&self) -> u64 {
        self.inner.id()
    }
    fn properties(&self) -> &DeviceProperties {
        self.inner.properties()
    }
    fn memory_info(&self) -> Result<(u64, u64)> {
        self.inner.memory_info()
    }
    fn allocate(&self, bytes: u64) -> Result<u64> {
        self.count(|calls| calls.allocations += 1);
        self.inner.allocate(bytes)
    }
    unsafe fn free(&self, pointer: u64) {
        // SAFETY: as of this function.
        unsafe { self.inner.free(pointer) }
    }
    unsafe fn set(&self, pointer: u64, value: u8, bytes: u64, stream: RawStream) -> Result<()> {
        // SAFETY: as of this function.
        unsafe { self.inner.set(pointer, value, bytes, stream) }
    }
    unsafe fn copy_to_device(&self, to: u64, from: &[u8], stream: RawStream) -> Result<()> {
        self.count(|calls| calls.uploads += 1);
        // SAFETY: as of this function.
        unsafe { self.inner.copy_to_device(to, from, stream) }
    }
    unsafe fn copy_to_host(&self, to: &mut [u8], from: u64, stream: RawStream) -> Result<()> {
        self.count(|calls| calls.downloads += 1);
        // SAFETY: as of this function.
        unsafe { self.inner.copy_to_host(to, from, stream) }
    }
    unsafe fn copy_on_device(&self, to: u64, from: u64, bytes: u64, stream: RawStream) -> Result<()> {
        // SAFETY: as of this function.
        unsafe { self.inner.copy_on_device(to, from, bytes, stream) }
    }
    fn create_stream(&self) -> Result<RawStream> {
        self.inner.create_stream()
    }
    fn destroy_stream(&self, stream: RawStream) {
        self.inner.destroy_stream(stream);
    }
    fn synchronize(&self, stream: RawStream) -> Result<()> {
        self.count(|calls| calls.synchronizations += 1);
        self.inner.synchronize(stream)
    }
    fn create_event(&self) -> Result<RawEvent> {
        self.inner.create_event()
    }
    fn destroy_event(&self, event: RawEvent) {
        self.inner.destroy_event(event);
    }
    fn record_event(&self, event: RawEvent, stream: RawStream) -> Result<()> {
        self.inner.record_event(event, stream)
    }
    fn wait_event(&self, event: RawEvent, stream: RawStream) -> Result<()> {
        self.inner.wait_event(event, stream)
    }
    fn elapsed_us(&self, start: RawEvent, end: RawEvent) -> Result<f64> {
        self.inner.elapsed_us(start, end)
    }
    fn load_module(&self, name: &str, image: ModuleImage<'_>) -> Result<RawModule> {
        self.inner.load_module(name, image)
    }
    fn function(&self, module: RawModule, name: &str) -> Result<RawFunction> {
        self.inner.function(module, name)
    }
    fn function_attributes(&self, function: RawFunction) -> Result<FunctionAttributes> {
        self.inner.function_attributes(function)
    }
    fn set_max_dynamic_shared(&self, function: RawFunction, bytes: u32) -> Result<()> {
        self.inner.set_max_dynamic_shared(function, bytes)
    }
    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.inner.encode_tensor_map(spec)
    }
    unsafe fn launch(
        &self,
        function: RawFunction,
        config: &LaunchConfig,
        args: &[&[u8]],
        stream: RawStream,
    ) -> Result<()> {
        self.count(|calls| {
            calls.launches += 1;
            calls.dependent_launches += usize::from(config.programmatic_dependent);
        });
        // SAFETY: as of this function.
        unsafe { self.inner.launch(function, config, args, stream) }
    }
    fn begin_capture(&self, stream: RawStream) -> Result<()> {
        self.inner.begin_capture(stream)
    }
    fn end_capture(&self, stream: RawStream) -> Result<RawGraph> {
        self.inner.end_capture(stream)
    }
    unsafe fn launch_graph(&self, graph: RawGraph, stream: RawStream) -> Result<()> {
        self.count(|calls| calls.graph_launches += 1);
        // SAFETY: as of this function.
        unsafe { self.inner.launch_graph(graph, stream) }
    }
    fn destroy_graph(&self, graph: RawGraph) {
        self.inner.destroy_graph(graph);
    }
}
