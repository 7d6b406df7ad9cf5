//! Launcher of `kernels/embedding.cu`.

use super::Kernels;
use super::rows::{narrow, rows_config, whole_chunks};
use crate::device::RawStream;
use crate::error::Result;
use crate::operations::EmbeddingParams;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    out: u64,
    token_ids: u64,
    token_table: u64,
    position_table: u64,
    first_positions: u64,
    first_position: i64,
    out_batch_stride: i64,
    out_token_stride: i64,
    token_table_stride: i64,
    position_table_stride: i64,
    vocab_size: i64,
    num_positions: i64,
    num_tokens: i64,
    seq_len: i64,
    hidden_size: i32,
    whole_chunks: u32,
}

/// Token plus position embedding: see [`EmbeddingParams`].
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn embedding(kernels: &Kernels, p: &EmbeddingParams, stream: RawStream) -> Result<()> {
    let dims = p.check()?;
    let num_tokens = dims.batch_size * dims.seq_len;
    if num_tokens == 0 || dims.hidden_size == 0 {
        return Ok(());
    }
    let whole = [&p.out, &p.token_table, &p.position_table].into_iter().all(whole_chunks);
    let params = KernelParams {
        out: p.out.pointer,
        token_ids: p.token_ids.pointer,
        token_table: p.token_table.pointer,
        position_table: p.position_table.pointer,
        first_positions: p.first_positions.map_or(0, |t| t.pointer),
        first_position: narrow("embedding", "first_position", p.first_position)?,
        out_batch_stride: p.out.strides()[0] as i64,
        out_token_stride: p.out.strides()[1] as i64,
        token_table_stride: p.token_table.strides()[0] as i64,
        position_table_stride: p.position_table.strides()[0] as i64,
        vocab_size: dims.vocab_size as i64,
        num_positions: dims.num_positions as i64,
        num_tokens: num_tokens as i64,
        seq_len: dims.seq_len as i64,
        hidden_size: narrow("embedding", "hidden_size", dims.hidden_size)?,
        whole_chunks: whole.into(),
    };
    let config = rows_config("embedding", num_tokens, dims.hidden_size * p.out.dtype.size())?;
    let kernel = format!("embedding_{}", p.out.dtype);
    // SAFETY: `KernelParams` mirrors `EmbeddingParams` of the kernel file; `check` saw the shapes, the caller vouches
    // for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}
