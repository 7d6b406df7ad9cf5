//! Floating-point arithmetic with one rounding in any mode, and minimum, maximum and their kin
//! (PTX ISA 9.7.3 and 9.7.4).
//!
//! Subnormal handling is the caller's: `.ftz` flushes the inputs with [`flush_f32`] and the result as well. The flush
//! of a result looks at the rounded value.

use super::Rounding;
use super::convert::{bf16_to_f32, f16_to_f32, f64_to_bf16, f64_to_f16};
use super::soft::{Exact, F32, F64};

/// The NaN that f32 instructions produce.
pub const F32_NAN: u32 = 0x7fff_ffff;
/// The NaN that f16 and bf16 instructions produce.
pub const F16_NAN: u16 = 0x7fff;

/// Replaces a subnormal f32 by a zero of its sign (PTX `.ftz`).
#[inline]
pub fn flush_f32(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// Replaces a subnormal f16 by a zero of its sign.
#[inline]
pub fn flush_f16(bits: u16) -> u16 {
    if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
}

/// PTX `.sat` on an f32: into `[0, 1]`, NaN becomes +0.
#[inline]
pub fn saturate_f32(bits: u32) -> u32 {
    let value = f32::from_bits(bits);
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

/// PTX `.sat` on an f64: into `[0, 1]`, NaN becomes +0.
#[inline]
pub fn saturate_f64(bits: u64) -> u64 {
    let value = f64::from_bits(bits);
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

/// The bits of an f32 result, any NaN made the canonical one.
#[inline]
pub fn canonical_f32(value: f32) -> u32 {
    if value.is_nan() { F32_NAN } else { value.to_bits() }
}

macro_rules! soft_ops {
    ($bits:ty, $format:expr, $add:ident, $mul:ident, $fma:ident, $div:ident, $sqrt:ident, $rcp:ident, $one:expr) => {
        /// `a + b`, rounded once.
        pub fn $add(a: $bits, b: $bits, rounding: Rounding) -> $bits {
            let (a, b) = (Exact::unpack(a.into(), $format), Exact::unpack(b.into(), $format));
            a.add(b, rounding).pack($format, rounding, false) as $bits
        }
        /// `a * b`, rounded once.
        pub fn $mul(a: $bits, b: $bits, rounding: Rounding) -> $bits {
            let (a, b) = (Exact::unpack(a.into(), $format), Exact::unpack(b.into(), $format));
            a.mul(b).pack($format, rounding, false) as $bits
        }
        /// `a * b + c`, rounded once.
        pub fn $fma(a: $bits, b: $bits, c: $bits, rounding: Rounding) -> $bits {
            let (a, b) = (Exact::unpack(a.into(), $format), Exact::unpack(b.into(), $format));
            let c = Exact::unpack(c.into(), $format);
            a.mul(b).add(c, rounding).pack($format, rounding, false) as $bits
        }
        /// `a / b`, rounded once.
        pub fn $div(a: $bits, b: $bits, rounding: Rounding) -> $bits {
            let (a, b) = (Exact::unpack(a.into(), $format), Exact::unpack(b.into(), $format));
            a.div(b).pack($format, rounding, false) as $bits
        }
        /// The square root, rounded once.
        pub fn $sqrt(a: $bits, rounding: Rounding) -> $bits {
            Exact::unpack(a.into(), $format).sqrt().pack($format, rounding, false) as $bits
        }
        /// `1 / a`, rounded once.
        pub fn $rcp(a: $bits, rounding: Rounding) -> $bits {
            $div($one, a, rounding)
        }
    };
}
soft_ops!(u32, F32, add_f32, mul_f32, fma_f32, div_f32, sqrt_f32, rcp_f32, 0x3f80_0000);
soft_ops!(u64, F64, add_f64, mul_f64, fma_f64, div_f64, sqrt_f64, rcp_f64, 0x3ff0_0000_0000_0000);

/// `x * y + z` rounded to odd in f64: rounding that to a format of at most 51 bits, in any mode, is rounding the exact
/// result once (Boldo and Melquiond 2008). `x * y` must be exact in f64.
#[inline]
fn fma_odd(x: f64, y: f64, z: f64) -> f64 {
    let p = x * y;
    let s = p + z;
    if !s.is_finite() {
        return s;
    }
    // What the addition lost (Knuth's two-sum).
    let zz = s - p;
    let lost = (p - (s - zz)) + (z - zz);
    if lost == 0.0 || s.to_bits() & 1 == 1 {
        return s;
    }
    let outward = (lost > 0.0) == (s > 0.0);
    f64::from_bits(if outward { s.to_bits() + 1 } else { s.to_bits() - 1 })
}

macro_rules! half_ops {
    ($widen:ident, $narrow:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident) => {
        /// `a + b`, rounded once to nearest even.
        #[inline]
        pub fn $add(a: u16, b: u16) -> u16 {
            $narrow(fma_odd($widen(a) as f64, 1.0, $widen(b) as f64), Rounding::NearestEven)
        }
        /// `a - b`, rounded once to nearest even.
        #[inline]
        pub fn $sub(a: u16, b: u16) -> u16 {
            $narrow(fma_odd($widen(a) as f64, 1.0, -($widen(b) as f64)), Rounding::NearestEven)
        }
        /// `a * b`, rounded once to nearest even.
        #[inline]
        pub fn $mul(a: u16, b: u16) -> u16 {
            $narrow($widen(a) as f64 * $widen(b) as f64, Rounding::NearestEven)
        }
        /// `a * b + c`, rounded once to nearest even.
        #[inline]
        pub fn $fma(a: u16, b: u16, c: u16) -> u16 {
            $narrow(fma_odd($widen(a) as f64, $widen(b) as f64, $widen(c) as f64), Rounding::NearestEven)
        }
    };
}
half_ops!(f16_to_f32, f64_to_f16, add_f16, sub_f16, mul_f16, fma_f16);
half_ops!(bf16_to_f32, f64_to_bf16, add_bf16, sub_bf16, mul_bf16, fma_bf16);

/// PTX `.sat` on an f16: into `[0, 1]`, NaN becomes +0.
#[inline]
pub fn saturate_f16(bits: u16) -> u16 {
    if bits & 0x8000 != 0 || bits & 0x7fff > 0x7c00 { 0 } else { bits.min(0x3c00) }
}

/// PTX `.relu` on an f16 or bf16 value: negative becomes +0, NaN the canonical NaN.
#[inline]
pub fn relu_f16(bits: u16, infinity: u16) -> u16 {
    if bits & 0x7fff > infinity {
        F16_NAN
    } else if bits & 0x8000 != 0 {
        0
    } else {
        bits
    }
}

/// Applies a 16-bit operation to both halves of packed registers.
#[inline]
pub fn packed2(a: u32, b: u32, op: impl Fn(u16, u16) -> u16) -> u32 {
    op(a as u16, b as u16) as u32 | (op((a >> 16) as u16, (b >> 16) as u16) as u32) << 16
}

/// Applies a 16-bit operation of three operands to both halves of packed registers.
#[inline]
pub fn packed3(a: u32, b: u32, c: u32, op: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let low = op(a as u16, b as u16, c as u16) as u32;
    low | (op((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16) as u32) << 16
}

/// How `min` and `max` treat NaN and signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinMax {
    /// `max` instead of `min`.
    pub max: bool,
    /// `.NaN`: a NaN operand makes the result the canonical NaN; without it the other operand is the result.
    pub nan: bool,
    /// `.xorsign.abs`: compares magnitudes and gives the result the exclusive or of the signs.
    pub xorsign_abs: bool,
}

/// `min` or `max` of two values of one sign-magnitude format, as bits; `infinity` is its positive infinity, `nan` its
/// canonical NaN. -0 is less than +0.
#[inline]
pub fn min_max(a: u64, b: u64, sign: u64, infinity: u64, nan: u64, rule: MinMax) -> u64 {
    let xor = (a ^ b) & sign;
    let (mut a, mut b) = (a, b);
    let (a_nan, b_nan) = (a & !sign > infinity, b & !sign > infinity);
    if (a_nan && b_nan) || (rule.nan && (a_nan || b_nan)) {
        return nan;
    }
    if rule.xorsign_abs {
        a &= !sign;
        b &= !sign;
    }
    let key = |v: u64| {
        if v & sign != 0 { -1 - (v & !sign) as i128 } else { v as i128 }
    };
    let chosen = if b_nan || (!a_nan && (key(a) < key(b)) != rule.max) { a } else { b };
    if rule.xorsign_abs { chosen & !sign | xor } else { chosen }
}

/// [`min_max`] of f32.
#[inline]
pub fn min_max_f32(a: u32, b: u32, rule: MinMax) -> u32 {
    min_max(a.into(), b.into(), 1 << 31, 0x7f80_0000, F32_NAN.into(), rule) as u32
}

/// [`min_max`] of f64.
#[inline]
pub fn min_max_f64(a: u64, b: u64, rule: MinMax) -> u64 {
    min_max(a, b, 1 << 63, 0x7ff0 << 48, 0x7fff_ffff_ffff_ffff, rule)
}

/// [`min_max`] of f16.
#[inline]
pub fn min_max_f16(a: u16, b: u16, rule: MinMax) -> u16 {
    min_max(a.into(), b.into(), 1 << 15, 0x7c00, F16_NAN.into(), rule) as u16
}

/// [`min_max`] of bf16.
#[inline]
pub fn min_max_bf16(a: u16, b: u16, rule: MinMax) -> u16 {
    min_max(a.into(), b.into(), 1 << 15, 0x7f80, F16_NAN.into(), rule) as u16
}

/// The result of `testp` (PTX ISA 9.7.3.1) on a value of `width` bits with `mantissa` stored bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Neither infinite nor NaN.
    Finite,
    /// Infinite.
    Infinite,
    /// Not NaN.
    Number,
    /// NaN.
    NotANumber,
    /// Neither subnormal, infinite nor NaN; PTX counts zero as normal.
    Normal,
    /// Subnormal (zero is not).
    Subnormal,
}

/// `testp`: classifies an f32.
pub fn test_f32(bits: u32, test: Test) -> bool {
    test_f64((f32::from_bits(bits) as f64).to_bits(), test)
        && !(test == Test::Normal && f32::from_bits(bits).is_subnormal())
        || (test == Test::Subnormal && f32::from_bits(bits).is_subnormal())
}

/// `testp`: classifies an f64.
pub fn test_f64(bits: u64, test: Test) -> bool {
    let v = f64::from_bits(bits);
    match test {
        Test::Finite => v.is_finite(),
        Test::Infinite => v.is_infinite(),
        Test::Number => !v.is_nan(),
        Test::NotANumber => v.is_nan(),
        Test::Normal => v.is_normal() || v == 0.0,
        Test::Subnormal => v.is_subnormal(),
    }
}
