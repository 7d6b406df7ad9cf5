//! Calls, returns and the end of lanes.

use super::warp::{Frame, Saved, Wait, Warp};
use super::{At, Context, Flow, lanes};
use crate::decode::program::*;
use crate::findings::Kind;
use crate::memory::LOCAL_WINDOW;
use crate::registers::Slot;

/// Per-thread stack limit, in bytes.
const STACK_LIMIT: u32 = 1 << 18;

const CALL_DEPTH: usize = 4096;

/// Ends the lanes of `active`.
pub(super) fn exit(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    mask: u32,
    active: u32,
) -> Flow {
    warp.live &= !active;
    warp.last_pc = pc;
    *ctx.progress += 1;
    if active == mask {
        warp.splits.swap_remove(chosen);
    } else {
        warp.splits[chosen].mask &= !active;
        warp.splits[chosen].pc = pc + 1;
    }
    // Those that wait for members may now be complete.
    for split in &mut warp.splits {
        if matches!(split.wait, Some(Wait::Members { .. })) {
            split.wait = None;
        }
    }
    Flow::Reschedule
}

/// Calls the functions whose addresses the lanes hold, one group of lanes for each.
pub(super) fn call_indirect(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    call: &IndirectCall,
    mask: u32,
    active: u32,
) -> Flow {
    let poison = warp.registers.poison(call.address) & active;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "the address of the function called");
    }
    let addresses = *warp.registers.r64(call.address);
    let mut groups: Vec<(usize, u32)> = Vec::new();
    for lane in lanes(active) {
        let address = addresses[lane];
        let found = call.callees.iter().position(|c| c.address == address);
        let Some(callee) = found.filter(|&i| call.callees[i].call.is_some()) else {
            let what = match found {
                Some(i) => {
                    let name = &call.callees[i].name;
                    format!("`{name}`, which takes or returns something else than the call says")
                }
                None => format!("{}, where no function of the module is", ctx.memory.describe(address)),
            };
            let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(address) };
            ctx.report(Kind::InvalidAccess, true, at, format!("call of {what}"), None);
            return Flow::Stop;
        };
        match groups.iter_mut().find(|(other, _)| *other == callee) {
            Some((_, taken)) => *taken |= 1 << lane,
            None => groups.push((callee, 1 << lane)),
        }
    }
    let mut rest = mask;
    for (callee, taken) in groups {
        let Some(target) = &call.callees[callee].call else { return Flow::Stop };
        match call_function(ctx, warp, chosen, pc, target, callee, rest, taken) {
            // The last of the lanes: the split itself is in the function now.
            Flow::Jump(target) => {
                warp.splits[chosen].pc = target;
                return Flow::Reschedule;
            }
            Flow::Stop => return Flow::Stop,
            _ => rest &= !taken,
        }
    }
    Flow::Reschedule
}

/// Calls a function, the `callee`th of an indirect call.
pub(super) fn call_function(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    call: &Call,
    callee: usize,
    mask: u32,
    active: u32,
) -> Flow {
    if active != mask {
        let mut other = warp.splits[chosen].clone();
        other.mask = active;
        warp.splits[chosen].mask &= !active;
        warp.splits[chosen].pc = pc + 1;
        warp.splits.push(other);
        let last = warp.splits.len() - 1;
        return match call_function(ctx, warp, last, pc, call, callee, active, active) {
            Flow::Jump(target) => {
                warp.splits[last].pc = target;
                Flow::Reschedule
            }
            other => other,
        };
    }
    let base = warp.splits[chosen].base;
    // Behind the frame, and behind what was allocated on the stack.
    let new_base = (base + call.frame_bytes).max(warp.splits[chosen].top).next_multiple_of(16);
    let top = new_base + call.callee_frame_bytes;
    if top > STACK_LIMIT || warp.splits[chosen].frames.len() >= CALL_DEPTH {
        return overflow(ctx, warp, pc, active);
    }
    warp.local.grow(top as usize);
    let stride = warp.local.stride;
    for lane in lanes(active) {
        warp.local.bytes.define_range(lane * stride + new_base as usize, stride - new_base as usize, false);
        for &(from, to, bytes) in &call.arguments {
            let from = lane * stride + (base + from) as usize;
            let to = lane * stride + (new_base + to) as usize;
            warp.local.bytes.copy_within(from, to, bytes as usize);
        }
    }
    let saved = call.saved.as_ref().map(|(slots, preds)| {
        Box::new(Saved {
            lanes: slots.clone().map(|s| *warp.registers.r32(s)).collect(),
            poison: slots.clone().map(|s| warp.registers.poison(s)).collect(),
            preds: preds.clone().map(|p| (warp.registers.pred(p), warp.registers.pred_poison(p))).collect(),
        })
    });
    let split = &mut warp.splits[chosen];
    split.frames.push(Frame { return_pc: pc + 1, call: pc, callee, base, saved });
    split.base = new_base;
    split.top = top;
    Flow::Jump(call.target)
}

