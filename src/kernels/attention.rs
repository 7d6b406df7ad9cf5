//! Launcher of `kernels/attention.cu` and `kernels/attention_decode.cuh`; on Hopper `sm90a/attention.rs` takes over where it can.

use super::rows::{narrow, whole_chunks};
use super::sm90a;
use super::{Kernels, Numerics};
use crate::device::{LaunchConfig, RawStream};
use crate::error::{Error, Result};
use crate::operations::{AttentionParams, KvSplit};
use crate::tensor::{DType, TensorView};

/// Up to this many rows (queries times the query heads of a key-value head) a block has all of them and the keys are
/// split; beyond, blocks have tiles of rows that go through all keys.
pub(super) const fn max_decode_rows(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 1,
        _ => 8,
    }
}
pub(super) const DECODE_THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    out: u64,
    q: u64,
    k: u64,
    v: u64,
    kv_lengths: u64,
    block_table: u64,
    out_strides: [i64; 3],
    q_strides: [i64; 3],
    k_strides: [i64; 3],
    v_strides: [i64; 3],
    kv_len: i32,
    kv_capacity: i32,
    seq_len: i32,
    num_kv_heads: i32,
    heads_per_kv_head: i32,
    head_dim: i32,
    num_blocks: i32,
    block_size: i32,
    max_blocks: i32,
    softmax_scale_log2: f32,
    whole_chunks: u32,
    reserved: u32,
}

/// `AttentionDecodeParams` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct DecodeParams {
    attention: KernelParams,
    partials: u64,
    counters: u64,
    keys_per_split: i32,
    reserved: i32,
}

/// How few rows are attended to.
pub(super) struct Decode {
    /// Rows that the kernel has registers for.
    pub(super) max_rows: usize,
    /// Keys of a block.
    pub(super) keys_per_split: usize,
    /// Blocks of a key-value head.
    pub(super) num_splits: usize,
}

impl Decode {
    /// For these many rows over up to `kv_len` keys, split or not.
    pub(super) fn new(dtype: DType, head_dim: usize, num_rows: usize, kv_len: usize, splits: bool) -> Self {
        let max_rows = match num_rows {
            1 => 1,
            2..=4 if head_dim <= 128 => 4,
            _ => max_decode_rows(dtype),
        };
        if !splits {
            return Decode { max_rows, keys_per_split: kv_len.max(1), num_splits: 1 };
        }
        // With more rows a split leaves more behind, so it had better be longer
        let keys_per_split = if num_rows <= 4 { KvSplit::MIN_KEYS } else { 2 * KvSplit::MIN_KEYS };
        Decode { max_rows, keys_per_split, num_splits: kv_len.div_ceil(keys_per_split).max(1) }
    }
}

/// Tile sizes of a kernel: `MmaConfig` and `FfmaConfig` of the kernel file.
pub(super) struct Tiles {
    pub(super) name: &'static str,
    pub(super) block_m: usize,
    pub(super) threads: u32,
    pub(super) shared_bytes: usize,
}

impl Tiles {
    /// For `head_dim` rounded up to 64, 128 or 256.
    pub(super) fn new(dtype: DType, head_dim: usize) -> Self {
        if dtype == DType::F32 {
            let (block_m, block_n) = (32, if head_dim <= 128 { 32 } else { 8 });
            let tiles = (block_m + 4 * block_n) * (head_dim + 4);
            let weights = block_m * (block_n + 4);
            Tiles { name: "ffma", block_m, threads: 128, shared_bytes: 4 * (tiles + weights) }
        } else {
            let (block_m, block_n) = (64, if head_dim <= 128 { 64 } else { 32 });
            let tiles = (block_m + 4 * block_n) * head_dim;
            Tiles { name: "mma", block_m, threads: 128, shared_bytes: 2 * tiles }
        }
    }
}

