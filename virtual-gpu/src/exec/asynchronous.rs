//! `cp.async` and its groups.

use super::memory::{Action, Target, addresses, check_address_poison, next_group};
use super::warp::Warp;
use super::{Context, Flow, lanes};
use crate::decode::program::*;
use crate::options::{Checks, Order};
use crate::races;

/// A warp's copy: one part a lane.
pub struct Copy {
    pub mask: u32,
    pub dst: [u32; 32],
    pub src: [u64; 32],
    pub bytes: u32,
    /// Bytes read of each lane's source.
    pub read: [u8; 32],
    pub pc: u32,
    /// Lanes whose data has been moved.
    pub moved: u32,
}

/// Copies between two commits.
#[derive(Default)]
pub struct CopyGroup {
    /// Lanes that committed this group.
    pub mask: u32,
    pub copies: Vec<Copy>,
    pub number: u32,
}

/// The groups of a warp, oldest first, and what is not committed yet.
#[derive(Default)]
pub struct CopyGroups {
    /// Groups committed so far.
    pub issued: u32,
    pub committed: Vec<CopyGroup>,
    pub open: Vec<Copy>,
}

impl CopyGroups {
    /// Closes the open copies of the lanes of `mask` into a group.
    pub fn commit(&mut self, mask: u32) {
        let mut group = CopyGroup { mask, ..CopyGroup::default() };
        let mut left = Vec::new();
        for mut copy in self.open.drain(..) {
            if copy.mask & !mask == 0 {
                group.copies.push(copy);
            } else {
                let mut part = Copy { ..copy_of(&copy) };
                part.mask &= mask;
                copy.mask &= !mask;
                if part.mask != 0 {
                    group.copies.push(part);
                }
                left.push(copy);
            }
        }
        self.open = left;
        self.issued += 1;
        group.number = self.issued;
        self.committed.push(group);
    }
}

fn copy_of(c: &Copy) -> Copy {
    Copy { mask: c.mask, dst: c.dst, src: c.src, bytes: c.bytes, read: c.read, pc: c.pc, moved: c.moved }
}

pub fn cp_async(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    op: &CpAsync,
    active: u32,
) -> Flow {
    let (base, top) = (warp.splits[chosen].base, warp.splits[chosen].top);
    let dst = addresses(warp, &op.dst, base);
    let src = addresses(warp, &op.src, base);
    if ctx.checks == Checks::All {
        check_address_poison(ctx, warp, pc, &op.dst, active);
        check_address_poison(ctx, warp, pc, &op.src, active);
    }
    let mut read = [op.bytes as u8; 32];
    if let Some(slot) = op.src_bytes {
        let sizes = warp.registers.r32(slot);
        let poison = warp.registers.poison(slot) & active;
        for l in 0..32 {
            read[l] = sizes[l].min(op.bytes) as u8;
        }
        if poison != 0 {
            super::step::undefined(ctx, warp.index, pc, poison, "the source size");
        }
    }
    if let Some(p) = op.ignore_src {
        let bits = warp.registers.pred(p.pred);
        let bits = if p.negated { !bits } else { bits };
        for lane in lanes(bits & active) {
            read[lane] = 0;
        }
    }
    let mut rest = active;
    let Ok(group) = next_group(ctx, warp, top, pc, &dst, &mut rest, op.dst.space, op.bytes, Action::Write)
    else {
        return Flow::Stop;
    };
    let Target::Shared { cta } = group.target else { return Flow::Stop };
    if rest != 0 {
        // Within bounds or not: they are not where the first lane's is.
        let lane = rest.trailing_zeros();
        let at = super::At { pc, warp: warp.index, lane: Some(lane), address: Some(dst[lane as usize]) };
        let message =
            format!("{:#x} is not in the shared memory that the first lane copies to", dst[lane as usize]);
        ctx.report(crate::findings::Kind::OutOfBounds, true, at, message, None);
        return Flow::Stop;
    }
    // Source addresses are checked where bytes are read; with fewer bytes only those, at 4-byte granularity.
    let mut reads = lanes(active).filter(|&l| read[l] as u32 == op.bytes).fold(0u32, |m, l| m | 1 << l);
    let partial = active & !reads & lanes(active).filter(|&l| read[l] != 0).fold(0u32, |m, l| m | 1 << l);
    let mut whole = Vec::new();
    while reads != 0 {
        let Ok(group) =
            next_group(ctx, warp, top, pc, &src, &mut reads, op.src.space, op.bytes, Action::Read)
        else {
            return Flow::Stop;
        };
        let reach = group.reach(&src, op.bytes);
        races::global(ctx, warp, pc, group.origin, &reach, races::Touch::weak(Action::Read));
        whole.push(reach);
    }
    for lane in lanes(partial) {
        let at = super::At { pc, warp: warp.index, lane: Some(lane as u32), address: Some(src[lane]) };
        let bytes = u64::from(read[lane]);
        if ctx.memory.range(src[lane], bytes).is_err() {
            let message = format!("read of {bytes} bytes at {}", ctx.memory.describe(src[lane]));
            ctx.report(crate::findings::Kind::OutOfBounds, true, at, message, None);
            return Flow::Stop;
        }
        if !src[lane].is_multiple_of(u64::from(op.bytes)) {
            let message = format!(
                "cp.async of {} bytes from {} is not aligned",
                op.bytes,
                ctx.memory.describe(src[lane])
            );
            ctx.report(crate::findings::Kind::Misaligned, true, at, message, None);
            return Flow::Stop;
        }
        let source = std::iter::once((src[lane], u32::from(read[lane])));
        races::global_copied(ctx, at, source, Action::Read, races::Copier::Thread);
    }
    let mut offsets = [0u32; 32];
    (0..32).for_each(|l| offsets[l] = dst[l].wrapping_sub(group.origin) as u32);
    let less: Vec<(u64, u64)> = lanes(partial).map(|l| (src[l], u64::from(read[l]))).collect();
    ctx.grid.counters.copied(pc, &whole, &less);
    ctx.grid.counters.shared(pc, &group.reach(&dst, op.bytes));
    races::copy_issued(ctx, warp, pc, cta, &offsets, active, op.bytes);
    let mut copy = Copy { mask: active, dst: offsets, src, bytes: op.bytes, read, pc, moved: 0 };
    let now = match ctx.order {
        Order::Eager => true,
        Order::Lazy => false,
        Order::Random(_) => ctx.random.coin(),
    };
    if now {
        move_copy(ctx, &mut copy, active);
    }
    warp.copies.open.push(copy);
    Flow::Next
}

