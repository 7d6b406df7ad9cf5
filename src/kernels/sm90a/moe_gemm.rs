//! Launcher of `kernels/sm90a/moe_gemm.cuh` and `moe_gemm_split.cu`.

use super::super::Kernels;
use super::super::gemm::Output;
use super::super::rows::narrow;
use super::{BLOCK_K, WgmmaTile, is_paired, is_tensor, map_2d, map_b};
use crate::device::RawStream;
use crate::error::{Error, Result};
use crate::operations::{Activation, MoeGemmDims, MoeGemmParams, Residual};

/// `WgmmaMoeGemmParams` of kernels/sm90a/moe_gemm.cuh.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    output: Output,
    expert_offsets: u64,
    a: u64,
    row_index: u64,
    a_row_chunks: u32,
    num_a_rows: i32,
    num_experts: i32,
    max_rows: i32,
    n: i32,
    k: i32,
    stores_tensors: i32,
    padding: i32,
}

/// The tile for a grouped product; `None` where the portable kernels must serve.
pub(in super::super) fn pick(kernels: &Kernels, p: &MoeGemmParams, dims: MoeGemmDims) -> Option<WgmmaTile> {
    if !kernels.uses_sm90a() || !fits(p, dims) {
        return None;
    }
    let num_sms = kernels.device().properties().num_sms as usize;
    Some(WgmmaTile::pick_grouped(dims.max_rows, dims.num_experts, dims.n, dims.k, num_sms))
}

/// Whether the Hopper kernels can serve this product.
fn fits(p: &MoeGemmParams, dims: MoeGemmDims) -> bool {
    let rows_fit = p.row_index.is_none() || p.a.shape()[0] * p.a.strides()[0] / 8 < u32::MAX as usize;
    dims.max_rows > 0
        && dims.n > 0
        && dims.k > 0
        && dims.num_experts > 0
        && dims.n.is_multiple_of(8)
        && is_tensor(&p.a)
        && is_tensor(&p.b)
        && is_tensor(&p.out)
        && is_paired(p.bias)
        && rows_fit
}

/// [`crate::kernels::moe_gemm()`] by the Hopper kernels, with a tile of the caller's choice out of [`WgmmaTile::MOE`].
///
/// # Errors
/// As [`crate::kernels::moe_gemm()`], and as [`crate::kernels::gemm_with_wgmma`].
///
/// # Safety
/// As [`crate::kernels::moe_gemm()`].
pub unsafe fn moe_gemm_with_wgmma(
    kernels: &Kernels,
    p: &MoeGemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    let dims = p.check()?;
    let has_parts = dims.k.div_ceil(BLOCK_K) >= tile.parts();
    if !fits(p, dims) || !WgmmaTile::MOE.contains(&tile) || !has_parts {
        let message = format!("{tile:?} cannot serve {dims:?} with these types and alignments");
        return Err(Error::Tensor { operation: "moe_gemm", message });
    }
    // SAFETY: as of this function.
    unsafe { moe_gemm(kernels, p, tile, stream) }
}

/// Launches the tile's kernel on operands that it can serve.
///
/// # Safety
/// As [`crate::kernels::moe_gemm()`].
pub(in super::super) unsafe fn moe_gemm(
    kernels: &Kernels,
    p: &MoeGemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    const OPERATION: &str = "moe_gemm";
    let dims = p.check()?;
    let num_a_rows = p.a.shape()[0];
    let a_row_stride = p.a.strides()[0];
    let params = KernelParams {
        output: Output::new(OPERATION, &p.out, p.bias, p.activation, Residual::None)?,
        expert_offsets: p.expert_offsets.pointer,
        a: p.a.pointer,
        row_index: p.row_index.map_or(0, |view| view.pointer),
        a_row_chunks: narrow(OPERATION, "the row stride of a", a_row_stride / 8)?,
        num_a_rows: narrow(OPERATION, "the number of rows of a", num_a_rows)?,
        num_experts: narrow(OPERATION, "the number of experts", dims.num_experts)?,
        max_rows: narrow(OPERATION, "max_rows", dims.max_rows)?,
        n: narrow(OPERATION, "N", dims.n)?,
        k: narrow(OPERATION, "K", dims.k)?,
        stores_tensors: 1,
        padding: 0,
    };
    let (box_a, box_b, box_out) = tile.boxes();
    let map_b = map_b(kernels, &p.b, [dims.n, dims.k], box_b)?;
    let map_out = map_2d(kernels, &p.out, [dims.max_rows, dims.n], p.out.strides()[0], box_out)?;
    let map_a = match p.row_index {
        None => map_2d(kernels, &p.a, [num_a_rows, dims.k], a_row_stride, box_a)?,
        Some(_) => map_out, // not looked at
    };
    // Only the device knows how the rows are spread: at most this many tiles, and as many CTAs as run at once.
    let (block_m, block_n) = tile.shape();
    let row_tiles = dims.max_rows / block_m + dims.num_experts.min(dims.max_rows);
    let tiles = row_tiles.saturating_mul(dims.n.div_ceil(block_n));
    let num_sms = kernels.device().properties().num_sms as usize;
    let gather = if p.row_index.is_some() { "gather_" } else { "" };
    // A cluster of a split tile takes one tile; its kernel has all activations.
    let (clusters, has_gelu) = match tile {
        WgmmaTile::Split(_) => (tiles, false),
        _ => {
            let most = num_sms * tile.blocks_per_sm() / tile.cluster() as usize;
            (tiles.min(most), p.activation != Activation::Identity)
        }
    };
    let gelu = if has_gelu { "gelu_" } else { "" };
    let config = tile.config(clusters)?;
    let kernel = format!("wgmma_moe_gemm_{gather}{gelu}{}_{}", tile.suffix(), p.a.dtype);
    let args: [&[u8]; 4] = [&map_a.0, &map_b.0, &map_out.0, bytemuck::bytes_of(&params)];
    // SAFETY: these are the kernel's parameters; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch_args(&kernel, &config, &args, stream) }
}
