//! Launcher of `kernels/lm_head.cu`; on Hopper sm90a.rs takes over the product where it can.

use super::Kernels;
use super::gemm::{GemmTile, Operands};
use super::rows::narrow;
use super::sm90a::{self, WgmmaTile};
use crate::device::{LaunchConfig, RawStream};
use crate::error::{Error, Result};
use crate::operations::{GemmDims, LmHeadDims, LmHeadParams};

const OPERATION: &str = "lm_head";

/// Rows that a block of `lm_head_reduce` merges, a warp each.
const REDUCE_ROWS: usize = 4;
const REDUCE_THREADS: u32 = 128;

/// From how many rows on the tall tile reads less than it wastes.
const TALL_TILE_ROWS: usize = 48;

/// `LmHeadReduction` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Reduction {
    targets: u64,
    losses: u64,
    argmax: u64,
    partials: u64,
    num_rows: i32,
    vocab_size: i32,
    allowed_vocab: i32,
    ignore_index: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    operands: Operands,
    bias: u64,
    logits: u64,
    reduction: Reduction,
}

/// Logits, argmax and cross-entropy over the vocabulary: see [`LmHeadParams`].
///
/// A row index outside of x gives the logits of a row of zeros.
///
/// # Errors
/// A shape or type that does not fit, and whatever the launches say.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn lm_head(kernels: &Kernels, p: &LmHeadParams, stream: RawStream) -> Result<()> {
    let tile = sm90a::lm_head::pick(kernels, p, p.check()?);
    // SAFETY: as of this function.
    unsafe { lm_head_by(kernels, p, tile, stream) }
}

/// [`lm_head`] by the Hopper kernels, with a tile of the caller's choice out of [`WgmmaTile::LM_HEAD`].
///
/// # Errors
/// As [`lm_head`], and [`Error::Tensor`] for tensors that the copy engine cannot reach, a tile of another operation, or
/// one that cannot gather where rows are chosen.
///
/// # Safety
/// As [`lm_head`].
pub unsafe fn lm_head_with_wgmma(
    kernels: &Kernels,
    p: &LmHeadParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    let dims = p.check()?;
    let gathers = tile != WgmmaTile::T256x128;
    if !sm90a::lm_head::fits(p, dims) || !WgmmaTile::LM_HEAD.contains(&tile) || (p.rows.is_some() && !gathers)
    {
        let message = format!("{tile:?} cannot serve {dims:?} with these types and alignments");
        return Err(Error::Tensor { operation: OPERATION, message });
    }
    // SAFETY: as of this function.
    unsafe { lm_head_by(kernels, p, Some(tile), stream) }
}

/// The logits by the Hopper kernel of this tile, or by a portable one; then the merge of the partial results.
///
/// # Safety
/// As [`lm_head`].
unsafe fn lm_head_by(
    kernels: &Kernels,
    p: &LmHeadParams,
    tile: Option<WgmmaTile>,
    stream: RawStream,
) -> Result<()> {
    let dims = p.check()?;
    if dims.num_rows == 0 || dims.vocab_size == 0 {
        return Ok(());
    }
    let gemm_dims = GemmDims { m: dims.num_rows, n: dims.vocab_size, k: dims.hidden_size };
    let mut operands = Operands::dense(OPERATION, &p.x, &p.weight, gemm_dims)?;
    operands.row_index = p.rows.map_or(0, |view| view.pointer);
    let wants_reduction = p.argmax.is_some() || p.cross_entropy.is_some();
    let reduction = Reduction {
        targets: p.cross_entropy.map_or(0, |loss| loss.targets.pointer),
        losses: p.cross_entropy.map_or(0, |loss| loss.losses.pointer),
        argmax: p.argmax.map_or(0, |view| view.pointer),
        partials: if wants_reduction { p.scratch.pointer } else { 0 },
        num_rows: operands.m,
        vocab_size: operands.n,
        allowed_vocab: narrow(OPERATION, "allowed_vocab", p.allowed_vocab)?,
        ignore_index: p.cross_entropy.map_or(0, |loss| loss.ignore_index),
    };
    if wants_reduction || p.logits.is_some() {
        match tile {
            // SAFETY: as of this function.
            Some(tile) => unsafe { sm90a::lm_head::lm_head(kernels, p, reduction, tile, stream)? },
            // SAFETY: as of this function.
            None => unsafe { portable(kernels, p, dims, operands, reduction, stream)? },
        }
    }
    if wants_reduction {
        let blocks = narrow(OPERATION, "blocks", dims.num_rows.div_ceil(REDUCE_ROWS))?;
        let config = LaunchConfig::linear(blocks, REDUCE_THREADS);
        // SAFETY: the struct is the kernel's; shapes and types were checked, the caller vouches for the memory. The
        // partial results were left by the launch before, in the same stream.
        unsafe { kernels.launch("lm_head_reduce", &config, &reduction, stream)? };
    }
    Ok(())
}

/// The portable kernel's tile for so many rows.
pub(super) fn portable_tile(num_rows: usize) -> GemmTile {
    if num_rows >= TALL_TILE_ROWS { GemmTile::T128x128 } else { GemmTile::T16x128 }
}

/// Logits and partial results by the portable kernel.
///
/// # Safety
/// As [`lm_head`].
unsafe fn portable(
    kernels: &Kernels,
    p: &LmHeadParams,
    dims: LmHeadDims,
    operands: Operands,
    reduction: Reduction,
    stream: RawStream,
) -> Result<()> {
    let params = KernelParams {
        operands,
        bias: p.bias.map_or(0, |view| view.pointer),
        logits: p.logits.map_or(0, |view| view.pointer),
        reduction,
    };
    let tile = portable_tile(dims.num_rows);
    let config = tile.config(OPERATION, p.x.dtype, tile.count(dims.num_rows, dims.vocab_size))?;
    // SAFETY: the struct is the kernel's; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch(&tile.kernel("lm_head", p.x.dtype), &config, &params, stream) }
}
