//! CTAs of one grid on several threads of the CPU, where they do not talk to each other.
//!
//! The grid is cut into pieces of neighbouring clusters. Each worker runs pieces on a view of memory as it was before
//! the launch. If in the end no worker touched what another wrote and nobody found anything, running the pieces one
//! after another would have done the same, and what they wrote is put together. Otherwise it is forgotten and the
//! pieces are run one after another: results and findings never depend on the number of threads.

use super::engine::{Ended, Engine, Source};
use super::{Grid, Random};
use crate::counters::Raw;
use crate::decode::program::Op;
use crate::description::Description;
use crate::findings::Findings;
use crate::memory::GlobalMemory;
use crate::options::{Options, Order};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Pieces of a grid at most.
const PIECES: u64 = 64;
/// Warps times instructions of the kernel below which threads are not worth their start.
const WORTH: u64 = 10_000;

/// How a grid is run: each piece's clusters, and the seed of its schedule.
struct Pieces {
    clusters: u64,
    count: u64,
    seed: u64,
}

impl Pieces {
    fn new(grid: &Grid, seed: u64) -> Self {
        let clusters = grid.clusters();
        Self { clusters, count: PIECES.min(clusters), seed }
    }

    fn range(&self, piece: u64) -> Range<u64> {
        let at = |piece: u64| (u128::from(self.clusters) * u128::from(piece) / u128::from(self.count)) as u64;
        at(piece)..at(piece + 1)
    }

    fn random(&self, piece: u64) -> Random {
        let mut random = Random(self.seed ^ piece.wrapping_mul(0x2545_f491_4f6c_dd1d));
        random.next();
        random
    }
}

/// Whether the grid's CTAs cannot notice each other, so that it may be run in pieces.
fn apart(grid: &Grid) -> bool {
    let program = &grid.program;
    let ordered = |op: &Op| matches!(op, Op::Clock { .. } | Op::Print { .. });
    !program.communicates && !program.code.iter().any(|i| ordered(&i.op))
}

/// Runs the engine's grids to their end, and those that the source adds.
pub fn run(
    engine: &mut Engine,
    memory: &mut GlobalMemory,
    findings: &mut Findings,
    options: &Options,
    description: &Description,
    source: &mut dyn Source,
) -> Ended {
    let [grid] = &engine.grids[..] else {
        return engine.run(memory, findings, options, description, source);
    };
    if grid.clusters() < 2 || !apart(grid) {
        return engine.run(memory, findings, options, description, source);
    }
    let pieces = Pieces::new(grid, engine.random.0);
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let threads = threads.min(pieces.count as usize);
    let warps = grid.ctas() * u64::from(grid.threads().div_ceil(32));
    if threads > 1
        && warps.saturating_mul(grid.program.code.len() as u64) > WORTH
        && let Some(counters) = together(engine, &pieces, threads, memory, options, description)
    {
        let grid = &mut engine.grids[0];
        grid.counters = counters;
        grid.finished = grid.ctas();
        return Ended::Complete;
    }
    if !matches!(options.order, Order::Random(_)) {
        return engine.run(memory, findings, options, description, source);
    }
    for piece in 0..pieces.count {
        engine.random = pieces.random(piece);
        engine.grids[0].end = pieces.range(piece).end;
        if engine.run(memory, findings, options, description, source) == Ended::Fault {
            return Ended::Fault;
        }
    }
    Ended::Complete
}

/// Runs the pieces on several threads. `None`, and nothing has changed, if that may not be what one thread would do.
fn together(
    engine: &Engine,
    pieces: &Pieces,
    threads: usize,
    memory: &mut GlobalMemory,
    options: &Options,
    description: &Description,
) -> Option<Raw> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let worker = |mut view: GlobalMemory| {
        let mut own = Engine::new(0);
        own.clock = engine.clock;
        own.grids = engine.grids.clone();
        own.clocks.add(own.grids[0].id, own.grids[0].ctas());
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces.count || failed.load(Ordering::Relaxed) {
                return (view, std::mem::take(&mut own.grids[0].counters));
            }
            let mut findings = Findings::default();
            let range = pieces.range(piece);
            own.random = pieces.random(piece);
            (own.grids[0].next, own.grids[0].end) = (range.start, range.end);
            let ended = own.run(&mut view, &mut findings, options, description, &mut ());
            if ended == Ended::Fault || !findings.list.is_empty() {
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    let views = memory.share(threads);
    let done: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = views.into_iter().map(|view| scope.spawn(|| worker(view))).collect();
        handles.into_iter().map(|handle| handle.join()).collect()
    });
    // A worker that panicked has left its view, but not the memory, in an unknown state.
    let mut ok = !failed.load(Ordering::Relaxed);
    let mut counters = Raw::new(&engine.grids[0].program);
    let mut views = Vec::new();
    for result in done {
        match result {
            Ok((view, of)) => {
                counters.add(&of);
                views.push(view);
            }
            Err(_) => ok = false,
        }
    }
    ok &= counters.instructions <= options.limit;
    memory.join(views, ok).then_some(counters)
}

#[cfg(test)]
mod tests;
