//! Exact values, and their correct rounding to a floating-point format in any rounding mode.

use super::Rounding;
use core::cmp::Ordering;

/// A binary floating-point format of at most 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the exponent field.
    pub exponent_bits: u32,
    /// Stored bits of the significand.
    pub mantissa_bits: u32,
    /// Whether the format has infinities (e4m3 has none: all ones is its only NaN).
    pub infinities: bool,
}

/// IEEE binary64.
pub const F64: Format = Format { exponent_bits: 11, mantissa_bits: 52, infinities: true };
/// IEEE binary32.
pub const F32: Format = Format { exponent_bits: 8, mantissa_bits: 23, infinities: true };
/// The 19 significant bits of a tf32 value, right-aligned (a register holds them shifted left by 13).
pub const TF32: Format = Format { exponent_bits: 8, mantissa_bits: 10, infinities: true };
/// bfloat16.
pub const BF16: Format = Format { exponent_bits: 8, mantissa_bits: 7, infinities: true };
/// IEEE binary16.
pub const F16: Format = Format { exponent_bits: 5, mantissa_bits: 10, infinities: true };
/// 8-bit float with 5 exponent bits, with infinities.
pub const E5M2: Format = Format { exponent_bits: 5, mantissa_bits: 2, infinities: true };
/// 8-bit float with 4 exponent bits, without infinities; largest value 448.
pub const E4M3: Format = Format { exponent_bits: 4, mantissa_bits: 3, infinities: false };

impl Format {
    #[inline]
    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }
    #[inline]
    fn sign_bit(self) -> u64 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }
    /// The largest finite magnitude.
    #[inline]
    pub fn max_finite(self) -> u64 {
        let all = self.sign_bit() - 1;
        if self.infinities { (all >> self.mantissa_bits << self.mantissa_bits) - 1 } else { all - 1 }
    }
    /// The NaN that PTX instructions produce: sign clear, every other bit set.
    #[inline]
    pub fn canonical_nan(self) -> u64 {
        self.sign_bit() - 1
    }
    /// The bits of an infinity; in a format without infinities, of its NaN.
    #[inline]
    pub fn infinity(self, negative: bool) -> u64 {
        let magnitude = if self.infinities { self.max_finite() + 1 } else { self.canonical_nan() };
        magnitude | if negative { self.sign_bit() } else { 0 }
    }
}

/// A value taken apart, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exact {
    /// Not a number.
    Nan,
    /// An infinity.
    Infinity {
        /// Sign.
        negative: bool,
    },
    /// `mantissa * 2^exponent`; a zero mantissa is a signed zero.
    Finite {
        /// Sign.
        negative: bool,
        /// Magnitude. After an inexact operation its last bit is a sticky bit, far below any rounding position.
        mantissa: u128,
        /// Power of two of the mantissa's last bit.
        exponent: i32,
    },
}

impl Exact {
    /// Takes the bits of a value of `format` apart.
    #[inline]
    pub fn unpack(bits: u64, format: Format) -> Exact {
        let negative = bits & format.sign_bit() != 0;
        let magnitude = bits & (format.sign_bit() - 1);
        if magnitude > format.max_finite() {
            return if format.infinities && magnitude == format.max_finite() + 1 {
                Exact::Infinity { negative }
            } else {
                Exact::Nan
            };
        }
        let field = (magnitude >> format.mantissa_bits) as i32;
        let fraction = magnitude & ((1 << format.mantissa_bits) - 1);
        let (mantissa, field) =
            if field == 0 { (fraction, 1) } else { (fraction | 1 << format.mantissa_bits, field) };
        Exact::Finite {
            negative,
            mantissa: mantissa as u128,
            exponent: field - format.bias() - format.mantissa_bits as i32,
        }
    }

