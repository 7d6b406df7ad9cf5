//! Vector clocks of warps and of what synchronises them.

/// What a warp knows of every actor: all of it, and what proxy fences cover.
#[derive(Clone, Default)]
pub(super) struct Clocks {
    pub(super) all: Vec<u32>,
    pub(super) proxied: Vec<u32>,
    /// It comes after a `griddepcontrol.wait`.
    pub(super) grids: bool,
}

pub(super) fn join(to: &mut Vec<u32>, from: &[u32]) {
    if to.len() < from.len() {
        to.resize(from.len(), 0);
    }
    for (a, &b) in to.iter_mut().zip(from) {
        *a = (*a).max(b);
    }
}

pub(super) fn set(to: &mut Vec<u32>, actor: usize, clock: u32) {
    if to.len() <= actor {
        to.resize(actor + 1, 0);
    }
    to[actor] = to[actor].max(clock);
}

impl Clocks {
    pub(super) fn join(&mut self, other: &Clocks) {
        join(&mut self.all, &other.all);
        join(&mut self.proxied, &other.proxied);
        self.grids |= other.grids;
    }
}

/// The clock of a synchronisation object with phases.
#[derive(Clone, Default)]
pub struct Sync {
    pub(super) gathering: Clocks,
    pub(super) done: Clocks,
}

impl Sync {
    /// The phase ends: what was gathered is what waiters learn.
    pub fn complete(&mut self) {
        let gathered = std::mem::take(&mut self.gathering);
        self.done.join(&gathered);
    }

    /// Asynchronous copies of this number by a warp's cp.async have arrived. Like the warp's own writes they are not
    /// yet fenced for other proxies.
    pub fn join_copies(&mut self, (actor, number): (usize, u32)) {
        set(&mut self.gathering.all, actor, number);
    }

    pub fn join_job(&mut self, job: &JobClock) {
        for &(actor, clock) in &job.done {
            set(&mut self.gathering.all, actor, clock);
            set(&mut self.gathering.proxied, actor, clock);
        }
    }
}

/// Who set up an mbarrier, and since when a fence has shown that to asynchronous engines.
#[derive(Clone, Copy, Default)]
pub struct SetUp {
    pub(super) actor: usize,
    pub(super) fenced: Option<u32>,
}

/// What those who learn of a copy's end learn.
#[derive(Clone, Default)]
pub struct JobClock {
    pub(super) done: Vec<(usize, u32)>,
}
