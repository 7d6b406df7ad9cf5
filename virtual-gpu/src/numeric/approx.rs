//! The `.approx` functions (PTX ISA 9.7.3, 9.7.4).
//!
//! A GPU computes them in its special function unit; here they are computed in f64 and rounded once, so they differ
//! from a chip's bits. The documented bounds hold on both sides, so two results differ by at most twice the bound:
//!
//! | function | largest error on a chip (PTX ISA) |
//! |---|---|
//! | `rcp.approx.f32`, `div.approx.f32` | 1 and 2 units in the last place |
//! | `sqrt.approx.f32`, `rsqrt.approx.f32` | relative 2^-23, 2^-22.9 |
//! | `ex2.approx.f32` | relative 2^-22.5 + 2^(-22 + input size), as documented about 2 ulp |
//! | `lg2.approx.f32` | absolute 2^-22 in (0.5, 2), else relative 2^-22 |
//! | `sin.approx.f32`, `cos.approx.f32` | absolute 2^-20.5 in [-2 pi, 2 pi] |
//! | `tanh.approx.f32` | relative 2^-11 |
//! | `ex2.approx.f16`, `tanh.approx.f16`, `.bf16` | relative 2^-9.9 and absolute 2^-10.987; bf16 2^-7, 2^-8 |
//!
//! With `ftz` subnormal inputs and results are zeros of their sign.

use super::arith::{canonical_f32, flush_f32};
use super::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16_rn, f64_to_f16};
use super::{Rounding, arith};

#[inline]
fn unary(bits: u32, ftz: bool, f: impl Fn(f64) -> f64) -> u32 {
    let bits = if ftz { flush_f32(bits) } else { bits };
    let out = canonical_f32(f(f32::from_bits(bits) as f64) as f32);
    if ftz { flush_f32(out) } else { out }
}

/// `ex2.approx.f32`: 2 to the power of the input.
#[inline]
pub fn ex2_f32(bits: u32, ftz: bool) -> u32 {
    unary(bits, ftz, f64::exp2)
}

/// `lg2.approx.f32`: the logarithm to base 2.
#[inline]
pub fn lg2_f32(bits: u32, ftz: bool) -> u32 {
    unary(bits, ftz, f64::log2)
}

/// `rcp.approx.f32`: the reciprocal.
#[inline]
pub fn rcp_f32(bits: u32, ftz: bool) -> u32 {
    unary(bits, ftz, |x| 1.0 / x)
}

/// `rsqrt.approx.f32`: the reciprocal square root.
#[inline]
pub fn rsqrt_f32(bits: u32, ftz: bool) -> u32 {
    unary(bits, ftz, |x| 1.0 / x.sqrt())
}

/// `sqrt.approx.f32`: the square root.
#[inline]
pub fn sqrt_f32(bits: u32, ftz: bool) -> u32 {
    unary(bits, ftz, f64::sqrt)
}

/// `sin.approx.f32`: the sine, in radians; NaN for an infinite input.
#[inline]
pub fn sin_f32(bits: u32, ftz: bool) -> u32 {
    unary(bits, ftz, f64::sin)
}

/// `cos.approx.f32`: the cosine, in radians; NaN for an infinite input.
#[inline]
pub fn cos_f32(bits: u32, ftz: bool) -> u32 {
    unary(bits, ftz, f64::cos)
}

/// `tanh.approx.f32`: the hyperbolic tangent. It has no `.ftz` and keeps subnormals.
#[inline]
pub fn tanh_f32(bits: u32) -> u32 {
    unary(bits, false, f64::tanh)
}

/// `div.approx.f32`: `a / b`. For `|b|` in (2^126, 2^128) PTX gives 0 (NaN where `a` is infinite).
#[inline]
pub fn div_approx_f32(a: u32, b: u32, ftz: bool) -> u32 {
    let (a, b) = if ftz { (flush_f32(a), flush_f32(b)) } else { (a, b) };
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    if y.is_finite() && y.abs() > f32::from_bits(0x7e80_0000) {
        return if x.is_finite() { (a ^ b) & 0x8000_0000 } else { arith::F32_NAN };
    }
    let out = canonical_f32((x as f64 / y as f64) as f32);
    if ftz { flush_f32(out) } else { out }
}

/// `div.full.f32`: `a / b` with 2 ulp over the full range.
#[inline]
pub fn div_full_f32(a: u32, b: u32, ftz: bool) -> u32 {
    let (a, b) = if ftz { (flush_f32(a), flush_f32(b)) } else { (a, b) };
    let out = canonical_f32((f32::from_bits(a) as f64 / f32::from_bits(b) as f64) as f32);
    if ftz { flush_f32(out) } else { out }
}

/// `rcp.approx.ftz.f64`: a gross approximation; the low 32 bits of input and result are ignored and zero.
pub fn rcp_approx_f64(bits: u64) -> u64 {
    gross_f64(bits, |x| 1.0 / x)
}

/// `rsqrt.approx.f64` and `.ftz`: a gross approximation, as [`rcp_approx_f64`].
pub fn rsqrt_approx_f64(bits: u64) -> u64 {
    gross_f64(bits, |x| 1.0 / x.sqrt())
}

fn gross_f64(bits: u64, f: impl Fn(f64) -> f64) -> u64 {
    let high = bits & 0xffff_ffff_0000_0000;
    let high = if high & 0x7ff0 << 48 == 0 { high & 1 << 63 } else { high };
    let out = f(f64::from_bits(high));
    if out.is_nan() {
        return 0x7fff_ffff_0000_0000;
    }
    let out = out.to_bits() & 0xffff_ffff_0000_0000;
    if out & 0x7ff0 << 48 == 0 { out & 1 << 63 } else { out }
}

/// `ex2.approx.f16` (with `ftz`: `ex2.approx.ftz.f16` does not exist; subnormals are kept).
pub fn ex2_f16(bits: u16) -> u16 {
    f64_to_f16((f16_to_f32(bits) as f64).exp2(), Rounding::NearestEven)
}

/// `ex2.approx.ftz.bf16`: subnormal inputs are taken as zero, subnormal results flushed.
pub fn ex2_bf16(bits: u16) -> u16 {
    let input = flush_f32(bf16_to_f32(bits).to_bits());
    let out = (f32::from_bits(input) as f64).exp2() as f32;
    (flush_f32((f32_to_bf16_rn(out.to_bits()) as u32) << 16) >> 16) as u16
}

/// `tanh.approx.f16`.
pub fn tanh_f16(bits: u16) -> u16 {
    f64_to_f16((f16_to_f32(bits) as f64).tanh(), Rounding::NearestEven)
}

/// `tanh.approx.bf16`.
pub fn tanh_bf16(bits: u16) -> u16 {
    f32_to_bf16_rn(((bf16_to_f32(bits) as f64).tanh() as f32).to_bits())
}
