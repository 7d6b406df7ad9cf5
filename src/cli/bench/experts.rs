//! The grouped product, the weighted sum, and a whole layer of experts.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::kernels::{DeviceOperations, traffic};
use nanomoe::operations::*;
use nanomoe::reference::gelu_erf;
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::data::{self, poisoned, random, sample};
use super::routing::{Routed, RouterLogits};
use super::work::{ROUNDING, Work, dot, sizes, stored, sum_error, worse, worse_of};

/// The first grouped product alone, its rows gathered; or the router, gating, dispatch, both products with GELU (erf)
/// between them, and the weighted sum.
pub struct Experts {
    /// Its logits are computed and checked; those that gating reads are made for the routing that is measured.
    router: Option<RouterLogits>,
    routed: Routed,
    hidden_size: usize,
    intermediate_size: usize,
    x: Buffer,          // [num_tokens, hidden_size]
    up: Buffer,         // [num_experts, intermediate_size, hidden_size]
    down: Buffer,       // [num_experts, hidden_size, intermediate_size], or one element
    hidden: Buffer,     // [num_tokens * k, intermediate_size]
    expert_out: Buffer, // [num_tokens * k, hidden_size], or one element
    out: Buffer,        // [num_tokens, hidden_size], or one element
}

impl Experts {
    pub fn new(
        ops: &DeviceOperations,
        dtype: DType,
        dims: &[usize],
        routing: &str,
        is_layer: bool,
    ) -> Result<Self> {
        let [num_tokens, hidden_size, intermediate_size, num_experts, k] = sizes(dims)?;
        let mut routed = Routed::new(ops, [num_tokens, num_experts, k], routing)?;
        let router = is_layer
            .then(|| RouterLogits::new(ops, dtype, [num_tokens, hidden_size, num_experts]))
            .transpose()?;
        if !is_layer {
            routed.gate(ops)?;
            routed.dispatch(ops)?;
        }
        let (weights, rows) = (num_experts * hidden_size * intermediate_size, num_tokens * k);
        let of_layer = |len| if is_layer { len } else { 1 };
        Ok(Experts {
            router,
            routed,
            hidden_size,
            intermediate_size,
            x: random(ops, dtype, num_tokens * hidden_size, 1, 1.0)?,
            up: random(ops, dtype, weights, 2, 1.0 / (hidden_size as f32).sqrt())?,
            down: random(ops, dtype, of_layer(weights), 3, 1.0 / (intermediate_size as f32).sqrt())?,
            hidden: poisoned(ops, dtype, rows * intermediate_size)?,
            expert_out: poisoned(ops, dtype, of_layer(rows * hidden_size))?,
            out: poisoned(ops, dtype, of_layer(num_tokens * hidden_size))?,
        })
    }

    /// Most rows there can be; where some are dropped there are fewer.
    fn rows(&self) -> usize {
        self.routed.num_tokens * self.routed.k
    }

    fn kept_rows(&self) -> usize {
        self.routed.dispatched().0[self.routed.num_experts] as usize
    }

    /// Rows of the hidden layer against sums of their own.
    fn check_hidden(&self, ops: &DeviceOperations) -> Result<f64> {
        let (h, i) = (self.hidden_size, self.intermediate_size);
        let (offsets, tokens, _) = self.routed.dispatched();
        let mut worst = 0.0;
        for row in sample(self.kept_rows(), 16) {
            let expert = offsets.partition_point(|&offset| offset as usize <= row) - 1;
            let x = data::row(ops, &self.x, tokens[row] as usize, h)?;
            let got = data::row(ops, &self.hidden, row, i)?;
            if got.iter().any(|value| !value.is_finite()) {
                return Ok(f64::INFINITY);
            }
            for column in sample(i, 32) {
                let (sum, size) = dot(&x, &data::row(ops, &self.up, expert * i + column, h)?);
                let wanted = if self.router.is_some() { gelu_erf(sum) } else { sum };
                let allowed = ROUNDING * wanted.abs() + 1.13 * sum_error(h, size) + 1e-6;
                worst = worse(worst, got[column], wanted, allowed);
            }
        }
        Ok(worst)
    }

