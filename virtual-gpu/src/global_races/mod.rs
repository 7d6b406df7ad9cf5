//! Races in global memory between CTAs of a grid, and between grids that overlap.

mod clocks;
mod shadow;

pub use clocks::GridClocks;
pub use shadow::GlobalShadow;

use crate::decode::program::{Scope, Strength};
use crate::exec::memory::{Action, Reach, Shape};
use crate::exec::warp::Warp;
use crate::exec::{At, Context, Grid, lanes};
use crate::findings::{Kind, Party};
use crate::memory::{GlobalMemory, OFFSET_BITS, OFFSET_MASK};
use crate::options::Checks;
use crate::races::{self, Touch};
use shadow::{Accessor, Earlier, IN_FLIGHT, MANY};

/// A CTA as the detector knows it: grid (16 bits) and number (24 bits).
fn key(ctx: &Context<'_>) -> (u64, u64) {
    (ctx.grid.id & 0xffff, ctx.ctas[ctx.cta].linear & MANY)
}

/// Records and checks an access.
#[inline(always)]
pub fn global(ctx: &mut Context<'_>, warp: &Warp, pc: u32, origin: u64, reach: &Reach, touch: Touch) {
    if ctx.checks == Checks::All {
        if !ctx.grid.overlaps.is_empty() {
            return check_overlapping(ctx, warp, pc, origin, reach, touch);
        }
        check(ctx, warp, pc, origin, reach, touch, false);
    }
}

/// Lanes that come after a `griddepcontrol.wait` and lanes that do not are different accesses.
#[cold]
fn check_overlapping(ctx: &mut Context<'_>, warp: &Warp, pc: u32, origin: u64, reach: &Reach, touch: Touch) {
    let after = races::after_grids(ctx, warp.index);
    for (lanes, waited) in [(reach.mask & after, true), (reach.mask & !after, false)] {
        if lanes == reach.mask {
            check(ctx, warp, pc, origin, reach, touch, waited);
        } else if lanes != 0 {
            let part = Reach { mask: lanes, shape: Shape::Any, ..*reach };
            check(ctx, warp, pc, origin, &part, touch, waited);
        }
    }
}

fn check(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    origin: u64,
    reach: &Reach,
    touch: Touch,
    waited: bool,
) {
    let found =
        with_shadow(ctx, (pc, origin), touch, waited, Copier::Thread, |shadow, by| match reach.shape {
            Shape::Contiguous => {
                let (start, size) = (reach.offsets[0], reach.size as usize);
                shadow.access(by, (start, start + 32 * size), size)
            }
            _ => scattered(shadow, by, reach),
        });
    if let Some((lane, offset, earlier)) = found {
        let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(origin + offset as u64) };
        report(ctx, at, touch.action, Copier::Thread, earlier);
    }
}

/// Who moves the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Copier {
    /// A thread's own access, or its cp.async.
    Thread,
    /// The copy engine.
    Engine,
    /// The copy engine, whose write is not complete: nobody can know of it yet.
    EngineInFlight,
}

