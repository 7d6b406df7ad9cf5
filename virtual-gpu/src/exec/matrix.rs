//! `ldmatrix`, `stmatrix`, `movmatrix` and `mma.sync`: data movement here, layouts and arithmetic in `tensor`.

use super::memory::{Action, Target, addresses, check_address_poison, next_group};
use super::warp::{Wait, Warp};
use super::{At, Context, Flow, lanes};
use crate::decode::program::Address;
use crate::findings::Kind;
use crate::options::Checks;
use crate::races::{self, Touch};
use crate::registers::Slot;
use crate::tensor::{matrix, mma};

pub struct Ldmatrix {
    pub store: bool,
    pub trans: bool,
    pub count: usize,
    pub registers: [Slot; 4],
    pub address: Address,
}

pub enum MmaKind {
    Mma(mma::Mma),
    F64(mma::MmaF64),
    /// `movmatrix`
    Transpose,
}

pub struct Mma {
    pub kind: MmaKind,
    pub a: Vec<Slot>,
    pub b: Vec<Slot>,
    pub c: Vec<Slot>,
    pub d: Vec<Slot>,
}

/// The whole warp must execute an `.aligned` instruction together.
pub fn whole_warp(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    active: u32,
) -> Option<Flow> {
    if warp.live & !active == 0 && warp.existing == u32::MAX && warp.live == u32::MAX {
        return None;
    }
    let at = At { pc, warp: warp.index, lane: Some(active.trailing_zeros()), address: None };
    let missing = !active;
    if missing & warp.live & !warp.splits[chosen].mask != 0 {
        return Some(Flow::Park { wait: Wait::Members { members: u32::MAX }, pass: false });
    }
    let message = format!("lanes {missing:#010x} take no part in an instruction of the whole warp");
    ctx.report(Kind::WarpSync, true, at, message, None);
    Some(Flow::Stop)
}

pub fn mma(ctx: &mut Context<'_>, warp: &mut Warp, pc: u32, op: &Mma, active: u32) -> Flow {
    if active != u32::MAX {
        if active == 0 {
            return Flow::Next;
        }
        // The split that executes is the one with these lanes.
        let chosen = warp.last;
        if let Some(flow) = whole_warp(ctx, warp, chosen, pc, active) {
            return flow;
        }
    }
    let r = &mut warp.registers;
    let poison_of = |slots: &[Slot]| {
        let mut out = [0u32; 8];
        for (to, &slot) in out.iter_mut().zip(slots) {
            *to = r.poison(slot);
        }
        out
    };
    let (pa, pb, pc_) = (poison_of(&op.a), poison_of(&op.b), poison_of(&op.c));
    let any = pa.iter().chain(&pb).chain(&pc_).any(|&p| p != 0);
    let (na, nb, nc, nd) = (op.a.len(), op.b.len(), op.c.len(), op.d.len());
    let mut poison = [0u32; 8];
    match &op.kind {
        MmaKind::Mma(kind) => {
            let all = |slots: &[Slot]| {
                let mut out = [r.r32(crate::registers::ZERO); 4];
                out.iter_mut().zip(slots).for_each(|(to, &slot)| *to = r.r32(slot));
                out
            };
            let (a, b, c) = (all(&op.a), all(&op.b), all(&op.c));
            let d = kind.run_usual(&a[..na], &b[..nb], &c[..nc]).unwrap_or_else(|| {
                let (a, b, c) = (a.map(|r| *r), b.map(|r| *r), c.map(|r| *r));
                let mut d = [[0u32; 32]; 4];
                kind.run(&a[..na], &b[..nb], &c[..nc], &mut d[..nd]);
                d
            });
            if any {
                kind.poison(&pa[..na], &pb[..nb], &pc_[..nc], &mut poison[..nd]);
            }
            for (values, &slot) in d.iter().zip(&op.d) {
                *r.m32(slot) = *values;
            }
            ctx.grid.counters.tensor(pc, kind.macs() as u64);
        }
        MmaKind::F64(kind) => {
            let gather = |slots: &[Slot]| {
                let mut out = [[0u64; 32]; 8];
                for (to, &slot) in out.iter_mut().zip(slots) {
                    *to = *r.r64(slot);
                }
                out
            };
            let (a, b, c) = (gather(&op.a), gather(&op.b), gather(&op.c));
            let mut d = [[0u64; 32]; 8];
            kind.run(&a[..na], &b[..nb], &c[..nc], &mut d[..nd]);
            if any {
                kind.poison(&pa[..na], &pb[..nb], &pc_[..nc], &mut poison[..nd]);
            }
            for (values, &slot) in d.iter().zip(&op.d) {
                *r.m64(slot) = *values;
            }
            ctx.grid.counters.tensor(pc, (na * nb * 32 * 32 / 4) as u64);
        }
        MmaKind::Transpose => {
            *r.m32(op.d[0]) = matrix::transpose(r.r32(op.a[0]));
            poison[0] = matrix::transpose_poison(pa[0]);
        }
    }
    for (&slot, bits) in op.d.iter().zip(poison) {
        r.set_poison(slot, bits, u32::MAX);
    }
    Flow::Next
}

