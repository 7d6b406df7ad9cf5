//! What was last done to each byte of a CTA's shared memory, and whether an access conflicts with it.
//!
//! Most accesses cover whole lines of 16 bytes (matrix rows, asynchronous copies, vectors), so a line has one cell until
//! an access to a part of it splits it into a cell for each four bytes; a write of the whole line joins it again.

use super::reads::Reads;
use crate::exec::lanes;
use std::collections::HashMap;

/// An access as it is remembered.
#[derive(Clone, Copy, Default)]
pub(super) struct Record {
    pub clock: u32,
    pub actor: u16,
    pub lane: u8,
    /// Bytes of the cell; in the high bits whether the access was strong, and whether it set up an mbarrier.
    pub mask: u8,
    pub pc: u32,
}

const STRONG: u8 = 0x10;
/// The write set up an mbarrier, which lives in these bytes.
const MBARRIER: u8 = 0x20;
/// In the mask of a line's write: its four cells differ and are kept apart.
const SPLIT: u8 = 0x40;
/// In the mask of a cell's write: its four bytes differ and are kept apart.
const PARTS: u8 = 0x80;
/// Reads of several actors: the clock is the number of the first in the pool.
const MANY: u16 = u16::MAX;
pub(super) const ANY_LANE: u8 = 0xff;
/// Several lanes of the same warp read: a later write by any of them conflicts only with the others.
const ANY_LANE_READ: u8 = 0xfe;

const LINE: usize = 16;

/// Last write and reads of four bytes, or of the whole line.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: Record,
    read: Record,
}

/// The cells of a CTA's shared memory.
#[derive(Default)]
pub(super) struct Cells {
    lines: Vec<Cell>,
    /// Of split lines; the others' are stale.
    cells: Vec<Cell>,
    reads: Reads,
    /// Cells that different actors wrote in parts, byte by byte.
    parts: HashMap<u32, Box<[Cell; 4]>>,
}

/// One access, against the cells of a CTA's shared memory.
pub(super) struct Accessor<'c> {
    pub actor: usize,
    pub lane: u8,
    pub clock: u32,
    pub pc: u32,
    pub write: bool,
    pub strong: bool,
    /// Sets up an mbarrier.
    pub mbarrier: bool,
    /// What the accessor knows of plain reads and of asynchronous work, and of generic writes.
    pub knows: &'c [u32],
    pub knows_writes: &'c [u32],
    /// Actors below this are warps and their cp.async: their writes are generic.
    pub generic: usize,
}

/// What is wrong with an access.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Nothing orders it with the earlier one.
    Unordered,
    /// Only a proxy fence is missing.
    Proxy,
    /// It writes over a live mbarrier.
    Mbarrier,
}

