//! Floating-point arithmetic and the special functions.

use super::program::*;
use super::{Decoder, Modifiers, Result};
use crate::numeric::arith::*;
use crate::numeric::{Rounding, approx, arith};
use crate::ptx::ast::*;
use crate::registers::*;

/// Bits of a float operation's parameter: rounding in the low three, then flags.
pub(super) const FTZ: u32 = 8;
pub(super) const SAT: u32 = 16;
pub(super) const RELU: u32 = 32;
const NAN: u32 = 64;
const XOR: u32 = 128;
const MAX: u32 = 256;
const SUB: u32 = 512;

pub(super) fn rounding_of(parameter: u32) -> Rounding {
    match parameter & 7 {
        1 => Rounding::TowardZero,
        2 => Rounding::Down,
        3 => Rounding::Up,
        4 => Rounding::NearestAway,
        _ => Rounding::NearestEven,
    }
}

pub(super) fn take_rounding(m: &mut Modifiers<'_>) -> Option<u32> {
    m.find(|w| {
        Some(match w {
            "rn" | "rni" => 0,
            "rz" | "rzi" => 1,
            "rm" | "rmi" => 2,
            "rp" | "rpi" => 3,
            "rna" => 4,
            _ => return None,
        })
    })
}

fn in32(x: u64, p: u32) -> u32 {
    if p & FTZ != 0 { flush_f32(x as u32) } else { x as u32 }
}

fn out32(x: u32, p: u32) -> u64 {
    let x = if p & FTZ != 0 { flush_f32(x) } else { x };
    u64::from(if p & SAT != 0 { saturate_f32(x) } else { x })
}

fn out16(x: u16, p: u32, infinity: u16) -> u16 {
    let x = if p & FTZ != 0 { flush_f16(x) } else { x };
    let x = if p & SAT != 0 { saturate_f16(x) } else { x };
    if p & RELU != 0 { relu_f16(x, infinity) } else { x }
}

fn in16(x: u16, p: u32) -> u16 {
    if p & FTZ != 0 { flush_f16(x) } else { x }
}

fn rule(p: u32) -> MinMax {
    MinMax { max: p & MAX != 0, nan: p & NAN != 0, xorsign_abs: p & XOR != 0 }
}

/// A lane function that works on both halves of packed f16 or bf16, from one on a half.
macro_rules! half_fns {
    ($name2:ident, $name3:ident, $f:expr) => {
        fn $name2(a: u64, b: u64, c: u64, p: u32) -> u64 {
            u64::from($f(a as u16, b as u16, c as u16, p))
        }
        fn $name3(a: u64, b: u64, c: u64, p: u32) -> u64 {
            u64::from(arith::packed3(a as u32, b as u32, c as u32, |a, b, c| $f(a, b, c, p)))
        }
    };
}
half_fns!(h_add, h_add2, |a, b, _: u16, p| out16(add_f16(in16(a, p), in16(b, p)), p, 0x7c00));
half_fns!(h_sub, h_sub2, |a, b, _: u16, p| out16(sub_f16(in16(a, p), in16(b, p)), p, 0x7c00));
half_fns!(h_mul, h_mul2, |a, b, _: u16, p| out16(mul_f16(in16(a, p), in16(b, p)), p, 0x7c00));
half_fns!(h_fma, h_fma2, |a, b, c, p| out16(fma_f16(in16(a, p), in16(b, p), in16(c, p)), p, 0x7c00));
half_fns!(b_add, b_add2, |a, b, _: u16, p| out16(add_bf16(a, b), p, 0x7f80));
half_fns!(b_sub, b_sub2, |a, b, _: u16, p| out16(sub_bf16(a, b), p, 0x7f80));
half_fns!(b_mul, b_mul2, |a, b, _: u16, p| out16(mul_bf16(a, b), p, 0x7f80));
half_fns!(b_fma, b_fma2, |a, b, c, p| out16(fma_bf16(a, b, c), p, 0x7f80));
half_fns!(h_minmax, h_minmax2, |a, b, _: u16, p| min_max_f16(in16(a, p), in16(b, p), rule(p)));
half_fns!(b_minmax, b_minmax2, |a, b, _: u16, p| min_max_bf16(a, b, rule(p)));
half_fns!(h_ex2, h_ex2_2, |a, _: u16, _: u16, p| approx::ex2_f16(in16(a, p)));
half_fns!(b_ex2, b_ex2_2, |a, _: u16, _: u16, _: u32| approx::ex2_bf16(a));
half_fns!(h_tanh, h_tanh2, |a, _: u16, _: u16, _: u32| approx::tanh_f16(a));
half_fns!(b_tanh, b_tanh2, |a, _: u16, _: u16, _: u32| approx::tanh_bf16(a));
half_fns!(h_neg, h_neg2, |a, _: u16, _: u16, p| in16(a, p) ^ 0x8000);
half_fns!(h_abs, h_abs2, |a, _: u16, _: u16, p| in16(a, p) & 0x7fff);

