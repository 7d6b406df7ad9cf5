//! What a profiler counts, exactly.
//!
//! Everything is counted where its instruction is executed, asynchronous work too, so the counts are the same
//! in every run and every order, but for loops that poll: how often these go round depends on the order. Not
//! counted: local memory (what is spilled is up to ptxas), prefetches, and what the L1 and L2 caches save.

use crate::decode::program::{Class, Place, Program};
use crate::exec::memory::{Reach, Shape};

/// Traffic between a multiprocessor and global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests: one a warp instruction (for `cp.async` too), one a bulk or tensor copy.
    pub requests: u64,
    /// Bytes asked for. Two lanes that read the same bytes ask twice; the part of a tensor copy's box outside
    /// the tensor and the bytes that `cp.async` fills with zeros are not read and not counted; a multicast
    /// copy reads once.
    pub bytes: u64,
    /// 32-byte sectors that each request touched, summed.
    pub sectors: u64,
    /// Sectors that as many bytes, side by side from a sector's start, would have needed in each request.
    /// Never more than `sectors`: their difference is what alignment and strides waste.
    pub sectors_least: u64,
}

impl Traffic {
    fn add(&mut self, o: &Traffic) {
        self.requests += o.requests;
        self.bytes += o.bytes;
        self.sectors += o.sectors;
        self.sectors_least += o.sectors_least;
    }

    fn request(&mut self, bytes: u64, sectors: u64) {
        self.requests += 1;
        self.bytes += bytes;
        self.sectors += sectors;
        self.sectors_least += bytes.div_ceil(32).min(sectors);
    }
}

/// Counts of one instruction of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstructionCounts {
    /// Warp instructions executed (with at least one lane or without).
    pub warps: u64,
    /// Thread instructions executed.
    pub threads: u64,
    /// All reads of global memory: by threads, `cp.async`, bulk and tensor copies. Constant memory is not
    /// among them.
    pub global_loads: Traffic,
    /// All writes of global memory: by threads, bulk and tensor copies. Atomics and reductions are here,
    /// their bytes once.
    pub global_stores: Traffic,
    /// The part of `global_loads` that `cp.async`, bulk and tensor copies made.
    pub async_loads: Traffic,
    /// The part of `global_stores` that bulk and tensor copies and reductions made.
    pub async_stores: Traffic,
    /// Requests to shared memory: one a warp instruction (`ldmatrix`, `cp.async` and accesses to another CTA
    /// of the cluster too), one a `wgmma`. Bulk and tensor copies are not among them: they write rows one
    /// behind the other, whole, and meet no bank conflict.
    pub shared_requests: u64,
    /// Bytes that the requests to shared memory asked for; of `wgmma`, its operands in shared memory, once
    /// each.
    pub shared_bytes: u64,
    /// Passes over the 32 banks of 4 bytes that the requests to shared memory took: a pass gives one word of
    /// each bank.
    pub shared_wavefronts: u64,
    /// Passes that they would have taken without bank conflicts. The layouts of `wgmma` descriptors have
    /// none: a core matrix (8 rows of 16 bytes) takes one pass in each of them.
    pub shared_wavefronts_least: u64,
    /// Multiply-accumulates on the tensor cores.
    pub tensor_macs: u64,
}

/// Counters of a running grid.
#[derive(Clone, Default)]
pub struct Raw {
    /// Of each instruction.
    pub of: Vec<InstructionCounts>,
    /// Warp instructions in all.
    pub instructions: u64,
}

impl Raw {
    /// Zeros for a program.
    pub fn new(program: &Program) -> Self {
        Self { of: vec![InstructionCounts::default(); program.code.len()], instructions: 0 }
    }

    /// Adds the counts of other CTAs of the grid.
    pub fn add(&mut self, other: &Raw) {
        self.instructions += other.instructions;
        self.of.iter_mut().zip(&other.of).for_each(|(to, from)| to.add(from));
    }

    /// One warp instruction with this many active lanes.
    #[inline(always)]
    pub fn count(&mut self, pc: u32, active: u32) {
        let c = &mut self.of[pc as usize];
        c.warps += 1;
        c.threads += u64::from(active.count_ones());
        self.instructions += 1;
    }