/// Moves the data of some lanes.
fn move_copy(ctx: &mut Context<'_>, copy: &mut Copy, mask: u32) {
    let mask = mask & copy.mask & !copy.moved;
    copy.moved |= mask;
    let shared = &mut ctx.ctas[ctx.cta].shared;
    for lane in lanes(mask) {
        let (at, read) = (copy.dst[lane] as usize, usize::from(copy.read[lane]));
        if read > 0
            && let Ok((a, from)) = ctx.memory.range(copy.src[lane], read as u64)
        {
            a.bytes.copy_to(from, read, shared, at);
        }
        shared.fill(at + read, copy.bytes as usize - read, 0);
    }
    *ctx.progress += 1;
}

/// Completes all groups of the lanes of `active` but each lane's last `pending`.
pub fn wait_group(ctx: &mut Context<'_>, warp: &mut Warp, pending: u32, all: bool, active: u32) -> Flow {
    let mut groups = std::mem::take(&mut warp.copies);
    let mut newest = 0;
    if all {
        for copy in &mut groups.open {
            finish(ctx, copy, active);
        }
        groups.open.retain(|c| c.mask != 0);
        newest = groups.issued + 1;
        groups.issued += 1;
    }
    // How many later groups each lane has.
    let mut later = [0u32; 32];
    for group in groups.committed.iter_mut().rev() {
        let mut done = 0u32;
        for lane in lanes(group.mask & active) {
            if all || later[lane] >= pending {
                done |= 1 << lane;
            }
            later[lane] += 1;
        }
        if done != 0 {
            newest = newest.max(group.number);
            for copy in &mut group.copies {
                finish(ctx, copy, done);
            }
            group.copies.retain(|c| c.mask != 0);
        }
    }
    // A finished group still counts until every lane has newer ones; only the oldest finished are dropped.
    let keep = groups.committed.iter().position(|g| !g.copies.is_empty()).unwrap_or(groups.committed.len());
    groups.committed.drain(..keep.min(groups.committed.len()));
    warp.copies = groups;
    if newest > 0 {
        races::copy_done(ctx, warp, newest);
    }
    Flow::Next
}

/// `cp.async.mbarrier.arrive`: moves what the lanes have copied so far. It still belongs to its groups.
pub fn arrive(ctx: &mut Context<'_>, warp: &mut Warp, active: u32) {
    let mut groups = std::mem::take(&mut warp.copies);
    for copy in groups.committed.iter_mut().flat_map(|g| &mut g.copies).chain(&mut groups.open) {
        move_copy(ctx, copy, active);
    }
    // Later copies of the open group are not among these.
    groups.issued += 1;
    warp.copies = groups;
}

fn finish(ctx: &mut Context<'_>, copy: &mut Copy, mask: u32) {
    move_copy(ctx, copy, mask);
    copy.mask &= !mask;
}

/// At a warp's end: bulk stores whose source may still be read.
pub fn check_at_exit(ctx: &mut Context<'_>, warp: &Warp) {
    if warp.bulk.unfinished() {
        let at = super::At { pc: warp.last_pc, warp: warp.index, lane: None, address: None };
        let message = "the warp exits before its bulk copies have read their source".to_string();
        ctx.report(crate::findings::Kind::Unfinished, false, at, message, None);
    }
}
