//! What was last done to each byte of an allocation in this run.
//!
//! Most accesses of a warp cover whole blocks of 64 bytes, so a block has one cell until an access to a part of it
//! splits it into quads of 16 bytes (the widest access of a lane), and an access to a part of a quad splits that into a
//! cell for each four bytes. What earlier runs did is forgotten when a block is next touched.

use super::GridClocks;
use crate::decode::program::Scope;
use crate::exec::Grid;
use std::collections::HashMap;

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;
const QUAD: usize = 16;
const QUADS: usize = BLOCK / QUAD;
const CELLS: usize = QUAD / 4;
/// Blocks of a page, which is made when first touched.
const PAGE: usize = 64;

/// Last write and reads of four bytes, or of a whole block. Packed: grid 16 bits, CTA 24, instruction 20, bytes 4.
///
/// `read` is the last CTA that was alone in reading its bytes; `shared` are the bytes that several CTAs read. Bytes
/// with different lone readers are rare (the seam between two CTAs' halves of a word): [`GlobalShadow::lone`] has them.
#[derive(Clone, Copy, Default)]
pub(super) struct Cell {
    pub write: u64,
    pub read: u64,
    pub write_clock: u32,
    pub read_clock: u32,
}

pub(super) const MANY: u64 = 0xff_ffff;

/// In a clock: the access was strong, and if so only for the CTAs of its cluster.
pub(super) const STRONG: u32 = 1 << 31;
const CLUSTER: u32 = 1 << 25;
/// In a write's clock: the copy engine wrote.
const ENGINE: u32 = 1 << 30;
/// In a read's clock: the bytes that several CTAs read, and whether [`GlobalShadow::lone`] has more readers.
const SHARED: u32 = 27;
const HAS_LONE: u32 = 1 << 26;
pub(super) const CLOCK: u32 = CLUSTER - 1;
/// What a reader's record keeps of its clock when it is put elsewhere.
const OWN: u32 = STRONG | CLUSTER | CLOCK;
/// A clock that nobody can know yet: of a write still in flight.
pub(super) const IN_FLIGHT: u32 = CLOCK;

/// Reads, packed, with their clocks, by cell: of bytes that have another lone reader than the cell's.
type Lone = HashMap<usize, Vec<(u64, u32)>>;

pub(super) fn pack(grid: u64, cta: u64, pc: u32, mask: u64) -> u64 {
    (grid & 0xffff) << 48 | (cta & MANY) << 24 | u64::from(pc & 0xf_ffff) << 4 | mask
}

#[derive(Clone, Copy, Default)]
struct Block {
    cell: Cell,
    /// The run that touched it last.
    run: u32,
    /// Number of its quads, from 1, once it is split.
    split: u32,
}

#[derive(Clone, Copy)]
struct Quad {
    cell: Cell,
    /// Number of its cells, from 1, once it is split.
    split: u32,
}

/// The parts of split blocks and quads.
#[derive(Default)]
struct Parts {
    quads: Vec<[Quad; QUADS]>,
    cells: Vec<[Cell; CELLS]>,
    lone: Lone,
}

/// Race state of an allocation.
#[derive(Default)]
pub struct GlobalShadow {
    pages: Vec<Option<Box<[Block; PAGE]>>>,
    parts: Parts,
    run: u32,
}

/// Who accesses, and how.
pub(super) struct Accessor<'c> {
    pub grid: u64,
    pub cta: u64,
    pub pc: u32,
    pub clock: u32,
    pub write: bool,
    /// A strong access, and for whom: `Cluster` or a wider scope.
    pub strong: Option<Scope>,
    /// The copy engine accesses, not a thread.
    pub engine: bool,
    /// Its grid, which knows those that nothing orders with it.
    pub launch: &'c Grid,
    pub clocks: &'c GridClocks,
    /// The thread comes after a wait for the grids before its own.
    pub waited: bool,
    /// CTAs of the grid may order their accesses; else none are ordered.
    pub communicates: bool,
    /// Clocks that the CTA knows of the others of its grid, by number.
    pub knows: &'c [u32],
    /// Clocks, the CTA's own too, up to which proxy fences cover what ordinary accesses wrote.
    pub proxied: &'c [u32],
}

/// An earlier access, packed, that conflicts with this one.
#[derive(Clone, Copy)]
pub(super) struct Earlier {
    pub packed: u64,
    pub write: bool,
    /// Only a proxy fence is missing.
    pub proxy: bool,
}