impl<'a> Decoder<'_, 'a> {
    /// Floating-point instructions; false if the name is none of them.
    pub(super) fn floating(
        &mut self,
        name: &str,
        m: &mut Modifiers<'a>,
        i: &Instruction<'a>,
    ) -> Result<bool> {
        match name {
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt" | "rsqrt" | "min" | "max"
            | "abs" | "neg" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => {}
            "testp" => {
                self.testp(m, i)?;
                return Ok(true);
            }
            "copysign" => {
                let bits = self.need_type(m)?.bits();
                let [d, a, b] = self.operands(i)?;
                let f: LaneFn = |a, b, _, bits| b & !(1 << (bits - 1)) | a & 1 << (bits - 1);
                self.lane2(f, bits, d, [a, b], bits)?;
                return Ok(true);
            }
            _ => return Ok(false),
        }
        let approximate = m.take("approx");
        let full = m.take("full");
        let mut p = take_rounding(m).unwrap_or(0);
        for (word, flag) in [("ftz", FTZ), ("sat", SAT), ("relu", RELU), ("NaN", NAN)] {
            p |= if m.take(word) { flag } else { 0 };
        }
        if m.take("xorsign") {
            m.take("abs");
            p |= XOR;
        }
        p |= if name == "max" { MAX } else { 0 } | if name == "sub" { SUB } else { 0 };
        let ty = self.need_type(m)?;
        let arity = match name {
            "fma" | "mad" => 3,
            "add" | "sub" | "mul" | "div" | "min" | "max" => 2,
            _ => 1,
        };
        let three = i.operands.len() == 4 && matches!(name, "min" | "max");
        if i.operands.len() != arity + 1 && !three {
            return self.error(format!("`{}` has {} operands", i.opcode, i.operands.len()));
        }
        let zero = Operand::Integer(0);
        let bits = ty.bits();
        let (d, a) = (&i.operands[0], &i.operands[1]);
        let b = if arity >= 2 { &i.operands[2] } else { &zero };
        let c = if arity >= 3 { &i.operands[3] } else { &zero };
        let class = match name {
            "add" | "sub" | "mul" | "fma" | "mad" | "min" | "max" | "abs" | "neg" => Class::Float,
            _ => Class::Special,
        };
        // The frequent forms work on whole warp registers.
        let plain = p & !(MAX | SUB);
        let hot = match (name, ty, plain) {
            _ if three => None,
            ("add", Type::F32, 0) => Some(Alu::FAdd),
            ("sub", Type::F32, 0) => Some(Alu::FSub),
            ("mul", Type::F32, 0) => Some(Alu::FMul),
            ("fma" | "mad", Type::F32, 0) => Some(Alu::FFma),
            ("add", Type::F32, FTZ) => Some(Alu::FAddFtz),
            ("sub", Type::F32, FTZ) => Some(Alu::FSubFtz),
            ("mul", Type::F32, FTZ) => Some(Alu::FMulFtz),
            ("fma" | "mad", Type::F32, FTZ) => Some(Alu::FFmaFtz),
            ("min", Type::F32, 0) => Some(Alu::FMin),
            ("max", Type::F32, 0) => Some(Alu::FMax),
            ("neg", Type::F32, 0) => Some(Alu::FNeg),
            ("abs", Type::F32, 0) => Some(Alu::FAbs),
            ("ex2", Type::F32, _) => Some(Alu::Ex2),
            ("rcp", Type::F32, _) if approximate => Some(Alu::Rcp),
            ("rcp", Type::F32, 0) => Some(Alu::RcpRn),
            ("rsqrt", Type::F32, _) => Some(Alu::Rsqrt),
            ("sqrt", Type::F32, 0) if !approximate => Some(Alu::SqrtRn),
            ("div", Type::F32, 0) if !approximate && !full => Some(Alu::DivRn),
            ("add", Type::F64, 0) => Some(Alu::DAdd),
            ("sub", Type::F64, 0) => Some(Alu::DSub),
            ("mul", Type::F64, 0) => Some(Alu::DMul),
            ("fma" | "mad", Type::F64, 0) => Some(Alu::DFma),
            ("add", Type::F16x2, 0) => Some(Alu::HAdd2),
            ("mul", Type::F16x2, 0) => Some(Alu::HMul2),
            ("fma", Type::F16x2, 0) => Some(Alu::HFma2),
            ("add", Type::Bf16x2, 0) => Some(Alu::BAdd2),
            ("mul", Type::Bf16x2, 0) => Some(Alu::BMul2),
            ("fma", Type::Bf16x2, 0) => Some(Alu::BFma2),
            _ => None,
        };
        if let Some(op) = hot {
            let (a, b, c) = (self.source(a, bits)?, self.source(b, bits)?, self.source(c, bits)?);
            let d = self.destination(d, bits)?;
            self.emit(Op::Alu { op, d, a, b, c, imm: u32::from(p & FTZ != 0) }, class);
            return Ok(true);
        }
        let f: Option<LaneFn> = match (ty, name) {
            (Type::F32, _) => self.lane_f32(name, approximate, full),
            (Type::F64, _) => self.lane_f64(name, approximate),
            (Type::F16, "add") => Some(h_add),
            (Type::F16, "sub") => Some(h_sub),
            (Type::F16, "mul") => Some(h_mul),
            (Type::F16, "fma") => Some(h_fma),
            (Type::F16, "min" | "max") => Some(h_minmax),
            (Type::F16, "ex2") => Some(h_ex2),
            (Type::F16, "tanh") => Some(h_tanh),
            (Type::F16 | Type::Bf16, "neg") => Some(h_neg),
            (Type::F16 | Type::Bf16, "abs") => Some(h_abs),
            (Type::F16x2, "add") => Some(h_add2),
            (Type::F16x2, "sub") => Some(h_sub2),
            (Type::F16x2, "mul") => Some(h_mul2),
            (Type::F16x2, "fma") => Some(h_fma2),
            (Type::F16x2, "min" | "max") => Some(h_minmax2),
            (Type::F16x2, "ex2") => Some(h_ex2_2),
            (Type::F16x2, "tanh") => Some(h_tanh2),
            (Type::F16x2 | Type::Bf16x2, "neg") => Some(h_neg2),
            (Type::F16x2 | Type::Bf16x2, "abs") => Some(h_abs2),
            (Type::Bf16, "add") => Some(b_add),
            (Type::Bf16, "sub") => Some(b_sub),
            (Type::Bf16, "mul") => Some(b_mul),
            (Type::Bf16, "fma") => Some(b_fma),
            (Type::Bf16, "min" | "max") => Some(b_minmax),
            (Type::Bf16, "ex2") => Some(b_ex2),
            (Type::Bf16, "tanh") => Some(b_tanh),
            (Type::Bf16x2, "add") => Some(b_add2),
            (Type::Bf16x2, "sub") => Some(b_sub2),
            (Type::Bf16x2, "mul") => Some(b_mul2),
            (Type::Bf16x2, "fma") => Some(b_fma2),
            (Type::Bf16x2, "min" | "max") => Some(b_minmax2),
            (Type::Bf16x2, "ex2") => Some(b_ex2_2),
            (Type::Bf16x2, "tanh") => Some(b_tanh2),
            _ => None,
        };
        let Some(f) = f else { return self.error(format!("unknown instruction `{}`", i.opcode)) };
        let s = [self.lane_source(a, bits)?, self.lane_source(b, bits)?, self.lane_source(c, bits)?];
        let d = Self::reg(self.destination(d, bits)?, bits);
        if !three {
            self.lane(f, p, d, s, class);
            return Ok(true);
        }
        // The destination may be the third operand.
        let first = Self::reg(self.temporary(bits == 64), bits);
        let c = self.lane_source(&i.operands[3], bits)?;
        self.lane(f, p, first, s, class);
        self.lane(f, p, d, [first, c, Self::reg(ZERO, bits)], class);
        Ok(true)
    }

    fn lane_f32(&self, name: &str, approximate: bool, full: bool) -> Option<LaneFn> {
        Some(match name {
            "add" | "sub" => |a, b, _, p| {
                let (a, b) = (in32(a, p), in32(b, p));
                out32(add_f32(a, if p & SUB != 0 { b ^ 1 << 31 } else { b }, rounding_of(p)), p)
            },
            "mul" => |a, b, _, p| out32(mul_f32(in32(a, p), in32(b, p), rounding_of(p)), p),
            "fma" | "mad" => {
                |a, b, c, p| out32(fma_f32(in32(a, p), in32(b, p), in32(c, p), rounding_of(p)), p)
            }
            "div" if approximate => {
                |a, b, _, p| u64::from(approx::div_approx_f32(a as u32, b as u32, p & FTZ != 0))
            }
            "div" if full => |a, b, _, p| u64::from(approx::div_full_f32(a as u32, b as u32, p & FTZ != 0)),
            "div" => |a, b, _, p| out32(div_f32(in32(a, p), in32(b, p), rounding_of(p)), p),
            "rcp" => |a, _, _, p| out32(rcp_f32(in32(a, p), rounding_of(p)), p),
            "sqrt" if approximate => |a, _, _, p| u64::from(approx::sqrt_f32(a as u32, p & FTZ != 0)),
            "sqrt" => |a, _, _, p| out32(sqrt_f32(in32(a, p), rounding_of(p)), p),
            "sin" => |a, _, _, p| u64::from(approx::sin_f32(a as u32, p & FTZ != 0)),
            "cos" => |a, _, _, p| u64::from(approx::cos_f32(a as u32, p & FTZ != 0)),
            "lg2" => |a, _, _, p| u64::from(approx::lg2_f32(a as u32, p & FTZ != 0)),
            "tanh" => |a, _, _, _| u64::from(approx::tanh_f32(a as u32)),
            "min" | "max" => |a, b, _, p| out32(min_max_f32(in32(a, p), in32(b, p), rule(p)), p),
            "neg" => |a, _, _, p| u64::from(in32(a, p) ^ 1 << 31),
            "abs" => |a, _, _, p| u64::from(in32(a, p) & !(1 << 31)),
            _ => return None,
        })
    }

    fn lane_f64(&self, name: &str, approximate: bool) -> Option<LaneFn> {
        const SIGN: u64 = 1 << 63;
        Some(match name {
            "add" | "sub" => |a, b, _, p| add_f64(a, if p & SUB != 0 { b ^ SIGN } else { b }, rounding_of(p)),
            "mul" => |a, b, _, p| mul_f64(a, b, rounding_of(p)),
            "fma" | "mad" => |a, b, c, p| fma_f64(a, b, c, rounding_of(p)),
            "div" => |a, b, _, p| match p & 7 {
                0 => (f64::from_bits(a) / f64::from_bits(b)).to_bits(),
                _ => div_f64(a, b, rounding_of(p)),
            },
            "rcp" if approximate => |a, _, _, _| approx::rcp_approx_f64(a),
            "rcp" => |a, _, _, p| rcp_f64(a, rounding_of(p)),
            "sqrt" => |a, _, _, p| sqrt_f64(a, rounding_of(p)),
            "rsqrt" => |a, _, _, _| approx::rsqrt_approx_f64(a),
            "min" | "max" => |a, b, _, p| min_max_f64(a, b, rule(p)),
            "neg" => |a, _, _, _| a ^ SIGN,
            "abs" => |a, _, _, _| a & !SIGN,
            _ => return None,
        })
    }

    fn testp(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let tests: [(&str, LaneFn, LaneFn); 6] = [
            (
                "finite",
                |a, _, _, _| test_f32(a as u32, Test::Finite).into(),
                |a, _, _, _| test_f64(a, Test::Finite).into(),
            ),
            (
                "infinite",
                |a, _, _, _| test_f32(a as u32, Test::Infinite).into(),
                |a, _, _, _| test_f64(a, Test::Infinite).into(),
            ),
            (
                "number",
                |a, _, _, _| test_f32(a as u32, Test::Number).into(),
                |a, _, _, _| test_f64(a, Test::Number).into(),
            ),
            (
                "notanumber",
                |a, _, _, _| test_f32(a as u32, Test::NotANumber).into(),
                |a, _, _, _| test_f64(a, Test::NotANumber).into(),
            ),
            (
                "normal",
                |a, _, _, _| test_f32(a as u32, Test::Normal).into(),
                |a, _, _, _| test_f64(a, Test::Normal).into(),
            ),
            (
                "subnormal",
                |a, _, _, _| test_f32(a as u32, Test::Subnormal).into(),
                |a, _, _, _| test_f64(a, Test::Subnormal).into(),
            ),
        ];
        let Some((_, single, double)) = tests.into_iter().find(|(word, ..)| m.take(word)) else {
            return self.error("testp without a test");
        };
        let bits = self.need_type(m)?.bits();
        let [d, a] = self.operands(i)?;
        let a = self.lane_source(a, bits)?;
        let d = Reg { slot: self.pred_destination(d)?, width: Width::Pred };
        let zero = Self::reg(ZERO, 32);
        self.lane(if bits == 64 { double } else { single }, 0, d, [a, zero, zero], Class::Float);
        Ok(())
    }
}
