//! Races in shared memory: accesses to the same bytes that nothing orders, at least one a write.
//!
//! Vector clocks as in FastTrack (Flanagan and Freund 2009). An actor is a warp, or an asynchronous engine: one for the
//! cp.async of a warp, one for its bulk stores, one for the wgmma of a warpgroup, one for each mbarrier (its clock is
//! the phase, so waiting on another mbarrier orders nothing). Each warp also has a clock of what a proxy fence covers:
//! asynchronous engines must find generic writes in that one.

mod cells;

pub use crate::global_races::{
    GlobalShadow, GridClocks, acquire_global, atomic_global, fence, global, release_global,
};

use crate::decode::program::Strength;
use crate::exec::bulk::JobKind;
use crate::exec::memory::{Action, Reach, Shape};
use crate::exec::warp::Warp;
use crate::exec::{At, Context, lanes};
use crate::findings::{Kind, Party};
use crate::memory::SHARED_BASE;
use crate::options::Checks;
use cells::{ANY_LANE, Accessor, Cells, Conflict};
use std::collections::HashMap;

/// An access as the detectors see it.
#[derive(Clone, Copy)]
pub struct Touch {
    pub action: Action,
    pub strong: bool,
}

impl Touch {
    pub fn of(action: Action, strength: Strength) -> Self {
        Self { action, strong: strength != Strength::Weak || action == Action::Atomic }
    }
}

/// What a warp knows of every actor: all of it, and what proxy fences cover.
#[derive(Clone, Default)]
struct Clocks {
    all: Vec<u32>,
    proxied: Vec<u32>,
}

fn join(to: &mut Vec<u32>, from: &[u32]) {
    if to.len() < from.len() {
        to.resize(from.len(), 0);
    }
    for (a, &b) in to.iter_mut().zip(from) {
        *a = (*a).max(b);
    }
}

fn set(to: &mut Vec<u32>, actor: usize, clock: u32) {
    if to.len() <= actor {
        to.resize(actor + 1, 0);
    }
    to[actor] = to[actor].max(clock);
}

impl Clocks {
    fn join(&mut self, other: &Clocks) {
        join(&mut self.all, &other.all);
        join(&mut self.proxied, &other.proxied);
    }
}

/// The clock of a synchronisation object with phases.
#[derive(Clone, Default)]
pub struct Sync {
    gathering: Clocks,
    done: Clocks,
}

impl Sync {
    /// The phase ends: what was gathered is what waiters learn.
    pub fn complete(&mut self) {
        let gathered = std::mem::take(&mut self.gathering);
        self.done.join(&gathered);
    }

    pub fn join_job(&mut self, job: &JobClock) {
        for &(actor, clock) in &job.done {
            set(&mut self.gathering.all, actor, clock);
            set(&mut self.gathering.proxied, actor, clock);
        }
    }
}

/// What those who learn of a copy's end learn.
#[derive(Clone, Default)]
pub struct JobClock {
    done: Vec<(usize, u32)>,
}

/// Race state of a CTA's shared memory and of its warps.
#[derive(Default)]
pub struct SharedRaces {
    enabled: bool,
    cells: Cells,
    clocks: Vec<Clocks>,
    first_actor: usize,
    /// First number of this CTA's engines, and those given so far.
    engine_base: usize,
    engines: HashMap<Engine, usize>,
    /// Numbers of operations of an engine that has no phases.
    sequence: HashMap<usize, u32>,
    /// Actor and number of jobs that are waited for by warps.
    jobs: HashMap<u64, (usize, u32)>,
    /// Strong accesses: what the writers of a location published.
    published: HashMap<u32, Clocks>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Engine {
    Copies(u32),
    Bulk(u32),
    Wgmma(u32),
    Mbarrier(u32),
}

const ENGINES_PER_CTA: usize = 512;

impl SharedRaces {
    pub fn start(&mut self, num_warps: u32, size: usize, rank: u32, cluster_size: u32, check: bool) {
        let mut cells = std::mem::take(&mut self.cells);
        if check {
            cells.start(size);
        }
        let first_actor = rank as usize * num_warps as usize;
        let mut clocks = vec![Clocks::default(); num_warps as usize];
        for (w, clock) in clocks.iter_mut().enumerate() {
            set(&mut clock.all, first_actor + w, 1);
        }
        let engine_base = cluster_size as usize * num_warps as usize + rank as usize * ENGINES_PER_CTA;
        *self = Self { enabled: check, cells, clocks, first_actor, engine_base, ..Self::default() };
    }