impl Accessor<'_> {
    /// Whether an earlier access to these bytes is unordered with this one.
    #[inline(always)]
    fn races(&self, (earlier, clock): (u64, u32), bytes: u64) -> bool {
        if earlier & bytes == 0 {
            return false;
        }
        let (grid, cta) = (earlier >> 48, earlier >> 24 & MANY);
        // Strong accesses do not race with each other within their scopes.
        if let Some(scope) = self.strong
            && clock & STRONG != 0
            && (scope > Scope::Cluster && clock & CLUSTER == 0 || self.same_cluster(grid, cta))
        {
            return false;
        }
        if grid != self.grid {
            return !self.launch.overlaps.is_empty() && self.overlaps((grid, cta), clock & CLOCK);
        }
        if cta == self.cta {
            return false;
        }
        if !self.communicates {
            return true;
        }
        cta != MANY && self.knows.get(cta as usize).copied().unwrap_or(0) < clock & CLOCK
    }

    /// Whether nothing orders what another grid did with this access.
    #[cold]
    fn overlaps(&self, other: (u64, u64), clock: u32) -> bool {
        self.launch.overlap(other.0, self.waited).is_some()
            && (other.1 == MANY || !self.clocks.knows((self.grid, self.cta), other, clock))
    }

    #[cold]
    fn same_cluster(&self, grid: u64, cta: u64) -> bool {
        // Which of several readers there were is not known.
        cta == MANY || grid == self.grid && self.launch.cluster_of(cta) == self.launch.cluster_of(self.cta)
    }

    /// Whether the copy engine comes to what ordinary accesses of this grid wrote, with no proxy fence between.
    #[inline(always)]
    fn unfenced(&self, cell: &Cell, bytes: u64) -> bool {
        let (write, clock) = (cell.write, cell.write_clock);
        self.engine
            && write & bytes != 0
            && clock & ENGINE == 0
            && write >> 48 == self.grid
            && self.proxied.get((write >> 24 & MANY) as usize).copied().unwrap_or(0) < clock & CLOCK
    }

    fn mark(&self) -> u32 {
        let strong = match self.strong {
            None => 0,
            Some(Scope::Cluster) => STRONG | CLUSTER,
            Some(_) => STRONG,
        };
        self.clock & CLOCK | strong | if self.engine && self.write { ENGINE } else { 0 }
    }

    /// Checks and notes an access to `bytes` of a cell; `index` is the cell's key in `lone`.
    #[inline(always)]
    fn touch(&self, cell: &mut Cell, lone: &mut Lone, index: usize, bytes: u64) -> Option<Earlier> {
        let mut found = None;
        if self.races((cell.write, cell.write_clock), bytes) {
            found = Some(Earlier { packed: cell.write, write: true, proxy: false });
        } else if self.unfenced(cell, bytes) {
            found = Some(Earlier { packed: cell.write, write: true, proxy: true });
        }
        let mark = self.mark();
        if !self.write {
            cell.note_read(lone, index, self, bytes, mark);
            return found;
        }
        let clock = cell.read_clock;
        let many = pack(cell.read >> 48, MANY, (cell.read >> 4) as u32, cell.shared());
        let others = if clock & HAS_LONE == 0 { None } else { lone.get(&index) };
        let reads = [(cell.read, clock), (many, clock)];
        let raced = reads.iter().chain(others.into_iter().flatten()).find(|read| self.races(**read, bytes));
        if let Some((read, _)) = raced
            && found.is_none()
        {
            found = Some(Earlier { packed: *read, write: false, proxy: false });
        }
        let own = (self.grid & 0xffff) << 24 | self.cta & MANY;
        let kept = if cell.write >> 24 == own { cell.write & 15 } else { 0 };
        cell.write = pack(self.grid, self.cta, self.pc, bytes | kept);
        cell.write_clock = mark;
        found
    }
}

impl Cell {
    fn shared(&self) -> u64 {
        u64::from(self.read_clock >> SHARED & 15)
    }

    /// Notes a read of `bytes`, `clock` with the strong bit.
    #[inline(always)]
    fn note_read(&mut self, lone: &mut Lone, index: usize, by: &Accessor<'_>, bytes: u64, clock: u32) {
        let (grid, cta, pc) = (by.grid, by.cta, by.pc);
        let read = self.read;
        if read >> 48 != grid || read == 0 {
            if self.read_clock & HAS_LONE != 0 {
                lone.remove(&index);
            }
            self.read = pack(grid, cta, pc, bytes);
            self.read_clock = clock;
            return;
        }
        let same = read >> 24 & MANY == cta;
        let mut shared = self.shared();
        let mut has_lone = self.read_clock & HAS_LONE;
        let mut alone = read & 15;
        if !same {
            shared |= alone & bytes;
            alone &= !shared;
        }
        if has_lone != 0
            && let Some(others) = lone.get_mut(&index)
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
                self.read = read & !15 | alone;
                self.read_clock = self.read_clock & OWN | has_lone | (shared as u32) << SHARED;
                return;
            }
            has_lone = HAS_LONE;
            let old = (read & !15 | alone, self.read_clock & OWN);
            lone.entry(index).or_default().push(old);
            alone = 0;
        }
        let kept = if same { alone } else { 0 };
        self.read = pack(grid, cta, pc, new | kept);
        self.read_clock = clock | has_lone | (shared as u32) << SHARED;
    }
}

