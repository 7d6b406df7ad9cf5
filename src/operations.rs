//! The operations a forward pass is made of, as data: one parameter struct each, with its shapes and its checks.
//!
//! Two things provide them: [`crate::kernels`] (the CUDA kernels, on a GPU or on the virtual GPU) and [`crate::cpu`].
//! Every struct is generic over how tensors are referred to: `XParams` alone means raw [`TensorView`]s, which the
//! unsafe launchers take; `XParams<Tensor, TensorMut>` borrows its memory and is what [`Operations`] takes.
//!
//! Matrix products are `out[M, N] = epilogue(a[M, K] · b[N, K]ᵀ)`: weights are `[out, in]`, as checkpoints store them.
//! Rows may be strided, elements of a row are contiguous. Gammas, betas, biases, router weights and logits are f32.

mod attention;
mod checks;
mod embedding;
mod fewest_bytes;
mod gemm;
mod layer_norm;
mod lm_head;
mod moe;
mod qkv;
mod sampling;
mod topk_gating;

pub(crate) use attention::MAX_HEAD_DIM;
pub use attention::{AttentionDims, AttentionParams, KvSplit};
pub use embedding::{EmbeddingDims, EmbeddingParams};
pub use fewest_bytes::moe_layer_fewest_bytes;
pub use gemm::{Activation, GemmDims, GemmParams, MlpParams, Residual};
pub use layer_norm::{FusedResidual, LayerNormDims, LayerNormParams};
pub use lm_head::{CrossEntropy, LmHeadDims, LmHeadParams};
pub use moe::{MoeCombineParams, MoeDispatchParams, MoeGemmDims, MoeGemmParams, RouteParams};
pub use qkv::{QkvDims, QkvParams};
pub use sampling::{SamplingParams, SamplingSettings};
pub(crate) use topk_gating::MAX_EXPERTS;
pub use topk_gating::{
    ExpertGroups, GatingSpec, GroupScore, RouterLogitsParams, RouterNoise, ScoreFunction, SoftmaxOrder,
    TopkGatingDims, TopkGatingParams,
};

use crate::buffer::Buffer;
use crate::device::Graph;
use crate::error::{Error, Result};
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

/// What a row's bits may depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// On the shapes too: whichever way is fastest for them, on Hopper its own kernels. The same call gives the same
    /// bits.
    #[default]
    Fast,
    /// On the row alone, not on the rows around it, nor on whether its keys and values were computed together or one
    /// after the other: one way for all shapes, everything summed in a fixed order.
    BatchInvariant,
}

/// Provider of the operations: the CPU, or a device with our kernels on it. Calls may return before the work is
/// done; [`Operations::download`] and [`Operations::synchronize`] wait for it.
pub trait Operations {
    /// One line for people: the device's name.
    fn name(&self) -> String;
    /// Where its tensors live.
    fn place(&self) -> Place;
    /// Bytes of memory free and in all.
    fn memory(&self) -> Result<(u64, u64)>;
    /// Memory for `len` elements; its contents are undefined. Fails with [`crate::Error::OutOfMemory`].
    fn allocate(&self, dtype: DType, len: usize) -> Result<Buffer>;
    /// Copies `bytes` into a dense tensor of as many bytes.
    fn upload(&self, to: TensorMut<'_>, bytes: &[u8]) -> Result<()>;
    /// Waits for the work before it, then copies a dense tensor out.
    fn download(&self, from: Tensor<'_>, bytes: &mut [u8]) -> Result<()>;
    /// Copies a dense tensor onto another of its type and size that it does not overlap.
    fn copy(&self, to: TensorMut<'_>, from: Tensor<'_>) -> Result<()>;
    /// Waits until everything asked for is done, and returns what went wrong in it.
    fn synchronize(&self) -> Result<()>;

    /// Whether [`Operations::record`] works here.
    fn can_record(&self) -> bool {
        false
    }
    /// Records the operations that `work` asks for instead of doing them; [`Operations::replay`] does them, in one
    /// launch. `work` may not allocate, upload, download or wait, and what it uses has been used before.
    ///
    /// # Errors
    /// [`Error::Usage`] where nothing can be recorded (the CPU), and what `work` or the device says.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        let _ = work;
        Err(Error::Usage(format!("{} records no graphs; use --device cuda or virtual", self.name())))
    }
    /// Does what was recorded here.
    ///
    /// # Errors
    /// As [`Operations::record`].
    ///
    /// # Safety
    /// All memory that the recorded operations use still lives.
    unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        let _ = graph;
        Err(Error::Usage(format!("{} records no graphs; use --device cuda or virtual", self.name())))
    }

    /// Token plus position embedding.
    fn embedding(&self, p: EmbeddingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Layer norm over the last dimension, optionally with a residual add before it.
    fn layer_norm(&self, p: LayerNormParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Matrix product with a fused epilogue.
    fn gemm(&self, p: GemmParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Queries, keys and values in one matrix product, the latter into a cache.
    fn qkv(&self, p: QkvParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Fused causal scaled-dot-product attention.
    fn attention(&self, p: AttentionParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// The GELU MLP: two matrix products.
    fn mlp(&self, p: MlpParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Router logits in f32.
    fn router_logits(&self, p: RouterLogitsParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Expert selection and weights from router logits.
    fn topk_gating(&self, p: TopkGatingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Where each assignment of a token to an expert goes in expert-major order.
    fn moe_dispatch(&self, p: MoeDispatchParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Expert selection, then where each assignment goes.
    fn route(&self, p: RouteParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
        let logits = p.gating.logits;
        let mut expert_ids = p.gating.expert_ids;
        self.topk_gating(TopkGatingParams { expert_ids: expert_ids.reborrow(), ..p.gating })?;
        self.moe_dispatch(MoeDispatchParams {
            expert_ids: expert_ids.as_ref(),
            num_experts: logits.shape()[1],
            capacity: p.capacity,
            expert_offsets: p.expert_offsets,
            row_tokens: p.row_tokens,
            slots: p.slots,
            scratch: p.scratch,
        })
    }
    /// Grouped matrix product: each expert's weight over its own rows.
    fn moe_gemm(&self, p: MoeGemmParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Weighted sum of each token's expert outputs.
    fn moe_combine(&self, p: MoeCombineParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// Logits, argmax and cross-entropy over the vocabulary.
    fn lm_head(&self, p: LmHeadParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
    /// One id a row, drawn from logits.
    fn sampling(&self, p: SamplingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()>;
}

/// The raw view of an optional tensor.
fn view_of<T: AsView>(tensor: &Option<T>) -> Option<TensorView> {
    tensor.as_ref().map(AsView::view)
}
