//! Loads and stores: data, definedness, races, counters.

use super::memory::*;
use super::warp::Warp;
use super::{At, Context, Flow, lanes};
use crate::decode::program::*;
use crate::findings::Kind;
use crate::memory::{Bytes, Store};
use crate::options::Checks;
use crate::ptx::ast::Space;
use crate::races::{self, Touch};

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

/// Moves the elements of a load; `check` says whether undefined bytes make undefined registers.
#[inline(always)]
fn load_group(warp: &mut Warp, access: &Access, bytes: &Bytes, reach: &Reach, check: bool) {
    match reach.shape {
        Shape::Uniform => load_uniform(warp, access, bytes, reach, check),
        Shape::Contiguous => load_contiguous(warp, access, bytes, reach, check),
        Shape::Any => load_any(warp, access, bytes, reach, check),
    }
}

/// One element for all lanes.
#[inline(always)]
fn load_uniform(warp: &mut Warp, access: &Access, bytes: &Bytes, reach: &Reach, check: bool) {
    let at = reach.offsets[reach.mask.trailing_zeros() as usize & 31];
    for (k, reg) in access.registers[..access.count as usize].iter().enumerate() {
        let at = at + k * access.bytes as usize;
        let value = extend(bytes.get(at, access.bytes), access.bytes, access.signed);
        if reg.width == Width::W64 {
            warp.registers.write64(reg.slot, &[value; 32], reach.mask);
        } else {
            warp.registers.write32(reg.slot, &[value as u32; 32], reach.mask);
        }
        let poison = if check && !bytes.is_defined(at, access.bytes) { u32::MAX } else { 0 };
        warp.registers.set_poison(reg.slot, poison, reach.mask);
    }
}

/// 32 elements (or vectors of elements) in a row.
#[inline(always)]
fn load_contiguous(warp: &mut Warp, access: &Access, bytes: &Bytes, reach: &Reach, check: bool) {
    let (at, size) = (reach.offsets[0], reach.size as usize);
    if check && !bytes.all_defined(at, 32 * size) {
        return load_any(warp, access, bytes, reach, check);
    }
    let data = &bytes.data[at..at + 32 * size];
    for (k, reg) in access.registers[..access.count as usize].iter().enumerate() {
        let elements = data[k * access.bytes as usize..].chunks(size);
        if reg.width == Width::W64 {
            let to = warp.registers.m64(reg.slot);
            if access.bytes == 8 {
                for (to, from) in to.iter_mut().zip(elements) {
                    *to = u64::from_le_bytes(*from.first_chunk().expect("8 bytes"));
                }
            } else {
                for (to, lane) in to.iter_mut().zip(0..) {
                    let value = bytes.get(at + lane * size + k * access.bytes as usize, access.bytes);
                    *to = extend(value, access.bytes, access.signed);
                }
            }
        } else {
            let to = warp.registers.m32(reg.slot);
            match (access.bytes, access.signed) {
                (4, _) if size == 4 => {
                    for (to, from) in to.iter_mut().zip(data.as_chunks().0) {
                        *to = u32::from_le_bytes(*from);
                    }
                }
                (4, _) => {
                    for (to, from) in to.iter_mut().zip(elements) {
                        *to = u32::from_le_bytes(*from.first_chunk().expect("4 bytes"));
                    }
                }
                (2, false) => {
                    for (to, from) in to.iter_mut().zip(elements) {
                        *to = u32::from(u16::from_le_bytes(*from.first_chunk().expect("2 bytes")));
                    }
                }
                _ => {
                    for (to, lane) in to.iter_mut().zip(0..) {
                        let value = bytes.get(at + lane * size + k * access.bytes as usize, access.bytes);
                        *to = extend(value, access.bytes, access.signed) as u32;
                    }
                }
            }
        }
        warp.registers.set_poison(reg.slot, 0, u32::MAX);
    }
}

