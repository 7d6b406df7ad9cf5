//! Bulk and tensor copies: checked when issued, done at once, at the last moment or in between, as the order says.

use super::atomics::register_value;
use super::bulk_groups::{Write, pieces};
use super::hopper::shared_place;
use super::jobs::{JobKind, Run, start};
use super::memory::{Action, addresses, check_address_poison};
use super::warp::Warp;
use super::{At, Context, Flow, lanes, mbarrier};
use crate::decode::program::{Address, Reg, Rmw};
use crate::findings::Kind;
use crate::memory::SHARED_BASE;
use crate::options::Checks;
use crate::races::{self, Copier};
use crate::registers::Slot;
use crate::tensor::tma::{DataType, TensorMap};

pub enum Side {
    Global(Address),
    Shared(Address),
    Tensor { map: Address, coordinates: Vec<Slot> },
}

pub enum Completion {
    Mbarrier(Address),
    Group,
}

/// An operation applied at the destination, and its element's bytes.
#[derive(Clone, Copy)]
pub struct Reduction {
    pub op: Rmw,
    pub bytes: u32,
}

impl Reduction {
    /// The same operation on a tensor map's elements: a tensor reduction names no type of its own.
    fn of_elements(self, data_type: DataType) -> Reduction {
        use DataType::*;
        let op = match (self.op, data_type) {
            (Rmw::Add, F16) => Rmw::AddF16,
            (Rmw::Add, Bf16) => Rmw::AddBf16,
            (Rmw::Add, F32 | F32Ftz | Tf32 | Tf32Ftz) => Rmw::AddF32,
            (Rmw::Add, F64) => Rmw::AddF64,
            (Rmw::MinU, F16) => Rmw::MinF16,
            (Rmw::MaxU, F16) => Rmw::MaxF16,
            (Rmw::MinU, Bf16) => Rmw::MinBf16,
            (Rmw::MaxU, Bf16) => Rmw::MaxBf16,
            (Rmw::MinU, I32 | I64) => Rmw::MinS,
            (Rmw::MaxU, I32 | I64) => Rmw::MaxS,
            (op, _) => op,
        };
        Reduction { op, bytes: data_type.bytes() as u32 }
    }
}

/// A decoded bulk or tensor copy.
pub struct Copy {
    pub dst: Side,
    pub src: Side,
    pub size: Slot,
    pub completion: Completion,
    pub multicast: Option<Slot>,
    pub reduction: Option<Reduction>,
}

/// One lane's resolved side of a copy.
fn tensor_map(ctx: &mut Context<'_>, at: At, address: u64) -> Option<TensorMap> {
    let mut bytes = [0u8; 128];
    if address & !crate::memory::OFFSET_MASK == crate::memory::PARAM_WINDOW {
        let offset = (address & crate::memory::OFFSET_MASK) as usize;
        if let Some(from) = ctx.grid.parameters.get(offset..offset + 128) {
            bytes.copy_from_slice(from);
        }
    } else if let Ok((a, offset)) = ctx.memory.range(address, 128) {
        let mut copy = crate::memory::Bytes::new(128);
        a.bytes.copy_to(offset, 128, &mut copy, 0);
        bytes.copy_from_slice(&copy.data);
    } else {
        let message =
            format!("the tensor map at {} lies outside its allocation", ctx.memory.describe(address));
        ctx.report(Kind::OutOfBounds, true, at, message, None);
        return None;
    }
    let map = TensorMap::decode(&bytes);
    if map.is_none() || !address.is_multiple_of(64) {
        let message = format!("no tensor map at {address:#x} (64-byte aligned and encoded by this device)");
        ctx.report(Kind::InvalidAccess, true, at, message, None);
        return None;
    }
    map
}

