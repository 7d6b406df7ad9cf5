//! Ids drawn from logits that are there.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::generate::{Sampling as Rule, sample as draw};
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{Operations, SamplingParams, SamplingSettings};
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::data::{self, poisoned, random, sample};
use super::work::Work;

pub struct Sampling {
    dims: [usize; 2],
    rule: Rule,
    logits: Buffer,    // f32 [num_rows, vocab_size]
    settings: Buffer,  // i32 [num_rows, SamplingSettings::WORDS]
    positions: Buffer, // i32 [num_rows]
    ids: Buffer,       // i32 [num_rows]
}

impl Sampling {
    pub fn new(ops: &DeviceOperations, dims: [usize; 2], variant: &str) -> Result<Self> {
        let [num_rows, vocab_size] = dims;
        let rule = match variant {
            "argmax" => Rule { temperature: 0.0, ..Rule::default() },
            "top_k" => Rule::default(),
            "top_p" => Rule { top_k: None, top_p: Some(0.9), ..Rule::default() },
            _ => Rule { top_k: None, ..Rule::default() },
        };
        let settings: Vec<SamplingSettings> = (0..num_rows as u32).map(|row| rule.settings(row)).collect();
        Ok(Sampling {
            dims,
            rule,
            logits: random(ops, DType::F32, num_rows * vocab_size, 1, 3.0)?,
            settings: data::integers(ops, bytemuck::cast_slice(&settings))?,
            positions: data::integers(ops, &(0..num_rows as i32).collect::<Vec<_>>())?,
            ids: poisoned(ops, DType::I32, num_rows)?,
        })
    }

    fn params(&mut self) -> SamplingParams<Tensor<'_>, TensorMut<'_>> {
        let [num_rows, vocab_size] = self.dims;
        SamplingParams {
            logits: self.logits.tensor(&[num_rows, vocab_size]),
            allowed: None,
            seen: None,
            settings: self.settings.tensor(&[num_rows, SamplingSettings::WORDS]),
            positions: self.positions.tensor(&[num_rows]),
            ids: self.ids.tensor_mut(&[num_rows]),
            logprobs: None,
        }
    }
}

impl Work for Sampling {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.sampling(self.params())
    }

    /// The ids are the CPU's, exactly.
    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let [num_rows, vocab_size] = self.dims;
        let ids = data::read_integers(ops, &self.ids)?;
        let allowed = vec![true; vocab_size];
        for row in sample(num_rows, 16) {
            let logits = data::row(ops, &self.logits, row, vocab_size)?;
            let logits: Vec<f32> = logits.iter().map(|&logit| logit as f32).collect();
            if ids[row] != draw(&logits, &self.rule, &allowed, row as u32, row as u64) {
                return Ok(f64::INFINITY);
            }
        }
        Ok(0.0)
    }

    /// A comparison a logit, and with a temperature the 12 operations of a weight.
    fn flops(&self) -> f64 {
        let a_logit = if self.rule.temperature == 0.0 { 1 } else { 13 };
        (self.dims[0] * self.dims[1] * a_logit) as f64
    }

    fn bytes(&mut self) -> f64 {
        self.params().fewest_bytes() as f64
    }
}
