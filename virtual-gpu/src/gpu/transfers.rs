//! Copies and memsets of the host, held against the kernels that nothing orders with them.

use super::schedule::Scheduler;
use super::{Error, State};
use crate::decode::program::{Place, Program};
use crate::exec::{Grid, Overlap};
use crate::findings::{Finding, Kind, Party};
use crate::global_races::host_access;
use crate::memory::GlobalMemory;
use crate::options::Checks;
use crate::races::GridClocks;
use crate::stream::Position;
use std::sync::Arc;

/// Transfers that later kernels are held against at most, the last ones.
const MOST: usize = 1024;

/// Bytes that a transfer reads or writes.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub address: u64,
    pub bytes: u64,
    pub write: bool,
}

/// A transfer that has been done.
pub(super) struct Transfer {
    pub position: Position,
    ranges: Vec<Range>,
    /// It passes for a grid of one CTA: its number, and its name as that of a program without instructions.
    id: u64,
    program: Arc<Program>,
    /// The run of kernels whose detector knows of it.
    run: u32,
}

impl Scheduler<'_> {
    /// Holds a transfer that is being done against the kernels so far, and keeps it for the rest of those that run and
    /// for those to come.
    pub fn transferred(
        &mut self,
        memory: &mut GlobalMemory,
        grids: &mut [Grid],
        clocks: &mut GridClocks,
        position: &Position,
        name: String,
        ranges: Vec<Range>,
    ) {
        if self.checks != Checks::All {
            return;
        }
        let unordered = self.past.iter().filter(|past| {
            let other = &past.position;
            !position.after.covers(other.stream, other.sequence)
        });
        let rivals: Vec<Overlap> = unordered
            .map(|past| Overlap { id: past.id, program: past.program.clone(), before: false })
            .collect();
        let program = Arc::new(Program { name, ..Program::default() });
        let mut transfer = Transfer { position: position.clone(), ranges, id: 0, program, run: 0 };
        if !rivals.is_empty() {
            self.record(memory, clocks, &mut transfer, rivals);
            for grid in grids.iter_mut().filter(|g| !g.complete()) {
                let (of_grid, own) = (&grid.position, &transfer.position);
                let ordered = own.after.covers(of_grid.stream, of_grid.sequence)
                    || of_grid.after.covers(own.stream, own.sequence);
                if !ordered {
                    let program = transfer.program.clone();
                    grid.overlaps.push(Overlap { id: transfer.id, program, before: false });
                }
            }
        }
        if self.transfers.len() == MOST {
            self.transfers.remove(0);
        }
        self.transfers.push(transfer);
    }

    /// Tells the detector what a transfer did, and reports what conflicts with its rivals.
    fn record(
        &mut self,
        memory: &mut GlobalMemory,
        clocks: &mut GridClocks,
        transfer: &mut Transfer,
        rivals: Vec<Overlap>,
    ) {
        if transfer.id == 0 {
            *self.launches += 1;
            transfer.id = *self.launches;
        }
        if transfer.run == 0 || transfer.run != clocks.run {
            clocks.add(transfer.id, 1);
            transfer.run = clocks.run;
        }
        let grid = Grid::of_host(transfer.id, transfer.program.clone(), rivals);
        for range in &transfer.ranges {
            let found = host_access(memory, clocks, &grid, (range.address, range.bytes), range.write);
            let Some(conflict) = found else { continue };
            let [own, verb] = [range.write, conflict.write].map(|write| if write { "write" } else { "read" });
            let rival = grid.overlaps.iter().find(|o| o.id & 0xffff == conflict.grid);
            let other = rival.map(|rival| Party {
                what: format!("{verb} by {}, with nothing between to order them", rival.program.name),
                place: (!rival.program.code.is_empty()).then(|| rival.program.place(conflict.pc)),
            });
            self.found.push(Finding {
                kind: Kind::GlobalRace,
                message: format!(
                    "{own} of {} by {}, unordered with an earlier {verb}",
                    memory.describe(conflict.address),
                    transfer.program.name
                ),
                kernel: String::new(),
                place: Place::default(),
                cta: [0; 3],
                warp: None,
                lane: None,
                address: Some(conflict.address),
                other,
                count: 1,
                fatal: false,
            });
        }
    }

    /// The earlier transfers that nothing orders with a kernel which begins; the detector knows them from now on.
    pub fn rival_transfers(
        &mut self,
        memory: &mut GlobalMemory,
        clocks: &mut GridClocks,
        kernel: &Position,
    ) -> Vec<Overlap> {
        let mut rivals = Vec::new();
        let mut transfers = std::mem::take(self.transfers);
        for transfer in &mut transfers {
            if kernel.after.covers(transfer.position.stream, transfer.position.sequence) {
                continue;
            }
            if transfer.run == 0 || transfer.run != clocks.run {
                self.record(memory, clocks, transfer, Vec::new());
            }
            rivals.push(Overlap { id: transfer.id, program: transfer.program.clone(), before: false });
        }
        *self.transfers = transfers;
        rivals
    }
}

impl State {
    /// A transfer by a call that waits for it, after the work of `stream`.
    pub(super) fn host_transfer(&mut self, stream: u64, name: String, range: Range, more: Option<Range>) {
        let position = self.queues.stamp(stream);
        let (mut scheduler, memory, clocks) = self.scheduler();
        let ranges = std::iter::once(range).chain(more).collect();
        scheduler.transferred(memory, &mut [], clocks, &position, name, ranges);
        let found = scheduler.found;
        self.add_found(found);
        self.host_waited(&position.after);
    }

    /// Adds what was found about transfers.
    pub(super) fn add_found(&mut self, found: Vec<Finding>) {
        found.into_iter().for_each(|finding| self.findings.add(finding));
    }

    /// Does the next work of a stream, which is no launch.
    pub(super) fn perform(&mut self, stream: u64) -> Result<bool, Error> {
        let (mut scheduler, memory, clocks) = self.scheduler();
        scheduler.perform(stream, memory, &mut [], clocks);
        let (found, failed) = (scheduler.found, scheduler.failed);
        self.add_found(found);
        failed.map_or(Ok(true), Err)
    }
}
