//! Races in global memory between CTAs of a grid, and between grids that overlap.

use crate::decode::program::{Scope, Strength};
use crate::exec::memory::Action;
use crate::exec::warp::Warp;
use crate::exec::{At, Context, lanes};
use crate::findings::{Kind, Party};
use crate::memory::OFFSET_BITS;
use crate::options::Checks;
use crate::races::Touch;
use std::collections::HashMap;

/// Last write and reads of four bytes. Packed: grid 16 bits, CTA 24, instruction 20, bytes 4.
///
/// `read` is the last CTA that was alone in reading its bytes; `shared` are the bytes that several CTAs read. Bytes
/// with different lone readers are rare (the seam between two CTAs' halves of a word): [`GlobalShadow::lone`] has them.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: u64,
    read: u64,
    write_clock: u32,
    read_clock: u32,
}

const MANY: u64 = 0xff_ffff;

/// In a clock: the access was strong.
const STRONG: u32 = 1 << 31;
/// In a read's clock: the bytes that several CTAs read, and whether [`GlobalShadow::lone`] has more readers.
const SHARED: u32 = 27;
const HAS_LONE: u32 = 1 << 26;
const CLOCK: u32 = HAS_LONE - 1;

impl Cell {
    fn shared(&self) -> u64 {
        u64::from(self.read_clock >> SHARED & 15)
    }
}

fn pack(grid: u64, cta: u64, pc: u32, mask: u64) -> u64 {
    (grid & 0xffff) << 48 | (cta & MANY) << 24 | u64::from(pc & 0xf_ffff) << 4 | mask
}

/// Race state of an allocation, made when first touched.
#[derive(Default)]
pub struct GlobalShadow {
    cells: Vec<Cell>,
    /// By cell: packed reads, with their clocks, of bytes that have another lone reader than the cell's.
    lone: HashMap<usize, Vec<(u64, u32)>>,
}

impl GlobalShadow {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes a read of `bytes` of a cell, `clock` with the strong bit.
    fn note_read(&mut self, index: usize, grid: u64, cta: u64, pc: u32, bytes: u64, clock: u32) {
        let cell = &mut self.cells[index];
        let read = cell.read;
        if read >> 48 != grid || read == 0 {
            if cell.read_clock & HAS_LONE != 0 {
                self.lone.remove(&index);
            }
            cell.read = pack(grid, cta, pc, bytes);
            cell.read_clock = clock;
            return;
        }
        let same = read >> 24 & MANY == cta;
        let mut shared = cell.shared();
        let mut has_lone = cell.read_clock & HAS_LONE;
        let mut alone = read & 15;
        if !same {
            shared |= alone & bytes;
            alone &= !shared;
        }
        if has_lone != 0
            && let Some(others) = self.lone.get_mut(&index)
        {
            for (other, _) in others.iter_mut().filter(|(o, _)| o >> 24 & MANY != cta) {
                shared |= *other & 15 & bytes;
                *other &= !shared;
            }
        }
        let new = bytes & !shared;
        if !same && alone != 0 {
            if new == 0 {
                // Nothing of its own to remember: the record stays with the lone reader.
                cell.read = read & !15 | alone;
                cell.read_clock = cell.read_clock & (STRONG | CLOCK) | has_lone | (shared as u32) << SHARED;
                return;
            }
            has_lone = HAS_LONE;
            let old = (read & !15 | alone, cell.read_clock & (STRONG | CLOCK));
            self.lone.entry(index).or_default().push(old);
            alone = 0;
        }
        let kept = if same { alone } else { 0 };
        cell.read = pack(grid, cta, pc, new | kept);
        cell.read_clock = clock | has_lone | (shared as u32) << SHARED;
    }
}

/// What CTAs know of each other, through strong accesses to the same places.
#[derive(Default)]
pub struct GridClocks {
    /// Each CTA's own clock and the clock that its fences cover.
    own: HashMap<u64, (u32, u32)>,
    knows: HashMap<u64, HashMap<u64, u32>>,
    published: HashMap<u64, HashMap<u64, u32>>,
    /// Grids (16 bits) of this run that are not complete, more than one only where they overlap.
    pub running: Vec<u64>,
}