pub fn ldmatrix(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    op: &Ldmatrix,
    active: u32,
) -> Flow {
    if active != u32::MAX {
        if active == 0 {
            return Flow::Next;
        }
        if let Some(flow) = whole_warp(ctx, warp, chosen, pc, active) {
            return flow;
        }
    }
    let used = ((1u64 << (8 * op.count)) - 1) as u32;
    let addresses = addresses(warp, &op.address, 0);
    let check = ctx.checks == Checks::All;
    if check {
        check_address_poison(ctx, warp, pc, &op.address, used);
    }
    let action = if op.store { Action::Write } else { Action::Read };
    let mut rest = used;
    let top = warp.splits[chosen].top;
    let Ok(group) = next_group(ctx, warp, top, pc, &addresses, &mut rest, op.address.space, 16, action)
    else {
        return Flow::Stop;
    };
    let Target::Shared { cta } = group.target else {
        let at = At { pc, warp: warp.index, lane: Some(0), address: Some(addresses[0]) };
        ctx.report(Kind::InvalidAccess, true, at, "matrix address outside shared memory".into(), None);
        return Flow::Stop;
    };
    if rest != 0 {
        let at = At { pc, warp: warp.index, lane: Some(rest.trailing_zeros()), address: None };
        ctx.report(Kind::InvalidAccess, true, at, "matrix rows in different state spaces".into(), None);
        return Flow::Stop;
    }
    let reach = group.reach(&addresses, 16);
    races::shared(ctx, warp, pc, cta, &reach, Touch::weak(action));
    ctx.grid.counters.shared(pc, &reach);
    let shared = &mut ctx.ctas[cta].shared;
    for k in 0..op.count {
        let slot = op.registers[k];
        let rows: [usize; 8] = std::array::from_fn(|r| reach.offsets[8 * k + r]);
        if op.store {
            let data = matrix::store(warp.registers.r32(slot), op.trans);
            let poison = matrix::store_poison(warp.registers.poison(slot), op.trans);
            for (r, &at) in rows.iter().enumerate() {
                shared.data[at..at + 16].copy_from_slice(&data[r]);
                shared.set_defined(at, 16, true);
                for byte in lanes(u32::from(poison[r])) {
                    shared.set_defined(at + byte, 1, false);
                }
            }
            *ctx.progress += 1;
        } else {
            let to = warp.registers.m32(slot);
            for (row, &at) in rows.iter().enumerate() {
                // Without .trans, four lanes hold a row as it is.
                let bytes: &[u8; 16] = shared.data[at..].first_chunk().expect("rows are checked");
                for (to, word) in to[4 * row..4 * row + 4].iter_mut().zip(bytes.as_chunks().0) {
                    *to = u32::from_le_bytes(*word);
                }
            }
            if op.trans {
                *to = matrix::transpose(to);
            }
            let mut poison = 0;
            if check && rows.iter().any(|&at| !shared.is_defined(at, 16)) {
                poison = matrix::load_poison(&rows.map(|at| shared.undefined_bits(at, 16) as u16), op.trans);
            }
            warp.registers.set_poison(slot, poison, u32::MAX);
        }
    }
    Flow::Next
}
