//! Runs grids: which CTAs are resident, whose turn it is, deadlock.

mod report;

use super::cta::Cta;
use super::step::{self, Outcome};
use super::warp::{Wait, Warp};
use super::{Context, Grid, Random};
use crate::description::Description;
use crate::findings::Findings;
use crate::memory::GlobalMemory;
use crate::options::{Checks, Options, Order};
use crate::races::GridClocks;

/// Warp instructions a warp runs before another has its turn.
const QUANTUM: u32 = 512;
/// Turns of a CTA without its end after which others are started beside it.
const PATIENT_TURNS: u32 = 64;
/// Warp instructions without progress after which copies in flight are done, since somebody polls for them.
const POLLING: u64 = 20_000;

/// State of a device's execution.
pub struct Engine {
    pub ctas: Vec<Cta>,
    pub grids: Vec<Grid>,
    pub random: Random,
    pub clock: u64,
    /// Copies in flight.
    pub jobs: Vec<super::jobs::Job>,
    pub next_job: u64,
    /// What `printf` on the device wrote.
    pub printed: Vec<u8>,
    /// What the CTAs of these grids, and of earlier ones that nothing orders with them, know of each other.
    pub clocks: GridClocks,
}

/// Where grids come from while others run.
pub trait Source {
    /// Adds the grids that may begin now; `forced` where nothing else gets on.
    fn more(
        &mut self,
        memory: &mut GlobalMemory,
        grids: &mut Vec<Grid>,
        clocks: &mut GridClocks,
        forced: bool,
    );
}

/// No more grids.
impl Source for () {
    fn more(&mut self, _: &mut GlobalMemory, _: &mut Vec<Grid>, _: &mut GridClocks, _: bool) {}
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All grids are complete.
    Complete,
    /// A fatal finding.
    Fault,
}

impl Engine {
    pub fn new(seed: u64) -> Self {
        Self {
            ctas: Vec::new(),
            grids: Vec::new(),
            random: Random(seed),
            clock: 0,
            jobs: Vec::new(),
            next_job: 0,
            printed: Vec::new(),
            clocks: GridClocks::default(),
        }
    }

    /// How many CTAs of a grid fit the device at once.
    pub fn capacity(grid: &Grid, description: &Description) -> u64 {
        let shared = grid.program.dynamic_shared_at + grid.dynamic_shared;
        let per_sm = description.resident_ctas(grid.threads(), shared, grid.known_registers).max(1);
        u64::from(per_sm) * u64::from(description.num_sms)
    }

    /// Starts the next cluster of a grid; false if there is none left.
    fn start_cluster(&mut self, number: usize, description: &Description, check: bool) -> bool {
        let grid = &mut self.grids[number];
        let size = grid.cluster_size();
        let [cx, cy, cz] = grid.cluster;
        let [gx, gy] = [0, 1].map(|i| grid.grid[i] / grid.cluster[i]);
        if grid.next >= grid.end {
            return false;
        }
        let n = grid.next;
        grid.next += 1;
        let origin = [
            (n % u64::from(gx)) as u32 * cx,
            (n / u64::from(gx) % u64::from(gy)) as u32 * cy,
            (n / (u64::from(gx) * u64::from(gy))) as u32 * cz,
        ];
        let mut slots = Vec::new();
        for _ in 0..size {
            let free = (0..self.ctas.len()).find(|&i| !self.ctas[i].resident && !slots.contains(&i));
            slots.push(free.unwrap_or_else(|| {
                self.ctas.push(Cta::default());
                self.ctas.len() - 1
            }));
        }
        let sm = (n % u64::from(description.num_sms)) as u32;
        for (rank, &slot) in slots.iter().enumerate() {
            let rank = rank as u32;
            let at = [rank % cx, rank / cx % cy, rank / (cx * cy)];
            let id: [u64; 3] = std::array::from_fn(|i| u64::from(origin[i] + at[i]));
            let linear = id[0] + u64::from(grid.grid[0]) * (id[1] + u64::from(grid.grid[1]) * id[2]);
            let mut cta = std::mem::take(&mut self.ctas[slot]);
            cta.rank = rank;
            cta.peers = slots.clone();
            cta.start(number, grid, linear, sm, description.num_sms, check);
            self.ctas[slot] = cta;
            grid.started += 1;
        }
        true
    }

