//! wgmma: a product of the four warps of a warpgroup, done when the last of them arrives at it (or, in lazy order, when
//! the first of them waits for it).

use super::warp::{Wait, Warp};
use super::{At, Context, Flow, wgmma_registers};
use crate::decode::program::{Op, PredRead};
use crate::findings::Kind;
use crate::options::{Checks, Order};
use crate::races;
use crate::registers::Slot;
use crate::tensor::descriptor::{Descriptor, Major};
use crate::tensor::wgmma as layout;

pub enum AOperand {
    Registers(Vec<Slot>),
    Descriptor(Slot),
}

/// A decoded `wgmma.mma_async`.
pub struct Wgmma {
    pub kind: layout::Wgmma,
    pub a: AOperand,
    pub b: Slot,
    pub d: Vec<Slot>,
    pub scale_d: PredRead,
    pub negate_a: bool,
    pub negate_b: bool,
    pub a_major: Major,
    pub b_major: Major,
    pub saturate: bool,
}

impl Wgmma {
    /// Bytes of the operands that lie in shared memory.
    fn shared_bytes(&self) -> usize {
        let a = if matches!(self.a, AOperand::Descriptor(_)) { layout::M } else { 0 };
        (a + self.kind.n()) * self.kind.k() * self.kind.a().bytes()
    }
}

/// A product that is not done yet.
struct Deferred {
    pc: u32,
    a: u64,
    b: u64,
    scale: bool,
    group: u64,
}

/// State of a warpgroup.
#[derive(Default)]
pub struct Warpgroup {
    /// Warps (bits) that wait at an instruction.
    arrived: u32,
    at: u32,
    deferred: Vec<Deferred>,
    /// Reads of shared memory in flight: job number and group.
    reads: Vec<(u64, u64)>,
}

fn warp_of<'w>(ctx: &'w Context<'_>, own: &'w Warp, index: u32) -> &'w Warp {
    if index == own.index { own } else { &ctx.ctas[ctx.cta].warps[index as usize] }
}

