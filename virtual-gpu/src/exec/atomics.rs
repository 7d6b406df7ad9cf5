//! `atom` and `red`.

use super::memory::{Action, Target, addresses, check_address_poison, next_group};
use super::warp::Warp;
use super::{Context, Flow, lanes};
use crate::decode::program::*;
use crate::memory::Bytes;
use crate::numeric::arith::*;
use crate::options::Checks;
use crate::races::{self, Touch};
use crate::registers::Slot;

fn half_rule(max: bool) -> MinMax {
    MinMax { max, ..MinMax::default() }
}

/// The new value of a memory element of `bytes` bytes.
pub fn apply(op: Rmw, old: u64, b: u64, c: u64, bytes: u32) -> u64 {
    let mask = u64::MAX >> (64 - 8 * bytes);
    let unused = 64 - 8 * bytes;
    let signed = |x: u64| (x << unused) as i64 >> unused;
    let (o, v) = (old as u32, b as u32);
    let packed = |f: fn(u16, u16) -> u16| u64::from(packed2(o, v, f));
    match op {
        Rmw::And => old & b,
        Rmw::Or => old | b,
        Rmw::Xor => old ^ b,
        Rmw::Exch => b,
        Rmw::Cas => {
            if old == b & mask {
                c & mask
            } else {
                old
            }
        }
        Rmw::Add => old.wrapping_add(b) & mask,
        Rmw::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Rmw::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        Rmw::MinU => old.min(b),
        Rmw::MaxU => old.max(b),
        Rmw::MinS => signed(old).min(signed(b)) as u64 & mask,
        Rmw::MaxS => signed(old).max(signed(b)) as u64 & mask,
        Rmw::AddF32 => u64::from(canonical_f32(f32::from_bits(o) + f32::from_bits(v))),
        Rmw::AddF64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        Rmw::AddF16 => u64::from(add_f16(o as u16, v as u16)),
        Rmw::AddBf16 => u64::from(add_bf16(o as u16, v as u16)),
        Rmw::AddF16x2 => packed(add_f16),
        Rmw::AddBf16x2 => packed(add_bf16),
        Rmw::MinF16 => u64::from(min_max_f16(o as u16, v as u16, half_rule(false))),
        Rmw::MaxF16 => u64::from(min_max_f16(o as u16, v as u16, half_rule(true))),
        Rmw::MinBf16 => u64::from(min_max_bf16(o as u16, v as u16, half_rule(false))),
        Rmw::MaxBf16 => u64::from(min_max_bf16(o as u16, v as u16, half_rule(true))),
        Rmw::MinF16x2 => packed(|a, b| min_max_f16(a, b, half_rule(false))),
        Rmw::MaxF16x2 => packed(|a, b| min_max_f16(a, b, half_rule(true))),
        Rmw::MinBf16x2 => packed(|a, b| min_max_bf16(a, b, half_rule(false))),
        Rmw::MaxBf16x2 => packed(|a, b| min_max_bf16(a, b, half_rule(true))),
    }
}

/// Element of a register operand.
pub fn register_value(warp: &Warp, reg: Reg, lane: usize) -> u64 {
    match reg.width {
        Width::W64 => warp.registers.r64(reg.slot)[lane],
        _ => u64::from(warp.registers.r32(reg.slot)[lane]),
    }
}

