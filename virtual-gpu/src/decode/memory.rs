//! Loads, stores, atomics, cp.async and fences.

use super::program::*;
use super::{Decoder, Modifiers, Result};
use crate::ptx::ast::*;
use crate::registers::*;

const NO_REG: Reg = Reg { slot: SINK, width: Width::W32 };

pub(super) fn take_space(m: &mut Modifiers<'_>) -> Option<Space> {
    m.find(|w| {
        Some(match w {
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" | "shared::cta" => Space::Shared,
            "shared::cluster" => Space::SharedCluster,
            "local" => Space::Local,
            "param" | "param::entry" | "param::func" => Space::Param,
            _ => return None,
        })
    })
}

pub(super) fn take_scope(m: &mut Modifiers<'_>) -> Option<Scope> {
    m.find(|w| {
        Some(match w {
            "cta" => Scope::Cta,
            "cluster" => Scope::Cluster,
            "gpu" | "gl" => Scope::Gpu,
            "sys" => Scope::System,
            _ => return None,
        })
    })
}

/// Cache operators and eviction priorities change no result.
pub(super) fn skip_cache_hints(m: &mut Modifiers<'_>) {
    const HINTS: [&str; 18] = [
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_last",
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ];
    for hint in HINTS {
        m.take(hint);
    }
}