    fn engine(&mut self, engine: Engine) -> usize {
        let next = self.engine_base + self.engines.len().min(ENGINES_PER_CTA - 1);
        *self.engines.entry(engine).or_insert(next)
    }

    fn describe(&self, actor: usize, num_warps: usize) -> String {
        if actor < self.first_actor + num_warps && actor >= self.first_actor {
            return format!("warp {}", actor - self.first_actor);
        }
        match self.engines.iter().find(|(_, a)| **a == actor).map(|(e, _)| *e) {
            Some(Engine::Copies(w)) => format!("cp.async of warp {w} (not waited for)"),
            Some(Engine::Bulk(w)) => format!("a bulk copy of warp {w} (not waited for)"),
            Some(Engine::Wgmma(g)) => format!("wgmma of warpgroup {g} (not waited for)"),
            Some(Engine::Mbarrier(at)) => {
                format!("a copy that signals the mbarrier at {at:#x} (not waited for)")
            }
            None => "another CTA of the cluster".into(),
        }
    }
}

fn active(ctx: &Context<'_>) -> bool {
    ctx.checks == Checks::All
}

/// The vector clock of the warp, taken out for the time of an access.
fn take_clocks(ctx: &mut Context<'_>, warp: &Warp) -> (Clocks, usize) {
    let own = &mut ctx.own().races;
    let actor = own.first_actor + warp.index as usize;
    (std::mem::take(&mut own.clocks[warp.index as usize]), actor)
}

fn put_clocks(ctx: &mut Context<'_>, warp: &Warp, clocks: Clocks) {
    ctx.own().races.clocks[warp.index as usize] = clocks;
}

#[cold]
fn report(
    ctx: &mut Context<'_>,
    at: At,
    cta: usize,
    what: &str,
    accessor_async: bool,
    offset: u32,
    c: Conflict,
) {
    let num_warps = ctx.ctas[cta].warps.len();
    let actor = c.earlier.actor as usize;
    let who = ctx.ctas[cta].races.describe(actor, num_warps);
    let is_engine = actor >= num_warps * ctx.ctas[cta].peers.len();
    let lane = if c.earlier.lane < 32 { format!(" lane {}", c.earlier.lane) } else { String::new() };
    let verb = if c.earlier_write { "write" } else { "read" };
    let kind = match (c.proxy, is_engine || accessor_async) {
        (true, _) => Kind::ProxyFence,
        (_, true) => Kind::AsyncHazard,
        _ => Kind::SharedRace,
    };
    let message = match kind {
        Kind::ProxyFence => format!(
            "{what} shared bytes at {offset:#x} that were written by ordinary stores, without fence.proxy.async between"
        ),
        _ => format!("{what} shared bytes at {offset:#x}, unordered with an earlier {verb}"),
    };
    let other = Party { what: format!("{verb} by {who}{lane}"), place: Some(ctx.place(c.earlier.pc)) };
    let at = At { address: Some(u64::from(offset)), ..at };
    ctx.report(kind, false, at, message, Some(other));
}

/// An ordinary access of a warp to the shared memory of a CTA.
#[inline(always)]
pub fn shared(ctx: &mut Context<'_>, warp: &Warp, pc: u32, cta: usize, reach: &Reach, touch: Touch) {
    if active(ctx) {
        shared_checked(ctx, warp, pc, cta, reach, touch);
    }
}

fn shared_checked(ctx: &mut Context<'_>, warp: &Warp, pc: u32, cta: usize, reach: &Reach, touch: Touch) {
    let warps = ctx.own().warps.len() * ctx.own().peers.len();
    let (clocks, actor) = take_clocks(ctx, warp);
    let races = &mut ctx.ctas[cta].races;
    let mut accessor = Accessor {
        actor,
        lane: 0,
        clock: clocks.all.get(actor).copied().unwrap_or(1),
        pc,
        write: touch.action != Action::Read,
        strong: touch.strong,
        knows: &clocks.all,
        knows_writes: &clocks.all,
        warps,
    };
    let mut first = None;
    if races.enabled {
        for lane in lanes(telling(reach, &accessor)) {
            accessor.lane = lane as u8;
            if let Some((at, conflict)) = races.cells.access(&accessor, reach.offsets[lane], reach.size)
                && first.is_none()
            {
                first = Some((lane as u32, at, conflict));
            }
        }
    }
    put_clocks(ctx, warp, clocks);
    if let Some((lane, offset, conflict)) = first {
        let at = At { pc, warp: warp.index, lane: Some(lane), address: None };
        let what = match touch.action {
            Action::Read => "reads",
            Action::Write => "writes",
            Action::Atomic => "changes",
        };
        report(ctx, at, cta, what, false, offset, conflict);
    }
    if touch.strong && touch.action != Action::Atomic {
        strong(ctx, warp, cta, reach, touch.action);
    }
}

/// The lanes whose accesses decide. Where all lanes read one place, the first two tell any conflict, and the last is
/// what is remembered.
fn telling(reach: &Reach, accessor: &Accessor<'_>) -> u32 {
    let mask = reach.mask;
    if accessor.write || reach.shape != Shape::Uniform {
        return mask;
    }
    let rest = mask & mask.wrapping_sub(1);
    let second = rest & rest.wrapping_neg();
    mask & mask.wrapping_neg() | second | 1 << (31 - mask.leading_zeros().min(31))
}

/// Strong accesses publish and learn through their location.
fn strong(ctx: &mut Context<'_>, warp: &Warp, cta: usize, reach: &Reach, action: Action) {
    let (mut clocks, actor) = take_clocks(ctx, warp);
    let published = &mut ctx.ctas[cta].races.published;
    for lane in lanes(reach.mask) {
        let at = reach.offsets[lane] as u32 & !3;
        if action != Action::Write
            && let Some(p) = published.get(&at)
        {
            clocks.join(p);
        }
        if action != Action::Read {
            published.entry(at).or_default().join(&clocks);
        }
    }
    if action != Action::Read {
        bump(&mut clocks, actor);
    }
    put_clocks(ctx, warp, clocks);
}

pub fn atomic_shared(ctx: &mut Context<'_>, warp: &Warp, cta: usize, reach: &Reach) {
    if active(ctx) {
        strong(ctx, warp, cta, reach, Action::Atomic);
    }
}

fn bump(clocks: &mut Clocks, actor: usize) {
    let next = clocks.all.get(actor).copied().unwrap_or(0) + 1;
    set(&mut clocks.all, actor, next);
}

pub fn warp_sync(ctx: &mut Context<'_>, warp: &mut Warp, _mask: u32) {
    if active(ctx) {
        let (mut clocks, actor) = take_clocks(ctx, warp);
        bump(&mut clocks, actor);
        put_clocks(ctx, warp, clocks);
    }
}

/// Adds what the warp did to a synchronisation object.
fn arrive(
    ctx: &mut Context<'_>,
    warp: &Warp,
    object: impl for<'c> FnOnce(&'c mut Context<'_>) -> Option<&'c mut Sync>,
) {
    if !active(ctx) {
        return;
    }
    let (mut clocks, actor) = take_clocks(ctx, warp);
    if let Some(sync) = object(ctx) {
        sync.gathering.join(&clocks);
    }
    bump(&mut clocks, actor);
    put_clocks(ctx, warp, clocks);
}

fn leave(
    ctx: &mut Context<'_>,
    warp: &Warp,
    object: impl for<'c> FnOnce(&'c mut Context<'_>) -> Option<&'c mut Sync>,
) {
    if !active(ctx) {
        return;
    }
    let (mut clocks, _) = take_clocks(ctx, warp);
    if let Some(sync) = object(ctx) {
        clocks.join(&sync.done);
    }
    put_clocks(ctx, warp, clocks);
}

pub fn barrier_arrive(ctx: &mut Context<'_>, warp: &mut Warp, id: usize) {
    arrive(ctx, warp, |ctx| Some(&mut ctx.own().barriers[id].clock));
}

pub fn barrier_complete(ctx: &mut Context<'_>, id: usize) {
    ctx.own().barriers[id].clock.complete();
}

pub fn barrier_leave(ctx: &mut Context<'_>, warp: &mut Warp, id: usize) {
    leave(ctx, warp, |ctx| Some(&mut ctx.own().barriers[id].clock));
}

pub fn cluster_arrive(ctx: &mut Context<'_>, warp: &mut Warp, leader: usize) {
    arrive(ctx, warp, |ctx| Some(&mut ctx.ctas[leader].hopper.cluster.clock));
}

pub fn cluster_leave(ctx: &mut Context<'_>, warp: &mut Warp, leader: usize) {
    leave(ctx, warp, |ctx| Some(&mut ctx.ctas[leader].hopper.cluster.clock));
}

pub fn mbarrier_init(ctx: &mut Context<'_>, warp: &Warp, pc: u32, cta: usize, offset: u32) {
    let reach = Reach { offsets: [offset as usize; 32], mask: 1, size: 8, shape: Shape::Uniform };
    shared(ctx, warp, pc, cta, &reach, Touch { action: Action::Write, strong: false });
}

pub fn mbarrier_arrive(ctx: &mut Context<'_>, warp: &Warp, cta: usize, offset: u32) {
    arrive(ctx, warp, |ctx| ctx.ctas[cta].hopper.mbarriers.get_mut(&offset).map(|b| &mut b.clock));
}

pub fn mbarrier_wait(ctx: &mut Context<'_>, warp: &Warp, cta: usize, offset: u32) {
    leave(ctx, warp, |ctx| ctx.ctas[cta].hopper.mbarriers.get_mut(&offset).map(|b| &mut b.clock));
}

/// `fence.proxy.async` and `fence.mbarrier_init`: asynchronous engines may rely on what the warp knows now.
pub fn proxy_fence(ctx: &mut Context<'_>, warp: &Warp, _init: bool) {
    if active(ctx) {
        let (mut clocks, actor) = take_clocks(ctx, warp);
        let all = clocks.all.clone();
        join(&mut clocks.proxied, &all);
        bump(&mut clocks, actor);
        put_clocks(ctx, warp, clocks);
    }
}

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
    let warps = ctx.own().warps.len() * ctx.own().peers.len();
    let (clocks, _) = take_clocks(ctx, warp);
    let races = &mut ctx.ctas[cta].races;
    let accessor = Accessor {
        actor,
        lane: ANY_LANE,
        clock,
        pc,
        write,
        strong: false,
        knows: &clocks.all,
        knows_writes: if proxied { &clocks.proxied } else { &clocks.all },
        warps,
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
    let engine = Engine::Copies(warp.index);
    let actor = ctx.own().races.engine(engine);
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
    let actor = ctx.own().races.engine(Engine::Copies(warp.index));
    let (mut clocks, _) = take_clocks(ctx, warp);
    set(&mut clocks.all, actor, number);
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
        let warps = ctx.own().warps.len() * ctx.own().peers.len();
        let w = ctx.ctas[cta].races.cells.last_write(offset as usize);
        let (clocks, own) = take_clocks(ctx, warp);
        let known = |knows: &[u32]| knows.get(w.actor as usize).copied().unwrap_or(0) >= w.clock;
        let bad = w.clock != 0 && (w.actor as usize) < warps && !known(&clocks.proxied);
        let proxy = known(&clocks.all) || w.actor as usize == own;
        put_clocks(ctx, warp, clocks);
        if bad {
            let at = At { pc, warp: warp.index, lane: None, address: Some(u64::from(offset)) };
            let what = "a copy signals the mbarrier in";
            let conflict = Conflict { earlier: w, earlier_write: true, proxy };
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
