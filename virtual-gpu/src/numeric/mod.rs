//! Arithmetic on values, as PTX defines it: pure functions without state.
//!
//! * [`soft`]: exact values and correct rounding to any small format, in any rounding mode;
//! * [`convert`]: the conversions of `cvt` (PTX ISA 9.7.9.21) between f64, f32, tf32, bf16, f16, e4m3, e5m2 and integers;
//! * [`arith`]: add, mul, fma, div, sqrt in every rounding mode, f16 and bf16 arithmetic with one rounding,
//!   minimum and maximum with their NaN rules;
//! * [`integer`]: mad, sad, bfe, bfi, prmt, lop3, funnel shifts, dp4a and the like (9.7.1, 9.7.8);
//! * [`approx`]: the `.approx` functions, with their documented bounds;
//! * [`lanes`]: the hot ones over a whole warp register.
//!
//! Values travel as their bits where the type has no Rust counterpart: `u16` for f16 and bf16, `u8` for fp8.

// A loop over lanes indexes several registers at once.
#![allow(clippy::needless_range_loop)]

pub mod approx;
pub mod arith;
pub mod convert;
pub mod integer;
pub mod lanes;
pub mod soft;

#[cfg(test)]
pub(crate) mod tests;

/// A rounding mode of PTX: `.rn`, `.rz`, `.rm`, `.rp`, `.rna`, and their integer forms `.rni`, `.rzi`, `.rmi`, `.rpi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the nearest value, ties to even (`.rn`, `.rni`).
    NearestEven,
    /// Towards zero (`.rz`, `.rzi`).
    TowardZero,
    /// Towards negative infinity (`.rm`, `.rmi`).
    Down,
    /// Towards positive infinity (`.rp`, `.rpi`).
    Up,
    /// To the nearest value, ties away from zero (`.rna`).
    NearestAway,
}

impl Rounding {
    /// Whether a magnitude goes up by one unit. `odd` is the last kept bit, `rest` compares what is cut off with half
    /// a unit, `exact` says that nothing is cut off.
    #[inline]
    pub(crate) fn increments(
        self,
        negative: bool,
        odd: bool,
        rest: core::cmp::Ordering,
        exact: bool,
    ) -> bool {
        use core::cmp::Ordering::*;
        match self {
            Rounding::NearestEven => rest == Greater || (rest == Equal && odd),
            Rounding::NearestAway => rest != Less,
            Rounding::TowardZero => false,
            Rounding::Down => negative && !exact,
            Rounding::Up => !negative && !exact,
        }
    }

    /// Whether a value too large for its format becomes infinite (else the largest finite one).
    #[inline]
    pub(crate) fn overflows_to_infinity(self, negative: bool) -> bool {
        match self {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::TowardZero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        }
    }
}
