//! What a launch of a tiled kernel moves by its own tiles, in bytes between the multiprocessors and L2: operands once for
//! every tile that uses them, results once. The virtual GPU's counters are held against it. A tile is its rows and columns
//! of the output; a cluster's is that of its CTAs together, since they share what they load.

use super::attention::{Tiles, max_decode_rows};
use super::gemm::pick_tile;
use super::lm_head::portable_tile;
use super::topk_gating::{RouterCut, WARP_EXPERTS};
use super::{Kernels, Numerics};
use super::{moe_dispatch, sm90a};
use crate::error::Result;
use crate::operations::{
    AttentionParams, GemmParams, LmHeadParams, MoeDispatchParams, MoeGemmParams, Residual, RouterLogitsParams,
};

/// Bytes that [`super::router_logits()`] moves: x once for every eight experts, weights once a block, logits once.
///
/// # Errors
/// A shape or type that does not fit.
pub fn router_logits_bytes(kernels: &Kernels, p: &RouterLogitsParams) -> Result<u64> {
    let (num_tokens, num_experts, hidden_size) = p.check()?;
    let cut = RouterCut::of(kernels, [num_tokens, num_experts, hidden_size], p.noise.is_some());
    let x = num_tokens * hidden_size * p.x.dtype.size() * num_experts.div_ceil(WARP_EXPERTS);
    let num_matrices = if p.noise.is_some() { 2 } else { 1 };
    let weights = 4 * num_matrices * num_experts * hidden_size * cut.token_blocks;
    Ok((num_matrices * x + weights + 4 * num_tokens * num_experts) as u64)
}

/// Bytes that [`super::moe_dispatch()`] moves: ids once a launch, results once, and the counts of all blocks in each.
///
/// # Errors
/// A shape or type that does not fit.
pub fn moe_dispatch_bytes(p: &MoeDispatchParams) -> Result<u64> {
    let (num_tokens, k) = p.check()?;
    let num_blocks = moe_dispatch::num_blocks(num_tokens * k);
    let (launches, counts) = match num_blocks {
        1 => (1, 0),
        _ => (2, num_blocks * (num_blocks + 1) * p.num_experts),
    };
    Ok(4 * ((launches + 2) * num_tokens * k + counts + p.num_experts + 1) as u64)
}

/// Elements of a and b that tiles of a product read: a once a column of tiles, b once a row of tiles.
fn operand_elements((block_m, block_n): (usize, usize), m: usize, n: usize, k: usize) -> usize {
    n.div_ceil(block_n) * m * k + m.div_ceil(block_m) * n * k
}

/// Bytes that [`super::gemm()`] moves with a tile of this shape.
///
/// # Errors
/// A shape or type that does not fit.
pub fn gemm_bytes_with((block_m, block_n): (usize, usize), p: &GemmParams) -> Result<u64> {
    let dims = p.check()?;
    let operands = operand_elements((block_m, block_n), dims.m, dims.n, dims.k) * p.a.dtype.size();
    let outputs = if matches!(p.residual, Residual::None) { 1 } else { 2 };
    let bias = if p.bias.is_some() { dims.m.div_ceil(block_m) * dims.n * 4 } else { 0 };
    Ok((operands + outputs * dims.m * dims.n * p.out.dtype.size() + bias) as u64)
}

/// Bytes that [`super::gemm()`] moves with the tile it picks.
///
/// # Errors
/// As [`gemm_bytes_with`].
pub fn gemm_bytes(kernels: &Kernels, p: &GemmParams) -> Result<u64> {
    let dims = p.check()?;
    match sm90a::gemm::pick(kernels, p, dims) {
        Some(tile) => gemm_bytes_with(tile.shape(), p),
        None => gemm_bytes_with(pick_tile(kernels, dims.m, dims.n, 1).shape(), p),
    }
}

/// Bytes that [`super::moe_gemm()`] moves with a tile of this shape, where each expert has so many rows. Rows of a that
/// are not gathered come to Hopper's tiles in whole boxes, whoever's the last of them are (`takes_boxes`).
///
/// # Errors
/// A shape or type that does not fit.
pub fn moe_gemm_bytes_with(
    (block_m, block_n): (usize, usize),
    takes_boxes: bool,
    p: &MoeGemmParams,
    loads: &[usize],
) -> Result<u64> {
    let dims = p.check()?;
    let (column_tiles, size) = (dims.n.div_ceil(block_n), p.a.dtype.size());
    let (num_a_rows, is_gathered) = (p.a.shape()[0], p.row_index.is_some());
    let (mut elements, mut other, mut first) = (0, 0, 0);
    for &rows in loads {
        let row_tiles = rows.div_ceil(block_m);
        let a_rows = match takes_boxes && !is_gathered {
            true => (row_tiles * block_m).min(num_a_rows - first),
            false => rows,
        };
        elements += column_tiles * a_rows * dims.k + row_tiles * dims.n * dims.k + rows * dims.n;
        other += if p.bias.is_some() { 4 * row_tiles * dims.n } else { 0 };
        other += if is_gathered { 4 * column_tiles * rows } else { 0 };
        first += rows;
    }
    Ok((elements * size + other) as u64)
}

