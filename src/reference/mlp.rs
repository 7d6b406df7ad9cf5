//! The GELU MLP: two matrix products with the activation between.

use super::gemm::{add_bias, gemm};

/// The exact GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415): `x/2 (1 + erf(x / sqrt 2))`.
pub fn gelu_erf(x: f64) -> f64 {
    // erfc keeps the left tail, where 1 + erf would cancel.
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Its tanh form, as GPT-2 has it: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
pub fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// `gelu(x · fcᵀ + fc_bias) · projᵀ + proj_bias`: `x` `[num_tokens, hidden_size]`, `fc` `[intermediate_size,
/// hidden_size]`, `proj` `[hidden_size, intermediate_size]`; the result is `[num_tokens, hidden_size]`.
pub fn mlp(
    x: &[f64],
    fc: &[f64],
    fc_bias: Option<&[f64]>,
    proj: &[f64],
    proj_bias: Option<&[f64]>,
    hidden_size: usize,
    gelu: fn(f64) -> f64,
) -> Vec<f64> {
    let intermediate_size = fc.len() / hidden_size;
    let mut hidden = gemm(x, fc, hidden_size);
    if let Some(bias) = fc_bias {
        add_bias(&mut hidden, bias);
    }
    let hidden: Vec<f64> = hidden.into_iter().map(gelu).collect();
    let mut out = gemm(&hidden, proj, intermediate_size);
    if let Some(bias) = proj_bias {
        add_bias(&mut out, bias);
    }
    out
}