    /// The nearest bits of `format`; `saturate` (PTX `.satfinite`) turns what is too large into the largest finite value.
    pub fn pack(self, format: Format, rounding: Rounding, saturate: bool) -> u64 {
        match self {
            Exact::Nan => format.canonical_nan(),
            Exact::Infinity { negative } => {
                if saturate {
                    format.max_finite() | if negative { format.sign_bit() } else { 0 }
                } else {
                    format.infinity(negative)
                }
            }
            Exact::Finite { negative, mantissa, exponent } => {
                let sign = if negative { format.sign_bit() } else { 0 };
                if mantissa == 0 {
                    return sign;
                }
                let top = exponent + 127 - mantissa.leading_zeros() as i32;
                let lowest = 1 - format.bias();
                let unit = top.max(lowest) - format.mantissa_bits as i32;
                let shift = unit - exponent;
                let kept = if shift <= 0 {
                    mantissa << -shift
                } else {
                    round_shift(mantissa, shift as u32, negative, rounding)
                };
                // A carry out of the significand moves into the exponent field by itself.
                let field = (top.max(lowest) - lowest) as u64;
                let magnitude = (field << format.mantissa_bits) as u128 + kept;
                if field >= 1 << format.exponent_bits || magnitude > format.max_finite() as u128 {
                    let infinite = !saturate && rounding.overflows_to_infinity(negative);
                    return if infinite { format.infinity(negative) } else { format.max_finite() | sign };
                }
                magnitude as u64 | sign
            }
        }
    }

    /// The value with its sign flipped.
    pub fn negated(self) -> Exact {
        match self {
            Exact::Nan => Exact::Nan,
            Exact::Infinity { negative } => Exact::Infinity { negative: !negative },
            Exact::Finite { negative, mantissa, exponent } => {
                Exact::Finite { negative: !negative, mantissa, exponent }
            }
        }
    }

