//! Operations across the lanes of a warp.

use super::warp::{Wait, Warp};
use super::{At, Context, Flow, lanes};
use crate::decode::program::*;
use crate::findings::Kind;
use crate::registers::{Registers, Slot};

/// Waits until all live lanes that `members` names are here. `Ok` with the participating lanes.
fn gather(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    members: Slot,
    active: u32,
) -> Result<u32, Flow> {
    let poison = warp.registers.poison(members) & active;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "the member mask");
    }
    let masks = *warp.registers.r32(members);
    if active & warp.live & warp.existing == u32::MAX && masks == [u32::MAX; 32] {
        return Ok(active);
    }
    let first = active.trailing_zeros() as usize;
    let mask = masks[first];
    let at = At { pc, warp: warp.index, lane: Some(first as u32), address: None };
    if mask >> first & 1 == 0 {
        let message = format!("lane {first} is not in its own member mask {mask:#010x}");
        ctx.report(Kind::WarpSync, true, at, message, None);
        return Err(Flow::Stop);
    }
    // Lanes with different masks form groups of their own.
    let group = lanes(active).filter(|&l| masks[l] == mask).fold(0u32, |m, l| m | 1 << l);
    if let Some(outsider) = lanes(group).find(|&l| mask >> l & 1 == 0) {
        let message = format!("lane {outsider} is not in its own member mask {mask:#010x}");
        ctx.report(Kind::WarpSync, true, At { lane: Some(outsider as u32), ..at }, message, None);
        return Err(Flow::Stop);
    }
    let gone = mask & warp.existing & !warp.live;
    if gone != 0 {
        let message = format!("the member mask {mask:#010x} names lanes that have exited ({gone:#010x})");
        ctx.report(Kind::WarpSync, false, at, message, None);
    }
    let needed = mask & warp.live;
    if needed & !group != 0 {
        if warp.splits[chosen].mask & !active & needed != 0 {
            let message = format!("a guard keeps lanes {:#010x} of the member mask away", needed & !active);
            ctx.report(Kind::WarpSync, true, at, message, None);
            return Err(Flow::Stop);
        }
        return Err(Flow::Park { wait: Wait::Members { members: mask }, pass: false });
    }
    Ok(group)
}

pub fn execute(ctx: &mut Context<'_>, warp: &mut Warp, chosen: usize, pc: u32, op: &Op, active: u32) -> Flow {
    let members = match op {
        Op::WarpSync { members }
        | Op::Shuffle { members, .. }
        | Op::Vote { members, .. }
        | Op::Match { members, .. }
        | Op::Reduce { members, .. }
        | Op::Elect { members, .. } => *members,
        Op::ActiveMask { d } => {
            warp.registers.write32(*d, &[active; 32], active);
            warp.registers.set_poison(*d, 0, active);
            return Flow::Next;
        }
        _ => {
            let at = At { pc, warp: warp.index, lane: None, address: None };
            ctx.report(Kind::Unsupported, true, at, "instruction without an implementation".into(), None);
            return Flow::Stop;
        }
    };
    // Several groups of lanes with different masks take turns.
    let mut rest = active;
    let mut synced = 0;
    while rest != 0 {
        match gather(ctx, warp, chosen, pc, members, rest) {
            Ok(group) => {
                one_group(warp, op, group);
                rest &= !group;
                synced |= group;
            }
            Err(Flow::Park { .. }) if synced != 0 => {
                // Some groups are done: they go on, the others stay.
                let mut done = warp.splits[chosen].clone();
                done.mask = synced;
                done.pc = pc + 1;
                warp.splits[chosen].mask &= !synced;
                warp.splits[chosen].pc = pc;
                warp.splits.push(done);
                return Flow::Reschedule;
            }
            Err(flow) => return flow,
        }
    }
    if matches!(op, Op::WarpSync { .. }) {
        crate::races::warp_sync(ctx, warp, synced);
    }
    Flow::Next
}

