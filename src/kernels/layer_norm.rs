//! Launcher of `kernels/layer_norm.cu`.

use super::Kernels;
use super::rows::{narrow, whole_chunks};
use crate::device::{LaunchConfig, RawStream};
use crate::error::Result;
use crate::operations::LayerNormParams;
use crate::tensor::TensorView;

/// `kKeptChunks` of the kernel: of whole chunks, and of single elements.
const KEPT_CHUNKS: usize = 4;
const KEPT_CHUNKS_UNALIGNED: usize = 1;
/// `kMaxThreads` of the kernel.
const MAX_THREADS: usize = 512;
const WARP_SIZE: usize = 32;
/// The sums of the warps.
pub(super) const STATIC_SHARED_BYTES: usize = 3 * 4 * WARP_SIZE;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    out: u64,
    x: u64,
    delta: u64,
    sum: u64,
    gamma: u64,
    beta: u64,
    out_stride: i64,
    x_stride: i64,
    delta_stride: i64,
    sum_stride: i64,
    num_tokens: i64,
    hidden_size: i32,
    eps: f32,
    whole_chunks: u32,
    stage_parameters: u32,
    fits_registers: u32,
    padding: u32,
}

/// Layer norm, optionally of a sum: see [`LayerNormParams`]. `sum` may be `x` or `delta`, and `out` may be `x`.
///
/// Budget: 512 threads of 128 registers, one block an SM, with gamma and beta in 8 bytes of shared memory an element of
/// the row (read once an SM, and again from shared memory, 40 bytes a clock of 128). A thread has four accesses of 16
/// bytes under way: 24 KB an SM for rows of 768 in bf16, 48 KB with the residual. 16,384 such rows are 7.8 rounds of 16
/// rows on 132 SMs. Bound by the copy bandwidth: 2 accesses an element, 4 with the residual.
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn layer_norm(kernels: &Kernels, p: &LayerNormParams, stream: RawStream) -> Result<()> {
    let dims = p.check()?;
    if dims.num_tokens == 0 || dims.hidden_size == 0 {
        return Ok(());
    }
    let delta = p.residual.map(|residual| residual.delta);
    let sum = p.residual.map(|residual| residual.sum);
    let rows = [Some(p.out), Some(p.x), delta, sum, Some(p.gamma), p.beta];
    let whole = rows.iter().flatten().all(rows_are_whole);
    let padded_size = dims.hidden_size.next_multiple_of(4);
    let parameter_bytes = 4 * padded_size * if p.beta.is_some() { 2 } else { 1 };
    let row_bytes = dims.hidden_size * p.x.dtype.size();
    let properties = kernels.device().properties();
    let staged = parameter_bytes + STATIC_SHARED_BYTES <= properties.max_shared_bytes as usize;
    let params = KernelParams {
        out: p.out.pointer,
        x: p.x.pointer,
        delta: delta.map_or(0, |t| t.pointer),
        sum: sum.map_or(0, |t| t.pointer),
        gamma: p.gamma.pointer,
        beta: p.beta.map_or(0, |t| t.pointer),
        out_stride: p.out.strides()[0] as i64,
        x_stride: p.x.strides()[0] as i64,
        delta_stride: delta.map_or(0, |t| t.strides()[0] as i64),
        sum_stride: sum.map_or(0, |t| t.strides()[0] as i64),
        num_tokens: dims.num_tokens as i64,
        hidden_size: narrow("layer_norm", "hidden_size", dims.hidden_size)?,
        eps: p.eps,
        whole_chunks: whole.into(),
        stage_parameters: staged.into(),
        fits_registers: (whole && staged && row_bytes <= 16 * KEPT_CHUNKS * MAX_THREADS).into(),
        padding: 0,
    };
    let config = config(dims.num_tokens, row_bytes, whole, properties.num_sms as usize)
        .with_shared(if staged { parameter_bytes as u32 } else { 0 });
    let kernel = format!("layer_norm_{}", p.x.dtype);
    // SAFETY: `KernelParams` mirrors `LayerNormParams` of the kernel file; `check` saw the shapes, the caller vouches
    // for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}

/// [`whole_chunks`], but of a single row too: its bits must not depend on how many rows there are.
fn rows_are_whole(view: &TensorView) -> bool {
    let outer = view.shape().len() - 1;
    whole_chunks(view)
        && view.strides()[..outer].iter().all(|stride| (stride * view.dtype.size()).is_multiple_of(16))
}

/// As many warps a row as hold it in registers, by the row alone, so that its bits do not depend on how many rows there
/// are; as many rows a block as give every SM one.
fn config(num_tokens: usize, row_bytes: usize, whole: bool, num_sms: usize) -> LaunchConfig {
    let kept_bytes = 16 * if whole { KEPT_CHUNKS } else { KEPT_CHUNKS_UNALIGNED };
    let threads = row_bytes.div_ceil(kept_bytes).next_power_of_two().clamp(WARP_SIZE, MAX_THREADS);
    let rows = num_tokens.div_ceil(num_sms).clamp(1, MAX_THREADS / threads);
    let blocks = num_tokens.div_ceil(rows).min(num_sms);
    let mut config = LaunchConfig::linear(blocks as u32, threads as u32);
    config.block[1] = rows as u32;
    config
}
