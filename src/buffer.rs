//! Memory that is owned: on the host or on a device.

use std::sync::Arc;

use crate::device::Device;
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
    pub fn host(dtype: DType, len: usize) -> Self {
        Buffer { storage: Storage::Host(vec![0; (len * dtype.size()).div_ceil(16)]), dtype, len }
    }

    /// Device memory for `len` elements; its contents are undefined.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] and whatever the driver says.
    pub fn device(device: &Arc<dyn Device>, dtype: DType, len: usize) -> crate::Result<Self> {
        let pointer = device.allocate((len * dtype.size()) as u64)?;
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