/// The usual shuffle: all lanes, the same distance for each, everything defined.
fn shuffle_all(
    r: &mut Registers,
    mode: ShuffleMode,
    (d, p): (Slot, u32),
    values: &[u32; 32],
    b: u32,
    c: u32,
) {
    let (value, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let mut out = [0u32; 32];
    let mut pred = 0u32;
    for (l, out) in (0u32..).zip(&mut out) {
        let (max, min) = (l & segment | clamp & !segment, l & segment);
        let (source, inside) = match mode {
            ShuffleMode::Up => (l.wrapping_sub(value), l.wrapping_sub(value) as i32 >= max as i32),
            ShuffleMode::Down => (l + value, l + value <= max),
            ShuffleMode::Bfly => (l ^ value, l ^ value <= max),
            ShuffleMode::Idx => (min | value & !segment, min | value & !segment <= max),
        };
        *out = values[(if inside { source } else { l }) as usize & 31];
        pred |= u32::from(inside) << l;
    }
    *r.m32(d) = out;
    r.set_poison(d, 0, u32::MAX);
    r.set_pred(p, pred, 0, u32::MAX);
}

fn one_group(warp: &mut Warp, op: &Op, group: u32) {
    let r = &mut warp.registers;
    match op {
        Op::Shuffle { mode, d, p, a, b, c, .. } => {
            let (values, bs, cs) = (*r.r32(*a), *r.r32(*b), *r.r32(*c));
            let (poison, control) = (r.poison(*a), r.poison(*b) | r.poison(*c));
            if group == u32::MAX && poison | control == 0 && cs == [cs[0]; 32] && bs == [bs[0]; 32] {
                return shuffle_all(r, *mode, (*d, *p), &values, bs[0], cs[0]);
            }
            let mut out = [0u32; 32];
            let (mut pred, mut out_poison) = (0u32, 0u32);
            for lane in lanes(group) {
                let (value, clamp) = (bs[lane] & 31, cs[lane] & 31);
                let segment = cs[lane] >> 8 & 31;
                let l = lane as u32;
                let max = l & segment | clamp & !segment;
                let min = l & segment;
                let (source, inside) = match mode {
                    ShuffleMode::Up => {
                        let j = l.wrapping_sub(value) as i32;
                        (j, j >= max as i32)
                    }
                    ShuffleMode::Down => ((l + value) as i32, l + value <= max),
                    ShuffleMode::Bfly => ((l ^ value) as i32, l ^ value <= max),
                    ShuffleMode::Idx => {
                        let j = min | value & !segment;
                        (j as i32, j <= max)
                    }
                };
                let from = if inside { source as usize & 31 } else { lane };
                out[lane] = values[from];
                pred |= u32::from(inside) << lane;
                // A lane outside the group has no value to give.
                let bad = poison >> from & 1 != 0 || group >> from & 1 == 0 || control >> lane & 1 != 0;
                out_poison |= u32::from(bad) << lane;
            }
            r.write32(*d, &out, group);
            r.set_poison(*d, out_poison, group);
            r.set_pred(*p, pred, control, group);
        }
        Op::Vote { mode, d, p, .. } => {
            let bits = r.pred(p.pred);
            let bits = if p.negated { !bits } else { bits } & group;
            let poison = if r.pred_poison(p.pred) & group != 0 { u32::MAX } else { 0 };
            let all = bits == group;
            let none = bits == 0;
            let value = match mode {
                VoteMode::All => all,
                VoteMode::Any => !none,
                VoteMode::Uni => all || none,
                VoteMode::Ballot => {
                    r.write32(d.slot, &[bits; 32], group);
                    r.set_poison(d.slot, poison, group);
                    return;
                }
            };
            r.set_pred(d.slot, u32::from(value).wrapping_neg(), poison, group);
        }
        Op::Match { all, wide, d, p, a, .. } => {
            let value = |r: &crate::registers::Registers, l: usize| {
                if *wide { r.r64(*a)[l] } else { u64::from(r.r32(*a)[l]) }
            };
            let poison = if r.poison(*a) & group != 0 { u32::MAX } else { 0 };
            let mut out = [0u32; 32];
            for lane in lanes(group) {
                let own = value(r, lane);
                out[lane] = lanes(group).filter(|&l| value(r, l) == own).fold(0, |m, l| m | 1 << l);
            }
            if *all {
                let same = lanes(group).all(|l| out[l] == group);
                out = [if same { group } else { 0 }; 32];
                r.set_pred(*p, u32::from(same).wrapping_neg(), poison, group);
            }
            r.write32(*d, &out, group);
            r.set_poison(*d, poison, group);
        }
        Op::Reduce { op, d, a, .. } => {
            let values = *r.r32(*a);
            let poison = if r.poison(*a) & group != 0 { u32::MAX } else { 0 };
            let mut all = lanes(group).map(|l| values[l]);
            let first = all.next().unwrap_or(0);
            let result = all.fold(first, |x, y| match op {
                Redux::And => x & y,
                Redux::Or => x | y,
                Redux::Xor => x ^ y,
                Redux::AddU => x.wrapping_add(y),
                Redux::MinU => x.min(y),
                Redux::MaxU => x.max(y),
                Redux::MinS => (x as i32).min(y as i32) as u32,
                Redux::MaxS => (x as i32).max(y as i32) as u32,
            });
            r.write32(*d, &[result; 32], group);
            r.set_poison(*d, poison, group);
        }
        Op::Elect { d, p, .. } => {
            let leader = group.trailing_zeros();
            r.write32(*d, &[leader; 32], group);
            r.set_poison(*d, 0, group);
            r.set_pred(*p, 1 << leader, 0, group);
        }
        _ => {}
    }
}
