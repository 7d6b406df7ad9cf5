//! `mma.sync.aligned` of the m16n8 family (PTX ISA 9.7.14.5) and of f64.
//!
//! With `group = lane / 4` and `tid = lane % 4`, and `e` elements in a 32-bit register:
//!
//! * A (m x k): register `r` of a lane holds row `group + 8 (r mod 2)`, columns `e (tid + 4 (r / 2)) + 0..e`;
//! * B (k x n): register `r` holds column `group`, rows `e (tid + 4 r) + 0..e`;
//! * C and D (m x n): element `i` is row `group + 8 (i / 2)`, column `2 tid + i mod 2`; f16 packs two a register.

use super::Lanes;
use super::element::{Accumulator, Element};
use super::product::multiply;
use crate::numeric::convert::{f16_to_f32, f32_to_f16_rn};

const M: usize = 16;
const N: usize = 8;
const MAX_K: usize = 32;

/// A decoded `mma.sync.aligned.m16n8kK.row.col`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mma {
    k: usize,
    a: Element,
    b: Element,
    c: Accumulator,
    d: Accumulator,
    saturate: bool,
}

/// How many 32-bit registers a lane holds of each matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Of A.
    pub a: usize,
    /// Of B.
    pub b: usize,
    /// Of C.
    pub c: usize,
    /// Of D.
    pub d: usize,
}

impl Mma {
    /// The instruction of this shape and these types, or `None` where PTX has none. `saturate` is `.satfinite`
    /// (integers only).
    pub fn new(
        (m, n, k): (usize, usize, usize),
        (a, b): (Element, Element),
        (c, d): (Accumulator, Accumulator),
        saturate: bool,
    ) -> Option<Mma> {
        use Element::*;
        let shapes: &[usize] = match a {
            F16 | Bf16 => &[8, 16],
            Tf32 => &[4, 8],
            _ => &[16, 32],
        };
        let operands = match a {
            S8 | U8 => b.is_integer(),
            E4m3 | E5m2 => matches!(b, E4m3 | E5m2),
            _ => a == b,
        };
        let sums = match a {
            S8 | U8 => c == Accumulator::S32 && d == Accumulator::S32,
            Bf16 | Tf32 => c == Accumulator::F32 && d == Accumulator::F32,
            _ => c != Accumulator::S32 && d != Accumulator::S32,
        };
        let known = (m, n) == (M, N) && shapes.contains(&k) && operands && sums;
        (known && (!saturate || a.is_integer())).then_some(Mma { k, a, b, c, d, saturate })
    }

    /// Registers a lane of each matrix.
    pub fn registers(&self) -> Registers {
        Registers {
            a: M * self.k / 32 / self.a.per_register(),
            b: N * self.k / 32 / self.b.per_register(),
            c: 4 / self.c.per_register(),
            d: 4 / self.d.per_register(),
        }
    }

    /// Multiply-accumulates of one instruction.
    pub fn macs(&self) -> usize {
        M * N * self.k
    }

    /// `d = a * b + c`. The slices hold [`Mma::registers`] warp registers each.
    pub fn run(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        if self.a.is_integer() {
            return self.run_integer(a, b, c, d);
        }
        let mut a_tile = [0f32; M * MAX_K];
        let mut b_tile = [0f32; MAX_K * N];
        let mut acc = [0f32; M * N];
        match self.a {
            Element::F16 => self.unpack(a, b, |v, i| Element::F16.to_f32(v, i), &mut a_tile, &mut b_tile),
            Element::Bf16 => self.unpack(a, b, |v, i| Element::Bf16.to_f32(v, i), &mut a_tile, &mut b_tile),
            Element::Tf32 => self.unpack(a, b, |v, i| Element::Tf32.to_f32(v, i), &mut a_tile, &mut b_tile),
            _ => {
                self.unpack(a, &[], |v, i| self.a.to_f32(v, i), &mut a_tile, &mut b_tile);
                self.unpack(&[], b, |v, i| self.b.to_f32(v, i), &mut a_tile, &mut b_tile);
            }
        }
        for i in 0..4 {
            for lane in 0..32 {
                acc[accumulator_index(lane, i)] = match self.c {
                    Accumulator::F16 => f16_to_f32((c[i / 2][lane] >> (16 * (i % 2))) as u16),
                    _ => f32::from_bits(c[i][lane]),
                };
            }
        }
        multiply(M, N, self.k, &a_tile, &b_tile, &mut acc);
        for i in 0..4 {
            for lane in 0..32 {
                let value = acc[accumulator_index(lane, i)].to_bits();
                match self.d {
                    Accumulator::F16 => {
                        let half = f32_to_f16_rn(value) as u32;
                        let register = &mut d[i / 2][lane];
                        *register = if i % 2 == 0 { half } else { *register & 0xffff | half << 16 };
                    }
                    _ => d[i][lane] = canonical(value),
                }
            }
        }
    }

