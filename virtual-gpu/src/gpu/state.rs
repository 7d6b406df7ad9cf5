//! The device's queued work, done one piece at a time.

use super::{Error, Gpu, State};
use crate::decode::program::{Frame, Place};
use crate::description::Description;
use crate::exec::engine::{Ended, Engine};
use crate::exec::{Grid, parallel};
use crate::findings::{Finding, Kind};
use crate::options::Order;
use crate::stream::Work;

impl State {
    pub(super) fn check_fault(&self) -> Result<(), Error> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    pub(super) fn host_finding(&mut self, kind: Kind, message: String) {
        self.findings.add(Finding {
            kind,
            message,
            kernel: String::new(),
            place: Place { frames: Vec::<Frame>::new(), ptx_line: 0, opcode: String::new() },
            cta: [0; 3],
            warp: None,
            lane: None,
            address: None,
            other: None,
            count: 1,
            fatal: false,
        });
    }

    pub(super) fn check_range(&mut self, what: &str, address: u64, bytes: u64) -> Result<(), Error> {
        match self.memory.range(address, bytes) {
            Ok(_) => Ok(()),
            Err(bad) => Err(Gpu::bad(self, what, address, bytes, bad)),
        }
    }

    /// Does queued work until the stream (or everything) is done.
    pub(super) fn flush(&mut self, description: &Description, stream: Option<u64>) -> Result<(), Error> {
        loop {
            let done = match stream {
                Some(id) => self.queues.streams.get(&id).is_none_or(|q| q.work.is_empty()),
                None => self.queues.pending() == 0,
            };
            if done || !self.step(description, stream)? {
                return Ok(());
            }
        }
    }

    /// Does one piece of queued work, if any can be done.
    pub(super) fn step(&mut self, description: &Description, _wanted: Option<u64>) -> Result<bool, Error> {
        let runnable = self.queues.runnable(None);
        if runnable.is_empty() {
            return Ok(false);
        }
        let front = |id: &u64| self.queues.streams[id].work.front().map_or(0, |(s, _)| *s);
        let chosen = match self.options.order {
            Order::Eager => runnable.iter().copied().min_by_key(front),
            Order::Lazy => runnable.iter().copied().max_by_key(front),
            Order::Random(_) => Some(runnable[self.random.below(runnable.len())]),
        };
        let Some(queue) = chosen.and_then(|id| self.queues.streams.get_mut(&id)) else { return Ok(false) };
        let Some((_, work)) = queue.work.pop_front() else { return Ok(false) };
        match work {
            Work::Launch { grid, .. } => {
                // Launches that may begin early run together with the one before them.
                let mut grids = vec![*grid];
                while let Some((_, Work::Launch { dependent: true, .. })) = queue.work.front() {
                    if let Some((_, Work::Launch { grid, .. })) = queue.work.pop_front() {
                        grids.push(*grid);
                    }
                }
                self.run(grids, description)?;
            }
            Work::Set { address, pattern, count } => {
                let bytes = count * pattern.len() as u64;
                self.time += bytes / 1024;
                if let Ok((a, at)) = self.memory.range(address, bytes) {
                    if let [value] = pattern[..] {
                        a.bytes.whole().fill(at, bytes as usize, value);
                    } else {
                        a.bytes.whole().write(at, &pattern.repeat(count as usize));
                    }
                }
            }
            Work::Copy { to, from, bytes } => {
                self.time += bytes / 1024;
                if let Err(bad) = self.memory.copy(to, from, bytes) {
                    return Err(Gpu::bad(self, "copy", to, bytes, bad));
                }
            }
            Work::Write { to, data } => {
                self.time += data.len() as u64 / 1024;
                if let Ok((a, at)) = self.memory.range(to, data.len() as u64) {
                    a.bytes.whole().write(at, &data);
                }
            }
            Work::Record { event, number } => {
                let time = self.time;
                if let Some(e) = self.queues.events.get_mut(&event) {
                    e.reached = e.reached.max(number);
                    e.time = time;
                }
            }
            Work::Wait { .. } => {}
        }
        Ok(true)
    }

    pub(super) fn run(&mut self, grids: Vec<Grid>, description: &Description) -> Result<(), Error> {
        let seed = match self.options.order {
            Order::Random(seed) => seed.wrapping_add(self.launches),
            _ => 0,
        };
        let mut engine = Engine::new(seed);
        engine.clock = self.time;
        engine.grids = grids;
        let options = self.options;
        let ended = parallel::run(&mut engine, &mut self.memory, &mut self.findings, &options, description);
        for grid in &engine.grids {
            self.time += grid.counters.instructions;
            let counters = self.counters.entry(grid.program.name.clone()).or_default();
            counters.kernel = grid.program.name.clone();
            counters.add(&grid.program, &grid.counters);
        }
        if ended == Ended::Fault {
            let kind = self.findings.list.iter().rev().find(|f| f.fatal).map(|f| f.kind);
            let error = match kind {
                Some(Kind::OutOfBounds | Kind::InvalidAccess) => Error::IllegalAddress,
                Some(Kind::Misaligned) => Error::MisalignedAddress,
                Some(Kind::Deadlock | Kind::TimeLimit) => Error::Timeout,
                Some(Kind::Barrier | Kind::WarpSync | Kind::Wgmma | Kind::Mbarrier) => {
                    Error::IllegalInstruction
                }
                _ => Error::LaunchFailed,
            };
            self.fault = Some(error.clone());
            return Err(error);
        }
        Ok(())
    }
}
