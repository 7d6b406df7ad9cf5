//! The operations on the CPU, in f32 on all cores: what `--device cpu` runs.
//!
//! Matrix products with many rows go to the `gemm` crate; those with few rows are dot products that read each weight
//! once. Work too small to share stays on one core. Everything is summed in a fixed order, so results repeat bit for
//! bit on one machine and number of threads.

mod attention;
mod embedding;
mod gemm;
mod layer_norm;
mod lm_head;
mod moe_combine;
mod moe_dispatch;
mod moe_gemm;
mod qkv;
mod rows;
mod sampling;
mod simd;
mod topk_gating;

pub(crate) use sampling::{NONE, draw};

use crate::buffer::{Buffer, host_memory};
use crate::error::{Error, Result};
use crate::operations::{
    AttentionParams, EmbeddingParams, GemmParams, LayerNormParams, LmHeadParams, MlpParams, MoeCombineParams,
    MoeDispatchParams, MoeGemmParams, Numerics, Operations, QkvParams, RouterLogitsParams, SamplingParams,
    TopkGatingParams,
};
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut};

/// The operations on this machine's cores, in host memory and f32. Calls return when the work is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOperations {
    numerics: Numerics,
}

impl CpuOperations {
    /// The provider. Threads are rayon's (`RAYON_NUM_THREADS`).
    pub fn new() -> Self {
        CpuOperations::default()
    }

    /// [`CpuOperations::new`] with a choice of numerics.
    pub fn with_numerics(numerics: Numerics) -> Self {
        CpuOperations { numerics }
    }

    /// What a row's bits may depend on.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }
}

impl Operations for CpuOperations {
    fn name(&self) -> String {
        let threads = rayon::current_num_threads();
        format!("CPU, {threads} thread{}", if threads == 1 { "" } else { "s" })
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn memory(&self) -> Result<(u64, u64)> {
        let message = "/proc/meminfo does not say MemAvailable and MemTotal".to_owned();
        host_memory().ok_or(Error::Device { call: "memory".to_owned(), message })
    }

    fn allocate(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Buffer::host(dtype, len)
    }

    fn upload(&self, to: TensorMut<'_>, bytes: &[u8]) -> Result<()> {
        check_copy("upload", &to, bytes.len())?;
        match to.view().dtype {
            DType::F32 => copy_in::<f32>(to, bytes),
            DType::BF16 => copy_in::<half::bf16>(to, bytes),
            DType::F16 => copy_in::<half::f16>(to, bytes),
            DType::I32 => copy_in::<i32>(to, bytes),
        }
    }

    fn download(&self, from: Tensor<'_>, bytes: &mut [u8]) -> Result<()> {
        check_copy("download", &from, bytes.len())?;
        match from.view().dtype {
            DType::F32 => bytes.copy_from_slice(bytemuck::cast_slice(from.as_slice::<f32>("download")?)),
            DType::BF16 => {
                bytes.copy_from_slice(bytemuck::cast_slice(from.as_slice::<half::bf16>("download")?))
            }
            DType::F16 => {
                bytes.copy_from_slice(bytemuck::cast_slice(from.as_slice::<half::f16>("download")?))
            }
            DType::I32 => bytes.copy_from_slice(bytemuck::cast_slice(from.as_slice::<i32>("download")?)),
        }
        Ok(())
    }

    fn copy(&self, to: TensorMut<'_>, from: Tensor<'_>) -> Result<()> {
        let view = to.view();
        check_copy("copy", &from, view.num_elements() * view.dtype.size())?;
        match view.dtype {
            DType::F32 => copy_elements::<f32>(to, from),
            DType::BF16 => copy_elements::<half::bf16>(to, from),
            DType::F16 => copy_elements::<half::f16>(to, from),
            DType::I32 => copy_elements::<i32>(to, from),
        }
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn embedding(&self, p: EmbeddingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        embedding::embedding(p)
    }

    fn layer_norm(&self, p: LayerNormParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        layer_norm::layer_norm(p)
    }

    fn gemm(&self, p: GemmParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        gemm::gemm(p, self.numerics)
    }

    fn qkv(&self, p: QkvParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        qkv::qkv(p, self.numerics)
    }

    fn attention(&self, p: AttentionParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        attention::attention(p, self.numerics)
    }

    fn mlp(&self, p: MlpParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        gemm::mlp(p, self.numerics)
    }

    fn router_logits(&self, p: RouterLogitsParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        topk_gating::router_logits(p, self.numerics)
    }

    fn topk_gating(&self, p: TopkGatingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        topk_gating::topk_gating(p)
    }

    fn moe_dispatch(&self, p: MoeDispatchParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        moe_dispatch::moe_dispatch(p)
    }

    fn moe_gemm(&self, p: MoeGemmParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        moe_gemm::moe_gemm(p, self.numerics)
    }

    fn moe_combine(&self, p: MoeCombineParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        moe_combine::moe_combine(p)
    }

    fn lm_head(&self, p: LmHeadParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        lm_head::lm_head(p, self.numerics)
    }

    fn sampling(&self, p: SamplingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        sampling::sampling(p)
    }
}

/// A copy goes between a dense tensor and as many bytes.
fn check_copy(operation: &'static str, tensor: &impl AsView, bytes: usize) -> Result<()> {
    let view = tensor.view();
    let wanted = view.num_elements() * view.dtype.size();
    if !view.is_dense() || wanted != bytes {
        let shape = view.shape();
        let message =
            format!("{bytes} bytes for a tensor {shape:?} of {wanted} bytes, expected it dense and as many");
        return Err(Error::Tensor { operation, message });
    }
    Ok(())
}

fn copy_in<T: crate::tensor::Element>(to: TensorMut<'_>, bytes: &[u8]) -> Result<()> {
    bytemuck::cast_slice_mut(to.into_slice::<T>("upload")?).copy_from_slice(bytes);
    Ok(())
}

fn copy_elements<T: crate::tensor::Element>(to: TensorMut<'_>, from: Tensor<'_>) -> Result<()> {
    to.into_slice::<T>("copy")?.copy_from_slice(from.as_slice::<T>("copy")?);
    Ok(())
}

/// The elements of an f32 tensor of any rank and strides, row-major.
fn dense_elements(tensor: Tensor<'_>, operation: &'static str) -> Result<Vec<f32>> {
    let view = tensor.view();
    let values = tensor.as_slice::<f32>(operation)?;
    let mut out = Vec::with_capacity(view.num_elements());
    gather(values, view.shape(), view.strides(), &mut out);
    Ok(out)
}

fn gather(values: &[f32], shape: &[usize], strides: &[usize], out: &mut Vec<f32>) {
    match (shape, strides) {
        ([n], [1]) => out.extend_from_slice(&values[..*n]),
        ([n, shape @ ..], [stride, strides @ ..]) => {
            (0..*n).for_each(|index| gather(&values[index * stride..], shape, strides, out));
        }
        _ => out.push(values[0]),
    }
}
