//! Races: accesses to the same bytes that nothing orders.

use crate::decode::program::{Scope, Strength};
use crate::exec::Context;
use crate::exec::memory::Action;
use crate::exec::warp::Warp;

/// What each warp is known to have done.
pub type Clock = Vec<u32>;

/// An access as the detectors see it.
#[derive(Clone, Copy)]
pub struct Touch {
    pub action: Action,
    pub strong: bool,
}

impl Touch {
    pub fn of(action: Action, strength: Strength) -> Self {
        Self { action, strong: strength != Strength::Weak || action == Action::Atomic }
    }
}

#[derive(Default)]
pub struct GridClocks {}

#[derive(Default)]
pub struct SharedRaces {}

impl SharedRaces {
    pub fn start(&mut self, _num_warps: u32, _size: usize, _check: bool) {}
}

#[derive(Default)]
pub struct GlobalShadow {}

#[inline(always)]
pub fn shared(
    _: &mut Context<'_>,
    _: &Warp,
    _pc: u32,
    _cta: usize,
    _offsets: &[usize; 32],
    _mask: u32,
    _size: u32,
    _: Touch,
) {
}
#[inline(always)]
pub fn global(
    _: &mut Context<'_>,
    _: &Warp,
    _pc: u32,
    _origin: u64,
    _offsets: &[usize; 32],
    _mask: u32,
    _size: u32,
    _: Touch,
) {
}
pub fn acquire_global(
    _: &mut Context<'_>,
    _: &Warp,
    _origin: u64,
    _offsets: &[usize; 32],
    _mask: u32,
    _: Strength,
) {
}
pub fn release_global(
    _: &mut Context<'_>,
    _: &Warp,
    _origin: u64,
    _offsets: &[usize; 32],
    _mask: u32,
    _: Strength,
) {
}
pub fn atomic_global(
    _: &mut Context<'_>,
    _: &Warp,
    _pc: u32,
    _origin: u64,
    _offsets: &[usize; 32],
    _mask: u32,
    _size: u32,
    _: Strength,
) {
}
pub fn atomic_shared(
    _: &mut Context<'_>,
    _: &Warp,
    _cta: usize,
    _offsets: &[usize; 32],
    _mask: u32,
    _: Strength,
) {
}
pub fn fence(_: &mut Context<'_>, _: &mut Warp, _: Scope) {}
pub fn warp_sync(_: &mut Context<'_>, _: &mut Warp, _mask: u32) {}
pub fn barrier_arrive(_: &mut Context<'_>, _: &mut Warp, _id: usize) {}
pub fn barrier_complete(_: &mut Context<'_>, _id: usize) {}
pub fn barrier_leave(_: &mut Context<'_>, _: &mut Warp, _id: usize) {}
pub fn copy_issued(
    _: &mut Context<'_>,
    _: &mut Warp,
    _pc: u32,
    _cta: usize,
    _dst: &[u32; 32],
    _mask: u32,
    _bytes: u32,
) {
}
pub fn copy_done(_: &mut Context<'_>, _: &mut Warp, _dst: &[u32; 32], _mask: u32, _bytes: u32) {}
