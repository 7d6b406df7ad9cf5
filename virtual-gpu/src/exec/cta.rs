//! A resident CTA: shared memory, named barriers, warps.

use super::Grid;
use super::warp::{Local, Split, Warp};
use crate::decode::program::Special;
use crate::memory::{Bytes, SHARED_BASE};
use crate::registers::Registers;

/// One of the 16 named barriers.
#[derive(Clone, Default)]
pub struct NamedBarrier {
    /// Threads that have arrived in this phase.
    pub arrived: u32,
    /// Threads awaited, as the arrivals of this phase said.
    pub expected: u32,
    /// No count was given: all threads of the CTA that have not exited are awaited.
    pub whole: bool,
    pub phase: u64,
    /// Warps that arrived in this phase.
    pub warps: u64,
    /// Instruction of the first arrival.
    pub first: Option<(u32, u32)>,
    /// Reduction over this phase: count of true predicates and of threads.
    pub trues: u32,
    pub threads: u32,
    /// Result of the phase that ended.
    pub result: (u32, u32),
    /// What the arriving warps know, for races.
    pub clock: crate::races::Sync,
}

/// A CTA on a multiprocessor.
#[derive(Default)]
pub struct Cta {
    pub grid: usize,
    pub id: [u32; 3],
    pub linear: u64,
    /// Rank in the cluster, and the resident numbers of all its CTAs.
    pub rank: u32,
    pub peers: Vec<usize>,
    pub shared: Bytes,
    pub warps: Vec<Warp>,
    pub barriers: Vec<NamedBarrier>,
    /// Warps not exited.
    pub live_warps: u32,
    pub exited: bool,
    pub races: crate::races::SharedRaces,
    pub hopper: super::hopper::CtaState,
    /// The slot is in use.
    pub resident: bool,
    /// Multiprocessor.
    pub sm: u32,
}

impl Cta {
    /// Puts a new CTA into this place, reusing its memory.
    pub fn start(
        &mut self,
        grid_number: usize,
        grid: &Grid,
        linear: u64,
        sm: u32,
        num_sms: u32,
        check: bool,
    ) {
        let [gx, gy, _] = grid.grid.map(u64::from);
        self.grid = grid_number;
        self.id = [(linear % gx) as u32, (linear / gx % gy) as u32, (linear / (gx * gy)) as u32];
        self.linear = linear;
        self.sm = sm;
        self.exited = false;
        self.resident = true;
        let program = &grid.program;
        // Without dynamic shared memory nothing of the alignment after the static variables belongs to the CTA.
        let end = match grid.dynamic_shared {
            0 => program.static_shared,
            bytes => program.dynamic_shared_at + bytes,
        };
        let size = (SHARED_BASE + end) as usize;
        if self.shared.len() == size {
            self.shared.data.fill(0xff);
            self.shared.define_range(0, size, false);
        } else {
            self.shared = Bytes::new(size);
            self.shared.data.fill(0xff);
        }
        let threads = grid.threads();
        let num_warps = threads.div_ceil(32);
        self.live_warps = num_warps;
        self.barriers.clear();
        self.barriers.resize(16, NamedBarrier::default());
        self.warps.truncate(num_warps as usize);
        self.warps.resize_with(num_warps as usize, Warp::default);
        self.races.start(num_warps, size, self.rank, grid.cluster_size(), check);
        self.hopper = Default::default();
        for index in 0..num_warps {
            let mut warp = std::mem::take(&mut self.warps[index as usize]);
            self.start_warp(&mut warp, index, grid, num_sms);
            self.warps[index as usize] = warp;
        }
    }

    fn start_warp(&self, warp: &mut Warp, index: u32, grid: &Grid, num_sms: u32) {
        let program = &grid.program;
        let threads = grid.threads();
        let count = (threads - 32 * index).min(32);
        let mask = u32::MAX >> (32 - count);
        *warp = Warp {
            index,
            registers: Registers::new(program.slots, program.preds),
            splits: vec![Split {
                pc: 0,
                mask,
                wait: None,
                resumed: false,
                base: 0,
                top: program.frame_bytes,
                frames: Vec::new(),
            }],
            live: mask,
            existing: mask,
            local: Local::default(),
            max_registers: grid.registers,
            ..Warp::default()
        };
        warp.local.grow(program.frame_bytes as usize);
        for &(slot, value, wide) in &program.constants {
            warp.registers.fill(slot, value, wide);
        }
        let [bx, by, _] = grid.block;
        let cluster = grid.cluster;
        for &(slot, special) in &program.specials {
            let mut values = [0u32; 32];
            for (lane, value) in values.iter_mut().enumerate() {
                let thread = 32 * index + lane as u32;
                let tid = [thread % bx, thread / bx % by, thread / (bx * by)];
                let lane = lane as u32;
                *value = match special {
                    Special::Tid(axis) => tid[axis as usize],
                    Special::Ntid(axis) => grid.block[axis as usize],
                    Special::Ctaid(axis) => self.id[axis as usize],
                    Special::Nctaid(axis) => grid.grid[axis as usize],
                    Special::LaneId => lane,
                    Special::WarpId => index,
                    Special::NWarpId => threads.div_ceil(32),
                    Special::SmId => self.sm,
                    Special::NSmId => num_sms,
                    Special::GridId => grid.id as u32,
                    Special::ClusterId(axis) => self.id[axis as usize % 3] / cluster[axis as usize % 3],
                    Special::NClusterId(axis) => grid.grid[axis as usize % 3] / cluster[axis as usize % 3],
                    Special::ClusterCtaId(axis) => self.id[axis as usize % 3] % cluster[axis as usize % 3],
                    Special::ClusterNCtaId(axis) => cluster[axis as usize % 3],
                    Special::ClusterCtaRank => self.rank,
                    Special::ClusterNCtaRank => grid.cluster_size(),
                    Special::IsExplicitCluster => u32::from(grid.cluster_size() > 1),
                    Special::LaneMaskEq => 1 << lane,
                    Special::LaneMaskLt => (1 << lane) - 1,
                    Special::LaneMaskLe => u32::MAX >> (31 - lane),
                    Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
                    Special::LaneMaskGe => !((1 << lane) - 1),
                    Special::DynamicShared => grid.dynamic_shared,
                    Special::TotalShared => program.dynamic_shared_at + grid.dynamic_shared,
                    Special::Zero => 0,
                };
            }
            *warp.registers.m32(slot) = values;
            warp.registers.set_poison(slot, 0, u32::MAX);
        }
    }
}
