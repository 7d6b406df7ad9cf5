//! Which queued work is done next, and which kernels nothing orders.

use super::Error;
use super::transfers::{Range, Transfer};
use crate::decode::program::Program;
use crate::exec::engine::Source;
use crate::exec::{Grid, Overlap, Random};
use crate::findings::Finding;
use crate::memory::GlobalMemory;
use crate::options::{Checks, Order};
use crate::races::GridClocks;
use crate::stream::{Position, Queues, Work};
use std::sync::Arc;

/// A kernel that ran or runs and that others may race with.
pub(super) struct Past {
    pub position: Position,
    pub id: u64,
    pub program: Arc<Program>,
}

/// Takes work from the queues.
pub(super) struct Scheduler<'s> {
    pub queues: &'s mut Queues,
    pub past: &'s mut Vec<Past>,
    pub transfers: &'s mut Vec<Transfer>,
    /// Number of the last launch, or of what passes for one.
    pub launches: &'s mut u64,
    pub random: &'s mut Random,
    pub time: &'s mut u64,
    pub order: Order,
    pub checks: Checks,
    /// Races of copies and memsets.
    pub found: Vec<Finding>,
    /// Why a piece of work could not be done.
    pub failed: Option<Error>,
}

impl Scheduler<'_> {
    /// The stream whose next work is due, as the order says. While kernels run, what nobody waits for may be put off.
    pub fn choose(&mut self, running: bool) -> Option<u64> {
        let runnable = self.queues.runnable();
        let front = |id: &u64| self.queues.front(*id).map_or(0, |(sequence, _)| *sequence);
        let work = |id: &u64| self.queues.front(*id).map(|(_, work)| work);
        // Events and waits take no time.
        let is_marker = |id: &&u64| matches!(work(id), Some(Work::Record { .. } | Work::Wait { .. }));
        if let Some(id) = runnable.iter().find(is_marker) {
            return Some(*id);
        }
        let is_launch = |id: &&u64| matches!(work(id), Some(Work::Launch { .. }));
        match self.order {
            Order::Eager => {
                let copies = runnable.iter().filter(|id| !is_launch(id)).min_by_key(|id| front(id));
                copies.or_else(|| runnable.iter().min_by_key(|id| front(id))).copied()
            }
            Order::Lazy => {
                let launches = runnable.iter().filter(is_launch).max_by_key(|id| front(id));
                launches.or_else(|| runnable.iter().filter(|_| !running).max_by_key(|id| front(id))).copied()
            }
            Order::Random(_) if runnable.is_empty() || running && self.random.coin() => None,
            Order::Random(_) => Some(runnable[self.random.below(runnable.len())]),
        }
    }

    /// Does a stream's next work, which is no launch.
    pub fn perform(
        &mut self,
        stream: u64,
        memory: &mut GlobalMemory,
        grids: &mut [Grid],
        clocks: &mut GridClocks,
    ) {
        let Some((_, work)) = self.queues.stream(stream).work.pop_front() else { return };
        match work {
            Work::Set { address, pattern, count, position } => {
                let bytes = count * pattern.len() as u64;
                *self.time += bytes / 1024;
                if let Ok((a, at)) = memory.range(address, bytes) {
                    if let [value] = pattern[..] {
                        a.bytes.whole().fill(at, bytes as usize, value);
                    } else {
                        a.bytes.whole().write(at, &pattern.repeat(count as usize));
                    }
                }
                let ranges = vec![Range { address, bytes, write: true }];
                let name = format!("a memset of {bytes} bytes in stream {stream}");
                self.transferred(memory, grids, clocks, &position, name, ranges);
            }
            Work::Copy { to, from, bytes, position } => {
                *self.time += bytes / 1024;
                if memory.copy(to, from, bytes).is_err() {
                    let why = format!("copy of {bytes} bytes from {from:#x} to {to:#x}: no longer allocated");
                    self.failed = Some(Error::InvalidValue(why));
                }
                let ranges = [(to, true), (from, false)];
                let ranges = ranges.map(|(address, write)| Range { address, bytes, write }).to_vec();
                let name = format!("a copy of {bytes} bytes inside the device in stream {stream}");
                self.transferred(memory, grids, clocks, &position, name, ranges);
            }
            Work::Write { to, data, position } => {
                *self.time += data.len() as u64 / 1024;
                if let Ok((a, at)) = memory.range(to, data.len() as u64) {
                    a.bytes.whole().write(at, &data);
                }
                let bytes = data.len() as u64;
                let ranges = vec![Range { address: to, bytes, write: true }];
                let name = format!("a copy of {bytes} bytes from the host in stream {stream}");
                self.transferred(memory, grids, clocks, &position, name, ranges);
            }
            Work::Record { event, number } => {
                if let Some(e) = self.queues.events.get_mut(&event) {
                    e.reached = e.reached.max(number);
                    e.time = *self.time;
                }
            }
            Work::Wait { .. } | Work::Launch { .. } => {}
        }
    }

    /// Adds a stream's next launch to the kernels that run.
    fn begin(
        &mut self,
        stream: u64,
        memory: &mut GlobalMemory,
        grids: &mut Vec<Grid>,
        clocks: &mut GridClocks,
    ) {
        let queue = self.queues.stream(stream);
        let Some((sequence, Work::Launch { grid, .. })) = queue.work.pop_front() else { return };
        let mut grid = *grid;
        queue.running.push(sequence);
        for past in self.past.iter() {
            let other = &past.position;
            let runs = grids.iter_mut().find(|g| g.id == past.id).filter(|g| !g.complete());
            // In one stream it waits for what it overlaps with by griddepcontrol.wait alone.
            let before = grid.position.after.covers(other.stream, other.sequence);
            if before && runs.is_none() {
                continue;
            }
            let rival = |id, program: &Arc<Program>, before| Overlap { id, program: program.clone(), before };
            grid.overlaps.push(rival(past.id, &past.program, before));
            if let Some(runs) = runs {
                runs.overlaps.push(rival(grid.id, &grid.program, false));
            }
        }
        clocks.add(grid.id, grid.ctas());
        grid.overlaps.extend(self.rival_transfers(memory, clocks, &grid.position));
        grid.traced = self.queues.rival_transfers(&grid.position);
        let (position, id, program) = (grid.position.clone(), grid.id, grid.program.clone());
        self.past.push(Past { position, id, program });
        grids.push(grid);
    }

    /// Notes which kernels are complete.
    pub fn finish(&mut self, grids: &mut [Grid]) {
        for grid in grids.iter().filter(|g| g.complete()) {
            let (stream, sequence) = (grid.position.stream, grid.position.sequence);
            let running = &mut self.queues.stream(stream).running;
            if let Some(at) = running.iter().position(|&s| s == sequence) {
                running.remove(at);
                *self.time += grid.counters.instructions;
            }
        }
    }
}

impl Source for Scheduler<'_> {
    fn more(
        &mut self,
        memory: &mut GlobalMemory,
        grids: &mut Vec<Grid>,
        clocks: &mut GridClocks,
        forced: bool,
    ) {
        self.finish(grids);
        while let Some(stream) = self.choose(!forced && grids.iter().any(|g| !g.complete())) {
            if matches!(self.queues.front(stream), Some((_, Work::Launch { .. }))) {
                self.begin(stream, memory, grids, clocks);
            } else {
                self.perform(stream, memory, grids, clocks);
            }
        }
    }
}
