//! Integer arithmetic, logic, shifts, moves, comparisons and selections.

use super::program::*;
use super::{Decoder, Modifiers, Result};
use crate::numeric::arith::flush_f32;
use crate::numeric::integer;
use crate::ptx::ast::*;
use crate::registers::*;

/// Sign-extends the low bits of a lane operand.
fn sx(value: u64, bits: u32) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

fn low(value: i64, bits: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - bits))
}

/// Applies an operation to both 16-bit halves.
fn halves(a: u64, b: u64, f: impl Fn(u64, u64) -> u64) -> u64 {
    f(a & 0xffff, b & 0xffff) & 0xffff | (f(a >> 16 & 0xffff, b >> 16 & 0xffff) & 0xffff) << 16
}

fn relu16(x: i64) -> u64 {
    low(x.max(0), 16)
}

impl<'a> Decoder<'_, 'a> {
    /// Integer and logic instructions; false if the name is none of them.
    pub(super) fn arithmetic(
        &mut self,
        name: &str,
        m: &mut Modifiers<'a>,
        i: &Instruction<'a>,
    ) -> Result<bool> {
        match name {
            "mov" => self.mov(m, i)?,
            "add" | "sub" | "mul" | "mad" | "min" | "max" | "div" | "abs" | "neg" | "rem" | "fma"
                if self.is_float(m) =>
            {
                return Ok(false);
            }
            "add" | "sub" => self.add_sub(name, m, i)?,
            "addc" | "subc" => self.carry(name, m, i)?,
            "mul" | "mad" | "mul24" | "mad24" => self.multiply(name, m, i)?,
            "madc" => self.carry(name, m, i)?,
            "div" | "rem" => {
                let ty = self.need_type(m)?;
                let [d, a, b] = self.operands(i)?;
                let divide = name == "div";
                let f: LaneFn = match (divide, ty.signed()) {
                    (true, false) => {
                        |a, b, _, bits| a.checked_div(b).unwrap_or(u64::MAX) & (u64::MAX >> (64 - bits))
                    }
                    (false, false) => |a, b, _, _| if b == 0 { a } else { a % b },
                    (true, true) => |a, b, _, bits| {
                        let (a, b) = (sx(a, bits), sx(b, bits));
                        low(if b == 0 { -1 } else { a.wrapping_div(b) }, bits)
                    },
                    (false, true) => |a, b, _, bits| {
                        let (a, b) = (sx(a, bits), sx(b, bits));
                        low(if b == 0 { a } else { a.wrapping_rem(b) }, bits)
                    },
                };
                self.lane2(f, ty.bits(), d, [a, b], ty.bits())?;
            }
            "abs" | "neg" => {
                let ty = self.need_type(m)?;
                let [d, a] = self.operands(i)?;
                if ty.bits() == 32 {
                    let (d, a) = (self.destination(d, 32)?, self.source(a, 32)?);
                    self.alu(
                        if name == "abs" { Alu::Abs32 } else { Alu::Neg32 },
                        d,
                        a,
                        ZERO,
                        ZERO,
                        Class::Integer,
                    );
                } else {
                    let f: LaneFn = if name == "abs" {
                        |a, _, _, bits| low(sx(a, bits).wrapping_abs(), bits)
                    } else {
                        |a, _, _, bits| low(sx(a, bits).wrapping_neg(), bits)
                    };
                    self.lane1(f, ty.bits(), d, a, ty.bits(), ty.bits())?;
                }
            }
            "min" | "max" => self.min_max(name == "max", m, i)?,
            "sad" => {
                let ty = self.need_type(m)?;
                let [d, a, b, c] = self.operands(i)?;
                let f: LaneFn = if ty.signed() {
                    |a, b, c, bits| {
                        low(
                            ((sx(a, bits) as i128 - sx(b, bits) as i128).abs() as i64).wrapping_add(c as i64),
                            bits,
                        )
                    }
                } else {
                    |a, b, c, bits| low((a.abs_diff(b) as i64).wrapping_add(c as i64), bits)
                };
                self.lane3(f, ty.bits(), d, [a, b, c], [ty.bits(); 3], ty.bits())?;
            }
            "and" | "or" | "xor" => self.logic(name, m, i)?,
            "not" | "cnot" => {
                let ty = self.need_type(m)?;
                let [d, a] = self.operands(i)?;
                if ty == Type::Pred {
                    let a = self.pred_source(a)?;
                    let d = self.pred_destination(d)?;
                    let a = PredRead { negated: !a.negated, ..a };
                    self.emit(Op::PredLogic { op: Logic::Or, d, a, b: super::FALSE }, Class::Integer);
                } else if name == "not" && ty.bits() == 32 {
                    let (d, a) = (self.destination(d, 32)?, self.source(a, 32)?);
                    self.alu(Alu::Not32, d, a, ZERO, ZERO, Class::Integer);
                } else {
                    let f: LaneFn = if name == "not" {
                        |a, _, _, bits| !a & (u64::MAX >> (64 - bits))
                    } else {
                        |a, _, _, _| u64::from(a == 0)
                    };
                    self.lane1(f, ty.bits(), d, a, ty.bits(), ty.bits())?;
                }
            }
            "shl" | "shr" => {
                let ty = self.need_type(m)?;
                let [d, a, b] = self.operands(i)?;
                let bits = ty.bits();
                let op = match (name, bits, ty.signed()) {
                    ("shl", 32, _) => Some(Alu::Shl32),
                    ("shr", 32, true) => Some(Alu::ShrS32),
                    ("shr", 32, false) => Some(Alu::ShrU32),
                    ("shl", 64, _) => Some(Alu::Shl64),
                    ("shr", 64, true) => Some(Alu::ShrS64),
                    ("shr", 64, false) => Some(Alu::ShrU64),
                    _ => None,
                };
                if let Some(op) = op {
                    let (d, a, b) = (self.destination(d, bits)?, self.source(a, bits)?, self.source(b, 32)?);
                    self.alu(op, d, a, b, ZERO, Class::Integer);
                } else {
                    let f: LaneFn = match (name, ty.signed()) {
                        ("shl", _) => |a, b, _, bits| integer::shl(a, b as u32, bits),
                        (_, true) => {
                            |a, b, _, bits| low(integer::shr(sx(a, bits) as u64, b as u32, true) as i64, bits)
                        }
                        _ => |a, b, _, _| integer::shr(a, b as u32, false),
                    };
                    self.lane3(f, bits, d, [a, b, &Operand::Integer(0)], [bits, 32, 32], bits)?;
                }
            }
            "shf" => {
                let left = m.take("l");
                if !left && !m.take("r") {
                    return self.error("shf needs .l or .r");
                }
                let wrap = m.take("wrap");
                if !wrap {
                    m.take("clamp");
                }
                self.need_type(m)?;
                let [d, a, b, c] = self.operands(i)?;
                let d = self.destination(d, 32)?;
                let (a, b, c) = (self.source(a, 32)?, self.source(b, 32)?, self.source(c, 32)?);
                let op = if left { Alu::ShfL } else { Alu::ShfR };
                self.emit(Op::Alu { op, d, a, b, c, imm: u32::from(wrap) }, Class::Integer);
            }
            "lop3" => {
                m.take("b32");
                let [d, a, b, c, table] = self.operands(i)?;
                let Operand::Integer(imm) = table else { return self.error("lop3 needs a constant table") };
                let d = self.destination(d, 32)?;
                let (a, b, c) = (self.source(a, 32)?, self.source(b, 32)?, self.source(c, 32)?);
                self.emit(Op::Alu { op: Alu::Lop3, d, a, b, c, imm: *imm as u32 }, Class::Integer);
            }
            "prmt" => {
                m.take("b32");
                use integer::Permute::*;
                let mode: LaneFn = match m.find(|w| {
                    Some(match w {
                        "f4e" => Forward4,
                        "b4e" => Backward4,
                        "rc8" => Replicate8,
                        "ecl" => EdgeLeft,
                        "ecr" => EdgeRight,
                        "rc16" => Replicate16,
                        _ => return None,
                    })
                }) {
                    None => {
                        let [d, a, b, c] = self.operands(i)?;
                        let d = self.destination(d, 32)?;
                        let (a, b, c) = (self.source(a, 32)?, self.source(b, 32)?, self.source(c, 32)?);
                        self.alu(Alu::Prmt, d, a, b, c, Class::Integer);
                        return Ok(true);
                    }
                    Some(Forward4) => {
                        |a, b, c, _| u64::from(integer::prmt(a as u32, b as u32, c as u32, Forward4))
                    }
                    Some(Backward4) => {
                        |a, b, c, _| u64::from(integer::prmt(a as u32, b as u32, c as u32, Backward4))
                    }
                    Some(Replicate8) => {
                        |a, b, c, _| u64::from(integer::prmt(a as u32, b as u32, c as u32, Replicate8))
                    }
                    Some(EdgeLeft) => {
                        |a, b, c, _| u64::from(integer::prmt(a as u32, b as u32, c as u32, EdgeLeft))
                    }
                    Some(EdgeRight) => {
                        |a, b, c, _| u64::from(integer::prmt(a as u32, b as u32, c as u32, EdgeRight))
                    }
                    _ => |a, b, c, _| u64::from(integer::prmt(a as u32, b as u32, c as u32, Replicate16)),
                };
                let [d, a, b, c] = self.operands(i)?;
                self.lane3(mode, 0, d, [a, b, c], [32; 3], 32)?;
            }
            "popc" | "clz" | "bfind" | "brev" => {
                let amount = m.take("shiftamt");
                let ty = self.need_type(m)?;
                let [d, a] = self.operands(i)?;
                let bits = ty.bits();
                let (f, out): (LaneFn, u32) = match (name, ty.signed(), amount) {
                    ("popc", ..) => (|a, _, _, _| u64::from(a.count_ones()), 32),
                    ("clz", ..) => (|a, _, _, bits| u64::from(a.leading_zeros() - (64 - bits)), 32),
                    ("brev", ..) => (|a, _, _, bits| a.reverse_bits() >> (64 - bits), bits),
                    (_, true, true) => {
                        (|a, _, _, bits| u64::from(integer::bfind(sx(a, bits) as u64, bits, true, true)), 32)
                    }
                    (_, true, false) => {
                        (|a, _, _, bits| u64::from(integer::bfind(sx(a, bits) as u64, bits, true, false)), 32)
                    }
                    (_, false, true) => (|a, _, _, bits| u64::from(integer::bfind(a, bits, false, true)), 32),
                    (_, false, false) => {
                        (|a, _, _, bits| u64::from(integer::bfind(a, bits, false, false)), 32)
                    }
                };
                self.lane1(f, bits, d, a, bits, out)?;
            }
            "bfe" => {
                let ty = self.need_type(m)?;
                let [d, a, b, c] = self.operands(i)?;
                let bits = ty.bits();
                let f: LaneFn = if ty.signed() {
                    |a, b, c, bits| integer::bfe(a, b as u32, c as u32, bits, true)
                } else {
                    |a, b, c, bits| integer::bfe(a, b as u32, c as u32, bits, false)
                };
                self.lane3(f, bits, d, [a, b, c], [bits, 32, 32], bits)?;
            }
            "bfi" => {
                let bits = self.need_type(m)?.bits();
                let [d, a, b, c, e] = self.operands(i)?;
                // Position and length share one operand of the lane function.
                let position = self.lane_source(c, 32)?;
                let length = self.lane_source(e, 32)?;
                let both = self.temporary(false);
                self.lane(
                    |p, l, _, _| p & 0xff | (l & 0xff) << 8,
                    0,
                    Self::reg(both, 32),
                    [position, length, Self::reg(ZERO, 32)],
                    Class::Integer,
                );
                let (a, b) = (self.lane_source(a, bits)?, self.lane_source(b, bits)?);
                let d = Self::reg(self.destination(d, bits)?, bits);
                let f: LaneFn = |a, b, c, bits| integer::bfi(a, b, c as u32 & 0xff, c as u32 >> 8, bits);
                self.lane(f, bits, d, [a, b, Self::reg(both, 32)], Class::Integer);
            }
            "szext" | "bmsk" => {
                let wrap = m.take("wrap");
                if !wrap {
                    m.take("clamp");
                }
                let ty = self.need_type(m)?;
                let [d, a, b] = self.operands(i)?;
                let f: LaneFn = match (name, ty.signed()) {
                    ("bmsk", _) => |a, b, _, wrap| {
                        let (a, b) = if wrap != 0 { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
                        ((1u64 << b) - 1) << a & 0xffff_ffff
                    },
                    (_, signed) => {
                        if signed {
                            |a, b, _, wrap| {
                                let n = if wrap != 0 { b & 31 } else { b.min(32) } as u32;
                                if n == 0 { 0 } else { low(sx(a, n), 32) }
                            }
                        } else {
                            |a, b, _, wrap| {
                                let n = if wrap != 0 { b & 31 } else { b.min(32) };
                                a & ((1u64 << n) - 1)
                            }
                        }
                    }
                };
                self.lane2(f, u32::from(wrap), d, [a, b], 32)?;
            }
            "fns" => {
                m.take("b32");
                let [d, a, b, c] = self.operands(i)?;
                let f: LaneFn = |a, b, c, _| u64::from(integer::fns(a as u32, b as u32, c as i32));
                self.lane3(f, 0, d, [a, b, c], [32; 3], 32)?;
            }
            "dp4a" | "dp2a" => {
                let high = m.take("hi");
                m.take("lo");
                let (Some(x), Some(y)) = (m.ty(), m.ty()) else { return self.error("two types expected") };
                let [d, a, b, c] = self.operands(i)?;
                let f: LaneFn = if name == "dp4a" {
                    |a, b, c, s| {
                        u64::from(integer::dp4a(a as u32, b as u32, c as u32, s & 1 != 0, s & 2 != 0))
                    }
                } else {
                    |a, b, c, s| {
                        u64::from(integer::dp2a(
                            a as u32,
                            b as u32,
                            c as u32,
                            s & 1 != 0,
                            s & 2 != 0,
                            s & 4 != 0,
                        ))
                    }
                };
                let parameter = u32::from(x.signed()) | u32::from(y.signed()) << 1 | u32::from(high) << 2;
                self.lane3(f, parameter, d, [a, b, c], [32; 3], 32)?;
            }
            "setp" | "set" => self.compare(name == "set", m, i)?,
            "selp" => {
                let ty = self.need_type(m)?;
                let [d, a, b, p] = self.operands(i)?;
                let p = self.pred_source(p)?;
                let bits = ty.bits();
                let (a, b, d) = (self.source(a, bits)?, self.source(b, bits)?, self.destination(d, bits)?);
                let op = if bits == 64 { Op::Select64 { d, a, b, p } } else { Op::Select32 { d, a, b, p } };
                self.emit(op, Class::Move);
            }
            "slct" => {
                let ftz = m.take("ftz");
                let ty = self.need_type(m)?;
                let by = self.need_type(m)?;
                let [d, a, b, c] = self.operands(i)?;
                let f: LaneFn = if by == Type::F32 && ftz {
                    |a, b, c, _| if f32::from_bits(flush_f32(c as u32)) >= 0.0 { a } else { b }
                } else if by == Type::F32 {
                    |a, b, c, _| if f32::from_bits(c as u32) >= 0.0 { a } else { b }
                } else {
                    |a, b, c, _| if c as i32 >= 0 { a } else { b }
                };
                let bits = ty.bits();
                self.lane3(f, 0, d, [a, b, c], [bits, bits, 32], bits)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn is_float(&self, m: &Modifiers<'a>) -> bool {
        ["f32", "f64", "f16", "f16x2", "bf16", "bf16x2", "f32x2"].iter().any(|t| m.has(t))
    }

    pub(super) fn need_type(&mut self, m: &mut Modifiers<'a>) -> Result<Type> {
        match m.ty() {
            Some(ty) => Ok(ty),
            None => self.error("instruction without a type"),
        }
    }

    pub(super) fn lane1(
        &mut self,
        f: LaneFn,
        parameter: u32,
        d: &Operand<'a>,
        a: &Operand<'a>,
        bits: u32,
        out: u32,
    ) -> Result<()> {
        let a = self.lane_source(a, bits)?;
        let d = Self::reg(self.destination(d, out)?, out);
        let zero = Self::reg(ZERO, 32);
        self.lane(f, parameter, d, [a, zero, zero], Class::Integer);
        Ok(())
    }

    pub(super) fn lane2(
        &mut self,
        f: LaneFn,
        parameter: u32,
        d: &Operand<'a>,
        s: [&Operand<'a>; 2],
        bits: u32,
    ) -> Result<()> {
        self.lane3(f, parameter, d, [s[0], s[1], &Operand::Integer(0)], [bits; 3], bits)
    }

    pub(super) fn lane3(
        &mut self,
        f: LaneFn,
        parameter: u32,
        d: &Operand<'a>,
        s: [&Operand<'a>; 3],
        bits: [u32; 3],
        out: u32,
    ) -> Result<()> {
        let a = self.lane_source(s[0], bits[0])?;
        let b = self.lane_source(s[1], bits[1])?;
        let c = self.lane_source(s[2], bits[2])?;
        let d = Self::reg(self.destination(d, out)?, out);
        self.lane(f, parameter, d, [a, b, c], Class::Integer);
        Ok(())
    }

    fn mov(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let ty = self.need_type(m)?;
        let [d, a] = self.operands(i)?;
        let bits = ty.bits();
        if ty == Type::Pred {
            let a = self.pred_source(a)?;
            let d = self.pred_destination(d)?;
            self.emit(Op::PredLogic { op: Logic::Or, d, a, b: super::FALSE }, Class::Move);
            return Ok(());
        }
        match (d, a) {
            (Operand::Vector(parts), _) => {
                // Unpack: parts of equal width, lowest first.
                if parts.is_empty() || !(bits as usize).is_multiple_of(parts.len()) {
                    return self.error("mov into a vector of this length");
                }
                let part = bits / parts.len() as u32;
                if bits == 128 {
                    if parts.len() != 2 {
                        return self.error("mov into a vector of this length");
                    }
                    for (half, p) in self.halves_128(a)?.iter().zip(parts) {
                        let to = self.destination(p, 64)?;
                        self.alu(Alu::Mov64, to, half.slot, ZERO, ZERO, Class::Move);
                    }
                    return Ok(());
                }
                // The source is copied first, since a part may be the source itself only in name.
                let from = self.source(a, bits)?;
                for (k, p) in parts.iter().enumerate() {
                    if *p == Operand::Name("_", 0) {
                        continue;
                    }
                    let (to, _) = self.any_destination(p)?;
                    if bits == 64 && part == 32 {
                        let op = if k == 0 { Alu::Low64 } else { Alu::High64 };
                        self.alu(op, to.slot, from, ZERO, ZERO, Class::Move);
                    } else if bits == 32 && part == 16 && k == 1 {
                        let shift = self.constant(16, false);
                        self.alu(Alu::ShrU32, to.slot, from, shift, ZERO, Class::Move);
                    } else if bits == 32 && part == 16 {
                        let mask = self.constant(0xffff, false);
                        self.alu(Alu::And32, to.slot, from, mask, ZERO, Class::Move);
                    } else {
                        let f: LaneFn = |a, _, _, p| a >> (p & 0xff) & ((1u64 << (p >> 8)) - 1);
                        let zero = Self::reg(ZERO, 32);
                        let to = Self::reg(to.slot, 32);
                        self.lane(
                            f,
                            (k as u32 * part) | part << 8,
                            to,
                            [Self::reg(from, bits), zero, zero],
                            Class::Move,
                        );
                    }
                }
            }
            (_, Operand::Vector(parts)) => {
                if parts.is_empty() || !(bits as usize).is_multiple_of(parts.len()) {
                    return self.error("mov from a vector of this length");
                }
                let part = bits / parts.len() as u32;
                if bits == 128 {
                    if parts.len() != 2 {
                        return self.error("mov from a vector of this length");
                    }
                    for (half, p) in self.halves_128(d)?.iter().zip(parts) {
                        let from = self.source(p, 64)?;
                        self.alu(Alu::Mov64, half.slot, from, ZERO, ZERO, Class::Move);
                    }
                    return Ok(());
                }
                let mut slots = Vec::new();
                for p in parts {
                    slots.push(self.source(p, part.max(8))?);
                }
                let d = self.destination(d, bits)?;
                match (bits, slots.as_slice()) {
                    (64, [a, b]) => self.alu(Alu::Pack64, d, *a, *b, ZERO, Class::Move),
                    (32, [a, b]) => self.alu(Alu::Pack32, d, *a, *b, ZERO, Class::Move),
                    (16, [a, b]) => {
                        let zero = Self::reg(ZERO, 32);
                        let s = [Self::reg(*a, 32), Self::reg(*b, 32), zero];
                        self.lane(
                            |a, b, _, _| a & 0xff | (b & 0xff) << 8,
                            0,
                            Self::reg(d, 32),
                            s,
                            Class::Move,
                        );
                    }
                    (_, [a, b, c, e]) => {
                        // Four parts: two pairs, then the pair of pairs.
                        let (low, high) = (self.temporary(false), self.temporary(false));
                        if part == 16 {
                            self.alu(Alu::Pack32, low, *a, *b, ZERO, Class::Move);
                            self.alu(Alu::Pack32, high, *c, *e, ZERO, Class::Move);
                            self.alu(Alu::Pack64, d, low, high, ZERO, Class::Move);
                        } else {
                            let zero = Self::reg(ZERO, 32);
                            let f: LaneFn = |a, b, _, _| a & 0xff | (b & 0xff) << 8;
                            self.lane(
                                f,
                                0,
                                Self::reg(low, 32),
                                [Self::reg(*a, 32), Self::reg(*b, 32), zero],
                                Class::Move,
                            );
                            self.lane(
                                f,
                                0,
                                Self::reg(high, 32),
                                [Self::reg(*c, 32), Self::reg(*e, 32), zero],
                                Class::Move,
                            );
                            self.alu(Alu::Pack32, d, low, high, ZERO, Class::Move);
                        }
                    }
                    _ => return self.error("mov from a vector of this length"),
                }
            }
            _ if bits == 128 => {
                for (d, a) in self.halves_128(d)?.iter().zip(self.halves_128(a)?) {
                    self.alu(Alu::Mov64, d.slot, a.slot, ZERO, ZERO, Class::Move);
                }
            }
            _ => {
                let (d, a) = (self.destination(d, bits)?, self.source(a, bits)?);
                let op = if bits == 64 { Alu::Mov64 } else { Alu::Mov32 };
                self.alu(op, d, a, ZERO, ZERO, Class::Move);
            }
        }
        Ok(())
    }

    fn add_sub(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        if m.has("cc") {
            return self.carry(name, m, i);
        }
        let saturate = m.take("sat");
        let ty = self.need_type(m)?;
        let [d, a, b] = self.operands(i)?;
        let bits = ty.bits();
        let op = match (name, bits) {
            _ if saturate || matches!(ty, Type::U16x2 | Type::S16x2) => None,
            ("add", 32) => Some(Alu::Add32),
            ("sub", 32) => Some(Alu::Sub32),
            ("add", 64) => Some(Alu::Add64),
            ("sub", 64) => Some(Alu::Sub64),
            ("add", 16) => Some(Alu::Add16),
            _ => None,
        };
        if let Some(op) = op {
            let (a, b, d) = (self.source(a, bits)?, self.source(b, bits)?, self.destination(d, bits)?);
            self.alu(op, d, a, b, ZERO, Class::Integer);
            return Ok(());
        }
        let f: LaneFn = match (name, ty, saturate) {
            ("add", _, true) => |a, b, _, _| (a as i32).saturating_add(b as i32) as u32 as u64,
            (_, _, true) => |a, b, _, _| (a as i32).saturating_sub(b as i32) as u32 as u64,
            ("add", Type::U16x2 | Type::S16x2, _) => |a, b, _, _| halves(a, b, u64::wrapping_add),
            (_, Type::U16x2 | Type::S16x2, _) => |a, b, _, _| halves(a, b, u64::wrapping_sub),
            ("add", ..) => |a, b, _, _| a.wrapping_add(b) & 0xffff,
            _ => |a, b, _, _| a.wrapping_sub(b) & 0xffff,
        };
        self.lane2(f, 0, d, [a, b], bits)
    }

    /// Additions, subtractions and multiply-adds with the carry flag: the result, then the new carry.
    fn carry(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let sets = m.take("cc");
        let high = m.take("hi");
        if !high {
            m.take("lo");
        }
        let ty = self.need_type(m)?;
        let bits = ty.bits();
        let uses = name.ends_with('c');
        let carry = Reg { slot: if uses { PRED_CARRY } else { PRED_FALSE }, width: Width::Pred };
        let (d, x, y) = if name == "madc" || name == "mad" {
            let [d, a, b, c] = self.operands(i)?;
            let product = Self::reg(self.temporary(bits == 64), bits);
            let f: LaneFn = match (high, ty.signed()) {
                (false, _) => |a, b, _, bits| a.wrapping_mul(b) & (u64::MAX >> (64 - bits)),
                (true, false) => |a, b, _, bits| {
                    ((u128::from(a) * u128::from(b)) >> bits) as u64 & (u64::MAX >> (64 - bits))
                },
                (true, true) => |a, b, _, bits| {
                    low(((i128::from(sx(a, bits)) * i128::from(sx(b, bits))) >> bits) as i64, bits)
                },
            };
            let s = [self.lane_source(a, bits)?, self.lane_source(b, bits)?, Self::reg(ZERO, 32)];
            self.lane(f, bits, product, s, Class::Integer);
            (d, product, self.lane_source(c, bits)?)
        } else {
            let [d, a, b] = self.operands(i)?;
            (d, self.lane_source(a, bits)?, self.lane_source(b, bits)?)
        };
        let subtract = name.starts_with("sub");
        let d = Self::reg(self.destination(d, bits)?, bits);
        // The destination may be a source: the result goes through a temporary until the carry is known.
        let result = Self::reg(self.temporary(bits == 64), bits);
        let value: LaneFn = if subtract {
            |a, b, c, bits| a.wrapping_sub(b).wrapping_sub(c) & (u64::MAX >> (64 - bits))
        } else {
            |a, b, c, bits| a.wrapping_add(b).wrapping_add(c) & (u64::MAX >> (64 - bits))
        };
        self.lane(value, bits, result, [x, y, carry], Class::Integer);
        if sets {
            let flag: LaneFn = if subtract {
                |a, b, c, _| u64::from(u128::from(a) < u128::from(b) + u128::from(c))
            } else {
                |a, b, c, bits| ((u128::from(a) + u128::from(b) + u128::from(c)) >> bits) as u64
            };
            let to = Reg { slot: PRED_CARRY, width: Width::Pred };
            self.lane(flag, bits, to, [x, y, carry], Class::Integer);
        }
        let op = if bits == 64 { Alu::Mov64 } else { Alu::Mov32 };
        self.alu(op, d.slot, result.slot, ZERO, ZERO, Class::Move);
        Ok(())
    }

    fn multiply(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        if m.has("cc") {
            return self.carry(name, m, i);
        }
        let add = name.starts_with("mad");
        let (wide, high) = (m.take("wide"), m.take("hi"));
        m.take("lo");
        let saturate = m.take("sat");
        let ty = self.need_type(m)?;
        let bits = ty.bits();
        let signed = ty.signed();
        let (d, a, b, c) = match (add, i.operands.as_slice()) {
            (true, [d, a, b, c]) => (d, a, b, c),
            (false, [d, a, b]) => (d, a, b, &Operand::Integer(0)),
            _ => return self.error("wrong number of operands"),
        };
        let out = if wide { 2 * bits } else { bits };
        let twenty_four = name.ends_with("24");
        let op = match (bits, wide, high, signed, add) {
            _ if twenty_four || saturate => None,
            (32, true, _, false, false) => Some(Alu::MulWideU),
            (32, true, _, true, false) => Some(Alu::MulWideS),
            (32, true, _, false, true) => Some(Alu::MadWideU),
            (32, true, _, true, true) => Some(Alu::MadWideS),
            (32, false, false, _, false) => Some(Alu::Mul32),
            (32, false, false, _, true) => Some(Alu::Mad32),
            (32, false, true, false, false) => Some(Alu::MulHiU32),
            (32, false, true, true, false) => Some(Alu::MulHiS32),
            (64, false, false, _, false) => Some(Alu::Mul64),
            (64, false, false, _, true) => Some(Alu::Mad64),
            _ => None,
        };
        if out == 128 {
            return self.error("a wide product of 64-bit operands does not exist");
        }
        if let Some(op) = op {
            let (a, b, c) = (self.source(a, bits)?, self.source(b, bits)?, self.source(c, out)?);
            let d = self.destination(d, out)?;
            self.alu(op, d, a, b, c, Class::Integer);
            return Ok(());
        }
        // Parameter: width, signed, high, 24 bits, saturate.
        let f: LaneFn = |a, b, c, p| {
            let bits = p & 0xff;
            let (signed, high, wide, t24) = (p & 0x100 != 0, p & 0x200 != 0, p & 0x400 != 0, p & 0x800 != 0);
            let take = |v: u64| -> i128 {
                if t24 {
                    i128::from(integer::low24(v as u32, signed))
                } else if signed {
                    i128::from(sx(v, bits))
                } else {
                    i128::from(v)
                }
            };
            let product = if signed {
                take(a) * take(b)
            } else {
                (take(a) as u128).wrapping_mul(take(b) as u128) as i128
            };
            let part = match (high, t24) {
                (true, true) => product >> 16,
                (true, false) if signed => product >> bits,
                (true, false) => (product as u128 >> bits) as i128,
                _ => product,
            };
            if p & 0x1000 != 0 {
                let sum = i128::from(part as i32) + i128::from(c as i32);
                return sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 as u64;
            }
            let out = if wide { 2 * bits } else { bits };
            (part as u64).wrapping_add(c) & (u64::MAX >> (64 - out))
        };
        let parameter = bits
            | u32::from(signed) << 8
            | u32::from(high) << 9
            | u32::from(wide) << 10
            | u32::from(twenty_four) << 11
            | u32::from(saturate) << 12;
        self.lane3(f, parameter, d, [a, b, c], [bits, bits, out], out)
    }

    fn min_max(&mut self, max: bool, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let relu = m.take("relu");
        let ty = self.need_type(m)?;
        let [d, a, b] = self.operands(i)?;
        let bits = ty.bits();
        let op = match (ty, max) {
            _ if relu => None,
            (Type::U32, false) => Some(Alu::MinU32),
            (Type::U32, true) => Some(Alu::MaxU32),
            (Type::S32, false) => Some(Alu::MinS32),
            (Type::S32, true) => Some(Alu::MaxS32),
            _ => None,
        };
        if let Some(op) = op {
            let (a, b, d) = (self.source(a, 32)?, self.source(b, 32)?, self.destination(d, 32)?);
            self.alu(op, d, a, b, ZERO, Class::Integer);
            return Ok(());
        }
        let f: LaneFn = match (ty, max, relu) {
            (Type::S16x2, false, false) => {
                |a, b, _, _| halves(a, b, |x, y| low(sx(x, 16).min(sx(y, 16)), 16))
            }
            (Type::S16x2, true, false) => |a, b, _, _| halves(a, b, |x, y| low(sx(x, 16).max(sx(y, 16)), 16)),
            (Type::S16x2, false, true) => |a, b, _, _| halves(a, b, |x, y| relu16(sx(x, 16).min(sx(y, 16)))),
            (Type::S16x2, true, true) => |a, b, _, _| halves(a, b, |x, y| relu16(sx(x, 16).max(sx(y, 16)))),
            (Type::U16x2, false, _) => |a, b, _, _| halves(a, b, u64::min),
            (Type::U16x2, true, _) => |a, b, _, _| halves(a, b, u64::max),
            (_, false, true) => |a, b, _, bits| low(sx(a, bits).min(sx(b, bits)).max(0), bits),
            (_, true, true) => |a, b, _, bits| low(sx(a, bits).max(sx(b, bits)).max(0), bits),
            (t, false, false) if t.signed() => |a, b, _, bits| low(sx(a, bits).min(sx(b, bits)), bits),
            (t, true, false) if t.signed() => |a, b, _, bits| low(sx(a, bits).max(sx(b, bits)), bits),
            (_, false, false) => |a, b, _, _| a.min(b),
            (_, true, false) => |a, b, _, _| a.max(b),
        };
        self.lane2(f, bits, d, [a, b], bits)
    }

    fn logic(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let ty = self.need_type(m)?;
        let [d, a, b] = self.operands(i)?;
        let op = match name {
            "and" => Logic::And,
            "or" => Logic::Or,
            _ => Logic::Xor,
        };
        if ty == Type::Pred {
            let (a, b, d) = (self.pred_source(a)?, self.pred_source(b)?, self.pred_destination(d)?);
            self.emit(Op::PredLogic { op, d, a, b }, Class::Integer);
            return Ok(());
        }
        let bits = ty.bits();
        let op = match (op, bits == 64) {
            (Logic::And, false) => Alu::And32,
            (Logic::Or, false) => Alu::Or32,
            (Logic::Xor, false) => Alu::Xor32,
            (Logic::And, true) => Alu::And64,
            (Logic::Or, true) => Alu::Or64,
            (Logic::Xor, true) => Alu::Xor64,
        };
        let (a, b, d) = (self.source(a, bits)?, self.source(b, bits)?, self.destination(d, bits)?);
        self.alu(op, d, a, b, ZERO, Class::Integer);
        Ok(())
    }

    fn compare(&mut self, to_register: bool, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let ftz = m.take("ftz");
        let Some((op, unsigned)) = m.find(|w| {
            Some(match w {
                "eq" => (Comparison::Eq, false),
                "ne" => (Comparison::Ne, false),
                "lt" => (Comparison::Lt, false),
                "le" => (Comparison::Le, false),
                "gt" => (Comparison::Gt, false),
                "ge" => (Comparison::Ge, false),
                "lo" => (Comparison::Lt, true),
                "ls" => (Comparison::Le, true),
                "hi" => (Comparison::Gt, true),
                "hs" => (Comparison::Ge, true),
                "equ" => (Comparison::Equ, false),
                "neu" => (Comparison::Neu, false),
                "ltu" => (Comparison::Ltu, false),
                "leu" => (Comparison::Leu, false),
                "gtu" => (Comparison::Gtu, false),
                "geu" => (Comparison::Geu, false),
                "num" => (Comparison::Num, false),
                "nan" => (Comparison::Nan, false),
                _ => return None,
            })
        }) else {
            return self.error("comparison without an operator");
        };
        let logic = m.find(|w| match w {
            "and" => Some(Logic::And),
            "or" => Some(Logic::Or),
            "xor" => Some(Logic::Xor),
            _ => None,
        });
        let mut ty = self.need_type(m)?;
        let mut out = Type::Pred;
        if to_register {
            out = ty;
            ty = self.need_type(m)?;
        }
        let (d, a, b, c) = match (logic, i.operands.as_slice()) {
            (Some(_), [d, a, b, c]) => (d, a, b, Some(c)),
            (None, [d, a, b]) => (d, a, b, None),
            _ => return self.error("wrong number of operands"),
        };
        let combine = match (logic, c) {
            (Some(logic), Some(c)) => Some((logic, self.pred_source(c)?)),
            _ => None,
        };
        let packed = matches!(ty, Type::F16x2 | Type::Bf16x2);
        let kind = match ty {
            Type::B16 | Type::U16 => CompareType::U16,
            Type::S16 => CompareType::S16,
            Type::B32 | Type::U32 => CompareType::U32,
            Type::S32 => CompareType::S32,
            Type::B64 | Type::U64 => CompareType::U64,
            Type::S64 => CompareType::S64,
            Type::F16 | Type::F16x2 => CompareType::F16,
            Type::Bf16 | Type::Bf16x2 => CompareType::Bf16,
            Type::F32 => CompareType::F32,
            Type::F64 => CompareType::F64,
            _ => return self.error("comparison of this type"),
        };
        let kind = match (unsigned, kind) {
            (true, CompareType::S32) => CompareType::U32,
            (true, CompareType::S64) => CompareType::U64,
            (_, kind) => kind,
        };
        let bits = ty.bits();
        let (a, b) = (self.source(a, bits)?, self.source(b, bits)?);
        let (p, q) = match d {
            _ if to_register => {
                let p = self.program.preds;
                self.program.preds += 2;
                (p, p + 1)
            }
            Operand::Pair(first, second) => (self.pred_destination(first)?, self.pred_destination(second)?),
            _ => (self.pred_destination(d)?, PRED_SINK),
        };
        let compare = Compare { ty: kind, op, ftz, a, b, p, q, combine };
        if !packed {
            self.emit(Op::Compare(Box::new(compare)), Class::Integer);
            if to_register {
                // 1.0 or all ones.
                let one = match out {
                    Type::F32 => 0x3f80_0000,
                    Type::F16 => 0x3c00,
                    Type::Bf16 => 0x3f80,
                    Type::U16 | Type::S16 | Type::B16 => 0xffff,
                    _ => 0xffff_ffff,
                };
                let (yes, no) = (self.constant(one, false), ZERO);
                let d = self.destination(d, 32)?;
                self.emit(
                    Op::Select32 { d, a: yes, b: no, p: PredRead { pred: p, negated: false } },
                    Class::Move,
                );
            }
            return Ok(());
        }
        // Packed: p compares the low halves, q the high halves.
        let (mask, shift) = (self.constant(0xffff, false), self.constant(16, false));
        let half = |decoder: &mut Self, slot: Slot| {
            let (low, high) = (decoder.temporary(false), decoder.temporary(false));
            decoder.alu(Alu::And32, low, slot, mask, ZERO, Class::Move);
            decoder.alu(Alu::ShrU32, high, slot, shift, ZERO, Class::Move);
            (low, high)
        };
        let ((a0, a1), (b0, b1)) = (half(self, a), half(self, b));
        self.emit(Op::Compare(Box::new(Compare { a: a0, b: b0, q: PRED_SINK, ..compare })), Class::Integer);
        self.emit(
            Op::Compare(Box::new(Compare { a: a1, b: b1, p: q, q: PRED_SINK, ..compare })),
            Class::Integer,
        );
        if to_register {
            let one = match out {
                Type::F16x2 => 0x3c00,
                Type::Bf16x2 => 0x3f80,
                _ => 0xffff,
            };
            let d = Self::reg(self.destination(d, 32)?, 32);
            let f: LaneFn = |p, q, _, one| (p * u64::from(one)) | ((q * u64::from(one)) << 16);
            let pred = |slot| Reg { slot, width: Width::Pred };
            self.lane(f, one, d, [pred(p), pred(q), Self::reg(ZERO, 32)], Class::Move);
        }
        Ok(())
    }
}