/// Bytes that [`super::moe_gemm()`] moves with the tile it picks, where each expert has so many rows.
///
/// # Errors
/// As [`moe_gemm_bytes_with`].
pub fn moe_gemm_bytes(kernels: &Kernels, p: &MoeGemmParams, loads: &[usize]) -> Result<u64> {
    let dims = p.check()?;
    match sm90a::moe_gemm::pick(kernels, p, dims) {
        Some(tile) => moe_gemm_bytes_with(tile.shape(), true, p, loads),
        None => {
            let tile = pick_tile(kernels, dims.max_rows, dims.n, dims.num_experts);
            moe_gemm_bytes_with(tile.shape(), false, p, loads)
        }
    }
}

/// Bytes that [`super::lm_head()`] moves with this tile: logits where they are asked for, and the partial results, out
/// and in again.
///
/// # Errors
/// A shape or type that does not fit.
pub fn lm_head_bytes_with((block_m, block_n): (usize, usize), p: &LmHeadParams) -> Result<u64> {
    let dims = p.check()?;
    let (row_tiles, vocab_tiles) = (dims.num_rows.div_ceil(block_m), dims.vocab_size.div_ceil(block_n));
    let operands = operand_elements((block_m, block_n), dims.num_rows, dims.vocab_size, dims.hidden_size)
        * p.x.dtype.size();
    let logits = if p.logits.is_some() { 4 * dims.num_rows * dims.vocab_size } else { 0 };
    let bias = if p.bias.is_some() { 4 * row_tiles * dims.vocab_size } else { 0 };
    let index = if p.rows.is_some() { 4 * vocab_tiles * dims.num_rows } else { 0 };
    // Largest allowed logit and its id, largest logit and sum of exponentials; merged are two for the argmax and three
    // for the loss (the largest twice).
    let (argmax, loss) = (p.argmax.is_some(), p.cross_entropy.is_some());
    let written = if argmax || loss { 4 } else { 0 };
    let merged = if argmax { 2 } else { 0 } + if loss { 3 } else { 0 };
    let partials = 4 * (written + merged) * dims.num_rows * vocab_tiles;
    // Every tile compares its ids with the row's target.
    let targets = if loss { 4 * (vocab_tiles + 2) * dims.num_rows } else { 0 };
    let outputs = 4 * dims.num_rows * (usize::from(argmax) + usize::from(loss));
    Ok((operands + logits + bias + index + partials + targets + outputs) as u64)
}

/// Bytes that [`super::lm_head()`] moves with the tile it picks.
///
/// # Errors
/// As [`lm_head_bytes_with`].
pub fn lm_head_bytes(kernels: &Kernels, p: &LmHeadParams) -> Result<u64> {
    let dims = p.check()?;
    match sm90a::lm_head::pick(kernels, p, dims) {
        Some(tile) => lm_head_bytes_with(tile.shape(), p),
        None => lm_head_bytes_with(portable_tile(dims.num_rows).shape(), p),
    }
}

/// Bytes that [`super::attention()`] moves: queries and outputs once, keys and values as far as each tile of queries sees.
/// Sequences have `kv_len` keys.
///
/// # Errors
/// A shape or type that does not fit.
pub fn attention_bytes(kernels: &Kernels, p: &AttentionParams) -> Result<u64> {
    let dims = p.check()?;
    if sm90a::attention::is_picked(kernels, p, dims) {
        return wgmma_attention_bytes(p);
    }
    let heads_per_kv_head = dims.num_heads / dims.num_kv_heads;
    let num_rows = dims.seq_len * heads_per_kv_head;
    let few = max_decode_rows(p.q.dtype);
    let rows_a_tile = match num_rows {
        rows if rows <= few && kernels.numerics() == Numerics::Fast => few,
        _ => Tiles::new(p.q.dtype, dims.head_dim.next_power_of_two().max(64)).block_m,
    };
    // A tile reads the keys that its last row sees.
    let keys: usize = (0..num_rows.div_ceil(rows_a_tile))
        .map(|tile| visible_keys(p, (((tile + 1) * rows_a_tile).min(num_rows) - 1) / heads_per_kv_head))
        .sum();
    Ok(attended_bytes(p, dims.batch_size * dims.num_kv_heads * keys))
}

/// Bytes of [`attention_bytes`] by the Hopper kernels.
///
/// # Errors
/// As [`attention_bytes`].
pub fn wgmma_attention_bytes(p: &AttentionParams) -> Result<u64> {
    let dims = p.check()?;
    let block_m = sm90a::attention::block_m(dims.head_dim);
    // Blocks of keys come whole, as far as there are keys.
    let keys: usize = (0..dims.seq_len.div_ceil(block_m))
        .map(|tile| visible_keys(p, ((tile + 1) * block_m).min(dims.seq_len) - 1))
        .map(|visible| visible.next_multiple_of(sm90a::attention::BLOCK_N).min(p.kv_len))
        .sum();
    Ok(attended_bytes(p, dims.batch_size * dims.num_heads * keys))
}

/// Keys that a query sees.
fn visible_keys(p: &AttentionParams, query: usize) -> usize {
    (p.kv_len + query + 1).saturating_sub(p.q.shape()[1])
}

/// Bytes of queries, outputs, and so many rows of a head's keys and values.
fn attended_bytes(p: &AttentionParams, rows: usize) -> u64 {
    let head_dim = p.q.shape()[3];
    ((2 * p.q.num_elements() + 2 * rows * head_dim) * p.q.dtype.size()) as u64
}