/// Causal scaled-dot-product attention: see [`AttentionParams`].
///
/// A length in `kv_lengths` is limited to 0 and what k and v hold; a block id outside k reads as keys and values of 0.
///
/// # Errors
/// A shape or type that does not fit, a scale that is not positive, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn attention(kernels: &Kernels, p: &AttentionParams, stream: RawStream) -> Result<()> {
    let dims = p.check()?;
    if p.softmax_scale <= 0.0 {
        let message = format!("softmax_scale is {}, expected it positive", p.softmax_scale);
        return Err(Error::Tensor { operation: "attention", message });
    }
    if dims.batch_size == 0 || dims.seq_len == 0 || dims.num_heads == 0 {
        return Ok(());
    }
    if sm90a::attention::is_picked(kernels, p, dims) {
        // SAFETY: as of this function.
        return unsafe { sm90a::attention::attention(kernels, p, stream) };
    }
    let int = |what: &str, value: usize| narrow::<i32>("attention", what, value);
    let heads_per_kv_head = dims.num_heads / dims.num_kv_heads;
    let num_rows = dims.seq_len * heads_per_kv_head;
    let (pool, block_size, max_blocks) = match p.block_table {
        Some(table) => (p.k.shape()[0], p.k.shape()[1], table.shape()[1]),
        None => (0, 0, 0),
    };
    let params = KernelParams {
        out: p.out.pointer,
        q: p.q.pointer,
        k: p.k.pointer,
        v: p.v.pointer,
        kv_lengths: p.kv_lengths.map_or(0, |t| t.pointer),
        block_table: p.block_table.map_or(0, |t| t.pointer),
        out_strides: outer_strides(&p.out),
        q_strides: outer_strides(&p.q),
        k_strides: outer_strides(&p.k),
        v_strides: outer_strides(&p.v),
        kv_len: int("kv_len", p.kv_len)?,
        kv_capacity: int("kv_len", p.kv_len)?,
        seq_len: int("seq_len", dims.seq_len)?,
        num_kv_heads: int("num_kv_heads", dims.num_kv_heads)?,
        heads_per_kv_head: int("num_heads / num_kv_heads", heads_per_kv_head)?,
        head_dim: int("head_dim", dims.head_dim)?,
        num_blocks: int("num_blocks", pool)?,
        block_size: int("block_size", block_size)?,
        max_blocks: int("max_blocks", max_blocks)?,
        softmax_scale_log2: p.softmax_scale * std::f32::consts::LOG2_E,
        whole_chunks: [&p.out, &p.q, &p.k, &p.v].into_iter().all(whole_chunks).into(),
        reserved: 0,
    };
    int("seq_len * num_heads", num_rows)?;
    let dtype = p.q.dtype;
    let head_dim = dims.head_dim.next_power_of_two().max(64);
    let problems = narrow("attention", "batch_size * num_kv_heads", dims.batch_size * dims.num_kv_heads)?;
    // The tiles' way with a row is the same for one row and for many
    if num_rows <= max_decode_rows(dtype) && kernels.numerics() == Numerics::Fast {
        let decode = Decode::new(dtype, head_dim, num_rows, p.kv_len, p.split.is_some());
        let params = DecodeParams {
            attention: params,
            partials: p.split.map_or(0, |split| split.partials.pointer),
            counters: p.split.map_or(0, |split| split.counters.pointer),
            keys_per_split: int("kv_len", decode.keys_per_split)?,
            reserved: 0,
        };
        let splits: u16 = narrow("attention", "splits of the keys", decode.num_splits)?;
        let config = LaunchConfig::new([problems, u32::from(splits), 1], DECODE_THREADS);
        let kernel = format!("attention_decode_{head_dim}x{}_{dtype}", decode.max_rows);
        // SAFETY: as below, and `check` saw the memory of the splits.
        return unsafe { kernels.launch(&kernel, &config, &params, stream) };
    }
    let tiles = Tiles::new(dtype, head_dim);
    let num_tiles: u16 = narrow("attention", "tiles of queries", num_rows.div_ceil(tiles.block_m))?;
    let config = LaunchConfig::new([problems, u32::from(num_tiles), 1], tiles.threads)
        .with_shared(tiles.shared_bytes as u32);
    let kernel = format!("attention_{}_{head_dim}_{dtype}", tiles.name);
    // SAFETY: `KernelParams` mirrors `AttentionParams` of the kernel file; `check` saw the shapes, the kernel limits
    // lengths and block ids to what k and v hold, the caller vouches for the memory.
    unsafe { kernels.launch(&kernel, &config, &params, stream) }
}

fn outer_strides(view: &TensorView) -> [i64; 3] {
    [0, 1, 2].map(|dim| view.strides()[dim] as i64)
}
