//! Which registers an instruction reads and writes, and which instructions touch registers that wgmma works on.

use super::program::*;
use crate::exec::bulk::{Copy, Side};
use crate::exec::hopper::HopperOp;
use crate::exec::wgmma::AOperand;
use crate::exec::wmma::WmmaOp;
use crate::registers::{FIRST_SLOT, Slot};

/// Calls `visit` with each register that an instruction reads (false) or writes (true), but for predicates and what
/// wgmma does itself.
pub fn registers(op: &Op, mut visit: impl FnMut(Slot, bool)) {
    let mut reads = |slots: &[Slot]| slots.iter().for_each(|&slot| visit(slot, false));
    let lane = |reg: &Reg| (reg.width != Width::Pred).then_some(reg.slot);
    match op {
        Op::Alu { a, b, c, .. } => reads(&[*a, *b, *c]),
        Op::Lane(op) => [op.a, op.b, op.c].iter().filter_map(lane).for_each(|slot| reads(&[slot])),
        Op::Compare(op) => reads(&[op.a, op.b]),
        Op::Select32 { a, b, .. } | Op::Select64 { a, b, .. } => reads(&[*a, *b]),
        Op::Load(access) => reads(&[access.address.base]),
        Op::Store(access) => {
            reads(&[access.address.base]);
            access.registers[..access.count as usize].iter().for_each(|reg| reads(&[reg.slot]));
        }
        Op::Atomic(atomic) => {
            reads(&[atomic.address.base, atomic.c.slot]);
            atomic.b[..atomic.count as usize].iter().for_each(|reg| reads(&[reg.slot]));
        }
        Op::BranchIndexed { index, .. } => reads(&[*index]),
        Op::CallIndirect(call) => reads(&[call.address]),
        Op::StackAllocate { size, .. } => reads(&[*size]),
        Op::StackRestore { a } => reads(&[*a]),
        Op::Barrier(barrier) => {
            reads(&[barrier.id]);
            barrier.count.iter().for_each(|&slot| reads(&[slot]));
        }
        Op::WarpSync { members } | Op::Vote { members, .. } | Op::Elect { members, .. } => reads(&[*members]),
        Op::Shuffle { a, b, c, members, .. } => reads(&[*a, *b, *c, *members]),
        Op::Match { a, members, .. } | Op::Reduce { a, members, .. } => reads(&[*a, *members]),
        Op::IsSpace { a, .. } => reads(&[*a]),
        Op::CpAsync(copy) => {
            reads(&[copy.dst.base, copy.src.base]);
            copy.src_bytes.iter().for_each(|&slot| reads(&[slot]));
        }
        Op::Ldmatrix(op) => {
            reads(&[op.address.base]);
            if op.store {
                reads(&op.registers[..op.count]);
            }
        }
        Op::Mma(op) => [&op.a, &op.b, &op.c].into_iter().for_each(|slots| reads(slots)),
        Op::Wmma(op) => match &**op {
            WmmaOp::Load(tile) => reads(&[tile.address.base, tile.stride]),
            WmmaOp::Store(tile) => {
                reads(&[tile.address.base, tile.stride]);
                reads(&tile.registers);
            }
            WmmaOp::Product { a, b, c, .. } => [a, b, c].into_iter().for_each(|slots| reads(slots)),
        },
        Op::Hopper(op) => hopper_reads(op, reads),
        Op::PredLogic { .. }
        | Op::FrameAddress { .. }
        | Op::Clock { .. }
        | Op::Branch { .. }
        | Op::Call(_)
        | Op::Return
        | Op::Exit
        | Op::AssertFail { .. }
        | Op::Print { .. }
        | Op::StackSave { .. }
        | Op::Trap { .. }
        | Op::Nop
        | Op::ActiveMask { .. }
        | Op::Fence { .. }
        | Op::CpAsyncCommit
        | Op::CpAsyncWait { .. } => {}
    }
    let mut writes = |slots: &[Slot]| slots.iter().for_each(|&slot| visit(slot, true));
    match op {
        Op::Alu { d, .. }
        | Op::Select32 { d, .. }
        | Op::Select64 { d, .. }
        | Op::FrameAddress { d, .. }
        | Op::StackAllocate { d, .. }
        | Op::StackSave { d }
        | Op::Clock { d, .. }
        | Op::Shuffle { d, .. }
        | Op::Match { d, .. }
        | Op::ActiveMask { d }
        | Op::Reduce { d, .. }
        | Op::Elect { d, .. } => writes(&[*d]),
        Op::Lane(op) => lane(&op.d).into_iter().for_each(|slot| writes(&[slot])),
        Op::Vote { d, .. } => lane(d).into_iter().for_each(|slot| writes(&[slot])),
        Op::Load(access) => {
            access.registers[..access.count as usize].iter().for_each(|reg| writes(&[reg.slot]));
        }
        Op::Atomic(atomic) => {
            let d = atomic.d.iter().flat_map(|d| &d[..atomic.count as usize]);
            d.for_each(|reg| writes(&[reg.slot]));
        }
        Op::Barrier(barrier) => {
            let d = barrier.reduce.iter().filter_map(|(_, _, d)| lane(d));
            d.for_each(|slot| writes(&[slot]));
        }
        Op::Ldmatrix(op) if !op.store => writes(&op.registers[..op.count]),
        Op::Mma(op) => writes(&op.d),
        Op::Wmma(op) => match &**op {
            WmmaOp::Load(tile) => writes(&tile.registers),
            WmmaOp::Store(_) => {}
            WmmaOp::Product { d, .. } => writes(d),
        },
        Op::Hopper(op) => match &**op {
            HopperOp::MbarrierArrive { state: Some(d), .. }
            | HopperOp::PendingCount { d, .. }
            | HopperOp::Mapa { d, .. }
            | HopperOp::CtaRank { d, .. } => writes(&[*d]),
            _ => {}
        },
        _ => {}
    }
}

