//! Accesses of asynchronous engines: cp.async, bulk copies, wgmma.

use super::cells::{ANY_LANE, Accessor, Conflict, Why};
use super::clocks::{JobClock, set};
use super::sync::bump;
use super::{Engine, active, put_clocks, report, take_clocks};
use crate::exec::jobs::JobKind;
use crate::exec::warp::Warp;
use crate::exec::{At, Context, lanes};
use crate::memory::SHARED_BASE;

/// An access of an engine, begun by a warp: it must come after all that the warp knows.
#[allow(clippy::too_many_arguments)]
fn engine_access(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    cta: usize,
    runs: impl Iterator<Item = (u32, u32)>,
    (actor, clock): (usize, u32),
    write: bool,
    proxied: bool,
    what: &str,
) {
    let (clocks, _) = take_clocks(ctx, warp);
    let races = &mut ctx.ctas[cta].races;
    let accessor = Accessor {
        actor,
        lane: ANY_LANE,
        clock,
        pc,
        write,
        strong: false,
        mbarrier: false,
        knows: &clocks.all,
        knows_writes: if proxied { &clocks.proxied } else { &clocks.all },
        generic: races.generic(),
    };
    let mut first = None;
    if races.enabled {
        for (offset, size) in runs {
            if offset < SHARED_BASE || size == 0 {
                continue;
            }
            if let Some(conflict) = races.cells.access(&accessor, offset as usize, size)
                && first.is_none()
            {
                first = Some(conflict);
            }
        }
    }
    put_clocks(ctx, warp, clocks);
    if let Some((offset, conflict)) = first {
        let at = At { pc, warp: warp.index, lane: None, address: None };
        report(ctx, at, cta, what, true, offset, conflict);
    }
}

/// The next number of an engine without phases.
fn next_number(ctx: &mut Context<'_>, engine: Engine) -> (usize, u32) {
    let races = &mut ctx.own().races;
    let actor = races.engine(engine);
    let number = races.sequence.entry(actor).or_insert(0);
    *number += 1;
    (actor, *number)
}

/// A cp.async has been issued: its bytes belong to the engine until the wait.
pub fn copy_issued(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    pc: u32,
    cta: usize,
    dst: &[u32; 32],
    mask: u32,
    bytes: u32,
) {
    if !active(ctx) {
        return;
    }
    let actor = ctx.own().races.copies(warp.index);
    // A number for the open group: all copies up to a wait share the order of their groups.
    let number = warp.copies.issued + 1;
    let runs = lanes(mask).map(|lane| (dst[lane], bytes));
    engine_access(ctx, warp, pc, cta, runs, (actor, number), true, false, "an asynchronous copy writes");
}

/// The copies of the group with this number and all before it are complete for the warp.
pub fn copy_done(ctx: &mut Context<'_>, warp: &mut Warp, number: u32) {
    if !active(ctx) {
        return;
    }
    let actor = ctx.own().races.copies(warp.index);
    let (mut clocks, _) = take_clocks(ctx, warp);
    set(&mut clocks.all, actor, number);
    put_clocks(ctx, warp, clocks);
}

/// The warp's copies so far arrive at an mbarrier when they are done: who waits for it learns of them, and of what the
/// warp did before; the warp itself learns nothing.
pub fn copies_arrive(ctx: &mut Context<'_>, warp: &Warp, (cta, offset): (usize, u32)) {
    if !active(ctx) {
        return;
    }
    let copies = (ctx.own().races.copies(warp.index), warp.copies.issued);
    let (mut clocks, actor) = take_clocks(ctx, warp);
    if let Some(barrier) = ctx.ctas[cta].hopper.mbarriers.get_mut(&offset) {
        barrier.clock.gathering.join(&clocks);
        barrier.clock.join_copies(copies);
    }
    bump(&mut clocks, actor);
    put_clocks(ctx, warp, clocks);
}