impl GlobalShadow {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Makes room for an allocation of `len` bytes, and forgets what another run did.
    pub(super) fn begin(&mut self, len: usize, run: u32) {
        if self.run != run {
            self.run = run;
            self.parts.quads.clear();
            self.parts.cells.clear();
            self.parts.lone.clear();
            self.pages.resize_with(len.div_ceil(BLOCK * PAGE), || None);
        }
    }

    /// An access by neighbouring lanes to neighbouring bytes: `size` bytes each (a power of two up to a block, aligned)
    /// from `start` to `end`. The first conflict: which of the lanes, where, with what.
    #[inline(always)]
    pub(super) fn access(
        &mut self,
        by: &Accessor<'_>,
        (start, end): (usize, usize),
        size: usize,
    ) -> Option<(usize, usize, Earlier)> {
        let mut found = None;
        for number in start / BLOCK..=(end - 1) / BLOCK {
            let (low, high) = (start.max(number * BLOCK), end.min((number + 1) * BLOCK));
            let page = &mut self.pages[number / PAGE];
            let page = page.get_or_insert_with(|| Box::new([Block::default(); PAGE]));
            let block = &mut page[number % PAGE];
            if block.run != self.run {
                *block = Block { run: self.run, ..Block::default() };
            }
            let conflict = if high - low == BLOCK && block.split == 0 {
                let earlier = by.touch(&mut block.cell, &mut self.parts.lone, usize::MAX, 15);
                earlier.map(|earlier| ((low - start) / size, low, earlier))
            } else {
                if block.split == 0 {
                    self.parts.quads.push([Quad { cell: block.cell, split: 0 }; QUADS]);
                    block.split = self.parts.quads.len() as u32;
                }
                let conflict = self.parts.access(block.split, by, (low, high), size);
                conflict.map(|(lane, at, earlier)| ((low - start) / size + lane, at, earlier))
            };
            if found.is_none() {
                found = conflict;
            }
        }
        found
    }
}

impl Parts {
    /// The accesses of lanes to a split block, from `low` to `high`.
    #[inline(never)]
    fn access(
        &mut self,
        block: u32,
        by: &Accessor<'_>,
        (start, end): (usize, usize),
        size: usize,
    ) -> Option<(usize, usize, Earlier)> {
        let quads = &mut self.quads[block as usize - 1];
        let mut found = None;
        let mut low = start;
        while low < end {
            let high = end.min(low / QUAD * QUAD + QUAD);
            let quad = &mut quads[low / QUAD % QUADS];
            let conflict = if high - low == QUAD && quad.split == 0 {
                let earlier = by.touch(&mut quad.cell, &mut self.lone, usize::MAX, 15);
                earlier.map(|earlier| ((low - start) / size, low, earlier))
            } else {
                if quad.split == 0 {
                    self.cells.push([quad.cell; CELLS]);
                    quad.split = self.cells.len() as u32;
                }
                let cells = &mut self.cells[quad.split as usize - 1];
                lane_by_lane(cells, &mut self.lone, by, (low, high), size)
                    .map(|(lane, at, earlier)| ((low - start) / size + lane, at, earlier))
            };
            if found.is_none() {
                found = conflict;
            }
            low = high;
        }
        found
    }
}

/// The accesses of lanes to a split quad, from `low` to `high`.
fn lane_by_lane(
    cells: &mut [Cell; CELLS],
    lone: &mut Lone,
    by: &Accessor<'_>,
    (low, high): (usize, usize),
    size: usize,
) -> Option<(usize, usize, Earlier)> {
    let mut found = None;
    for (lane, offset) in (low..high).step_by(size).enumerate() {
        for index in offset / 4..=(offset + size.min(QUAD) - 1) / 4 {
            let bytes = if size < 4 { ((1 << size) - 1) << (offset % 4) } else { 15 };
            let earlier = by.touch(&mut cells[index % CELLS], lone, index, bytes);
            if let Some(earlier) = earlier
                && found.is_none()
            {
                found = Some((lane, index * 4, earlier));
            }
        }
    }
    found
}
