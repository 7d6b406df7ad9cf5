//! Matrix products with what is fused into them, and the MLP that two of them make.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::kernels::{DeviceOperations, traffic};
use nanomoe::operations::{Activation, GemmParams, MlpParams, Operations, Residual};
use nanomoe::reference::{gelu_erf, gelu_tanh};
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::data::{self, poisoned, random, sample};
use super::work::{ROUNDING, Work, dot, sum_error, worse, worse_of};

fn activation(variant: &str) -> Activation {
    match variant {
        "gelu_tanh" => Activation::GeluTanh,
        "gelu_erf" => Activation::GeluErf,
        _ => Activation::Identity,
    }
}

/// A product that was computed, and what of.
struct Product<'a> {
    dims: [usize; 3],
    a: &'a Buffer,            // [M, K]
    b: &'a Buffer,            // [N, K]
    bias: Option<&'a Buffer>, // f32 [N]
    activation: Activation,
    residual: Option<&'a Buffer>, // [M, N]
    out: &'a Buffer,              // [M, N]
}

impl Product<'_> {
    /// Rows and columns of it against sums of their own.
    fn check(&self, ops: &DeviceOperations) -> Result<f64> {
        let [m, n, k] = self.dims;
        let bias = self.bias.map(|bias| data::part(ops, bias, 0, n)).transpose()?;
        let mut worst = 0.0;
        let columns: Vec<(usize, Vec<f64>)> = sample(n, 64)
            .into_iter()
            .map(|column| Ok((column, data::row(ops, self.b, column, k)?)))
            .collect::<Result<_>>()?;
        for row in sample(m, 32) {
            let (a, out) = (data::row(ops, self.a, row, k)?, data::row(ops, self.out, row, n)?);
            let residual = self.residual.map(|residual| data::row(ops, residual, row, n)).transpose()?;
            if out.iter().any(|value| !value.is_finite()) {
                return Ok(f64::INFINITY);
            }
            for (column, b) in &columns {
                let (mut sum, size) = dot(&a, b);
                sum += bias.as_ref().map_or(0.0, |bias| bias[*column]);
                let wanted = match self.activation {
                    Activation::GeluTanh => gelu_tanh(sum),
                    Activation::GeluErf => gelu_erf(sum),
                    Activation::Identity => sum,
                } + residual.as_ref().map_or(0.0, |residual| residual[*column]);
                // GELU is nowhere steeper than 1.13, and its f32 forms are good to 1e-6.
                let allowed = ROUNDING * wanted.abs() + 1.13 * sum_error(k, size) + 1e-6;
                worst = worse(worst, out[*column], wanted, allowed);
            }
        }
        Ok(worst)
    }
}

pub struct Gemm {
    dims: [usize; 3],
    variant: &'static str,
    a: Buffer,        // [M, K]
    b: Buffer,        // [N, K]
    bias: Buffer,     // f32 [N]
    residual: Buffer, // [M, N], or one element
    out: Buffer,      // [M, N]
}

impl Gemm {
    pub fn new(
        ops: &DeviceOperations,
        dtype: DType,
        dims: [usize; 3],
        variant: &'static str,
    ) -> Result<Self> {
        let [m, n, k] = dims;
        let residual = if variant == "residual" { m * n } else { 1 };
        Ok(Gemm {
            dims,
            variant,
            a: random(ops, dtype, m * k, 1, 1.0)?,
            b: random(ops, dtype, n * k, 2, 1.0 / (k as f32).sqrt())?,
            bias: random(ops, DType::F32, n, 3, 0.1)?,
            residual: random(ops, dtype, residual, 4, 1.0)?,
            out: poisoned(ops, dtype, m * n)?,
        })
    }
}

impl Gemm {
    fn params(&mut self) -> GemmParams<Tensor<'_>, TensorMut<'_>> {
        let [m, n, k] = self.dims;
        GemmParams {
            out: self.out.tensor_mut(&[m, n]),
            a: self.a.tensor(&[m, k]),
            b: self.b.tensor(&[n, k]),
            bias: (!self.variant.is_empty()).then(|| self.bias.tensor(&[n])),
            activation: activation(self.variant),
            residual: match self.variant {
                "residual" => Residual::From(self.residual.tensor(&[m, n])),
                _ => Residual::None,
            },
        }
    }
}

