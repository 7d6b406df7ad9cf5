//! Token plus position embedding.

/// `out[t, :] = token_table[ids[t], :] + position_table[positions[t], :]`.
///
/// `token_table` is `[vocab_size, hidden_size]`, `position_table` `[max_positions, hidden_size]`; the result is
/// `[ids.len(), hidden_size]`.
pub fn embedding(
    ids: &[i32],
    positions: &[usize],
    token_table: &[f64],
    position_table: &[f64],
    hidden_size: usize,
) -> Vec<f64> {
    assert_eq!(ids.len(), positions.len());
    let mut out = Vec::with_capacity(ids.len() * hidden_size);
    for (&id, &position) in ids.iter().zip(positions) {
        for column in 0..hidden_size {
            let token = token_table[id as usize * hidden_size + column];
            out.push(token + position_table[position * hidden_size + column]);
        }
    }
    out
}