/// A bulk copy has been issued.
pub fn job_issued(ctx: &mut Context<'_>, warp: &Warp, pc: u32, kind: &JobKind) -> JobClock {
    let mut clock = JobClock::default();
    if !active(ctx) {
        return clock;
    }
    // An engine of an mbarrier: its clock is the phase that the copy counts for.
    let phase_of = |ctx: &mut Context<'_>, (cta, offset): (usize, u32)| {
        let phase = ctx.ctas[cta].hopper.mbarriers.get(&offset).map_or(0, |b| b.phase);
        (ctx.ctas[cta].races.engine(Engine::Mbarrier(offset)), phase as u32 + 1)
    };
    // The engine uses the mbarrier itself, whose initialisation a fence must have covered.
    let barrier_use = |ctx: &mut Context<'_>, (cta, offset): (usize, u32)| {
        let generic = ctx.own().races.generic();
        let w = ctx.ctas[cta].races.cells.last_write(offset as usize);
        let set_up = ctx.ctas[cta].hopper.mbarriers.get(&offset).map(|b| b.set_up).unwrap_or_default();
        let (clocks, own) = take_clocks(ctx, warp);
        let known = |knows: &[u32]| knows.get(w.actor as usize).copied().unwrap_or(0) >= w.clock;
        let of_set_up = clocks.all.get(set_up.actor).copied().unwrap_or(0);
        let shown = known(&clocks.proxied) || set_up.fenced.is_some_and(|fenced| of_set_up >= fenced);
        let bad = w.clock != 0 && (w.actor as usize) < generic && !shown;
        let ordered = known(&clocks.all) || w.actor as usize == own;
        put_clocks(ctx, warp, clocks);
        if bad {
            let at = At { pc, warp: warp.index, lane: None, address: Some(u64::from(offset)) };
            let what = "a copy signals the mbarrier in";
            let why = if ordered { Why::Proxy } else { Why::Unordered };
            let conflict = Conflict { earlier: w, earlier_write: true, why };
            report(ctx, at, cta, what, true, offset, conflict);
        }
    };
    match kind {
        JobKind::Load { runs, targets, barrier, .. } => {
            for &cta in targets {
                barrier_use(ctx, (cta, *barrier));
                let (actor, phase) = phase_of(ctx, (cta, *barrier));
                let runs = runs.iter().map(|&(_, offset, length)| (offset, length));
                engine_access(ctx, warp, pc, cta, runs, (actor, phase), true, true, "a bulk copy writes");
                clock.done.push((actor, phase));
            }
        }
        JobKind::Store { runs, .. } => {
            let (actor, number) = next_number(ctx, Engine::Bulk(warp.index));
            let cta = ctx.cta;
            let runs = runs.iter().filter(|r| r.0.is_some()).map(|&(_, offset, length)| (offset, length));
            engine_access(ctx, warp, pc, cta, runs, (actor, number), false, true, "a bulk copy reads");
            let id = *ctx.next_job;
            ctx.own().races.jobs.insert(id, (actor, number));
        }
        JobKind::Remote { from, to, bytes, barrier, .. } => {
            let (actor, phase) = phase_of(ctx, *barrier);
            let cta = ctx.cta;
            engine_access(
                ctx,
                warp,
                pc,
                cta,
                std::iter::once((*from, *bytes)),
                (actor, phase),
                false,
                true,
                "a bulk copy reads",
            );
            engine_access(
                ctx,
                warp,
                pc,
                to.0,
                std::iter::once((to.1, *bytes)),
                (actor, phase),
                true,
                true,
                "a bulk copy writes",
            );
            clock.done.push((actor, phase));
        }
        JobKind::Values { to, values, element, barrier, .. } => {
            let (actor, phase) = phase_of(ctx, *barrier);
            let bytes = values.len() as u32 * element;
            let run = std::iter::once((to.1, bytes));
            engine_access(
                ctx,
                warp,
                pc,
                to.0,
                run,
                (actor, phase),
                true,
                false,
                "an asynchronous store writes",
            );
            clock.done.push((actor, phase));
        }
    }
    clock
}

/// wgmma has been issued: what it reads must stay until the wait.
pub fn wgmma_reads(ctx: &mut Context<'_>, warp: &Warp, pc: u32, id: u64, chunks: impl Iterator<Item = u32>) {
    let (actor, number) = next_number(ctx, Engine::Wgmma(warp.index / 4));
    let cta = ctx.cta;
    let runs = chunks.map(|c| (c, 16));
    engine_access(ctx, warp, pc, cta, runs, (actor, number), false, true, "wgmma reads");
    ctx.own().races.jobs.insert(id, (actor, number));
}

/// The warp has waited for a job.
pub fn job_waited(ctx: &mut Context<'_>, warp: &Warp, id: u64) {
    if !active(ctx) {
        return;
    }
    if let Some(&(actor, number)) = ctx.own().races.jobs.get(&id) {
        let (mut clocks, _) = take_clocks(ctx, warp);
        set(&mut clocks.all, actor, number);
        put_clocks(ctx, warp, clocks);
    }
}
