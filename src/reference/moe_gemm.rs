//! Grouped matrix product: each row by the weight of the expert whose range it stands in.

/// `out[row, :] = act(x[tokens[row], :] · weight[expert of row]ᵀ + bias[expert of row])`.
///
/// `x` `[_, k]`, `weight` `[num_experts, n, k]`, `bias` `[num_experts, n]`, `offsets` `[num_experts + 1]` (expert `e`
/// has rows `offsets[e]..offsets[e + 1]`), `tokens` the row of `x` that each row reads, or `None` for its own;
/// the result is `[offsets[num_experts], n]`.
pub fn moe_gemm(
    x: &[f64],
    tokens: Option<&[i32]>,
    offsets: &[i32],
    weight: &[f64],
    bias: Option<&[f64]>,
    (n, k): (usize, usize),
    activation: fn(f64) -> f64,
) -> Vec<f64> {
    let num_experts = offsets.len() - 1;
    assert_eq!(weight.len(), num_experts * n * k);
    let mut out = Vec::new();
    for row in 0..offsets[num_experts] {
        let expert =
            (0..num_experts).find(|&expert| row < offsets[expert + 1]).expect("row below the last offset");
        let source = tokens.map_or(row, |tokens| tokens[row as usize]) as usize;
        for column in 0..n {
            let w = &weight[(expert * n + column) * k..][..k];
            let dot: f64 = (0..k).map(|index| x[source * k + index] * w[index]).sum();
            out.push(activation(dot + bias.map_or(0.0, |bias| bias[expert * n + column])));
        }
    }
    out
}