pub fn issue(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    op: &Wgmma,
    active: u32,
) -> Flow {
    if let Some(flow) = super::matrix::whole_warp(ctx, warp, chosen, pc, active) {
        return flow;
    }
    let at = At { pc, warp: warp.index, lane: None, address: None };
    let (group, member) = (warp.index / 4, warp.index % 4);
    if (group * 4 + 4) as usize > ctx.own().warps.len() {
        ctx.report(Kind::Wgmma, true, at, "wgmma in a warpgroup of fewer than four warps".into(), None);
        return Flow::Stop;
    }
    let groups = &mut ctx.own().hopper.warpgroups;
    if groups.len() <= group as usize {
        groups.resize_with(group as usize + 1, Warpgroup::default);
    }
    let state = &mut groups[group as usize];
    if state.arrived != 0 && state.at != pc {
        let other = Some(crate::findings::Party {
            what: "other warps of the warpgroup".into(),
            place: Some(ctx.place(ctx.ctas[ctx.cta].hopper.warpgroups[group as usize].at)),
        });
        ctx.report(Kind::Wgmma, true, at, "the warps of a warpgroup execute different wgmma".into(), other);
        return Flow::Stop;
    }
    (state.arrived, state.at) = (state.arrived | 1 << member, pc);
    let last = state.arrived == 15;
    wgmma_registers::check(ctx, warp, pc, op);
    if !last {
        return Flow::Park { wait: Wait::Warpgroup { pc }, pass: false };
    }
    ctx.own().hopper.warpgroups[group as usize].arrived = 0;
    // The last warp executes for all; the others go on.
    let cta = ctx.cta;
    for w in group * 4..group * 4 + 4 {
        if w == warp.index {
            continue;
        }
        let other = &mut ctx.ctas[cta].warps[w as usize];
        for split in &mut other.splits {
            if split.wait == Some(Wait::Warpgroup { pc }) {
                split.wait = None;
                split.resumed = false;
                split.pc += 1;
            }
        }
    }
    *ctx.progress += 1;
    let (scale, scale_poison) = {
        let bits = warp.registers.pred(op.scale_d.pred);
        let bits = if op.scale_d.negated { !bits } else { bits };
        (bits & 1 != 0, warp.registers.pred_poison(op.scale_d.pred) != 0)
    };
    let descriptor =
        |warp: &Warp, slot: Slot| (warp.registers.r64(slot)[0], warp.registers.poison(slot) != 0);
    let (b, b_poison) = descriptor(warp, op.b);
    let (a, a_poison) = match &op.a {
        AOperand::Descriptor(slot) => descriptor(warp, *slot),
        AOperand::Registers(_) => (0, false),
    };
    if scale_poison || a_poison || b_poison {
        super::step::undefined(ctx, warp.index, pc, 1, "a descriptor or scale of wgmma");
    }
    ctx.grid.counters.tensor(pc, op.kind.macs() as u64);
    ctx.grid.counters.operands(pc, op.shared_bytes() as u64);
    let commits = warp.wgmma.commits();
    let job = Deferred { pc, a, b, scale, group: commits };
    if ctx.checks == Checks::All {
        let read = record_reads(ctx, warp, pc, op, &job);
        ctx.ctas[cta].hopper.warpgroups[group as usize].reads.push((read, commits));
    }
    let state = &mut ctx.ctas[cta].hopper.warpgroups[group as usize];
    let defer = match ctx.order {
        Order::Eager => false,
        Order::Lazy => true,
        Order::Random(_) => !state.deferred.is_empty() || ctx.random.coin(),
    };
    if defer {
        state.deferred.push(job);
    } else if multiply(ctx, warp, op, &job).is_none() {
        return Flow::Stop;
    }
    for w in group * 4..group * 4 + 4 {
        let state =
            if w == warp.index { &mut warp.wgmma } else { &mut ctx.ctas[cta].warps[w as usize].wgmma };
        state.issued(op, scale);
    }
    Flow::Next
}

/// Tells the race detector which bytes are read, and until when they must not change.
fn record_reads(ctx: &mut Context<'_>, warp: &mut Warp, pc: u32, op: &Wgmma, job: &Deferred) -> u64 {
    let size = op.kind.a().bytes();
    let addresses = |bits: u64, rows: usize, major: Major| {
        Descriptor::decode(bits).chunks(rows, op.kind.k(), size, major).map(|c| c.address)
    };
    let a = matches!(op.a, AOperand::Descriptor(_)).then(|| addresses(job.a, layout::M, op.a_major));
    *ctx.next_job += 1;
    let id = *ctx.next_job;
    let chunks = a.into_iter().flatten().chain(addresses(job.b, op.kind.n(), op.b_major));
    races::wgmma_reads(ctx, warp, pc, id, chunks);
    id
}

/// Computes one product. `None` after a fatal finding.
fn multiply(ctx: &mut Context<'_>, warp: &mut Warp, op: &Wgmma, job: &Deferred) -> Option<()> {
    let kind = &op.kind;
    let first = warp.index / 4 * 4;
    let mut a = layout::Operand::a(kind);
    match &op.a {
        AOperand::Registers(slots) => {
            for w in 0..4 {
                let registers = &warp_of(ctx, warp, first + w).registers;
                for (r, &slot) in slots.iter().enumerate() {
                    a.load_register(w as usize, r, registers.r32(slot), registers.poison(slot));
                }
            }
        }
        AOperand::Descriptor(_) => load(ctx, warp, job.pc, &mut a, job.a, op.a_major)?,
    }
    let mut b = layout::Operand::b(kind);
    load(ctx, warp, job.pc, &mut b, job.b, op.b_major)?;
    if op.negate_a {
        a.negate();
    }
    if op.negate_b {
        b.negate();
    }
    let mut tile = layout::Tile::zeros(kind);
    if job.scale {
        for w in 0..4 {
            let registers = &warp_of(ctx, warp, first + w).registers;
            tile.load_registers(w as usize, |j| (registers.r32(op.d[j]), registers.poison(op.d[j])));
        }
    }
    tile.multiply(&a, &b, op.saturate);
    let cta = ctx.cta;
    for w in 0..4 {
        let index = first + w;
        let registers = if index == warp.index {
            &mut warp.registers
        } else {
            &mut ctx.ctas[cta].warps[index as usize].registers
        };
        tile.store_registers(w as usize, |j, values, poison| {
            *registers.m32(op.d[j]) = *values;
            registers.set_poison(op.d[j], poison, u32::MAX);
        });
    }
    Some(())
}