/// Looks an access up in the shadow of the allocation at `origin`.
#[inline(always)]
fn with_shadow<R>(
    ctx: &mut Context<'_>,
    (pc, origin): (u32, u64),
    touch: Touch,
    waited: bool,
    copier: Copier,
    look: impl FnOnce(&mut GlobalShadow, &Accessor<'_>) -> Option<R>,
) -> Option<R> {
    // Alone on the device there is nobody to race with but the copy engine.
    let alone = ctx.grid.overlaps.is_empty() && !ctx.grid.traced;
    if ctx.grid.ctas() == 1 && alone && !ctx.program.bulk_copies {
        return None;
    }
    let (grid, cta) = key(ctx);
    let communicates = communicates(ctx);
    let view = ctx.clocks.of(grid, cta);
    let a = ctx.memory.allocation(origin).ok().filter(|a| !a.read_only)?;
    let by = Accessor {
        grid,
        cta,
        pc,
        clock: if copier == Copier::EngineInFlight { IN_FLIGHT } else { view.clock },
        write: touch.action != Action::Read,
        strong: (touch.strong && touch.scope > Scope::Cta).then_some(touch.scope),
        engine: copier != Copier::Thread,
        launch: &*ctx.grid,
        clocks: &*ctx.clocks,
        waited,
        communicates,
        knows: view.knows,
        proxied: view.proxied,
    };
    a.shadow.begin(a.bytes.len(), ctx.clocks.run);
    look(&mut a.shadow, &by)
}

/// Whether anything can order accesses of different CTAs of the grid.
pub fn communicates(ctx: &Context<'_>) -> bool {
    ctx.program.communicates || ctx.program.cluster_barriers && ctx.grid.cluster != [1; 3]
}

/// Records and checks the bytes (address, length) that a copy reads or writes, which are known to exist.
pub fn global_copied(
    ctx: &mut Context<'_>,
    at: At,
    bytes: impl Iterator<Item = (u64, u32)>,
    action: Action,
    copier: Copier,
) {
    if ctx.checks != Checks::All {
        return;
    }
    let touch = Touch::of(action, Strength::Weak, Scope::Gpu);
    let waited = races::after_grids(ctx, at.warp) >> at.lane.unwrap_or(0) & 1 != 0;
    let mut first = None;
    for (address, len) in bytes.filter(|(_, len)| *len != 0) {
        let (start, len) = ((address & OFFSET_MASK) as usize, len as usize);
        // Pieces that lie in one cell or cover some.
        let size = 1 << (start | len | 16).trailing_zeros();
        let found = with_shadow(ctx, (at.pc, address), touch, waited, copier, |shadow, by| {
            shadow.access(by, (start, start + len), size)
        });
        if let Some((_, offset, earlier)) = found
            && first.is_none()
        {
            first = Some((address - start as u64 + offset as u64, earlier));
        }
    }
    if let Some((address, earlier)) = first {
        report(ctx, At { address: Some(address), ..at }, action, copier, earlier);
    }
}

/// What a transfer of the host conflicts with.
pub struct HostConflict {
    pub address: u64,
    /// The other's grid (16 bits), whether it wrote, and where.
    pub grid: u64,
    pub write: bool,
    pub pc: u32,
}

/// Records and checks what the host does, as the only thread of `launch`.
pub fn host_access(
    memory: &mut GlobalMemory,
    clocks: &GridClocks,
    launch: &Grid,
    (address, bytes): (u64, u64),
    write: bool,
) -> Option<HostConflict> {
    let (a, start) = memory.range(address, bytes).ok().filter(|(a, _)| !a.read_only)?;
    let by = Accessor {
        grid: launch.id & 0xffff,
        cta: 0,
        pc: 0,
        clock: 1,
        write,
        strong: None,
        engine: false,
        launch,
        clocks,
        waited: false,
        communicates: true,
        knows: &[],
        proxied: &[],
    };
    a.shadow.begin(a.bytes.len(), clocks.run);
    let end = start + bytes as usize;
    let size = 1 << (start | bytes as usize | 16).trailing_zeros();
    let (_, offset, earlier) = a.shadow.access(&by, (start, end), size)?;
    Some(HostConflict {
        address: address - start as u64 + offset as u64,
        grid: earlier.packed >> 48,
        write: earlier.write,
        pc: (earlier.packed >> 4 & 0xf_ffff) as u32,
    })
}

/// `fence.proxy.async` of global memory.
pub fn proxy_fence(ctx: &mut Context<'_>) {
    let (grid, cta) = key(ctx);
    ctx.clocks.proxy_fence(grid, cta);
}

/// The CTAs of the cluster have met at its barrier.
pub fn cluster_met(ctx: &mut Context<'_>) {
    if ctx.checks == Checks::All {
        let (grid, _) = key(ctx);
        let peers = ctx.ctas[ctx.cta].peers.iter().map(|&p| ctx.ctas[p].linear & MANY);
        ctx.clocks.meet(grid, peers);
    }
}

/// Checks lane after lane; the first conflict.
fn scattered(shadow: &mut GlobalShadow, by: &Accessor<'_>, reach: &Reach) -> Option<(usize, usize, Earlier)> {
    let (offsets, size) = (&reach.offsets, reach.size as usize);
    let mut found = None;
    let mut rest = reach.mask;
    while rest != 0 {
        // Lanes one after another at places one after another are one access.
        let first = rest.trailing_zeros() as usize;
        let (start, mut count) = (offsets[first], 1);
        while first + count < 32
            && rest >> (first + count) & 1 != 0
            && offsets[first + count] == start + count * size
        {
            count += 1;
        }
        rest &= !(((1u64 << count) - 1) << first) as u32;
        let conflict = shadow.access(by, (start, start + count * size), size);
        if found.is_none() {
            found = conflict.map(|(lane, offset, earlier)| (first + lane, offset, earlier));
        }
        // More lanes at the same place change nothing.
        while count == 1 && rest != 0 && offsets[rest.trailing_zeros() as usize] == start {
            rest &= rest - 1;
        }
    }
    found
}

#[cold]
fn report(ctx: &mut Context<'_>, at: At, action: Action, copier: Copier, earlier: Earlier) {
    let verb = if earlier.write { "write" } else { "read" };
    let name = match (copier, action) {
        (Copier::Thread, _) => action.name(),
        (_, Action::Read) => "bulk copy's read",
        (_, Action::Write) => "bulk copy's write",
        (_, Action::Atomic) => "bulk reduction",
    };
    let place = ctx.memory.describe(at.address.unwrap_or_default());
    let message = if earlier.proxy {
        format!("{name} of {place}, which ordinary stores wrote, without fence.proxy.async between")
    } else {
        format!("{name} of {place}, unordered with an earlier {verb}")
    };
    let kind = if earlier.proxy { Kind::ProxyFence } else { Kind::GlobalRace };
    let earlier = earlier.packed;
    let (grid, cta) = (earlier >> 48, earlier >> 24 & MANY);
    let same_grid = grid == ctx.grid.id & 0xffff;
    let rival = ctx.grid.overlap(grid, false).filter(|_| !same_grid);
    let what = match (same_grid, cta == MANY) {
        (false, _) => match rival {
            Some(rival) if rival.program.code.is_empty() => {
                format!("{verb} by {}, with nothing between to order them", rival.program.name)
            }
            Some(rival) => {
                format!("{verb} by {}, with nothing between the kernels to order them", rival.program.name)
            }
            None => format!("{verb} by another kernel"),
        },
        (_, true) => format!("{verb} by several CTAs"),
        _ => {
            let [x, y, _] = ctx.grid.grid.map(u64::from);
            format!("{verb} by CTA ({}, {}, {})", cta % x, cta / x % y, cta / (x * y))
        }
    };
    let pc = (earlier >> 4 & 0xf_ffff) as u32;
    let place = match rival {
        Some(rival) => (!rival.program.code.is_empty()).then(|| rival.program.place(pc)),
        None => same_grid.then(|| ctx.place(pc)),
    };
    ctx.report(kind, false, at, message, Some(Party { what, place }));
}

fn location(origin: u64, offset: usize) -> u64 {
    (origin | offset as u64) & !3 & ((1 << (OFFSET_BITS + 23)) - 1)
}

fn places(origin: u64, reach: &Reach) -> Vec<u64> {
    let mut all: Vec<u64> = lanes(reach.mask).map(|lane| location(origin, reach.offsets[lane])).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether a strong access of this scope reaches other CTAs.
fn reaches(ctx: &Context<'_>, scope: Scope) -> bool {
    ctx.checks == Checks::All
        && (ctx.grid.ctas() > 1 || !ctx.grid.overlaps.is_empty())
        && (scope > Scope::Cluster || scope == Scope::Cluster && ctx.grid.cluster != [1; 3])
}

/// A strong load learns what was published at its place.
pub fn acquire_global(
    ctx: &mut Context<'_>,
    warp: &Warp,
    origin: u64,
    reach: &Reach,
    s: Strength,
    scope: Scope,
) {
    if s != Strength::Weak && reaches(ctx, scope) {
        learn(ctx, warp, origin, reach);
    }
}

fn learn(ctx: &mut Context<'_>, warp: &Warp, origin: u64, reach: &Reach) {
    let (grid, cta) = key(ctx);
    if ctx.clocks.learn(grid, cta, &places(origin, reach)) && !ctx.grid.overlaps.is_empty() {
        races::grids_waited(ctx, warp, reach.mask);
    }
}

fn publish(ctx: &mut Context<'_>, warp: &Warp, origin: u64, reach: &Reach, s: Strength) {
    let (grid, cta) = key(ctx);
    let with_fence = matches!(s, Strength::Release | Strength::AcquireRelease);
    let waited = races::after_grids(ctx, warp.index) & reach.mask != 0;
    ctx.clocks.publish(grid, cta, &places(origin, reach), with_fence, waited);
}

/// A strong store publishes what the CTA's fences cover.
pub fn release_global(
    ctx: &mut Context<'_>,
    warp: &Warp,
    origin: u64,
    reach: &Reach,
    s: Strength,
    scope: Scope,
) {
    if s != Strength::Weak && reaches(ctx, scope) {
        publish(ctx, warp, origin, reach, s);
    }
}

pub fn atomic_global(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    origin: u64,
    reach: &Reach,
    (s, scope): (Strength, Scope),
) {
    global(ctx, warp, pc, origin, reach, Touch::of(Action::Atomic, s, scope));
    if reaches(ctx, scope) {
        learn(ctx, warp, origin, reach);
        publish(ctx, warp, origin, reach, s);
    }
}

/// `fence` and `membar`: what the CTA did so far may be published.
pub fn fence(ctx: &mut Context<'_>, _: &mut Warp, scope: Scope) {
    if ctx.checks == Checks::All && scope >= Scope::Gpu {
        let (grid, cta) = key(ctx);
        ctx.clocks.fence(grid, cta);
    }
}