/// Lanes in ascending order, except that a random schedule may start anywhere.
pub fn atomic(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    chosen: usize,
    pc: u32,
    a: &Atomic,
    active: u32,
) -> Flow {
    let (base, top) = (warp.splits[chosen].base, warp.splits[chosen].top);
    let addresses = addresses(warp, &a.address, base);
    if ctx.checks == Checks::All {
        check_address_poison(ctx, warp, pc, &a.address, active);
    }
    let size = a.bytes * a.count;
    let rotation =
        if matches!(ctx.order, crate::options::Order::Random(_)) { ctx.random.below(32) } else { 0 };
    let mut rest = active;
    *ctx.progress += 1;
    while rest != 0 {
        let Ok(group) =
            next_group(ctx, warp, top, pc, &addresses, &mut rest, a.address.space, size, Action::Atomic)
        else {
            return Flow::Stop;
        };
        let mut reach = group.reach(&addresses, size);
        let order = lanes(group.mask).collect::<Vec<_>>();
        let start = order.iter().position(|&l| l >= rotation).unwrap_or(0);
        let order = order[start..].iter().chain(&order[..start]).copied();
        match group.target {
            Target::Global => {
                races::atomic_global(ctx, warp, pc, group.origin, &reach, (a.strength, a.scope));
                ctx.grid.counters.global(pc, &reach, true);
                let Ok(allocation) = ctx.memory.allocation(group.origin) else { return Flow::Stop };
                if allocation.bytes.is_view() {
                    // Workers cannot do this: the launch is run again by one.
                    return Flow::Stop;
                }
                perform(warp, a, allocation.bytes.whole(), &reach.offsets, order);
            }
            Target::Shared { cta } => {
                races::shared(ctx, warp, pc, cta, &reach, Touch::of(Action::Atomic, a.strength, a.scope));
                races::atomic_shared(ctx, warp, cta, &reach);
                ctx.grid.counters.shared(pc, &reach);
                perform(warp, a, &mut ctx.ctas[cta].shared, &reach.offsets, order);
            }
            Target::Local => {
                let stride = warp.local.stride;
                reach.of_local(stride, warp.local.bytes.len());
                let mut local = std::mem::take(&mut warp.local);
                perform(warp, a, &mut local.bytes, &reach.offsets, order);
                warp.local = local;
            }
            Target::Parameters => return Flow::Stop,
        }
    }
    Flow::Next
}

/// An exchange or compare-and-swap of 128 bits.
fn perform_128(warp: &mut Warp, a: &Atomic, bytes: &mut Bytes, at: usize, lane: usize) {
    let halves = |slot: Slot| [slot, slot + 2];
    let value = |slot: Slot| halves(slot).map(|half| warp.registers.r64(half)[lane]);
    let poisoned = |slot: Slot| halves(slot).map(|half| warp.registers.poison(half) >> lane & 1 != 0);
    let old = [0, 8].map(|half| bytes.get(at + half, 8));
    let defined = [0, 8].map(|half| bytes.is_defined(at + half, 8));
    let (b, b_poison) = (value(a.b[0].slot), poisoned(a.b[0].slot));
    // An undefined comparison leaves nothing known.
    let (new, new_defined) = match a.op {
        Rmw::Cas => {
            let (c, c_poison) = (value(a.c.slot), poisoned(a.c.slot));
            let known = defined == [true; 2] && b_poison == [false; 2];
            let equal = old == b;
            let swapped = [0, 1].map(|i| known && !(equal && c_poison[i]));
            (if equal { c } else { old }, swapped)
        }
        _ => (b, b_poison.map(|p| !p)),
    };
    for (i, half) in [0, 8].into_iter().enumerate() {
        bytes.put(at + half, 8, new[i]);
        bytes.set_defined(at + half, 8, new_defined[i]);
    }
    if let Some(d) = &a.d {
        for (i, slot) in halves(d[0].slot).into_iter().enumerate() {
            warp.registers.m64(slot)[lane] = old[i];
            warp.registers.set_poison(slot, if defined[i] { 0 } else { u32::MAX }, 1 << lane);
        }
    }
}

fn perform(
    warp: &mut Warp,
    a: &Atomic,
    bytes: &mut Bytes,
    offsets: &[usize; 32],
    order: impl Iterator<Item = usize>,
) {
    for lane in order {
        if a.bytes == 16 {
            perform_128(warp, a, bytes, offsets[lane], lane);
            continue;
        }
        for k in 0..a.count as usize {
            let at = offsets[lane] + k * a.bytes as usize;
            let old = bytes.get(at, a.bytes);
            let defined = bytes.is_defined(at, a.bytes);
            let operand = register_value(warp, a.b[k], lane);
            let compare = register_value(warp, a.c, lane);
            bytes.put(at, a.bytes, apply(a.op, old, operand, compare, a.bytes));
            let operand_poison =
                (warp.registers.poison(a.b[k].slot) | warp.registers.poison(a.c.slot)) >> lane & 1 != 0;
            bytes.set_defined(at, a.bytes, (defined || a.op == Rmw::Exch) && !operand_poison);
            if let Some(d) = &a.d {
                let reg = d[k];
                if reg.width == Width::W64 {
                    warp.registers.m64(reg.slot)[lane] = old;
                } else {
                    warp.registers.m32(reg.slot)[lane] = old as u32;
                }
                warp.registers.set_poison(reg.slot, if defined { 0 } else { u32::MAX }, 1 << lane);
            }
        }
    }
}
