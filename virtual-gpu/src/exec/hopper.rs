//! Instructions of sm_90: dispatch, clusters, registers, dependent grids.

use super::bulk::{self, Copy, Reduction};
use super::bulk_groups;
use super::mbarrier::{self, Mbarrier};
use super::memory::{Action, Target, addresses, check_address_poison, next_group};
use super::register_count::{self, RegisterCounts};
use super::warp::{Wait, Warp};
use super::wgmma::{self, Warpgroup, Wgmma};
use super::{At, Context, Flow, lanes};
use crate::decode::program::{Address, Reg};
use crate::findings::Kind;
use crate::memory::{OFFSET_MASK, RANK_SHIFT, SHARED_WINDOW};
use crate::options::Checks;
use crate::ptx::ast::Space;
use crate::races;
use crate::registers::Slot;
use std::collections::HashMap;

/// A decoded instruction of sm_90.
pub enum HopperOp {
    Nothing,
    MbarrierInit {
        barrier: Address,
        count: Slot,
    },
    MbarrierInval {
        barrier: Address,
    },
    MbarrierArrive {
        barrier: Address,
        count: Option<Slot>,
        tx: Option<Slot>,
        drop: bool,
        no_complete: bool,
        state: Option<Slot>,
    },
    MbarrierTx {
        barrier: Address,
        tx: Slot,
        complete: bool,
    },
    MbarrierWait {
        barrier: Address,
        blocks: bool,
        parity: bool,
        state: Slot,
        p: u32,
    },
    PendingCount {
        d: Slot,
        state: Slot,
    },
    CpAsyncArrive {
        barrier: Address,
        noinc: bool,
    },
    Bulk(Copy),
    BulkCommit,
    BulkWait {
        pending: u32,
        read: bool,
    },
    RemoteStore {
        address: Address,
        values: Vec<Reg>,
        bytes: u32,
        barrier: Address,
        reduction: Option<Reduction>,
    },
    ClusterArrive {
        relaxed: bool,
    },
    ClusterWait,
    Mapa {
        d: Slot,
        a: Slot,
        rank: Slot,
        wide: bool,
        generic: bool,
    },
    CtaRank {
        d: Slot,
        a: Slot,
        wide: bool,
    },
    Wgmma(Wgmma),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending: u32,
    },
    SetMaxReg {
        count: u32,
        increase: bool,
    },
    GridWait,
    GridLaunch,
    FenceProxy(ProxyFence),
}

/// What a fence shows to accesses other than ordinary ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFence {
    /// `fence.proxy.async`: ordinary accesses to these spaces, to bulk copies and wgmma.
    Async { shared: bool, global: bool },
    /// `fence.mbarrier_init`: mbarriers that the thread has set up, and nothing else.
    MbarrierInit,
    /// Virtual aliases, or tensor maps in memory: nothing that is checked here.
    Other,
}

/// The barrier of a cluster; kept by the CTA of rank 0.
#[derive(Default)]
pub struct ClusterBarrier {
    pub phase: u64,
    pub arrived: u32,
    /// An arrival of this phase releases what came before it.
    pub releases: bool,
    pub clock: races::Sync,
}

/// A CTA's mbarriers and the like.
#[derive(Default)]
pub struct CtaState {
    pub mbarriers: HashMap<u32, Mbarrier>,
    pub cluster: ClusterBarrier,
    pub warpgroups: Vec<Warpgroup>,
    pub registers: RegisterCounts,
    /// `griddepcontrol.launch_dependents` was executed by all its warps (or some; one is enough per warp).
    pub launched_dependents: u64,
}

/// A shared address as CTA and offset; `None` after a finding.
pub fn shared_place(
    ctx: &mut Context<'_>,
    warp: &Warp,
    pc: u32,
    all: &[u64; 32],
    lane: usize,
    space: Space,
    size: u32,
    action: Action,
) -> Option<(usize, u32)> {
    let mut rest = 1u32 << lane;
    let group = next_group(ctx, warp, 0, pc, all, &mut rest, space, size, action).ok()?;
    match group.target {
        Target::Shared { cta } => Some((cta, all[lane].wrapping_sub(group.origin) as u32)),
        _ => {
            let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(all[lane]) };
            ctx.report(Kind::InvalidAccess, true, at, format!("{:#x} is no shared address", all[lane]), None);
            None
        }
    }
}

