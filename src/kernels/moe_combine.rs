//! Launcher of `kernels/moe_combine.cu`.

use super::Kernels;
use super::rows::{narrow, rows_config, whole_chunks};
use crate::device::RawStream;
use crate::error::{Error, Result};
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

/// `kMaxAssignments` of the kernel.
const MAX_ASSIGNMENTS: usize = 1024;

/// Weighted sum of each token's expert outputs: see [`MoeCombineParams`].
///
/// Budget: 256 threads of up to 64 registers and 8 KB, so 4 blocks an SM with up to 5 accesses of 16 bytes under way a
/// thread, 80 KB an SM. 16,384 tokens of 768 in bf16 are 8,192 blocks, 15.5 waves on 132 SMs. Bound by the copy
/// bandwidth: k rows of experts, the residual, the output, and slots and weights, each once.
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
    if k > MAX_ASSIGNMENTS {
        let message = format!("k is {k}, expected at most {MAX_ASSIGNMENTS}");
        return Err(Error::Tensor { operation: "moe_combine", message });
    }
    let row_bytes = hidden_size * p.out.dtype.size();
    let config = rows_config("moe_combine", num_tokens, row_bytes, MAX_ASSIGNMENTS / k.max(1))?;
    let kernel = format!("moe_combine_{}", p.out.dtype);
    // SAFETY: `KernelParams` mirrors `MoeCombineParams` of the kernel file; `check` saw the shapes, the kernel skips
    // slots outside expert_out, the caller vouches for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}
