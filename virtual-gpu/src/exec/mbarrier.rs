//! mbarrier objects.

use super::hopper::shared_place;
use super::memory::Action;
use super::warp::{Wait, Warp};
use super::{At, Context, Flow, lanes};
use crate::findings::{Kind, Party};
use crate::options::Order;
use crate::ptx::ast::Space;
use crate::races;
use crate::registers::Slot;

/// The largest count of an mbarrier, and the largest count of bytes.
const MAX_COUNT: u32 = (1 << 20) - 1;

/// State of an mbarrier.
#[derive(Default)]
pub struct Mbarrier {
    /// Arrivals of a phase.
    pub expected: u32,
    /// Arrivals left in this phase.
    pub pending: u32,
    /// Bytes that copies still owe this phase; below zero if they came before they were announced.
    pub tx: i64,
    pub phase: u64,
    pub clock: races::Sync,
    pub set_up: races::SetUp,
}

impl Mbarrier {
    /// Ends the phase if nothing is missing.
    pub fn settle(&mut self) -> bool {
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.clock.complete();
            return true;
        }
        false
    }
}

#[derive(Default)]
pub struct Arrival {
    pub count: Option<Slot>,
    pub tx: Option<Slot>,
    pub drop: bool,
    pub no_complete: bool,
    pub state: Option<Slot>,
}

pub fn init(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    pc: u32,
    all: &[u64; 32],
    space: Space,
    count: Slot,
    active: u32,
) -> Flow {
    let counts = *warp.registers.r32(count);
    for lane in lanes(active) {
        let Some((cta, at)) = shared_place(ctx, warp, pc, all, lane, space, 8, Action::Write) else {
            return Flow::Stop;
        };
        let count = counts[lane];
        if count == 0 || count > MAX_COUNT {
            let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(u64::from(at)) };
            ctx.report(Kind::Mbarrier, true, at, format!("mbarrier with a count of {count}"), None);
            return Flow::Stop;
        }
        let set_up = races::mbarrier_init(ctx, warp, pc, cta, at);
        let state = Mbarrier { expected: count, pending: count, set_up, ..Mbarrier::default() };
        ctx.ctas[cta].hopper.mbarriers.insert(at, state);
        ctx.ctas[cta].shared.define_range(at as usize, 8, true);
    }
    *ctx.progress += 1;
    Flow::Next
}

/// The object at an address, or a finding.
pub fn object<'c>(ctx: &'c mut Context<'_>, at: At, cta: usize, offset: u32) -> Option<&'c mut Mbarrier> {
    if !ctx.ctas[cta].hopper.mbarriers.contains_key(&offset) {
        let message = format!("no mbarrier has been initialised at shared address {offset:#x}");
        ctx.report(Kind::Mbarrier, true, at, message, None);
        return None;
    }
    ctx.ctas[cta].hopper.mbarriers.get_mut(&offset)
}

pub fn arrive(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    pc: u32,
    all: &[u64; 32],
    space: Space,
    what: &Arrival,
    active: u32,
) -> Flow {
    let counts = what.count.map(|s| *warp.registers.r32(s));
    let bytes = what.tx.map(|s| *warp.registers.r32(s));
    let poison = (what.count.map_or(0, |s| warp.registers.poison(s))
        | what.tx.map_or(0, |s| warp.registers.poison(s)))
        & active;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "the count of an mbarrier operation");
    }
    let mut tokens = [0u64; 32];
    for lane in lanes(active) {
        let Some((cta, offset)) = shared_place(ctx, warp, pc, all, lane, space, 8, Action::Atomic) else {
            return Flow::Stop;
        };
        let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(u64::from(offset)) };
        if object(ctx, at, cta, offset).is_none() {
            return Flow::Stop;
        }
        races::mbarrier_arrive(ctx, warp, cta, offset);
        let Some(barrier) = object(ctx, at, cta, offset) else { return Flow::Stop };
        tokens[lane] = (barrier.phase + 1) | (u64::from(barrier.pending) << 32);
        let count = counts.map_or(1, |c| c[lane]);
        barrier.tx += bytes.map_or(0, |b| i64::from(b[lane]));
        if count > barrier.pending {
            let message = format!(
                "arrival of {count} where {} of {} arrivals are left in phase {}",
                barrier.pending, barrier.expected, barrier.phase
            );
            ctx.report(Kind::Mbarrier, true, at, message, None);
            return Flow::Stop;
        }
        barrier.pending -= count;
        if what.drop {
            barrier.expected -= count;
        }
        let ended = barrier.settle();
        if ended && what.no_complete {
            ctx.report(Kind::Mbarrier, true, at, "arrive.noComplete ends the phase".into(), None);
            return Flow::Stop;
        }
    }
    if let Some(state) = what.state {
        warp.registers.write64(state, &tokens, active);
        warp.registers.set_poison(state, 0, active);
    }
    *ctx.progress += 1;
    Flow::Next
}