    /// Tokens of the result against the sum over their experts, from the hidden layer as it was stored.
    fn check_out(&self, ops: &DeviceOperations) -> Result<f64> {
        let (h, i, k) = (self.hidden_size, self.intermediate_size, self.routed.k);
        let (_, _, slots) = self.routed.dispatched();
        let weights = data::part(ops, &self.routed.weights, 0, self.rows())?;
        let mut worst = 0.0;
        for token in sample(self.routed.num_tokens, 8) {
            let got = data::row(ops, &self.out, token, h)?;
            if got.iter().any(|value| !value.is_finite()) {
                return Ok(f64::INFINITY);
            }
            let kept: Vec<usize> = (token * k..(token + 1) * k).filter(|&at| slots[at] >= 0).collect();
            let hidden: Vec<Vec<f64>> = kept
                .iter()
                .map(|&at| data::row(ops, &self.hidden, slots[at] as usize, i))
                .collect::<Result<_>>()?;
            for column in sample(h, 32) {
                let (mut wanted, mut allowed) = (0.0, 1e-6);
                for (hidden, &at) in hidden.iter().zip(&kept) {
                    let row = self.routed.host_ids[at] as usize * h + column;
                    let (sum, size) = dot(hidden, &data::row(ops, &self.down, row, i)?);
                    wanted += weights[at] * stored(sum);
                    // A sum at the edge between two stored values may be stored as either.
                    allowed += weights[at].abs() * (stored(sum).abs() / 128.0 + sum_error(i, size));
                }
                worst = worse(worst, got[column], wanted, allowed + ROUNDING * wanted.abs());
            }
        }
        Ok(worst)
    }
}

impl Experts {
    /// The first product.
    fn up_params(&mut self) -> MoeGemmParams<Tensor<'_>, TensorMut<'_>> {
        let (t, h, i) = (self.routed.num_tokens, self.hidden_size, self.intermediate_size);
        let (e, rows) = (self.routed.num_experts, self.rows());
        MoeGemmParams {
            out: self.hidden.tensor_mut(&[rows, i]),
            a: self.x.tensor(&[t, h]),
            row_index: Some(self.routed.tokens.tensor(&[rows])),
            b: self.up.tensor(&[e, i, h]),
            bias: None,
            expert_offsets: self.routed.offsets.tensor(&[e + 1]),
            activation: if self.router.is_some() { Activation::GeluErf } else { Activation::Identity },
        }
    }
}

impl Work for Experts {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        let (t, h, i) = (self.routed.num_tokens, self.hidden_size, self.intermediate_size);
        let (e, k, rows) = (self.routed.num_experts, self.routed.k, self.rows());
        if let Some(router) = &mut self.router {
            router.launch_on(ops, &self.x)?;
            self.routed.gate(ops)?;
            self.routed.dispatch(ops)?;
        }
        let is_layer = self.router.is_some();
        ops.moe_gemm(self.up_params())?;
        if !is_layer {
            return Ok(());
        }
        ops.moe_gemm(MoeGemmParams {
            out: self.expert_out.tensor_mut(&[rows, h]),
            a: self.hidden.tensor(&[rows, i]),
            row_index: None,
            b: self.down.tensor(&[e, h, i]),
            bias: None,
            expert_offsets: self.routed.offsets.tensor(&[e + 1]),
            activation: Activation::Identity,
        })?;
        ops.moe_combine(MoeCombineParams {
            out: self.out.tensor_mut(&[t, h]),
            expert_out: self.expert_out.tensor(&[rows, h]),
            slots: self.routed.slots.tensor(&[t, k]),
            weights: self.routed.weights.tensor(&[t, k]),
            residual: Residual::None,
        })
    }

    fn launch_bytes(&mut self, ops: &DeviceOperations) -> Result<Option<u64>> {
        if self.router.is_some() {
            return Ok(None);
        }
        let (offsets, ..) = self.routed.dispatched();
        let loads: Vec<usize> = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).collect();
        let raw = self.up_params().raw(ops.place())?;
        Ok(Some(traffic::moe_gemm_bytes(ops.kernels(), &raw, &loads)?))
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let mut worst = self.check_hidden(ops)?;
        if let Some(router) = &self.router {
            for part in [router.check_on(ops, &self.x)?, self.routed.check_gating(ops)?, self.check_out(ops)?]
            {
                worst = worse_of(worst, part);
            }
        }
        Ok(worst)
    }

    fn flops(&self) -> f64 {
        let (products, router) = match self.router {
            Some(_) => {
                (4.0, 2.0 * (self.routed.num_tokens * self.hidden_size * self.routed.num_experts) as f64)
            }
            None => (2.0, 0.0),
        };
        router + products * (self.kept_rows() * self.hidden_size) as f64 * self.intermediate_size as f64
    }

    /// Weights of the experts that were hit, what comes in and what goes out.
    fn bytes(&mut self) -> f64 {
        let hit = data::distinct(&self.routed.host_ids);
        let (t, h, i) = (self.routed.num_tokens, self.hidden_size, self.intermediate_size);
        let e = self.routed.num_experts;
        if let Some(router) = &self.router {
            let (x, out) = (self.x.tensor(&[t, h]), self.out.tensor(&[t, h]));
            let (up, down) = (self.up.tensor(&[e, i, h]), self.down.tensor(&[e, h, i]));
            moe_layer_fewest_bytes(&x, &router.weight(), &up, &down, &out, hit) as f64
        } else {
            let num_rows = self.kept_rows();
            self.up_params().fewest_bytes(num_rows, hit) as f64
        }
    }
}