fn load(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    operand: &mut layout::Operand,
    bits: u64,
    major: Major,
) -> Option<()> {
    let descriptor = Descriptor::decode(bits);
    let shared = &ctx.ctas[ctx.cta].shared;
    let mut outside = None;
    for chunk in descriptor.chunks(operand.rows(), operand.k(), operand.element().bytes(), major) {
        let at = chunk.address as usize;
        let Some(bytes) = shared.data.get(at..).and_then(|d| d.first_chunk::<16>()) else {
            outside = Some(chunk.address);
            break;
        };
        let undefined = if shared.is_defined(at, 16) { 0 } else { shared.undefined_bits(at, 16) as u16 };
        operand.load_chunk(chunk, major, bytes, undefined);
    }
    if let Some(address) = outside {
        let message =
            format!("wgmma reads shared address {address:#x}, the CTA has {:#x} bytes", shared.len());
        let at = At { pc, warp: warp.index, lane: None, address: Some(u64::from(address)) };
        ctx.report(Kind::OutOfBounds, true, at, message, None);
        return None;
    }
    Some(())
}

pub fn commit(ctx: &mut Context<'_>, warp: &mut Warp) -> Flow {
    warp.wgmma.commit();
    *ctx.progress += 1;
    Flow::Next
}

/// Does the products that were put off and belong to groups before `until`.
pub(super) fn settle_deferred(ctx: &mut Context<'_>, warp: &mut Warp, until: u64) -> bool {
    let (cta, group) = (ctx.cta, (warp.index / 4) as usize);
    loop {
        let Some(state) = ctx.ctas[cta].hopper.warpgroups.get_mut(group) else { return true };
        if state.deferred.first().is_none_or(|d| d.group >= until) {
            return true;
        }
        let job = state.deferred.remove(0);
        let program = ctx.program.clone();
        if let Op::Hopper(op) = &program.code[job.pc as usize].op
            && let super::hopper::HopperOp::Wgmma(op) = &**op
            && multiply(ctx, warp, op, &job).is_none()
        {
            return false;
        }
    }
}

pub fn wait(ctx: &mut Context<'_>, warp: &mut Warp, _pc: u32, pending: u32) -> Flow {
    let until = warp.wgmma.commits().saturating_sub(u64::from(pending));
    if !settle_deferred(ctx, warp, until) {
        return Flow::Stop;
    }
    warp.wgmma.waited(until);
    let (cta, group) = (ctx.cta, (warp.index / 4) as usize);
    let mut over = Vec::new();
    if let Some(state) = ctx.ctas[cta].hopper.warpgroups.get_mut(group) {
        over.extend(state.reads.iter().filter(|(_, g)| *g < until).map(|(id, _)| *id));
    }
    for id in over {
        races::job_waited(ctx, warp, id);
    }
    *ctx.progress += 1;
    Flow::Next
}

/// At a warp's end: products that nobody waited for.
pub fn check_at_exit(ctx: &mut Context<'_>, warp: &Warp) {
    if warp.wgmma.unfinished() {
        let at = At { pc: warp.last_pc, warp: warp.index, lane: None, address: None };
        let message = "the warp exits before its wgmma are done".to_string();
        ctx.report(Kind::Unfinished, false, at, message, None);
    }
}
