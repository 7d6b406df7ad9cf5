//! `wmma.load`, `wmma.mma` and `wmma.store` (PTX ISA 9.7.14.4).
//!
//! PTX leaves open which lane holds what of a fragment, so that a correct program only sees it as a whole. Here it is
//! what mma.sync has, of which a chip makes it. With `group = lane / 4` and `tid = lane % 4`, and `e` elements in a
//! 32-bit register:
//!
//! * A (m x k), for each 16 rows: register `r` holds row `group + 8 (r mod 2)`, columns `e (tid + 4 (r / 2)) + 0..e`;
//!   of 8 rows only: row `group`, columns `e (tid + 4 r) + 0..e`;
//! * B (k x n): as A, with rows and columns swapped;
//! * C and D (m x n), for each 16 x 8 (or 8 x 8): element `i` is row `group + 8 (i / 2)`, column `2 tid + i mod 2`; f16
//!   packs two a register;
//! * a fragment with more registers than that (f16 A and B) holds the same several times.

use super::Lanes;
use super::product::multiply;
use crate::numeric::convert::{bf16_to_f32, f16_to_f32, f32_to_f16_rn, tf32_to_f32};

const MAX_SIDE: usize = 32;
const MAX_K: usize = 128;

/// The type of an element of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 19-bit float in 32 bits; the low 13 bits are ignored.
    Tf32,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// Signed 8-bit integer.
    S8,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 4-bit integer.
    S4,
    /// Unsigned 4-bit integer.
    U4,
    /// One bit.
    B1,
    /// Signed 32-bit integer.
    S32,
}
use Element::*;

impl Element {
    /// Size of an element in bits.
    pub fn bits(self) -> usize {
        match self {
            F64 => 64,
            Tf32 | F32 | S32 => 32,
            F16 | Bf16 => 16,
            S8 | U8 => 8,
            S4 | U4 => 4,
            B1 => 1,
        }
    }

    /// Elements of a register, which has 64 bits for f64 and 32 for all others.
    pub fn per_register(self) -> usize {
        (32 / self.bits()).max(1)
    }

    fn to_f32(self, register: u32, index: usize) -> f32 {
        let half = (register >> (16 * (index & 1))) as u16;
        match self {
            F16 => f16_to_f32(half),
            Bf16 => bf16_to_f32(half),
            Tf32 => tf32_to_f32(register),
            _ => f32::from_bits(register),
        }
    }

    fn to_i64(self, register: u32, index: usize) -> i64 {
        let bits = self.bits() as u32;
        let unused = 32 - bits;
        let value = register >> (bits * index as u32) << unused;
        if matches!(self, S8 | S4 | S32) {
            i64::from(value as i32 >> unused)
        } else {
            i64::from(value >> unused)
        }
    }
}

/// Which matrix a fragment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// m x k.
    A,
    /// k x n.
    B,
    /// m x n, C or D.
    Accumulator,
}

/// A warp's part of the work: 32 lanes' registers that hold one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    matrix: Matrix,
    m: usize,
    n: usize,
    k: usize,
    element: Element,
}

impl Fragment {
    /// The fragment of this shape (m, n, k) and type, or `None` where PTX has none.
    pub fn new(matrix: Matrix, (m, n, k): (usize, usize, usize), element: Element) -> Option<Fragment> {
        let accumulates = matrix == Matrix::Accumulator;
        let known = match (m, n, k) {
            (16, 16, 16) | (32, 8, 16) | (8, 32, 16) => match element {
                F16 => true,
                F32 | S32 => accumulates,
                Bf16 | S8 | U8 => !accumulates,
                _ => false,
            },
            (16, 16, 8) => element == if accumulates { F32 } else { Tf32 },
            (8, 8, 4) => element == F64,
            (8, 8, 32) => accumulates && element == S32 || !accumulates && matches!(element, S4 | U4),
            (8, 8, 128) => element == if accumulates { S32 } else { B1 },
            _ => false,
        };
        known.then_some(Fragment { matrix, m, n, k, element })
    }

    /// Type of its elements.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Which matrix it is of.
    pub fn matrix(&self) -> Matrix {
        self.matrix
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        match self.matrix {
            Matrix::A => (self.m, self.k),
            Matrix::B => (self.k, self.n),
            Matrix::Accumulator => (self.m, self.n),
        }
    }

