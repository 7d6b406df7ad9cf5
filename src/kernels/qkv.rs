//! Launcher of `kernels/qkv.cu`.

use super::Kernels;
use super::gemm::{GemmTile, Operands, pick_tile};
use super::rows::narrow;
use crate::device::RawStream;
use crate::error::Result;
use crate::operations::{GemmDims, QkvParams};

const OPERATION: &str = "qkv";

/// `QkvOutput` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Output {
    q: u64,
    kv: u64,
    kv_rows: u64,
    bias: u64,
    q_row_stride: i64,
    kv_row_stride: i64,
    q_columns: i32,
    num_columns: i32,
    num_cache_rows: i32,
    reserved: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    operands: Operands,
    output: Output,
}

/// The tile for so many tokens and columns: of gemm's those that this kernel is compiled for.
pub(super) fn tile(kernels: &Kernels, num_tokens: usize, columns: usize) -> GemmTile {
    match pick_tile(kernels, num_tokens, columns, 1) {
        GemmTile::T16x32 => GemmTile::T16x32,
        _ => GemmTile::T64x64,
    }
}

/// Queries, keys and values, the latter into a cache: see [`QkvParams`].
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn qkv(kernels: &Kernels, p: &QkvParams, stream: RawStream) -> Result<()> {
    let dims = p.check()?;
    let columns = dims.q_columns + dims.kv_columns;
    if dims.num_tokens == 0 || columns == 0 {
        return Ok(());
    }
    let gemm_dims = GemmDims { m: dims.num_tokens, n: columns, k: dims.k };
    let params = KernelParams {
        operands: Operands::dense(OPERATION, &p.a, &p.weight, gemm_dims)?,
        output: Output {
            q: p.q.pointer,
            kv: p.kv.pointer,
            kv_rows: p.kv_rows.pointer,
            bias: p.bias.map_or(0, |view| view.pointer),
            q_row_stride: p.q.strides()[0] as i64,
            kv_row_stride: p.kv.strides()[0] as i64,
            q_columns: narrow(OPERATION, "q's columns", dims.q_columns)?,
            num_columns: narrow(OPERATION, "the weight's rows", columns)?,
            num_cache_rows: narrow(OPERATION, "kv's rows", dims.num_cache_rows)?,
            reserved: 0,
        },
    };
    let tile = tile(kernels, dims.num_tokens, columns);
    let config = tile.config(OPERATION, p.a.dtype, tile.count(dims.num_tokens, columns))?;
    // SAFETY: the struct is the kernel's; shapes and types were checked, the kernel skips rows outside of kv, the caller
    // vouches for the memory.
    unsafe { kernels.launch(&tile.kernel("qkv", p.a.dtype), &config, &params, stream) }
}