    /// Runs all grids to their end, and those that the source adds in the meantime. They overlap but where
    /// one waits for another.
    pub fn run(
        &mut self,
        memory: &mut GlobalMemory,
        findings: &mut Findings,
        options: &Options,
        description: &Description,
        source: &mut dyn Source,
    ) -> Ended {
        let mut clocks = std::mem::take(&mut self.clocks);
        let ended = self.run_with(&mut clocks, memory, findings, options, description, source);
        self.clocks = clocks;
        ended
    }

    fn run_with(
        &mut self,
        clocks: &mut GridClocks,
        memory: &mut GlobalMemory,
        findings: &mut Findings,
        options: &Options,
        description: &Description,
        source: &mut dyn Source,
    ) -> Ended {
        let check = options.checks == Checks::All;
        let mut capacity: Vec<u64> = Vec::new();
        // CTAs of each grid taking turns; more join when those here do not end.
        let mut window = match options.order {
            Order::Random(_) => 1 + self.random.below(6),
            _ => 1,
        };
        let mut turns_without_end = 0u32;
        let mut progress = 0u64;
        let (mut last_progress, mut idle, mut next_idle) = (0u64, 0u64, POLLING);
        let mut turn = 0usize;
        loop {
            capacity.extend(self.grids[capacity.len()..].iter().map(|g| Self::capacity(g, description)));
            // Keep the window full, as occupancy allows.
            for number in 0..self.grids.len() {
                let waits = self.before(number).next().is_some();
                self.grids[number].waits_for_others = waits;
                while self.resident(number) < window as u64
                    && self.can_start(number, &capacity)
                    && self.start_cluster(number, description, check)
                {}
            }
            let resident: Vec<usize> = (0..self.ctas.len()).filter(|&i| self.ctas[i].resident).collect();
            if resident.is_empty() {
                while !self.jobs.is_empty() {
                    self.perform_job(memory, options, &mut progress);
                }
                return Ended::Complete;
            }
            let index = match options.order {
                Order::Eager => turn % resident.len(),
                Order::Lazy => resident.len() - 1 - turn % resident.len(),
                Order::Random(_) => self.random.below(resident.len()),
            };
            turn += 1;
            if !self.jobs.is_empty()
                && (matches!(options.order, Order::Random(_)) && self.random.below(3) == 0 || idle > POLLING)
            {
                self.perform_job(memory, options, &mut progress);
            }
            if idle > next_idle {
                // Somebody may poll for what is still queued.
                source.more(memory, &mut self.grids, clocks, true);
                next_idle = idle + POLLING;
            }
            let cta = resident[index];
            let before = progress;
            match self.run_cta(cta, memory, findings, options, &mut progress, clocks) {
                CtaOutcome::Fault => return Ended::Fault,
                CtaOutcome::Finished => {
                    turns_without_end = 0;
                    let grid = self.ctas[cta].grid;
                    clocks.exited(self.grids[grid].id, self.ctas[cta].linear);
                    self.retire(cta);
                    if self.grids[grid].complete() && self.grids.iter().any(|g| !g.complete()) {
                        source.more(memory, &mut self.grids, clocks, false);
                    }
                }
                CtaOutcome::Running => {
                    turns_without_end += 1;
                    if turns_without_end > PATIENT_TURNS * resident.len() as u32 {
                        window = (resident.len() * 2).max(window);
                        turns_without_end = 0;
                    }
                }
                CtaOutcome::Parked => {
                    // Nothing to do here: let others start, and look whether anything can run at all.
                    if resident.len() >= window {
                        window = resident.len() + 1;
                    }
                    if progress == before && self.all_stuck(&resident) {
                        // The last legal moment for copies in flight.
                        if !self.jobs.is_empty() {
                            self.perform_job(memory, options, &mut progress);
                        } else if !(0..capacity.len()).any(|n| self.can_start(n, &capacity)) {
                            source.more(memory, &mut self.grids, clocks, true);
                            if self.grids.len() == capacity.len() {
                                self.report_deadlock(findings);
                                return Ended::Fault;
                            }
                        }
                    }
                }
            }
            if self.grids.iter().map(|g| g.counters.instructions).sum::<u64>() > options.limit {
                self.report_livelock(cta, findings, format!("more than {} warp instructions", options.limit));
                return Ended::Fault;
            }
            if progress == last_progress {
                idle += u64::from(QUANTUM);
                if idle > options.patience {
                    let what = "warp instructions without a store, a barrier or an exit";
                    self.report_livelock(cta, findings, format!("{} {what}", options.patience));
                    return Ended::Fault;
                }
            } else {
                (last_progress, idle, next_idle) = (progress, 0, POLLING);
            }
        }
    }