    /// Registers of a lane that hold different elements.
    pub fn distinct(&self) -> usize {
        let (rows, columns) = self.size();
        rows * columns / 32 / self.element.per_register()
    }

    /// Registers of a lane; those behind the distinct ones repeat them.
    pub fn registers(&self) -> usize {
        if self.element == F16 && self.matrix != Matrix::Accumulator { 8 } else { self.distinct() }
    }

    /// Bytes of a lane's registers.
    pub fn bytes(&self) -> usize {
        self.registers() * self.element.bits().max(32) / 8
    }

    /// Whether the elements of a register stand in one column, not in one row.
    pub fn is_down(&self) -> bool {
        self.matrix == Matrix::B
    }

    /// Row and column of the first element of a lane's register.
    pub fn position(&self, lane: usize, register: usize) -> (usize, usize) {
        let (group, tid) = (lane / 4, lane % 4);
        let per = self.element.per_register();
        if self.matrix == Matrix::Accumulator {
            let i = register * per;
            if self.m == 8 {
                return (group, 8 * (i / 2) + 2 * tid + i % 2);
            }
            let (tile, i) = (i / 4, i % 4);
            let (tile_row, tile_column) = (tile % (self.m / 16), tile / (self.m / 16));
            return (16 * tile_row + group + 8 * (i / 2), 8 * tile_column + 2 * tid + i % 2);
        }
        // `side` counts rows of A or columns of B.
        let (side, k) = if self.matrix == Matrix::A {
            let r = register % (16 * self.k / 32 / per).max(1);
            match self.m {
                8 => (group, per * (tid + 4 * register)),
                _ => {
                    let tile = register / (16 * self.k / 32 / per);
                    (16 * tile + group + 8 * (r % 2), per * (tid + 4 * (r / 2)))
                }
            }
        } else {
            let in_tile = (8 * self.k / 32 / per).max(1);
            (8 * (register / in_tile) + group, per * (tid + 4 * (register % in_tile)))
        };
        if self.matrix == Matrix::A { (side, k) } else { (k, side) }
    }

    /// Calls `visit` with row, column, lane, register and index in it of every element, once.
    fn each(&self, mut visit: impl FnMut(usize, usize, usize, usize, usize)) {
        for register in 0..self.distinct() {
            for lane in 0..32 {
                let (row, column) = self.position(lane, register);
                for i in 0..self.element.per_register() {
                    let (row, column) = if self.is_down() { (row + i, column) } else { (row, column + i) };
                    visit(row, column, lane, register, i);
                }
            }
        }
    }
}

/// How products are made of single bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BitOperation {
    /// Bits that differ are counted.
    Xor,
    /// Bits set in both are counted.
    And,
}

/// A decoded `wmma.mma` of elements of at most 32 bits; with f64 it is `mma.sync.m8n8k4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wmma {
    /// The fragments, D last.
    fragments: [Fragment; 4],
    saturate: bool,
    bits: BitOperation,
}

impl Wmma {
    /// The instruction of this shape and these types (A, B, C, D), or `None` where PTX has none. `saturate` is
    /// `.satfinite` (integers only); `bits` is for [`Element::B1`].
    pub fn new(
        shape: (usize, usize, usize),
        [a, b, c, d]: [Element; 4],
        saturate: bool,
        bits: Option<BitOperation>,
    ) -> Option<Wmma> {
        let sums = match a {
            F16 => matches!(c, F16 | F32) && matches!(d, F16 | F32),
            Bf16 | Tf32 => (c, d) == (F32, F32),
            S8 | U8 | S4 | U4 | B1 => (c, d) == (S32, S32),
            _ => false,
        };
        let known = a == b && sums && (a == B1) == bits.is_some();
        if !known || saturate && !matches!(a, S8 | U8 | S4 | U4) {
            return None;
        }
        let fragments = [
            Fragment::new(Matrix::A, shape, a)?,
            Fragment::new(Matrix::B, shape, b)?,
            Fragment::new(Matrix::Accumulator, shape, c)?,
            Fragment::new(Matrix::Accumulator, shape, d)?,
        ];
        Some(Wmma { fragments, saturate, bits: bits.unwrap_or(BitOperation::Xor) })
    }