pub fn issue(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    _chosen: usize,
    pc: u32,
    copy: &Copy,
    active: u32,
) -> Flow {
    let side_addresses = |ctx: &mut Context<'_>, warp: &Warp, side: &Side| match side {
        Side::Global(a) | Side::Shared(a) | Side::Tensor { map: a, .. } => {
            if ctx.checks == Checks::All {
                check_address_poison(ctx, warp, pc, a, active);
            }
            addresses(warp, a, 0)
        }
    };
    let dst = side_addresses(ctx, warp, &copy.dst);
    let src = side_addresses(ctx, warp, &copy.src);
    let signals = match &copy.completion {
        Completion::Mbarrier(a) => Some((addresses(warp, a, 0), a.space)),
        Completion::Group => None,
    };
    let sizes = *warp.registers.r32(copy.size);
    let masks = copy.multicast.map(|s| *warp.registers.r32(s));
    let mut used = vec![copy.size];
    used.extend(copy.multicast);
    for side in [&copy.dst, &copy.src] {
        if let Side::Tensor { coordinates, .. } = side {
            used.extend(coordinates);
        }
    }
    let poison = used.iter().fold(0, |p, &s| p | warp.registers.poison(s)) & active;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "a size, mask or coordinate of the copy");
    }
    for lane in lanes(active) {
        let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: None };
        let bad = |ctx: &mut Context<'_>, kind: Kind, message: String| {
            ctx.report(kind, true, at, message, None);
            Flow::Stop
        };
        // The runs of bytes, and where the shared side is.
        let (tensor, coordinates, shared_side, load) = match (&copy.dst, &copy.src) {
            (Side::Shared(a), Side::Tensor { coordinates, .. }) => {
                (Some(src[lane]), coordinates.as_slice(), Some((&dst, a)), true)
            }
            (Side::Tensor { coordinates, .. }, Side::Shared(a)) => {
                (Some(dst[lane]), coordinates.as_slice(), Some((&src, a)), false)
            }
            (Side::Shared(a), Side::Global(_)) => (None, &[][..], Some((&dst, a)), true),
            (Side::Global(_), Side::Shared(a)) => (None, &[][..], Some((&src, a)), false),
            (Side::Shared(_), Side::Shared(_)) => (None, &[][..], None, false),
            _ => return bad(ctx, Kind::Unsupported, "a copy between these spaces".into()),
        };
        let size = sizes[lane];
        if tensor.is_none() && (size == 0 && copy.reduction.is_some() || !size.is_multiple_of(16)) {
            return bad(ctx, Kind::Misaligned, format!("a bulk copy of {size} bytes, no multiple of 16"));
        }
        let Some((shared_addresses, address)) = shared_side else {
            let (Side::Shared(to), Side::Shared(from)) = (&copy.dst, &copy.src) else { return Flow::Stop };
            let Some(to) = shared_place(ctx, warp, pc, &dst, lane, to.space, 16, Action::Write) else {
                return Flow::Stop;
            };
            let Some(from) = shared_place(ctx, warp, pc, &src, lane, from.space, 16, Action::Read) else {
                return Flow::Stop;
            };
            let Some((barriers, space)) = &signals else { return Flow::Stop };
            let Some(barrier) = shared_place(ctx, warp, pc, barriers, lane, *space, 8, Action::Atomic) else {
                return Flow::Stop;
            };
            let fits = |ctx: &Context<'_>, (cta, offset): (usize, u32)| {
                (offset + size) as usize <= ctx.ctas[cta].shared.len()
            };
            if !fits(ctx, to) || !fits(ctx, from) {
                return bad(ctx, Kind::OutOfBounds, format!("a copy of {size} bytes leaves shared memory"));
            }
            if mbarrier::object(ctx, at, barrier.0, barrier.1).is_none() {
                return Flow::Stop;
            }
            let kind = JobKind::Remote { from: from.1, to, bytes: size, barrier, reduction: copy.reduction };
            start(ctx, warp, pc, lane, kind, false);
            continue;
        };
        let Some((cta, offset)) = shared_place(
            ctx,
            warp,
            pc,
            shared_addresses,
            lane,
            address.space,
            16,
            if load { Action::Write } else { Action::Read },
        ) else {
            return Flow::Stop;
        };
        if !load && cta != ctx.cta {
            return bad(ctx, Kind::Cluster, "a copy from the shared memory of another CTA".into());
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut reduction = copy.reduction;
        let (mut fill, mut element) = ([0u8; 8], 1u32);
        let (total, span);
        if let Some(map_address) = tensor {
            let Some(map) = tensor_map(ctx, at, map_address) else { return Flow::Stop };
            if map.rank() != coordinates.len() {
                let message =
                    format!("{} coordinates for a tensor map of rank {}", coordinates.len(), map.rank());
                return bad(ctx, Kind::InvalidAccess, message);
            }
            if !offset.is_multiple_of(128) {
                return bad(
                    ctx,
                    Kind::Misaligned,
                    format!("the box at shared address {offset:#x} is not aligned to 128 bytes"),
                );
            }
            let at: Vec<i32> = coordinates.iter().map(|&c| warp.registers.r32(c)[lane] as i32).collect();
            map.segments(&at, offset, |s| runs.push((s.global, s.shared, s.length)));
            (fill, element) = (map.fill_bytes(), map.data_type.bytes() as u32);
            reduction = reduction.map(|r| r.of_elements(map.data_type));
            total = map.box_bytes() as u32;
            span = runs.iter().map(|r| r.1 + r.2).max().unwrap_or(offset) - offset;
        } else {
            let global = if load { src[lane] } else { dst[lane] };
            if !global.is_multiple_of(16) {
                return bad(
                    ctx,
                    Kind::Misaligned,
                    format!("a bulk copy at {}, not aligned to 16 bytes", ctx.memory.describe(global)),
                );
            }
            runs.push((Some(global), offset, size));
            (total, span) = (size, size);
        }
        if u64::from(offset) + u64::from(span) > ctx.ctas[cta].shared.len() as u64 || offset < SHARED_BASE {
            let message =
                format!("a copy of {span} bytes at shared address {offset:#x} leaves shared memory");
            return bad(ctx, Kind::OutOfBounds, message);
        }
        for &(global, _, length) in &runs {
            if let Some(global) = global
                && ctx.memory.range(global, u64::from(length)).is_err()
            {
                let what = if load { "read" } else { "write" };
                let message = format!("{what} of {length} bytes at {}", ctx.memory.describe(global));
                return bad(ctx, Kind::OutOfBounds, message);
            }
        }
        let moved = runs.iter().filter_map(|&(global, _, length)| Some((global?, length)));
        ctx.grid.counters.bulk(pc, moved, !load);
        if load {
            races::global_copied(ctx, at, pieces(&runs), Action::Read, Copier::Engine);
            let Some((barriers, space)) = &signals else {
                return bad(ctx, Kind::Unsupported, "a load without mbarrier".into());
            };
            let Some((barrier_cta, barrier)) =
                shared_place(ctx, warp, pc, barriers, lane, *space, 8, Action::Atomic)
            else {
                return Flow::Stop;
            };
            let mut targets = vec![cta];
            if let Some(masks) = &masks {
                let peers = ctx.own().peers.clone();
                if masks[lane] == 0 || masks[lane] >> peers.len() != 0 {
                    let message =
                        format!("multicast mask {:#x} in a cluster of {}", masks[lane], peers.len());
                    return bad(ctx, Kind::Cluster, message);
                }
                targets = lanes(masks[lane]).map(|rank| peers[rank]).collect();
            } else if barrier_cta != cta {
                return bad(ctx, Kind::Cluster, "destination and mbarrier lie in different CTAs".into());
            }
            for &target in &targets {
                if ctx.ctas[target].exited {
                    return bad(ctx, Kind::Cluster, "a copy into a CTA that has exited".into());
                }
                if mbarrier::object(ctx, at, target, barrier).is_none() {
                    return Flow::Stop;
                }
            }
            let kind = JobKind::Load { runs, fill, element, targets, barrier, bytes: total };
            start(ctx, warp, pc, lane, kind, false);
        } else {
            let action = if reduction.is_some() { Action::Atomic } else { Action::Write };
            let tracked = ctx.checks == Checks::All && races::communicates(ctx);
            let copier = if tracked { Copier::EngineInFlight } else { Copier::Engine };
            races::global_copied(ctx, at, pieces(&runs), action, copier);
            let written = if tracked { runs.clone() } else { Vec::new() };
            let id = start(ctx, warp, pc, lane, JobKind::Store { runs, reduction }, true);
            warp.bulk.open.push((lane as u32, id));
            if tracked {
                warp.bulk.writes.push(Write { id, at, runs: written, action });
            }
        }
    }
    Flow::Next
}

#[allow(clippy::too_many_arguments)]
pub fn remote_store(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    pc: u32,
    to: &[u64; 32],
    signals: &[u64; 32],
    values: &[Reg],
    bytes: u32,
    reduction: Option<Reduction>,
    active: u32,
) -> Flow {
    use crate::ptx::ast::Space;
    for lane in lanes(active) {
        let size = bytes * values.len() as u32;
        let Some(to) = shared_place(ctx, warp, pc, to, lane, Space::SharedCluster, size, Action::Write)
        else {
            return Flow::Stop;
        };
        let Some(barrier) =
            shared_place(ctx, warp, pc, signals, lane, Space::SharedCluster, 8, Action::Atomic)
        else {
            return Flow::Stop;
        };
        let at = At { pc, warp: warp.index, lane: Some(lane as u32), address: None };
        if mbarrier::object(ctx, at, barrier.0, barrier.1).is_none() {
            return Flow::Stop;
        }
        let values = values.iter().map(|&r| register_value(warp, r, lane)).collect();
        start(ctx, warp, pc, lane, JobKind::Values { to, values, element: bytes, barrier, reduction }, false);
    }
    Flow::Next
}