impl GridClocks {
    fn own(&self, cta: u64) -> (u32, u32) {
        self.own.get(&cta).copied().unwrap_or((1, 0))
    }
}

/// Key of a CTA: grid and number.
fn key(ctx: &Context<'_>) -> u64 {
    (ctx.grid.id & 0xffff) << 24 | ctx.ctas[ctx.cta].linear & MANY
}

/// Records and checks an access.
#[inline(always)]
pub fn global(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    origin: u64,
    offsets: &[usize; 32],
    mask: u32,
    size: u32,
    touch: Touch,
) {
    if ctx.checks == Checks::All {
        check(ctx, warp, pc, origin, offsets, mask, size, touch);
    }
}

fn check(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    origin: u64,
    offsets: &[usize; 32],
    mask: u32,
    size: u32,
    touch: Touch,
) {
    // Alone on the device there is nobody to race with.
    if ctx.grid.ctas() == 1 && ctx.clocks.running.len() < 2 {
        return;
    }
    let own = key(ctx);
    let (grid, cta) = (own >> 24, own & MANY);
    let communicates = ctx.program.communicates;
    let clock = ctx.clocks.own(own).0;
    let Ok(a) = ctx.memory.allocation(origin) else { return };
    if a.read_only {
        return;
    }
    if a.shadow.cells.is_empty() {
        // Zeroed pages, touched only where used.
        a.shadow.cells = vec![Cell::default(); a.bytes.len().div_ceil(4)];
    }
    let write = touch.action != Action::Read;
    let mut found: Option<(u32, usize, u64, bool)> = None;
    let knows = ctx.clocks.knows.get(&own);
    let running = &ctx.clocks.running;
    let waited = ctx.ctas[ctx.cta].hopper.waited_for_grids;
    // Whether an earlier access is unordered with this one.
    let races = |earlier: u64, earlier_clock: u32, bytes: u64| -> bool {
        if earlier & bytes == 0 {
            return false;
        }
        let (g, c) = (earlier >> 48, earlier >> 24 & MANY);
        if g != grid {
            // What an overlapping grid before this one did is ordered by the wait for it alone.
            return running.len() > 1 && running.contains(&g) && !(g < grid && waited);
        }
        if c == cta {
            return false;
        }
        if !communicates {
            return true;
        }
        c != MANY && knows.and_then(|k| k.get(&(g << 24 | c))).copied().unwrap_or(0) < earlier_clock
    };
    for lane in lanes(mask) {
        let offset = offsets[lane];
        let last = offset + size as usize - 1;
        for index in offset / 4..=last / 4 {
            let low = if index == offset / 4 { offset % 4 } else { 0 };
            let high = if index == last / 4 { last % 4 } else { 3 };
            let bytes = (15u64 >> (3 - high)) & (15 << low);
            let cell = &mut a.shadow.cells[index];
            // Strong accesses do not race with each other.
            let unordered = |(earlier, clock): (u64, u32)| {
                !(touch.strong && clock & STRONG != 0) && races(earlier, clock & CLOCK, bytes)
            };
            if unordered((cell.write, cell.write_clock)) {
                found.get_or_insert((lane as u32, index * 4, cell.write, true));
            }
            let mark = clock & CLOCK | if touch.strong { STRONG } else { 0 };
            if !write {
                a.shadow.note_read(index, grid, cta, pc, bytes, mark);
                continue;
            }
            let clock = cell.read_clock;
            let many = pack(cell.read >> 48, MANY, (cell.read >> 4) as u32, cell.shared());
            let lone = if clock & HAS_LONE == 0 { None } else { a.shadow.lone.get(&index) };
            let reads = [(cell.read, clock), (many, clock)];
            let raced = reads.iter().chain(lone.into_iter().flatten()).find(|read| unordered(**read));
            if let Some((read, _)) = raced {
                found.get_or_insert((lane as u32, index * 4, *read, false));
            }
            let kept = if cell.write >> 24 == own { cell.write & 15 } else { 0 };
            cell.write = pack(grid, cta, pc, bytes | kept);
            cell.write_clock = mark;
        }
    }
    if let Some((lane, offset, earlier, earlier_write)) = found {
        report(ctx, warp, pc, lane, origin + offset as u64, touch.action, earlier, earlier_write);
    }
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
    let what = match (same_grid, cta == MANY) {
        (false, _) => format!("{verb} by a grid that overlaps this one"),
        (_, true) => format!("{verb} by several CTAs"),
        _ => {
            let [x, y, _] = ctx.grid.grid.map(u64::from);
            format!("{verb} by CTA ({}, {}, {})", cta % x, cta / x % y, cta / (x * y))
        }
    };
    let place = same_grid.then(|| ctx.place((earlier >> 4 & 0xf_ffff) as u32));
    ctx.report(Kind::GlobalRace, false, at, message, Some(Party { what, place }));
}

