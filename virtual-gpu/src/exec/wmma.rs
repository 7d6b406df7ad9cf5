//! `wmma.load`, `wmma.mma` and `wmma.store`: data movement here, layouts and arithmetic in `tensor`.

use super::access::{load_at, store_at};
use super::matrix::whole_warp;
use super::memory::{addresses, check_address_poison};
use super::warp::Warp;
use super::{At, Context, Flow};
use crate::decode::program::*;
use crate::findings::Kind;
use crate::options::Checks;
use crate::registers::Slot;
use crate::tensor::wmma::{Fragment, Wmma};

/// A fragment in memory.
pub struct Tile {
    pub fragment: Fragment,
    pub address: Address,
    /// Elements from one row (column) to the next.
    pub stride: Slot,
    pub row_major: bool,
    pub registers: Vec<Slot>,
    /// For the elements of a register that do not lie side by side.
    pub scratch: Vec<Slot>,
}

pub enum WmmaOp {
    Load(Tile),
    Store(Tile),
    Product { kind: Wmma, a: Vec<Slot>, b: Vec<Slot>, c: Vec<Slot>, d: Vec<Slot> },
}

/// Alignment in bytes that every row (column) needs at least.
const ROW_ALIGNMENT: u64 = 16;

pub fn execute(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    op: &WmmaOp,
    active: u32,
) -> Flow {
    if let Some(flow) = whole_warp(ctx, warp, chosen, pc, active) {
        return flow;
    }
    match op {
        WmmaOp::Load(tile) => transfer(ctx, warp, chosen, pc, tile, true),
        WmmaOp::Store(tile) => transfer(ctx, warp, chosen, pc, tile, false),
        WmmaOp::Product { kind, a, b, c, d } => {
            product(warp, kind, [a, b, c, d]);
            ctx.grid.counters.tensor(pc, kind.macs() as u64);
            Flow::Next
        }
    }
}

fn product(warp: &mut Warp, kind: &Wmma, [a, b, c, d]: [&[Slot]; 4]) {
    let r = &mut warp.registers;
    let values = |slots: &[Slot]| -> Vec<[u32; 32]> { slots.iter().map(|&slot| *r.r32(slot)).collect() };
    let poison = |slots: &[Slot]| -> Vec<u32> { slots.iter().map(|&slot| r.poison(slot)).collect() };
    let (mut out, mut undefined) = (vec![[0; 32]; d.len()], vec![0; d.len()]);
    kind.run(&values(a), &values(b), &values(c), &mut out);
    if [a, b, c].iter().any(|slots| slots.iter().any(|&slot| r.poison(slot) != 0)) {
        kind.poison(&poison(a), &poison(b), &poison(c), &mut undefined);
    }
    for ((&slot, values), undefined) in d.iter().zip(&out).zip(undefined) {
        *r.m32(slot) = *values;
        r.set_poison(slot, undefined, u32::MAX);
    }
}

/// Where the tile begins and its stride, which all lanes must agree on.
fn origin(ctx: &mut Context<'_>, warp: &Warp, chosen: usize, pc: u32, tile: &Tile) -> Option<(u64, u64)> {
    if ctx.checks == Checks::All {
        check_address_poison(ctx, warp, pc, &tile.address, u32::MAX);
        let poison = warp.registers.poison(tile.stride);
        if poison != 0 {
            super::step::undefined(ctx, warp.index, pc, poison, "the stride");
        }
    }
    let origins = addresses(warp, &tile.address, warp.splits[chosen].base);
    let strides = warp.registers.r32(tile.stride);
    let (origin, stride) = (origins[0], u64::from(strides[0]));
    let at = At { pc, warp: warp.index, lane: Some(0), address: Some(origin) };
    let other = (1..32).find(|&lane| origins[lane] != origin || strides[lane] != strides[0]);
    if let Some(lane) = other {
        let message = format!("lane {lane} has another address or stride than lane 0");
        ctx.report(Kind::WarpSync, true, at, message, None);
        return None;
    }
    let needed = tile.fragment.bytes() as u64;
    if !origin.is_multiple_of(needed) {
        let message = format!("the tile at {} is not aligned to {needed} bytes", ctx.memory.describe(origin));
        ctx.report(Kind::Misaligned, true, at, message, None);
        return None;
    }
    let (needed, bits) = (needed.min(ROW_ALIGNMENT), tile.fragment.element().bits() as u64);
    if !(stride * bits).is_multiple_of(8 * needed) {
        let message =
            format!("a stride of {stride} elements of {bits} bits is no multiple of {needed} bytes");
        ctx.report(Kind::Misaligned, true, at, message, None);
        return None;
    }
    Some((origin, stride))
}