    /// A global access of a warp's lanes.
    #[inline(always)]
    pub fn global(&mut self, pc: u32, reach: &Reach, write: bool) {
        let c = &mut self.of[pc as usize];
        let (bytes, sectors) = requested(reach);
        let traffic = if write { &mut c.global_stores } else { &mut c.global_loads };
        traffic.request(bytes, sectors);
    }

    /// What `cp.async` reads of lanes that copy whole units, and the `(address, bytes)` of those that copy
    /// less.
    pub fn copied(&mut self, pc: u32, whole: &[Reach], less: &[(u64, u64)]) {
        let (mut bytes, mut sectors) = (0, 0);
        for reach in whole {
            let (b, s) = requested(reach);
            (bytes, sectors) = (bytes + b, sectors + s);
        }
        let mut seen: Vec<u64> = Vec::new();
        for &(address, length) in less {
            bytes += length;
            // At most 16 aligned bytes: one sector.
            if !seen.contains(&(address / 32)) {
                seen.push(address / 32);
            }
        }
        let c = &mut self.of[pc as usize];
        c.global_loads.request(bytes, sectors + seen.len() as u64);
        c.async_loads.request(bytes, sectors + seen.len() as u64);
    }

    /// A bulk or tensor copy of these `(address, bytes)` of global memory, in the order of the copy.
    pub fn bulk(&mut self, pc: u32, runs: impl Iterator<Item = (u64, u32)>, write: bool) {
        let (mut bytes, mut sectors, mut last) = (0, 0, None);
        for (address, length) in runs.filter(|(_, length)| *length > 0) {
            let (low, high) = (address / 32, (address + u64::from(length) - 1) / 32);
            bytes += u64::from(length);
            // A swizzle cuts rows; the pieces of a sector are one.
            sectors += high - low + u64::from(last != Some(low));
            last = Some(high);
        }
        let c = &mut self.of[pc as usize];
        let both = match write {
            true => [&mut c.global_stores, &mut c.async_stores],
            false => [&mut c.global_loads, &mut c.async_loads],
        };
        both.into_iter().for_each(|traffic| traffic.request(bytes, sectors));
    }

    /// A shared access.
    #[inline(always)]
    pub fn shared(&mut self, pc: u32, reach: &Reach) {
        let c = &mut self.of[pc as usize];
        c.shared_requests += 1;
        c.shared_bytes += u64::from(reach.mask.count_ones()) * u64::from(reach.size);
        let (taken, least) = match (reach.shape, reach.size) {
            (Shape::Contiguous, ..8) => (1, 1),
            (Shape::Contiguous, 8) => (2, 2),
            (Shape::Contiguous, 16) => (4, 4),
            _ => wavefronts(&reach.offsets, reach.mask, reach.size),
        };
        c.shared_wavefronts += taken;
        c.shared_wavefronts_least += least;
    }

    /// Multiply-adds of a matrix instruction.
    pub fn tensor(&mut self, pc: u32, macs: u64) {
        self.of[pc as usize].tensor_macs += macs;
    }

    /// The operands of a `wgmma` in shared memory.
    pub fn operands(&mut self, pc: u32, bytes: u64) {
        let c = &mut self.of[pc as usize];
        c.shared_requests += 1;
        c.shared_bytes += bytes;
        c.shared_wavefronts += bytes / 128;
        c.shared_wavefronts_least += bytes / 128;
    }
}

/// Bytes that the lanes ask for, and the sectors that they touch.
#[inline(always)]
fn requested(reach: &Reach) -> (u64, u64) {
    let sectors = match reach.shape {
        Shape::Uniform => 1,
        Shape::Contiguous => (reach.offsets[31] / 32 - reach.offsets[0] / 32) as u64 + 1,
        Shape::Any => distinct(&reach.offsets, reach.mask, 5),
    };
    (u64::from(reach.mask.count_ones()) * u64::from(reach.size), sectors)
}

/// Distinct values of `offset >> shift`.
fn distinct(offsets: &[usize; 32], mask: u32, shift: u32) -> u64 {
    if mask == u32::MAX {
        // In ascending order, the usual case, changes are what counts.
        let mut changes = 1;
        let mut ordered = true;
        for l in 1..32 {
            let (a, b) = (offsets[l - 1] >> shift, offsets[l] >> shift);
            changes += u64::from(a != b);
            ordered &= a <= b;
        }
        if ordered {
            return changes;
        }
    }
    let mut seen = [usize::MAX; 32];
    let mut count = 0;
    let mut rest = mask;
    while rest != 0 {
        let value = offsets[rest.trailing_zeros() as usize] >> shift;
        rest &= rest - 1;
        if !seen[..count].contains(&value) {
            seen[count] = value;
            count += 1;
        }
    }
    count as u64
}

