//! Launcher of `kernels/moe_gemm.cu`; on Hopper sm90a.rs takes over where it can.

use super::Kernels;
use super::gemm::{GemmTile, Operands, Output, pick_tile};
use super::rows::narrow;
use super::sm90a;
use crate::device::RawStream;
use crate::error::Result;
use crate::operations::{MoeGemmParams, Residual};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    operands: Operands,
    output: Output,
    expert_offsets: u64,
    num_experts: i64,
}

/// Grouped matrix product, each expert's weight over its own rows: see [`MoeGemmParams`].
///
/// Offsets that descend or pass `max_rows`, and row indices outside of `a`, are taken as no rows and rows of zeros:
/// the kernel never reads or writes outside of its tensors.
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn moe_gemm(kernels: &Kernels, p: &MoeGemmParams, stream: RawStream) -> Result<()> {
    let dims = p.check()?;
    if let Some(tile) = sm90a::moe_gemm::pick(kernels, p, dims) {
        // SAFETY: as of this function.
        return unsafe { sm90a::moe_gemm::moe_gemm(kernels, p, tile, stream) };
    }
    let tile = pick_tile(kernels, dims.max_rows, dims.n, dims.num_experts);
    // SAFETY: as of this function.
    unsafe { moe_gemm_with_tile(kernels, p, tile, stream) }
}

/// [`moe_gemm`] with a tile of the caller's choice out of [`GemmTile::ALL`].
///
/// # Errors
/// As [`moe_gemm`]; [`crate::Error::KernelsNotBuilt`] for a tile that it is not compiled for.
///
/// # Safety
/// As [`moe_gemm`].
pub unsafe fn moe_gemm_with_tile(
    kernels: &Kernels,
    p: &MoeGemmParams,
    tile: GemmTile,
    stream: RawStream,
) -> Result<()> {
    const OPERATION: &str = "moe_gemm";
    let dims = p.check()?;
    if dims.max_rows == 0 || dims.n == 0 || dims.num_experts == 0 {
        return Ok(());
    }
    let operands = Operands {
        a: p.a.pointer,
        b: p.b.pointer,
        row_index: p.row_index.map_or(0, |view| view.pointer),
        a_row_stride: p.a.strides()[0] as i64,
        b_row_stride: p.b.strides()[1] as i64,
        b_group_stride: p.b.strides()[0] as i64,
        num_a_rows: narrow(OPERATION, "the number of rows of a", p.a.shape()[0])?,
        m: narrow(OPERATION, "max_rows", dims.max_rows)?,
        n: narrow(OPERATION, "N", dims.n)?,
        k: narrow(OPERATION, "K", dims.k)?,
    };
    let params = KernelParams {
        operands,
        output: Output::new(OPERATION, &p.out, p.bias, p.activation, Residual::None)?,
        expert_offsets: p.expert_offsets.pointer,
        num_experts: dims.num_experts as i64,
    };
    // Only the device knows how the rows are spread. However they are, every expert has at most one tile of rows that
    // is not full, and none without rows.
    let (block_m, block_n) = tile.shape();
    let row_tiles = dims.max_rows / block_m + dims.num_experts.min(dims.max_rows);
    let num_tiles = row_tiles.saturating_mul(dims.n.div_ceil(block_n));
    let config = tile.config(OPERATION, p.a.dtype, num_tiles)?;
    // SAFETY: the struct is the kernel's; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch(&tile.kernel("moe_gemm", p.a.dtype), &config, &params, stream) }
}