    /// The grids not complete that a grid waits for with `griddepcontrol.wait`.
    fn before(&self, number: usize) -> impl Iterator<Item = usize> {
        let before = self.grids[number].overlaps.iter().filter(|o| o.before);
        before.filter_map(|o| self.grids.iter().position(|g| g.id == o.id && !g.complete()))
    }

    /// Whether the grids that wait for this one may begin: every CTA has exited or launched its dependents.
    fn launches_dependents(&self, number: usize) -> bool {
        let grid = &self.grids[number];
        grid.started == grid.ctas()
            && self.ctas.iter().filter(|c| c.resident && c.grid == number && !c.exited).all(|c| {
                let all = u32::MAX >> (32 - c.warps.len().clamp(1, 32));
                let gone = c.warps.iter().filter(|w| w.finished()).fold(0u64, |m, w| m | 1 << w.index);
                (c.hopper.launched_dependents | gone) as u32 & all == all
            })
    }

    /// CTAs of a grid that are resident.
    fn resident(&self, number: usize) -> u64 {
        self.ctas.iter().filter(|c| c.resident && c.grid == number).count() as u64
    }

    /// Whether a cluster of a grid is left to start, may begin, and fits beside what is resident.
    fn can_start(&self, number: usize, capacity: &[u64]) -> bool {
        let grid = &self.grids[number];
        if grid.next >= grid.end || !self.before(number).all(|n| self.launches_dependents(n)) {
            return false;
        }
        let size = u64::from(grid.cluster_size());
        if self.grids.len() == 1 {
            return self.resident(0) + size <= capacity[0].max(size);
        }
        // Each CTA takes its part of the device.
        let taken = |n: usize| self.resident(n) as f64 / capacity[n] as f64;
        let all: f64 = (0..capacity.len()).map(taken).sum();
        all == 0.0 || all + size as f64 / capacity[number] as f64 <= 1.0 + 1e-9
    }

    /// Does one copy in flight: the oldest, or any in random order.
    fn perform_job(&mut self, memory: &mut GlobalMemory, options: &Options, progress: &mut u64) {
        let at = match options.order {
            Order::Random(_) => self.random.below(self.jobs.len()),
            _ => 0,
        };
        let mut job = self.jobs.remove(at);
        super::jobs::perform(memory, &mut self.ctas, &mut job);
        *progress += 1;
    }

    fn all_stuck(&self, resident: &[usize]) -> bool {
        resident.iter().all(|&c| {
            let cta = &self.ctas[c];
            cta.warps.iter().all(|w| w.splits.iter().all(|s| s.wait.is_some() && !self.ready(cta, w, s.wait)))
        })
    }

    /// Whether a wait is over.
    fn ready(&self, cta: &Cta, _warp: &Warp, wait: Option<Wait>) -> bool {
        match wait {
            None => true,
            Some(Wait::Barrier { id, phase }) => cta.barriers[id as usize].phase != phase,
            // Woken by a merge, an exit, or the last warp of the warpgroup.
            Some(Wait::Members { .. } | Wait::Warpgroup { .. }) => false,
            Some(Wait::Cluster { phase }) => self.ctas[cta.peers[0]].hopper.cluster.phase != phase,
            Some(Wait::Mbarrier { cta, address, parity, state }) => {
                let barrier = self.ctas[cta].hopper.mbarriers.get(&address);
                barrier.is_none_or(|b| super::mbarrier::is_over(b, parity, state))
            }
            Some(Wait::GridDependency) => !self.grids[cta.grid].waits_for_others,
            Some(Wait::Registers { count }) => cta.hopper.registers.free >= i64::from(count),
        }
    }

    /// Frees the places of a cluster whose CTAs have all exited.
    fn retire(&mut self, cta: usize) {
        self.ctas[cta].exited = true;
        let grid = self.ctas[cta].grid;
        self.grids[grid].finished += 1;
        let peers = self.ctas[cta].peers.clone();
        if peers.iter().all(|&p| self.ctas[p].exited) {
            for p in peers {
                self.ctas[p].resident = false;
            }
        }
    }

