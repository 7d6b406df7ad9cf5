//! Runs one warp for a while: picks a split, executes its instructions, handles divergence.

use super::alu;
use super::calls::{call_function, call_indirect, exit, return_from};
use super::warp::{Split, Wait, Warp};
use super::{At, Context, Flow, lanes};
use crate::decode::program::*;
use crate::findings::Kind;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, RANK_SHIFT, SHARED_WINDOW};
use crate::options::Checks;
use crate::ptx::ast::Space;
use crate::registers::Registers;

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Used up its budget.
    Ran,
    /// Every split waits.
    Parked,
    /// All lanes have exited.
    Finished,
    /// A fatal finding.
    Fault,
}

/// Runs a warp for at most `budget` warp instructions; subtracts what it used.
pub fn run(ctx: &mut Context<'_>, warp: &mut Warp, budget: &mut u32) -> Outcome {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
    {
        // SAFETY: all features that the function is compiled for were just detected.
        return unsafe { run_avx2(ctx, warp, budget) };
    }
    body(ctx, warp, budget)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
fn run_avx2(ctx: &mut Context<'_>, warp: &mut Warp, budget: &mut u32) -> Outcome {
    body(ctx, warp, budget)
}

#[inline(always)]
fn read_pred(r: &Registers, p: PredRead) -> (u32, u32) {
    let bits = r.pred(p.pred);
    (if p.negated { !bits } else { bits }, r.pred_poison(p.pred))
}

/// The runnable split that should run: the lowest instruction, or the next in turn when `rotate`.
fn choose(warp: &Warp, rotate: bool) -> Option<usize> {
    let runnable = |s: &Split| s.wait.is_none();
    if rotate && warp.splits.len() > 1 {
        let n = warp.splits.len();
        return (1..=n).map(|k| (warp.last + k) % n).find(|&i| runnable(&warp.splits[i]));
    }
    (0..warp.splits.len()).filter(|&i| runnable(&warp.splits[i])).min_by_key(|&i| warp.splits[i].pc)
}

#[inline(always)]
fn body(ctx: &mut Context<'_>, warp: &mut Warp, budget: &mut u32) -> Outcome {
    let program = ctx.program.clone();
    let mut rotate = true;
    loop {
        if warp.splits.len() > 1 {
            warp.merge();
        }
        let Some(chosen) = choose(warp, rotate) else {
            return if warp.splits.is_empty() { Outcome::Finished } else { Outcome::Parked };
        };
        rotate = false;
        warp.last = chosen;
        // Reaching another split's instruction is a chance to merge.
        let stop = warp
            .splits
            .iter()
            .enumerate()
            .filter(|(i, s)| *i != chosen && matches!(s.wait, None | Some(Wait::Members { .. })))
            .map(|(_, s)| s.pc)
            .filter(|&pc| pc > warp.splits[chosen].pc)
            .min()
            .unwrap_or(u32::MAX);
        let mask = warp.splits[chosen].mask;
        let mut pc = warp.splits[chosen].pc;
        loop {
            if *budget == 0 {
                warp.splits[chosen].pc = pc;
                return Outcome::Ran;
            }
            *budget -= 1;
            let inst = &program.code[pc as usize];
            let mut active = mask;
            if inst.guard != ALWAYS {
                let (bits, poison) = read_pred(&warp.registers, inst.guard);
                if poison & mask != 0 {
                    undefined(
                        ctx,
                        warp.index,
                        pc,
                        poison & mask,
                        "the predicate that guards the instruction",
                    );
                    warp.registers.set_pred(inst.guard.pred, warp.registers.pred(inst.guard.pred), 0, mask);
                }
                active &= bits;
            }
            ctx.grid.counters.count(pc, active);
            if inst.watched && active != 0 {
                super::wgmma_registers::watch(ctx, warp, pc, &inst.op);
            }
            let r = &mut warp.registers;
            let flow = match &inst.op {
                Op::Alu { op, d, a, b, c, imm } => {
                    alu::alu(r, *op, *d, *a, *b, *c, *imm, active);
                    pc += 1;
                    if pc >= stop {
                        warp.splits[chosen].pc = pc;
                        break;
                    }
                    continue;
                }
                Op::Compare(c) => {
                    let (mut bits, mut poison) = alu::compare(r, c);
                    let (mut q, mut q_poison) = (!bits, poison);
                    if let Some((op, read)) = c.combine {
                        let other = read_pred(r, read);
                        (q, q_poison) = alu::logic(op, (q, q_poison), other);
                        (bits, poison) = alu::logic(op, (bits, poison), other);
                    }
                    r.set_pred(c.p, bits, poison, active);
                    if c.q != crate::registers::PRED_SINK {
                        r.set_pred(c.q, q, q_poison, active);
                    }
                    Flow::Next
                }
                Op::Select32 { d, a, b, p } => {
                    let (bits, poison) = read_pred(r, *p);
                    let (x, y) = (r.r32(*a), r.r32(*b));
                    let mut out = [0; 32];
                    for l in 0..32 {
                        out[l] = if bits >> l & 1 != 0 { x[l] } else { y[l] };
                    }
                    let poison = poison | bits & r.poison(*a) | !bits & r.poison(*b);
                    r.write32(*d, &out, active);
                    r.set_poison(*d, poison, active);
                    Flow::Next
                }
                Op::Select64 { d, a, b, p } => {
                    let (bits, poison) = read_pred(r, *p);
                    let (x, y) = (r.r64(*a), r.r64(*b));
                    let mut out = [0; 32];
                    for l in 0..32 {
                        out[l] = if bits >> l & 1 != 0 { x[l] } else { y[l] };
                    }
                    let poison = poison | bits & r.poison(*a) | !bits & r.poison(*b);
                    r.write64(*d, &out, active);
                    r.set_poison(*d, poison, active);
                    Flow::Next
                }
                Op::PredLogic { op, d, a, b } => {
                    let (bits, poison) = alu::logic(*op, read_pred(r, *a), read_pred(r, *b));
                    r.set_pred(*d, bits, poison, active);
                    Flow::Next
                }
                Op::Branch { target } => {
                    if active == mask {
                        Flow::Jump(*target)
                    } else if active == 0 {
                        Flow::Next
                    } else {
                        diverge(warp, chosen, pc, active, *target);
                        Flow::Reschedule
                    }
                }
                Op::Load(access) => super::access::load(ctx, warp, chosen, pc, access, active),
                Op::Store(access) => super::access::store(ctx, warp, chosen, pc, access, active),
                Op::Mma(op) => super::matrix::mma(ctx, warp, pc, op, active),
                Op::Ldmatrix(op) => super::matrix::ldmatrix(ctx, warp, chosen, pc, op, active),
                other => rare(ctx, warp, chosen, pc, other, mask, active),
            };
            match flow {
                Flow::Next => pc += 1,
                Flow::Jump(target) => pc = target,
                Flow::Park { wait, pass } => {
                    let split = &mut warp.splits[chosen];
                    split.wait = Some(wait);
                    split.pc = pc + u32::from(pass);
                    split.resumed = !pass && !matches!(wait, Wait::Members { .. });
                    break;
                }
                Flow::Reschedule => break,
                Flow::Stop => {
                    warp.splits[chosen].pc = pc;
                    return Outcome::Fault;
                }
            }
            if warp.splits[chosen].resumed {
                warp.splits[chosen].resumed = false;
            }
            if pc >= stop || program.code.len() <= pc as usize {
                warp.splits[chosen].pc = pc;
                break;
            }
        }
    }
}

/// Splits the lanes of `taken` off to `target`; the rest goes on after `pc`.
fn diverge(warp: &mut Warp, chosen: usize, pc: u32, taken: u32, target: u32) {
    let mut other = warp.splits[chosen].clone();
    let split = &mut warp.splits[chosen];
    split.mask &= !taken;
    split.pc = pc + 1;
    other.mask = taken;
    other.pc = target;
    warp.splits.push(other);
}

#[cold]
pub fn undefined(ctx: &mut Context<'_>, warp: u32, pc: u32, lanes: u32, what: &str) {
    if ctx.checks != Checks::All {
        return;
    }
    let at = At { pc, warp, lane: Some(lanes.trailing_zeros()), address: None };
    let count = lanes.count_ones();
    ctx.report(Kind::Undefined, false, at, format!("{what} is undefined in {count} lanes"), None);
}

/// Everything that is not worth inlining.
#[inline(never)]
fn rare(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    op: &Op,
    mask: u32,
    active: u32,
) -> Flow {
    // A wait or barrier that no lane executes is passed.
    if active == 0 {
        return Flow::Next;
    }
    match op {
        Op::Lane(op) => lane_op(&mut warp.registers, op, active),
        Op::FrameAddress { d, offset } => {
            let base = LOCAL_WINDOW + u64::from(warp.splits[chosen].base) + u64::from(*offset);
            warp.registers.write64(*d, &[base; 32], active);
            warp.registers.set_poison(*d, 0, active);
            Flow::Next
        }
        Op::Clock { d, wide: _, nanoseconds } => {
            *ctx.progress += 0;
            let value = if *nanoseconds {
                ctx.clock + ctx.grid.counters.instructions
            } else {
                ctx.grid.counters.instructions
            };
            warp.registers.write64(*d, &[value; 32], active);
            warp.registers.set_poison(*d, 0, active);
            Flow::Next
        }
        Op::Atomic(atomic) => super::atomics::atomic(ctx, warp, chosen, pc, atomic, active),
        Op::BranchIndexed { index, targets } => {
            let poison = warp.registers.poison(*index) & active;
            if poison != 0 {
                undefined(ctx, warp.index, pc, poison, "the index of the branch");
            }
            let indices = *warp.registers.r32(*index);
            let mut groups: Vec<(u32, u32)> = Vec::new();
            for lane in lanes(active) {
                let Some(&target) = targets.get(indices[lane] as usize) else {
                    let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: None };
                    let message = format!("branch index {} of {} targets", indices[lane], targets.len());
                    ctx.report(Kind::InvalidAccess, true, at, message, None);
                    return Flow::Stop;
                };
                match groups.iter_mut().find(|(t, _)| *t == target) {
                    Some((_, m)) => *m |= 1 << lane,
                    None => groups.push((target, 1 << lane)),
                }
            }
            if groups.len() == 1 && active == mask {
                return Flow::Jump(groups[0].0);
            }
            if active == mask {
                let (first, _) = groups.pop().expect("a lane is active");
                for (target, taken) in groups {
                    diverge(warp, chosen, pc, taken, target);
                }
                warp.splits[chosen].pc = first;
            } else {
                for (target, taken) in groups {
                    diverge(warp, chosen, pc, taken, target);
                }
            }
            Flow::Reschedule
        }
        Op::Call(call) => call_function(ctx, warp, chosen, pc, call, 0, mask, active),
        Op::CallIndirect(call) => call_indirect(ctx, warp, chosen, pc, call, mask, active),
        Op::Return => {
            if warp.splits[chosen].frames.is_empty() {
                return exit(ctx, warp, chosen, pc, mask, active);
            }
            if active != mask {
                // The returning lanes become a split of their own, which executes this again without a guard.
                let mut other = warp.splits[chosen].clone();
                other.mask = active;
                warp.splits[chosen].mask &= !active;
                warp.splits[chosen].pc = pc + 1;
                other.pc = pc;
                warp.splits.push(other);
                let last = warp.splits.len() - 1;
                return return_from(ctx, warp, last);
            }
            return_from(ctx, warp, chosen)
        }
        Op::Exit => exit(ctx, warp, chosen, pc, mask, active),
        Op::AssertFail { arguments } => super::calls::assert_failed(ctx, warp, chosen, pc, arguments, active),
        Op::StackAllocate { d, size, align } => {
            super::calls::stack_allocate(ctx, warp, chosen, pc, *d, *size, *align, active)
        }
        Op::StackSave { d } => {
            let top = LOCAL_WINDOW + u64::from(warp.splits[chosen].top);
            warp.registers.write64(*d, &[top; 32], active);
            warp.registers.set_poison(*d, 0, active);
            Flow::Next
        }
        Op::StackRestore { a } => super::calls::stack_restore(ctx, warp, chosen, pc, *a, active),
        Op::Print { arguments, result } => {
            super::print::print(ctx, warp, chosen, pc, arguments, *result, active)
        }
        Op::Trap { breakpoint } => {
            let at = At { pc, warp: warp.index, lane: Some(active.trailing_zeros()), address: None };
            let message = if *breakpoint { "brkpt was executed" } else { "trap was executed" };
            ctx.report(Kind::Trap, true, at, message.into(), None);
            Flow::Stop
        }
        Op::Nop => Flow::Next,
        Op::Barrier(barrier) => super::barrier::named(ctx, warp, chosen, pc, barrier, active),
        Op::Fence { scope, .. } => {
            crate::races::fence(ctx, warp, *scope);
            if *scope >= crate::decode::program::Scope::Cluster {
                crate::races::cluster_fence(ctx, warp);
            }
            Flow::Next
        }
        Op::IsSpace { p, a, space, .. } => {
            let addresses = *warp.registers.r64(*a);
            let mut bits = 0;
            for (lane, &address) in addresses.iter().enumerate() {
                let offset = (address & crate::memory::OFFSET_MASK) as u32;
                let base = address & !crate::memory::OFFSET_MASK;
                let inside = match space {
                    Space::Shared => base == SHARED_WINDOW && offset >> RANK_SHIFT == 0,
                    Space::SharedCluster => base == SHARED_WINDOW,
                    Space::Local => base == LOCAL_WINDOW,
                    Space::Param => base == PARAM_WINDOW,
                    Space::Const => ctx.memory.allocation(address).is_ok_and(|a| a.read_only),
                    _ => ctx.memory.allocation(address).is_ok_and(|a| !a.read_only),
                };
                bits |= u32::from(inside) << lane;
            }
            let poison = warp.registers.poison(*a);
            warp.registers.set_pred(*p, bits, poison, active);
            Flow::Next
        }
        Op::CpAsync(op) => super::asynchronous::cp_async(ctx, warp, chosen, pc, op, active),
        Op::CpAsyncCommit => {
            warp.copies.commit(active);
            Flow::Next
        }
        Op::CpAsyncWait { pending, all } => {
            super::asynchronous::wait_group(ctx, warp, *pending, *all, active)
        }
        Op::Wmma(op) => super::wmma::execute(ctx, warp, chosen, pc, op, active),
        Op::Hopper(op) => super::hopper::execute(ctx, warp, chosen, pc, op, active),
        other => super::warp_ops::execute(ctx, warp, chosen, pc, other, active),
    }
}