/// A conflict: the earlier record, whether it was a write, and what is wrong.
pub(super) struct Conflict {
    pub earlier: Record,
    pub earlier_write: bool,
    pub why: Why,
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
        let knows = if write && actor < self.generic { self.knows_writes } else { self.knows };
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
        let known = self.knows.get(r.actor as usize).copied().unwrap_or(0) >= r.clock;
        let why = if known && r.actor as usize != self.actor { Why::Proxy } else { Why::Unordered };
        Some(Conflict { earlier: *r, earlier_write: write, why })
    }

    /// A write, by anything but a new set-up, over the bytes of an mbarrier.
    #[cold]
    fn over_mbarrier(&self, r: &Record, mask: u8) -> Option<Conflict> {
        let hit = self.write && !self.mbarrier && r.mask & mask & 15 != 0;
        hit.then_some(Conflict { earlier: *r, earlier_write: true, why: Why::Mbarrier })
    }

    #[inline(always)]
    fn record(&self, mask: u8) -> Record {
        let mask = mask | if self.strong { STRONG } else { 0 } | if self.mbarrier { MBARRIER } else { 0 };
        Record { clock: self.clock, actor: self.actor as u16, lane: self.lane, mask, pc: self.pc }
    }

    #[inline(always)]
    fn touch(&self, cell: &mut Cell, reads: &mut Reads, mask: u8) -> Option<Conflict> {
        let mut found = self.conflict(&cell.write, true, mask);
        if cell.write.mask & MBARRIER != 0 {
            found = self.over_mbarrier(&cell.write, mask).or(found);
        }
        let r = &mut cell.read;
        if self.write {
            if r.actor == MANY {
                for r in reads.iter(r.clock) {
                    found = found.or_else(|| self.conflict(r, false, mask));
                }
            } else {
                found = found.or_else(|| self.conflict(r, false, mask));
            }
            if mask == 15 || r.mask & !mask & 15 == 0 {
                if r.actor == MANY {
                    reads.drop(r.clock);
                }
                *r = Record::default();
            }
            cell.write = self.record(mask);
        } else if r.actor == MANY {
            reads.set(r.clock, self.record(mask));
        } else if r.clock == 0
            || r.actor as usize == self.actor && (r.clock < self.clock || r.mask & !mask & 15 == 0)
        {
            // Several lanes of one warp: whichever, another warp sees the same clock.
            let lane = if r.clock == self.clock && r.lane != self.lane { ANY_LANE_READ } else { self.lane };
            let kept = if r.clock == self.clock { r.mask & 15 } else { 0 };
            *r = Record { lane, ..self.record(mask | kept) };
        } else {
            let list = reads.pair(*r, self.record(mask));
            *r = Record { clock: list, actor: MANY, lane: 0, mask: 15, pc: 0 };
        }
        found
    }

    /// Whether a partial access would overwrite another's record of other bytes.
    fn partly(&self, cell: &Cell, mask: u8) -> bool {
        let other = |r: &Record| {
            r.clock != 0
                && (r.actor as usize != self.actor || r.lane != self.lane)
                && r.mask & 15 & !mask != 0
        };
        if self.write {
            other(&cell.write) || other(&cell.read)
        } else {
            cell.read.actor != MANY && other(&cell.read)
        }
    }
}

impl Cells {
    /// Forgets everything, for `size` bytes.
    pub fn start(&mut self, size: usize) {
        let lines = size.div_ceil(LINE);
        self.lines.clear();
        self.lines.resize(lines, Cell::default());
        if self.cells.len() != 4 * lines {
            self.cells.clear();
            self.cells.resize(4 * lines, Cell::default());
        }
        self.reads.clear();
        self.parts.clear();
    }

    /// The last write to the four bytes at `offset`.
    pub fn last_write(&self, offset: usize) -> Record {
        let Some(line) = self.lines.get(offset / LINE) else { return Record::default() };
        if line.write.mask & SPLIT != 0 { self.cells[offset / 4].write } else { line.write }
    }

    /// The mbarrier at `offset` is no more.
    pub fn end_mbarrier(&mut self, offset: usize) {
        let Some(line) = self.lines.get(offset / LINE) else { return };
        // An mbarrier is half a line.
        if line.write.mask & SPLIT != 0 {
            for cell in &mut self.cells[offset / 4..offset / 4 + 2] {
                cell.write.mask &= !MBARRIER;
            }
        }
    }

    /// Records and checks an access: the first conflict and the offset of its four bytes.
    #[inline(always)]
    pub fn access(&mut self, accessor: &Accessor<'_>, offset: usize, size: u32) -> Option<(u32, Conflict)> {
        if size == LINE as u32 && offset.is_multiple_of(LINE) {
            return self.line(accessor, offset / LINE);
        }
        self.several(accessor, offset, size as usize)
    }

    /// An access to a whole line.
    #[inline(always)]
    fn line(&mut self, accessor: &Accessor<'_>, index: usize) -> Option<(u32, Conflict)> {
        let line = self.lines.get_mut(index)?;
        if line.write.mask & SPLIT != 0 {
            return self.split_line(accessor, index);
        }
        let conflict = accessor.touch(line, &mut self.reads, 15)?;
        Some(((index * LINE) as u32, conflict))
    }

