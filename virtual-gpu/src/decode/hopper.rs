//! Instructions of sm_90: mbarriers, bulk and tensor copies, clusters, wgmma.

use super::program::*;
use super::{Decoder, Modifiers, Result};
use crate::ptx::ast::*;

impl<'a> Decoder<'_, 'a> {
    /// Hopper's instructions; false if the name is none of them.
    pub(super) fn hopper(
        &mut self,
        _name: &str,
        _m: &mut Modifiers<'a>,
        _i: &Instruction<'a>,
    ) -> Result<bool> {
        Ok(false)
    }
}
