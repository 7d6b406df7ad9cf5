//! Launcher of `kernels/sm90a/attention.cu`.
//!
//! Budgets on 132 SMs of 228 KB of shared memory, 65,536 registers, 4,096 bf16 FLOP and 16 exponentials a clock:
//!
//! | head_dim | tile | threads, registers | stages, shared memory | clocks a block of 128 keys and consumer | bound |
//! |---|---|---|---|---|---|
//! | 64 | 192x128 | 512: 32 produce, 160 consume | 4 of 32 KB (key and value), 177 KB | tensor 512, exponentials 512 | both: no more than 500 TFLOP/s |
//! | 128 | 128x128 | 384: 40, 232 | 2 of 64 KB, 193 KB | tensor 1024, exponentials 512 | tensor cores |
//!
//! One CTA an SM, as many as there are tiles up to all SMs: a wave by construction.

use super::super::Kernels;
use super::super::rows::narrow;
use super::{BLOCK_K, ROW_BYTES};
use crate::device::{LaunchConfig, RawStream, TensorMap, TensorMapSpec};
use crate::error::{Error, Result};
use crate::operations::{AttentionDims, AttentionParams};
use crate::tensor::TensorView;

/// Keys of a block.
pub(in super::super) const BLOCK_N: usize = 128;
/// Fewer queries than a consumer's rows leave it idle: the portable kernel has smaller tiles, and packs the query heads
/// that share keys.
const MIN_SEQ_LEN: usize = 64;

/// `WgmmaAttentionParams` of kernels/sm90a/attention.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    seq_len: i32,
    kv_len: i32,
    num_heads: i32,
    heads_per_kv_head: i32,
    num_problems: i32,
    section: i32,
    num_row_tiles: i32,
    softmax_scale_log2: f32,
}

/// `WgmmaAttentionConfig` of the head dimension.
struct Config {
    num_consumers: usize,
    num_stages: usize,
}

impl Config {
    fn new(head_dim: usize) -> Option<Self> {
        match head_dim {
            64 => Some(Config { num_consumers: 3, num_stages: 4 }),
            128 => Some(Config { num_consumers: 2, num_stages: 2 }),
            _ => None,
        }
    }

    fn block_m(&self) -> usize {
        64 * self.num_consumers
    }

    fn num_threads(&self) -> u32 {
        128 * (self.num_consumers as u32 + 1)
    }

    /// `sizeof(WgmmaAttentionShared)`: queries, stages of keys and values, the way out, barriers.
    fn shared_bytes(&self, head_dim: usize) -> u32 {
        let rows = 2 * self.block_m() + 2 * self.num_stages * BLOCK_N;
        (rows * head_dim * 2 + 1024) as u32
    }
}

/// Queries of a tile.
pub(in super::super) fn block_m(head_dim: usize) -> usize {
    Config::new(head_dim).expect("a head dimension that fits").block_m()
}

/// Threads of a block.
pub(in super::super) fn num_threads(head_dim: usize) -> u32 {
    Config::new(head_dim).expect("a head dimension that fits").num_threads()
}

/// Dynamic shared memory of a block.
pub(in super::super) fn shared_bytes(head_dim: usize) -> u32 {
    Config::new(head_dim).expect("a head dimension that fits").shared_bytes(head_dim)
}

/// Whether the Hopper kernels can serve: head dimensions they are compiled for, keys where the host knows them to be, and
/// tensors the copy engine can reach.
fn fits(p: &AttentionParams, dims: AttentionDims) -> bool {
    let views = [&p.out, &p.q, &p.k, &p.v];
    Config::new(dims.head_dim).is_some()
        && p.kv_lengths.is_none()
        && p.block_table.is_none()
        && p.kv_len >= dims.seq_len
        && dims.batch_size * dims.seq_len * dims.num_heads > 0
        && views.into_iter().all(super::is_tensor)
}

/// Whether the Hopper kernels are to serve on the kernels' device.
pub(in super::super) fn is_picked(kernels: &Kernels, p: &AttentionParams, dims: AttentionDims) -> bool {
    kernels.uses_sm90a() && dims.seq_len >= MIN_SEQ_LEN && fits(p, dims)
}

