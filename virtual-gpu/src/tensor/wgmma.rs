//! `wgmma.mma_async.sync.aligned.m64nNkK` (PTX ISA 9.7.15): operands, accumulator fragments and the product.
//!
//! The caller reads the operands' bytes (see [`super::descriptor::Descriptor::chunks`]) and registers; nothing here
//! knows memory. Of a warpgroup's 128 threads, warp `w` holds rows `16 w` to `16 w + 15`:
//!
//! * accumulator element `i` of a lane: row `16 w + lane / 4 + 8 (i / 2 mod 2)`, column `8 (i / 4) + 2 (lane mod 4) +
//!   i mod 2`; f32 and s32 one a register, f16 two;
//! * A in registers: register `r` holds row `16 w + lane / 4 + 8 (r mod 2)`, and `e` elements of k from
//!   `e (lane mod 4 + 4 (r / 2))`, as in `mma.sync`.

use super::Lanes;
use super::descriptor::{Chunk, Major};
use super::element::{Accumulator, Element};
use super::mma::a_position;
use super::product::multiply;
use crate::numeric::convert::{f16_to_f32, f32_to_f16_rn};

/// Rows of the product.
pub const M: usize = 64;

/// A decoded `wgmma.mma_async.sync.aligned.m64nNkK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wgmma {
    n: usize,
    a: Element,
    b: Element,
    d: Accumulator,
}

impl Wgmma {
    /// The instruction of these types, or `None` where PTX has none.
    pub fn new(n: usize, a: Element, b: Element, d: Accumulator) -> Option<Wgmma> {
        use Element::*;
        let operands = match a {
            S8 | U8 => b.is_integer(),
            E4m3 | E5m2 => matches!(b, E4m3 | E5m2),
            _ => a == b,
        };
        let sums = match a {
            S8 | U8 => d == Accumulator::S32,
            Bf16 | Tf32 => d == Accumulator::F32,
            _ => d != Accumulator::S32,
        };
        // Integer products have every multiple of 8 up to 32 and of 16 beyond.
        let columns = n.is_multiple_of(8)
            && (8..=256).contains(&n)
            && !(a.is_integer() && n > 32 && !n.is_multiple_of(16));
        (operands && sums && columns).then_some(Wgmma { n, a, b, d })
    }

    /// Columns of the product.
    pub fn n(&self) -> usize {
        self.n
    }
    /// K of one instruction: 32 bytes.
    pub fn k(&self) -> usize {
        32 / self.a.bytes()
    }
    /// Type of A's elements.
    pub fn a(&self) -> Element {
        self.a
    }
    /// Type of B's elements.
    pub fn b(&self) -> Element {
        self.b
    }
    /// Type of the accumulator.
    pub fn d(&self) -> Accumulator {
        self.d
    }
    /// Accumulator registers a lane.
    pub fn accumulator_registers(&self) -> usize {
        self.n / 2 / self.d.per_register()
    }
    /// Multiply-accumulates of one instruction.
    pub fn macs(&self) -> usize {
        M * self.n * self.k()
    }
}

/// A or B of one instruction as f32 (integers are exact in it), with one poison bit a row of A or a column of B.
#[derive(Clone, Debug)]
pub struct Operand {
    element: Element,
    rows: usize,
    k: usize,
    is_a: bool,
    /// A: `[rows][k]`. B: `[k][rows]`, so that the product's inner loop is contiguous.
    values: Vec<f32>,
    poison: Vec<bool>,
}

impl Operand {
    /// An empty A of `shape`.
    pub fn a(shape: &Wgmma) -> Operand {
        Operand::new(shape.a, M, shape.k(), true)
    }
    /// An empty B of `shape`.
    pub fn b(shape: &Wgmma) -> Operand {
        Operand::new(shape.b, shape.n, shape.k(), false)
    }
    fn new(element: Element, rows: usize, k: usize, is_a: bool) -> Operand {
        Operand { element, rows, k, is_a, values: vec![0.0; rows * k], poison: vec![false; rows] }
    }
    /// Rows of A, or columns of B.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Elements along k.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Type of the elements.
    pub fn element(&self) -> Element {
        self.element
    }

    #[inline(always)]
    fn put(&mut self, row: usize, k: usize, value: f32) {
        let at = if self.is_a { row * self.k + k } else { k * self.rows + row };
        self.values[at] = value;
    }

