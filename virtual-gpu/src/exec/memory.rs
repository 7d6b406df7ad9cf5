//! Loads and stores: address checks, data, definedness, races, counters.

use super::warp::Warp;
use super::{At, Context, Flow, lanes};
use crate::decode::program::*;
use crate::findings::Kind;
use crate::memory::*;
use crate::options::Checks;
use crate::ptx::ast::Space;
use crate::races::{self, Touch};

/// What an access does, for races and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Read,
    Write,
    Atomic,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::Atomic => "atomic",
        }
    }
}

/// Addresses of all lanes in the generic numbering.
#[inline(always)]
pub fn addresses(warp: &Warp, address: &Address, base: u32) -> [u64; 32] {
    let mut out = [0u64; 32];
    let offset = (address.offset as u64).wrapping_add(if address.frame { u64::from(base) } else { 0 });
    let shared = matches!(address.space, Space::Shared | Space::SharedCluster);
    if address.wide {
        let bases = warp.registers.r64(address.base);
        for l in 0..32 {
            out[l] = bases[l].wrapping_add(offset);
        }
    } else {
        let bases = warp.registers.r32(address.base);
        for l in 0..32 {
            out[l] = u64::from(bases[l]).wrapping_add(offset);
        }
    }
    if shared {
        for value in &mut out {
            *value = SHARED_WINDOW | u64::from(*value as u32);
        }
    }
    out
}

/// Reports an undefined address and says whether to stop.
#[inline(always)]
pub fn check_address_poison(ctx: &mut Context<'_>, warp: &Warp, pc: u32, address: &Address, mask: u32) {
    let poison = warp.registers.poison(address.base) & mask;
    if poison != 0 {
        super::step::undefined(ctx, warp.index, pc, poison, "the address");
    }
}

/// A group of lanes whose addresses lie in one place.
pub enum Target {
    /// Shared memory of a resident CTA; addresses are offsets.
    Shared {
        cta: usize,
    },
    Local,
    Parameters,
    Global,
}

fn window_of(address: u64) -> u64 {
    address & !OFFSET_MASK
}

/// Resolves the group's window. `None` after a fatal finding.
fn resolve(ctx: &mut Context<'_>, at: At, address: u64, space: Space, what: Action) -> Option<Target> {
    let window = window_of(address);
    let target = match window {
        SHARED_WINDOW => {
            let offset = (address & OFFSET_MASK) as u32;
            let rank = offset >> RANK_SHIFT;
            if rank == 0 {
                Target::Shared { cta: ctx.cta }
            } else {
                let own = &ctx.ctas[ctx.cta];
                match own.peers.get(rank as usize - 1) {
                    Some(&cta) if space != Space::Shared || cta == ctx.cta => {
                        if ctx.ctas[cta].exited {
                            let message = format!(
                                "{} in shared memory of CTA rank {}, which has exited",
                                what.name(),
                                rank - 1
                            );
                            ctx.report(Kind::Cluster, true, at, message, None);
                            return None;
                        }
                        Target::Shared { cta }
                    }
                    _ => {
                        let message =
                            format!("{} at shared address {offset:#x}, outside the CTA", what.name());
                        ctx.report(Kind::OutOfBounds, true, at, message, None);
                        return None;
                    }
                }
            }
        }
        LOCAL_WINDOW => Target::Local,
        PARAM_WINDOW => Target::Parameters,
        _ => Target::Global,
    };
    let fits = match space {
        Space::Generic => true,
        Space::Shared | Space::SharedCluster => matches!(target, Target::Shared { .. }),
        Space::Local => matches!(target, Target::Local),
        // Parameters of functions live in local memory.
        Space::Param => matches!(target, Target::Parameters | Target::Local),
        Space::Global | Space::Const => matches!(target, Target::Global),
    };
    if !fits {
        let message = format!(
            "{} through .{} of the address {address:#x} of another state space",
            what.name(),
            space_name(space)
        );
        ctx.report(Kind::InvalidAccess, true, at, message, None);
        return None;
    }
    Some(target)
}

fn space_name(space: Space) -> &'static str {
    match space {
        Space::Generic => "generic",
        Space::Global => "global",
        Space::Const => "const",
        Space::Shared => "shared",
        Space::SharedCluster => "shared::cluster",
        Space::Local => "local",
        Space::Param => "param",
    }
}