impl Work for Gemm {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.gemm(self.params())
    }

    fn launch_bytes(&mut self, ops: &DeviceOperations) -> Result<Option<u64>> {
        let raw = self.params().raw(ops.place())?;
        Ok(Some(traffic::gemm_bytes(ops.kernels(), &raw)?))
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let product = Product {
            dims: self.dims,
            a: &self.a,
            b: &self.b,
            bias: (!self.variant.is_empty()).then_some(&self.bias),
            activation: activation(self.variant),
            residual: (self.variant == "residual").then_some(&self.residual),
            out: &self.out,
        };
        product.check(ops)
    }

    fn flops(&self) -> f64 {
        2.0 * self.dims.iter().map(|&n| n as f64).product::<f64>()
    }

    fn bytes(&mut self) -> f64 {
        self.params().fewest_bytes() as f64
    }
}

/// Two products with GELU between them, and the residual.
pub struct Mlp {
    dims: [usize; 3],
    activation: Activation,
    x: Buffer,        // [num_tokens, hidden_size]
    fc: Buffer,       // [intermediate_size, hidden_size]
    fc_bias: Buffer,  // f32 [intermediate_size]
    proj: Buffer,     // [hidden_size, intermediate_size]
    residual: Buffer, // [num_tokens, hidden_size]
    hidden: Buffer,   // [num_tokens, intermediate_size]
    out: Buffer,      // [num_tokens, hidden_size]
}

impl Mlp {
    pub fn new(ops: &DeviceOperations, dtype: DType, dims: [usize; 3], variant: &str) -> Result<Self> {
        let [tokens, width, inner] = dims;
        Ok(Mlp {
            dims,
            activation: activation(variant),
            x: random(ops, dtype, tokens * width, 1, 1.0)?,
            fc: random(ops, dtype, inner * width, 2, 1.0 / (width as f32).sqrt())?,
            fc_bias: random(ops, DType::F32, inner, 3, 0.1)?,
            proj: random(ops, dtype, inner * width, 4, 1.0 / (inner as f32).sqrt())?,
            residual: random(ops, dtype, tokens * width, 5, 1.0)?,
            hidden: poisoned(ops, dtype, tokens * inner)?,
            out: poisoned(ops, dtype, tokens * width)?,
        })
    }
}

impl Mlp {
    fn params(&mut self) -> MlpParams<Tensor<'_>, TensorMut<'_>> {
        let [tokens, width, inner] = self.dims;
        MlpParams {
            out: self.out.tensor_mut(&[tokens, width]),
            x: self.x.tensor(&[tokens, width]),
            hidden: self.hidden.tensor_mut(&[tokens, inner]),
            fc: self.fc.tensor(&[inner, width]),
            fc_bias: Some(self.fc_bias.tensor(&[inner])),
            proj: self.proj.tensor(&[width, inner]),
            proj_bias: None,
            activation: self.activation,
            residual: Residual::From(self.residual.tensor(&[tokens, width])),
        }
    }
}

impl Work for Mlp {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.mlp(self.params())
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let [tokens, width, inner] = self.dims;
        let first = Product {
            dims: [tokens, inner, width],
            a: &self.x,
            b: &self.fc,
            bias: Some(&self.fc_bias),
            activation: self.activation,
            residual: None,
            out: &self.hidden,
        };
        // From the hidden layer as it was stored.
        let second = Product {
            dims: [tokens, width, inner],
            a: &self.hidden,
            b: &self.proj,
            bias: None,
            activation: Activation::Identity,
            residual: Some(&self.residual),
            out: &self.out,
        };
        Ok(worse_of(first.check(ops)?, second.check(ops)?))
    }

    fn flops(&self) -> f64 {
        4.0 * self.dims.iter().map(|&n| n as f64).product::<f64>()
    }

    fn bytes(&mut self) -> f64 {
        self.params().fewest_bytes() as f64
    }
}
