//! `cvt`, `cvta` and `cvt.pack`.

use super::float::{FTZ, RELU, SAT, rounding_of, take_rounding};
use super::program::*;
use super::{Decoder, Modifiers, Result};
use crate::memory::SHARED_WINDOW;
use crate::numeric::arith::{flush_f32, relu_f16, saturate_f16, saturate_f32, saturate_f64};
use crate::numeric::convert::*;
use crate::numeric::soft::{BF16, F16};
use crate::ptx::ast::*;
use crate::registers::*;

// A conversion's parameter: rounding and flags of `float.rs`, then source type, destination type, integral rounding.
const SATFINITE: u32 = 64;
const INTEGRAL: u32 = 128;

const TYPES: [Type; 12] = [
    Type::U8,
    Type::S8,
    Type::U16,
    Type::S16,
    Type::U32,
    Type::S32,
    Type::U64,
    Type::S64,
    Type::F16,
    Type::Bf16,
    Type::F32,
    Type::F64,
];

fn code(ty: Type) -> Option<u32> {
    TYPES.iter().position(|&t| t == ty).map(|i| i as u32)
}

/// Clears negative numbers where the flag says so; a NaN stays one, whatever its sign.
fn relu_f32(bits: u32, p: u32) -> u32 {
    let negative = bits >> 31 != 0 && !f32::from_bits(bits).is_nan();
    if p & RELU != 0 && negative { 0 } else { bits }
}

/// `cvt` of one lane; the parameter says everything about it.
fn convert(a: u64, _: u64, _: u64, p: u32) -> u64 {
    let (from, to) = (TYPES[(p >> 8 & 15) as usize], TYPES[(p >> 12 & 15) as usize]);
    let rounding = rounding_of(p);
    let float = |t: Type| matches!(t, Type::F16 | Type::Bf16 | Type::F32 | Type::F64);
    if !float(from) {
        let bits = from.bits();
        let value = if from.signed() { sign_extend(a, bits) } else { a & (u64::MAX >> (64 - bits)) };
        return match to {
            Type::F64 => int_to_f64(value, from.signed(), rounding),
            Type::F32 => {
                let out = int_to_f32(value, from.signed(), rounding);
                u64::from(if p & SAT != 0 { saturate_f32(out) } else { out })
            }
            Type::F16 => int_to_format(value, from.signed(), F16, rounding),
            Type::Bf16 => int_to_format(value, from.signed(), BF16, rounding),
            // Extended by the destination's sign rule: the register may be wider than the type.
            _ => int_to_int(value, from.signed(), to.bits(), to.signed(), p & SAT != 0),
        };
    }
    let mut value = match from {
        Type::F16 => f64::from(f16_to_f32(a as u16)),
        Type::Bf16 => f64::from(bf16_to_f32(a as u16)),
        Type::F32 => f64::from(f32::from_bits(if p & FTZ != 0 { flush_f32(a as u32) } else { a as u32 })),
        _ => f64::from_bits(a),
    };
    if !float(to) {
        let wide = from == Type::F64 || to.bits() == 64;
        return float_to_int(value, rounding, to.bits(), to.signed(), wide);
    }
    if p & INTEGRAL != 0 {
        value = round_to_integral(value, rounding);
    }
    let rounding = if p & INTEGRAL != 0 { crate::numeric::Rounding::NearestEven } else { rounding };
    let relu = |half: u16, infinity: u16| if p & RELU != 0 { relu_f16(half, infinity) } else { half };
    match to {
        Type::F64 => {
            let bits = if value.is_nan() { 0x7fff_ffff_ffff_ffff } else { value.to_bits() };
            if p & SAT != 0 { saturate_f64(bits) } else { bits }
        }
        Type::F32 => {
            let out = f64_to_f32(value, rounding);
            let out = if p & FTZ != 0 { flush_f32(out) } else { out };
            u64::from(if p & SAT != 0 { saturate_f32(out) } else { out })
        }
        Type::F16 => {
            let out = if p & SATFINITE != 0 {
                f32_to_f16(f64_to_f32(value, rounding), rounding, true)
            } else {
                f64_to_f16(value, rounding)
            };
            u64::from(relu(if p & SAT != 0 { saturate_f16(out) } else { out }, 0x7c00))
        }
        _ => {
            let out = if p & SATFINITE != 0 {
                f32_to_bf16(f64_to_f32(value, rounding), rounding, true)
            } else {
                f64_to_bf16(value, rounding)
            };
            u64::from(relu(out, 0x7f80))
        }
    }
}

