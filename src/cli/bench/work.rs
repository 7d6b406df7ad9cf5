//! The operations that are measured: inputs, the launch, the fewest bytes and operations, and the answer checked
//! against plain f64 loops, on samples where all of it would take too long.

use nanomoe::buffer::Buffer;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::*;
use nanomoe::reference::{gelu_erf, gelu_tanh, log_sum_exp};
use nanomoe::tensor::DType;
use nanomoe::{Error, Result};

use super::cases::Case;
use super::data::{self, poisoned, random, sample};

/// Storage type of matrices and activations.
pub const DTYPE: DType = DType::BF16;
/// Half a unit in the last place of bf16, relative: what rounding to it costs at most.
const ROUNDING: f64 = 1.0 / 256.0;

/// One operation on its inputs.
pub trait Work {
    /// Puts it into the stream of `ops`.
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()>;
    /// The largest error of what was looked at, as a part of what is allowed: at most 1 where the answer is right,
    /// infinite or NaN where it was not written.
    fn check(&self, ops: &DeviceOperations) -> Result<f64>;
    /// Floating-point operations.
    fn flops(&self) -> f64;
    /// The fewest bytes it must move.
    fn bytes(&self) -> f64;
}

/// The inputs of `case`, with a poisoned result.
pub fn prepare(ops: &DeviceOperations, case: &Case) -> Result<Box<dyn Work>> {
    let d = &case.dims;
    let work: Box<dyn Work> = match case.op {
        "gemm" => Box::new(Gemm::new(ops, [d[0], d[1], d[2]], case.variant)?),
        "attention" => Box::new(super::attention::Attention::new(ops, d)?),
        "layer_norm" => Box::new(LayerNorm::new(ops, d[0], d[1], case.variant == "residual")?),
        "lm_head" => Box::new(LmHead::new(ops, [d[0], d[1], d[2]], case.variant == "argmax")?),
        _ => super::moe::prepare(ops, case)?,
    };
    // Other streams may launch it.
    ops.synchronize()?;
    Ok(work)
}

/// Bytes to hold the inputs and results of `case`, about.
pub fn memory(case: &Case) -> u64 {
    let d: Vec<u64> = case.dims.iter().map(|&n| n as u64).collect();
    2 * match case.op {
        "gemm" => d[0] * d[2] + d[1] * d[2] + 2 * d[0] * d[1],
        "attention" => 2 * d[0] * d[5] * (d[1] * d[3] + d[2] * d[4]),
        "layer_norm" => 4 * d[0] * d[1],
        "lm_head" => d[2] * (d[0] + d[1]) + d[0] * d[1] / 6,
        "moe_gemm" => d[3] * d[1] * d[2] + d[0] * d[1] + d[0] * d[4] * d[2],
        "moe_layer" => 2 * d[3] * d[1] * d[2] + 2 * d[0] * d[1] + d[0] * d[4] * (d[1] + d[2]),
        _ => 8 * d[0] * d[1],
    }
}

/// `Σ a·b` and `Σ |a·b|`
pub fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(sum, size), (a, b)| (sum + a * b, size + (a * b).abs()))
}

/// What an f32 sum of `len` products of absolute sum `size` may be off, in any order.
pub fn sum_error(len: usize, size: f64) -> f64 {
    len as f64 * f64::from(f32::EPSILON) * size
}

/// The larger of `worst` and the error as a part of what is allowed; NaN stays.
pub fn worse(worst: f64, got: f64, wanted: f64, allowed: f64) -> f64 {
    let part = (got - wanted).abs() / allowed;
    if part.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(part) }
}

/// A stored value: `bf16(value)`
pub fn stored(value: f64) -> f64 {
    half::bf16::from_f64(value).to_f64()
}

struct Gemm {
    dims: [usize; 3],
    variant: &'static str,
    a: Buffer,        // [M, K]
    b: Buffer,        // [N, K]
    bias: Buffer,     // f32 [N]
    residual: Buffer, // [M, N], or one element
    out: Buffer,      // [M, N]
}

