//! Registers that wgmma works on while the threads go on: which are in flight, and which a fence must still show to it.
//!
//! PTX names values, not registers: the compiler copies accumulators from name to name between products. A move
//! therefore hands over what its source is, in flight or fenced, as the assembler will keep both in one register. It
//! cannot where a later product sums in the one while the other is still read: then the move reads what is in flight.

use super::warp::Warp;
use super::wgmma::{AOperand, Wgmma, settle_deferred};
use super::{At, Context};
use crate::decode::program::{Alu, Op};
use crate::decode::watched::{is_constant, registers};
use crate::findings::{Kind, Party};
use crate::hash::FastMap;
use crate::options::Checks;
use crate::registers::Slot;

/// What wgmma does to a register in flight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flight {
    /// Reads it as A.
    Reads,
    /// Sums in it.
    Sums,
    /// Sums in it, and a move has handed the sums over to another register.
    HandedOver,
}

/// A warp's part in its warpgroup's products.
#[derive(Default)]
pub struct WgmmaState {
    /// A wgmma.fence was executed.
    fenced: bool,
    /// A bit a register: written since the last wgmma.fence, not by wgmma.
    unfenced: Vec<u64>,
    /// Groups committed.
    commits: u64,
    /// By register: in flight for the group of this number, and how.
    in_flight: Vec<Option<(u64, Flight)>>,
    /// The registers in flight.
    list: Vec<Slot>,
    /// Registers that moves have given one value in flight: the group of each, and its members with the move's
    /// instruction.
    shared: FastMap<Slot, u32>,
    groups: FastMap<u32, Vec<(Slot, u32)>>,
    last_group: u32,
    /// Copies that no longer share a register with what they were moved from, and the instruction of the move.
    copies: FastMap<Slot, u32>,
}

impl WgmmaState {
    pub fn commits(&self) -> u64 {
        self.commits
    }

    pub fn commit(&mut self) {
        self.commits += 1;
    }

    pub fn fence(&mut self) {
        self.fenced = true;
        self.unfenced.fill(0);
    }

    /// A product of the open group has been issued; `scale` says whether it adds to what its accumulators hold.
    pub fn issued(&mut self, op: &Wgmma, scale: bool) {
        if !self.shared.is_empty() || !self.copies.is_empty() {
            op.d.iter().for_each(|&slot| self.summed(slot, scale));
        }
        if let AOperand::Registers(slots) = &op.a {
            slots.iter().for_each(|&slot| self.put(slot, Flight::Reads, self.commits));
        }
        for &slot in &op.d {
            self.put(slot, Flight::Sums, self.commits);
            self.set_unfenced(slot, false);
        }
    }

    /// The groups before `until` are done.
    pub fn waited(&mut self, until: u64) {
        let flights = &mut self.in_flight;
        self.list.retain(|&slot| {
            let flight = &mut flights[slot as usize];
            *flight = flight.filter(|(group, _)| *group >= until);
            flight.is_some()
        });
        if !self.shared.is_empty() {
            let gone = |slot: Slot| flights[slot as usize].is_none();
            self.shared.retain(|&slot, _| !gone(slot));
            self.groups.retain(|_, members| {
                members.retain(|(slot, _)| !gone(*slot));
                !members.is_empty()
            });
        }
    }

    /// A move of what is in flight.
    fn moved(&mut self, pc: u32, to: Slot, from: Slot) {
        self.overwritten(to);
        let group = *self.shared.entry(from).or_insert_with(|| {
            self.last_group += 1;
            self.groups.insert(self.last_group, vec![(from, pc)]);
            self.last_group
        });
        self.groups.entry(group).or_default().push((to, pc));
        self.shared.insert(to, group);
    }

    /// A product sums in this register, so that what else has its value is a copy from now on.
    fn summed(&mut self, slot: Slot, scale: bool) {
        if scale && let Some(members) = self.shared.get(&slot).and_then(|group| self.groups.remove(group)) {
            for (member, pc) in members {
                self.shared.remove(&member);
                if member != slot {
                    self.copies.insert(member, pc);
                }
            }
        }
        self.overwritten(slot);
    }

    /// The register is written: it has its value for itself.
    fn overwritten(&mut self, slot: Slot) {
        if !self.copies.is_empty() {
            self.copies.remove(&slot);
        }
        if !self.shared.is_empty()
            && let Some(group) = self.shared.remove(&slot)
            && let Some(members) = self.groups.get_mut(&group)
        {
            members.retain(|(member, _)| *member != slot);
        }
    }

    pub fn unfinished(&self) -> bool {
        !self.list.is_empty()
    }

    fn flight(&self, slot: Slot) -> Option<(u64, Flight)> {
        self.in_flight.get(slot as usize).copied().flatten()
    }

    fn put(&mut self, slot: Slot, flight: Flight, group: u64) {
        let index = slot as usize;
        if self.in_flight.len() <= index {
            self.in_flight.resize(index + 1, None);
        }
        if self.in_flight[index].is_none() {
            self.list.push(slot);
        }
        self.in_flight[index] = Some((group, flight));
    }

    fn is_unfenced(&self, slot: Slot) -> bool {
        self.unfenced.get(slot as usize / 64).is_some_and(|bits| bits >> (slot % 64) & 1 != 0)
    }

