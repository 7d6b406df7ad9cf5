//! Launcher of `kernels/mlp.cu`; on Hopper both products are `kernels/sm90a/gemm.cuh`'s.

use super::Kernels;
use super::gemm::{launch, pick_tile};
use super::sm90a;
use crate::device::RawStream;
use crate::error::Result;
use crate::operations::{Activation, GemmDims, GemmParams, MlpParams};

/// The GELU MLP, two launches: see [`MlpParams`].
///
/// # Errors
/// A shape or type that does not fit, and whatever the launches say.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn mlp(kernels: &Kernels, p: &MlpParams, stream: RawStream) -> Result<()> {
    let (up_dims, down_dims) = p.check()?;
    let (up, down) = p.gemms();
    // mlp_up is compiled for the GELUs only.
    let up_stem = if p.activation == Activation::Identity { "gemm" } else { "mlp_up" };
    // SAFETY: both products were checked; the caller vouches for the memory.
    unsafe {
        product(kernels, up_stem, &up, up_dims, stream)?;
        product(kernels, "mlp_down", &down, down_dims, stream)
    }
}

/// One of the two products, by the Hopper set or by the portable kernel `stem`.
///
/// # Safety
/// As [`mlp`].
unsafe fn product(
    kernels: &Kernels,
    stem: &str,
    p: &GemmParams,
    dims: GemmDims,
    stream: RawStream,
) -> Result<()> {
    // SAFETY: as of this function.
    unsafe {
        match sm90a::gemm::pick(kernels, p, dims) {
            Some(tile) => sm90a::gemm::gemm(kernels, "mlp", p, tile, stream),
            None => launch(kernels, "mlp", stem, p, pick_tile(kernels, dims.m, dims.n, 1), stream),
        }
    }
}