/// Offsets in a window are checked for all lanes of `mask`: alignment, and `low <= offset`, `offset + size <= len`.
#[inline(always)]
fn bad_lanes(addresses: &[u64; 32], mask: u32, window: u64, low: u64, len: u64, size: u64) -> u32 {
    let mut bad = 0u32;
    let room = len.wrapping_sub(size);
    let short = len < size;
    for (l, address) in addresses.iter().enumerate() {
        let offset = address.wrapping_sub(window);
        let wrong = short | (offset > room) | (offset < low) | (offset & (size - 1) != 0);
        bad |= u32::from(wrong) << l;
    }
    bad & mask
}

#[cold]
fn report_bad(
    ctx: &mut Context<'_>,
    mut at: At,
    address: u64,
    size: u64,
    window_len: Option<(u64, u64)>,
    what: Action,
    space: &str,
    count: u32,
) {
    at.address = Some(address);
    let offset = address & OFFSET_MASK;
    let inside = window_len.is_some_and(|(low, len)| offset >= low && offset + size <= len);
    let place = match space {
        "global" | "const" => ctx.memory.describe(address),
        "shared" => {
            let len = window_len.map_or(0, |(_, len)| len);
            format!("shared offset {:#x}, the CTA has {:#x} to {len:#x}", offset, SHARED_BASE)
        }
        _ => format!("{space} offset {offset:#x} of {} bytes", window_len.map_or(0, |(_, len)| len)),
    };
    let lanes = if count > 1 { format!(" ({count} lanes)") } else { String::new() };
    if inside || window_len.is_some() && !offset.is_multiple_of(size) {
        let message = format!("{} of {size} bytes at {place} is not aligned{lanes}", what.name());
        ctx.report(Kind::Misaligned, true, at, message, None);
    } else {
        let message = format!("{} of {size} bytes at {place}{lanes}", what.name());
        ctx.report(Kind::OutOfBounds, true, at, message, None);
    }
}

/// Checks a group in one window; on success the byte offsets are valid for `size` bytes each.
/// The group is every lane of `mask` in the first lane's window (and CTA).
pub struct Group {
    pub mask: u32,
    pub target: Target,
    /// Subtracted from an address gives the offset in the target's bytes.
    pub origin: u64,
}

/// Takes the next group off `rest` and checks it. `Err` after a fatal finding.
#[inline(always)]
pub fn next_group(
    ctx: &mut Context<'_>,
    warp: &Warp,
    top: u32,
    pc: u32,
    addresses: &[u64; 32],
    rest: &mut u32,
    space: Space,
    size: u32,
    what: Action,
) -> Result<Group, ()> {
    let first = rest.trailing_zeros() as usize;
    let window = window_of(addresses[first]);
    // Shared addresses of different CTAs differ above the rank's bits.
    let granularity = if window == SHARED_WINDOW { !((1u64 << RANK_SHIFT) - 1) } else { !OFFSET_MASK };
    let origin = addresses[first] & granularity;
    let mut mask = 0u32;
    for (l, address) in addresses.iter().enumerate() {
        mask |= u32::from(address & granularity == origin) << l;
    }
    mask &= *rest;
    *rest &= !mask;
    let at = At { pc, warp: warp.index, lane: Some(first as u32), address: Some(addresses[first]) };
    let Some(target) = resolve(ctx, at, addresses[first], space, what) else { return Err(()) };
    let size = u64::from(size);
    let (low, len, name) = match target {
        Target::Shared { cta } => (u64::from(SHARED_BASE), ctx.ctas[cta].shared.len() as u64, "shared"),
        Target::Local => (0, u64::from(top), "local"),
        Target::Parameters => (0, ctx.grid.parameters.len() as u64, "param"),
        Target::Global => match ctx.memory.allocation(window) {
            Ok(a) => {
                let len = a.bytes.len() as u64;
                if a.read_only && what != Action::Read {
                    let message = format!(
                        "{} to constant memory at {}",
                        what.name(),
                        ctx.memory.describe(addresses[first])
                    );
                    ctx.report(Kind::InvalidAccess, true, at, message, None);
                    return Err(());
                }
                (0, len, "global")
            }
            Err(_) => {
                report_bad(ctx, at, addresses[first], size, None, what, "global", mask.count_ones());
                return Err(());
            }
        },
    };
    let bad = bad_lanes(addresses, mask, origin, low, len, size);
    if bad != 0 {
        let lane = bad.trailing_zeros();
        let at = At { lane: Some(lane), ..at };
        report_bad(ctx, at, addresses[lane as usize], size, Some((low, len)), what, name, bad.count_ones());
        return Err(());
    }
    Ok(Group { mask, target, origin })
}