    /// Puts 16 bytes of shared memory in their place. `undefined` has a bit for each undefined byte.
    #[inline]
    pub fn load_chunk(&mut self, chunk: Chunk, major: Major, bytes: &[u8; 16], undefined: u16) {
        match self.element {
            Element::F16 => self.load_chunk_as(Element::F16, chunk, major, bytes),
            Element::Bf16 => self.load_chunk_as(Element::Bf16, chunk, major, bytes),
            Element::Tf32 => self.load_chunk_as(Element::Tf32, chunk, major, bytes),
            element => self.load_chunk_as(element, chunk, major, bytes),
        }
        if undefined != 0 {
            let size = self.element.bytes();
            for i in 0..16 / size {
                if undefined >> (i * size) & ((1 << size) - 1) != 0 {
                    self.poison[chunk.row + if major == Major::K { 0 } else { i }] = true;
                }
            }
        }
    }

    #[inline(always)]
    fn load_chunk_as(&mut self, element: Element, chunk: Chunk, major: Major, bytes: &[u8; 16]) {
        let per = element.per_register();
        // Along the contiguous dimension of `values`.
        if (major == Major::K) == self.is_a {
            let at = if self.is_a { chunk.row * self.k + chunk.k } else { chunk.k * self.rows + chunk.row };
            for (word, to) in self.values[at..at + 4 * per].chunks_exact_mut(per).enumerate() {
                let register = u32::from_le_bytes(bytes[4 * word..4 * word + 4].try_into().expect("4 bytes"));
                for (i, to) in to.iter_mut().enumerate() {
                    *to = element.to_f32(register, i);
                }
            }
            return;
        }
        for word in 0..4 {
            let register = u32::from_le_bytes(bytes[4 * word..4 * word + 4].try_into().expect("4 bytes"));
            for i in 0..per {
                let along = word * per + i;
                let (row, k) = match major {
                    Major::K => (chunk.row, chunk.k + along),
                    Major::Mn => (chunk.row + along, chunk.k),
                };
                self.put(row, k, element.to_f32(register, i));
            }
        }
    }

    /// Puts register `r` (0 to 3) of warp `warp` (0 to 3) of an A in registers in its place; `poison` has a bit for each
    /// lane that holds an undefined value.
    pub fn load_register(&mut self, warp: usize, r: usize, register: &Lanes, poison: u32) {
        let e = self.element.per_register();
        for lane in 0..32 {
            let (row, k) = a_position(lane, r, e);
            for i in 0..e {
                self.put(16 * warp + row, k + i, self.element.to_f32(register[lane], i));
            }
            self.poison[16 * warp + row] |= poison >> lane & 1 != 0;
        }
    }

    /// Flips the signs (`imm-scale-a` or `-b` of -1).
    pub fn negate(&mut self) {
        self.values.iter_mut().for_each(|v| *v = -*v);
    }
}

/// The accumulators of a warpgroup as a dense tile, with poison by element.
#[derive(Clone, Debug)]
pub struct Tile {
    d: Accumulator,
    n: usize,
    values: Vec<f32>,
    /// s32 accumulators, used instead of `values`.
    integers: Vec<i32>,
    /// Empty until something is undefined.
    poison: Vec<bool>,
}

impl Tile {
    /// A tile of zeros: what `scale-d` = 0 starts from.
    pub fn zeros(shape: &Wgmma) -> Tile {
        let (floats, integers) =
            if shape.d == Accumulator::S32 { (0, M * shape.n) } else { (M * shape.n, 0) };
        Tile {
            d: shape.d,
            n: shape.n,
            values: vec![0.0; floats],
            integers: vec![0; integers],
            poison: Vec::new(),
        }
    }

    #[inline(always)]
    fn at(&self, warp: usize, lane: usize, i: usize) -> usize {
        (16 * warp + lane / 4 + 8 * (i / 2 % 2)) * self.n + 8 * (i / 4) + 2 * (lane % 4) + i % 2
    }

