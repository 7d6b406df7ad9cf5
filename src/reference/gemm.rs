//! Matrix product by three loops, and the parts of its epilogues.

/// `out[m, n] = sum over k of a[m, k] * b[n, k]`: `a` is `[M, K]`, `b` `[N, K]` (weights as checkpoints store them),
/// the result `[M, N]` with `M = a.len() / k`, `N = b.len() / k`.
pub fn gemm(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    assert!(k > 0 && a.len().is_multiple_of(k) && b.len().is_multiple_of(k));
    let mut out = Vec::with_capacity(a.len() / k * (b.len() / k));
    for row in a.chunks_exact(k) {
        for column in b.chunks_exact(k) {
            let mut sum = 0.0;
            for index in 0..k {
                sum += row[index] * column[index];
            }
            out.push(sum);
        }
    }
    out
}

/// Adds `bias` `[N]` to every row of `out` `[M, N]`.
pub fn add_bias(out: &mut [f64], bias: &[f64]) {
    for row in out.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

/// Adds `residual` element by element.
pub fn add_residual(out: &mut [f64], residual: &[f64]) {
    assert_eq!(out.len(), residual.len());
    for (value, residual) in out.iter_mut().zip(residual) {
        *value += residual;
    }
}