/// Sign-extends a loaded element to its register's width.
#[inline(always)]
fn extend(value: u64, bytes: u32, signed: bool) -> u64 {
    if signed {
        let unused = 64 - 8 * bytes;
        ((value << unused) as i64 >> unused) as u64
    } else {
        value
    }
}

#[inline(always)]
fn load_group(
    warp: &mut Warp,
    access: &Access,
    bytes: &Bytes,
    offsets: &[usize; 32],
    mask: u32,
    check: bool,
) {
    let size = access.bytes * access.count;
    let mut poison = 0u32;
    if check {
        for lane in lanes(mask) {
            poison |= u32::from(!bytes.is_defined(offsets[lane], size)) << lane;
        }
    }
    for k in 0..access.count as usize {
        let reg = access.registers[k];
        let step = k * access.bytes as usize;
        if reg.width == Width::W64 {
            let to = warp.registers.m64(reg.slot);
            for lane in lanes(mask) {
                to[lane] = extend(bytes.get(offsets[lane] + step, access.bytes), access.bytes, access.signed);
            }
        } else if access.bytes == 4 {
            let to = warp.registers.m32(reg.slot);
            for lane in lanes(mask) {
                to[lane] = bytes.get(offsets[lane] + step, 4) as u32;
            }
        } else {
            let to = warp.registers.m32(reg.slot);
            for lane in lanes(mask) {
                to[lane] =
                    extend(bytes.get(offsets[lane] + step, access.bytes), access.bytes, access.signed) as u32;
            }
        }
        let mut own = poison;
        if poison != 0 {
            // Exact by element.
            own = 0;
            for lane in lanes(poison) {
                own |= u32::from(!bytes.is_defined(offsets[lane] + step, access.bytes)) << lane;
            }
        }
        warp.registers.set_poison(reg.slot, own, mask);
    }
}

#[inline(always)]
fn store_group(
    warp: &Warp,
    access: &Access,
    bytes: &mut Bytes,
    offsets: &[usize; 32],
    mask: u32,
    check: bool,
) {
    for k in 0..access.count as usize {
        let reg = access.registers[k];
        let step = k * access.bytes as usize;
        if reg.width == Width::W64 {
            let from = warp.registers.r64(reg.slot);
            for lane in lanes(mask) {
                bytes.put(offsets[lane] + step, access.bytes, from[lane]);
            }
        } else {
            let from = warp.registers.r32(reg.slot);
            for lane in lanes(mask) {
                bytes.put(offsets[lane] + step, access.bytes, u64::from(from[lane]));
            }
        }
        if check && access.count > 1 {
            let poison = warp.registers.poison(reg.slot);
            for lane in lanes(mask & poison) {
                bytes.set_defined(offsets[lane] + step, access.bytes, false);
            }
            for lane in lanes(mask & !poison) {
                bytes.set_defined(offsets[lane] + step, access.bytes, true);
            }
        }
    }
    if check && access.count == 1 {
        let poison = warp.registers.poison(access.registers[0].slot);
        for lane in lanes(mask) {
            bytes.set_defined(offsets[lane], access.bytes, poison >> lane & 1 == 0);
        }
    }
}

#[inline(always)]
fn offsets_of(addresses: &[u64; 32], origin: u64) -> [usize; 32] {
    let mut out = [0; 32];
    for l in 0..32 {
        out[l] = addresses[l].wrapping_sub(origin) as usize;
    }
    out
}