pub fn execute(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    op: &HopperOp,
    active: u32,
) -> Flow {
    let checked = |address: &Address, ctx: &mut Context<'_>, warp: &Warp| {
        if ctx.checks == Checks::All {
            check_address_poison(ctx, warp, pc, address, active);
        }
        addresses(warp, address, 0)
    };
    match op {
        HopperOp::Nothing => Flow::Next,
        HopperOp::MbarrierInit { barrier, count } => {
            let all = checked(barrier, ctx, warp);
            mbarrier::init(ctx, warp, pc, &all, barrier.space, *count, active)
        }
        HopperOp::MbarrierInval { barrier } => {
            let all = checked(barrier, ctx, warp);
            for lane in lanes(active) {
                let Some((cta, at)) =
                    shared_place(ctx, warp, pc, &all, lane, barrier.space, 8, Action::Write)
                else {
                    return Flow::Stop;
                };
                ctx.ctas[cta].hopper.mbarriers.remove(&at);
                races::mbarrier_inval(ctx, cta, at);
            }
            Flow::Next
        }
        HopperOp::MbarrierArrive { barrier, count, tx, drop, no_complete, state } => {
            let all = checked(barrier, ctx, warp);
            let what = mbarrier::Arrival {
                count: *count,
                tx: *tx,
                drop: *drop,
                no_complete: *no_complete,
                state: *state,
            };
            mbarrier::arrive(ctx, warp, pc, &all, barrier.space, &what, active)
        }
        HopperOp::MbarrierTx { barrier, tx, complete } => {
            let all = checked(barrier, ctx, warp);
            mbarrier::transactions(ctx, warp, pc, &all, barrier.space, *tx, *complete, active)
        }
        HopperOp::MbarrierWait { barrier, blocks, parity, state, p } => {
            let all = checked(barrier, ctx, warp);
            mbarrier::wait(ctx, warp, chosen, pc, &all, barrier.space, (*blocks, *parity, *state, *p), active)
        }
        HopperOp::PendingCount { d, state } => {
            let states = *warp.registers.r64(*state);
            let counts = states.map(|s| (s >> 32) as u32 & 0xf_ffff);
            let poison = warp.registers.poison(*state);
            warp.registers.write32(*d, &counts, active);
            warp.registers.set_poison(*d, poison, active);
            Flow::Next
        }
        HopperOp::CpAsyncArrive { barrier, noinc } => {
            let all = checked(barrier, ctx, warp);
            // The bytes are there at once, which only those who wait for the mbarrier may rely on.
            super::asynchronous::arrive(ctx, warp, active);
            for lane in lanes(active) {
                let Some(place) = shared_place(ctx, warp, pc, &all, lane, barrier.space, 8, Action::Atomic)
                else {
                    return Flow::Stop;
                };
                races::copies_arrive(ctx, warp, place);
            }
            if *noinc {
                let what = mbarrier::Arrival::default();
                return mbarrier::arrive(ctx, warp, pc, &all, barrier.space, &what, active);
            }
            // Else the increment and the arrival cancel each other.
            Flow::Next
        }
        HopperOp::Bulk(copy) => bulk::issue(ctx, warp, chosen, pc, copy, active),
        HopperOp::BulkCommit => {
            warp.bulk.commit(active);
            Flow::Next
        }
        HopperOp::BulkWait { pending, read } => bulk_groups::wait(ctx, warp, *pending, *read, active),
        HopperOp::RemoteStore { address, values, bytes, barrier, reduction } => {
            let (to, signals) = (checked(address, ctx, warp), checked(barrier, ctx, warp));
            bulk::remote_store(ctx, warp, pc, &to, &signals, values, *bytes, *reduction, active)
        }
        HopperOp::ClusterArrive { relaxed } => {
            if warp.live & !active != 0 {
                return Flow::Park { wait: Wait::Members { members: warp.live }, pass: false };
            }
            let leader = ctx.own().peers[0];
            let at = At { pc, warp: warp.index, lane: None, address: None };
            let phase = ctx.ctas[leader].hopper.cluster.phase;
            if warp.cluster_phase == Some(phase) {
                ctx.report(
                    Kind::Cluster,
                    true,
                    at,
                    "the warp arrives twice in one phase of the cluster barrier".into(),
                    None,
                );
                return Flow::Stop;
            }
            warp.cluster_phase = Some(phase);
            if *relaxed {
                races::cluster_arrive_relaxed(ctx, warp, leader);
            } else {
                races::cluster_arrive(ctx, warp, leader);
                ctx.ctas[leader].hopper.cluster.releases = true;
            }
            ctx.ctas[leader].hopper.cluster.arrived += 1;
            cluster_complete(ctx, leader);
            *ctx.progress += 1;
            Flow::Next
        }
        HopperOp::ClusterWait => {
            if warp.live & !active != 0 {
                return Flow::Park { wait: Wait::Members { members: warp.live }, pass: false };
            }
            let leader = ctx.own().peers[0];
            let Some(phase) = warp.cluster_phase else {
                let at = At { pc, warp: warp.index, lane: None, address: None };
                ctx.report(Kind::Cluster, true, at, "barrier.cluster.wait without an arrive".into(), None);
                return Flow::Stop;
            };
            if ctx.ctas[leader].hopper.cluster.phase == phase {
                return Flow::Park { wait: Wait::Cluster { phase }, pass: false };
            }
            races::cluster_leave(ctx, warp, leader);
            Flow::Next
        }
        HopperOp::Mapa { d, a, rank, wide, generic } => {
            let ranks = *warp.registers.r32(*rank);
            let size = ctx.own().peers.len() as u32;
            for lane in lanes(active) {
                if ranks[lane] >= size {
                    let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: None };
                    let message = format!("mapa to rank {} in a cluster of {size}", ranks[lane]);
                    ctx.report(Kind::Cluster, true, at, message, None);
                    return Flow::Stop;
                }
            }
            let map = |address: u64, rank: u32| {
                let low = address & ((1 << RANK_SHIFT) - 1);
                let window = if *generic { SHARED_WINDOW } else { 0 };
                window | low | u64::from(rank + 1) << RANK_SHIFT
            };
            let poison = warp.registers.poison(*a) | warp.registers.poison(*rank);
            if *wide {
                let from = *warp.registers.r64(*a);
                let out: [u64; 32] = std::array::from_fn(|l| map(from[l], ranks[l]));
                warp.registers.write64(*d, &out, active);
            } else {
                let from = *warp.registers.r32(*a);
                let out: [u32; 32] = std::array::from_fn(|l| map(u64::from(from[l]), ranks[l]) as u32);
                warp.registers.write32(*d, &out, active);
            }
            warp.registers.set_poison(*d, poison, active);
            Flow::Next
        }
        HopperOp::CtaRank { d, a, wide } => {
            let own = ctx.own().rank;
            let rank = |address: u64| match (address & OFFSET_MASK) as u32 >> RANK_SHIFT {
                0 => own,
                rank => rank - 1,
            };
            let out: [u32; 32] = if *wide {
                warp.registers.r64(*a).map(rank)
            } else {
                warp.registers.r32(*a).map(|x| rank(u64::from(x)))
            };
            let poison = warp.registers.poison(*a);
            warp.registers.write32(*d, &out, active);
            warp.registers.set_poison(*d, poison, active);
            Flow::Next
        }
        HopperOp::Wgmma(op) => wgmma::issue(ctx, warp, chosen, pc, op, active),
        HopperOp::WgmmaFence => {
            warp.wgmma.fence();
            Flow::Next
        }
        HopperOp::WgmmaCommit => wgmma::commit(ctx, warp),
        HopperOp::WgmmaWait { pending } => wgmma::wait(ctx, warp, pc, *pending),
        HopperOp::SetMaxReg { count, increase } => register_count::set(ctx, warp, pc, *count, *increase),
        HopperOp::GridWait => {
            if ctx.grid.waits_for_others {
                return Flow::Park { wait: Wait::GridDependency, pass: false };
            }
            races::grids_waited(ctx, warp, active);
            Flow::Next
        }
        HopperOp::GridLaunch => {
            let index = warp.index;
            let state = &mut ctx.own().hopper;
            state.launched_dependents |= 1 << index;
            *ctx.progress += 1;
            Flow::Next
        }
        HopperOp::FenceProxy(fence) => {
            races::proxy_fence(ctx, warp, *fence);
            Flow::Next
        }
    }
}

/// Ends the cluster barrier's phase once every warp that has not exited has arrived.
pub fn cluster_complete(ctx: &mut Context<'_>, leader: usize) {
    let live: u32 = ctx.ctas[leader].peers.iter().map(|&p| ctx.ctas[p].live_warps).sum();
    let barrier = &mut ctx.ctas[leader].hopper.cluster;
    if barrier.arrived > 0 && barrier.arrived >= live {
        barrier.phase += 1;
        barrier.arrived = 0;
        barrier.clock.complete();
        if std::mem::take(&mut barrier.releases) {
            races::cluster_met(ctx);
        }
    }
}