/// [`crate::kernels::attention()`] by the Hopper kernels.
///
/// # Errors
/// As [`crate::kernels::attention()`]; [`Error::Tensor`] for a head dimension other than 64 and 128, 4-byte elements,
/// lengths on the device, a block table, fewer keys than queries, or tensors that the copy engine cannot reach;
/// [`Error::NoCodeForDevice`] from the device where it is no Hopper.
///
/// # Safety
/// As [`crate::kernels::attention()`].
pub unsafe fn attention_with_wgmma(kernels: &Kernels, p: &AttentionParams, stream: RawStream) -> Result<()> {
    let dims = p.check()?;
    if !fits(p, dims) {
        let message =
            format!("the Hopper kernels cannot serve {dims:?} with these types, alignments and lengths");
        return Err(Error::Tensor { operation: "attention", message });
    }
    // SAFETY: as of this function.
    unsafe { attention(kernels, p, stream) }
}

/// Launches on operands that the kernels can serve.
///
/// # Safety
/// As [`crate::kernels::attention()`].
pub(in super::super) unsafe fn attention(
    kernels: &Kernels,
    p: &AttentionParams,
    stream: RawStream,
) -> Result<()> {
    const OPERATION: &str = "attention";
    let dims = p.check()?;
    let AttentionDims { batch_size, seq_len, num_heads, num_kv_heads, head_dim, .. } = dims;
    let config = Config::new(head_dim).expect("a head dimension that fits");
    let device = kernels.device().properties();
    let heads_per_kv_head = num_heads / num_kv_heads;
    let num_problems = batch_size * num_heads;
    let num_row_tiles = seq_len.div_ceil(config.block_m());
    let num_tiles: i32 = narrow(OPERATION, "the number of tiles", num_problems * num_row_tiles)?;
    // Half of L2 for the keys and values of a section: the other half sees queries and outputs pass.
    let kv_bytes = (2 * p.kv_len * head_dim * 2) as u64;
    let section = (device.l2_bytes / 2 / kv_bytes).max(1) as usize * heads_per_kv_head;
    let params = KernelParams {
        seq_len: narrow(OPERATION, "seq_len", seq_len)?,
        kv_len: narrow(OPERATION, "kv_len", p.kv_len)?,
        num_heads: narrow(OPERATION, "num_heads", num_heads)?,
        heads_per_kv_head: narrow(OPERATION, "num_heads / num_kv_heads", heads_per_kv_head)?,
        num_problems: narrow(OPERATION, "batch_size * num_heads", num_problems)?,
        section: narrow(OPERATION, "heads of a section", section.min(num_problems))?,
        num_row_tiles: narrow(OPERATION, "tiles of queries", num_row_tiles)?,
        softmax_scale_log2: p.softmax_scale * std::f32::consts::LOG2_E,
    };
    let map_q = map_heads(kernels, &p.q, seq_len, config.block_m())?;
    let map_k = map_heads(kernels, &p.k, p.kv_len, BLOCK_N)?;
    let map_v = map_heads(kernels, &p.v, p.kv_len, BLOCK_N)?;
    let map_out = map_heads(kernels, &p.out, seq_len, 64)?;
    let blocks = num_tiles.min(device.num_sms as i32) as u32;
    let launch = LaunchConfig {
        programmatic_dependent: true,
        ..LaunchConfig::linear(blocks, config.num_threads()).with_shared(config.shared_bytes(head_dim))
    };
    let kernel = format!("wgmma_attention_{head_dim}_{}", p.q.dtype);
    let args: [&[u8]; 5] = [&map_q.0, &map_k.0, &map_v.0, &map_out.0, bytemuck::bytes_of(&params)];
    // SAFETY: these are the kernel's parameters; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch_args(&kernel, &launch, &args, stream) }
}

/// A map over the first `rows` rows of `[batch, rows, heads, head_dim]`, of boxes of one head's `box_rows` rows of 128
/// bytes.
fn map_heads(kernels: &Kernels, view: &TensorView, rows: usize, box_rows: usize) -> Result<TensorMap> {
    let &[batch_size, _, heads, head_dim] = view.shape() else { unreachable!("rank was checked") };
    let strides = view.strides();
    // A stride that nothing is read by is made such as the encoder takes.
    let stride = |count: usize, stride: usize| if count == 1 { head_dim } else { stride } as u64 * 2;
    kernels.device().encode_tensor_map(&TensorMapSpec {
        dtype: view.dtype,
        pointer: view.pointer,
        dims: vec![head_dim as u64, heads as u64, rows as u64, batch_size as u64],
        strides: vec![stride(heads, strides[2]), stride(rows, strides[1]), stride(batch_size, strides[0])],
        tile: vec![BLOCK_K as u32, 1, box_rows as u32, 1],
        swizzle_bytes: ROW_BYTES,
    })
}
