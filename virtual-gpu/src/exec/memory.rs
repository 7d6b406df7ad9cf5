//! The addresses of an access: which memory they reach, and whether they may.

use super::warp::Warp;
use super::{At, Context, lanes};
use crate::decode::program::*;
use crate::findings::Kind;
use crate::memory::*;
use crate::ptx::ast::Space;

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

/// The lanes of `mask` whose offsets are not aligned to `size` or not within `low <= offset`, `offset + size <= len`.
fn bad_lanes(addresses: &[u64; 32], mask: u32, window: u64, low: u64, len: u64, size: u64) -> u32 {
    let bad = |lane: usize| {
        let offset = addresses[lane].wrapping_sub(window);
        len < size || offset > len - size || offset < low || offset & (size - 1) != 0
    };
    lanes(mask).filter(|&lane| bad(lane)).fold(0, |bad, lane| bad | 1 << lane)
}

/// How the addresses of a group of lanes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All at one place.
    Uniform,
    /// All 32 lanes, each right behind the one before.
    Contiguous,
    Any,
}

/// What all lanes together reach, found in one pass that the compiler turns into vector code.
struct Extent {
    /// Bits in which an address differs from the first.
    differing: u64,
    /// Bits set in any address.
    any: u64,
    lowest: u64,
    highest: u64,
}

impl Extent {
    /// Of one lane.
    fn of(address: u64) -> Self {
        Extent { differing: 0, any: address, lowest: address, highest: address }
    }
}

#[inline(always)]
fn extent(addresses: &[u64; 32], mask: u32, first: u64) -> Extent {
    let (mut differing, mut any) = (0u64, 0u64);
    // Addresses are below 2^63, and signed minima are cheaper.
    let (mut lowest, mut highest) = (first as i64, first as i64);
    if mask == u32::MAX {
        for &address in addresses {
            differing |= address ^ first;
            any |= address;
            lowest = lowest.min(address as i64);
            highest = highest.max(address as i64);
        }
    } else {
        for (l, &address) in addresses.iter().enumerate() {
            let address = if mask >> l & 1 != 0 { address } else { first };
            differing |= address ^ first;
            any |= address;
            lowest = lowest.min(address as i64);
            highest = highest.max(address as i64);
        }
    }
    Extent { differing, any, lowest: lowest as u64, highest: highest as u64 }
}

/// Whether each of the 32 addresses is `size` bytes behind the one before.
#[inline(always)]
fn ascending(addresses: &[u64; 32], size: u64) -> bool {
    let mut differing = 0;
    for (l, address) in addresses.iter().enumerate() {
        differing |= address.wrapping_sub(addresses[0]) ^ (l as u64 * size);
    }
    differing == 0
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
    pub shape: Shape,
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
    let mut mask = *rest;
    let alone = mask & (mask - 1) == 0;
    let mut reach =
        if alone { Extent::of(addresses[first]) } else { extent(addresses, mask, addresses[first]) };
    if reach.differing & granularity != 0 {
        mask = lanes(mask).filter(|&l| addresses[l] & granularity == origin).fold(0, |m, l| m | 1 << l);
        reach = extent(addresses, mask, addresses[first]);
    }
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
    // Addresses of one window: the lowest and the highest decide.
    let inside = reach.lowest - origin >= low && reach.highest - origin + size <= len;
    if !inside || reach.any & (size - 1) != 0 {
        let bad = bad_lanes(addresses, mask, origin, low, len, size);
        let lane = bad.trailing_zeros();
        let at = At { lane: Some(lane), ..at };
        report_bad(ctx, at, addresses[lane as usize], size, Some((low, len)), what, name, bad.count_ones());
        return Err(());
    }
    let shape = if reach.differing == 0 {
        Shape::Uniform
    } else if mask == u32::MAX && reach.highest - reach.lowest == 31 * size && ascending(addresses, size) {
        Shape::Contiguous
    } else {
        Shape::Any
    };
    Ok(Group { mask, target, origin, shape })
}

/// The bytes that a group of lanes reaches: `size` of each lane of `mask`, from its offset.
pub struct Reach {
    pub offsets: [usize; 32],
    pub mask: u32,
    pub size: u32,
    pub shape: Shape,
}

impl Reach {
    /// The same with offsets from `start`.
    pub fn from(&self, start: usize) -> Reach {
        Reach { offsets: self.offsets.map(|offset| offset.wrapping_sub(start)), ..*self }
    }

    /// The part of one lane.
    pub fn only(&self, lane: usize) -> Reach {
        Reach { mask: 1 << lane, shape: Shape::Uniform, ..*self }
    }

    /// Offsets into a thread's local memory become offsets into the warp's.
    pub fn of_local(&mut self, stride: usize, len: usize) {
        for (lane, offset) in self.offsets.iter_mut().enumerate() {
            *offset = (*offset + lane * stride).min(len);
        }
        self.shape = Shape::Any;
    }
}

impl Group {
    /// The group's lanes with offsets for addresses.
    #[inline(always)]
    pub fn reach(&self, addresses: &[u64; 32], size: u32) -> Reach {
        let mut offsets = [0; 32];
        for l in 0..32 {
            offsets[l] = addresses[l].wrapping_sub(self.origin) as usize;
        }
        Reach { offsets, mask: self.mask, size, shape: self.shape }
    }
}