    fn run_cta(
        &mut self,
        number: usize,
        memory: &mut GlobalMemory,
        findings: &mut Findings,
        options: &Options,
        progress: &mut u64,
        clocks: &mut GridClocks,
    ) -> CtaOutcome {
        if self.ctas[number].exited {
            return CtaOutcome::Parked;
        }
        let num_warps = self.ctas[number].warps.len();
        let mut ran = false;
        let mut order: Vec<usize> = (0..num_warps).collect();
        match options.order {
            Order::Eager => {}
            Order::Lazy => order.reverse(),
            Order::Random(_) => {
                for i in (1..num_warps).rev() {
                    order.swap(i, self.random.below(i + 1));
                }
            }
        }
        for index in order {
            // Wake what is ready.
            let mut warp = std::mem::take(&mut self.ctas[number].warps[index]);
            if warp.finished() {
                self.ctas[number].warps[index] = warp;
                continue;
            }
            let mut runnable = false;
            let mut states: Vec<bool> = Vec::new();
            if warp.splits.iter().any(|s| s.wait.is_some()) {
                states = warp.splits.iter().map(|s| self.ready(&self.ctas[number], &warp, s.wait)).collect();
            }
            for (i, split) in warp.splits.iter_mut().enumerate() {
                if split.wait.is_some() && states[i] {
                    split.wait = None;
                }
                runnable |= split.wait.is_none();
            }
            if !runnable && release_warp_syncs(&mut warp, &self.grids[self.ctas[number].grid].program) {
                runnable = true;
            }
            if !runnable {
                self.ctas[number].warps[index] = warp;
                continue;
            }
            ran = true;
            let mut budget = match options.order {
                Order::Random(_) => 1 + self.random.below(200) as u32,
                _ => QUANTUM,
            };
            let grid = self.ctas[number].grid;
            let program = self.grids[grid].program.clone();
            let mut ctx = Context {
                memory,
                ctas: &mut self.ctas,
                cta: number,
                grid: &mut self.grids[grid],
                program,
                findings,
                order: options.order,
                checks: options.checks,
                random: &mut self.random,
                progress,
                clock: self.clock,
                clocks,
                jobs: &mut self.jobs,
                next_job: &mut self.next_job,
                printed: &mut self.printed,
            };
            let outcome = step::run(&mut ctx, &mut warp, &mut budget);
            if outcome == Outcome::Finished {
                ctx.own().live_warps -= 1;
                let freed = i64::from(warp.max_registers) * 32;
                ctx.own().hopper.registers.free += freed;
                super::barrier::warp_exited(&mut ctx);
                let leader = ctx.own().peers[0];
                super::hopper::cluster_complete(&mut ctx, leader);
                super::asynchronous::check_at_exit(&mut ctx, &warp);
                super::wgmma::check_at_exit(&mut ctx, &warp);
                if ctx.own().live_warps == 0 {
                    super::mbarrier::check_at_exit(&mut ctx, &warp);
                    super::register_count::check_at_exit(&mut ctx, &warp);
                }
            }
            self.ctas[number].warps[index] = warp;
            if outcome == Outcome::Fault {
                return CtaOutcome::Fault;
            }
        }
        if self.ctas[number].live_warps == 0 {
            CtaOutcome::Finished
        } else if ran {
            CtaOutcome::Running
        } else {
            CtaOutcome::Parked
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CtaOutcome {
    Running,
    Parked,
    Finished,
    Fault,
}

/// `bar.warp.sync` may be executed at different places by the lanes of one mask: if all of them are parked at such
/// instructions, they go on together.
fn release_warp_syncs(warp: &mut Warp, program: &crate::decode::program::Program) -> bool {
    use crate::decode::program::Op;
    let at_sync = |pc: u32| matches!(program.code[pc as usize].op, Op::WarpSync { .. });
    let mut together = 0u32;
    let mut members = None;
    for split in &warp.splits {
        if let Some(Wait::Members { members: m }) = split.wait
            && at_sync(split.pc)
            && *members.get_or_insert(m) == m
        {
            together |= split.mask;
        }
    }
    let Some(members) = members else { return false };
    if members & warp.live & !together != 0 {
        return false;
    }
    for split in &mut warp.splits {
        if split.wait == Some(Wait::Members { members }) && at_sync(split.pc) {
            split.wait = None;
            split.pc += 1;
        }
    }
    warp.sync_round += 1;
    true
}