    /// `d = a * b + c` of the usual shape, m16n8k16 of a 16-bit type with f32 sums; `None` of any other.
    pub fn run_usual(&self, a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) -> Option<[Lanes; 4]> {
        let ([a0, a1, a2, a3], [b0, b1], [c0, c1, c2, c3]) = (a, b, c) else { return None };
        let (a, b, c) = ([*a0, *a1, *a2, *a3], [*b0, *b1], [*c0, *c1, *c2, *c3]);
        if (self.k, self.c, self.d) != (16, Accumulator::F32, Accumulator::F32) {
            return None;
        }
        match self.a {
            Element::Bf16 => Some(usual::<true>(a, b, c)),
            Element::F16 => Some(usual::<false>(a, b, c)),
            _ => None,
        }
    }

    #[inline(always)]
    fn unpack(
        &self,
        a: &[Lanes],
        b: &[Lanes],
        to_f32: impl Fn(u32, usize) -> f32,
        a_tile: &mut [f32; M * MAX_K],
        b_tile: &mut [f32; MAX_K * N],
    ) {
        let e = self.a.per_register();
        for (r, register) in a.iter().enumerate() {
            for lane in 0..32 {
                let (row, col) = a_position(lane, r, e);
                for i in 0..e {
                    a_tile[row * self.k + col + i] = to_f32(register[lane], i);
                }
            }
        }
        for (r, register) in b.iter().enumerate() {
            for lane in 0..32 {
                let (row, col) = b_position(lane, r, e);
                for i in 0..e {
                    b_tile[(row + i) * N + col] = to_f32(register[lane], i);
                }
            }
        }
    }

    fn run_integer(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        let byte = |element: Element, value: u32, i: usize| {
            let byte = (value >> (8 * i)) as u8;
            if element == Element::S8 { byte as i8 as i64 } else { byte as i64 }
        };
        let mut acc = [0i64; M * N];
        let mut a_tile = [0i64; M * MAX_K];
        for (r, register) in a.iter().enumerate() {
            for lane in 0..32 {
                let (row, col) = a_position(lane, r, 4);
                (0..4).for_each(|i| a_tile[row * self.k + col + i] = byte(self.a, register[lane], i));
            }
        }
        for (r, register) in b.iter().enumerate() {
            for lane in 0..32 {
                let (k, col) = b_position(lane, r, 4);
                for i in 0..4 {
                    let y = byte(self.b, register[lane], i);
                    (0..M).for_each(|row| acc[row * N + col] += a_tile[row * self.k + k + i] * y);
                }
            }
        }
        for i in 0..4 {
            for lane in 0..32 {
                let sum = acc[accumulator_index(lane, i)] + c[i][lane] as i32 as i64;
                d[i][lane] = if self.saturate {
                    sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32
                } else {
                    sum as u32
                };
            }
        }
    }

    /// Which lanes of D's registers depend on an undefined value: a row with an undefined element of A, a column with
    /// one of B, or the element's own C.
    pub fn poison(&self, a: &[u32], b: &[u32], c: &[u32], d: &mut [u32]) {
        let mut rows = 0u32;
        for (r, mask) in a.iter().enumerate() {
            rows |= groups(*mask) << (8 * (r % 2));
        }
        let cols = b.iter().fold(0, |cols, mask| cols | groups(*mask));
        for (j, out) in d.iter_mut().enumerate() {
            let per = self.d.per_register();
            *out = 0;
            for lane in 0..32u32 {
                let row = lane / 4 + 8 * ((j * per) as u32 / 2);
                let mut bad = rows >> row & 1 != 0;
                for i in j * per..(j + 1) * per {
                    bad |= cols >> (2 * (lane % 4) + (i % 2) as u32) & 1 != 0;
                    bad |= c[i / self.c.per_register()] >> lane & 1 != 0;
                }
                *out |= (bad as u32) << lane;
            }
        }
    }
}