    /// The fragments of A, B, C and D.
    pub fn fragments(&self) -> &[Fragment; 4] {
        &self.fragments
    }

    /// Multiply-accumulates of one instruction.
    pub fn macs(&self) -> usize {
        let f = &self.fragments[0];
        f.m * f.n * f.k
    }

    /// `d = a * b + c`. The slices hold at least the distinct registers of each fragment; those of D are written.
    pub fn run(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        let [fa, fb, fc, fd] = &self.fragments;
        let (n, k) = (fa.n, fa.k);
        if fc.element == S32 {
            return self.run_integer(a, b, c, d);
        }
        let mut a_tile = [0f32; MAX_SIDE * 16];
        let mut b_tile = [0f32; 16 * MAX_SIDE];
        let mut sums = [0f32; 256];
        fa.each(|row, column, lane, r, i| a_tile[row * k + column] = fa.element.to_f32(a[r][lane], i));
        fb.each(|row, column, lane, r, i| b_tile[row * n + column] = fb.element.to_f32(b[r][lane], i));
        fc.each(|row, column, lane, r, i| sums[row * n + column] = fc.element.to_f32(c[r][lane], i));
        multiply(fa.m, n, k, &a_tile, &b_tile, &mut sums);
        fd.each(|row, column, lane, r, i| {
            let bits = sums[row * n + column].to_bits();
            let register = &mut d[r][lane];
            *register = match (fd.element, i) {
                (F16, 0) => f32_to_f16_rn(bits).into(),
                (F16, _) => *register & 0xffff | u32::from(f32_to_f16_rn(bits)) << 16,
                _ if bits & 0x7fff_ffff > 0x7f80_0000 => 0x7fff_ffff,
                _ => bits,
            };
        });
    }

    fn run_integer(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        let [fa, fb, fc, fd] = &self.fragments;
        let (n, k) = (fa.n, fa.k);
        let mut a_tile = [0i64; 8 * MAX_K];
        let mut b_tile = [0i64; MAX_K * 8];
        let mut sums = [0i64; 256];
        fa.each(|row, column, lane, r, i| a_tile[row * k + column] = fa.element.to_i64(a[r][lane], i));
        fb.each(|row, column, lane, r, i| b_tile[row * n + column] = fb.element.to_i64(b[r][lane], i));
        fc.each(|row, column, lane, r, _| sums[row * n + column] = fc.element.to_i64(c[r][lane], 0));
        for (at, sum) in sums[..fa.m * n].iter_mut().enumerate() {
            let (row, column) = (at / n, at % n);
            *sum += (0..k)
                .map(|i| match (fa.element, a_tile[row * k + i], b_tile[i * n + column]) {
                    (B1, x, y) if self.bits == BitOperation::Xor => x ^ y,
                    (_, x, y) => x * y,
                })
                .sum::<i64>();
        }
        fd.each(|row, column, lane, r, _| {
            let sum = sums[row * n + column];
            let kept = if self.saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum };
            d[r][lane] = kept as u32;
        });
    }

    /// Which lanes of D's distinct registers depend on an undefined value: a row with an undefined element of A, a
    /// column with one of B, or the element's own C.
    pub fn poison(&self, a: &[u32], b: &[u32], c: &[u32], d: &mut [u32]) {
        let [fa, fb, fc, fd] = &self.fragments;
        let mut bad = [[false; MAX_SIDE]; MAX_SIDE];
        let (m, n) = (fa.m, fa.n);
        let is_bad = |masks: &[u32], lane: usize, r: usize| masks[r] >> lane & 1 != 0;
        fa.each(|row, _, lane, r, _| {
            if is_bad(a, lane, r) {
                bad[row][..n].fill(true);
            }
        });
        fb.each(|_, column, lane, r, _| {
            if is_bad(b, lane, r) {
                bad[..m].iter_mut().for_each(|row| row[column] = true);
            }
        });
        fc.each(|row, column, lane, r, _| bad[row][column] |= is_bad(c, lane, r));
        d.fill(0);
        fd.each(|row, column, lane, r, _| d[r] |= u32::from(bad[row][column]) << lane);
    }
}