    fn set_unfenced(&mut self, slot: Slot, unfenced: bool) {
        let word = slot as usize / 64;
        if self.unfenced.len() <= word {
            self.unfenced.resize(word + 1, 0);
        }
        self.unfenced[word] = self.unfenced[word] & !(1 << (slot % 64)) | u64::from(unfenced) << (slot % 64);
    }

    /// What is wrong with a read or write of a register, which is then no longer looked at.
    fn touch(&mut self, slot: Slot, write: bool) -> Option<&'static str> {
        let (_, flight) = self.flight(slot)?;
        let wrong = match (flight, write) {
            (Flight::Reads, true) => "a register of A is overwritten before wgmma.wait_group",
            (Flight::Sums, true) => {
                "an accumulator of a wgmma in flight is overwritten before wgmma.wait_group"
            }
            (Flight::Sums | Flight::HandedOver, false) => {
                "an accumulator of a wgmma in flight is used before wgmma.wait_group"
            }
            (Flight::Reads, false) => return None,
            (Flight::HandedOver, true) => "",
        };
        self.in_flight[slot as usize] = None;
        self.list.retain(|s| *s != slot);
        (!wrong.is_empty()).then_some(wrong)
    }
}

fn report(ctx: &mut Context<'_>, warp: &Warp, pc: u32, message: &str) {
    if ctx.checks == Checks::All {
        let at = At { pc, warp: warp.index, lane: None, address: None };
        ctx.report(Kind::Wgmma, false, at, message.to_string(), None);
    }
}

/// A move read an accumulator in flight, since what it copied is used by itself later.
#[cold]
fn report_copy(ctx: &mut Context<'_>, warp: &Warp, pc: u32, used: u32) {
    if ctx.checks == Checks::All {
        let at = At { pc, warp: warp.index, lane: None, address: None };
        let message = "an accumulator of a wgmma in flight is copied before wgmma.wait_group".to_string();
        let other = Party { what: "a use of the copy".into(), place: Some(ctx.place(used)) };
        ctx.report(Kind::Wgmma, false, at, message, Some(other));
    }
}

/// Checks an instruction that touches registers of wgmma.
pub fn watch(ctx: &mut Context<'_>, warp: &mut Warp, pc: u32, op: &Op) {
    let mut wrong = None;
    let mut copied = None;
    if let Op::Alu { op: Alu::Mov32, d, a, .. } = op {
        let state = &mut warp.wgmma;
        if let Some((group, Flight::Sums | Flight::HandedOver)) = state.flight(*a) {
            state.moved(pc, *d, *a);
            state.put(*a, Flight::HandedOver, group);
            state.put(*d, Flight::Sums, group);
            state.set_unfenced(*d, false);
            settle_deferred(ctx, warp, u64::MAX);
            return;
        }
        wrong = state.touch(*d, true);
        state.overwritten(*d);
        if let Some(&pc) = state.copies.get(a) {
            state.copies.insert(*d, pc);
        }
        state.set_unfenced(*d, is_constant(&ctx.program, *a) || state.is_unfenced(*a));
    } else {
        let state = &mut warp.wgmma;
        registers(op, |slot, write| {
            wrong = wrong.or(state.touch(slot, write));
            if write {
                state.set_unfenced(slot, true);
                state.overwritten(slot);
            } else if !state.copies.is_empty() {
                copied = copied.or(state.copies.remove(&slot));
            }
        });
    }
    if let Some(of) = copied {
        report_copy(ctx, warp, of, pc);
    }
    if let Some(message) = wrong {
        report(ctx, warp, pc, message);
    }
}

/// Checks the registers that a warp brings to a product.
pub fn check(ctx: &mut Context<'_>, warp: &Warp, pc: u32, op: &Wgmma) {
    let state = &warp.wgmma;
    if !state.fenced {
        report(ctx, warp, pc, "no wgmma.fence before the warp's first wgmma");
        return;
    }
    let scale = warp.registers.pred(op.scale_d.pred) & 1 != u32::from(op.scale_d.negated);
    let a = match &op.a {
        AOperand::Registers(slots) => slots.as_slice(),
        AOperand::Descriptor(_) => &[],
    };
    let read = a.iter().chain(op.d.iter().filter(|_| scale));
    if let Some(&of) = read.filter_map(|slot| state.copies.get(slot)).next() {
        report_copy(ctx, warp, of, pc);
    }
    if a.iter().any(|&slot| state.is_unfenced(slot)) || scale && op.d.iter().any(|&d| state.is_unfenced(d)) {
        report(ctx, warp, pc, "registers of wgmma were written and no wgmma.fence follows");
    }
    let in_flight = |slot: &Slot| matches!(state.flight(*slot), Some((_, Flight::Sums | Flight::HandedOver)));
    if a.iter().any(in_flight) {
        report(ctx, warp, pc, "an accumulator of a wgmma in flight is used before wgmma.wait_group");
    }
    if op.d.iter().any(|&slot| matches!(state.flight(slot), Some((_, Flight::Reads)))) {
        report(ctx, warp, pc, "a register of A is overwritten before wgmma.wait_group");
    }
}
