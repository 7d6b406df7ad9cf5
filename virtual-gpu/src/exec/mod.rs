//! Executes decoded kernels.

pub mod access;
pub mod alu;
pub mod asynchronous;
pub mod atomics;
pub mod barrier;
pub mod bulk;
pub mod bulk_groups;
pub mod calls;
pub mod cta;
pub mod engine;
pub mod hopper;
pub mod jobs;
pub mod matrix;
pub mod mbarrier;
pub mod memory;
pub mod parallel;
pub mod print;
pub mod register_count;
pub mod step;
pub mod warp;
pub mod warp_ops;
pub mod wgmma;
pub mod wgmma_registers;
pub mod wmma;

use crate::decode::program::{Place, Program};
use crate::findings::{Finding, Findings, Kind, Party};
use crate::memory::GlobalMemory;
use crate::options::{Checks, Order};
use cta::Cta;
use std::sync::Arc;

/// What an instruction leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next instruction.
    Next,
    /// Go to this instruction.
    Jump(u32),
    /// The split waits; the instruction is executed again when the wait is over, or passed if `pass`.
    Park { wait: warp::Wait, pass: bool },
    /// The split's set changed (divergence, exit): choose again.
    Reschedule,
    /// A fatal finding: the launch ends.
    Stop,
}

/// A launched grid.
#[derive(Clone)]
pub struct Grid {
    pub program: Arc<Program>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_shared: u32,
    pub parameters: Vec<u8>,
    pub id: u64,
    /// Next cluster to start, and the first that is not.
    pub next: u64,
    pub end: u64,
    pub finished: u64,
    pub started: u64,
    pub counters: crate::counters::Raw,
    /// Grids that this one waits for are not complete.
    pub waits_for_others: bool,
    /// Copies or memsets that nothing orders with it are queued.
    pub traced: bool,
    /// Other grids that nothing, or only a wait of this one, orders with it.
    pub overlaps: Vec<Overlap>,
    /// Where it stands among the other work of the device.
    pub position: crate::stream::Position,
    /// Registers of a thread at the start: known, or as far as PTX says.
    pub registers: u32,
    pub known_registers: Option<u32>,
}

/// A grid that another may overlap with.
#[derive(Clone)]
pub struct Overlap {
    pub id: u64,
    pub program: Arc<Program>,
    /// It comes before the other, which waits for it with `griddepcontrol.wait`.
    pub before: bool,
}

impl Grid {
    /// Something that the host does, as a grid of one CTA.
    pub fn of_host(id: u64, program: Arc<Program>, overlaps: Vec<Overlap>) -> Self {
        Grid {
            counters: crate::counters::Raw::new(&program),
            program,
            grid: [1; 3],
            block: [1; 3],
            cluster: [1; 3],
            dynamic_shared: 0,
            parameters: Vec::new(),
            id,
            next: 0,
            end: 0,
            finished: 0,
            started: 0,
            waits_for_others: false,
            traced: false,
            overlaps,
            position: Default::default(),
            registers: 0,
            known_registers: None,
        }
    }

    /// The grid (16 bits of its number) that nothing orders with this one, whose thread may have waited.
    pub fn overlap(&self, id: u64, waited: bool) -> Option<&Overlap> {
        self.overlaps.iter().find(|o| o.id & 0xffff == id && !(o.before && waited))
    }

    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub fn ctas(&self) -> u64 {
        self.grid.iter().map(|&x| u64::from(x)).product()
    }

    /// Clusters of the grid.
    pub fn clusters(&self) -> u64 {
        self.ctas() / u64::from(self.cluster_size())
    }

    /// Whether all CTAs have exited.
    pub fn complete(&self) -> bool {
        self.finished == self.ctas()
    }

    pub fn cluster_size(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// The cluster of the CTA of this linear number.
    pub fn cluster_of(&self, cta: u64) -> [u64; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        let id = [cta % x, cta / x % y, cta / (x * y)];
        std::array::from_fn(|i| id[i] / u64::from(self.cluster[i]))
    }
}

/// A small generator of random numbers (SplitMix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.next() >> 63 != 0
    }
}

/// Everything that an instruction may touch besides its own warp.
pub struct Context<'e> {
    pub memory: &'e mut GlobalMemory,
    /// Resident CTAs; the numbers are stable while a CTA lives.
    pub ctas: &'e mut Vec<Cta>,
    /// The executing warp's CTA.
    pub cta: usize,
    pub grid: &'e mut Grid,
    pub program: Arc<Program>,
    pub findings: &'e mut Findings,
    pub order: Order,
    pub checks: Checks,
    pub random: &'e mut Random,
    /// Counts events that show that the kernel gets on: stores, barriers, exits.
    pub progress: &'e mut u64,
    pub clock: u64,
    pub clocks: &'e mut crate::races::GridClocks,
    /// Copies in flight.
    pub jobs: &'e mut Vec<jobs::Job>,
    pub next_job: &'e mut u64,
    /// What `printf` on the device wrote.
    pub printed: &'e mut Vec<u8>,
}

impl Context<'_> {
    pub fn own(&mut self) -> &mut Cta {
        &mut self.ctas[self.cta]
    }

    pub fn place(&self, pc: u32) -> Place {
        self.program.place(pc)
    }

    /// Adds a finding at the warp's current instruction.
    #[cold]
    pub fn report(&mut self, kind: Kind, fatal: bool, at: At, message: String, other: Option<Party>) {
        if self.checks == Checks::None && !fatal {
            return;
        }
        let finding = Finding {
            kind,
            message,
            kernel: self.program.name.clone(),
            place: self.place(at.pc),
            cta: self.ctas[self.cta].id,
            warp: Some(at.warp),
            lane: at.lane,
            address: at.address,
            other,
            count: 1,
            fatal,
        };
        self.findings.add(finding);
    }
}

/// Where in a warp something was found.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub pc: u32,
    pub warp: u32,
    pub lane: Option<u32>,
    pub address: Option<u64>,
}

/// The lanes of a mask.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}
