//! What the CTAs of grids that run together know of each other, through strong accesses to the same places.

use std::collections::HashMap;

/// What a CTA knows, by the CTAs' numbers: their clocks, and the clocks up to which proxy fences cover them.
#[derive(Clone, Default)]
struct Known {
    all: Vec<u32>,
    proxied: Vec<u32>,
}

impl Known {
    fn join(&mut self, other: &Known) {
        join(&mut self.all, &other.all);
        join(&mut self.proxied, &other.proxied);
    }
}

/// What was published at a place.
#[derive(Default)]
struct Published {
    known: Known,
    /// The grid whose threads published there after they had waited for the grids before it.
    waited: Option<u64>,
}

/// A CTA's own clock, the clock that its fences cover, and what it knows.
#[derive(Clone)]
struct CtaClock {
    own: u32,
    fenced: u32,
    knows: Known,
}

impl Default for CtaClock {
    fn default() -> Self {
        Self { own: 1, fenced: 0, knows: Known::default() }
    }
}

/// A CTA as others see it: its clock, and of its grid what it knows and what proxy fences cover for it.
pub(super) struct View<'c> {
    pub clock: u32,
    pub knows: &'c [u32],
    pub proxied: &'c [u32],
}

fn set(to: &mut Vec<u32>, number: usize, clock: u32) {
    if to.len() <= number {
        to.resize(number + 1, 0);
    }
    to[number] = to[number].max(clock);
}

fn join(to: &mut Vec<u32>, from: &[u32]) {
    if to.len() < from.len() {
        to.resize(from.len(), 0);
    }
    for (a, &b) in to.iter_mut().zip(from) {
        *a = (*a).max(b);
    }
}

/// Clocks of the grids of a run. A CTA's number here is its linear one after those of the grids before its own.
#[derive(Default)]
pub struct GridClocks {
    ctas: Vec<CtaClock>,
    /// By address: what was published there.
    published: HashMap<u64, Published>,
    /// First number of each grid.
    bases: Vec<(u64, usize)>,
    /// CTAs of all grids.
    count: usize,
    /// Number of the first grid, not 0.
    pub run: u32,
}

impl GridClocks {
    /// Adds the clocks of a grid of this number and so many CTAs.
    pub fn add(&mut self, id: u64, ctas: u64) {
        self.run = if self.run == 0 { (id as u32).max(1) } else { self.run };
        self.bases.push((id & 0xffff, self.count));
        self.count += ctas as usize;
    }

    /// Whether a CTA knows what one of another grid did up to `clock`.
    pub(super) fn knows(&self, (grid, cta): (u64, u64), (other, its): (u64, u64), clock: u32) -> bool {
        let known = self.ctas.get(self.base(grid) + cta as usize);
        let known = known.and_then(|c| c.knows.all.get(self.base(other) + its as usize));
        known.is_some_and(|&known| known >= clock)
    }

    fn base(&self, grid: u64) -> usize {
        self.bases.iter().find(|(id, _)| *id == grid).map_or(0, |(_, base)| *base)
    }

    /// The clock of a CTA and what it knows of the others of its grid.
    pub(super) fn of(&self, grid: u64, cta: u64) -> View<'_> {
        let nothing = View { clock: 1, knows: &[], proxied: &[] };
        if self.ctas.is_empty() {
            return nothing;
        }
        let base = self.base(grid);
        match self.ctas.get(base + cta as usize) {
            Some(c) => View {
                clock: c.own,
                knows: c.knows.all.get(base..).unwrap_or_default(),
                proxied: c.knows.proxied.get(base..).unwrap_or_default(),
            },
            None => nothing,
        }
    }

    fn number(&mut self, grid: u64, cta: u64) -> usize {
        let number = self.base(grid) + cta as usize;
        if self.ctas.len() <= number {
            self.ctas.resize_with(number + 1, CtaClock::default);
        }
        number
    }

    /// What the CTA did so far may be published.
    pub(super) fn fence(&mut self, grid: u64, cta: u64) {
        let number = self.number(grid, cta);
        let clock = &mut self.ctas[number];
        clock.fenced = clock.own;
        clock.own += 1;
    }

    /// Asynchronous engines may rely on what the CTA did and knows so far.
    pub(super) fn proxy_fence(&mut self, grid: u64, cta: u64) {
        let number = self.number(grid, cta);
        let clock = &mut self.ctas[number];
        let Known { all, proxied } = &mut clock.knows;
        join(proxied, all);
        set(proxied, number, clock.own);
        clock.own += 1;
    }

    /// The CTAs of a cluster have met at its barrier: each knows what all did and knew.
    pub(super) fn meet(&mut self, grid: u64, ctas: impl Iterator<Item = u64>) {
        let mut all = Known::default();
        let numbers: Vec<usize> = ctas.map(|cta| self.number(grid, cta)).collect();
        for &number in &numbers {
            let clock = &mut self.ctas[number];
            set(&mut all.all, number, clock.own);
            clock.fenced = clock.own;
            clock.own += 1;
            all.join(&clock.knows);
        }
        for number in numbers {
            self.ctas[number].knows.join(&all);
        }
    }

    /// Publishes at some places what the CTA knows and what its fences cover.
    pub(super) fn publish(&mut self, grid: u64, cta: u64, places: &[u64], with_fence: bool, waited: bool) {
        if with_fence {
            self.fence(grid, cta);
        }
        let number = self.number(grid, cta);
        let clock = &self.ctas[number];
        for place in places {
            let to = self.published.entry(*place).or_default();
            to.known.join(&clock.knows);
            set(&mut to.known.all, number, clock.fenced);
            if waited {
                to.waited = Some(grid);
            }
        }
    }

    /// Learns what was published at some places; whether by threads of the same grid that had waited for those before.
    pub(super) fn learn(&mut self, grid: u64, cta: u64, places: &[u64]) -> bool {
        let number = self.number(grid, cta);
        let mut waited = false;
        for place in places {
            if let Some(from) = self.published.get(place) {
                self.ctas[number].knows.join(&from.known);
                waited |= from.waited == Some(grid);
            }
        }
        waited
    }

    /// Forgets what a CTA that has exited knew.
    pub fn exited(&mut self, grid: u64, cta: u64) {
        let number = self.base(grid & 0xffff) + cta as usize;
        if let Some(c) = self.ctas.get_mut(number) {
            c.knows = Known::default();
        }
    }
}