impl<'a> Decoder<'_, 'a> {
    /// Memory instructions; false if the name is none of them.
    pub(super) fn memory(&mut self, name: &str, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<bool> {
        match name {
            "ld" | "ldu" => self.load_store(true, m, i)?,
            "st" if !m.has("async") && !m.has("bulk") => self.load_store(false, m, i)?,
            "atom" | "red" if !m.has("async") => self.atomic(name == "atom", m, i)?,
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                while m.find(|_| Some(())).is_some() {}
                self.emit(Op::Nop, Class::Memory);
            }
            "createpolicy" => {
                while m.find(|_| Some(())).is_some() {}
                let Some(d) = i.operands.first() else {
                    return self.error("createpolicy without a destination");
                };
                let d = self.destination(d, 64)?;
                self.alu(Alu::Mov64, d, ZERO, ZERO, ZERO, Class::Move);
            }
            "membar" | "fence" if !m.has("proxy") && !m.has("mbarrier_init") => {
                m.take("sc");
                m.take("acq_rel");
                m.take("acquire");
                m.take("release");
                m.take("sync_restrict::shared::cluster");
                m.take("sync_restrict::shared::cta");
                let scope = take_scope(m).unwrap_or(Scope::System);
                if scope >= Scope::Gpu {
                    self.program.communicates = true;
                }
                self.emit(Op::Fence { scope, light: false }, Class::Sync);
            }
            "isspacep" => {
                let Some(space) = take_space(m) else { return self.error("isspacep without a state space") };
                let [p, a] = self.operands(i)?;
                let (p, a) = (self.pred_destination(p)?, self.source(a, 64)?);
                self.emit(Op::IsSpace { p, a, wide: true, space }, Class::Integer);
            }
            "cp" if m.has("async") && !m.has("bulk") && !m.has("mbarrier") && !m.has("reduce") => {
                self.cp_async(m, i)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// An operand read by a store as a register of its own width.
    fn stored(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Reg> {
        if let Operand::Name(name, 0) = operand
            && let Ok(super::Name::Register(reg, ty)) = self.lookup_quiet(name)
            && ty != Type::Pred
        {
            return Ok(reg);
        }
        let bits = bits.max(32);
        Ok(Self::reg(self.source(operand, bits)?, bits))
    }

    fn load_store(&mut self, load: bool, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        skip_cache_hints(m);
        let hint = m.take("L2::cache_hint");
        m.take("mmio");
        let strength = m
            .find(|w| {
                Some(match w {
                    "weak" => Strength::Weak,
                    "volatile" => Strength::Volatile,
                    "relaxed" => Strength::Relaxed,
                    "acquire" => Strength::Acquire,
                    "release" => Strength::Release,
                    _ => return None,
                })
            })
            .unwrap_or(Strength::Weak);
        let constant_cache = m.take("nc");
        let space = take_space(m).unwrap_or(Space::Generic);
        let scope = take_scope(m).unwrap_or(Scope::System);
        skip_cache_hints(m);
        let count = m
            .find(|w| match w {
                "v2" => Some(2),
                "v4" => Some(4),
                "v8" => Some(8),
                _ => None,
            })
            .unwrap_or(1);
        let ty = self.need_type(m)?;
        if strength != Strength::Weak && matches!(space, Space::Generic | Space::Global) {
            self.program.communicates = true;
        }
        let operands = match i.operands.as_slice() {
            [a, b] => [a, b],
            [a, b, _] if hint => [a, b],
            _ => return self.error("wrong number of operands"),
        };
        let (value, address) = if load { (operands[0], operands[1]) } else { (operands[1], operands[0]) };
        let address = self.address(address, space)?;
        let parts: Vec<&Operand<'a>> = match value {
            Operand::Vector(parts) if parts.len() == count => parts.iter().collect(),
            other if count == 1 => vec![other],
            _ => return self.error("vector of another length than the instruction says"),
        };
        let mut registers = [NO_REG; 8];
        let mut bytes = ty.bytes();
        let mut count = count as u32;
        if ty == Type::B128 {
            // Two halves of eight bytes, in neighbouring slots.
            if count != 1 {
                return self.error("a vector of 128-bit elements");
            }
            registers[..2].copy_from_slice(&self.halves_128(parts[0])?);
            (bytes, count) = (8, 2);
        } else {
            for (register, part) in registers.iter_mut().zip(parts) {
                *register = if load {
                    let (reg, reg_ty) = self.any_destination(part)?;
                    if reg.width == Width::Pred {
                        return self.error("a load into a predicate");
                    }
                    if reg_ty.bits() < ty.bits() {
                        return self.error("a load into a narrower register");
                    }
                    reg
                } else {
                    self.stored(part, ty.bits())?
                };
            }
        }
        let access = Box::new(Access {
            address,
            bytes,
            count,
            registers,
            signed: ty.signed(),
            strength,
            scope,
            constant_cache,
        });
        self.emit(if load { Op::Load(access) } else { Op::Store(access) }, Class::Memory);
        if load && ty.signed() && ty.bits() == 8 {
            // A 16-bit register holds its value zero-extended.
            for k in 0..count as usize {
                let part = match value {
                    Operand::Vector(parts) => &parts[k],
                    other => other,
                };
                let (reg, reg_ty) = self.any_destination(part)?;
                if reg_ty.bits() == 16 {
                    let mask = self.constant(0xffff, false);
                    self.alu(Alu::And32, reg.slot, reg.slot, mask, ZERO, Class::Move);
                }
            }
        }
        Ok(())
    }

    fn atomic(&mut self, returns: bool, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        let hint = m.take("L2::cache_hint");
        m.take("noftz");
        let strength = m
            .find(|w| {
                Some(match w {
                    "relaxed" => Strength::Relaxed,
                    "acquire" => Strength::Acquire,
                    "release" => Strength::Release,
                    "acq_rel" => Strength::AcquireRelease,
                    _ => return None,
                })
            })
            .unwrap_or(Strength::Relaxed);
        let space = take_space(m).unwrap_or(Space::Generic);
        let scope = take_scope(m).unwrap_or(Scope::Gpu);
        let Some(op) = m.find(|w| {
            ["and", "or", "xor", "exch", "cas", "add", "inc", "dec", "min", "max"]
                .iter()
                .position(|n| *n == w)
        }) else {
            return self.error("atomic without an operation");
        };
        let count = m
            .find(|w| match w {
                "v2" => Some(2u32),
                "v4" => Some(4),
                "v8" => Some(8),
                _ => None,
            })
            .unwrap_or(1);
        let ty = self.need_type(m)?;
        use Type::*;
        let op = match (op, ty) {
            (0, _) => Rmw::And,
            (1, _) => Rmw::Or,
            (2, _) => Rmw::Xor,
            (3, _) => Rmw::Exch,
            (4, _) => Rmw::Cas,
            (5, F16) => Rmw::AddF16,
            (5, F16x2) => Rmw::AddF16x2,
            (5, Bf16) => Rmw::AddBf16,
            (5, Bf16x2) => Rmw::AddBf16x2,
            (5, F32) => Rmw::AddF32,
            (5, F64) => Rmw::AddF64,
            (5, _) => Rmw::Add,
            (6, _) => Rmw::Inc,
            (7, _) => Rmw::Dec,
            (8, F16) => Rmw::MinF16,
            (9, F16) => Rmw::MaxF16,
            (8, Bf16) => Rmw::MinBf16,
            (9, Bf16) => Rmw::MaxBf16,
            (8, F16x2) => Rmw::MinF16x2,
            (9, F16x2) => Rmw::MaxF16x2,
            (8, Bf16x2) => Rmw::MinBf16x2,
            (9, Bf16x2) => Rmw::MaxBf16x2,
            (8, t) if t.signed() => Rmw::MinS,
            (9, t) if t.signed() => Rmw::MaxS,
            (8, _) => Rmw::MinU,
            _ => Rmw::MaxU,
        };
        if !matches!(space, Space::Shared | Space::SharedCluster) {
            self.program.communicates = true;
        }
        let mut operands = i.operands.as_slice();
        if hint {
            operands = &operands[..operands.len().saturating_sub(1)];
        }
        let (d, rest) = match (returns, operands) {
            (true, [d, rest @ ..]) => (Some(d), rest),
            (_, rest) => (None, rest),
        };
        let (address, b, c) = match (op, rest) {
            (Rmw::Cas, [address, b, c]) => (address, b, Some(c)),
            (_, [address, b]) if op != Rmw::Cas => (address, b, None),
            _ => return self.error("wrong number of operands"),
        };
        let bits = ty.bits();
        let address = self.address(address, space)?;
        if bits == 128 {
            if !matches!(op, Rmw::Exch | Rmw::Cas) || count != 1 {
                return self.error(format!("unknown instruction `{}`", i.opcode));
            }
            let mut whole = |operand: &Operand<'a>| Ok(self.halves_128(operand)?[0]);
            let mut b_registers = [NO_REG; 8];
            b_registers[0] = whole(b)?;
            let c = c.map_or(Ok(Self::reg(ZERO, 64)), &mut whole)?;
            let d = match d {
                Some(d) => {
                    let mut registers = [NO_REG; 8];
                    registers[0] = whole(d)?;
                    Some(registers)
                }
                None => None,
            };
            let atomic = Atomic { op, address, bytes: 16, count, d, b: b_registers, c, strength, scope };
            self.emit(Op::Atomic(Box::new(atomic)), Class::Memory);
            return Ok(());
        }
        let parts = |operand: &Operand<'a>| -> Vec<Operand<'a>> {
            match operand {
                Operand::Vector(parts) => parts.clone(),
                other => vec![other.clone()],
            }
        };
        let mut sources = [NO_REG; 8];
        let b = parts(b);
        if b.len() != count as usize {
            return self.error("vector of another length than the instruction says");
        }
        for (to, part) in sources.iter_mut().zip(&b) {
            *to = Self::reg(self.source(part, bits)?, bits);
        }
        let c = match c {
            Some(c) => Self::reg(self.source(c, bits)?, bits),
            None => Self::reg(ZERO, bits),
        };
        let d = match d {
            None => None,
            Some(d) => {
                let mut to = [NO_REG; 8];
                for (to, part) in to.iter_mut().zip(&parts(d)) {
                    *to = Self::reg(self.destination(part, bits)?, bits);
                }
                Some(to)
            }
        };
        let atomic = Atomic { op, address, bytes: ty.bytes(), count, d, b: sources, c, strength, scope };
        self.emit(Op::Atomic(Box::new(atomic)), Class::Memory);
        Ok(())
    }

    fn cp_async(&mut self, m: &mut Modifiers<'a>, i: &Instruction<'a>) -> Result<()> {
        m.take("async");
        if m.take("commit_group") {
            self.emit(Op::CpAsyncCommit, Class::Asynchronous);
            return Ok(());
        }
        if m.take("wait_all") {
            self.emit(Op::CpAsyncWait { pending: 0, all: true }, Class::Asynchronous);
            return Ok(());
        }
        if m.take("wait_group") {
            let [Operand::Integer(n)] = self.operands(i)? else {
                return self.error("cp.async.wait_group needs a constant");
            };
            self.emit(Op::CpAsyncWait { pending: *n as u32, all: false }, Class::Asynchronous);
            return Ok(());
        }
        let hint = m.take("L2::cache_hint");
        skip_cache_hints(m);
        let shared = m.take("shared") || m.take("shared::cta");
        if !shared || !m.take("global") {
            return self.error("cp.async copies from .global to .shared");
        }
        skip_cache_hints(m);
        let mut operands = i.operands.as_slice();
        if hint {
            operands = &operands[..operands.len().saturating_sub(1)];
        }
        let (dst, src, size, extra) = match operands {
            [dst, src, Operand::Integer(size)] => (dst, src, *size, None),
            [dst, src, Operand::Integer(size), extra] => (dst, src, *size, Some(extra)),
            _ => return self.error("cp.async needs destination, source and a constant size"),
        };
        if !matches!(size, 4 | 8 | 16) {
            return self.error("cp.async copies 4, 8 or 16 bytes");
        }
        let (mut src_bytes, mut ignore_src) = (None, None);
        if let Some(extra) = extra {
            let is_pred = match extra {
                Operand::Not(_) => true,
                Operand::Name(name, _) => {
                    matches!(self.lookup_quiet(name), Ok(super::Name::Register(_, Type::Pred)))
                }
                _ => false,
            };
            if is_pred {
                ignore_src = Some(self.pred_source(extra)?);
            } else {
                src_bytes = Some(self.source(extra, 32)?);
            }
        }
        let copy = CpAsync {
            dst: self.address(dst, Space::Shared)?,
            src: self.address(src, Space::Global)?,
            bytes: size as u32,
            src_bytes,
            ignore_src,
        };
        self.emit(Op::CpAsync(Box::new(copy)), Class::Asynchronous);
        Ok(())
    }
}
