//! Launcher of `kernels/moe_combine.cu`.

use super::Kernels;
use super::rows::{narrow, rows_config, whole_chunks};
use crate::device::RawStream;
use crate::error::Result;
use crate::operations::{MoeCombineParams, Residual};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    out: u64,
    expert_out: u64,
    slots: u64,
    weights: u64,
    residual: u64,
    out_stride: i64,
    expert_out_stride: i64,
    residual_stride: i64,
    num_tokens: i64,
    max_rows: i32,
    hidden_size: i32,
    num_experts_per_token: i32,
    whole_chunks: u32,
}

/// Weighted sum of each token's expert outputs: see [`MoeCombineParams`].
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn moe_combine(kernels: &Kernels, p: &MoeCombineParams, stream: RawStream) -> Result<()> {
    let (num_tokens, hidden_size, k) = p.check()?;
    if num_tokens == 0 || hidden_size == 0 {
        return Ok(());
    }
    let residual = match p.residual {
        Residual::None => None,
        Residual::InPlace => Some(p.out),
        Residual::From(tensor) => Some(tensor),
    };
    let whole = [Some(p.out), Some(p.expert_out), residual].iter().flatten().all(whole_chunks);
    let params = KernelParams {
        out: p.out.pointer,
        expert_out: p.expert_out.pointer,
        slots: p.slots.pointer,
        weights: p.weights.pointer,
        residual: residual.map_or(0, |t| t.pointer),
        out_stride: p.out.strides()[0] as i64,
        expert_out_stride: p.expert_out.strides()[0] as i64,
        residual_stride: residual.map_or(0, |t| t.strides()[0] as i64),
        num_tokens: num_tokens as i64,
        max_rows: narrow("moe_combine", "rows of expert_out", p.expert_out.shape()[0])?,
        hidden_size: narrow("moe_combine", "hidden_size", hidden_size)?,
        num_experts_per_token: narrow("moe_combine", "k", k)?,
        whole_chunks: whole.into(),
    };
    let config = rows_config("moe_combine", num_tokens, hidden_size * p.out.dtype.size())?;
    let kernel = format!("moe_combine_{}", p.out.dtype);
    // SAFETY: `KernelParams` mirrors `MoeCombineParams` of the kernel file; `check` saw the shapes, the kernel skips
    // slots outside expert_out, the caller vouches for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}
