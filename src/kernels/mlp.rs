//! Launcher of `kernels/mlp.cu`.

use super::Kernels;
use super::gemm::{launch, pick_tile};
use crate::device::RawStream;
use crate::error::Result;
use crate::operations::{Activation, MlpParams};

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
    let up_tile = pick_tile(kernels, up_dims.m, up_dims.n, 1);
    let down_tile = pick_tile(kernels, down_dims.m, down_dims.n, 1);
    // mlp_up is compiled for the GELUs only.
    let up_stem = if p.activation == Activation::Identity { "gemm" } else { "mlp_up" };
    // SAFETY: both products were checked; the caller vouches for the memory.
    unsafe {
        launch(kernels, "mlp", up_stem, &up, up_tile, stream)?;
        launch(kernels, "mlp", "mlp_down", &down, down_tile, stream)
    }
}