impl Gemm {
    fn new(ops: &DeviceOperations, dims: [usize; 3], variant: &'static str) -> Result<Self> {
        let [m, n, k] = dims;
        let residual = if variant == "residual" { m * n } else { 1 };
        Ok(Gemm {
            dims,
            variant,
            a: random(ops, DTYPE, m * k, 1, 1.0)?,
            b: random(ops, DTYPE, n * k, 2, 1.0 / (k as f32).sqrt())?,
            bias: random(ops, DType::F32, n, 3, 0.1)?,
            residual: random(ops, DTYPE, residual, 4, 1.0)?,
            out: poisoned(ops, DTYPE, m * n)?,
        })
    }
}

impl Work for Gemm {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        let [m, n, k] = self.dims;
        ops.gemm(GemmParams {
            out: self.out.tensor_mut(&[m, n]),
            a: self.a.tensor(&[m, k]),
            b: self.b.tensor(&[n, k]),
            bias: (!self.variant.is_empty()).then(|| self.bias.tensor(&[n])),
            activation: match self.variant {
                "gelu_tanh" => Activation::GeluTanh,
                "gelu_erf" => Activation::GeluErf,
                _ => Activation::Identity,
            },
            residual: match self.variant {
                "residual" => Residual::From(self.residual.tensor(&[m, n])),
                _ => Residual::None,
            },
        })
    }

    fn check(&self, ops: &DeviceOperations) -> Result<f64> {
        let [m, n, k] = self.dims;
        let bias = data::part(ops, &self.bias, 0, n)?;
        let mut worst = 0.0;
        let columns: Vec<(usize, Vec<f64>)> = sample(n, 64)
            .into_iter()
            .map(|column| Ok((column, data::row(ops, &self.b, column, k)?)))
            .collect::<Result<_>>()?;
        for row in sample(m, 32) {
            let (a, out) = (data::row(ops, &self.a, row, k)?, data::row(ops, &self.out, row, n)?);
            let residual = match self.variant {
                "residual" => data::row(ops, &self.residual, row, n)?,
                _ => vec![0.0; n],
            };
            if out.iter().any(|value| !value.is_finite()) {
                return Ok(f64::INFINITY);
            }
            for (column, b) in &columns {
                let (mut sum, size) = dot(&a, b);
                if !self.variant.is_empty() {
                    sum += bias[*column];
                }
                let wanted = match self.variant {
                    "gelu_tanh" => gelu_tanh(sum),
                    "gelu_erf" => gelu_erf(sum),
                    _ => sum + residual[*column],
                };
                // GELU is nowhere steeper than 1.13, and its f32 forms are good to 1e-6.
                let allowed = ROUNDING * wanted.abs() + 1.13 * sum_error(k, size) + 1e-6;
                worst = worse(worst, out[*column], wanted, allowed);
            }
        }
        Ok(worst)
    }

    fn flops(&self) -> f64 {
        2.0 * self.dims.iter().map(|&n| n as f64).product::<f64>()
    }

    fn bytes(&self) -> f64 {
        let [m, n, k] = self.dims;
        let outputs = if self.variant == "residual" { 2 } else { 1 };
        (2 * (m * k + n * k + outputs * m * n)) as f64
    }
}

struct LayerNorm {
    num_tokens: usize,
    hidden_size: usize,
    fused: bool,
    x: Buffer,     // [num_tokens, hidden_size]
    delta: Buffer, // [num_tokens, hidden_size], or one element
    sum: Buffer,   // as delta
    gamma: Buffer, // f32 [hidden_size]
    beta: Buffer,  // f32 [hidden_size]
    out: Buffer,   // [num_tokens, hidden_size]
}

impl LayerNorm {
    const EPS: f32 = 1e-5;

    fn new(ops: &DeviceOperations, num_tokens: usize, hidden_size: usize, fused: bool) -> Result<Self> {
        let len = num_tokens * hidden_size;
        let second = if fused { len } else { 1 };
        Ok(LayerNorm {
            num_tokens,
            hidden_size,
            fused,
            x: random(ops, DTYPE, len, 1, 1.0)?,
            delta: random(ops, DTYPE, second, 2, 1.0)?,
            sum: poisoned(ops, DTYPE, second)?,
            gamma: random(ops, DType::F32, hidden_size, 3, 1.0)?,
            beta: random(ops, DType::F32, hidden_size, 4, 1.0)?,
            out: poisoned(ops, DTYPE, len)?,
        })
    }
}