/// The weighted sum of the rows of each token.
pub struct Combine {
    dims: [usize; 3],
    host_slots: Vec<i32>,
    slots: Buffer,      // i32 [num_tokens, k]
    weights: Buffer,    // f32 [num_tokens, k]
    expert_out: Buffer, // [num_tokens * k, hidden_size]
    out: Buffer,        // [num_tokens, hidden_size]
}

impl Combine {
    pub fn new(ops: &DeviceOperations, dtype: DType, dims: [usize; 3]) -> Result<Self> {
        let [num_tokens, hidden_size, k] = dims;
        // As eight experts would have them, or as many as a token needs.
        let experts = k.max(8);
        let ids = data::top_k(&data::router_logits(num_tokens, experts, ""), experts, k);
        let (_, _, host_slots) = data::dispatch(&ids, experts, k, None);
        Ok(Combine {
            dims,
            slots: data::integers(ops, &host_slots)?,
            host_slots,
            weights: random(ops, DType::F32, num_tokens * k, 2, 0.5)?,
            expert_out: random(ops, dtype, num_tokens * k * hidden_size, 1, 1.0)?,
            out: poisoned(ops, dtype, num_tokens * hidden_size)?,
        })
    }
}

impl Combine {
    fn params(&mut self) -> MoeCombineParams<Tensor<'_>, TensorMut<'_>> {
        let [num_tokens, hidden_size, k] = self.dims;
        MoeCombineParams {
            out: self.out.tensor_mut(&[num_tokens, hidden_size]),
            expert_out: self.expert_out.tensor(&[num_tokens * k, hidden_size]),
            slots: self.slots.tensor(&[num_tokens, k]),
            weights: self.weights.tensor(&[num_tokens, k]),
            residual: Residual::None,
        }
    }
}

impl Work for Combine {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.moe_combine(self.params())
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let [num_tokens, hidden_size, k] = self.dims;
        let mut worst = 0.0;
        for token in sample(num_tokens, 64) {
            let weights = data::row(ops, &self.weights, token, k)?;
            let slots = &self.host_slots[token * k..][..k];
            let rows: Vec<Vec<f64>> = slots
                .iter()
                .map(|&slot| data::row(ops, &self.expert_out, slot as usize, hidden_size))
                .collect::<Result<_>>()?;
            for (column, got) in data::row(ops, &self.out, token, hidden_size)?.into_iter().enumerate() {
                let terms: Vec<f64> = rows.iter().map(|row| row[column]).collect();
                let (wanted, size) = dot(&weights, &terms);
                worst = worse(worst, got, wanted, ROUNDING * wanted.abs() + sum_error(k, size) + 1e-30);
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
