//! Instructions of sm_90.

use super::warp::Warp;
use super::{Context, Flow};

/// A decoded instruction of sm_90.
pub enum HopperOp {}

/// Bulk groups of a warp.
#[derive(Default)]
pub struct BulkGroups {}

/// wgmma operations in flight.
#[derive(Default)]
pub struct WgmmaState {}

/// A CTA's mbarriers and the like.
#[derive(Default)]
pub struct CtaState {}

pub fn execute(_: &mut Context<'_>, _: &mut Warp, _: usize, _: u32, op: &HopperOp, _: u32) -> Flow {
    match *op {}
}