/// Loads or stores a fragment, register by register: whole ones where their elements lie side by side, else element
/// by element.
fn transfer(ctx: &mut Context<'_>, warp: &mut Warp, chosen: usize, pc: u32, tile: &Tile, load: bool) -> Flow {
    let Some((origin, stride)) = origin(ctx, warp, chosen, pc, tile) else { return Flow::Stop };
    let fragment = &tile.fragment;
    let element = fragment.element();
    let (bits, per) = (element.bits() as u64, element.per_register());
    let whole = per == 1 || fragment.is_down() != tile.row_major;
    let bytes = if whole { bits.max(32) / 8 } else { bits / 8 } as u32;
    let width = if bytes == 8 { Width::W64 } else { Width::W32 };
    let top = warp.splits[chosen].top;
    for (number, &slot) in tile.registers.iter().enumerate().take(fragment.distinct()) {
        if !load && !whole {
            scatter(warp, slot, &tile.scratch, bytes);
        }
        for i in 0..if whole { 1 } else { per } {
            let addresses: [u64; 32] = std::array::from_fn(|lane| {
                let (row, column) = fragment.position(lane, number);
                let (row, column) = if fragment.is_down() { (row + i, column) } else { (row, column + i) };
                let (line, place) = if tile.row_major { (row, column) } else { (column, row) };
                origin.wrapping_add(
                    (line as u64).wrapping_mul(stride).wrapping_add(place as u64).wrapping_mul(bits) / 8,
                )
            });
            let moved = if whole { slot } else { tile.scratch[i] };
            let access = Access {
                address: tile.address,
                bytes,
                count: 1,
                registers: [Reg { slot: moved, width }; 8],
                signed: false,
                strength: Strength::Weak,
                scope: Scope::System,
                constant_cache: false,
            };
            let flow = if load {
                load_at(ctx, warp, top, pc, &access, &addresses, u32::MAX)
            } else {
                store_at(ctx, warp, top, pc, &access, &addresses, u32::MAX)
            };
            if flow != Flow::Next {
                return flow;
            }
        }
        if load && !whole {
            gather(warp, slot, &tile.scratch, bytes);
        }
    }
    if load {
        for (number, &slot) in tile.registers.iter().enumerate().skip(fragment.distinct()) {
            let first = tile.registers[number % fragment.distinct()];
            *warp.registers.m32(slot) = *warp.registers.r32(first);
            warp.registers.set_poison(slot, warp.registers.poison(first), u32::MAX);
        }
    }
    Flow::Next
}

/// Puts loaded elements of `bytes` bytes together to a register.
fn gather(warp: &mut Warp, slot: Slot, scratch: &[Slot], bytes: u32) {
    let (mut values, mut poison) = ([0u32; 32], 0);
    for (from, i) in scratch.iter().zip(0..) {
        let elements = warp.registers.r32(*from);
        (0..32).for_each(|lane| values[lane] |= elements[lane] << (8 * bytes * i));
        poison |= warp.registers.poison(*from);
    }
    *warp.registers.m32(slot) = values;
    warp.registers.set_poison(slot, poison, u32::MAX);
}

/// Takes a register apart.
fn scatter(warp: &mut Warp, slot: Slot, scratch: &[Slot], bytes: u32) {
    let (values, poison) = (*warp.registers.r32(slot), warp.registers.poison(slot));
    for (to, i) in scratch.iter().zip(0..) {
        *warp.registers.m32(*to) = values.map(|value| value >> (8 * bytes * i));
        warp.registers.set_poison(*to, poison, u32::MAX);
    }
}
