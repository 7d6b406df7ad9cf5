//! The conversions of `cvt` (PTX ISA 9.7.9.21): between floating-point formats, to and from integers.
//!
//! The modifiers are applied where PTX puts them: `.ftz` by the caller with [`super::arith::flush_f32`], `.sat` with
//! [`super::arith::saturate_f32`], `.relu` with [`super::arith::relu_f16`]; `.satfinite` is a parameter here.

use super::Rounding;
use super::soft::{BF16, E4M3, E5M2, Exact, F16, F32, F64, Format, TF32};

/// f16 to f32, exactly. NaN becomes the canonical f32 NaN only through arithmetic; here its payload moves along.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = ((bits & 0x7fff) as u32) << 13;
    // 2^112 moves the exponent bias from 15 to 127; a subnormal f16 comes out normal from the multiplication.
    let value = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | ((bits & 0x8000) as u32) << 16)
}

/// bf16 to f32, exactly.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// What a tensor core sees of a tf32 operand: the low 13 bits of the register are ignored.
#[inline]
pub fn tf32_to_f32(bits: u32) -> f32 {
    f32::from_bits(bits & 0xffff_e000)
}

/// e4m3 to f32, exactly.
#[inline]
pub fn e4m3_to_f32(bits: u8) -> f32 {
    if bits & 0x7f == 0x7f {
        return f32::NAN;
    }
    // 2^120 moves the exponent bias from 7 to 127.
    let magnitude = f32::from_bits(((bits & 0x7f) as u32) << 20) * f32::from_bits(0x7b80_0000);
    f32::from_bits(magnitude.to_bits() | ((bits & 0x80) as u32) << 24)
}

/// e5m2 to f32, exactly: it is the upper half of an f16.
#[inline]
pub fn e5m2_to_f32(bits: u8) -> f32 {
    f16_to_f32((bits as u16) << 8)
}

