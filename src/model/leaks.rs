//! Whether capacity mode let a later token change an earlier one.

use super::{Forward, Model, MoeMode, Workspace, refuse};
use crate::error::Result;
use crate::operations::Operations;

/// A position whose routing depends on tokens that come after it: alone with what precedes it, the router would have
/// done otherwise. nanoMoE's capacity mode allows it, since all first choices stand before any second choice, and since
/// the capacity grows with the number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Leak {
    /// The block.
    pub layer: usize,
    /// The position.
    pub position: usize,
    /// The expert.
    pub expert: usize,
    /// The weight of its output in the whole sequence, 0 where dropped or not chosen.
    pub weight: f32,
    /// The weight in the sequence that ends before token `prefix_len`.
    pub weight_in_prefix: f32,
    /// Tokens of the prefix.
    pub prefix_len: usize,
}

/// Runs `ids` (one sequence) once and each of its prefixes of `prefix_lens` tokens once, in mode `mode`, and compares the
/// routing of the prefix's tokens: every assignment that is kept in one and dropped or absent in the other, prefix after
/// prefix. In dropless mode there is none.
///
/// # Errors
/// [`crate::Error::Input`] for a prefix of no tokens or of more than there are; as [`Model::forward`].
pub fn find_leaks(
    model: &Model,
    ops: &dyn Operations,
    workspace: &mut Workspace,
    ids: &[u32],
    prefix_lens: &[usize],
    mode: MoeMode,
) -> Result<Vec<Leak>> {
    if let Some(len) = prefix_lens.iter().find(|len| !(1..=ids.len()).contains(len)) {
        return refuse(format!("a prefix of {len} tokens of a sequence of {}, expected 1 to all", ids.len()));
    }
    let request = Forward { moe: mode, routing: true, ..Forward::default() };
    let whole = model.forward(ops, workspace, 1, ids, &request)?.routing;
    let mut leaks = Vec::new();
    for &prefix_len in prefix_lens {
        let prefix = model.forward(ops, workspace, 1, &ids[..prefix_len], &request)?.routing;
        for (whole, prefix) in whole.iter().zip(&prefix) {
            let weights = whole.combine_weights().into_iter().zip(prefix.combine_weights());
            for (index, (weight, weight_in_prefix)) in weights.enumerate() {
                if (weight == 0.0) != (weight_in_prefix == 0.0) {
                    let (position, expert) = (index / whole.num_experts, index % whole.num_experts);
                    let layer = whole.layer;
                    leaks.push(Leak { layer, position, expert, weight, weight_in_prefix, prefix_len });
                }
            }
        }
    }
    Ok(leaks)
}