/// Passes over the 32 banks of 4 bytes: lanes are served a quarter (16 bytes), half (8 bytes) or whole warp at a time,
/// and each pass gives one word of each bank.
fn wavefronts(offsets: &[usize; 32], mask: u32, size: u32) -> (u64, u64) {
    let (group, words) = match size {
        16.. => (8, 4),
        8 => (16, 2),
        _ => (32, 1),
    };
    let (mut taken, mut least) = (0, 0);
    for first in (0..32).step_by(group) {
        let part = mask >> first & (u64::MAX >> (64 - group)) as u32;
        if part == 0 {
            continue;
        }
        let bank = |l: usize| offsets[first + l] / 4 % 32;
        // The usual case: lane after lane, or all lanes at one word.
        let base = first + part.trailing_zeros() as usize;
        let mut in_order = true;
        let mut same = true;
        let mut rest = part;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let delta = offsets[first + l].wrapping_sub(offsets[base]);
            in_order &= delta / 4 == (first + l - base) * words;
            same &= delta == 0;
        }
        least += 1;
        if in_order || same || no_conflict(offsets, first, part, size) {
            taken += 1;
            continue;
        }
        let mut depth = [0u8; 32];
        let mut seen: [usize; 32] = [usize::MAX; 32];
        let mut count = 0;
        let mut rest = part;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let word = offsets[first + l] / 4;
            if !seen[..count].contains(&word) {
                seen[count] = word;
                count += 1;
                for w in 0..words {
                    depth[(bank(l) + w) % 32] += 1;
                }
            }
        }
        taken += u64::from(*depth.iter().max().unwrap_or(&1));
    }
    (taken, least)
}

/// Whether lanes of at least 4 bytes each fall on different banks.
fn no_conflict(offsets: &[usize; 32], first: usize, part: u32, size: u32) -> bool {
    if !matches!(size, 4 | 8 | 16) {
        return false;
    }
    let (mut banks, mut rest) = (0u32, part);
    while rest != 0 {
        let l = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        banks |= 1 << (offsets[first + l] % 128 / size as usize);
    }
    banks.count_ones() == part.count_ones()
}

/// Totals of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Kernel.
    pub kernel: String,
    /// Launches summed here.
    pub launches: u64,
    /// Sums over all instructions.
    pub total: InstructionCounts,
    /// Thread instructions by class, in the order of [`class_names`](Self::class_names).
    pub by_class: [u64; Class::COUNT],
    /// Each executed instruction's place and counts, in program order.
    pub lines: Vec<(Place, InstructionCounts)>,
}

impl InstructionCounts {
    /// Adds the counts of another instruction.
    pub fn add(&mut self, o: &InstructionCounts) {
        self.warps += o.warps;
        self.threads += o.threads;
        self.global_loads.add(&o.global_loads);
        self.global_stores.add(&o.global_stores);
        self.async_loads.add(&o.async_loads);
        self.async_stores.add(&o.async_stores);
        self.shared_requests += o.shared_requests;
        self.shared_bytes += o.shared_bytes;
        self.shared_wavefronts += o.shared_wavefronts;
        self.shared_wavefronts_least += o.shared_wavefronts_least;
        self.tensor_macs += o.tensor_macs;
    }

    /// Loads and stores of global memory together.
    pub fn global(&self) -> Traffic {
        let mut sum = self.global_loads;
        sum.add(&self.global_stores);
        sum
    }
}

impl KernelCounters {
    /// What `by_class` counts, in its order.
    pub fn class_names() -> [&'static str; Class::COUNT] {
        Class::NAMES
    }

    /// Adds a finished grid's counters.
    pub fn add(&mut self, program: &Program, raw: &Raw) {
        self.launches += 1;
        if self.lines.is_empty() {
            self.lines = program
                .code
                .iter()
                .map(|i| (program.places.get(i.place), InstructionCounts::default()))
                .collect();
        }
        for ((inst, counts), line) in program.code.iter().zip(&raw.of).zip(&mut self.lines) {
            self.by_class[inst.class as usize] += counts.threads;
            self.total.add(counts);
            line.1.add(counts);
        }
    }
}