fn overflow(ctx: &mut Context<'_>, warp: &Warp, pc: u32, active: u32) -> Flow {
    let at = At { pc, warp: warp.index, lane: Some(active.trailing_zeros()), address: None };
    ctx.report(Kind::OutOfBounds, true, at, "the call stack overflows".into(), None);
    Flow::Stop
}

/// `alloca`: the lanes of a split get the same address, and as much room as the one that asks for most.
pub(super) fn stack_allocate(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    d: Slot,
    size: Slot,
    align: u32,
    active: u32,
) -> Flow {
    let poison = warp.registers.poison(size) & active;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "the size of an alloca");
    }
    let sizes = warp.registers.r64(size);
    let most = lanes(active).map(|lane| sizes[lane]).max().unwrap_or(0);
    let start = warp.splits[chosen].top.next_multiple_of(align);
    if u64::from(start).saturating_add(most) > u64::from(STACK_LIMIT) {
        return overflow(ctx, warp, pc, active);
    }
    let end = start + most as u32;
    warp.local.grow(end as usize);
    let stride = warp.local.stride;
    for lane in lanes(active) {
        warp.local.bytes.define_range(lane * stride + start as usize, most as usize, false);
    }
    warp.splits[chosen].top = end;
    warp.registers.write64(d, &[LOCAL_WINDOW + u64::from(start); 32], active);
    warp.registers.set_poison(d, 0, active);
    Flow::Next
}

/// `stackrestore`: what was allocated since the address was saved is gone.
pub(super) fn stack_restore(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    a: Slot,
    active: u32,
) -> Flow {
    let saved = warp.registers.r64(a);
    let top = lanes(active).map(|lane| saved[lane].wrapping_sub(LOCAL_WINDOW)).max().unwrap_or(0);
    let split = &mut warp.splits[chosen];
    if top < u64::from(split.base) || top > u64::from(split.top) {
        let at = At { pc, warp: warp.index, lane: Some(active.trailing_zeros()), address: None };
        ctx.report(Kind::InvalidAccess, true, at, "stackrestore of no saved stack".into(), None);
        return Flow::Stop;
    }
    if split.mask == active {
        split.top = top as u32;
    }
    Flow::Next
}

pub(super) fn return_from(ctx: &mut Context<'_>, warp: &mut Warp, chosen: usize) -> Flow {
    let split = &mut warp.splits[chosen];
    let Some(frame) = split.frames.pop() else { return Flow::Stop };
    let callee_base = split.base;
    split.top = callee_base;
    split.base = frame.base;
    split.pc = frame.return_pc;
    let mask = split.mask;
    let program = ctx.program.clone();
    let call = match &program.code[frame.call as usize].op {
        Op::Call(call) => Some(&**call),
        Op::CallIndirect(call) => call.callees.get(frame.callee).and_then(|c| c.call.as_ref()),
        _ => None,
    };
    let Some(call) = call else { return Flow::Stop };
    let stride = warp.local.stride;
    for lane in lanes(mask) {
        for &(to, from, bytes) in &call.results {
            let from = lane * stride + (callee_base + from) as usize;
            let to = lane * stride + (frame.base + to) as usize;
            warp.local.bytes.copy_within(from, to, bytes as usize);
        }
    }
    if let (Some(saved), Some((slots, preds))) = (frame.saved, &call.saved) {
        for (slot, (values, poison)) in slots.clone().zip(saved.lanes.iter().zip(&saved.poison)) {
            warp.registers.write32(slot, values, mask);
            warp.registers.set_poison(slot, *poison, mask);
        }
        for (pred, (bits, poison)) in preds.clone().zip(saved.preds) {
            warp.registers.set_pred(pred, bits, poison, mask);
        }
    }
    Flow::Reschedule
}

/// Ends the launch with what a failed `assert` says of itself.
pub(super) fn assert_failed(
    ctx: &mut Context<'_>,
    warp: &Warp,
    chosen: usize,
    pc: u32,
    arguments: &[u32; 4],
    active: u32,
) -> Flow {
    let lane = active.trailing_zeros();
    let frame = lane as usize * warp.local.stride + warp.splits[chosen].base as usize;
    let argument = |i: usize, bytes| warp.local.bytes.get(frame + arguments[i] as usize, bytes);
    let [message, file, function] = [0, 1, 3].map(|i| text(ctx, argument(i, 8)));
    let count = active.count_ones();
    let message =
        format!("assertion `{message}` failed at {file}:{} in {function} in {count} lanes", argument(2, 4));
    let at = At { pc, warp: warp.index, lane: Some(lane), address: None };
    ctx.report(Kind::Assert, true, at, message, None);
    Flow::Stop
}

/// The zero-terminated text at an address, as far as it lies in bounds.
fn text(ctx: &mut Context<'_>, address: u64) -> String {
    let bytes = super::print::text(ctx.memory, address, 4096).unwrap_or_else(|(bytes, _)| bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