    /// The exact product of two unpacked values (of at most 64 significant bits each).
    #[allow(clippy::should_implement_trait)]
    pub fn mul(self, other: Exact) -> Exact {
        use Exact::*;
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinity { negative: a }, Infinity { negative: b }) => Infinity { negative: a != b },
            (Infinity { negative: a }, Finite { negative: b, mantissa, .. })
            | (Finite { negative: b, mantissa, .. }, Infinity { negative: a }) => {
                if mantissa == 0 {
                    Nan
                } else {
                    Infinity { negative: a != b }
                }
            }
            (
                Finite { negative: a, mantissa: ma, exponent: ea },
                Finite { negative: b, mantissa: mb, exponent: eb },
            ) => Finite { negative: a != b, mantissa: ma * mb, exponent: ea + eb },
        }
    }

    /// The sum, exact but for a sticky last bit. `rounding` decides only the sign of an exact zero sum.
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, other: Exact, rounding: Rounding) -> Exact {
        use Exact::*;
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinity { negative: a }, Infinity { negative: b }) => {
                if a == b {
                    self
                } else {
                    Nan
                }
            }
            (Infinity { .. }, _) => self,
            (_, Infinity { .. }) => other,
            (
                Finite { negative: a, mantissa: ma, exponent: ea },
                Finite { negative: b, mantissa: mb, exponent: eb },
            ) => {
                if ma == 0 && mb == 0 {
                    let negative = if a == b { a } else { rounding == Rounding::Down };
                    return Finite { negative, mantissa: 0, exponent: 0 };
                }
                if ma == 0 {
                    return other;
                }
                if mb == 0 {
                    return self;
                }
                // Both with their top bit at 125, so that a carry fits; the smaller one is shifted right, and what
                // falls off is remembered in the last bit. Bits fall off only where at most one bit can cancel.
                let (sa, sb) = (ma.leading_zeros() as i32 - 2, mb.leading_zeros() as i32 - 2);
                let (mut large, mut le, mut ln) = (shifted(ma, sa), ea - sa, a);
                let (mut small, mut se, mut sn) = (shifted(mb, sb), eb - sb, b);
                if (se, small) > (le, large) {
                    core::mem::swap(&mut large, &mut small);
                    core::mem::swap(&mut le, &mut se);
                    core::mem::swap(&mut ln, &mut sn);
                }
                let small = jam(small, (le - se) as u32);
                if ln == sn {
                    return Finite { negative: ln, mantissa: large + small, exponent: le };
                }
                let mantissa = large - small;
                let negative = if mantissa == 0 { rounding == Rounding::Down } else { ln };
                Finite { negative, mantissa, exponent: le }
            }
        }
    }

    /// The quotient, exact but for a sticky last bit.
    #[allow(clippy::should_implement_trait)]
    pub fn div(self, other: Exact) -> Exact {
        use Exact::*;
        match (self, other) {
            (Nan, _) | (_, Nan) | (Infinity { .. }, Infinity { .. }) => Nan,
            (Infinity { negative: a }, Finite { negative: b, .. }) => Infinity { negative: a != b },
            (Finite { negative: a, .. }, Infinity { negative: b }) => {
                Finite { negative: a != b, mantissa: 0, exponent: 0 }
            }
            (
                Finite { negative: a, mantissa: ma, exponent: ea },
                Finite { negative: b, mantissa: mb, exponent: eb },
            ) => {
                if mb == 0 {
                    return if ma == 0 { Nan } else { Infinity { negative: a != b } };
                }
                if ma == 0 {
                    return Finite { negative: a != b, mantissa: 0, exponent: 0 };
                }
                let (sa, sb) = (ma.leading_zeros() as i32, mb.trailing_zeros() as i32);
                let (num, den) = (ma << sa, mb >> sb);
                let mantissa = (num / den) | u128::from(num % den != 0);
                Finite { negative: a != b, mantissa, exponent: ea - sa - eb - sb }
            }
        }
    }

    /// The square root, exact but for a sticky last bit; NaN below zero, and `sqrt(-0) = -0`.
    pub fn sqrt(self) -> Exact {
        match self {
            Exact::Infinity { negative: false } => self,
            Exact::Finite { mantissa: 0, .. } => self,
            Exact::Finite { negative: false, mantissa, exponent } => {
                let mut shift = mantissa.leading_zeros() as i32;
                if (exponent - shift) % 2 != 0 {
                    shift -= 1;
                }
                let value = if shift < 0 { mantissa >> 1 | (mantissa & 1) } else { mantissa << shift };
                let root = value.isqrt();
                // One more bit than the root has keeps the sticky bit below it.
                let mantissa = root << 1 | u128::from(root * root != value);
                Exact::Finite { negative: false, mantissa, exponent: (exponent - shift) / 2 - 1 }
            }
            _ => Exact::Nan,
        }
    }
}

#[inline]
fn shifted(mantissa: u128, left: i32) -> u128 {
    if left >= 0 { mantissa << left } else { jam(mantissa, -left as u32) }
}

/// `value >> shift` with everything shifted out kept as a sticky last bit.
#[inline]
fn jam(value: u128, shift: u32) -> u128 {
    match shift {
        0 => value,
        1..=127 => value >> shift | u128::from(value & ((1 << shift) - 1) != 0),
        _ => u128::from(value != 0),
    }
}

/// `mantissa / 2^shift` (`shift` at least 1), rounded to an integer.
#[inline]
pub(crate) fn round_shift(mantissa: u128, shift: u32, negative: bool, rounding: Rounding) -> u128 {
    let (kept, rest, exact) = match shift {
        ..=127 => {
            let cut = mantissa & ((1 << shift) - 1);
            (mantissa >> shift, cut.cmp(&(1 << (shift - 1))), cut == 0)
        }
        128 => (0, mantissa.cmp(&(1 << 127)), mantissa == 0),
        _ => (0, Ordering::Less, mantissa == 0),
    };
    kept + u128::from(rounding.increments(negative, kept & 1 == 1, rest, exact))
}
