//! Races in shared memory: accesses to the same bytes that nothing orders, at least one a write.
//!
//! Vector clocks as in FastTrack (Flanagan and Freund 2009). An actor is a warp, or an asynchronous engine: one for the
//! cp.async of a warp, one for its bulk stores, one for the wgmma of a warpgroup, one for each mbarrier (its clock is
//! the phase, so waiting on another mbarrier orders nothing). Each warp also has a clock of what a proxy fence covers:
//! bulk copies and wgmma must find generic writes, which are those of warps and of cp.async, in that one.
//! Actors are numbered: the warps of all CTAs of the cluster, then their cp.async, then the other engines.

mod cells;
mod clocks;
mod engines;
mod reads;
mod sync;

pub use clocks::{JobClock, SetUp, Sync};
pub use engines::{copies_arrive, copy_done, copy_issued, job_issued, job_waited, wgmma_reads};
pub use sync::{
    after_grids, barrier_arrive, barrier_complete, barrier_leave, cluster_arrive, cluster_arrive_relaxed,
    cluster_fence, cluster_leave, grids_waited, mbarrier_arrive, mbarrier_init, mbarrier_inval,
    mbarrier_wait, proxy_fence, warp_sync,
};

pub use crate::global_races::{
    Copier, GlobalShadow, GridClocks, acquire_global, atomic_global, cluster_met, communicates, fence,
    global, global_copied, release_global,
};

use crate::decode::program::{Scope, Strength};
use crate::exec::memory::{Action, Reach, Shape};
use crate::exec::warp::Warp;
use crate::exec::{At, Context, lanes};
use crate::findings::{Kind, Party};
use crate::options::Checks;
use cells::{Accessor, Cells, Conflict, Why};
use clocks::{Clocks, set};
use std::collections::HashMap;
use sync::bump;

/// An access as the detectors see it.
#[derive(Clone, Copy)]
pub struct Touch {
    pub action: Action,
    pub strong: bool,
    /// Among whom a strong access is one.
    pub scope: Scope,
    /// Sets up an mbarrier.
    pub mbarrier: bool,
}

impl Touch {
    pub fn of(action: Action, strength: Strength, scope: Scope) -> Self {
        let strong = strength != Strength::Weak || action == Action::Atomic;
        Self { action, strong, scope, mbarrier: false }
    }

    pub fn weak(action: Action) -> Self {
        Self::of(action, Strength::Weak, Scope::System)
    }
}

/// Race state of a CTA's shared memory and of its warps.
#[derive(Default)]
pub struct SharedRaces {
    enabled: bool,
    cells: Cells,
    clocks: Vec<Clocks>,
    first_actor: usize,
    /// Of all CTAs of the cluster.
    num_warps: usize,
    /// First number of this CTA's engines, and those given so far.
    engine_base: usize,
    engines: HashMap<Engine, usize>,
    /// Numbers of operations of an engine that has no phases.
    sequence: HashMap<usize, u32>,
    /// Actor and number of jobs that are waited for by warps.
    jobs: HashMap<u64, (usize, u32)>,
    /// Strong accesses: what the writers of a location published.
    published: HashMap<u32, Clocks>,
    /// Of each warp, the lanes that come after a `griddepcontrol.wait`, their own or another's.
    after_grids: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Engine {
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
        let num_warps = cluster_size as usize * num_warps as usize;
        let engine_base = 2 * num_warps + rank as usize * ENGINES_PER_CTA;
        let after_grids = vec![0; clocks.len()];
        *self = Self {
            enabled: check,
            cells,
            clocks,
            first_actor,
            num_warps,
            engine_base,
            after_grids,
            ..Self::default()
        };
    }

    /// The actor of a warp's cp.async.
    fn copies(&self, warp: u32) -> usize {
        self.num_warps + self.first_actor + warp as usize
    }

    /// Actors below this write through the generic proxy.
    fn generic(&self) -> usize {
        2 * self.num_warps
    }

    fn engine(&mut self, engine: Engine) -> usize {
        let next = self.engine_base + self.engines.len().min(ENGINES_PER_CTA - 1);
        *self.engines.entry(engine).or_insert(next)
    }

    fn describe(&self, actor: usize, num_warps: usize) -> String {
        if actor < self.first_actor + num_warps && actor >= self.first_actor {
            return format!("warp {}", actor - self.first_actor);
        }
        let copies = self.copies(0);
        if actor < copies + num_warps && actor >= copies {
            return format!("cp.async of warp {} (not waited for)", actor - copies);
        }
        match self.engines.iter().find(|(_, a)| **a == actor).map(|(e, _)| *e) {
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
    let is_engine = actor >= ctx.ctas[cta].races.num_warps;
    let lane = if c.earlier.lane < 32 { format!(" lane {}", c.earlier.lane) } else { String::new() };
    let verb = if c.earlier_write { "write" } else { "read" };
    let kind = match (c.why, is_engine || accessor_async) {
        (Why::Proxy, _) => Kind::ProxyFence,
        (Why::Mbarrier, _) => Kind::Mbarrier,
        (Why::Unordered, true) => Kind::AsyncHazard,
        (Why::Unordered, false) => Kind::SharedRace,
    };
    let message = match c.why {
        Why::Proxy => format!(
            "{what} shared bytes at {offset:#x} that were written by ordinary stores, without fence.proxy.async between"
        ),
        Why::Mbarrier => format!("{what} shared bytes at {offset:#x}, where a live mbarrier is"),
        Why::Unordered => format!("{what} shared bytes at {offset:#x}, unordered with an earlier {verb}"),
    };
    let what = match c.why {
        Why::Mbarrier => format!("set up by {who}{lane}"),
        _ => format!("{verb} by {who}{lane}"),
    };
    let other = Party { what, place: Some(ctx.place(c.earlier.pc)) };
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
    let (clocks, actor) = take_clocks(ctx, warp);
    let races = &mut ctx.ctas[cta].races;
    let mut accessor = Accessor {
        actor,
        lane: 0,
        clock: clocks.all.get(actor).copied().unwrap_or(1),
        pc,
        write: touch.action != Action::Read,
        strong: touch.strong,
        mbarrier: touch.mbarrier,
        knows: &clocks.all,
        knows_writes: &clocks.all,
        generic: races.generic(),
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
    let mut after_grids = 0;
    for lane in lanes(reach.mask) {
        let at = reach.offsets[lane] as u32 & !3;
        if action != Action::Write
            && let Some(p) = published.get(&at)
        {
            clocks.join(p);
            after_grids |= u32::from(p.grids) << lane;
        }
        if action != Action::Read {
            published.entry(at).or_default().join(&clocks);
        }
    }
    if action != Action::Read {
        bump(&mut clocks, actor);
    }
    put_clocks(ctx, warp, clocks);
    ctx.own().races.after_grids[warp.index as usize] |= after_grids;
}

pub fn atomic_shared(ctx: &mut Context<'_>, warp: &Warp, cta: usize, reach: &Reach) {
    if active(ctx) {
        strong(ctx, warp, cta, reach, Action::Atomic);
    }
}
