//! The device's queued work, done one piece at a time.

use super::schedule::Scheduler;
use super::{Error, Gpu, State};
use crate::decode::program::{Frame, Place};
use crate::description::Description;
use crate::exec::engine::{Ended, Engine, Source};
use crate::exec::parallel;
use crate::findings::{Finding, Kind};
use crate::memory::GlobalMemory;
use crate::options::{Options, Order};
use crate::races::GridClocks;
use crate::stream::{Clock, Position, Work};

/// Kernels that later ones are held against at most.
const MAX_EPOCH: usize = 4096;

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

    /// Does queued work until the stream (or everything) is done, which the host waits for.
    pub(super) fn flush(&mut self, description: &Description, stream: Option<u64>) -> Result<(), Error> {
        let clock = self.queues.clock(stream);
        self.work_off(description, stream)?;
        self.host_waited(&clock);
        self.prune();
        Ok(())
    }

    /// The host has waited: what it does from now on comes after that.
    pub(super) fn host_waited(&mut self, clock: &Clock) {
        self.queues.host_waited(clock);
        // Whatever is queued from now on comes after that, but not all that is queued already.
        let queued: Vec<&Position> = self.queues.launches().map(|g| &g.position).collect();
        let matters = |at: &Position| {
            !self.queues.host_knows(at.stream, at.sequence)
                || queued.iter().any(|launch| !launch.after.covers(at.stream, at.sequence))
        };
        self.past.retain(|past| matters(&past.position));
        self.transfers.retain(|transfer| matters(&transfer.position));
    }

    pub(super) fn prune(&mut self) {
        let past = self.past.iter().map(|past| past.position.stream);
        self.queues.prune(past.chain(self.transfers.iter().map(|t| t.position.stream)));
    }

    /// Does queued work until the stream (or everything) is done.
    pub(super) fn work_off(&mut self, description: &Description, stream: Option<u64>) -> Result<(), Error> {
        let clock = self.queues.clock(stream);
        while !self.queues.is_done(stream) && self.step(description, &clock)? {}
        Ok(())
    }

    /// What takes work from the queues, and what it works on.
    pub(super) fn scheduler(&mut self) -> (Scheduler<'_>, &mut GlobalMemory, &mut GridClocks) {
        let scheduler = Scheduler {
            queues: &mut self.queues,
            past: &mut self.past,
            transfers: &mut self.transfers,
            launches: &mut self.launches,
            random: &mut self.random,
            time: &mut self.time,
            order: self.options.order,
            checks: self.options.checks,
            failed: None,
            found: Vec::new(),
        };
        (scheduler, &mut self.memory, &mut self.clocks)
    }

    /// Does one piece of queued work, or runs the kernels that may run now; false if nothing can be done. The
    /// host waits for what `wanted` covers.
    pub(super) fn step(&mut self, description: &Description, wanted: &Clock) -> Result<bool, Error> {
        let (mut scheduler, ..) = self.scheduler();
        let Some(stream) = scheduler.choose(false) else { return Ok(false) };
        if !matches!(scheduler.queues.front(stream), Some((_, Work::Launch { .. }))) {
            return self.perform(stream);
        }
        self.run(description, wanted)
    }

    /// Whether earlier kernels can be forgotten: whatever will be launched comes after them.
    fn epoch_is_over(&self, wanted: &Clock) -> bool {
        self.past.len() > MAX_EPOCH
            || self.past.iter().all(|past| {
                let at = &past.position;
                wanted.covers(at.stream, at.sequence)
                    && self.queues.launches().all(|g| g.position.after.covers(at.stream, at.sequence))
            })
    }

    /// Runs the kernels that may run now to their end, and those that may begin in the meantime.
    fn run(&mut self, description: &Description, wanted: &Clock) -> Result<bool, Error> {
        let seed = match self.options.order {
            Order::Random(seed) => seed.wrapping_add(self.launches),
            _ => 0,
        };
        let mut engine = Engine::new(seed);
        engine.clock = self.time;
        if self.epoch_is_over(wanted) {
            self.past.clear();
            self.clocks = Default::default();
            if self.launches >> 16 != self.last_epoch >> 16 {
                // The detector knows grids by 16 bits: an old one must not pass for a new one.
                self.memory.forget_accesses();
            }
            self.last_epoch = self.launches;
        }
        engine.clocks = std::mem::take(&mut self.clocks);
        let mut scheduler = Scheduler {
            queues: &mut self.queues,
            past: &mut self.past,
            transfers: &mut self.transfers,
            launches: &mut self.launches,
            random: &mut self.random,
            time: &mut self.time,
            order: self.options.order,
            checks: self.options.checks,
            failed: None,
            found: Vec::new(),
        };
        scheduler.more(&mut self.memory, &mut engine.grids, &mut engine.clocks, false);
        // What is run in pieces leaves no trace for later work to be held against.
        let alone = scheduler.past.len() == 1
            && engine.grids.iter().all(|g| !g.traced && g.overlaps.is_empty())
            && scheduler.queues.launches().all(|g| {
                let at = &scheduler.past[0].position;
                g.position.after.covers(at.stream, at.sequence) && wanted.covers(at.stream, at.sequence)
            });
        let threads = if alone { self.options.threads } else { 1 };
        let options = Options { threads, ..self.options };
        let (memory, findings) = (&mut self.memory, &mut self.findings);
        let ended = parallel::run(&mut engine, memory, findings, &options, description, &mut scheduler);
        scheduler.finish(&mut engine.grids);
        let (failed, found) = (scheduler.failed, scheduler.found);
        self.add_found(found);
        self.clocks = engine.clocks;
        self.printed.append(&mut engine.printed);
        for grid in &engine.grids {
            let counters = self.counters.entry(grid.program.name.clone()).or_default();
            counters.kernel = grid.program.name.clone();
            counters.add(&grid.program, &grid.counters);
        }
        if ended == Ended::Fault {
            let kind = self.findings.list.iter().rev().find(|f| f.fatal).map(|f| f.kind);
            let error = match kind {
                Some(Kind::OutOfBounds | Kind::InvalidAccess) => Error::IllegalAddress,
                Some(Kind::Assert) => Error::Assert,
                Some(Kind::Misaligned) => Error::MisalignedAddress,
                Some(Kind::Deadlock | Kind::TimeLimit) => Error::Timeout,
                Some(Kind::Barrier | Kind::WarpSync | Kind::Wgmma | Kind::Mbarrier) => {
                    Error::IllegalInstruction
                }
                _ => Error::LaunchFailed,
            };
            self.past.clear();
            self.transfers.clear();
            self.queues.abandon();
            self.fault = Some(error.clone());
            return Err(error);
        }
        failed.map_or(Ok(true), Err)
    }
}
