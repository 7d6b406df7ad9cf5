//! Values computed another way: the `half` crate, the machine's own arithmetic, and searches through every value of a
//! small format.

use super::Rounding::{self, *};
use super::soft::{self, E4M3, E5M2, F16, Format};
use super::{approx, arith, convert, integer, lanes};

const MODES: [Rounding; 5] = [NearestEven, TowardZero, Down, Up, NearestAway];

/// A small generator, so that failures repeat (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// An f32 whose exponent is mostly near zero, with some of every other kind.
    fn f32(&mut self) -> u32 {
        let bits = self.next() as u32;
        match self.next() % 16 {
            0 => bits,
            1 => bits & 0x807f_ffff,
            2 => [0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 1, 0x7f7f_ffff, 0x0080_0000]
                [bits as usize % 8],
            _ => bits & 0x807f_ffff | (110 + bits.rotate_left(9) % 34) << 23,
        }
    }
    fn f64(&mut self) -> u64 {
        let bits = self.next();
        match self.next() % 16 {
            0 => bits,
            1 => bits & 0x800f_ffff_ffff_ffff,
            2 => [0, 1 << 63, 0x7ff0 << 48, 0x7ff8 << 48, 1, 0x7fef_ffff_ffff_ffff][bits as usize % 6],
            _ => bits & 0x800f_ffff_ffff_ffff | (1000 + self.next() % 46) << 52,
        }
    }
}

fn same(got: u64, want: f64, to_f64: impl Fn(u64) -> f64) -> bool {
    let got = to_f64(got);
    (got.is_nan() && want.is_nan()) || (got == want && got.is_sign_negative() == want.is_sign_negative())
}

#[test]
fn half_widths_agree_with_the_half_crate() {
    for bits in 0..=u16::MAX {
        let (f, b) = (half::f16::from_bits(bits).to_f32(), half::bf16::from_bits(bits).to_f32());
        assert!(
            same(convert::f16_to_f32(bits).to_bits().into(), f.into(), |v| f32::from_bits(v as u32).into())
        );
        assert!(
            same(convert::bf16_to_f32(bits).to_bits().into(), b.into(), |v| f32::from_bits(v as u32).into())
        );
        if !f.is_nan() {
            assert_eq!(convert::f32_to_f16_rn(f.to_bits()), bits);
        }
    }
    let mut random = Random(1);
    let mut cases: Vec<u32> = (0..2_000_000).map(|_| random.f32()).collect();
    // Every f16, the midpoint above it, and the neighbours of that.
    for bits in 0..0x7c00u16 {
        let low = half::f16::from_bits(bits).to_f32();
        let high = if bits == 0x7bff { 65536.0 } else { half::f16::from_bits(bits + 1).to_f32() };
        let middle = (low + (high - low) / 2.0).to_bits();
        cases.extend([middle - 1, middle, middle + 1, middle | 0x8000_0000]);
    }
    for bits in cases {
        let value = f32::from_bits(bits);
        let (f, b) = (half::f16::from_f32(value), half::bf16::from_f32(value));
        let (got_f, got_b) = (convert::f32_to_f16_rn(bits), convert::f32_to_bf16_rn(bits));
        if value.is_nan() {
            assert_eq!((got_f, got_b), (0x7fff, 0x7fff));
        } else {
            assert_eq!((got_f, got_b), (f.to_bits(), b.to_bits()), "{value:e}");
        }
        let soft =
            |format| soft::Exact::unpack(bits.into(), soft::F32).pack(format, NearestEven, false) as u16;
        assert_eq!((got_f, got_b), (soft(F16), soft(soft::BF16)), "{value:e}");
    }
}