#[inline(never)]
fn load_any(warp: &mut Warp, access: &Access, bytes: &Bytes, reach: &Reach, check: bool) {
    let (offsets, mask) = (&reach.offsets, reach.mask);
    let mut poison = 0u32;
    if check {
        for lane in lanes(mask) {
            poison |= u32::from(!bytes.is_defined(offsets[lane], reach.size)) << lane;
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

/// Moves the elements of a store; `check` says whether to keep track of what is defined.
#[inline(always)]
fn store_group(warp: &Warp, access: &Access, bytes: &mut Bytes, reach: &Reach, check: bool) {
    let registers = &access.registers[..access.count as usize];
    let poison = registers.iter().fold(0, |p, reg| p | warp.registers.poison(reg.slot));
    if reach.shape == Shape::Contiguous && poison == 0 {
        store_contiguous(warp, access, bytes, reach, check);
    } else {
        store_any(warp, access, bytes, reach, check);
    }
}

/// 32 defined elements (or vectors of elements) in a row.
#[inline(always)]
fn store_contiguous(warp: &Warp, access: &Access, bytes: &mut Bytes, reach: &Reach, check: bool) {
    let (at, size) = (reach.offsets[0], reach.size as usize);
    let data = &mut bytes.data[at..at + 32 * size];
    for (k, reg) in access.registers[..access.count as usize].iter().enumerate() {
        let step = k * access.bytes as usize;
        if reg.width == Width::W64 {
            let from = warp.registers.r64(reg.slot);
            for (to, from) in data[step..].chunks_mut(size).zip(from) {
                let len = access.bytes as usize;
                to[..len].copy_from_slice(&from.to_le_bytes()[..len]);
            }
            continue;
        }
        let from = warp.registers.r32(reg.slot);
        match access.bytes {
            4 if size == 4 => {
                for (to, from) in data.as_chunks_mut().0.iter_mut().zip(from) {
                    *to = from.to_le_bytes();
                }
            }
            4 => {
                for (to, from) in data[step..].chunks_mut(size).zip(from) {
                    *to.first_chunk_mut().expect("4 bytes") = from.to_le_bytes();
                }
            }
            len => {
                for (to, from) in data[step..].chunks_mut(size).zip(from) {
                    to[..len as usize].copy_from_slice(&from.to_le_bytes()[..len as usize]);
                }
            }
        }
    }
    if check {
        bytes.define_range(at, 32 * size, true);
    }
}

#[inline(never)]
fn store_any(warp: &Warp, access: &Access, bytes: &mut Bytes, reach: &Reach, check: bool) {
    let (offsets, mask) = (&reach.offsets, reach.mask);
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
        if check {
            let poison = warp.registers.poison(reg.slot);
            for lane in lanes(mask) {
                bytes.set_defined(offsets[lane] + step, access.bytes, poison >> lane & 1 == 0);
            }
        }
    }
}

/// The range that all lanes reach together.
fn span(reach: &Reach) -> (usize, usize) {
    let (mut low, mut high) = (usize::MAX, 0);
    for lane in lanes(reach.mask) {
        low = low.min(reach.offsets[lane]);
        high = high.max(reach.offsets[lane]);
    }
    (low, high + reach.size as usize - low)
}

/// A load from a worker's view of memory.
#[inline(never)]
fn load_view(warp: &mut Warp, access: &Access, store: &mut Store, reach: &Reach, check: bool) {
    let (low, len) = span(reach);
    match reach.shape {
        Shape::Any => {
            lanes(reach.mask).for_each(|lane| store.note_read(reach.offsets[lane], reach.size as usize))
        }
        _ => store.note_read(low, len),
    }
    if let Some((bytes, start)) = store.reading(low, len) {
        return load_group(warp, access, bytes, &reach.from(start), check);
    }
    for lane in lanes(reach.mask) {
        if let Some((bytes, start)) = store.reading(reach.offsets[lane], reach.size as usize) {
            load_group(warp, access, bytes, &reach.from(start).only(lane), check);
        }
    }
}

/// A store to a worker's view of memory.
#[inline(never)]
fn store_view(warp: &Warp, access: &Access, store: &mut Store, reach: &Reach) {
    let (low, len) = span(reach);
    if reach.shape == Shape::Contiguous && low / Store::PAGE == (low + len - 1) / Store::PAGE {
        if let Some((bytes, start)) = store.writing(low, len) {
            store_group(warp, access, bytes, &reach.from(start), true);
        }
        return;
    }
    for lane in lanes(reach.mask) {
        if let Some((bytes, start)) = store.writing(reach.offsets[lane], reach.size as usize) {
            store_group(warp, access, bytes, &reach.from(start).only(lane), true);
        }
    }
}

#[inline(always)]
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
    if ctx.checks == Checks::All {
        check_address_poison(ctx, warp, pc, &access.address, active);
    }
    load_at(ctx, warp, top, pc, access, &addresses, active)
}

/// Loads from these addresses.
#[inline(always)]
pub fn load_at(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    top: u32,
    pc: u32,
    access: &Access,
    addresses: &[u64; 32],
    active: u32,
) -> Flow {
    let check = ctx.checks == Checks::All;
    let size = access.bytes * access.count;
    let touch = Touch::of(Action::Read, access.strength, access.scope);
    let mut rest = active;
    while rest != 0 {
        let Ok(group) =
            next_group(ctx, warp, top, pc, addresses, &mut rest, access.address.space, size, Action::Read)
        else {
            return Flow::Stop;
        };
        let mut reach = group.reach(addresses, size);
        match group.target {
            Target::Global => {
                races::global(ctx, warp, pc, group.origin, &reach, touch);
                if access.strength != Strength::Weak && access.strength != Strength::Volatile {
                    races::acquire_global(ctx, warp, group.origin, &reach, access.strength, access.scope);
                }
                if access.address.space != Space::Const {
                    ctx.grid.counters.global(pc, &reach, false);
                }
                let Ok(a) = ctx.memory.allocation(group.origin) else { return Flow::Stop };
                if a.bytes.is_view() {
                    load_view(warp, access, &mut a.bytes, &reach, check);
                } else {
                    load_group(warp, access, a.bytes.whole(), &reach, check);
                }
            }
            Target::Shared { cta } => {
                races::shared(ctx, warp, pc, cta, &reach, touch);
                ctx.grid.counters.shared(pc, &reach);
                load_group(warp, access, &ctx.ctas[cta].shared, &reach, check);
            }
            Target::Local => {
                let stride = warp.local.stride;
                reach.of_local(stride, warp.local.bytes.len());
                let local = std::mem::take(&mut warp.local);
                load_group(warp, access, &local.bytes, &reach, check);
                warp.local = local;
            }
            Target::Parameters => {
                let data = &ctx.grid.parameters;
                for k in 0..access.count as usize {
                    let reg = access.registers[k];
                    for lane in lanes(group.mask) {
                        let at = reach.offsets[lane] + k * access.bytes as usize;
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
    if ctx.checks == Checks::All {
        check_address_poison(ctx, warp, pc, &access.address, active);
    }
    store_at(ctx, warp, top, pc, access, &addresses, active)
}

/// Stores to these addresses.
#[inline(always)]
pub fn store_at(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    top: u32,
    pc: u32,
    access: &Access,
    addresses: &[u64; 32],
    active: u32,
) -> Flow {
    let check = ctx.checks == Checks::All;
    let size = access.bytes * access.count;
    let touch = Touch::of(Action::Write, access.strength, access.scope);
    let mut rest = active;
    *ctx.progress += 1;
    while rest != 0 {
        let Ok(group) =
            next_group(ctx, warp, top, pc, addresses, &mut rest, access.address.space, size, Action::Write)
        else {
            return Flow::Stop;
        };
        let mut reach = group.reach(addresses, size);
        match group.target {
            Target::Global => {
                races::global(ctx, warp, pc, group.origin, &reach, touch);
                races::release_global(ctx, warp, group.origin, &reach, access.strength, access.scope);
                ctx.grid.counters.global(pc, &reach, true);
                let Ok(a) = ctx.memory.allocation(group.origin) else { return Flow::Stop };
                if a.bytes.is_view() {
                    store_view(warp, access, &mut a.bytes, &reach);
                } else {
                    store_group(warp, access, a.bytes.whole(), &reach, true);
                }
            }
            Target::Shared { cta } => {
                races::shared(ctx, warp, pc, cta, &reach, touch);
                ctx.grid.counters.shared(pc, &reach);
                store_group(warp, access, &mut ctx.ctas[cta].shared, &reach, check);
            }
            Target::Local => {
                let stride = warp.local.stride;
                reach.of_local(stride, warp.local.bytes.len());
                let mut local = std::mem::take(&mut warp.local);
                store_group(warp, access, &mut local.bytes, &reach, check);
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