pub fn transactions(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    pc: u32,
    all: &[u64; 32],
    space: Space,
    tx: Slot,
    complete: bool,
    active: u32,
) -> Flow {
    let bytes = *warp.registers.r32(tx);
    for lane in lanes(active) {
        let Some((cta, offset)) = shared_place(ctx, warp, pc, all, lane, space, 8, Action::Atomic) else {
            return Flow::Stop;
        };
        let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(u64::from(offset)) };
        let Some(barrier) = object(ctx, at, cta, offset) else { return Flow::Stop };
        barrier.tx += if complete { -i64::from(bytes[lane]) } else { i64::from(bytes[lane]) };
        if barrier.tx.unsigned_abs() > u64::from(MAX_COUNT) {
            let message = format!("{} bytes are expected, more than an mbarrier can count", barrier.tx);
            ctx.report(Kind::Mbarrier, true, at, message, None);
            return Flow::Stop;
        }
        if complete {
            barrier.settle();
        }
    }
    *ctx.progress += 1;
    Flow::Next
}

/// Whether the awaited phase is over.
pub fn is_over(barrier: &Mbarrier, by_parity: bool, state: u64) -> bool {
    if by_parity { barrier.phase & 1 != state & 1 } else { barrier.phase + 1 > state & 0xffff_ffff }
}

pub fn wait(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    all: &[u64; 32],
    space: Space,
    (blocks, by_parity, state, p): (bool, bool, Slot, u32),
    active: u32,
) -> Flow {
    let poison = warp.registers.poison(state) & active;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "the awaited phase");
    }
    let states: [u64; 32] =
        if by_parity { warp.registers.r32(state).map(u64::from) } else { *warp.registers.r64(state) };
    let mut done = 0u32;
    let mut first = None;
    for lane in lanes(active) {
        let Some((cta, offset)) = shared_place(ctx, warp, pc, all, lane, space, 8, Action::Atomic) else {
            return Flow::Stop;
        };
        let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(u64::from(offset)) };
        if cta != ctx.cta {
            ctx.report(Kind::Mbarrier, true, at, "a wait on the mbarrier of another CTA".into(), None);
            return Flow::Stop;
        }
        let Some(barrier) = object(ctx, at, cta, offset) else { return Flow::Stop };
        if is_over(barrier, by_parity, states[lane]) {
            done |= 1 << lane;
            races::mbarrier_wait(ctx, warp, cta, offset);
        } else if first.is_none() {
            first = Some((cta, offset, states[lane]));
        }
    }
    let resumed = warp.splits[chosen].resumed;
    if done == 0
        && blocks
        && let Some((cta, address, state)) = first
    {
        // A chip may also give up waiting and say so.
        let gives_up = matches!(ctx.order, Order::Random(_)) && !resumed && ctx.random.below(8) == 0;
        if !gives_up {
            let wait = Wait::Mbarrier { cta, address, parity: by_parity, state };
            return Flow::Park { wait, pass: false };
        }
    }
    warp.registers.set_pred(p, done, 0, active);
    Flow::Next
}

/// What a deadlock report says of an mbarrier.
pub fn describe(barrier: Option<&Mbarrier>) -> String {
    match barrier {
        None => "not initialised".into(),
        Some(b) => {
            format!("phase {}, {} of {} arrivals and {} bytes missing", b.phase, b.pending, b.expected, b.tx)
        }
    }
}

/// At a CTA's end: bytes that were announced and never came, or came unannounced.
pub fn check_at_exit(ctx: &mut Context<'_>, warp: &Warp) {
    let mut bad: Vec<(u32, i64)> =
        ctx.own().hopper.mbarriers.iter().filter(|(_, b)| b.tx != 0).map(|(at, b)| (*at, b.tx)).collect();
    bad.sort_unstable();
    if let Some(&(offset, tx)) = bad.first() {
        let at = At { pc: warp.last_pc, warp: warp.index, lane: None, address: Some(u64::from(offset)) };
        let message = format!("the CTA exits while {tx} bytes are owed to the mbarrier at {offset:#x}");
        let other =
            Some(Party { what: "a wrong expect_tx, or a copy that nobody awaits".into(), place: None });
        ctx.report(Kind::Mbarrier, false, at, message, other);
    }
}
