//! The default model inside the program, where feature `embedded-model` put it there.

use crate::error::{Error, Result};

// `FILES`, by name, and `WHY_NONE`, made by build.rs.
include!(concat!(env!("OUT_DIR"), "/embedded_model.rs"));

/// A file of `model/` as it was when the program was built.
///
/// # Errors
/// [`Error::NoEmbeddedModel`].
pub(crate) fn file(name: &str) -> Result<&'static [u8]> {
    let found = FILES.iter().find(|(known, _)| *known == name);
    found.map(|&(_, bytes)| bytes).ok_or_else(|| Error::NoEmbeddedModel(WHY_NONE.to_owned()))
}