    fn split_line(&mut self, accessor: &Accessor<'_>, index: usize) -> Option<(u32, Conflict)> {
        let mut found = None;
        for cell in 4 * index..4 * index + 4 {
            let conflict = self.cell(accessor, cell, 15);
            if found.is_none() {
                found = conflict.map(|c| (cell as u32 * 4, c));
            }
        }
        let cells = &self.cells[4 * index..4 * index + 4];
        if accessor.write && cells.iter().all(|c| c.write.mask & PARTS == 0) {
            // Each cell has now this write and no read.
            self.lines[index] = cells[0];
        }
        found
    }

    #[inline(never)]
    fn several(&mut self, accessor: &Accessor<'_>, offset: usize, size: usize) -> Option<(u32, Conflict)> {
        let mut found = None;
        let last = offset + size - 1;
        for index in offset / LINE..=last / LINE {
            let low = if index == offset / LINE { offset % LINE } else { 0 };
            let high = if index == last / LINE { last % LINE } else { LINE - 1 };
            if low == 0 && high == LINE - 1 {
                let conflict = self.line(accessor, index);
                found = found.or(conflict);
                continue;
            }
            if index >= self.lines.len() {
                return found;
            }
            self.split(index);
            let bytes = 0xffffu32 >> (LINE - 1 - high) & 0xffff << low;
            for part in low / 4..=high / 4 {
                let cell = 4 * index + part;
                let conflict = self.cell(accessor, cell, (bytes >> (4 * part) & 15) as u8);
                if found.is_none() {
                    found = conflict.map(|c| (cell as u32 * 4, c));
                }
            }
        }
        found
    }

    /// Gives each four bytes of a line a cell of their own.
    #[inline(always)]
    fn split(&mut self, index: usize) {
        let line = &mut self.lines[index];
        if line.write.mask & SPLIT != 0 {
            return;
        }
        let cells = &mut self.cells[4 * index..4 * index + 4];
        cells.fill(*line);
        line.write.mask = SPLIT;
        if line.read.actor == MANY {
            // Each needs a list of its own.
            for cell in &mut cells[1..] {
                cell.read.clock = self.reads.copy(cell.read.clock);
            }
        }
    }

    /// An access to the bytes `mask` of a cell of a split line.
    #[inline(always)]
    fn cell(&mut self, accessor: &Accessor<'_>, index: usize, mask: u8) -> Option<Conflict> {
        let cell = &mut self.cells[index];
        if cell.write.mask & PARTS == 0 && (mask == 15 || !accessor.partly(cell, mask)) {
            return accessor.touch(cell, &mut self.reads, mask);
        }
        self.bytes(accessor, index, mask)
    }

    /// The same, byte by byte.
    #[inline(never)]
    fn bytes(&mut self, accessor: &Accessor<'_>, index: usize, mask: u8) -> Option<Conflict> {
        let cell = &mut self.cells[index];
        let reads = &mut self.reads;
        if cell.write.mask & PARTS == 0 {
            let mut parts = Box::new([*cell; 4]);
            for (byte, part) in parts.iter_mut().enumerate() {
                if cell.write.mask >> byte & 1 == 0 {
                    part.write = Record::default();
                }
                if cell.read.actor == MANY {
                    // Each byte needs a list of its own.
                    part.read.clock = reads.copy(cell.read.clock);
                } else if cell.read.mask >> byte & 1 == 0 {
                    part.read = Record::default();
                }
            }
            cell.write.mask = PARTS;
            self.parts.insert(index as u32, parts);
        }
        let parts = self.parts.get_mut(&(index as u32))?;
        let mut found = None;
        for byte in lanes(u32::from(mask)) {
            found = found.or(accessor.touch(&mut parts[byte], reads, 1 << byte));
        }
        found
    }
}
