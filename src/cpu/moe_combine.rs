use super::rows::{Rows, RowsMut};
use super::simd;
use crate::error::{Error, Result};
use crate::operations::{MoeCombineParams, Residual};
use crate::tensor::{Place, Tensor, TensorMut};

pub(super) fn moe_combine(p: MoeCombineParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
    const NAME: &str = "moe_combine";
    let (num_tokens, _, k) = p.check()?;
    p.raw(Place::Host)?;
    let expert_out = Rows::new(p.expert_out, NAME)?;
    let slots = p.slots.as_slice::<i32>(NAME)?;
    let weights = p.weights.as_slice::<f32>(NAME)?;
    let mut out = RowsMut::new(p.out, NAME)?;
    if let Some(slot) = slots.iter().find(|&&slot| slot >= 0 && slot as usize >= expert_out.rows) {
        let message = format!("slots name row {slot} of {} (expert_out)", expert_out.rows);
        return Err(Error::Tensor { operation: NAME, message });
    }
    let residual = match p.residual {
        Residual::From(tensor) => Some(Rows::new(tensor, NAME)?),
        _ => None,
    };
    let in_place = matches!(p.residual, Residual::InPlace);
    let mut sum = vec![0.0; expert_out.columns];
    for token in 0..num_tokens {
        sum.fill(0.0);
        let choices = slots[token * k..][..k].iter().zip(&weights[token * k..][..k]);
        for (&slot, &weight) in choices.filter(|(slot, _)| **slot >= 0) {
            simd::add_scaled(&mut sum, weight, expert_out.row(slot as usize));
        }
        let out = out.row_mut(token);
        if let Some(residual) = &residual {
            out.copy_from_slice(residual.row(token));
        }
        if in_place || residual.is_some() {
            simd::add_scaled(out, 1.0, &sum);
        } else {
            out.copy_from_slice(&sum);
        }
    }
    Ok(())
}
