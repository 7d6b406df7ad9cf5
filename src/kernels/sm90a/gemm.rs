//! Launcher of `kernels/sm90a/gemm.cuh`: which tile, and its tensor maps.

use super::super::Kernels;
use super::super::gemm::Output;
use super::super::rows::narrow;
use super::{BLOCK_K, WgmmaTile, is_paired, is_tensor, map_2d, map_b};
use crate::device::RawStream;
use crate::error::{Error, Result};
use crate::operations::{Activation, GemmDims, GemmParams, Residual};
use crate::tensor::TensorView;

/// `WgmmaGemmParams` of kernels/sm90a/gemm.cuh.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    output: Output,
    m: i32,
    n: i32,
    k: i32,
    stores_tensors: i32,
}

/// Row stride of `[rows, columns]`, or of `[batch, rows, columns]` whose rows are all equally far apart.
fn uniform_row_stride(view: &TensorView) -> Option<usize> {
    let strides = view.strides();
    match *view.shape() {
        [_, _] => Some(strides[0]),
        [batches, rows, _] if batches == 1 || strides[0] == rows * strides[1] => Some(strides[1]),
        _ => None,
    }
}

/// Whether the operands are the copy engine's.
fn loads_tensors(p: &GemmParams, dims: GemmDims) -> bool {
    dims.m > 0 && dims.n > 0 && dims.k > 0 && is_tensor(&p.a) && is_tensor(&p.b)
}

/// Whether tiles that leave through panels of 16-bit elements can serve this output.
fn stores_panels(p: &GemmParams, dims: GemmDims) -> bool {
    let residual_is_tensor = match p.residual {
        Residual::None => true,
        Residual::InPlace => uniform_row_stride(&p.out).is_some(),
        Residual::From(view) => {
            is_tensor(&view) && uniform_row_stride(&view).is_some() && uniform_row_stride(&p.out).is_some()
        }
    };
    dims.n.is_multiple_of(8) && is_tensor(&p.out) && is_paired(p.bias) && residual_is_tensor
}

/// The tile for these operands on the kernels' device; `None` where the portable kernels must or had better serve.
pub(in super::super) fn pick(kernels: &Kernels, p: &GemmParams, dims: GemmDims) -> Option<WgmmaTile> {
    if !kernels.uses_sm90a() || !loads_tensors(p, dims) {
        return None;
    }
    let num_sms = kernels.device().properties().num_sms as usize;
    Some(WgmmaTile::pick(dims.m, dims.n, dims.k, num_sms, stores_panels(p, dims)))
}

/// [`crate::kernels::gemm()`] by the Hopper kernels, with a tile of the caller's choice out of [`WgmmaTile::GEMM`].
///
/// # Errors
/// As [`crate::kernels::gemm()`]; [`Error::Tensor`] for tensors that the copy engine cannot reach or a tile of another operation;
/// [`Error::NoCodeForDevice`] from the device where it is no Hopper.
///
/// # Safety
/// As [`crate::kernels::gemm()`].
pub unsafe fn gemm_with_wgmma(
    kernels: &Kernels,
    p: &GemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    let dims = p.check()?;
    let fits = loads_tensors(p, dims)
        && WgmmaTile::GEMM.contains(&tile)
        && dims.k.div_ceil(BLOCK_K) >= tile.parts()
        && (tile.is_split() || stores_panels(p, dims));
    if !fits {
        let message = format!("{tile:?} cannot serve {dims:?} with these types and alignments");
        return Err(Error::Tensor { operation: "gemm", message });
    }
    // SAFETY: as of this function.
    unsafe { gemm(kernels, "gemm", p, tile, stream) }
}

/// Launches the tile's kernel on operands that it can serve.
///
/// # Safety
/// As [`crate::kernels::gemm()`].
pub(in super::super) unsafe fn gemm(
    kernels: &Kernels,
    operation: &'static str,
    p: &GemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    let GemmDims { m, n, k } = p.check()?;
    let uniform = uniform_row_stride(&p.out);
    let params = KernelParams {
        output: Output::new(operation, &p.out, p.bias, p.activation, p.residual)?,
        m: narrow(operation, "M", m)?,
        n: narrow(operation, "N", n)?,
        k: narrow(operation, "K", k)?,
        stores_tensors: uniform.is_some().into(),
    };
    let (box_a, box_b, box_out) = tile.boxes();
    let map_a = map_2d(kernels, &p.a, [m, k], p.a.strides()[0], box_a)?;
    let map_b = map_b(kernels, &p.b, [n, k], box_b)?;
    let (block_m, block_n) = tile.shape();
    let num_tiles = m.div_ceil(block_m) * n.div_ceil(block_n);
    let dtype = p.a.dtype;
    if tile.is_split() {
        let config = tile.config(num_tiles)?;
        let args: [&[u8]; 3] = [&map_a.0, &map_b.0, bytemuck::bytes_of(&params)];
        let kernel = format!("wgmma_gemm_{}_{dtype}", tile.suffix());
        // SAFETY: these are the kernel's parameters; shapes and types were checked, the caller vouches for the memory.
        return unsafe { kernels.launch_args(&kernel, &config, &args, stream) };
    }

    // Without maps of their own the kernel does not look at these two.
    let map_out = match uniform {
        Some(row_stride) => map_2d(kernels, &p.out, [m, n], row_stride, box_out)?,
        None => map_a,
    };
    let map_residual = match p.residual {
        Residual::From(view) => {
            map_2d(kernels, &view, [m, n], uniform_row_stride(&view).unwrap_or(n), box_out)?
        }
        _ => map_out,
    };
    let num_sms = kernels.device().properties().num_sms as usize;
    let config = tile.config(num_tiles.min(num_sms / tile.cluster() as usize))?;
    let gelu = if p.activation == Activation::Identity { "" } else { "gelu_" };
    let kernel = format!("wgmma_gemm_{gelu}{}_{dtype}", tile.suffix());
    let args: [&[u8]; 5] = [&map_a.0, &map_b.0, &map_out.0, &map_residual.0, bytemuck::bytes_of(&params)];
    // SAFETY: as above.
    unsafe { kernels.launch_args(&kernel, &config, &args, stream) }
}
