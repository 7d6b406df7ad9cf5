//! Races in global memory between CTAs of a grid, and between grids that overlap.

mod clocks;
mod shadow;

pub use clocks::GridClocks;
pub use shadow::GlobalShadow;

use crate::decode::program::{Scope, Strength};
use crate::exec::memory::{Action, Reach, Shape};
use crate::exec::warp::Warp;
use crate::exec::{At, Context, lanes};
use crate::findings::{Kind, Party};
use crate::memory::OFFSET_BITS;
use crate::options::Checks;
use crate::races::Touch;
use shadow::{Accessor, Earlier, MANY};

/// A CTA as the detector knows it: grid (16 bits) and number (24 bits).
fn key(ctx: &Context<'_>) -> (u64, u64) {
    (ctx.grid.id & 0xffff, ctx.ctas[ctx.cta].linear & MANY)
}

/// Records and checks an access.
#[inline(always)]
pub fn global(ctx: &mut Context<'_>, warp: &Warp, pc: u32, origin: u64, reach: &Reach, touch: Touch) {
    if ctx.checks == Checks::All {
        check(ctx, warp, pc, origin, reach, touch);
    }
}

fn check(ctx: &mut Context<'_>, warp: &Warp, pc: u32, origin: u64, reach: &Reach, touch: Touch) {
    // Alone on the device there is nobody to race with.
    if ctx.grid.ctas() == 1 && ctx.grid.overlaps.is_empty() {
        return;
    }
    let (grid, cta) = key(ctx);
    let (clock, knows) = ctx.clocks.of(grid, cta);
    let Ok(a) = ctx.memory.allocation(origin) else { return };
    if a.read_only {
        return;
    }
    let by = Accessor {
        grid,
        cta,
        pc,
        clock,
        write: touch.action != Action::Read,
        strong: touch.strong,
        launch: ctx.grid,
        clocks: ctx.clocks,
        waited: ctx.ctas[ctx.cta].hopper.waited_for_grids,
        communicates: ctx.program.communicates,
        knows,
    };
    a.shadow.begin(a.bytes.len(), ctx.clocks.run);
    let found = match reach.shape {
        Shape::Contiguous => {
            let (start, size) = (reach.offsets[0], reach.size as usize);
            a.shadow.access(&by, (start, start + 32 * size), size)
        }
        _ => scattered(&mut a.shadow, &by, reach),
    };
    if let Some((lane, offset, (earlier, earlier_write))) = found {
        report(ctx, warp, pc, lane as u32, origin + offset as u64, touch.action, earlier, earlier_write);
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
#[allow(clippy::too_many_arguments)]
fn report(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    lane: u32,
    address: u64,
    action: Action,
    earlier: u64,
    earlier_write: bool,
) {
    let at = At { pc, warp: warp.index, lane: Some(lane), address: Some(address) };
    let verb = if earlier_write { "write" } else { "read" };
    let message =
        format!("{} of {}, unordered with an earlier {verb}", action.name(), ctx.memory.describe(address));
    let (grid, cta) = (earlier >> 48, earlier >> 24 & MANY);
    let same_grid = grid == ctx.grid.id & 0xffff;
    let rival = ctx.grid.overlap(grid, false).filter(|_| !same_grid);
    let what = match (same_grid, cta == MANY) {
        (false, _) => match rival {
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
        Some(rival) => Some(rival.program.place(pc)),
        None => same_grid.then(|| ctx.place(pc)),
    };
    ctx.report(Kind::GlobalRace, false, at, message, Some(Party { what, place }));
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

/// Whether there are CTAs to tell something to.
fn has_others(ctx: &Context<'_>) -> bool {
    ctx.checks == Checks::All && (ctx.grid.ctas() > 1 || !ctx.grid.overlaps.is_empty())
}

/// A strong load learns what was published at its place.
pub fn acquire_global(ctx: &mut Context<'_>, origin: u64, reach: &Reach, s: Strength) {
    if s != Strength::Weak && has_others(ctx) {
        let (grid, cta) = key(ctx);
        ctx.clocks.learn(grid, cta, &places(origin, reach));
    }
}

/// A strong store publishes what the CTA's fences cover.
pub fn release_global(ctx: &mut Context<'_>, origin: u64, reach: &Reach, s: Strength) {
    if s != Strength::Weak && has_others(ctx) {
        let (grid, cta) = key(ctx);
        let with_fence = matches!(s, Strength::Release | Strength::AcquireRelease);
        ctx.clocks.publish(grid, cta, &places(origin, reach), with_fence);
    }
}

#[allow(clippy::too_many_arguments)]
pub fn atomic_global(ctx: &mut Context<'_>, warp: &Warp, pc: u32, origin: u64, reach: &Reach, s: Strength) {
    global(ctx, warp, pc, origin, reach, Touch::of(Action::Atomic, s));
    if has_others(ctx) {
        let (grid, cta) = key(ctx);
        ctx.clocks.learn(grid, cta, &places(origin, reach));
        let (grid, cta) = key(ctx);
        let with_fence = matches!(s, Strength::Release | Strength::AcquireRelease);
        ctx.clocks.publish(grid, cta, &places(origin, reach), with_fence);
    }
}

/// `fence` and `membar`: what the CTA did so far may be published.
pub fn fence(ctx: &mut Context<'_>, _: &mut Warp, scope: Scope) {
    if ctx.checks == Checks::All && scope >= Scope::Gpu {
        let (grid, cta) = key(ctx);
        ctx.clocks.fence(grid, cta);
    }
}