/// f32 to bf16, to nearest even.
#[inline]
pub fn f32_to_bf16_rn(bits: u32) -> u16 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// f32 to f16, to nearest even.
#[inline]
pub fn f32_to_f16_rn(bits: u32) -> u16 {
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let out = if magnitude > 0x7f80_0000 {
        return 0x7fff;
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Subnormal: adding 0.5 lines the unit of an f16 subnormal, 2^-24, up with the last bit of the sum.
        ((f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000) as u16
    } else {
        // Rebias 127 to 15 and round; a carry may make it infinite, as it should.
        ((magnitude - 0x3800_0000 + 0xfff + (magnitude >> 13 & 1)) >> 13) as u16
    };
    out | sign
}

/// f32 to f16 in any rounding mode; `saturate` is `.satfinite`.
#[inline]
pub fn f32_to_f16(bits: u32, rounding: Rounding, saturate: bool) -> u16 {
    if rounding == Rounding::NearestEven && !saturate {
        return f32_to_f16_rn(bits);
    }
    Exact::unpack(bits.into(), F32).pack(F16, rounding, saturate) as u16
}

/// f32 to bf16 in any rounding mode; `saturate` is `.satfinite`.
#[inline]
pub fn f32_to_bf16(bits: u32, rounding: Rounding, saturate: bool) -> u16 {
    if rounding == Rounding::NearestEven && !saturate {
        return f32_to_bf16_rn(bits);
    }
    Exact::unpack(bits.into(), F32).pack(BF16, rounding, saturate) as u16
}

/// f32 to tf32, as the register holds it: an f32 whose low 13 bits are zero.
pub fn f32_to_tf32(bits: u32, rounding: Rounding, saturate: bool) -> u32 {
    (Exact::unpack(bits.into(), F32).pack(TF32, rounding, saturate) as u32) << 13
}

/// f64 to f32 in any rounding mode.
#[inline]
pub fn f64_to_f32(value: f64, rounding: Rounding) -> u32 {
    if rounding == Rounding::NearestEven {
        return super::arith::canonical_f32(value as f32);
    }
    Exact::unpack(value.to_bits(), F64).pack(F32, rounding, false) as u32
}

/// f64 to f16 in any rounding mode.
#[inline]
pub fn f64_to_f16(value: f64, rounding: Rounding) -> u16 {
    Exact::unpack(value.to_bits(), F64).pack(F16, rounding, false) as u16
}

/// f64 to bf16 in any rounding mode.
#[inline]
pub fn f64_to_bf16(value: f64, rounding: Rounding) -> u16 {
    Exact::unpack(value.to_bits(), F64).pack(BF16, rounding, false) as u16
}

/// f32 to e4m3, to nearest even, saturating to 448 (the only form PTX has).
pub fn f32_to_e4m3(bits: u32) -> u8 {
    Exact::unpack(bits.into(), F32).pack(E4M3, Rounding::NearestEven, true) as u8
}

/// f32 to e5m2, to nearest even, saturating to 57344 (the only form PTX has).
pub fn f32_to_e5m2(bits: u32) -> u8 {
    Exact::unpack(bits.into(), F32).pack(E5M2, Rounding::NearestEven, true) as u8
}

/// f16 to e4m3, to nearest even, saturating.
pub fn f16_to_e4m3(bits: u16) -> u8 {
    Exact::unpack(bits.into(), F16).pack(E4M3, Rounding::NearestEven, true) as u8
}

/// f16 to e5m2, to nearest even, saturating.
pub fn f16_to_e5m2(bits: u16) -> u8 {
    Exact::unpack(bits.into(), F16).pack(E5M2, Rounding::NearestEven, true) as u8
}

/// e4m3 to f16, exactly.
pub fn e4m3_to_f16(bits: u8) -> u16 {
    Exact::unpack(bits.into(), E4M3).pack(F16, Rounding::NearestEven, false) as u16
}

/// e5m2 to f16, exactly; a NaN becomes the canonical one.
pub fn e5m2_to_f16(bits: u8) -> u16 {
    let wide = (bits as u16) << 8;
    if wide & 0x7fff > 0x7c00 { 0x7fff } else { wide }
}

/// A floating-point value rounded to an integral value of the same type (`cvt.rni.f32.f32` and its kin). f32 and f16
/// values may be passed as f64: the result is exact in their own type.
#[inline]
pub fn round_to_integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::TowardZero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

/// A float to an integer of `width` bits (8, 16, 32 or 64), clamped to its range; the result is sign- or zero-extended
/// to 64 bits. NaN gives 0, except that with an f64 source or a 64-bit destination (`wide`) it gives the bit pattern
/// `1 << (width - 1)` (PTX ISA, cvt, "In float-to-integer conversions").
#[inline]
pub fn float_to_int(value: f64, rounding: Rounding, width: u32, signed: bool, wide: bool) -> u64 {
    if value.is_nan() {
        let pattern = if wide { 1u64 << (width - 1) } else { 0 };
        return if signed { sign_extend(pattern, width) } else { pattern };
    }
    let v = round_to_integral(value, rounding);
    // `as` clamps to the 64-bit range; the narrower ranges are clamped after it.
    if signed {
        let limit = i64::MAX >> (64 - width);
        (v as i64).clamp(-limit - 1, limit) as u64
    } else {
        (v as u64).min(u64::MAX >> (64 - width))
    }
}

/// An integer (sign- or zero-extended to 64 bits) to the bits of `format`.
#[inline]
pub fn int_to_format(value: u64, signed: bool, format: Format, rounding: Rounding) -> u64 {
    let negative = signed && (value as i64) < 0;
    let magnitude = if negative { (value as i64).unsigned_abs() } else { value };
    Exact::Finite { negative, mantissa: magnitude.into(), exponent: 0 }.pack(format, rounding, false)
}

/// An integer to f32.
#[inline]
pub fn int_to_f32(value: u64, signed: bool, rounding: Rounding) -> u32 {
    match (rounding, signed) {
        (Rounding::NearestEven, true) => (value as i64 as f32).to_bits(),
        (Rounding::NearestEven, false) => (value as f32).to_bits(),
        _ => int_to_format(value, signed, F32, rounding) as u32,
    }
}

/// An integer to f64.
#[inline]
pub fn int_to_f64(value: u64, signed: bool, rounding: Rounding) -> u64 {
    match (rounding, signed) {
        (Rounding::NearestEven, true) => (value as i64 as f64).to_bits(),
        (Rounding::NearestEven, false) => (value as f64).to_bits(),
        _ => int_to_format(value, signed, F64, rounding),
    }
}

/// The low `width` bits of a value, sign-extended to 64.
#[inline]
pub fn sign_extend(value: u64, width: u32) -> u64 {
    let unused = 64 - width;
    ((value << unused) as i64 >> unused) as u64
}

/// An integer to an integer type of `width` bits, extended to 64 bits again. `value` is extended by its own type's
/// sign rule; with `saturate` (`.sat`) it is clamped to the destination's range, without it the low bits are kept.
pub fn int_to_int(value: u64, from_signed: bool, width: u32, signed: bool, saturate: bool) -> u64 {
    if !saturate {
        return if signed { sign_extend(value, width) } else { value & (u64::MAX >> (64 - width)) };
    }
    let exact = if from_signed { value as i64 as i128 } else { value as i128 };
    let (low, high) = if signed {
        (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1)
    } else {
        (0, (1i128 << width) - 1)
    };
    exact.clamp(low, high) as u64
}
