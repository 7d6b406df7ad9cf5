use super::gemm::{Add, Epilogue, How, product};
use super::rows::{Rows, RowsMut};
use super::simd;
use crate::buffer::zeroed;
use crate::error::{Error, Result};
use crate::operations::{Activation, LmHeadParams, Numerics};
use crate::tensor::{Place, Tensor, TensorMut};

const NAME: &str = "lm_head";

/// Rows whose logits are held at a time when nobody asked for them: reads the weights once for so many rows.
const BLOCK: usize = 64;

pub(super) fn lm_head(p: LmHeadParams<Tensor<'_>, TensorMut<'_>>, numerics: Numerics) -> Result<()> {
    let dims = p.check()?;
    p.raw(Place::Host)?;
    let mut x = Rows::new(p.x, NAME)?;
    let weight = Rows::new(p.weight, NAME)?;
    let bias = p.bias.map(|bias| bias.as_slice::<f32>(NAME)).transpose()?;
    let gathered;
    if let Some(rows) = p.rows {
        let rows = rows.as_slice::<i32>(NAME)?;
        if let Some(row) = rows.iter().find(|&&row| row < 0 || row as usize >= dims.num_tokens) {
            let message = format!("rows name row {row} of {}", dims.num_tokens);
            return Err(Error::Tensor { operation: NAME, message });
        }
        gathered = rows.iter().flat_map(|&row| x.row(row as usize)).copied().collect::<Vec<f32>>();
        x = Rows {
            values: &gathered,
            stride: dims.hidden_size,
            rows: dims.num_rows,
            columns: dims.hidden_size,
        };
    }
    let mut logits = p.logits.map(|logits| logits.into_slice::<f32>(NAME)).transpose()?;
    let mut argmax = p.argmax.map(|argmax| argmax.into_slice::<i32>(NAME)).transpose()?;
    let mut scored = match p.cross_entropy {
        Some(loss) => {
            let targets = loss.targets.as_slice::<i32>(NAME)?;
            Some((targets, loss.ignore_index, loss.losses.into_slice::<f32>(NAME)?))
        }
        None => None,
    };

    let epilogue = Epilogue { bias, activation: Activation::Identity, residual: Add::None };
    let block_rows = if logits.is_some() { dims.num_rows } else { BLOCK.min(dims.num_rows) };
    let held = if logits.is_some() { 0 } else { block_rows * dims.vocab_size };
    let mut held = zeroed(held)?;
    for first in (0..dims.num_rows).step_by(block_rows.max(1)) {
        let rows = block_rows.min(dims.num_rows - first);
        let block = match &mut logits {
            Some(logits) => &mut **logits,
            None => &mut held[..rows * dims.vocab_size],
        };
        let out = RowsMut::dense_groups(block, dims.vocab_size, rows, dims.vocab_size);
        product(out, x.narrow(first, rows), weight, epilogue, How::parallel(numerics));
        for (row, line) in block.chunks_exact(dims.vocab_size).enumerate() {
            if let Some(argmax) = &mut argmax {
                argmax[first + row] = largest(&line[..p.allowed_vocab]);
            }
            if let Some((targets, ignore_index, losses)) = &mut scored {
                losses[first + row] = cross_entropy(line, targets[first + row], *ignore_index);
            }
        }
    }
    Ok(())
}

/// The index of the largest value, the lowest on ties; -1 with a NaN.
fn largest(values: &[f32]) -> i32 {
    let mut best = 0;
    let mut nan = false;
    for (index, &value) in values.iter().enumerate() {
        nan |= value.is_nan();
        if value > values[best] {
            best = index;
        }
    }
    if nan { -1 } else { best as i32 }
}

fn cross_entropy(logits: &[f32], target: i32, ignore_index: i32) -> f32 {
    if target == ignore_index {
        return 0.0;
    }
    match usize::try_from(target).ok().and_then(|target| logits.get(target)) {
        Some(logit) => simd::log_sum_exp(&mut logits.to_vec()) - logit,
        None => f32::NAN,
    }
}
