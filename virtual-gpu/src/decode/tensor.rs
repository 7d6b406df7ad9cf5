//! `ldmatrix`, `stmatrix`, `movmatrix` and `mma.sync`.

use super::program::*;
use super::{Decoder, Modifiers, Result};
use crate::exec::matrix::{Ldmatrix, Mma, MmaKind};
use crate::ptx::ast::*;
use crate::registers::*;
use crate::tensor::element::{Accumulator, Element};
use crate::tensor::mma;

pub(super) fn element(word: &str) -> Option<Element> {
    Some(match word {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        "s8" => Element::S8,
        "u8" => Element::U8,
        _ => return None,
    })
}

pub(super) fn accumulator(word: &str) -> Option<Accumulator> {
    Some(match word {
        "f32" => Accumulator::F32,
        "f16" => Accumulator::F16,
        "s32" => Accumulator::S32,
        _ => return None,
    })
}

/// `m16n8k16` as three numbers.
pub(super) fn shape(word: &str) -> Option<(usize, usize, usize)> {
    let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

impl<'a> Decoder<'_, 'a> {
    /// Matrix instructions of a warp; false if the name is none of them.
    pub(super) fn tensor(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<bool> {
        match name {
            "ldmatrix" | "stmatrix" => {
                m.take("sync");
                m.take("aligned");
                if !m.take("m8n8") {
                    return self.error("only 8x8 matrices of b16 are supported");
                }
                let count = m
                    .find(|w| match w {
                        "x1" => Some(1usize),
                        "x2" => Some(2),
                        "x4" => Some(4),
                        _ => None,
                    })
                    .unwrap_or(1);
                let trans = m.take("trans");
                let shared = m.take("shared") || m.take("shared::cta");
                if !m.take("b16") {
                    return self.error("only 8x8 matrices of b16 are supported");
                }
                let store = name == "stmatrix";
                let [x, y] = self.operands(i)?;
                let (registers, address) = if store { (y, x) } else { (x, y) };
                let space = if shared { Space::Shared } else { Space::Generic };
                let address = self.address(address, space)?;
                let parts = match registers {
                    Operand::Vector(parts) => parts.as_slice(),
                    single => std::slice::from_ref(single),
                };
                if parts.len() != count {
                    return self.error("vector of another length than the instruction says");
                }
                let mut registers = [SINK; 4];
                for (to, part) in registers.iter_mut().zip(parts) {
                    *to = if store { self.source(part, 32)? } else { self.destination(part, 32)? };
                }
                let op = Ldmatrix { store, trans, count, registers, address };
                self.emit(Op::Ldmatrix(Box::new(op)), Class::Tensor);
            }
            "movmatrix" => {
                for word in ["sync", "aligned", "m8n8", "trans", "b16"] {
                    m.take(word);
                }
                let [d, a] = self.operands(i)?;
                let (d, a) = (self.destination(d, 32)?, self.source(a, 32)?);
                let op = Mma { kind: MmaKind::Transpose, a: vec![a], b: vec![], c: vec![], d: vec![d] };
                self.emit(Op::Mma(Box::new(op)), Class::Tensor);
            }
            "mma" => self.mma(m, i)?,
            "wmma" => self.wmma(m, i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mma(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        m.take("sync");
        m.take("aligned");
        m.take("row");
        m.take("col");
        let saturate = m.take("satfinite");
        let Some(shape) = m.find(shape) else { return self.error("mma without a shape") };
        let [d, a, b, c] = self.operands(i)?;
        let unsupported = format!("unknown instruction `{}`", i.opcode);
        if m.take("f64") {
            m.take("f64");
            m.take("f64");
            m.take("f64");
            m.take("rn");
            let Some(op) = mma::MmaF64::new(shape) else { return self.error(unsupported) };
            let n = op.registers();
            let op = Mma {
                kind: MmaKind::F64(op),
                a: self.slots(a, n.a, 64, false)?,
                b: self.slots(b, n.b, 64, false)?,
                c: self.slots(c, n.c, 64, false)?,
                d: self.slots(d, n.d, 64, true)?,
            };
            self.emit(Op::Mma(Box::new(op)), Class::Tensor);
            return Ok(());
        }
        // D, A, B, C in this order.
        let (Some(dt), Some(at), Some(bt), Some(ct)) =
            (m.find(accumulator), m.find(element), m.find(element), m.find(accumulator))
        else {
            return self.error(unsupported);
        };
        let Some(op) = mma::Mma::new(shape, (at, bt), (ct, dt), saturate) else {
            return self.error(unsupported);
        };
        let n = op.registers();
        let op = Mma {
            kind: MmaKind::Mma(op),
            a: self.slots(a, n.a, 32, false)?,
            b: self.slots(b, n.b, 32, false)?,
            c: self.slots(c, n.c, 32, false)?,
            d: self.slots(d, n.d, 32, true)?,
        };
        self.emit(Op::Mma(Box::new(op)), Class::Tensor);
        Ok(())
    }

    /// The registers of a vector operand of known length.
    pub(super) fn slots(
        &mut self,
        operand: &Operand<'a>,
        count: usize,
        bits: u32,
        write: bool,
    ) -> Result<Vec<Slot>> {
        let parts = match operand {
            Operand::Vector(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        if parts.len() != count {
            return self.error(format!("{} registers, expected {count}", parts.len()));
        }
        parts.iter().map(|p| if write { self.destination(p, bits) } else { self.source(p, bits) }).collect()
    }
}
