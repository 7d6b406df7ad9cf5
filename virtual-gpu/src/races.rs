//! Races in shared memory: accesses to the same bytes that nothing orders, at least one a write.
//!
//! Vector clocks as in FastTrack (Flanagan and Freund 2009). An actor is a warp, or an asynchronous engine: one for the
//! cp.async of a warp, one for its bulk stores, one for the wgmma of a warpgroup, one for each mbarrier (its clock is
//! the phase, so waiting on another mbarrier orders nothing). Each warp also has a clock of what a proxy fence covers:
//! asynchronous engines must find generic writes in that one.

pub use crate::global_races::{
    GlobalShadow, GridClocks, acquire_global, atomic_global, fence, global, release_global,
};

use crate::decode::program::Strength;
use crate::exec::bulk::JobKind;
use crate::exec::memory::Action;
use crate::exec::warp::Warp;
use crate::exec::{At, Context, lanes};
use crate::findings::{Kind, Party};
use crate::memory::SHARED_BASE;
use crate::options::Checks;
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

#[derive(Clone, Copy, Default)]
struct Record {
    clock: u32,
    actor: u16,
    lane: u8,
    /// Bytes of the cell; in the high bits whether the access was strong.
    mask: u8,
    pc: u32,
}

const STRONG: u8 = 0x10;
/// Reads of several actors: the clock is the number of their list.
const MANY: u16 = u16::MAX;
const ANY_LANE: u8 = 0xff;

/// Four bytes of shared memory.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: Record,
    read: Record,
}

/// Race state of a CTA's shared memory and of its warps.
#[derive(Default)]
pub struct SharedRaces {
    enabled: bool,
    cells: Vec<Cell>,
    many: Vec<Vec<Record>>,
    /// Cells that different actors wrote in parts, byte by byte.
    parts: HashMap<u32, Box<[Cell; 4]>>,
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
        cells.clear();
        if check {
            cells.resize(size.div_ceil(4), Cell::default());
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

/// One access, against the cells of a CTA's shared memory.
struct Accessor<'c> {
    actor: usize,
    lane: u8,
    clock: u32,
    pc: u32,
    write: bool,
    strong: bool,
    /// What the accessor knows of plain reads and of asynchronous work, and of generic writes.
    knows: &'c [u32],
    knows_writes: &'c [u32],
    /// Actors below this are warps: their writes are generic.
    warps: usize,
}

/// A conflict: the earlier record, whether it was a write, and whether only a proxy fence is missing.
struct Conflict {
    earlier: Record,
    earlier_write: bool,
    proxy: bool,
}

impl Accessor<'_> {
    #[inline(always)]
    fn ordered(&self, r: &Record, write: bool) -> bool {
        let actor = r.actor as usize;
        if actor == self.actor {
            // Lanes of one warp: ordered by the warp's synchronisation, or the same lane.
            return r.clock < self.clock
                || r.lane == self.lane
                || r.lane == ANY_LANE
                || (r.pc == self.pc && self.write && write);
        }
        let knows = if write && actor < self.warps { self.knows_writes } else { self.knows };
        knows.get(actor).copied().unwrap_or(0) >= r.clock
    }

    #[inline(always)]
    fn conflict(&self, r: &Record, write: bool, mask: u8) -> Option<Conflict> {
        if r.clock == 0
            || r.mask & mask & 15 == 0
            || (self.strong && r.mask & STRONG != 0)
            || self.ordered(r, write)
        {
            return None;
        }
        let proxy = self.knows.get(r.actor as usize).copied().unwrap_or(0) >= r.clock
            && r.actor as usize != self.actor;
        Some(Conflict { earlier: *r, earlier_write: write, proxy })
    }

    fn record(&self, mask: u8) -> Record {
        let mask = mask | if self.strong { STRONG } else { 0 };
        Record { clock: self.clock, actor: self.actor as u16, lane: self.lane, mask, pc: self.pc }
    }

    #[inline(always)]
    fn touch(&self, cell: &mut Cell, many: &mut Vec<Vec<Record>>, mask: u8) -> Option<Conflict> {
        let mut found = self.conflict(&cell.write, true, mask);
        if self.write {
            if cell.read.actor == MANY {
                for r in &many[cell.read.clock as usize] {
                    found = found.or_else(|| self.conflict(r, false, mask));
                }
            } else {
                found = found.or_else(|| self.conflict(&cell.read, false, mask));
            }
            cell.write = self.record(mask);
            if mask == 15 || cell.read.mask & !mask & 15 == 0 {
                cell.read = Record::default();
            }
        } else {
            let r = &mut cell.read;
            if r.actor == MANY {
                let list = &mut many[r.clock as usize];
                match list.iter_mut().find(|r| r.actor as usize == self.actor) {
                    Some(own) => *own = Record { mask: mask | own.mask & 15, ..self.record(mask) },
                    None => list.push(self.record(mask)),
                }
            } else if r.clock == 0
                || r.actor as usize == self.actor && (r.clock < self.clock || r.mask & !mask & 15 == 0)
            {
                // Several lanes of one warp: whichever, another warp sees the same clock.
                let lane =
                    if r.clock == self.clock && r.lane != self.lane { ANY_LANE_READ } else { self.lane };
                let kept = if r.clock == self.clock { r.mask & 15 } else { 0 };
                *r = Record { lane, ..self.record(mask | kept) };
            } else {
                let list = vec![*r, self.record(mask)];
                many.push(list);
                *r = Record { clock: many.len() as u32 - 1, actor: MANY, lane: 0, mask: 15, pc: 0 };
            }
        }
        found
    }
}