fn usual<const BF16: bool>(a: [&Lanes; 4], b: [&Lanes; 2], c: [&Lanes; 4]) -> [Lanes; 4] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features that the function is compiled for were just detected.
        return unsafe { usual_avx2::<BF16>(a, b, c) };
    }
    usual_plain::<BF16>(a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn usual_avx2<const BF16: bool>(a: [&Lanes; 4], b: [&Lanes; 2], c: [&Lanes; 4]) -> [Lanes; 4] {
    usual_plain::<BF16>(a, b, c)
}

/// m16n8k16 in ascending k with one rounding a product. Four lanes of a register hold eight neighbours of a row.
#[inline(always)]
fn usual_plain<const BF16: bool>(a: [&Lanes; 4], b: [&Lanes; 2], c: [&Lanes; 4]) -> [Lanes; 4] {
    const HALF: usize = M / 2;
    let element = if BF16 { Element::Bf16 } else { Element::F16 };
    let row_of = |register: &Lanes, group: usize| {
        let mut row = [0f32; N];
        for t in 0..4 {
            row[2 * t] = element.to_f32(register[4 * group + t], 0);
            row[2 * t + 1] = element.to_f32(register[4 * group + t], 1);
        }
        row
    };
    let mut a_tile = [[[0f32; N]; 2]; M];
    let mut b_tile = [[0f32; N]; 16];
    for group in 0..8 {
        for (r, register) in a.iter().enumerate() {
            a_tile[group + HALF * (r % 2)][r / 2] = row_of(register, group);
        }
        for (r, register) in b.iter().enumerate() {
            for (k, value) in row_of(register, group).into_iter().enumerate() {
                b_tile[8 * r + k][group] = value;
            }
        }
    }
    let mut d = [[0; 32]; 4];
    for half in 0..2 {
        let mut acc = [[0f32; N]; HALF];
        for (group, sums) in acc.iter_mut().enumerate() {
            for t in 0..4 {
                sums[2 * t] = f32::from_bits(c[2 * half][4 * group + t]);
                sums[2 * t + 1] = f32::from_bits(c[2 * half + 1][4 * group + t]);
            }
        }
        for (k, row) in b_tile.iter().enumerate() {
            for (group, sums) in acc.iter_mut().enumerate() {
                let x = a_tile[HALF * half + group][k / 8][k % 8];
                for n in 0..N {
                    sums[n] = x.mul_add(row[n], sums[n]);
                }
            }
        }
        for (group, sums) in acc.iter().enumerate() {
            for t in 0..4 {
                d[2 * half][4 * group + t] = canonical(sums[2 * t].to_bits());
                d[2 * half + 1][4 * group + t] = canonical(sums[2 * t + 1].to_bits());
            }
        }
    }
    d
}

/// One bit for each group of four lanes in which any lane's bit is set.
#[inline]
fn groups(mask: u32) -> u32 {
    (0..8).fold(0, |out, g| out | (((mask >> (4 * g)) & 15 != 0) as u32) << g)
}

/// Row and first column of A that register `r` of `lane` holds, `e` elements a register.
#[inline(always)]
pub fn a_position(lane: usize, r: usize, e: usize) -> (usize, usize) {
    (lane / 4 + 8 * (r % 2), e * (lane % 4 + 4 * (r / 2)))
}

/// First row and the column of B that register `r` of `lane` holds, `e` elements a register.
#[inline(always)]
pub fn b_position(lane: usize, r: usize, e: usize) -> (usize, usize) {
    (e * (lane % 4 + 4 * r), lane / 4)
}

#[inline(always)]
fn accumulator_index(lane: usize, i: usize) -> usize {
    (lane / 4 + 8 * (i / 2)) * N + 2 * (lane % 4) + i % 2
}

#[inline]
fn canonical(bits: u32) -> u32 {
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits }
}

/// `mma.sync.aligned.m8n8k4` and `.m16n8k4/8/16` with f64 operands; a register is one 64-bit value a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmaF64 {
    m: usize,
    k: usize,
}

impl MmaF64 {
    /// The instruction of this shape, or `None` where PTX has none.
    pub fn new((m, n, k): (usize, usize, usize)) -> Option<MmaF64> {
        matches!((m, n, k), (8, 8, 4) | (16, 8, 4) | (16, 8, 8) | (16, 8, 16)).then_some(MmaF64 { m, k })
    }

    /// 64-bit registers a lane of each matrix.
    pub fn registers(&self) -> Registers {
        let d = self.m * N / 32;
        Registers { a: self.m * self.k / 32, b: N * self.k / 32, c: d, d }
    }

    fn a_at(&self, lane: usize, r: usize) -> (usize, usize) {
        if self.m == 8 { (lane / 4, lane % 4) } else { a_position(lane, r, 1) }
    }

    /// `d = a * b + c`, each product added with one rounding in ascending k.
    pub fn run(&self, a: &[[u64; 32]], b: &[[u64; 32]], c: &[[u64; 32]], d: &mut [[u64; 32]]) {
        let mut a_tile = [0f64; 256];
        let mut b_tile = [0f64; 128];
        for (r, register) in a.iter().enumerate() {
            for lane in 0..32 {
                let (row, col) = self.a_at(lane, r);
                a_tile[row * self.k + col] = f64::from_bits(register[lane]);
            }
        }
        for (r, register) in b.iter().enumerate() {
            for lane in 0..32 {
                let (row, col) = b_position(lane, r, 1);
                b_tile[row * N + col] = f64::from_bits(register[lane]);
            }
        }
        for i in 0..self.registers().d {
            for lane in 0..32 {
                let (row, col) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let mut sum = f64::from_bits(c[i][lane]);
                for k in 0..self.k {
                    sum = a_tile[row * self.k + k].mul_add(b_tile[k * N + col], sum);
                }
                d[i][lane] = sum.to_bits();
            }
        }
    }

    /// Poison of D's registers, as [`Mma::poison`].
    pub fn poison(&self, a: &[u32], b: &[u32], c: &[u32], d: &mut [u32]) {
        let mut rows = 0;
        for (r, mask) in a.iter().enumerate() {
            rows |= groups(*mask) << if self.m == 8 { 0 } else { 8 * (r % 2) };
        }
        let cols = b.iter().fold(0, |cols, mask| cols | groups(*mask));
        for (i, out) in d.iter_mut().enumerate() {
            *out = c[i];
            for lane in 0..32 {
                let bad = rows >> (lane / 4 + 8 * (i / 2)) | cols >> (2 * (lane % 4) + i % 2);
                *out |= (bad & 1) << lane;
            }
        }
    }
}