pub fn load(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    access: &Access,
    active: u32,
) -> Flow {
    if active == 0 {
        return Flow::Next;
    }
    let (base, top) = (warp.splits[chosen].base, warp.splits[chosen].top);
    let addresses = addresses(warp, &access.address, base);
    let check = ctx.checks == Checks::All;
    if check {
        check_address_poison(ctx, warp, pc, &access.address, active);
    }
    let size = access.bytes * access.count;
    let mut rest = active;
    while rest != 0 {
        let Ok(group) =
            next_group(ctx, warp, top, pc, &addresses, &mut rest, access.address.space, size, Action::Read)
        else {
            return Flow::Stop;
        };
        let mut offsets = offsets_of(&addresses, group.origin);
        match group.target {
            Target::Global => {
                if access.strength == Strength::Weak || access.strength == Strength::Volatile {
                    races::global(
                        ctx,
                        warp,
                        pc,
                        group.origin,
                        &offsets,
                        group.mask,
                        size,
                        Touch::of(Action::Read, access.strength),
                    );
                } else {
                    races::global(
                        ctx,
                        warp,
                        pc,
                        group.origin,
                        &offsets,
                        group.mask,
                        size,
                        Touch::of(Action::Read, access.strength),
                    );
                    races::acquire_global(ctx, warp, group.origin, &offsets, group.mask, access.strength);
                }
                ctx.grid.counters.global(pc, &offsets, group.mask, size, false);
                let Ok(a) = ctx.memory.allocation(group.origin) else { return Flow::Stop };
                load_group(warp, access, &a.bytes, &offsets, group.mask, check);
            }
            Target::Shared { cta } => {
                races::shared(
                    ctx,
                    warp,
                    pc,
                    cta,
                    &offsets,
                    group.mask,
                    size,
                    Touch::of(Action::Read, access.strength),
                );
                ctx.grid.counters.shared(pc, &offsets, group.mask, size, false);
                load_group(warp, access, &ctx.ctas[cta].shared, &offsets, group.mask, check);
            }
            Target::Local => {
                let stride = warp.local.stride;
                (0..32).for_each(|l| offsets[l] = (offsets[l] + l * stride).min(warp.local.bytes.len()));
                let local = std::mem::take(&mut warp.local);
                load_group(warp, access, &local.bytes, &offsets, group.mask, check);
                warp.local = local;
            }
            Target::Parameters => {
                let data = &ctx.grid.parameters;
                for k in 0..access.count as usize {
                    let reg = access.registers[k];
                    for lane in lanes(group.mask) {
                        let at = offsets[lane] + k * access.bytes as usize;
                        let mut buffer = [0u8; 8];
                        buffer[..access.bytes as usize]
                            .copy_from_slice(&data[at..at + access.bytes as usize]);
                        let value = extend(u64::from_le_bytes(buffer), access.bytes, access.signed);
                        if reg.width == Width::W64 {
                            warp.registers.m64(reg.slot)[lane] = value;
                        } else {
                            warp.registers.m32(reg.slot)[lane] = value as u32;
                        }
                    }
                    warp.registers.set_poison(reg.slot, 0, group.mask);
                }
            }
        }
    }
    Flow::Next
}

pub fn store(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    access: &Access,
    active: u32,
) -> Flow {
    if active == 0 {
        return Flow::Next;
    }
    let (base, top) = (warp.splits[chosen].base, warp.splits[chosen].top);
    let addresses = addresses(warp, &access.address, base);
    let check = ctx.checks == Checks::All;
    if check {
        check_address_poison(ctx, warp, pc, &access.address, active);
    }
    let size = access.bytes * access.count;
    let mut rest = active;
    *ctx.progress += 1;
    while rest != 0 {
        let Ok(group) =
            next_group(ctx, warp, top, pc, &addresses, &mut rest, access.address.space, size, Action::Write)
        else {
            return Flow::Stop;
        };
        let mut offsets = offsets_of(&addresses, group.origin);
        match group.target {
            Target::Global => {
                races::global(
                    ctx,
                    warp,
                    pc,
                    group.origin,
                    &offsets,
                    group.mask,
                    size,
                    Touch::of(Action::Write, access.strength),
                );
                races::release_global(ctx, warp, group.origin, &offsets, group.mask, access.strength);
                ctx.grid.counters.global(pc, &offsets, group.mask, size, true);
                let Ok(a) = ctx.memory.allocation(group.origin) else { return Flow::Stop };
                store_group(warp, access, &mut a.bytes, &offsets, group.mask, true);
            }
            Target::Shared { cta } => {
                races::shared(
                    ctx,
                    warp,
                    pc,
                    cta,
                    &offsets,
                    group.mask,
                    size,
                    Touch::of(Action::Write, access.strength),
                );
                ctx.grid.counters.shared(pc, &offsets, group.mask, size, true);
                store_group(warp, access, &mut ctx.ctas[cta].shared, &offsets, group.mask, check);
            }
            Target::Local => {
                let stride = warp.local.stride;
                (0..32).for_each(|l| offsets[l] = (offsets[l] + l * stride).min(warp.local.bytes.len()));
                let mut local = std::mem::take(&mut warp.local);
                store_group(warp, access, &mut local.bytes, &offsets, group.mask, check);
                warp.local = local;
            }
            Target::Parameters => {
                let at = At { pc, warp: warp.index, lane: Some(group.mask.trailing_zeros()), address: None };
                ctx.report(Kind::InvalidAccess, true, at, "write to the kernel's parameters".into(), None);
                return Flow::Stop;
            }
        }
    }
    Flow::Next
}
