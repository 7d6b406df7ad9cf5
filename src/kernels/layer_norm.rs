//! Launcher of `kernels/layer_norm.cu`.

use super::Kernels;
use super::rows::{narrow, whole_chunks};
use crate::device::{LaunchConfig, RawStream};
use crate::error::Result;
use crate::operations::LayerNormParams;

/// `kElementsPerThread` of the kernel.
const ELEMENTS_PER_THREAD: usize = 32;
/// `kMaxThreads` of the kernel.
const MAX_THREADS: usize = 512;
const WARP_SIZE: usize = 32;

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
    reserved: u32,
}

/// Layer norm, optionally of a sum: see [`LayerNormParams`]. `sum` may be `x` or `delta`, and `out` may be `x`.
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
        whole_chunks: rows.iter().flatten().all(whole_chunks).into(),
        reserved: 0,
    };
    let config = config(dims.num_tokens, dims.hidden_size)?;
    let kernel = format!("layer_norm_{}", p.x.dtype);
    // SAFETY: `KernelParams` mirrors `LayerNormParams` of the kernel file; `check` saw the shapes, the caller vouches
    // for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}

/// A warp a row while a warp's registers hold the row, then a block; by the row alone, so that its bits do not depend
/// on how many rows there are.
fn config(num_tokens: usize, hidden_size: usize) -> Result<LaunchConfig> {
    let threads = hidden_size.div_ceil(ELEMENTS_PER_THREAD).next_power_of_two().clamp(WARP_SIZE, MAX_THREADS);
    let rows = if threads == WARP_SIZE { 4 } else { 1 };
    let blocks = narrow("layer_norm", "blocks", num_tokens.div_ceil(rows))?;
    let mut config = LaunchConfig::linear(blocks, threads as u32);
    config.block[1] = rows as u32;
    Ok(config)
}
