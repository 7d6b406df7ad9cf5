//! `wmma` instructions, what `mma.h` makes.

use super::memory::take_space;
use super::program::*;
use super::tensor::shape;
use super::{Decoder, Modifiers, Result};
use crate::exec::matrix::{Mma, MmaKind};
use crate::exec::wmma::{Tile, WmmaOp};
use crate::ptx::ast::*;
use crate::tensor::mma::MmaF64;
use crate::tensor::wmma::{BitOperation, Element, Fragment, Matrix, Wmma};

fn element(word: &str) -> Option<Element> {
    Some(match word {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "f32" => Element::F32,
        "f64" => Element::F64,
        "s8" => Element::S8,
        "u8" => Element::U8,
        "s4" => Element::S4,
        "u4" => Element::U4,
        "b1" => Element::B1,
        "s32" => Element::S32,
        _ => return None,
    })
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn wmma(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        m.take("sync");
        m.take("aligned");
        let Some(shape) = m.find(shape) else { return self.error("wmma without a shape") };
        if m.take("load") {
            self.wmma_transfer(true, shape, m, i)
        } else if m.take("store") {
            self.wmma_transfer(false, shape, m, i)
        } else if m.take("mma") {
            self.wmma_product(shape, m, i)
        } else {
            self.error(format!("unknown instruction `{}`", i.opcode))
        }
    }

    fn wmma_transfer(
        &mut self,
        load: bool,
        shape: (usize, usize, usize),
        m: &mut Modifiers<'a>,
        i: &Instruction<'a>,
    ) -> Result<()> {
        let unknown = format!("unknown instruction `{}`", i.opcode);
        let matrix = m.find(|w| match w {
            "a" if load => Some(Matrix::A),
            "b" if load => Some(Matrix::B),
            "c" if load => Some(Matrix::Accumulator),
            "d" if !load => Some(Matrix::Accumulator),
            _ => None,
        });
        let row_major = m.take("row");
        if !row_major && !m.take("col") {
            return self.error("wmma without .row or .col");
        }
        let space = take_space(m).unwrap_or(Space::Generic);
        let fragment = matrix.zip(m.find(element)).and_then(|(matrix, e)| Fragment::new(matrix, shape, e));
        let Some(fragment) = fragment else { return self.error(unknown) };
        let element = fragment.element();
        // Elements below a byte exist side by side only.
        if element.bits() < 8 && row_major == fragment.is_down() {
            return self.error(unknown);
        }
        let (first, second, stride) = match i.operands.as_slice() {
            [first, second] => (first, second, None),
            [first, second, stride] => (first, second, Some(stride)),
            _ => return self.error("wrong number of operands"),
        };
        let (registers, address) = if load { (first, second) } else { (second, first) };
        let (rows, columns) = fragment.size();
        let stride = match stride {
            Some(stride) => self.source(stride, 32)?,
            None => self.constant(if row_major { columns } else { rows } as u64, false),
        };
        let bits = element.bits().max(32) as u32;
        let tile = Tile {
            fragment,
            address: self.address(address, space)?,
            stride,
            row_major,
            registers: self.slots(registers, fragment.registers(), bits, load)?,
            scratch: (0..element.per_register()).map(|_| self.temporary(false)).collect(),
        };
        let op = if load { WmmaOp::Load(tile) } else { WmmaOp::Store(tile) };
        self.emit(Op::Wmma(Box::new(op)), Class::Memory);
        Ok(())
    }

    fn wmma_product(
        &mut self,
        shape: (usize, usize, usize),
        m: &mut Modifiers<'a>,
        i: &Instruction<'a>,
    ) -> Result<()> {
        let unknown = format!("unknown instruction `{}`", i.opcode);
        // The layouts of A and B matter to the loads alone.
        for _ in 0..2 {
            let _ = m.take("row") || m.take("col");
        }
        let bits = m.find(|w| match w {
            "xor" => Some(BitOperation::Xor),
            "and" => Some(BitOperation::And),
            _ => None,
        });
        if bits.is_some() && !m.take("popc") {
            return self.error(unknown);
        }
        let saturate = m.take("satfinite");
        let [d, a, b, c] = self.operands(i)?;
        let mut types = Vec::new();
        while let Some(element) = m.find(element) {
            types.push(element);
        }
        // D, A, B, C; of f16 products only those of the accumulators.
        let types = match types[..] {
            [d, c] => [Element::F16, Element::F16, c, d],
            [d, a, b, c] => [a, b, c, d],
            _ => return self.error(unknown),
        };
        if types == [Element::F64; 4] {
            m.take("rn");
            let Some(kind) = MmaF64::new(shape).filter(|_| shape == (8, 8, 4)) else {
                return self.error(unknown);
            };
            let n = kind.registers();
            let op = Mma {
                kind: MmaKind::F64(kind),
                a: self.slots(a, n.a, 64, false)?,
                b: self.slots(b, n.b, 64, false)?,
                c: self.slots(c, n.c, 64, false)?,
                d: self.slots(d, n.d, 64, true)?,
            };
            self.emit(Op::Mma(Box::new(op)), Class::Tensor);
            return Ok(());
        }
        let Some(kind) = Wmma::new(shape, types, saturate, bits) else { return self.error(unknown) };
        let [fa, fb, fc, fd] = kind.fragments().map(|f| f.registers());
        let op = WmmaOp::Product {
            kind,
            a: self.slots(a, fa, 32, false)?,
            b: self.slots(b, fb, 32, false)?,
            c: self.slots(c, fc, 32, false)?,
            d: self.slots(d, fd, 32, true)?,
        };
        self.emit(Op::Wmma(Box::new(op)), Class::Tensor);
        Ok(())
    }
}