fn location(origin: u64, offset: usize) -> u64 {
    (origin | offset as u64) & !3 & ((1 << (OFFSET_BITS + 23)) - 1)
}

fn publish(ctx: &mut Context<'_>, places: impl Iterator<Item = u64>, with_fence: bool) {
    let own = key(ctx);
    let clocks = &mut *ctx.clocks;
    let (mut clock, mut fenced) = clocks.own(own);
    if with_fence {
        fenced = clock;
        clock += 1;
        clocks.own.insert(own, (clock, fenced));
    }
    let known = clocks.knows.entry(own).or_default().clone();
    for place in places {
        let to = clocks.published.entry(place).or_default();
        for (&cta, &c) in &known {
            let entry = to.entry(cta).or_default();
            *entry = (*entry).max(c);
        }
        let entry = to.entry(own).or_default();
        *entry = (*entry).max(fenced);
    }
}

fn learn(ctx: &mut Context<'_>, places: impl Iterator<Item = u64>) {
    let own = key(ctx);
    let clocks = &mut *ctx.clocks;
    for place in places {
        if let Some(from) = clocks.published.get(&place) {
            let to = clocks.knows.entry(own).or_default();
            for (&cta, &c) in from {
                let entry = to.entry(cta).or_default();
                *entry = (*entry).max(c);
            }
        }
    }
}

fn places(origin: u64, offsets: &[usize; 32], mask: u32) -> impl Iterator<Item = u64> {
    let mut all: Vec<u64> = lanes(mask).map(|lane| location(origin, offsets[lane])).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
}

/// A strong load learns what was published at its place.
pub fn acquire_global(
    ctx: &mut Context<'_>,
    _: &Warp,
    origin: u64,
    offsets: &[usize; 32],
    mask: u32,
    s: Strength,
) {
    if ctx.checks == Checks::All && s != Strength::Weak && ctx.grid.ctas() > 1 {
        learn(ctx, places(origin, offsets, mask));
    }
}

/// A strong store publishes what the CTA's fences cover.
pub fn release_global(
    ctx: &mut Context<'_>,
    _: &Warp,
    origin: u64,
    offsets: &[usize; 32],
    mask: u32,
    s: Strength,
) {
    if ctx.checks == Checks::All && s != Strength::Weak && ctx.grid.ctas() > 1 {
        publish(
            ctx,
            places(origin, offsets, mask),
            matches!(s, Strength::Release | Strength::AcquireRelease),
        );
    }
}

#[allow(clippy::too_many_arguments)]
pub fn atomic_global(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    origin: u64,
    offsets: &[usize; 32],
    mask: u32,
    size: u32,
    s: Strength,
) {
    global(ctx, warp, pc, origin, offsets, mask, size, Touch::of(Action::Atomic, s));
    if ctx.checks == Checks::All && ctx.grid.ctas() > 1 {
        learn(ctx, places(origin, offsets, mask));
        publish(
            ctx,
            places(origin, offsets, mask),
            matches!(s, Strength::Release | Strength::AcquireRelease),
        );
    }
}

/// `fence` and `membar`: what the CTA did so far may be published.
pub fn fence(ctx: &mut Context<'_>, _: &mut Warp, scope: Scope) {
    if ctx.checks == Checks::All && scope >= Scope::Gpu {
        let own = key(ctx);
        let (clock, _) = ctx.clocks.own(own);
        ctx.clocks.own.insert(own, (clock + 1, clock));
    }
}
