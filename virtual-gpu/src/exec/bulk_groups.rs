//! Bulk groups: which copies a wait completes, and from when on others may know of their writes.

use super::jobs::{Run, perform, read_source};
use super::memory::Action;
use super::warp::Warp;
use super::{At, Context, Flow, lanes};
use crate::races::{self, Copier};

/// Bulk groups of a warp's threads.
#[derive(Default)]
pub struct BulkGroups {
    pub(super) open: Vec<(u32, u64)>,
    groups: Vec<(u32, Vec<(u32, u64)>)>,
    /// Writes that other CTAs may not know of yet.
    pub(super) writes: Vec<Write>,
}

/// A write to global memory that is not waited for.
pub(super) struct Write {
    pub id: u64,
    pub at: At,
    pub runs: Vec<Run>,
    pub action: Action,
}

impl BulkGroups {
    pub fn commit(&mut self, mask: u32) {
        let (mine, rest): (Vec<_>, Vec<_>) = self.open.drain(..).partition(|(lane, _)| mask >> lane & 1 != 0);
        self.open = rest;
        self.groups.push((mask, mine));
    }

    /// Whether a copy has been neither waited for nor even committed.
    pub fn unfinished(&self) -> bool {
        !self.open.is_empty() || self.groups.iter().any(|(_, jobs)| !jobs.is_empty())
    }
}

/// The global side of a copy's runs, neighbours joined.
pub(super) fn pieces(runs: &[Run]) -> impl Iterator<Item = (u64, u32)> {
    let mut rest = runs.iter().filter_map(|&(global, _, length)| Some((global?, length))).peekable();
    std::iter::from_fn(move || {
        let (start, mut length) = rest.next()?;
        while let Some((_, more)) = rest.next_if(|&(next, _)| next == start + u64::from(length)) {
            length += more;
        }
        Some((start, length))
    })
}

/// Writes that are complete are the CTA's own from now on, for its fences to publish.
fn complete_writes(ctx: &mut Context<'_>, warp: &mut Warp, is_over: impl Fn(&Write, &BulkGroups) -> bool) {
    let writes = std::mem::take(&mut warp.bulk.writes);
    let (over, left): (Vec<_>, Vec<_>) = writes.into_iter().partition(|w| is_over(w, &warp.bulk));
    warp.bulk.writes = left;
    for write in over {
        races::global_copied(ctx, write.at, pieces(&write.runs), write.action, Copier::Engine);
    }
}

/// `cp.async.bulk.wait_group`: each lane's groups but the last `pending` are done; with `read` only their sources read.
pub fn wait(ctx: &mut Context<'_>, warp: &mut Warp, pending: u32, read: bool, active: u32) -> Flow {
    let mut later = [0u32; 32];
    let mut done: Vec<u64> = Vec::new();
    for (mask, jobs) in warp.bulk.groups.iter_mut().rev() {
        let mut over = 0u32;
        for lane in lanes(*mask & active) {
            if later[lane] >= pending {
                over |= 1 << lane;
            }
            later[lane] += 1;
        }
        jobs.retain(|&(lane, id)| {
            let finished = over >> lane & 1 != 0;
            if finished {
                done.push(id);
            }
            !finished
        });
    }
    let keep = warp.bulk.groups.iter().position(|(_, j)| !j.is_empty()).unwrap_or(warp.bulk.groups.len());
    warp.bulk.groups.drain(..keep);
    done.sort_unstable();
    if !read && !warp.bulk.writes.is_empty() {
        complete_writes(ctx, warp, |write, bulk| {
            let open = bulk.open.iter().any(|&(_, id)| id == write.id);
            let all = pending == 0 && !open && write.at.lane.is_some_and(|lane| active >> lane & 1 != 0);
            all || done.binary_search(&write.id).is_ok()
        });
    }
    for id in done {
        races::job_waited(ctx, warp, id);
        let Some(at) = ctx.jobs.iter().position(|j| j.id == id) else { continue };
        if read {
            read_source(ctx.ctas, &mut ctx.jobs[at]);
        } else {
            let mut job = ctx.jobs.remove(at);
            perform(ctx.memory, ctx.ctas, &mut job);
        }
    }
    if !read && pending == 0 {
        // What only its source was waited for before is complete now, too.
        let own: Vec<u64> = ctx
            .jobs
            .iter()
            .filter(|j| {
                j.cta == ctx.cta && j.warp == warp.index && active >> j.lane & 1 != 0 && j.data.is_some()
            })
            .map(|j| j.id)
            .collect();
        for id in own {
            if let Some(at) = ctx.jobs.iter().position(|j| j.id == id) {
                let mut job = ctx.jobs.remove(at);
                perform(ctx.memory, ctx.ctas, &mut job);
            }
        }
    }
    *ctx.progress += 1;
    Flow::Next
}
