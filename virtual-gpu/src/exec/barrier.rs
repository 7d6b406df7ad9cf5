//! Named barriers of a CTA.

use super::warp::{Wait, Warp};
use super::{At, Context, Flow, lanes};
use crate::decode::program::*;
use crate::findings::{Kind, Party};

/// `bar` and `barrier`: a warp arrives as a whole.
pub fn named(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    b: &Barrier,
    active: u32,
) -> Flow {
    let at = At { pc, warp: warp.index, lane: Some(active.trailing_zeros()), address: None };
    // All live lanes of the warp come here first.
    if warp.live & !active != 0 {
        if warp.splits[chosen].mask & !active != 0 {
            let message = "a guard keeps some lanes of the warp from the barrier".to_string();
            ctx.report(Kind::Barrier, true, at, message, None);
            return Flow::Stop;
        }
        return Flow::Park { wait: Wait::Members { members: warp.live }, pass: false };
    }
    let (ids, counts) = (warp.registers.r32(b.id), b.count.map(|c| *warp.registers.r32(c)));
    let lane = active.trailing_zeros() as usize;
    let (id, count) = (ids[lane], counts.map(|c| c[lane]));
    let poison = (warp.registers.poison(b.id) | b.count.map_or(0, |c| warp.registers.poison(c))) & active;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "the barrier's number or count");
    }
    if warp.splits[chosen].resumed {
        if let Some((op, _, d)) = b.reduce {
            let (trues, threads) = ctx.own().barriers[id as usize].result;
            let value = match op {
                BarrierReduce::Popc => trues,
                BarrierReduce::And => u32::from(trues == threads),
                BarrierReduce::Or => u32::from(trues != 0),
            };
            if d.width == Width::Pred {
                warp.registers.set_pred(d.slot, value.wrapping_neg(), 0, active);
            } else {
                warp.registers.write32(d.slot, &[value; 32], active);
                warp.registers.set_poison(d.slot, 0, active);
            }
        }
        crate::races::barrier_leave(ctx, warp, id as usize);
        return Flow::Next;
    }
    if lanes(active).any(|l| ids[l] != id || counts.is_some_and(|c| c[l] != c[lane])) {
        ctx.report(Kind::Barrier, true, at, "lanes of a warp name different barriers or counts".into(), None);
        return Flow::Stop;
    }
    if id >= 16 {
        ctx.report(Kind::Barrier, true, at, format!("barrier {id} of 16"), None);
        return Flow::Stop;
    }
    let threads = ctx.grid.threads();
    let rounded = threads.next_multiple_of(32);
    if let Some(count) = count
        && (count == 0 || count % 32 != 0 || count > rounded)
    {
        let message = format!("barrier {id} with a count of {count} threads in a CTA of {threads}");
        ctx.report(Kind::Barrier, true, at, message, None);
        return Flow::Stop;
    }
    let live = ctx.own().live_warps * 32;
    let expected = count.unwrap_or(rounded);
    let barrier = &mut ctx.ctas[ctx.cta].barriers[id as usize];
    let whole = count.is_none();
    if barrier.arrived > 0 && barrier.expected != expected {
        let first = barrier.first;
        let message =
            format!("barrier {id} with {expected} threads, while others wait for {}", barrier.expected);
        let other = first.map(|(pc, warp)| Party {
            what: format!("the first arrival, of warp {warp}"),
            place: Some(ctx.place(pc)),
        });
        ctx.report(Kind::Barrier, true, at, message, other);
        return Flow::Stop;
    }
    if barrier.warps >> warp.index & 1 != 0 {
        let message = format!("warp arrives twice in one phase of barrier {id}");
        ctx.report(Kind::Barrier, true, at, message, None);
        return Flow::Stop;
    }
    if barrier.arrived == 0 {
        barrier.first = Some((pc, warp.index));
        (barrier.trues, barrier.threads) = (0, 0);
    }
    (barrier.expected, barrier.whole) = (expected, whole);
    barrier.arrived += 32;
    barrier.warps |= 1 << warp.index;
    if let Some((_, p, _)) = b.reduce {
        let bits = warp.registers.pred(p.pred);
        let bits = if p.negated { !bits } else { bits } & active;
        barrier.trues += bits.count_ones();
        barrier.threads += active.count_ones();
    }
    let phase = barrier.phase;
    crate::races::barrier_arrive(ctx, warp, id as usize);
    let barrier = &mut ctx.ctas[ctx.cta].barriers[id as usize];
    let needed = if whole { live.min(expected) } else { expected };
    if barrier.arrived >= needed {
        complete(ctx, id as usize);
    }
    *ctx.progress += 1;
    if b.arrive_only {
        return Flow::Next;
    }
    Flow::Park { wait: Wait::Barrier { id, phase }, pass: false }
}

/// Ends a phase.
pub fn complete(ctx: &mut Context<'_>, id: usize) {
    let barrier = &mut ctx.ctas[ctx.cta].barriers[id];
    barrier.phase += 1;
    barrier.arrived = 0;
    barrier.warps = 0;
    barrier.result = (barrier.trues, barrier.threads);
    crate::races::barrier_complete(ctx, id);
}

/// A warp has exited: barriers over the whole CTA await one warp less.
pub fn warp_exited(ctx: &mut Context<'_>) {
    let live = ctx.own().live_warps * 32;
    for id in 0..16 {
        let barrier = &ctx.own().barriers[id];
        if barrier.arrived > 0 && barrier.whole && barrier.arrived >= live {
            complete(ctx, id);
        }
    }
}
