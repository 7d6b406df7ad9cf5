//! Operands: constants, special registers, registers of the width wanted, predicates, addresses.

use super::program::*;
use super::{Decoder, FALSE, Name, Result};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW};
use crate::ptx::ast::*;
use crate::registers::*;

/// Marks a slot as 64 bits wide where a special register is looked up.
const WIDE_MARK: Slot = 1 << 31;

impl<'a> Decoder<'_, 'a> {
    pub(crate) fn constant(&mut self, value: u64, wide: bool) -> Slot {
        if value == 0 {
            return ZERO;
        }
        if let Some(&slot) = self.constants.get(&(value, wide)) {
            return slot;
        }
        let slot = self.program.slots;
        self.program.slots += 1 + u32::from(wide);
        self.constants.insert((value, wide), slot);
        self.program.constants.push((slot, value, wide));
        slot
    }

    pub(super) fn special(&mut self, special: Special) -> Slot {
        if let Some(&slot) = self.specials.get(&special) {
            return slot;
        }
        let slot = self.program.slots;
        self.program.slots += 1;
        self.specials.insert(special, slot);
        self.program.specials.push((slot, special));
        slot
    }

    pub(super) fn temporary(&mut self, wide: bool) -> Slot {
        let slot = self.program.slots;
        self.program.slots += 1 + u32::from(wide);
        slot
    }

    /// [`Self::lookup`] whose failure is not the instruction's.
    pub(super) fn lookup_quiet(&mut self, name: &'a str) -> std::result::Result<Name, ()> {
        self.lookup(name).map_err(|_| ())
    }

    /// A special register as a 32-bit slot, if the name is one.
    pub(super) fn special_by_name(&mut self, name: &str) -> Result<Option<Slot>> {
        let Some(rest) = name.strip_prefix('%') else {
            return Ok(if name == "WARP_SZ" { Some(self.constant(32, false)) } else { None });
        };
        let (base, axis) = match rest.split_once('.') {
            Some((base, "x")) => (base, 0u8),
            Some((base, "y")) => (base, 1),
            Some((base, "z")) => (base, 2),
            Some((base, "w")) => (base, 3),
            Some(_) => return Ok(None),
            None => (rest, 0),
        };
        use Special::*;
        let special = match base {
            "tid" => Tid(axis),
            "ntid" => Ntid(axis),
            "ctaid" => Ctaid(axis),
            "nctaid" => Nctaid(axis),
            "laneid" => LaneId,
            "warpid" => WarpId,
            "nwarpid" => NWarpId,
            "smid" => SmId,
            "nsmid" => NSmId,
            "gridid" => GridId,
            "clusterid" => ClusterId(axis),
            "nclusterid" => NClusterId(axis),
            "cluster_ctaid" => ClusterCtaId(axis),
            "cluster_nctaid" => ClusterNCtaId(axis),
            "cluster_ctarank" => ClusterCtaRank,
            "cluster_nctarank" => ClusterNCtaRank,
            "lanemask_eq" => LaneMaskEq,
            "lanemask_lt" => LaneMaskLt,
            "lanemask_le" => LaneMaskLe,
            "lanemask_gt" => LaneMaskGt,
            "lanemask_ge" => LaneMaskGe,
            "dynamic_smem_size" => DynamicShared,
            "total_smem_size" | "aggr_smem_size" => TotalShared,
            "current_graph_exec" | "reserved_smem_offset_begin" => Zero,
            "clock" | "clock64" | "clock_hi" | "globaltimer" | "globaltimer_lo" | "globaltimer_hi" => {
                let wide = matches!(base, "clock64" | "globaltimer");
                let slot = self.temporary(true);
                let nanoseconds = base.starts_with("globaltimer");
                self.emit(Op::Clock { d: slot, wide: true, nanoseconds }, Class::Move);
                if wide {
                    return Ok(Some(slot | WIDE_MARK));
                }
                let narrow = self.temporary(false);
                let half = if base.ends_with("_hi") { Alu::High64 } else { Alu::Low64 };
                self.alu(half, narrow, slot, ZERO, ZERO, Class::Move);
                return Ok(Some(narrow));
            }
            _ => return Ok(None),
        };
        if matches!(special, Tid(3) | Ntid(3) | Ctaid(3) | Nctaid(3)) {
            return Ok(Some(ZERO));
        }
        Ok(Some(self.special(special)))
    }

    /// A source operand as a register of `bits` width, converting width by truncation or zero-extension.
    pub(crate) fn source(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Slot> {
        let wide = bits == 64;
        let mask = if bits >= 64 { u64::MAX } else { (1u64 << bits) - 1 };
        match operand {
            Operand::Integer(value) => Ok(self.constant(value & mask, wide)),
            Operand::Float32(value) => Ok(self.constant(u64::from(*value), wide)),
            Operand::Float64(value) => {
                let bits64 = *value;
                let value = if wide { bits64 } else { u64::from((f64::from_bits(bits64) as f32).to_bits()) };
                Ok(self.constant(value, wide))
            }
            Operand::Name(name, offset) => {
                if *name == "_" {
                    return Ok(ZERO);
                }
                if let Some(slot) = self.special_by_name(name)? {
                    if slot & WIDE_MARK != 0 {
                        return self.resize(slot & !WIDE_MARK, 64, bits);
                    }
                    return self.resize(slot, 32, bits);
                }
                match self.lookup(name)? {
                    Name::Register(reg, ty) => {
                        if ty == Type::Pred {
                            return self.error(format!("predicate `{name}` where a value is expected"));
                        }
                        self.resize(reg.slot, ty.bits(), bits)
                    }
                    Name::Local(at, _) => {
                        let slot = self.temporary(true);
                        let at = (i64::from(at)).wrapping_add(*offset) as u32;
                        self.emit(Op::FrameAddress { d: slot, offset: at }, Class::Move);
                        self.resize(slot, 64, bits)
                    }
                    Name::Parameter(at) => {
                        let at = PARAM_WINDOW.wrapping_add(u64::from(at)).wrapping_add(*offset as u64);
                        Ok(self.constant(at & mask, wide))
                    }
                    Name::Shared(at) => {
                        Ok(self.constant(u64::from(at).wrapping_add(*offset as u64) & mask, wide))
                    }
                    Name::Device(address) => {
                        Ok(self.constant(address.wrapping_add(*offset as u64) & mask, wide))
                    }
                }
            }
            _ => self.error("expected a register or a constant"),
        }
    }

    pub(super) fn resize(&mut self, slot: Slot, from: u32, to: u32) -> Result<Slot> {
        if slot == ZERO || from == to || (from <= 32 && to == 32) {
            return Ok(slot);
        }
        let d = self.temporary(to == 64);
        match (from, to) {
            (64, 32) => self.alu(Alu::Low64, d, slot, ZERO, ZERO, Class::Move),
            (64, _) => {
                let low = self.temporary(false);
                self.alu(Alu::Low64, low, slot, ZERO, ZERO, Class::Move);
                let mask = self.constant((1 << to) - 1, false);
                self.alu(Alu::And32, d, low, mask, ZERO, Class::Move);
            }
            (_, 64) => self.alu(Alu::U32To64, d, slot, ZERO, ZERO, Class::Move),
            _ if from > to => {
                let mask = self.constant((1 << to) - 1, false);
                self.alu(Alu::And32, d, slot, mask, ZERO, Class::Move);
            }
            _ => return Ok(slot),
        }
        Ok(d)
    }

    /// A source as a [`Reg`] for a lane operation.
    pub(crate) fn lane_source(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Reg> {
        if bits == 1 {
            let read = self.pred_source(operand)?;
            let slot = if read.negated { self.negated_pred(read)? } else { read.pred };
            return Ok(Reg { slot, width: Width::Pred });
        }
        let slot = self.source(operand, bits)?;
        Ok(Reg { slot, width: if bits == 64 { Width::W64 } else { Width::W32 } })
    }

    pub(super) fn negated_pred(&mut self, read: PredRead) -> Result<u32> {
        let d = self.program.preds;
        self.program.preds += 1;
        self.emit(Op::PredLogic { op: Logic::Or, d, a: read, b: FALSE }, Class::Move);
        Ok(d)
    }

    /// A destination register of exactly the width class of `bits`; `_` is the sink.
    pub(crate) fn destination(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Slot> {
        let Operand::Name(name, 0) = operand else { return self.error("expected a destination register") };
        if *name == "_" {
            return Ok(SINK);
        }
        match self.lookup(name)? {
            Name::Register(reg, ty) => {
                let same = (ty.bits() == 64) == (bits == 64) && ty != Type::Pred;
                if same {
                    Ok(reg.slot)
                } else {
                    self.error(format!("register `{name}` has {} bits, expected {bits}", ty.bits()))
                }
            }
            _ => self.error(format!("`{name}` is no register")),
        }
    }

    /// A destination that may be wider than the value (loads and conversions): its register and type.
    pub(crate) fn any_destination(&mut self, operand: &Operand<'a>) -> Result<(Reg, Type)> {
        let Operand::Name(name, 0) = operand else { return self.error("expected a destination register") };
        if *name == "_" {
            return Ok((Reg { slot: SINK, width: Width::W64 }, Type::B64));
        }
        match self.lookup(name)? {
            Name::Register(reg, ty) => Ok((reg, ty)),
            _ => self.error(format!("`{name}` is no register")),
        }
    }

    /// A 128-bit register: its halves are two 64-bit ones.
    pub(crate) fn halves_128(&mut self, operand: &Operand<'a>) -> Result<[Reg; 2]> {
        let (reg, ty) = self.any_destination(operand)?;
        if ty != Type::B128 && reg.slot != SINK {
            return self.error(format!("a register of {} bits, expected 128", ty.bits()));
        }
        Ok([0, 2].map(|half| Reg { slot: reg.slot + half, width: Width::W64 }))
    }

    pub(crate) fn reg(slot: Slot, bits: u32) -> Reg {
        Reg { slot, width: if bits == 64 { Width::W64 } else { Width::W32 } }
    }

    pub(crate) fn pred_destination(&mut self, operand: &Operand<'a>) -> Result<u32> {
        let Operand::Name(name, 0) = operand else { return self.error("expected a predicate") };
        if *name == "_" {
            return Ok(PRED_SINK);
        }
        match self.lookup(name)? {
            Name::Register(reg, Type::Pred) => Ok(reg.slot),
            _ => self.error(format!("`{name}` is no predicate")),
        }
    }

    pub(crate) fn pred_source(&mut self, operand: &Operand<'a>) -> Result<PredRead> {
        match operand {
            Operand::Not(name) => {
                let read = self.pred_source(&Operand::Name(name, 0))?;
                Ok(PredRead { negated: !read.negated, ..read })
            }
            Operand::Integer(value) => {
                Ok(PredRead { pred: if *value == 0 { PRED_FALSE } else { PRED_TRUE }, negated: false })
            }
            Operand::Name(name, 0) => match self.lookup(name)? {
                Name::Register(reg, Type::Pred) => Ok(PredRead { pred: reg.slot, negated: false }),
                _ => self.error(format!("`{name}` is no predicate")),
            },
            _ => self.error("expected a predicate"),
        }
    }

    /// An address operand in a state space.
    pub(crate) fn address(&mut self, operand: &Operand<'a>, space: Space) -> Result<Address> {
        let Operand::Address { base, offset, coordinates } = operand else {
            return self.error("expected an address in brackets");
        };
        if !coordinates.is_empty() {
            return self.error("unexpected coordinates");
        }
        self.address_parts(*base, *offset, space)
    }

    pub(crate) fn address_parts(
        &mut self,
        base: Option<&'a str>,
        offset: i64,
        space: Space,
    ) -> Result<Address> {
        let plain = Address { space, base: ZERO, wide: true, frame: false, offset };
        let Some(name) = base else { return Ok(plain) };
        Ok(match self.lookup(name)? {
            Name::Register(reg, ty) if ty != Type::Pred => {
                Address { base: reg.slot, wide: ty.bits() == 64, ..plain }
            }
            Name::Register(..) => return self.error(format!("predicate `{name}` as an address")),
            Name::Local(at, _) => {
                let offset = LOCAL_WINDOW.wrapping_add(u64::from(at)) as i64;
                Address {
                    space: Space::Local,
                    frame: true,
                    offset: offset.wrapping_add(plain.offset),
                    ..plain
                }
            }
            Name::Parameter(at) => {
                let offset = PARAM_WINDOW.wrapping_add(u64::from(at)) as i64;
                Address { offset: offset.wrapping_add(plain.offset), ..plain }
            }
            Name::Shared(at) => Address { offset: plain.offset.wrapping_add(i64::from(at)), ..plain },
            Name::Device(address) => Address { offset: plain.offset.wrapping_add(address as i64), ..plain },
        })
    }

    /// Exactly `N` operands.
    pub(crate) fn operands<'o, const N: usize>(
        &self,
        instruction: &'o Instruction<'a>,
    ) -> Result<&'o [Operand<'a>; N]> {
        match instruction.operands.as_slice().try_into() {
            Ok(operands) => Ok(operands),
            Err(_) => self.error(format!(
                "`{}` has {} operands, expected {N}",
                instruction.opcode,
                instruction.operands.len()
            )),
        }
    }
}
