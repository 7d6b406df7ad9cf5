//! Layouts and arithmetic of the matrix instructions and of the tensor copy engine, as pure functions.
//!
//! A warp register is `[u32; 32]`, one value a lane; a poison mask is a `u32`, one bit a lane.
//!
//! * [`element`]: operand types and their conversion to f32;
//! * [`mma`]: `mma.sync` (PTX ISA 9.7.14.5) and its fragments, with poison exact by rows and columns;
//! * [`wmma`]: `wmma.load`, `.mma` and `.store` (9.7.14.4) and their fragments;
//! * [`matrix`]: `ldmatrix`, `stmatrix`, `movmatrix` (9.7.14.5.15 to .17): which lane's row, at which byte;
//! * [`descriptor`]: the shared-memory matrix descriptor of `wgmma` (9.7.15.5) and the address of every element;
//! * [`wgmma`]: the product of a warpgroup (9.7.15), its fragments and accumulators;
//! * [`tma`]: tensor maps (driver API, `cuTensorMapEncodeTiled`) and the rows a tensor copy moves (PTX ISA 5.5, 9.7.9.27).
//!
//! # Accumulation
//!
//! Products are exact. f32 accumulators add them one at a time in ascending k with one rounding each (a fused multiply-
//! add). A tensor core adds several products in one wide fixed-point step and truncates, so its bits differ; both are
//! within `(k + 1) * 2^-22 * sum |a b|` of the exact sum, hence within twice that of each other. f16 accumulators are
//! summed in f32 and rounded to f16 once an instruction. Integer accumulation is exact.
//!
//! # Not yet confirmed on hardware
//!
//! All layouts here are read from the PTX ISA and the CUDA driver API manual; vectors recorded on a chip replace this
//! list as they are taken: the descriptor's base offset, unswizzled and MN-major `wgmma` operands, tensor copies with a
//! box narrower than the swizzle span, element strides above 1, and the NaN fill.

// A loop over lanes indexes several registers at once.
#![allow(clippy::needless_range_loop)]

pub mod descriptor;
pub mod element;
pub mod matrix;
pub mod mma;
mod product;
pub mod tma;
pub mod wgmma;
pub mod wmma;

#[cfg(test)]
mod tests;

/// A warp register: one 32-bit value a lane.
pub type Lanes = [u32; 32];
