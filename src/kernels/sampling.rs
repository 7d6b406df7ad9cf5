//! Launcher of `kernels/sampling.cu`.

use super::Kernels;
use super::rows::narrow;
use crate::device::{LaunchConfig, RawStream};
use crate::error::Result;
use crate::operations::SamplingParams;

/// Up to here a row keeps the threads of a small block busy.
const SMALL_VOCAB_SIZE: usize = 8192;
/// Threads of a block, for small vocabularies and for others.
pub(super) const THREADS: [u32; 2] = [256, 1024];
/// `SamplingStorage<1024>` of the kernel, the settings and the position.
pub(super) const STATIC_SHARED_BYTES: u32 = 16 * 1024 + 8 * 32 + 16 + 32 + 16;

/// `SamplingParams` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    logits: u64,
    allowed: u64,
    seen: u64,
    settings: u64,
    positions: u64,
    ids: u64,
    logprobs: u64,
    vocab_size: i64,
}

/// One id a row: see [`SamplingParams`].
///
/// Budget: 1024 threads of 64 registers, one block an SM, with the keys of a row of GPT-2 in 201 of Hopper's 227 KB; up to
/// 8192 ids 256 threads, four blocks an SM. 128 rows of 50257 ids are one wave on 132 SMs. Bound by latency for few rows,
/// since a row is one block's; by reading the logits for many.
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn sampling(kernels: &Kernels, p: &SamplingParams, stream: RawStream) -> Result<()> {
    let (num_rows, vocab_size) = p.check()?;
    if num_rows == 0 {
        return Ok(());
    }
    let params = KernelParams {
        logits: p.logits.pointer,
        allowed: p.allowed.map_or(0, |t| t.pointer),
        seen: p.seen.map_or(0, |t| t.pointer),
        settings: p.settings.pointer,
        positions: p.positions.pointer,
        ids: p.ids.pointer,
        logprobs: p.logprobs.map_or(0, |t| t.pointer),
        vocab_size: vocab_size as i64,
    };
    let keys_bytes = 4 * vocab_size as u32;
    let fits = keys_bytes + STATIC_SHARED_BYTES <= kernels.device().properties().max_shared_bytes;
    let (kernel, threads, shared_bytes) = match vocab_size {
        ..=SMALL_VOCAB_SIZE => ("sampling_256", THREADS[0], keys_bytes),
        _ if fits => ("sampling_1024", THREADS[1], keys_bytes),
        _ => ("sampling_1024_streamed", THREADS[1], 0),
    };
    let config =
        LaunchConfig::linear(narrow("sampling", "num_rows", num_rows)?, threads).with_shared(shared_bytes);
    // SAFETY: `KernelParams` mirrors `SamplingParams` of the kernel file; `check` saw the shapes, the caller vouches for
    // the memory.
    unsafe { kernels.launch(kernel, &config, &params, stream) }
}
