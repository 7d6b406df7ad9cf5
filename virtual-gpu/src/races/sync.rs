//! What barriers and fences order.

use super::clocks::{Clocks, SetUp, Sync, join, set};
use super::{Touch, active, put_clocks, shared, take_clocks};
use crate::exec::Context;
use crate::exec::hopper::ProxyFence;
use crate::exec::memory::{Action, Reach, Shape};
use crate::exec::warp::Warp;

pub(super) fn bump(clocks: &mut Clocks, actor: usize) {
    let next = clocks.all.get(actor).copied().unwrap_or(0) + 1;
    set(&mut clocks.all, actor, next);
}

/// These lanes have executed `griddepcontrol.wait`, or learned that another CTA has: the grids before this one are over
/// and visible to whatever comes after.
pub fn grids_waited(ctx: &mut Context<'_>, warp: &Warp, lanes: u32) {
    if active(ctx) {
        let (mut clocks, actor) = take_clocks(ctx, warp);
        clocks.grids = true;
        bump(&mut clocks, actor);
        put_clocks(ctx, warp, clocks);
        ctx.own().races.after_grids[warp.index as usize] |= lanes;
    }
}

/// The lanes of a warp that come after a `griddepcontrol.wait`.
pub fn after_grids(ctx: &Context<'_>, warp: u32) -> u32 {
    ctx.ctas[ctx.cta].races.after_grids.get(warp as usize).copied().unwrap_or(0)
}

pub fn warp_sync(ctx: &mut Context<'_>, warp: &mut Warp, mask: u32) {
    if active(ctx) {
        let after_grids = &mut ctx.own().races.after_grids[warp.index as usize];
        if *after_grids & mask != 0 {
            *after_grids |= mask;
        }
        let (mut clocks, actor) = take_clocks(ctx, warp);
        bump(&mut clocks, actor);
        put_clocks(ctx, warp, clocks);
    }
}

/// Adds what the warp did to a synchronisation object.
fn arrive(
    ctx: &mut Context<'_>,
    warp: &Warp,
    object: impl for<'c> FnOnce(&'c mut Context<'_>) -> Option<&'c mut Sync>,
) {
    if !active(ctx) {
        return;
    }
    let (mut clocks, actor) = take_clocks(ctx, warp);
    if let Some(sync) = object(ctx) {
        sync.gathering.join(&clocks);
    }
    bump(&mut clocks, actor);
    put_clocks(ctx, warp, clocks);
}

fn leave(
    ctx: &mut Context<'_>,
    warp: &Warp,
    object: impl for<'c> FnOnce(&'c mut Context<'_>) -> Option<&'c mut Sync>,
) {
    if !active(ctx) {
        return;
    }
    let (mut clocks, _) = take_clocks(ctx, warp);
    let mut after_grids = false;
    if let Some(sync) = object(ctx) {
        clocks.join(&sync.done);
        after_grids = sync.done.grids;
    }
    put_clocks(ctx, warp, clocks);
    if after_grids {
        ctx.own().races.after_grids[warp.index as usize] = u32::MAX;
    }
}

pub fn barrier_arrive(ctx: &mut Context<'_>, warp: &mut Warp, id: usize) {
    arrive(ctx, warp, |ctx| Some(&mut ctx.own().barriers[id].clock));
}

pub fn barrier_complete(ctx: &mut Context<'_>, id: usize) {
    ctx.own().barriers[id].clock.complete();
}

pub fn barrier_leave(ctx: &mut Context<'_>, warp: &mut Warp, id: usize) {
    leave(ctx, warp, |ctx| Some(&mut ctx.own().barriers[id].clock));
}

pub fn cluster_arrive(ctx: &mut Context<'_>, warp: &mut Warp, leader: usize) {
    arrive(ctx, warp, |ctx| Some(&mut ctx.ctas[leader].hopper.cluster.clock));
}

/// A fence of cluster scope or wider: a relaxed arrive after it publishes what came before the fence.
pub fn cluster_fence(ctx: &mut Context<'_>, warp: &mut Warp) {
    if active(ctx) {
        let (mut clocks, actor) = take_clocks(ctx, warp);
        warp.fenced.gathering = clocks.clone();
        bump(&mut clocks, actor);
        put_clocks(ctx, warp, clocks);
    }
}

pub fn cluster_arrive_relaxed(ctx: &mut Context<'_>, warp: &Warp, leader: usize) {
    if active(ctx) {
        ctx.ctas[leader].hopper.cluster.clock.gathering.join(&warp.fenced.gathering);
    }
}

pub fn cluster_leave(ctx: &mut Context<'_>, warp: &mut Warp, leader: usize) {
    leave(ctx, warp, |ctx| Some(&mut ctx.ctas[leader].hopper.cluster.clock));
}

/// An mbarrier is set up, by whom is the result.
pub fn mbarrier_init(ctx: &mut Context<'_>, warp: &Warp, pc: u32, cta: usize, offset: u32) -> SetUp {
    let reach = Reach { offsets: [offset as usize; 32], mask: 1, size: 8, shape: Shape::Uniform };
    shared(ctx, warp, pc, cta, &reach, Touch { mbarrier: true, ..Touch::weak(Action::Write) });
    SetUp { actor: ctx.own().races.first_actor + warp.index as usize, fenced: None }
}

pub fn mbarrier_inval(ctx: &mut Context<'_>, cta: usize, offset: u32) {
    if active(ctx) {
        ctx.ctas[cta].races.cells.end_mbarrier(offset as usize);
    }
}

pub fn mbarrier_arrive(ctx: &mut Context<'_>, warp: &Warp, cta: usize, offset: u32) {
    arrive(ctx, warp, |ctx| ctx.ctas[cta].hopper.mbarriers.get_mut(&offset).map(|b| &mut b.clock));
}

pub fn mbarrier_wait(ctx: &mut Context<'_>, warp: &Warp, cta: usize, offset: u32) {
    leave(ctx, warp, |ctx| ctx.ctas[cta].hopper.mbarriers.get_mut(&offset).map(|b| &mut b.clock));
}

/// `fence.proxy` and `fence.mbarrier_init`: asynchronous engines may rely on what the warp knows now, as far as the
/// fence's kind goes.
pub fn proxy_fence(ctx: &mut Context<'_>, warp: &Warp, fence: ProxyFence) {
    if !active(ctx) {
        return;
    }
    let (mut clocks, actor) = take_clocks(ctx, warp);
    match fence {
        ProxyFence::Async { shared, global } => {
            if shared {
                let all = clocks.all.clone();
                join(&mut clocks.proxied, &all);
            }
            if global {
                crate::global_races::proxy_fence(ctx);
            }
        }
        ProxyFence::MbarrierInit => {
            let now = clocks.all.get(actor).copied().unwrap_or(0);
            for barrier in ctx.own().hopper.mbarriers.values_mut().filter(|b| b.set_up.actor == actor) {
                barrier.set_up.fenced.get_or_insert(now);
            }
        }
        ProxyFence::Other => {}
    }
    bump(&mut clocks, actor);
    put_clocks(ctx, warp, clocks);
}
