//! The kernels on one device as [`Operations`]: checks places, takes the raw views, launches in a stream of its own.

use std::sync::Arc;

use super::{Kernels, Numerics};
use crate::buffer::Buffer;
use crate::device::cuda::CudaDevice;
use crate::device::virtual_gpu::VirtualDevice;
use crate::device::{Device, Graph, RawStream};
use crate::error::{Error, Result};
use crate::operations::*;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut};

/// The kernels of this build on one device, working in a stream of their own.
#[derive(Debug)]
pub struct DeviceOperations {
    kernels: Kernels,
    stream: RawStream,
}

impl DeviceOperations {
    /// On NVIDIA GPU `ordinal`.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::NoDevice`], [`Error::DriverTooOld`], [`Error::KernelsNotBuilt`].
    pub fn open_cuda(ordinal: usize) -> Result<Self> {
        Self::new(Arc::new(CudaDevice::new(ordinal)?))
    }

    /// On the virtual GPU, with every check on.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`].
    pub fn open_virtual() -> Result<Self> {
        Self::new(Arc::new(VirtualDevice::new()))
    }

    /// On any device.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`], and what the device says when asked for a stream.
    pub fn new(device: Arc<dyn Device>) -> Result<Self> {
        Self::with_numerics(device, Numerics::default())
    }

    /// [`DeviceOperations::new`] with a choice of numerics.
    ///
    /// # Errors
    /// As [`DeviceOperations::new`].
    pub fn with_numerics(device: Arc<dyn Device>, numerics: Numerics) -> Result<Self> {
        let kernels = Kernels::with_numerics(device, numerics)?;
        let stream = kernels.device().create_stream()?;
        Ok(DeviceOperations { kernels, stream })
    }

    /// The kernels, for calling launchers directly.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The stream everything is launched in.
    pub fn stream(&self) -> RawStream {
        self.stream
    }

    fn check_copy(&self, operation: &'static str, tensor: &impl AsView, bytes: usize) -> Result<()> {
        let view = tensor.view();
        let wanted = view.num_elements() * view.dtype.size();
        let fail = |message: String| Err(Error::Tensor { operation, message });
        if tensor.place() != self.place() {
            return fail(format!("the tensor is in {:?}, expected {:?}", tensor.place(), self.place()));
        }
        if !view.is_dense() || wanted != bytes {
            return fail(format!(
                "{bytes} bytes on the host, the tensor has {wanted} (dense: {})",
                view.is_dense()
            ));
        }
        Ok(())
    }
}

impl Drop for DeviceOperations {
    fn drop(&mut self) {
        self.kernels.device().destroy_stream(self.stream);
    }
}

/// A safe operation: the raw launcher on tensors that borrow their memory.
macro_rules! operation {
    ($name:ident, $params:ident) => {
        fn $name(&self, p: $params<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
            let raw = p.raw(self.place())?;
            // SAFETY: `raw` checked that every tensor is on this device, and each borrows memory of its shape; the
            // launcher checks shapes. Work is ordered by this one stream, which is waited for before memory is read
            // on the host or given back.
            unsafe { super::$name::$name(&self.kernels, &raw, self.stream) }
        }
    };
}

impl Operations for DeviceOperations {
    fn name(&self) -> String {
        self.kernels.device().properties().name.clone()
    }

    fn place(&self) -> Place {
        Place::Device(self.kernels.device().id())
    }

    fn memory(&self) -> Result<(u64, u64)> {
        self.kernels.device().memory_info()
    }

    fn allocate(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Buffer::device(self.kernels.device(), dtype, len)
    }

    fn upload(&self, to: TensorMut<'_>, bytes: &[u8]) -> Result<()> {
        self.check_copy("upload", &to, bytes.len())?;
        // SAFETY: check_copy saw a dense tensor of as many bytes on this device.
        unsafe { self.kernels.device().copy_to_device(to.view().pointer, bytes, self.stream) }
    }

    fn download(&self, from: Tensor<'_>, bytes: &mut [u8]) -> Result<()> {
        self.check_copy("download", &from, bytes.len())?;
        // SAFETY: check_copy saw a dense tensor of as many bytes on this device.
        unsafe { self.kernels.device().copy_to_host(bytes, from.view().pointer, self.stream) }
    }

    fn copy(&self, to: TensorMut<'_>, from: Tensor<'_>) -> Result<()> {
        let (to_view, view) = (to.view(), from.view());
        let bytes = view.num_elements() * view.dtype.size();
        self.check_copy("copy", &from, bytes)?;
        self.check_copy("copy", &to, bytes)?;
        // SAFETY: both are dense tensors of as many bytes on this device, one borrowed exclusively.
        unsafe {
            self.kernels.device().copy_on_device(to_view.pointer, view.pointer, bytes as u64, self.stream)
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.kernels.device().synchronize(self.stream)
    }

    fn can_record(&self) -> bool {
        true
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        Graph::record(self.kernels.device(), self.stream, work)
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: as of this function; work is ordered by this one stream.
        unsafe { graph.launch(self.stream) }
    }

    operation!(embedding, EmbeddingParams);
    operation!(layer_norm, LayerNormParams);
    operation!(gemm, GemmParams);
    operation!(qkv, QkvParams);
    operation!(attention, AttentionParams);
    operation!(mlp, MlpParams);
    operation!(topk_gating, TopkGatingParams);
    operation!(moe_dispatch, MoeDispatchParams);
    operation!(moe_gemm, MoeGemmParams);
    operation!(moe_combine, MoeCombineParams);
    operation!(lm_head, LmHeadParams);
    operation!(sampling, SamplingParams);

    fn router_logits(&self, p: RouterLogitsParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        let raw = p.raw(self.place())?;
        // SAFETY: as for the other operations.
        unsafe { super::topk_gating::router_logits(&self.kernels, &raw, self.stream) }
    }

    fn route(&self, p: RouteParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        let (gating, dispatch) = p.raw(self.place())?;
        // SAFETY: as for the other operations.
        unsafe { super::moe_dispatch::route(&self.kernels, &gating, &dispatch, self.stream) }
    }
}