fn lane_op(r: &mut Registers, op: &LaneOp, active: u32) -> Flow {
    let read = |r: &Registers, reg: Reg, lane: usize| match reg.width {
        Width::W32 => u64::from(r.r32(reg.slot)[lane]),
        Width::W64 => r.r64(reg.slot)[lane],
        Width::Pred => u64::from(r.pred(reg.slot) >> lane & 1),
    };
    let poison_of = |r: &Registers, reg: Reg| match reg.width {
        Width::Pred => r.pred_poison(reg.slot),
        _ => r.poison(reg.slot),
    };
    let poison = poison_of(r, op.a) | poison_of(r, op.b) | poison_of(r, op.c);
    let mut bits = 0;
    for lane in lanes(active) {
        let (a, b, c) = (read(r, op.a, lane), read(r, op.b, lane), read(r, op.c, lane));
        let out = (op.apply)(a, b, c, op.parameter);
        match op.d.width {
            Width::W32 => r.m32(op.d.slot)[lane] = out as u32,
            Width::W64 => r.m64(op.d.slot)[lane] = out,
            Width::Pred => bits |= ((out & 1) as u32) << lane,
        }
    }
    if op.d.width == Width::Pred {
        r.set_pred(op.d.slot, bits, poison, active);
    } else {
        r.set_poison(op.d.slot, poison, active);
    }
    Flow::Next
}
