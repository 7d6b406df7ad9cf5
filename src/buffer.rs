//! Memory that is owned: on the host or on a device.

use std::sync::Arc;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{DType, Place, Tensor, TensorMut, TensorView};

/// An owned, typed piece of memory. What is in it is reached through [`Tensor`]s.
#[derive(Debug)]
pub struct Buffer {
    storage: Storage,
    dtype: DType,
    len: usize,
}

#[derive(Debug)]
enum Storage {
    /// 16-byte aligned, for vector loads.
    Host(Vec<u128>),
    Device(DeviceMemory),
}

/// Device memory, given back when dropped.
#[derive(Debug)]
struct DeviceMemory {
    device: Arc<dyn Device>,
    pointer: u64,
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: the pointer came from this device's `allocate` and is freed once, here.
        unsafe { self.device.free(self.pointer) };
    }
}

impl Buffer {
    /// Zeroed host memory for `len` elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when this process cannot have it.
    pub fn host(dtype: DType, len: usize) -> Result<Self> {
        let words = zeroed(len.saturating_mul(dtype.size()).div_ceil(16))?;
        Ok(Buffer { storage: Storage::Host(words), dtype, len })
    }

    /// Device memory for `len` elements; its contents are undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and whatever the driver says.
    pub fn device(device: &Arc<dyn Device>, dtype: DType, len: usize) -> Result<Self> {
        let pointer = device.allocate(len.saturating_mul(dtype.size()) as u64)?;
        let memory = DeviceMemory { device: device.clone(), pointer };
        Ok(Buffer { storage: Storage::Device(memory), dtype, len })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        match &self.storage {
            Storage::Host(_) => Place::Host,
            Storage::Device(memory) => Place::Device(memory.device.id()),
        }
    }

    /// A dense tensor of `shape` over the first elements.
    ///
    /// # Panics
    /// If the shape needs more elements than there are.
    pub fn tensor(&self, shape: &[usize]) -> Tensor<'_> {
        let view = self.view(shape);
        // SAFETY: `view` checked that the shape fits; the memory lives as long as self, which is borrowed.
        unsafe { Tensor::from_raw(view, self.place()) }
    }

    /// As [`Buffer::tensor`], for writing.
    ///
    /// # Panics
    /// If the shape needs more elements than there are.
    pub fn tensor_mut(&mut self, shape: &[usize]) -> TensorMut<'_> {
        let view = self.view(shape);
        // SAFETY: as in `tensor`, and self is borrowed exclusively.
        unsafe { TensorMut::from_raw(view, self.place()) }
    }

    fn view(&self, shape: &[usize]) -> TensorView {
        let needed: usize = shape.iter().product();
        assert!(needed <= self.len, "shape {shape:?} needs {needed} elements, the buffer has {}", self.len);
        let pointer = match &self.storage {
            Storage::Host(words) => words.as_ptr() as u64,
            Storage::Device(memory) => memory.pointer,
        };
        TensorView::dense(pointer, self.dtype, shape)
    }
}

/// `len` zeros in host memory.
///
/// # Errors
/// [`Error::OutOfMemory`] when this process cannot have it, where `vec!` would end the program.
pub(crate) fn zeroed<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    // Below this a question to the system costs more than the memory.
    const WORTH_ASKING: u64 = 16 << 20;
    let wanted = len.saturating_mul(size_of::<T>()) as u64;
    let refusal = |(free, total)| Error::OutOfMemory { wanted, free, total };
    // Linux promises more memory than it has, and ends a program that takes it at its word.
    if let Some((free, total)) = (wanted > WORTH_ASKING).then(host_memory).flatten()
        && wanted > free
    {
        return Err(refusal((free, total)));
    }
    bytemuck::try_zeroed_vec(len).map_err(|()| refusal(host_memory().unwrap_or_default()))
}

/// Bytes this process may still take, and all bytes of the machine or of the process's limit; `None` where Linux's
/// files do not say.
pub(crate) fn host_memory() -> Option<(u64, u64)> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    let meminfo = read("/proc/meminfo")?;
    let kib = |name: &str| meminfo.lines().find_map(|line| number(line.strip_prefix(name)?));
    let (free, total) = (kib("MemAvailable:")? << 10, kib("MemTotal:")? << 10);
    let limits = read("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| number(line.strip_prefix("Max address space")?));
    let status = read("/proc/self/status").unwrap_or_default();
    let taken = status.lines().find_map(|line| number(line.strip_prefix("VmSize:")?)).map(|kib| kib << 10);
    Some(match (limit, taken) {
        (Some(limit), Some(taken)) => (free.min(limit.saturating_sub(taken)), total.min(limit)),
        _ => (free, total),
    })
}