/// Several lanes of the same warp read: a later write by any of them conflicts only with the others.
const ANY_LANE_READ: u8 = 0xfe;

fn access(
    races: &mut SharedRaces,
    accessor: &Accessor<'_>,
    offset: usize,
    size: u32,
) -> Option<(u32, Conflict)> {
    let mut found = None;
    let (first, last) = (offset / 4, (offset + size as usize - 1) / 4);
    for index in first..=last {
        let low = if index == first { offset % 4 } else { 0 };
        let high = if index == last { (offset + size as usize - 1) % 4 } else { 3 };
        let mask = ((15u32 >> (3 - high)) & (15 << low)) as u8;
        let Some(cell) = races.cells.get_mut(index) else { return found };
        let conflict = if cell.write.mask & 0x80 != 0 {
            // Kept byte by byte.
            let mut conflict = None;
            if let Some(parts) = races.parts.get_mut(&(index as u32)) {
                for byte in lanes(u32::from(mask)) {
                    conflict = conflict.or(accessor.touch(&mut parts[byte], &mut races.many, 1 << byte));
                }
            }
            conflict
        } else if mask != 15 && partly(cell, accessor, mask) {
            let mut parts = Box::new([*cell; 4]);
            let mut conflict = None;
            for (byte, part) in parts.iter_mut().enumerate() {
                part.write = if cell.write.mask >> byte & 1 != 0 { cell.write } else { Record::default() };
                if cell.read.actor != MANY && cell.read.mask >> byte & 1 == 0 {
                    part.read = Record::default();
                } else if cell.read.actor == MANY {
                    // Each byte needs a list of its own.
                    let list = races.many[cell.read.clock as usize].clone();
                    races.many.push(list);
                    part.read.clock = races.many.len() as u32 - 1;
                }
                if mask >> byte & 1 != 0 {
                    conflict = conflict.or(accessor.touch(part, &mut races.many, 1 << byte));
                }
            }
            races.parts.insert(index as u32, parts);
            cell.write.mask = 0x80;
            conflict
        } else {
            accessor.touch(cell, &mut races.many, mask)
        };
        if found.is_none() {
            found = conflict.map(|c| (index as u32 * 4, c));
        }
    }
    found
}

/// Whether a partial access would overwrite another's record of other bytes.
fn partly(cell: &Cell, accessor: &Accessor<'_>, mask: u8) -> bool {
    let other = |r: &Record| {
        r.clock != 0
            && (r.actor as usize != accessor.actor || r.lane != accessor.lane)
            && r.mask & 15 & !mask != 0
    };
    if accessor.write {
        other(&cell.write) || other(&cell.read)
    } else {
        cell.read.actor != MANY && other(&cell.read)
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
pub fn shared(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    cta: usize,
    offsets: &[usize; 32],
    mask: u32,
    size: u32,
    touch: Touch,
) {
    if active(ctx) {
        shared_checked(ctx, warp, pc, cta, offsets, mask, size, touch);
    }
}

fn shared_checked(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    cta: usize,
    offsets: &[usize; 32],
    mask: u32,
    size: u32,
    touch: Touch,
) {
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
        for lane in lanes(mask) {
            accessor.lane = lane as u8;
            if let Some((at, conflict)) = access(races, &accessor, offsets[lane], size)
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
        strong(ctx, warp, cta, offsets, mask, touch.action);
    }
}

/// Strong accesses publish and learn through their location.
fn strong(ctx: &mut Context<'_>, warp: &Warp, cta: usize, offsets: &[usize; 32], mask: u32, action: Action) {
    let (mut clocks, actor) = take_clocks(ctx, warp);
    let published = &mut ctx.ctas[cta].races.published;
    for lane in lanes(mask) {
        let at = offsets[lane] as u32 & !3;
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

pub fn atomic_shared(
    ctx: &mut Context<'_>,
    warp: &Warp,
    cta: usize,
    offsets: &[usize; 32],
    mask: u32,
    _: Strength,
) {
    if active(ctx) {
        strong(ctx, warp, cta, offsets, mask, Action::Atomic);
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
    let offsets = [offset as usize; 32];
    let touch = Touch { action: Action::Write, strong: false };
    shared(ctx, warp, pc, cta, &offsets, 1, 8, touch);
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
    let (clocks, own) = take_clocks(ctx, warp);
    let mut writes = if proxied { clocks.proxied.clone() } else { clocks.all.clone() };
    if !proxied {
        let now = clocks.all.get(own).copied().unwrap_or(1);
        set(&mut writes, own, now);
    }
    let races = &mut ctx.ctas[cta].races;
    let accessor = Accessor {
        actor,
        lane: ANY_LANE,
        clock,
        pc,
        write,
        strong: false,
        knows: &clocks.all,
        knows_writes: &writes,
        warps,
    };
    let mut first = None;
    if races.enabled {
        for (offset, size) in runs {
            if offset < SHARED_BASE || size == 0 {
                continue;
            }
            if let Some(conflict) = access(races, &accessor, offset as usize, size)
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
        let cell = ctx.ctas[cta].races.cells.get(offset as usize / 4).copied().unwrap_or_default();
        let (clocks, own) = take_clocks(ctx, warp);
        let w = cell.write;
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
pub fn wgmma_reads(ctx: &mut Context<'_>, warp: &Warp, pc: u32, id: u64, chunks: &[u32]) {
    let (actor, number) = next_number(ctx, Engine::Wgmma(warp.index / 4));
    let cta = ctx.cta;
    let runs = chunks.iter().map(|&c| (c, 16));
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
