//! Weighted sum of the expert outputs of each token.

/// `out[t, :] = residual[t, :] + sum over choices j of weights[t, j] * expert_out[slots[t, j], :]`, dropped choices
/// (slot -1) left out. `slots`, `weights` `[num_tokens, k]`, `expert_out` `[rows, hidden_size]`.
pub fn moe_combine(
    expert_out: &[f64],
    slots: &[i32],
    weights: &[f64],
    k: usize,
    hidden_size: usize,
    residual: Option<&[f64]>,
) -> Vec<f64> {
    let num_tokens = slots.len() / k;
    let mut out = residual.map_or_else(|| vec![0.0; num_tokens * hidden_size], <[f64]>::to_vec);
    for token in 0..num_tokens {
        for choice in 0..k {
            let slot = slots[token * k + choice];
            if slot < 0 {
                continue;
            }
            for column in 0..hidden_size {
                out[token * hidden_size + column] +=
                    weights[token * k + choice] * expert_out[slot as usize * hidden_size + column];
            }
        }
    }
    out
}