fn hopper_reads(op: &HopperOp, mut reads: impl FnMut(&[Slot])) {
    match op {
        HopperOp::MbarrierInit { barrier, count } => reads(&[barrier.base, *count]),
        HopperOp::MbarrierInval { barrier } | HopperOp::CpAsyncArrive { barrier, .. } => {
            reads(&[barrier.base]);
        }
        HopperOp::MbarrierArrive { barrier, count, tx, .. } => {
            reads(&[barrier.base]);
            count.iter().chain(tx).for_each(|&slot| reads(&[slot]));
        }
        HopperOp::MbarrierTx { barrier, tx, .. } => reads(&[barrier.base, *tx]),
        HopperOp::MbarrierWait { barrier, state, .. } => reads(&[barrier.base, *state]),
        HopperOp::PendingCount { state, .. } => reads(&[*state]),
        HopperOp::Bulk(Copy { dst, src, size, multicast, .. }) => {
            reads(&[*size]);
            multicast.iter().for_each(|&slot| reads(&[slot]));
            for side in [dst, src] {
                match side {
                    Side::Global(a) | Side::Shared(a) => reads(&[a.base]),
                    Side::Tensor { map, coordinates } => {
                        reads(&[map.base]);
                        reads(coordinates);
                    }
                }
            }
        }
        HopperOp::RemoteStore { address, values, barrier, .. } => {
            reads(&[address.base, barrier.base]);
            values.iter().for_each(|reg| reads(&[reg.slot]));
        }
        HopperOp::Mapa { a, rank, .. } => reads(&[*a, *rank]),
        HopperOp::CtaRank { a, .. } => reads(&[*a]),
        _ => {}
    }
}

/// Whether a register holds a constant or a special register.
pub fn is_constant(program: &Program, slot: Slot) -> bool {
    slot < FIRST_SLOT
        || program.constants.iter().any(|(s, ..)| *s == slot)
        || program.specials.iter().any(|(s, _)| *s == slot)
}

/// Marks the instructions that touch registers of wgmma, or those that moves carry their values from and to.
pub(super) fn mark(program: &mut Program) {
    let mut seen = vec![false; program.slots.max(FIRST_SLOT) as usize];
    let mut any = false;
    for inst in &program.code {
        if let Op::Hopper(op) = &inst.op
            && let HopperOp::Wgmma(op) = &**op
        {
            let a = match &op.a {
                AOperand::Registers(slots) => slots.as_slice(),
                AOperand::Descriptor(_) => &[],
            };
            op.d.iter().chain(a).for_each(|&slot| seen[slot as usize] = true);
            any = true;
        }
    }
    if !any {
        return;
    }
    let mut constant = vec![false; seen.len()];
    constant[..FIRST_SLOT as usize].fill(true);
    program.constants.iter().for_each(|&(slot, ..)| constant[slot as usize] = true);
    program.specials.iter().for_each(|&(slot, _)| constant[slot as usize] = true);
    let moves = program.code.iter().filter_map(|inst| match inst.op {
        Op::Alu { op: Alu::Mov32, d, a, .. } => Some((d as usize, a as usize)),
        _ => None,
    });
    let moves: Vec<_> = moves.filter(|&(d, a)| !constant[a] && !constant[d]).collect();
    let mut grown = true;
    while grown {
        grown = false;
        for &(d, a) in &moves {
            if seen[d] != seen[a] {
                (seen[d], seen[a]) = (true, true);
                grown = true;
            }
        }
    }
    (0..seen.len()).filter(|&slot| constant[slot]).for_each(|slot| seen[slot] = false);
    for inst in &mut program.code {
        let mut watched = false;
        registers(&inst.op, |slot, _| watched |= seen[slot as usize]);
        inst.watched = watched;
    }
}
