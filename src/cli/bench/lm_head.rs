//! Logits over the vocabulary that are never written: the best id of each row, or its loss.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::kernels::{DeviceOperations, traffic};
use nanomoe::operations::{CrossEntropy, LmHeadParams, Operations};
use nanomoe::reference::log_sum_exp;
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::data::{self, poisoned, random, sample};
use super::work::{Work, dot, sum_error, worse};

pub struct LmHead {
    dims: [usize; 3],
    wants_argmax: bool,
    x: Buffer,       // [num_tokens, hidden_size]
    weight: Buffer,  // [vocab_size, hidden_size]
    targets: Buffer, // i32 [num_tokens]
    argmax: Buffer,  // i32 [num_tokens]
    losses: Buffer,  // f32 [num_tokens]
    scratch: Buffer,
}

impl LmHead {
    pub fn new(ops: &DeviceOperations, dtype: DType, dims: [usize; 3], wants_argmax: bool) -> Result<Self> {
        let [num_tokens, vocab_size, hidden_size] = dims;
        let targets: Vec<i32> = (0..num_tokens).map(|t| (t * 7919 % vocab_size) as i32).collect();
        Ok(LmHead {
            dims,
            wants_argmax,
            x: random(ops, dtype, num_tokens * hidden_size, 1, 1.0)?,
            weight: random(ops, dtype, vocab_size * hidden_size, 2, 2.0 / (hidden_size as f32).sqrt())?,
            targets: data::integers(ops, &targets)?,
            argmax: poisoned(ops, DType::I32, num_tokens)?,
            losses: poisoned(ops, DType::F32, num_tokens)?,
            scratch: poisoned(ops, DType::F32, LmHeadParams::scratch_len(num_tokens, vocab_size))?,
        })
    }
}

impl LmHead {
    fn params(&mut self) -> LmHeadParams<Tensor<'_>, TensorMut<'_>> {
        let [num_tokens, vocab_size, hidden_size] = self.dims;
        let scratch = self.scratch.len();
        let cross_entropy = (!self.wants_argmax).then(|| CrossEntropy {
            targets: self.targets.tensor(&[num_tokens]),
            ignore_index: -1,
            losses: self.losses.tensor_mut(&[num_tokens]),
        });
        LmHeadParams {
            x: self.x.tensor(&[num_tokens, hidden_size]),
            rows: None,
            weight: self.weight.tensor(&[vocab_size, hidden_size]),
            bias: None,
            logits: None,
            argmax: self.wants_argmax.then(|| self.argmax.tensor_mut(&[num_tokens])),
            allowed_vocab: vocab_size,
            cross_entropy,
            scratch: self.scratch.tensor_mut(&[scratch]),
        }
    }
}

impl Work for LmHead {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.lm_head(self.params())
    }

    fn launch_bytes(&mut self, ops: &DeviceOperations) -> Result<Option<u64>> {
        let raw = self.params().raw(ops.place())?;
        Ok(Some(traffic::lm_head_bytes(ops.kernels(), &raw)?))
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let [num_tokens, vocab_size, hidden_size] = self.dims;
        let ids = data::read_integers(ops, &self.argmax)?;
        let targets = data::read_integers(ops, &self.targets)?;
        let losses = data::part(ops, &self.losses, 0, num_tokens)?;
        let weight = data::part(ops, &self.weight, 0, vocab_size * hidden_size)?;
        let mut worst = 0.0;
        for row in sample(num_tokens, 4) {
            let x = data::row(ops, &self.x, row, hidden_size)?;
            let sums: Vec<(f64, f64)> = weight.chunks_exact(hidden_size).map(|w| dot(&x, w)).collect();
            let logits: Vec<f64> = sums.iter().map(|(sum, _)| *sum).collect();
            let size = sums.iter().map(|(_, size)| *size).fold(0.0, f64::max);
            let allowed = sum_error(hidden_size, size) + 1e-5;
            if self.wants_argmax {
                let Some(got) = usize::try_from(ids[row]).ok().and_then(|id| logits.get(id)) else {
                    return Ok(f64::INFINITY);
                };
                // Two logits as close as the sums are exact may change places.
                let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                worst = worse(worst, *got, largest, 2.0 * allowed);
            } else {
                let wanted = log_sum_exp(&logits) - logits[targets[row] as usize];
                worst = worse(worst, losses[row], wanted, 2.0 * allowed);
            }
        }
        Ok(worst)
    }

    fn flops(&self) -> f64 {
        2.0 * self.dims.iter().map(|&n| n as f64).product::<f64>()
    }

    fn bytes(&mut self) -> f64 {
        self.params().fewest_bytes() as f64
    }
}