/// Every finite value of a format of at most 16 bits with its bits, ascending; -0 is left out.
fn values(format: Format) -> Vec<(f64, u64)> {
    let width = 1 + format.exponent_bits + format.mantissa_bits;
    let mut all: Vec<_> = (0..1u64 << width)
        .filter(|bits| bits & ((1 << (width - 1)) - 1) <= format.max_finite())
        .filter(|&bits| bits != 1 << (width - 1))
        .map(|bits| {
            let negative = bits >> (width - 1) != 0;
            let field = bits >> format.mantissa_bits & ((1 << format.exponent_bits) - 1);
            let fraction =
                (bits & ((1 << format.mantissa_bits) - 1)) as f64 / (1u64 << format.mantissa_bits) as f64;
            let bias = (1i32 << (format.exponent_bits - 1)) - 1;
            let magnitude = if field == 0 {
                fraction * 2f64.powi(1 - bias)
            } else {
                (1.0 + fraction) * 2f64.powi(field as i32 - bias)
            };
            (if negative { -magnitude } else { magnitude }, bits)
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

/// The rounding of `x` found by looking through all values; `None` where it overflows.
fn searched(all: &[(f64, u64)], x: f64, mode: Rounding) -> Option<f64> {
    let above = all.partition_point(|v| v.0 < x);
    // Beyond the largest value, to nearest counts half a unit more before it overflows.
    let (largest, second) = (all[all.len() - 1].0, all[all.len() - 2].0);
    if matches!(mode, NearestEven | NearestAway) && x.abs() > largest {
        let excess = (x.abs() - largest) / (largest - second);
        // The largest value is odd with infinities (ties overflow), and even in e4m3.
        let stays =
            excess < 0.5 || (excess == 0.5 && mode == NearestEven && all[all.len() - 1].1.is_multiple_of(2));
        return stays.then_some(largest.copysign(x));
    }
    if above < all.len() && all[above].0 == x {
        return Some(x);
    }
    let high = all.get(above).map(|v| v.0);
    let low = above.checked_sub(1).map(|i| all[i].0);
    match (mode, low, high) {
        (Down, low, _) => low,
        (Up, _, high) => high,
        (TowardZero, low, high) => {
            if x > 0.0 {
                low
            } else {
                high
            }
        }
        (_, Some(low), Some(high)) => Some(match (x - low).total_cmp(&(high - x)) {
            std::cmp::Ordering::Less => low,
            std::cmp::Ordering::Greater => high,
            _ if mode == NearestAway => {
                if x > 0.0 {
                    high
                } else {
                    low
                }
            }
            // Even is the one whose bits end in zero.
            _ => {
                if all[above].1.is_multiple_of(2) {
                    high
                } else {
                    low
                }
            }
        }),
        _ => None,
    }
}

#[test]
fn every_mode_rounds_to_the_value_a_search_finds() {
    let mut random = Random(2);
    for format in [F16, soft::BF16, E4M3, E5M2] {
        let all = values(format);
        let largest = all[all.len() - 1].0;
        let to_f64 = |bits: u64| all.iter().find(|v| v.1 == bits).map(|v| v.0);
        for _ in 0..20_000 {
            let spread = (random.next() % 40) as i32 - 26;
            let x =
                f32::from_bits(random.next() as u32 & 0x807f_ffff | 0x3f80_0000) as f64 * 2f64.powi(spread);
            for mode in MODES {
                let got =
                    soft::Exact::unpack((x as f32).to_bits().into(), soft::F32).pack(format, mode, false);
                match searched(&all, x, mode) {
                    Some(0.0) => {
                        assert_eq!(got & (format.infinity(true) >> 1), 0, "{x:e} {mode:?}")
                    }
                    Some(want) => assert_eq!(to_f64(got), Some(want), "{x:e} {mode:?} {format:?}"),
                    None => assert!(x.abs() > largest && got == format.infinity(x < 0.0), "{x:e} {mode:?}"),
                }
                let saturated =
                    soft::Exact::unpack((x as f32).to_bits().into(), soft::F32).pack(format, mode, true);
                if x.abs() > largest {
                    assert_eq!(to_f64(saturated).unwrap().abs(), largest);
                }
            }
        }
    }
}

#[test]
fn fp8_conversions_cover_every_input() {
    for (format, to, widen) in [
        (E4M3, convert::f16_to_e4m3 as fn(u16) -> u8, convert::e4m3_to_f32 as fn(u8) -> f32),
        (E5M2, convert::f16_to_e5m2, convert::e5m2_to_f32),
    ] {
        let all = values(format);
        let largest = all[all.len() - 1].0;
        for (value, bits) in &all {
            assert_eq!(widen(*bits as u8) as f64, *value);
        }
        for bits in 0..=u16::MAX {
            let x = half::f16::from_bits(bits).to_f64();
            let got = widen(to(bits)) as f64;
            if x.is_nan() {
                assert!(got.is_nan());
            } else {
                let want = searched(&all, x, NearestEven).unwrap_or(largest.copysign(x));
                assert_eq!(got, want, "{x}");
                assert_eq!(got.is_sign_negative(), x.is_sign_negative());
            }
            let f32_bits = half::f16::from_bits(bits).to_f32().to_bits();
            let from_f32 =
                if format == E4M3 { convert::f32_to_e4m3(f32_bits) } else { convert::f32_to_e5m2(f32_bits) };
            assert_eq!(from_f32, to(bits));
        }
    }
    assert!(convert::e4m3_to_f32(0x7f).is_nan() && convert::e4m3_to_f32(0xff).is_nan());
    assert_eq!(convert::e4m3_to_f32(0x7e), 448.0);
    for byte in 0..=255u8 {
        let wide = convert::f16_to_f32(convert::e4m3_to_f16(byte));
        assert!(wide == convert::e4m3_to_f32(byte) || wide.is_nan() == convert::e4m3_to_f32(byte).is_nan());
    }
}

#[test]
fn tf32_rounds_at_ten_bits() {
    let mut random = Random(3);
    for _ in 0..200_000 {
        let bits = random.f32();
        let value = f32::from_bits(bits);
        if !value.is_finite() {
            continue;
        }
        // Ties away: add half a unit to the magnitude and cut.
        let away = (bits + 0x1000) & 0xffff_e000;
        if f32::from_bits(away).is_finite() {
            assert_eq!(convert::f32_to_tf32(bits, NearestAway, false), away, "{value:e}");
        }
        assert_eq!(convert::f32_to_tf32(bits, TowardZero, false), bits & 0xffff_e000);
    }
}

#[test]
fn soft_arithmetic_agrees_with_the_machine_and_brackets() {
    let mut random = Random(4);
    let wide = |bits: u64| f32::from_bits(bits as u32) as f64;
    for _ in 0..300_000 {
        let (a, b, c) = (random.f32(), random.f32(), random.f32());
        let (x, y, z) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        for (name, op, want) in [
            ("add", Box::new(|m| arith::add_f32(a, b, m)) as Box<dyn Fn(Rounding) -> u32>, x + y),
            ("mul", Box::new(|m| arith::mul_f32(a, b, m)), x * y),
            ("fma", Box::new(|m| arith::fma_f32(a, b, c, m)), x.mul_add(y, z)),
            ("div", Box::new(|m| arith::div_f32(a, b, m)), x / y),
            ("sqrt", Box::new(|m| arith::sqrt_f32(a, m)), x.sqrt()),
        ] {
            let rn = op(NearestEven);
            assert!(same(rn.into(), want.into(), wide), "{name} {x:e} {y:e} {z:e}: {rn:x} {want:e}");
            let [rz, rm, rp] = [TowardZero, Down, Up].map(|m| f32::from_bits(op(m)));
            if want.is_nan() {
                assert!(rz.is_nan() && rm.is_nan() && rp.is_nan());
                continue;
            }
            assert!(rm <= want && want <= rp, "{name} {rm:e} {want:e} {rp:e}");
            assert!(rm == rp || rm.next_up() == rp, "{name} {x:e} {y:e} {z:e}");
            let inward = if rm.abs() < rp.abs() { rm } else { rp };
            assert_eq!(rz, inward);
        }
        // Products of f32 are exact in f64, which says on which side each mode must land.
        let exact = x as f64 * y as f64;
        if exact.is_finite() {
            assert!(
                wide(arith::mul_f32(a, b, Down).into()) <= exact
                    && exact <= wide(arith::mul_f32(a, b, Up).into())
            );
            assert_eq!(convert::f64_to_f32(exact, TowardZero), arith::mul_f32(a, b, TowardZero));
        }
    }
}

#[test]
fn soft_f64_agrees_with_the_machine() {
    let mut random = Random(5);
    for _ in 0..300_000 {
        let (a, b, c) = (random.f64(), random.f64(), random.f64());
        let (x, y, z) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
        for (name, got, want) in [
            ("add", arith::add_f64(a, b, NearestEven), x + y),
            ("mul", arith::mul_f64(a, b, NearestEven), x * y),
            ("fma", arith::fma_f64(a, b, c, NearestEven), x.mul_add(y, z)),
            ("div", arith::div_f64(a, b, NearestEven), x / y),
            ("sqrt", arith::sqrt_f64(a, NearestEven), x.sqrt()),
        ] {
            assert!(same(got, want, f64::from_bits), "{name} {x:e} {y:e} {z:e}: {got:x} {want:e}");
        }
        let (rm, rp) = (arith::fma_f64(a, b, c, Down), arith::fma_f64(a, b, c, Up));
        let (rm, rp) = (f64::from_bits(rm), f64::from_bits(rp));
        assert!(rm.is_nan() || (rm <= rp && (rm == rp || rm.next_up() == rp)));
    }
    // Exact cancellation: +0, but -0 when rounding down.
    assert_eq!(arith::add_f64(1f64.to_bits(), (-1f64).to_bits(), NearestEven), 0);
    assert_eq!(arith::add_f64(1f64.to_bits(), (-1f64).to_bits(), Down), 1 << 63);
}

#[test]
fn sixteen_bit_arithmetic_rounds_once() {
    let mut random = Random(6);
    let exact = |bits: u16, format| soft::Exact::unpack(bits.into(), format);
    for i in 0..400_000 {
        // Half of the cases with a large addend, where f32 would round twice.
        let (a, b) = (random.next() as u16, random.next() as u16);
        let c = if i % 2 == 0 {
            random.next() as u16
        } else {
            arith::mul_f16(a, b) ^ (random.next() as u16 & 0x8003)
        };
        let sum =
            exact(a, F16).mul(exact(b, F16)).add(exact(c, F16), NearestEven).pack(F16, NearestEven, false);
        assert_eq!(arith::fma_f16(a, b, c) as u64, sum, "{a:x} {b:x} {c:x}");
        let format = soft::BF16;
        let sum = exact(a, format).mul(exact(b, format)).add(exact(c, format), NearestEven);
        assert_eq!(
            arith::fma_bf16(a, b, c) as u64,
            sum.pack(format, NearestEven, false),
            "{a:x} {b:x} {c:x}"
        );
        let want = half::f16::from_f64(half::f16::from_bits(a).to_f64() + half::f16::from_bits(b).to_f64());
        let got = arith::add_f16(a, b);
        assert!(got == want.to_bits() || (want.is_nan() && got == 0x7fff), "{a:x} + {b:x}");
        let want = half::f16::from_f64(half::f16::from_bits(a).to_f64() * half::f16::from_bits(b).to_f64());
        let got = arith::mul_f16(a, b);
        assert!(got == want.to_bits() || (want.is_nan() && got == 0x7fff), "{a:x} * {b:x}");
    }
    assert_eq!(arith::sub_f16(0x3c00, 0x3c00), 0);
    assert_eq!(arith::packed2(0x3c00_4000, 0x3c00_3c00, arith::add_f16), 0x4000_4200);
}

#[test]
fn minimum_and_maximum_follow_their_rules() {
    let rule = |max, nan, xorsign_abs| arith::MinMax { max, nan, xorsign_abs };
    let (one, two, nan) = (1f32.to_bits(), 2f32.to_bits(), 0x7fc0_0001);
    let minus = |v: u32| v ^ 0x8000_0000;
    assert_eq!(arith::min_max_f32(one, two, rule(false, false, false)), one);
    assert_eq!(arith::min_max_f32(one, minus(two), rule(true, false, false)), one);
    assert_eq!(arith::min_max_f32(one, nan, rule(true, false, false)), one);
    assert_eq!(arith::min_max_f32(nan, minus(two), rule(true, false, false)), minus(two));
    assert_eq!(arith::min_max_f32(nan, one, rule(true, true, false)), arith::F32_NAN);
    assert_eq!(arith::min_max_f32(nan, nan, rule(true, false, false)), arith::F32_NAN);
    for (a, b) in [(0, 0x8000_0000), (0x8000_0000, 0)] {
        assert_eq!(arith::min_max_f32(a, b, rule(false, false, false)), 0x8000_0000);
        assert_eq!(arith::min_max_f32(a, b, rule(true, false, false)), 0);
    }
    // Magnitudes compared, sign of the product.
    assert_eq!(arith::min_max_f32(minus(two), one, rule(false, false, true)), minus(one));
    assert_eq!(arith::min_max_f32(minus(two), minus(one), rule(true, false, true)), two);
    let mut random = Random(7);
    for _ in 0..100_000 {
        let (a, b) = (random.f32(), random.f32());
        let (x, y) = (f32::from_bits(a), f32::from_bits(b));
        if x != y && !x.is_nan() && !y.is_nan() {
            assert_eq!(arith::min_max_f32(a, b, rule(false, true, false)), x.min(y).to_bits());
            assert_eq!(arith::min_max_f32(a, b, rule(true, true, false)), x.max(y).to_bits());
            let wide =
                arith::min_max_f64((x as f64).to_bits(), (y as f64).to_bits(), rule(true, false, false));
            assert_eq!(f64::from_bits(wide), x.max(y) as f64);
        }
    }
    assert_eq!(arith::min_max_f16(0x3c00, 0xc000, rule(false, false, false)), 0xc000);
    assert_eq!(arith::min_max_bf16(0x3f80, 0x7fff, rule(true, true, false)), 0x7fff);
    assert_eq!(
        [0x7fc0_0000, 0xbf80_0000, 0x4000_0000, 0x3f00_0000].map(arith::saturate_f32),
        [0, 0, one, 0x3f00_0000]
    );
    assert_eq!([0x7e00, 0x8000, 0x7c00, 0x3800].map(arith::saturate_f16), [0, 0, 0x3c00, 0x3800]);
    assert_eq!([0x7e00, 0x8001, 0x3800].map(|v| arith::relu_f16(v, 0x7c00)), [0x7fff, 0, 0x3800]);
    assert_eq!(arith::flush_f32(0x8000_0001), 0x8000_0000);
    assert!(arith::test_f32(1, arith::Test::Subnormal) && !arith::test_f32(1, arith::Test::Normal));
    // Zero counts as normal.
    assert!(arith::test_f32(one, arith::Test::Normal) && arith::test_f32(0, arith::Test::Normal));
}

#[test]
fn integer_conversions_clamp_and_round() {
    let mut random = Random(8);
    for _ in 0..200_000 {
        let value = f32::from_bits(random.f32()) as f64 * 1000.0;
        if value.is_nan() {
            continue;
        }
        let rounded = [value.round_ties_even(), value.trunc(), value.floor(), value.ceil(), value.round()];
        for (mode, want) in MODES.into_iter().zip(rounded) {
            assert_eq!(convert::float_to_int(value, mode, 32, true, false), want as i32 as i64 as u64);
            assert_eq!(convert::float_to_int(value, mode, 32, false, false), (want as u32).into());
            assert_eq!(convert::float_to_int(value, mode, 8, true, false), want as i8 as i64 as u64);
            assert_eq!(convert::float_to_int(value, mode, 16, false, false), (want as u16).into());
            assert_eq!(convert::float_to_int(value, mode, 64, true, false), want as i64 as u64);
            assert_eq!(convert::float_to_int(value, mode, 64, false, false), want as u64);
        }
    }
    assert_eq!(convert::float_to_int(f64::NAN, TowardZero, 32, true, false), 0);
    assert_eq!(convert::float_to_int(f64::NAN, TowardZero, 64, true, true), 1 << 63);
    assert_eq!(convert::float_to_int(f64::NAN, TowardZero, 32, true, true) as u32, 1 << 31);
    for _ in 0..200_000 {
        let v = random.next() >> (random.next() % 64);
        assert_eq!(
            convert::int_to_format(v, true, soft::F32, NearestEven) as u32,
            (v as i64 as f32).to_bits()
        );
        assert_eq!(convert::int_to_format(v, false, soft::F64, NearestEven), (v as f64).to_bits());
        let down = f32::from_bits(convert::int_to_f32(v, false, Down)) as f64;
        assert!(down <= v as f64 && down as u128 <= v as u128, "{v}");
    }
    assert_eq!(convert::int_to_int(300, true, 8, false, true), 255);
    assert_eq!(convert::int_to_int(-300i64 as u64, true, 8, true, true), -128i64 as u64);
    assert_eq!(convert::int_to_int(-1i64 as u64, true, 32, false, true), 0);
    assert_eq!(convert::int_to_int(0x1_ffff_ff80, true, 8, true, false), -128i64 as u64);
    assert_eq!(convert::int_to_int(u64::MAX, false, 64, true, true), i64::MAX as u64);
}

#[test]
fn bit_instructions_match_their_definitions() {
    let mut random = Random(9);
    for _ in 0..100_000 {
        let (a, b, c) = (random.next() as u32, random.next() as u32, random.next() as u32);
        let (position, length) = (random.next() as u32 % 70, random.next() as u32 % 70);
        for signed in [false, true] {
            // The loop of the PTX manual: bit by bit, with the sign of the field's or the value's top bit.
            let sign = signed && length > 0 && a >> (position + length - 1).min(31) & 1 != 0;
            let mut want = 0u32;
            for i in 0..32 {
                let inside = i < length && position + i <= 31;
                let bit = if inside { a >> (position + i) & 1 != 0 } else { sign };
                want |= (bit as u32) << i;
            }
            assert_eq!(
                integer::bfe(a.into(), position, length, 32, signed) as u32,
                want,
                "{a:x} {position} {length}"
            );
        }
        let mut want = b;
        for i in 0..length {
            if position + i <= 31 {
                let bit = if i < 32 { a >> i & 1 } else { 0 };
                want = want & !(1 << (position + i)) | bit << (position + i);
            }
        }
        assert_eq!(integer::bfi(a.into(), b.into(), position, length, 32) as u32, want);
        assert_eq!(integer::lop3(a, b, c, 0x96), a ^ b ^ c);
        assert_eq!(integer::lop3(a, b, c, 0xca), a & b | !a & c);
        assert_eq!(integer::lop3(a, b, c, 0xe8), a & b | a & c | b & c);
        let bytes: Vec<u8> = a.to_le_bytes().into_iter().chain(b.to_le_bytes()).collect();
        let want = [0, 4, 8, 12].map(|s| {
            let byte = bytes[(c >> s & 7) as usize];
            if c >> s & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
        });
        assert_eq!(integer::prmt(a, b, c, integer::Permute::Default).to_le_bytes(), want);
        let n = c % 40;
        let pair = (b as u64) << 32 | a as u64;
        assert_eq!(integer::funnel_shift(a, b, n, false, true), (pair >> (n % 32)) as u32);
        assert_eq!(integer::funnel_shift(a, b, n, true, false), ((pair as u128) << n.min(32) >> 32) as u32);
        let products: i32 = (0..4).map(|i| (a >> (8 * i)) as i8 as i32 * (b >> (8 * i)) as i8 as i32).sum();
        assert_eq!(integer::dp4a(a, b, c, true, true), (products as u32).wrapping_add(c));
        assert_eq!(integer::bfind(a.into(), 32, false, false), a.checked_ilog2().unwrap_or(u32::MAX));
    }
    assert_eq!(integer::bfind(-1i64 as u64, 32, true, false), u32::MAX);
    assert_eq!(integer::bfind(-256i64 as u64, 32, true, true), 24);
    assert_eq!(integer::prmt(0x3322_1100, 0x7766_5544, 1, integer::Permute::Forward4), 0x4433_2211);
    assert_eq!(integer::prmt(0x3322_1100, 0x7766_5544, 2, integer::Permute::Replicate8), 0x2222_2222);
    assert_eq!(integer::prmt(0x3322_1100, 0x7766_5544, 1, integer::Permute::Backward4), 0x6677_0011);
    assert_eq!(integer::prmt(0x3322_1100, 0x7766_5544, 1, integer::Permute::Replicate16), 0x3322_3322);
    assert_eq!(integer::prmt(0x3322_1100, 0, 1, integer::Permute::EdgeLeft), 0x3322_1111);
    assert_eq!(integer::prmt(0x3322_1100, 0, 1, integer::Permute::EdgeRight), 0x1111_1100);
    assert_eq!(integer::shr(u64::MAX, 40, true), u64::MAX);
    assert_eq!(integer::shl(1, 32, 32), 0);
    assert_eq!(integer::fns(0b1010_0100, 0, 2), 5);
    assert_eq!(integer::fns(0b1010_0100, 7, -2), 5);
    assert_eq!(integer::fns(0b1010_0100, 3, 0), u32::MAX);
    assert_eq!(integer::dp2a(0x0002_ffff, 0x0403_0201, 10, true, false, true), 10u32 - 3 + 8);
    assert_eq!(integer::low24(0x1ff_ffff, true), -1);
}

#[test]
fn approximate_functions_are_within_half_an_ulp_and_know_their_special_values() {
    let mut random = Random(10);
    for _ in 0..100_000 {
        let bits = random.f32();
        let x = f32::from_bits(bits) as f64;
        for (name, got, want) in [
            ("ex2", approx::ex2_f32(bits, false), 2f64.powf(x)),
            ("lg2", approx::lg2_f32(bits, false), x.ln() / std::f64::consts::LN_2),
            ("rcp", approx::rcp_f32(bits, false), 1.0 / x),
            ("rsqrt", approx::rsqrt_f32(bits, false), x.powf(-0.5)),
            ("tanh", approx::tanh_f32(bits), 1.0 - 2.0 / ((2.0 * x).exp() + 1.0)),
        ] {
            let got = f32::from_bits(got) as f64;
            // 1 - 2 / (e^2x + 1) cancels for small x, and x^-0.5 takes -0 for +0: other ways have limits too.
            if want.is_nan() || x == 0.0 || x == f64::NEG_INFINITY || (name == "tanh" && x.abs() < 1e-3) {
                continue;
            }
            let close =
                got == want as f32 as f64 || (got - want).abs() <= want.abs() * 2f64.powi(-23) + 1e-45;
            assert!(close, "{name}({x:e}) = {got:e}, expected {want:e}");
        }
    }
    let inf = f32::INFINITY.to_bits();
    assert_eq!(approx::ex2_f32(f32::NEG_INFINITY.to_bits(), true), 0);
    assert_eq!(approx::ex2_f32((-140f32).to_bits(), true), 0);
    assert_eq!(approx::ex2_f32((-140f32).to_bits(), false), 1 << 9);
    assert_eq!(approx::rcp_f32(1, true), inf);
    assert_eq!(approx::rsqrt_f32(0x8000_0000, false), f32::NEG_INFINITY.to_bits());
    assert_eq!(approx::lg2_f32(0, false), f32::NEG_INFINITY.to_bits());
    assert_eq!(approx::sqrt_f32((-1f32).to_bits(), false), arith::F32_NAN);
    assert_eq!(approx::sin_f32(inf, false), arith::F32_NAN);
    assert_eq!(approx::div_approx_f32(1f32.to_bits(), 3e38f32.to_bits(), false), 0);
    assert_eq!(approx::div_full_f32(6f32.to_bits(), 3f32.to_bits(), false), 2f32.to_bits());
    assert_eq!(approx::rcp_approx_f64(4f64.to_bits()), 0.25f64.to_bits());
    let all = values(F16);
    for bits in 0..=u16::MAX {
        let x = half::f16::from_bits(bits).to_f64();
        let got = half::f16::from_bits(approx::ex2_f16(bits)).to_f64();
        let want = || searched(&all, x.exp2(), NearestEven).unwrap_or(f64::INFINITY);
        assert!((x.is_nan() && got.is_nan()) || got == want(), "{x:e}");
        let x = half::bf16::from_bits(bits).to_f64();
        let got = half::bf16::from_bits(approx::tanh_bf16(bits)).to_f64();
        assert!(x.is_nan() || (got - x.tanh()).abs() <= 2f64.powi(-8) * x.tanh().abs(), "{x:e}");
        let got = half::bf16::from_bits(approx::ex2_bf16(bits)).to_f64();
        // The largest bf16 is just below 2^128.
        let x = if x >= 128.0 { f64::INFINITY } else { x };
        assert!(
            x.is_nan() || got == x.exp2() || (got - x.exp2()).abs() <= 2f64.powi(-8) * x.exp2() + 1.2e-38,
            "{x:e}"
        );
    }
}

#[test]
fn whole_registers_agree_with_single_lanes() {
    let mut random = Random(11);
    for _ in 0..2000 {
        let mut register = || -> lanes::Lanes { std::array::from_fn(|_| random.f32()) };
        let (a, b, c) = (register(), register(), register());
        let want: lanes::Lanes = std::array::from_fn(|i| arith::fma_f32(a[i], b[i], c[i], NearestEven));
        assert_eq!(lanes::fma_f32(&a, &b, &c), want);
        let wide = |v: &lanes::Lanes| v.map(|bits| (f32::from_bits(bits) as f64).to_bits());
        let (a, b, c) = (wide(&a), wide(&b), wide(&c));
        for (i, got) in lanes::fma_f64(&a, &b, &c).into_iter().enumerate() {
            let want = f64::from_bits(arith::fma_f64(a[i], b[i], c[i], NearestEven));
            assert!(same(got, want, f64::from_bits));
        }
    }
}