    /// Puts all accumulator registers of warp `warp` in their places, with their poison.
    pub fn load_registers<'r>(&mut self, warp: usize, register: impl Fn(usize) -> (&'r Lanes, u32)) {
        let count = M * self.n / 128 / self.d.per_register();
        let f32s = self.d == Accumulator::F32;
        let clean = f32s && (0..count).all(|j| register(j).1 == 0);
        if !clean {
            for j in 0..count {
                let (values, poison) = register(j);
                self.load_register(warp, j, values, poison);
            }
            return;
        }
        for j in (0..count).step_by(2) {
            let (even, odd) = (register(j).0, register(j + 1).0);
            for group in 0..8 {
                let at = (16 * warp + group + 8 * (j / 2 % 2)) * self.n + 8 * (j / 4);
                let row: &mut [f32; 8] = (&mut self.values[at..at + 8]).try_into().expect("8 columns");
                for t in 0..4 {
                    row[2 * t] = f32::from_bits(even[4 * group + t]);
                    row[2 * t + 1] = f32::from_bits(odd[4 * group + t]);
                }
            }
        }
    }

    /// All accumulator registers of warp `warp`, in ascending order, with the lanes of each that are undefined.
    pub fn store_registers(&self, warp: usize, mut register: impl FnMut(usize, &Lanes, u32)) {
        let count = M * self.n / 128 / self.d.per_register();
        if self.d != Accumulator::F32 || !self.poison.is_empty() {
            for j in 0..count {
                let (values, poison) = self.store_register(warp, j);
                register(j, &values, poison);
            }
            return;
        }
        for j in (0..count).step_by(2) {
            let (mut even, mut odd) = ([0; 32], [0; 32]);
            for group in 0..8 {
                let at = (16 * warp + group + 8 * (j / 2 % 2)) * self.n + 8 * (j / 4);
                let row: &[f32; 8] = self.values[at..at + 8].try_into().expect("8 columns");
                for t in 0..4 {
                    even[4 * group + t] = canonical(row[2 * t]);
                    odd[4 * group + t] = canonical(row[2 * t + 1]);
                }
            }
            register(j, &even, 0);
            register(j + 1, &odd, 0);
        }
    }

    /// Puts accumulator register `j` of warp `warp` in its place; `poison` as everywhere.
    #[inline]
    pub fn load_register(&mut self, warp: usize, j: usize, register: &Lanes, poison: u32) {
        let per = self.d.per_register();
        for lane in 0..32 {
            for i in 0..per {
                let at = self.at(warp, lane, j * per + i);
                match self.d {
                    Accumulator::F32 => self.values[at] = f32::from_bits(register[lane]),
                    Accumulator::F16 => self.values[at] = f16_to_f32((register[lane] >> (16 * i)) as u16),
                    Accumulator::S32 => self.integers[at] = register[lane] as i32,
                }
            }
        }
        if poison != 0 {
            self.poison.resize(M * self.n, false);
            for lane in (0..32).filter(|lane| poison >> lane & 1 != 0) {
                for i in 0..per {
                    let at = self.at(warp, lane, j * per + i);
                    self.poison[at] = true;
                }
            }
        }
    }

    /// Accumulator register `j` of warp `warp`, and the lanes of it that are undefined.
    #[inline]
    pub fn store_register(&self, warp: usize, j: usize) -> (Lanes, u32) {
        let per = self.d.per_register();
        let mut register = [0; 32];
        let mut poison = 0;
        for (lane, out) in register.iter_mut().enumerate() {
            let at = self.at(warp, lane, j * per);
            *out = match self.d {
                Accumulator::F32 => canonical(self.values[at]),
                Accumulator::F16 => {
                    let half = |at: usize| f32_to_f16_rn(self.values[at].to_bits()) as u32;
                    half(at) | half(at + 1) << 16
                }
                Accumulator::S32 => self.integers[at] as u32,
            };
            if !self.poison.is_empty() {
                poison |= (self.poison[at..at + per].contains(&true) as u32) << lane;
            }
        }
        (register, poison)
    }

    /// Adds `a * b`. An undefined row of A or column of B makes its row or column of the tile undefined. `saturate` is
    /// `.satfinite` of integer products.
    pub fn multiply(&mut self, a: &Operand, b: &Operand, saturate: bool) {
        assert!(a.is_a && !b.is_a && a.k == b.k && b.rows == self.n, "operands of another shape");
        if self.d == Accumulator::S32 {
            self.multiply_integers(a, b, saturate);
        } else {
            multiply(M, self.n, a.k, &a.values, &b.values, &mut self.values);
        }
        if a.poison.contains(&true) || b.poison.contains(&true) {
            self.poison.resize(M * self.n, false);
            for (row, line) in self.poison.chunks_mut(self.n).enumerate() {
                for (bad, col) in line.iter_mut().zip(&b.poison) {
                    *bad |= a.poison[row] | col;
                }
            }
        }
    }

    fn multiply_integers(&mut self, a: &Operand, b: &Operand, saturate: bool) {
        // 32 products of 8-bit values are below 2^21, exact in f32.
        let mut sums = vec![0f32; M * self.n];
        multiply(M, self.n, a.k, &a.values, &b.values, &mut sums);
        for (total, sum) in self.integers.iter_mut().zip(sums) {
            let sum = sum as i32;
            *total = if saturate { total.saturating_add(sum) } else { total.wrapping_add(sum) };
        }
    }
}

#[inline]
fn canonical(value: f32) -> u32 {
    if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
}
