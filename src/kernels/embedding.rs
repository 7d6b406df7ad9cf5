//! Launcher of `kernels/embedding.cu`.

use super::Kernels;
use super::rows::{narrow, row_threads, rows_config, whole_chunks};
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
    batch_size: i64,
    seq_len: i64,
    num_rows: i64,
    run: i32,
    hidden_size: i32,
    whole_chunks: u32,
    reserved: u32,
}

/// `kMaxRun` of the kernel.
const MAX_RUN: usize = 8;
/// Threads an SM should have before they get more than one token each.
const SM_THREADS: usize = 512;

/// Token plus position embedding: see [`EmbeddingParams`].
///
/// Budget: 256 threads of up to 101 registers and 16 KB, so 2 blocks an SM with up to 8 accesses of 16 bytes under way a
/// thread, 64 KB an SM, where 30 KB hide the latency of memory. 16 x 1024 tokens of 768 in bf16 are 1,024 blocks, 3.9
/// waves on 132 SMs. Bound by the copy bandwidth: ids, the token's row and the output once, the position's row once for
/// up to 8 sequences.
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
    let row_bytes = dims.hidden_size * p.out.dtype.size();
    let fill = kernels.device().properties().num_sms as usize * SM_THREADS;
    let run = (num_tokens * row_threads(row_bytes) / fill).clamp(1, MAX_RUN.min(dims.batch_size));
    let num_rows = dims.seq_len * dims.batch_size.div_ceil(run);
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
        batch_size: dims.batch_size as i64,
        seq_len: dims.seq_len as i64,
        num_rows: num_rows as i64,
        run: run as i32,
        hidden_size: narrow("embedding", "hidden_size", dims.hidden_size)?,
        whole_chunks: whole.into(),
        reserved: 0,
    };
    let _: i32 = narrow("embedding", "num_positions", dims.num_positions)?;
    let config = rows_config("embedding", num_rows, row_bytes, usize::MAX)?;
    let kernel = format!("embedding_{}", p.out.dtype);
    // SAFETY: `KernelParams` mirrors `EmbeddingParams` of the kernel file; `check` saw the shapes, the caller vouches
    // for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}
