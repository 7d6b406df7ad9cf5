//! Launcher of `kernels/sm90a/lm_head.cu`.

use super::super::Kernels;
use super::super::lm_head::Reduction;
use super::super::rows::narrow;
use super::{WgmmaTile, is_tensor, map_2d, map_b};
use crate::device::RawStream;
use crate::error::Result;
use crate::operations::{LmHeadDims, LmHeadParams};

/// `WgmmaLmHeadParams` of kernels/sm90a/lm_head.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    reduction: Reduction,
    bias: u64,
    logits: u64,
    x: u64,
    rows: u64,
    x_row_chunks: u32,
    num_x_rows: i32,
    k: i32,
    padding: i32,
}

/// Six or eight stages of 192 KB in all, barriers, no staging; one CTA an SM.
pub(in super::super) const SHARED_BYTES: u32 = 193 * 1024;

/// The tile for a product over the vocabulary; `None` where the portable kernels must serve.
pub(in super::super) fn pick(kernels: &Kernels, p: &LmHeadParams, dims: LmHeadDims) -> Option<WgmmaTile> {
    if !kernels.uses_sm90a() || !fits(p, dims) {
        return None;
    }
    let num_sms = kernels.device().properties().num_sms as usize;
    let LmHeadDims { num_rows, vocab_size, hidden_size, .. } = dims;
    Some(WgmmaTile::pick_vocab(num_rows, vocab_size, hidden_size, num_sms, p.rows.is_some()))
}

/// Whether the Hopper kernels can serve this product.
pub(in super::super) fn fits(p: &LmHeadParams, dims: LmHeadDims) -> bool {
    let rows_fit = p.x.shape()[0] * p.x.strides()[0] / 8 < u32::MAX as usize;
    dims.hidden_size > 0 && is_tensor(&p.x) && is_tensor(&p.weight) && rows_fit
}

/// Launches the tile's kernel on operands that it can serve; the partial results are left to `lm_head_reduce`.
///
/// # Safety
/// As [`crate::kernels::lm_head()`].
pub(in super::super) unsafe fn lm_head(
    kernels: &Kernels,
    p: &LmHeadParams,
    reduction: Reduction,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    const OPERATION: &str = "lm_head";
    let dims = p.check()?;
    let (num_x_rows, x_row_stride) = (p.x.shape()[0], p.x.strides()[0]);
    let params = KernelParams {
        reduction,
        bias: p.bias.map_or(0, |view| view.pointer),
        logits: p.logits.map_or(0, |view| view.pointer),
        x: p.x.pointer,
        rows: p.rows.map_or(0, |view| view.pointer),
        x_row_chunks: narrow(OPERATION, "the row stride of x", x_row_stride / 8)?,
        num_x_rows: narrow(OPERATION, "the number of rows of x", num_x_rows)?,
        k: narrow(OPERATION, "hidden_size", dims.hidden_size)?,
        padding: 0,
    };
    let (box_x, box_weight, _) = tile.boxes();
    let map_weight = map_b(kernels, &p.weight, [dims.vocab_size, dims.hidden_size], box_weight)?;
    let (map_x, gather) = match tile {
        WgmmaTile::T256x128 => {
            (map_2d(kernels, &p.x, [num_x_rows, dims.hidden_size], x_row_stride, box_x)?, "")
        }
        _ => (map_weight, "gather_"), // the map is not looked at
    };
    let (block_m, block_n) = tile.shape();
    let num_tiles = dims.num_rows.div_ceil(block_m) * dims.vocab_size.div_ceil(block_n);
    let num_sms = kernels.device().properties().num_sms as usize;
    let config = tile.config_with(num_tiles.min(num_sms / tile.cluster() as usize), SHARED_BYTES)?;
    let kernel = format!("wgmma_lm_head_{gather}{}_{}", tile.suffix(), p.x.dtype);
    let args: [&[u8]; 3] = [&map_x.0, &map_weight.0, bytemuck::bytes_of(&params)];
    // SAFETY: these are the kernel's parameters; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch_args(&kernel, &config, &args, stream) }
}
