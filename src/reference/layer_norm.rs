//! Layer norm in two passes: the mean first, then the mean of squared distances from it.

/// `out[t, :] = (x[t, :] - mean) / sqrt(variance + eps) * gamma + beta` over rows of `gamma.len()` elements.
/// The variance is the population's (divided by the number of elements). Without `beta` nothing is added.
pub fn layer_norm(x: &[f64], gamma: &[f64], beta: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let hidden_size = gamma.len();
    assert_eq!(x.len() % hidden_size, 0);
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(hidden_size) {
        let mean = row.iter().sum::<f64>() / hidden_size as f64;
        let variance =
            row.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / hidden_size as f64;
        for (column, value) in row.iter().enumerate() {
            let normed = (value - mean) / (variance + eps).sqrt();
            out.push(normed * gamma[column] + beta.map_or(0.0, |beta| beta[column]));
        }
    }
    out
}
