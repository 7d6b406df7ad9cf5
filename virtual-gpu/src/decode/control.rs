//! Branches, calls, barriers and warp-wide operations.

use super::program::*;
use super::{Decoder, Fixup, Modifiers, Result};
use crate::ptx::ast::*;
use crate::registers::*;

impl<'a> Decoder<'_, 'a> {
    /// Control and warp-wide instructions; false if the name is none of them.
    pub(super) fn control(
        &mut self,
        name: &str,
        m: &mut Modifiers<'a>,
        i: &Instruction<'a>,
        block: usize,
        fixups: &mut Vec<Fixup>,
    ) -> Result<bool> {
        match name {
            "bra" | "brx" => {
                m.take("uni");
                let indexed = m.take("idx");
                let (index, label) = match (name, i.operands.as_slice()) {
                    ("bra", [Operand::Name(label, 0)]) => (None, *label),
                    ("brx", [index, Operand::Name(label, 0)]) if indexed => {
                        (Some(self.source(index, 32)?), *label)
                    }
                    _ => return self.error("branch needs a label"),
                };
                let at = self.program.code.len();
                fixups.push(Fixup { at, block, label: label.to_string(), position: i.position });
                self.emit(
                    match index {
                        None => Op::Branch { target: 0 },
                        Some(index) => Op::BranchIndexed { index, targets: Box::new([]) },
                    },
                    Class::Control,
                );
            }
            "call" => self.call(m, i)?,
            "ret" => {
                m.take("uni");
                self.emit(Op::Return, Class::Control);
            }
            "alloca" => {
                if self.need_type(m)?.bits() != 64 {
                    return self.error("only 64-bit stack pointers are supported");
                }
                let (d, size, align) = match i.operands.as_slice() {
                    [d, size] => (d, size, 8),
                    [d, size, Operand::Integer(align)] => (d, size, *align),
                    _ => return self.error("alloca needs a destination, a size and a constant alignment"),
                };
                if !align.is_power_of_two() || align > 1 << 16 {
                    return self.error(format!("alignment {align} is no power of two"));
                }
                let (d, size) = (self.destination(d, 64)?, self.source(size, 64)?);
                self.emit(Op::StackAllocate { d, size, align: align as u32 }, Class::Control);
            }
            "stacksave" | "stackrestore" => {
                if self.need_type(m)?.bits() != 64 {
                    return self.error("only 64-bit stack pointers are supported");
                }
                let [operand] = self.operands(i)?;
                let op = match name {
                    "stacksave" => Op::StackSave { d: self.destination(operand, 64)? },
                    _ => Op::StackRestore { a: self.source(operand, 64)? },
                };
                self.emit(op, Class::Control);
            }
            "exit" => self.emit(Op::Exit, Class::Control),
            "trap" => self.emit(Op::Trap { breakpoint: false }, Class::Control),
            "brkpt" => self.emit(Op::Trap { breakpoint: true }, Class::Control),
            "nanosleep" => {
                m.take("u32");
                self.emit(Op::Nop, Class::Control);
            }
            "pmevent" => {
                m.take("mask");
                self.emit(Op::Nop, Class::Control);
            }
            "bar" | "barrier" if m.has("cluster") => return Ok(false),
            "bar" if m.take("warp") => {
                m.take("sync");
                let [members] = self.operands(i)?;
                let members = self.source(members, 32)?;
                self.emit(Op::WarpSync { members }, Class::Sync);
            }
            "bar" | "barrier" => self.barrier(name, m, i)?,
            "shfl" => self.shuffle(m, i)?,
            "vote" => {
                m.take("sync");
                let Some(mode) = m.find(|w| {
                    Some(match w {
                        "all" => VoteMode::All,
                        "any" => VoteMode::Any,
                        "uni" => VoteMode::Uni,
                        "ballot" => VoteMode::Ballot,
                        _ => return None,
                    })
                }) else {
                    return self.error("vote without a mode");
                };
                self.need_type(m)?;
                let [d, p, members] = self.operands(i)?;
                let (p, members) = (self.pred_source(p)?, self.source(members, 32)?);
                let d = if mode == VoteMode::Ballot {
                    Self::reg(self.destination(d, 32)?, 32)
                } else {
                    Reg { slot: self.pred_destination(d)?, width: Width::Pred }
                };
                self.emit(Op::Vote { mode, d, p, members }, Class::Warp);
            }
            "match" => {
                let all = m.take("all");
                m.take("any");
                m.take("sync");
                let bits = self.need_type(m)?.bits();
                let [d, a, members] = self.operands(i)?;
                let (a, members) = (self.source(a, bits)?, self.source(members, 32)?);
                let (d, p) = self.register_and_pred(d)?;
                self.emit(Op::Match { all, wide: bits == 64, d, p, a, members }, Class::Warp);
            }
            "activemask" => {
                m.take("b32");
                let [d] = self.operands(i)?;
                let d = self.destination(d, 32)?;
                self.emit(Op::ActiveMask { d }, Class::Warp);
            }
            "redux" => {
                m.take("sync");
                let Some(op) =
                    m.find(|w| ["and", "or", "xor", "add", "min", "max"].iter().position(|n| *n == w))
                else {
                    return self.error("redux without an operation");
                };
                let ty = self.need_type(m)?;
                if self.is_float_type(ty) {
                    return self.error("redux of floats is not part of this architecture");
                }
                let op = match (op, ty.signed()) {
                    (0, _) => Redux::And,
                    (1, _) => Redux::Or,
                    (2, _) => Redux::Xor,
                    (3, _) => Redux::AddU,
                    (4, true) => Redux::MinS,
                    (4, false) => Redux::MinU,
                    (_, true) => Redux::MaxS,
                    (_, false) => Redux::MaxU,
                };
                let [d, a, members] = self.operands(i)?;
                let (d, a) = (self.destination(d, 32)?, self.source(a, 32)?);
                let members = self.source(members, 32)?;
                self.emit(Op::Reduce { op, d, a, members }, Class::Warp);
            }
            "elect" => {
                m.take("sync");
                let [d, members] = self.operands(i)?;
                let members = self.source(members, 32)?;
                let (d, p) = self.register_and_pred(d)?;
                self.emit(Op::Elect { d, p, members }, Class::Warp);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn is_float_type(&self, ty: Type) -> bool {
        matches!(ty, Type::F32 | Type::F64 | Type::F16 | Type::Bf16)
    }

    /// `d` or `d|p`.
    fn register_and_pred(&mut self, operand: &Operand<'a>) -> Result<(Slot, u32)> {
        match operand {
            Operand::Pair(d, p) => Ok((self.destination(d, 32)?, self.pred_destination(p)?)),
            d => Ok((self.destination(d, 32)?, PRED_SINK)),
        }
    }

    fn shuffle(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let sync = m.take("sync");
        let Some(mode) = m.find(|w| {
            Some(match w {
                "up" => ShuffleMode::Up,
                "down" => ShuffleMode::Down,
                "bfly" => ShuffleMode::Bfly,
                "idx" => ShuffleMode::Idx,
                _ => return None,
            })
        }) else {
            return self.error("shfl without a mode");
        };
        m.take("b32");
        let (d, a, b, c, members) = match i.operands.as_slice() {
            [d, a, b, c, members] if sync => (d, a, b, c, self.source(members, 32)?),
            _ => return self.error("only shfl.sync with a member mask is supported"),
        };
        let (a, b, c) = (self.source(a, 32)?, self.source(b, 32)?, self.source(c, 32)?);
        let (d, p) = self.register_and_pred(d)?;
        self.emit(Op::Shuffle { mode, d, p, a, b, c, members }, Class::Warp);
        Ok(())
    }

    fn barrier(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        m.take("cta");
        let aligned = m.take("aligned") || name == "bar";
        let reduces = m.take("red");
        let arrive_only = m.take("arrive");
        if !reduces && !arrive_only && !m.take("sync") {
            return self.error("barrier without .sync, .arrive or .red");
        }
        let mut operands = i.operands.as_slice();
        let mut reduce = None;
        if reduces {
            let Some(op) = m.find(|w| {
                Some(match w {
                    "popc" => BarrierReduce::Popc,
                    "and" => BarrierReduce::And,
                    "or" => BarrierReduce::Or,
                    _ => return None,
                })
            }) else {
                return self.error("barrier.red without an operation");
            };
            self.need_type(m)?;
            let [d, rest @ .., p] = operands else { return self.error("barrier.red needs operands") };
            operands = rest;
            let p = self.pred_source(p)?;
            let d = if op == BarrierReduce::Popc {
                Self::reg(self.destination(d, 32)?, 32)
            } else {
                Reg { slot: self.pred_destination(d)?, width: Width::Pred }
            };
            reduce = Some((op, p, d));
        }
        let (id, count) = match operands {
            [id] => (self.source(id, 32)?, None),
            [id, count] => (self.source(id, 32)?, Some(self.source(count, 32)?)),
            _ => return self.error("barrier needs a number"),
        };
        if arrive_only && count.is_none() {
            return self.error("barrier.arrive needs a thread count");
        }
        self.emit(Op::Barrier(Box::new(Barrier { id, count, arrive_only, aligned, reduce })), Class::Sync);
        Ok(())
    }
}
