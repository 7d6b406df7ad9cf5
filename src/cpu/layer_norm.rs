use super::rows::{Rows, RowsMut};
use super::simd::{add_scaled, sum_of, vectorized};
use crate::error::Result;
use crate::operations::LayerNormParams;
use crate::tensor::{Place, Tensor, TensorMut};

pub(super) fn layer_norm(p: LayerNormParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
    const NAME: &str = "layer_norm";
    let dims = p.check()?;
    p.raw(Place::Host)?;
    let x = Rows::new(p.x, NAME)?;
    let gamma = p.gamma.as_slice::<f32>(NAME)?;
    let beta = p.beta.map(|beta| beta.as_slice::<f32>(NAME)).transpose()?;
    let mut out = RowsMut::new(p.out, NAME)?;
    let mut residual = match p.residual {
        Some(residual) => Some((Rows::new(residual.delta, NAME)?, RowsMut::new(residual.sum, NAME)?)),
        None => None,
    };
    for token in 0..dims.num_tokens {
        let row = match &mut residual {
            None => x.row(token),
            Some((delta, sum)) => {
                let sum = sum.row_mut(token);
                sum.copy_from_slice(x.row(token));
                add_scaled(sum, 1.0, delta.row(token));
                &*sum
            }
        };
        let out = out.row_mut(token);
        vectorized(
            #[inline(always)]
            || normalize(out, row, gamma, beta, p.eps),
        );
    }
    Ok(())
}

/// Two passes over a row in cache: the mean, then the distances from it and their squares. What the distances sum to
/// is the rounding error of the mean, which would show where the mean is large against the deviation.
#[inline(always)]
fn normalize(out: &mut [f32], x: &[f32], gamma: &[f32], beta: Option<&[f32]>, eps: f32) {
    let len = x.len() as f32;
    let mean = sum_of(x, |value| value) / len;
    let mean_error = sum_of(x, |value| value - mean) / len;
    let variance = sum_of(x, |value| (value - mean) * (value - mean)) / len - mean_error * mean_error;
    let rstd = 1.0 / (variance + eps).sqrt();
    for ((out, value), gamma) in out.iter_mut().zip(x).zip(gamma) {
        *out = (value - mean - mean_error) * rstd * gamma;
    }
    if let Some(beta) = beta {
        add_scaled(out, 1.0, beta);
    }
}