impl<'a> Decoder<'_, 'a> {
    /// Conversions; false if the name is none of them.
    pub(super) fn conversion(
        &mut self,
        name: &str,
        m: &mut Modifiers<'a>,
        i: &Instruction<'a>,
    ) -> Result<bool> {
        match name {
            "cvt" if m.take("pack") => self.convert_pack(m, i)?,
            "cvt" => self.convert(m, i)?,
            "cvta" => self.convert_address(m, i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn convert(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let integral = ["rni", "rzi", "rmi", "rpi"].iter().any(|w| m.has(w));
        let rounding = take_rounding(m);
        let mut p = rounding.unwrap_or(0);
        for (word, flag) in [("ftz", FTZ), ("sat", SAT), ("relu", RELU), ("satfinite", SATFINITE)] {
            p |= if m.take(word) { flag } else { 0 };
        }
        p |= if integral { INTEGRAL } else { 0 };
        let to = self.need_type(m)?;
        let from = self.need_type(m)?;
        if let Some(f) = self.packed_conversion(to, from, p) {
            return self.emit_packed(f, p, to, i);
        }
        let [d, a] = self.operands(i)?;
        if to == Type::Tf32 {
            let f: LaneFn = |a, _, _, p| {
                let out = f32_to_tf32(a as u32, rounding_of(p), p & SATFINITE != 0);
                u64::from(if p & RELU != 0 && out >> 31 != 0 { 0 } else { out })
            };
            return self.lane1(f, p, d, a, 32, 32);
        }
        let (Some(from_code), Some(to_code)) = (code(from), code(to)) else {
            return self.error(format!("unknown conversion `{}`", i.opcode));
        };
        let (d, d_type) = self.any_destination(d)?;
        let bits = from.bits();
        let a = self.source(a, if bits == 64 { 64 } else { bits.max(8) })?;
        // Integers of fewer bits than the register fill it; 32 bits is the narrowest register.
        let hot = match (from, to, p & !7, rounding) {
            (Type::U32, Type::U64 | Type::S64, 0, _) => Some(Alu::U32To64),
            (Type::S32, Type::U64 | Type::S64, 0, _) => Some(Alu::S32To64),
            (Type::U64 | Type::S64, Type::U32 | Type::S32, 0, _) => Some(Alu::Low64),
            (Type::S32, Type::F32, 0, Some(0)) => Some(Alu::S32ToF32),
            (Type::U32, Type::F32, 0, Some(0)) => Some(Alu::U32ToF32),
            (Type::F32, Type::S32, INTEGRAL, Some(1)) => Some(Alu::F32ToS32Rz),
            (Type::F16, Type::F32, 0, _) => Some(Alu::F16ToF32),
            (Type::Bf16, Type::F32, 0, _) => Some(Alu::Bf16ToF32),
            (Type::F32, Type::F16, 0, Some(0)) => Some(Alu::F32ToF16),
            (Type::F32, Type::Bf16, 0, Some(0)) => Some(Alu::F32ToBf16),
            (Type::F32, Type::F64, 0, _) => Some(Alu::F32ToF64),
            (Type::F64, Type::F32, 0, Some(0)) => Some(Alu::F64ToF32),
            _ => None,
        };
        if let Some(op) = hot
            && (d.width == Width::W64) == (to.bits() == 64)
        {
            self.alu(op, d.slot, a, ZERO, ZERO, Class::Convert);
            return Ok(());
        }
        let p = p | from_code << 8 | to_code << 12;
        let zero = Self::reg(ZERO, 32);
        let bits = if d_type.bits() < 32 { 16 } else { 32 };
        self.lane(convert, p, d, [Self::reg(a, from.bits()), zero, zero], Class::Convert);
        if bits == 16 && d.width == Width::W32 && to.signed() {
            // A 16-bit register holds its value zero-extended.
            let mask = self.constant(0xffff, false);
            self.alu(Alu::And32, d.slot, d.slot, mask, ZERO, Class::Convert);
        }
        Ok(())
    }

    fn packed_conversion(&self, to: Type, from: Type, p: u32) -> Option<LaneFn> {
        Some(match (to, from) {
            (Type::F16x2, Type::F32) if p == 0 => return Some(pack_marker),
            (Type::Bf16x2, Type::F32) if p == 0 => return Some(pack_marker),
            (Type::F16x2, Type::F32) => |a, b, _, p| {
                let one = |x: u64| {
                    let out = f32_to_f16(x as u32, rounding_of(p), p & SATFINITE != 0);
                    u64::from(if p & RELU != 0 { relu_f16(out, 0x7c00) } else { out })
                };
                one(b) | one(a) << 16
            },
            (Type::Bf16x2, Type::F32) => |a, b, _, p| {
                let one = |x: u64| {
                    let out = f32_to_bf16(x as u32, rounding_of(p), p & SATFINITE != 0);
                    u64::from(if p & RELU != 0 { relu_f16(out, 0x7f80) } else { out })
                };
                one(b) | one(a) << 16
            },
            (Type::E4m3x2, Type::F32) => |a, b, _, p| {
                let relu = |x: u64| relu_f32(x as u32, p);
                u64::from(f32_to_e4m3(relu(b))) | u64::from(f32_to_e4m3(relu(a))) << 8
            },
            (Type::E5m2x2, Type::F32) => |a, b, _, p| {
                let relu = |x: u64| relu_f32(x as u32, p);
                u64::from(f32_to_e5m2(relu(b))) | u64::from(f32_to_e5m2(relu(a))) << 8
            },
            (Type::E4m3x2, Type::F16x2) => |a, _, _, p| {
                let relu = |x: u16| if p & RELU != 0 { relu_f16(x, 0x7c00) } else { x };
                u64::from(f16_to_e4m3(relu(a as u16))) | u64::from(f16_to_e4m3(relu((a >> 16) as u16))) << 8
            },
            (Type::E5m2x2, Type::F16x2) => |a, _, _, p| {
                let relu = |x: u16| if p & RELU != 0 { relu_f16(x, 0x7c00) } else { x };
                u64::from(f16_to_e5m2(relu(a as u16))) | u64::from(f16_to_e5m2(relu((a >> 16) as u16))) << 8
            },
            (Type::F16x2, Type::E4m3x2) => |a, _, _, p| {
                let one = |x: u8| {
                    let out = e4m3_to_f16(x);
                    u64::from(if p & RELU != 0 { relu_f16(out, 0x7c00) } else { out })
                };
                one(a as u8) | one((a >> 8) as u8) << 16
            },
            (Type::F16x2, Type::E5m2x2) => |a, _, _, p| {
                let one = |x: u8| {
                    let out = e5m2_to_f16(x);
                    u64::from(if p & RELU != 0 { relu_f16(out, 0x7c00) } else { out })
                };
                one(a as u8) | one((a >> 8) as u8) << 16
            },
            _ => return None,
        })
    }

    fn emit_packed(&mut self, f: LaneFn, p: u32, to: Type, i: &Instruction<'a>) -> Result<()> {
        let (d, a, b) = match i.operands.as_slice() {
            [d, a, b] => (d, a, Some(b)),
            [d, a] => (d, a, None),
            _ => return self.error("wrong number of operands"),
        };
        if let Some(b) = b
            && p == 0
            && matches!(to, Type::F16x2 | Type::Bf16x2)
        {
            let (a, b, d) = (self.source(a, 32)?, self.source(b, 32)?, self.destination(d, 32)?);
            let op = if to == Type::F16x2 { Alu::PackF16x2 } else { Alu::PackBf16x2 };
            self.alu(op, d, a, b, ZERO, Class::Convert);
            return Ok(());
        }
        let bits = if b.is_some() || to != Type::F16x2 { 32 } else { 16 };
        let a = self.lane_source(a, bits)?;
        let b = match b {
            Some(b) => self.lane_source(b, 32)?,
            None => Self::reg(ZERO, 32),
        };
        let d = Self::reg(self.destination(d, to.bits())?, 32);
        self.lane(f, p, d, [a, b, Self::reg(ZERO, 32)], Class::Convert);
        Ok(())
    }

    /// `cvt.pack.sat.s16.s32` and its kin without accumulation into more than one register.
    fn convert_pack(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        m.take("sat");
        let to = self.need_type(m)?;
        self.need_type(m)?;
        let third = m.take("b32");
        let (d, a, b, c) = match (third, i.operands.as_slice()) {
            (true, [d, a, b, c]) => (d, a, b, self.lane_source(c, 32)?),
            (false, [d, a, b]) => (d, a, b, Self::reg(ZERO, 32)),
            _ => return self.error("wrong number of operands"),
        };
        let s = [self.lane_source(a, 32)?, self.lane_source(b, 32)?, c];
        let d = Self::reg(self.destination(d, 32)?, 32);
        let f: LaneFn = |a, b, c, p| {
            let (bits, signed) = (p & 0xff, p >> 8 != 0);
            let one = |x: u64| int_to_int(sign_extend(x, 32), true, bits, signed, true) & ((1 << bits) - 1);
            (c << (2 * bits) | one(a) << bits | one(b)) & 0xffff_ffff
        };
        self.lane(f, to.bits() | u32::from(to.signed()) << 8, d, s, Class::Convert);
        Ok(())
    }

    /// Shared addresses are offsets; all other spaces share the generic numbering.
    fn convert_address(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let to = m.take("to");
        let shared = m.take("shared") || m.take("shared::cta") || m.take("shared::cluster");
        let known = shared || ["global", "const", "local", "param", "param::entry"].iter().any(|w| m.take(w));
        if !known {
            return self.error("cvta without a state space");
        }
        let bits = self.need_type(m)?.bits();
        let [d, a] = self.operands(i)?;
        let (a, d) = (self.source(a, bits)?, self.destination(d, bits)?);
        if bits != 64 {
            return self.error("only 64-bit addresses are supported");
        }
        if !shared {
            self.alu(Alu::Mov64, d, a, ZERO, ZERO, Class::Move);
        } else {
            let window = self.constant(SHARED_WINDOW, true);
            self.alu(if to { Alu::Sub64 } else { Alu::Add64 }, d, a, window, ZERO, Class::Move);
        }
        Ok(())
    }
}

/// Stands for the frequent packs, which are whole-register operations.
fn pack_marker(a: u64, b: u64, _: u64, p: u32) -> u64 {
    convert(a, b, 0, p)
}