impl Work for LayerNorm {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        let shape = [self.num_tokens, self.hidden_size];
        let residual = self
            .fused
            .then(|| FusedResidual { delta: self.delta.tensor(&shape), sum: self.sum.tensor_mut(&shape) });
        ops.layer_norm(LayerNormParams {
            out: self.out.tensor_mut(&shape),
            x: self.x.tensor(&shape),
            residual,
            gamma: self.gamma.tensor(&shape[1..]),
            beta: Some(self.beta.tensor(&shape[1..])),
            eps: Self::EPS,
        })
    }

    fn check(&self, ops: &DeviceOperations) -> Result<f64> {
        let c = self.hidden_size;
        let (gamma, beta) = (data::part(ops, &self.gamma, 0, c)?, data::part(ops, &self.beta, 0, c)?);
        let mut worst = 0.0;
        for row in sample(self.num_tokens, 64) {
            let mut x = data::row(ops, &self.x, row, c)?;
            if self.fused {
                let (delta, sum) = (data::row(ops, &self.delta, row, c)?, data::row(ops, &self.sum, row, c)?);
                for ((x, delta), sum) in x.iter_mut().zip(delta).zip(sum) {
                    *x = stored(*x + delta);
                    worst = worse(worst, sum, *x, 1e-30);
                }
            }
            let wanted = nanomoe::reference::layer_norm(&x, &gamma, Some(&beta), Self::EPS.into());
            for (got, wanted) in data::row(ops, &self.out, row, c)?.into_iter().zip(wanted) {
                worst = worse(worst, got, wanted, ROUNDING * wanted.abs() + 1e-5);
            }
        }
        Ok(worst)
    }

    fn flops(&self) -> f64 {
        8.0 * (self.num_tokens * self.hidden_size) as f64
    }

    fn bytes(&self) -> f64 {
        let tensors = if self.fused { 4 } else { 2 };
        (2 * tensors * self.num_tokens * self.hidden_size + 8 * self.hidden_size) as f64
    }
}

struct LmHead {
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
    fn new(ops: &DeviceOperations, dims: [usize; 3], wants_argmax: bool) -> Result<Self> {
        let [num_tokens, vocab_size, hidden_size] = dims;
        let targets: Vec<i32> = (0..num_tokens).map(|t| (t * 7919 % vocab_size) as i32).collect();
        Ok(LmHead {
            dims,
            wants_argmax,
            x: random(ops, DTYPE, num_tokens * hidden_size, 1, 1.0)?,
            weight: random(ops, DTYPE, vocab_size * hidden_size, 2, 2.0 / (hidden_size as f32).sqrt())?,
            targets: data::integers(ops, &targets)?,
            argmax: poisoned(ops, DType::I32, num_tokens)?,
            losses: poisoned(ops, DType::F32, num_tokens)?,
            scratch: poisoned(ops, DType::F32, LmHeadParams::scratch_len(num_tokens, vocab_size))?,
        })
    }
}

impl Work for LmHead {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        let [num_tokens, vocab_size, hidden_size] = self.dims;
        let scratch = self.scratch.len();
        let cross_entropy = (!self.wants_argmax).then(|| CrossEntropy {
            targets: self.targets.tensor(&[num_tokens]),
            ignore_index: -1,
            losses: self.losses.tensor_mut(&[num_tokens]),
        });
        ops.lm_head(LmHeadParams {
            x: self.x.tensor(&[num_tokens, hidden_size]),
            rows: None,
            weight: self.weight.tensor(&[vocab_size, hidden_size]),
            bias: None,
            logits: None,
            argmax: self.wants_argmax.then(|| self.argmax.tensor_mut(&[num_tokens])),
            allowed_vocab: vocab_size,
            cross_entropy,
            scratch: self.scratch.tensor_mut(&[scratch]),
        })
    }

    fn check(&self, ops: &DeviceOperations) -> Result<f64> {
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

    fn bytes(&self) -> f64 {
        let [num_tokens, vocab_size, hidden_size] = self.dims;
        (2 * hidden_size * (num_tokens + vocab_size) + 4 * num_tokens) as f64
    }
}

/// The error of an operation that is not in the list.
pub fn unknown(op: &str) -> Error {
    Error::Usage(format!("there is no benchmark of `{op}`"))
}
