//! Operations over whole warp registers. Written as plain loops over 32 lanes, inlined into a body that is compiled
//! once for any machine and once for AVX2 and FMA.

use crate::decode::program::*;
use crate::numeric::arith::{self, flush_f32};
use crate::numeric::convert::*;
use crate::numeric::integer;
use crate::registers::*;

const NAN: u32 = arith::F32_NAN;

#[inline(always)]
fn canon(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

#[inline(always)]
fn canon64(x: f64) -> u64 {
    if x.is_nan() { 0x7fff_ffff_ffff_ffff } else { x.to_bits() }
}

#[inline(always)]
fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

#[inline(always)]
fn fz(x: u32) -> f32 {
    f32::from_bits(flush_f32(x))
}

/// 2^x to within 2 units in the last place: a polynomial on [-1/2, 1/2] and two exact scalings.
#[inline(always)]
fn ex2(bits: u32, ftz: u32) -> u32 {
    let x = f(bits);
    let clamped = x.clamp(-200.0, 200.0);
    let n = clamped.round_ties_even();
    let t = clamped - n;
    let mut p = 1.525_273_4e-5f32;
    for c in [1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0] {
        p = p * t + c;
    }
    let n = n as i32;
    let half = n >> 1;
    let scale = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    let y = p * scale(half) * scale(n - half);
    let y = if x.is_nan() { NAN } else { y.to_bits() };
    if ftz != 0 { flush_f32(y) } else { y }
}

/// f16 of an f32 sum or product of f16 values, or `None` where the first rounding may have hidden a tie.
#[inline(always)]
fn half_once(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let exponent = bits >> 23 & 0xff;
    (bits & 0x1fff != 0x1000 && (113..142).contains(&exponent)).then(|| f32_to_f16_rn(bits))
}

#[inline(always)]
fn bf16_once(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let exponent = bits >> 23 & 0xff;
    (bits & 0xffff != 0x8000 && exponent != 255 && exponent > 24).then(|| f32_to_bf16_rn(bits))
}

/// Executes one operation in the lanes of `mask`, with poison.
#[inline(always)]
pub fn alu(r: &mut Registers, op: Alu, d: Slot, a: Slot, b: Slot, c: Slot, imm: u32, mask: u32) {
    let mut poison = r.poison(a) | r.poison(b) | r.poison(c);
    macro_rules! w32 {
        (|$x:ident| $e:expr) => {{
            let xs = r.r32(a);
            let mut out = [0u32; 32];
            for l in 0..32 {
                let $x = xs[l];
                out[l] = $e;
            }
            r.write32(d, &out, mask);
        }};
        (|$x:ident, $y:ident| $e:expr) => {{
            let (xs, ys) = (r.r32(a), r.r32(b));
            let mut out = [0u32; 32];
            for l in 0..32 {
                let ($x, $y) = (xs[l], ys[l]);
                out[l] = $e;
            }
            r.write32(d, &out, mask);
        }};
        (|$x:ident, $y:ident, $z:ident| $e:expr) => {{
            let (xs, ys, zs) = (r.r32(a), r.r32(b), r.r32(c));
            let mut out = [0u32; 32];
            for l in 0..32 {
                let ($x, $y, $z) = (xs[l], ys[l], zs[l]);
                out[l] = $e;
            }
            r.write32(d, &out, mask);
        }};
    }
    macro_rules! w64 {
        ($($n:ident = $get:ident $s:ident),* => $e:expr) => {{
            let mut out = [0u64; 32];
            for l in 0..32 {
                $(let $n = r.$get($s)[l];)*
                out[l] = $e;
            }
            r.write64(d, &out, mask);
        }};
    }
    macro_rules! n64 {
        ($x:ident => $e:expr) => {{
            let xs = r.r64(a);
            let mut out = [0u32; 32];
            for l in 0..32 {
                let $x = xs[l];
                out[l] = $e;
            }
            r.write32(d, &out, mask);
        }};
    }
    match op {
        Alu::Mov32 => w32!(|x| x),
        Alu::Add32 => w32!(|x, y| x.wrapping_add(y)),
        Alu::Sub32 => w32!(|x, y| x.wrapping_sub(y)),
        Alu::Mul32 => w32!(|x, y| x.wrapping_mul(y)),
        Alu::MulHiU32 => w32!(|x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
        Alu::MulHiS32 => w32!(|x, y| ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32),
        Alu::Mad32 => w32!(|x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Alu::MinU32 => w32!(|x, y| x.min(y)),
        Alu::MaxU32 => w32!(|x, y| x.max(y)),
        Alu::MinS32 => w32!(|x, y| (x as i32).min(y as i32) as u32),
        Alu::MaxS32 => w32!(|x, y| (x as i32).max(y as i32) as u32),
        Alu::And32 => {
            // A defined zero decides the result.
            if poison & mask != 0 {
                let (pa, pb) = (r.poison(a), r.poison(b));
                for l in 0..32 {
                    let decided =
                        pa >> l & 1 == 0 && r.r32(a)[l] == 0 || pb >> l & 1 == 0 && r.r32(b)[l] == 0;
                    poison &= !(u32::from(decided) << l);
                }
            }
            w32!(|x, y| x & y)
        }
        Alu::Or32 => w32!(|x, y| x | y),
        Alu::Xor32 => {
            if a == b {
                poison = 0;
            }
            w32!(|x, y| x ^ y)
        }
        Alu::Not32 => w32!(|x| !x),
        Alu::Neg32 => w32!(|x| x.wrapping_neg()),
        Alu::Abs32 => w32!(|x| (x as i32).wrapping_abs() as u32),
        Alu::Shl32 => w32!(|x, y| if y > 31 { 0 } else { x << (y & 31) }),
        Alu::ShrU32 => w32!(|x, y| if y > 31 { 0 } else { x >> (y & 31) }),
        Alu::ShrS32 => w32!(|x, y| (x as i32 >> y.min(31)) as u32),
        Alu::Lop3 => match imm {
            0x80 => w32!(|x, y, z| x & y & z),
            0xfe => w32!(|x, y, z| x | y | z),
            0x96 => w32!(|x, y, z| x ^ y ^ z),
            0xf8 => w32!(|x, y, z| x | y & z),
            0xea => w32!(|x, y, z| x & y | z),
            0xe2 | 0xb8 | 0xca => w32!(|x, y, z| integer::lop3(x, y, z, imm as u8)),
            _ => w32!(|x, y, z| integer::lop3(x, y, z, imm as u8)),
        },
        Alu::ShfL | Alu::ShfR => {
            w32!(|x, y, z| integer::funnel_shift(x, y, z, op == Alu::ShfL, imm != 0))
        }
        Alu::Add16 => w32!(|x, y| x.wrapping_add(y) & 0xffff),
        Alu::Prmt => w32!(|x, y, z| integer::prmt(x, y, z, integer::Permute::Default)),
        Alu::Pack32 => w32!(|x, y| x & 0xffff | y << 16),
        Alu::FAdd => w32!(|x, y| canon(f(x) + f(y))),
        Alu::FSub => w32!(|x, y| canon(f(x) - f(y))),
        Alu::FMul => w32!(|x, y| canon(f(x) * f(y))),
        Alu::FFma => w32!(|x, y, z| canon(f(x).mul_add(f(y), f(z)))),
        Alu::FAddFtz => w32!(|x, y| flush_f32(canon(fz(x) + fz(y)))),
        Alu::FSubFtz => w32!(|x, y| flush_f32(canon(fz(x) - fz(y)))),
        Alu::FMulFtz => w32!(|x, y| flush_f32(canon(fz(x) * fz(y)))),
        Alu::FFmaFtz => w32!(|x, y, z| flush_f32(canon(fz(x).mul_add(fz(y), fz(z))))),
        Alu::FMin => w32!(|x, y| {
            let (p, q) = (f(x), f(y));
            let both = if p < q {
                x
            } else if q < p {
                y
            } else {
                x | y
            };
            if p.is_nan() {
                if q.is_nan() { NAN } else { y }
            } else if q.is_nan() {
                x
            } else {
                both
            }
        }),
        Alu::FMax => w32!(|x, y| {
            let (p, q) = (f(x), f(y));
            let both = if p > q {
                x
            } else if q > p {
                y
            } else {
                x & y
            };
            if p.is_nan() {
                if q.is_nan() { NAN } else { y }
            } else if q.is_nan() {
                x
            } else {
                both
            }
        }),
        Alu::FNeg => w32!(|x| x ^ 1 << 31),
        Alu::FAbs => w32!(|x| x & !(1 << 31)),
        Alu::Ex2 => w32!(|x| ex2(if imm != 0 { flush_f32(x) } else { x }, imm)),
        Alu::Rcp => w32!(|x| {
            let y = canon(1.0 / if imm != 0 { fz(x) } else { f(x) });
            if imm != 0 { flush_f32(y) } else { y }
        }),
        Alu::RcpRn => w32!(|x| canon(1.0 / f(x))),
        Alu::Rsqrt => w32!(|x| {
            let x = if imm != 0 { fz(x) } else { f(x) };
            canon((1.0 / f64::from(x).sqrt()) as f32)
        }),
        Alu::SqrtRn => w32!(|x| canon(f(x).sqrt())),
        Alu::DivRn => w32!(|x, y| canon(f(x) / f(y))),
        Alu::S32ToF32 => w32!(|x| (x as i32 as f32).to_bits()),
        Alu::U32ToF32 => w32!(|x| (x as f32).to_bits()),
        Alu::F32ToS32Rz => w32!(|x| f(x) as i32 as u32),
        Alu::F16ToF32 => w32!(|x| f16_to_f32(x as u16).to_bits()),
        Alu::Bf16ToF32 => w32!(|x| x << 16),
        Alu::F32ToF16 => w32!(|x| u32::from(f32_to_f16_rn(x))),
        Alu::F32ToBf16 => w32!(|x| u32::from(f32_to_bf16_rn(x))),
        Alu::PackF16x2 => w32!(|x, y| u32::from(f32_to_f16_rn(x)) << 16 | u32::from(f32_to_f16_rn(y))),
        Alu::PackBf16x2 => w32!(|x, y| u32::from(f32_to_bf16_rn(x)) << 16 | u32::from(f32_to_bf16_rn(y))),
        Alu::HAdd2 => w32!(|x, y| arith::packed2(x, y, |x, y| {
            half_once(f16_to_f32(x) + f16_to_f32(y)).unwrap_or_else(|| arith::add_f16(x, y))
        })),
        Alu::HMul2 => w32!(|x, y| arith::packed2(x, y, |x, y| {
            half_once(f16_to_f32(x) * f16_to_f32(y)).unwrap_or_else(|| arith::mul_f16(x, y))
        })),
        Alu::HFma2 => w32!(|x, y, z| arith::packed3(x, y, z, |x, y, z| {
            half_once(f16_to_f32(x).mul_add(f16_to_f32(y), f16_to_f32(z)))
                .unwrap_or_else(|| arith::fma_f16(x, y, z))
        })),
        Alu::BAdd2 => w32!(|x, y| arith::packed2(x, y, |x, y| {
            bf16_once(bf16_to_f32(x) + bf16_to_f32(y)).unwrap_or_else(|| arith::add_bf16(x, y))
        })),
        Alu::BMul2 => w32!(|x, y| arith::packed2(x, y, |x, y| {
            bf16_once(bf16_to_f32(x) * bf16_to_f32(y)).unwrap_or_else(|| arith::mul_bf16(x, y))
        })),
        Alu::BFma2 => w32!(|x, y, z| arith::packed3(x, y, z, |x, y, z| {
            bf16_once(bf16_to_f32(x).mul_add(bf16_to_f32(y), bf16_to_f32(z)))
                .unwrap_or_else(|| arith::fma_bf16(x, y, z))
        })),
        Alu::Low64 => n64!(x => x as u32),
        Alu::High64 => n64!(x => (x >> 32) as u32),
        Alu::F64ToF32 => n64!(x => canon(f64::from_bits(x) as f32)),
        Alu::Mov64 => w64!(x = r64 a => x),
        Alu::Add64 => w64!(x = r64 a, y = r64 b => x.wrapping_add(y)),
        Alu::Sub64 => w64!(x = r64 a, y = r64 b => x.wrapping_sub(y)),
        Alu::Mul64 => w64!(x = r64 a, y = r64 b => x.wrapping_mul(y)),
        Alu::Mad64 => w64!(x = r64 a, y = r64 b, z = r64 c => x.wrapping_mul(y).wrapping_add(z)),
        Alu::Shl64 => w64!(x = r64 a, y = r32 b => if y > 63 { 0 } else { x << (y & 63) }),
        Alu::ShrU64 => w64!(x = r64 a, y = r32 b => if y > 63 { 0 } else { x >> (y & 63) }),
        Alu::ShrS64 => w64!(x = r64 a, y = r32 b => (x as i64 >> y.min(63)) as u64),
        Alu::And64 => w64!(x = r64 a, y = r64 b => x & y),
        Alu::Or64 => w64!(x = r64 a, y = r64 b => x | y),
        Alu::Xor64 => w64!(x = r64 a, y = r64 b => x ^ y),
        Alu::MulWideU => w64!(x = r32 a, y = r32 b => u64::from(x) * u64::from(y)),
        Alu::MulWideS => w64!(x = r32 a, y = r32 b => (i64::from(x as i32) * i64::from(y as i32)) as u64),
        Alu::MadWideU => {
            w64!(x = r32 a, y = r32 b, z = r64 c => (u64::from(x) * u64::from(y)).wrapping_add(z))
        }
        Alu::MadWideS => {
            w64!(x = r32 a, y = r32 b, z = r64 c => ((i64::from(x as i32) * i64::from(y as i32)) as u64).wrapping_add(z))
        }
        Alu::U32To64 => w64!(x = r32 a => u64::from(x)),
        Alu::S32To64 => w64!(x = r32 a => x as i32 as i64 as u64),
        Alu::Pack64 => w64!(x = r32 a, y = r32 b => u64::from(x) | u64::from(y) << 32),
        Alu::F32ToF64 => w64!(x = r32 a => canon64(f64::from(f(x)))),
        Alu::DAdd => w64!(x = r64 a, y = r64 b => canon64(f64::from_bits(x) + f64::from_bits(y))),
        Alu::DSub => w64!(x = r64 a, y = r64 b => canon64(f64::from_bits(x) - f64::from_bits(y))),
        Alu::DMul => w64!(x = r64 a, y = r64 b => canon64(f64::from_bits(x) * f64::from_bits(y))),
        Alu::DFma => {
            w64!(x = r64 a, y = r64 b, z = r64 c => canon64(f64::from_bits(x).mul_add(f64::from_bits(y), f64::from_bits(z))))
        }
    }
    r.set_poison(d, poison, mask);
}

/// Compares in all lanes: the bits of the result and of its poison.
#[inline(always)]
pub fn compare(r: &Registers, c: &Compare) -> (u32, u32) {
    let poison = r.poison(c.a) | r.poison(c.b);
    let (mut less, mut equal, mut nan) = (0u32, 0u32, 0u32);
    macro_rules! integers {
        ($get:ident, $t:ty) => {{
            let (a, b) = (r.$get(c.a), r.$get(c.b));
            for l in 0..32 {
                less |= u32::from((a[l] as $t) < (b[l] as $t)) << l;
                equal |= u32::from((a[l] as $t) == (b[l] as $t)) << l;
            }
        }};
    }
    macro_rules! floats {
        ($get:ident, $to:expr) => {{
            let (a, b) = (r.$get(c.a), r.$get(c.b));
            for l in 0..32 {
                let (x, y) = ($to(a[l]), $to(b[l]));
                less |= u32::from(x < y) << l;
                equal |= u32::from(x == y) << l;
                nan |= u32::from(x != x || y != y) << l;
            }
        }};
    }
    match c.ty {
        CompareType::U16 | CompareType::U32 => integers!(r32, u32),
        CompareType::S16 => integers!(r32, i16),
        CompareType::S32 => integers!(r32, i32),
        CompareType::U64 => integers!(r64, u64),
        CompareType::S64 => integers!(r64, i64),
        CompareType::F32 if c.ftz => floats!(r32, fz),
        CompareType::F32 => floats!(r32, f),
        CompareType::F64 => floats!(r64, f64::from_bits),
        CompareType::F16 if c.ftz => floats!(r32, |x: u32| f16_to_f32(arith::flush_f16(x as u16))),
        CompareType::F16 => floats!(r32, |x: u32| f16_to_f32(x as u16)),
        CompareType::Bf16 => floats!(r32, |x: u32| bf16_to_f32(x as u16)),
    }
    let result = match c.op {
        Comparison::Eq => equal,
        Comparison::Ne => !equal & !nan,
        Comparison::Lt => less,
        Comparison::Le => less | equal,
        Comparison::Gt => !(less | equal | nan),
        Comparison::Ge => !(less | nan),
        Comparison::Equ => equal | nan,
        Comparison::Neu => !equal,
        Comparison::Ltu => less | nan,
        Comparison::Leu => less | equal | nan,
        Comparison::Gtu => !(less | equal),
        Comparison::Geu => !less,
        Comparison::Num => !nan,
        Comparison::Nan => nan,
    };
    (result, poison)
}

/// Logic over predicates with exact poison: a defined operand may decide.
#[inline(always)]
pub fn logic(op: Logic, (a, pa): (u32, u32), (b, pb): (u32, u32)) -> (u32, u32) {
    match op {
        Logic::And => (a & b, (pa | pb) & !(!a & !pa) & !(!b & !pb)),
        Logic::Or => (a | b, (pa | pb) & !(a & !pa) & !(b & !pb)),
        Logic::Xor => (a ^ b, pa | pb),
    }
}
