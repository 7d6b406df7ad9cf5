//! Gating, dispatch, the grouped product, and a whole layer of experts.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::*;
use nanomoe::reference::{gelu_erf, topk_gating};
use nanomoe::tensor::DType;

use super::cases::Case;
use super::data::{self, poisoned, random, sample};
use super::work::{DTYPE, Work, dot, stored, sum_error, unknown, worse};

pub fn prepare(ops: &DeviceOperations, case: &Case) -> Result<Box<dyn Work>> {
    let d = &case.dims;
    Ok(match case.op {
        "topk_gating" => Box::new(Routed::new(ops, [d[0], d[1], d[2]], case.variant, Part::Gating)?),
        "moe_dispatch" => Box::new(Routed::new(ops, [d[0], d[1], d[2]], case.variant, Part::Dispatch)?),
        "moe_gemm" => Box::new(Experts::new(ops, d, case.variant, false)?),
        "moe_layer" => Box::new(Experts::new(ops, d, case.variant, true)?),
        op => return Err(unknown(op)),
    })
}

/// Which half of routing is measured.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Gating,
    Dispatch,
}

/// Router logits to expert ids and weights, and to rows.
struct Routed {
    num_tokens: usize,
    num_experts: usize,
    k: usize,
    part: Part,
    host_logits: Vec<f32>,
    host_ids: Vec<i32>,
    logits: Buffer,  // f32 [num_tokens, num_experts]
    ids: Buffer,     // i32 [num_tokens, k]
    weights: Buffer, // f32 [num_tokens, k]
    offsets: Buffer, // i32 [num_experts + 1]
    tokens: Buffer,  // i32 [num_tokens * k]
    slots: Buffer,   // i32 [num_tokens, k]
    gating_scratch: Buffer,
    dispatch_scratch: Buffer,
}

impl Routed {
    fn new(ops: &DeviceOperations, dims: [usize; 3], routing: &str, part: Part) -> Result<Self> {
        let [num_tokens, num_experts, k] = dims;
        let host_logits = data::router_logits(num_tokens, num_experts, routing);
        let host_ids = data::top_k(&host_logits, num_experts, k);
        Ok(Routed {
            num_tokens,
            num_experts,
            k,
            part,
            logits: data::floats(ops, &host_logits)?,
            // Gating writes the ids, dispatch reads them.
            ids: match part {
                Part::Gating => poisoned(ops, DType::I32, num_tokens * k)?,
                Part::Dispatch => data::integers(ops, &host_ids)?,
            },
            weights: poisoned(ops, DType::F32, num_tokens * k)?,
            offsets: poisoned(ops, DType::I32, num_experts + 1)?,
            tokens: poisoned(ops, DType::I32, num_tokens * k)?,
            slots: poisoned(ops, DType::I32, num_tokens * k)?,
            gating_scratch: poisoned(ops, DType::F32, TopkGatingParams::scratch_len(num_experts))?,
            dispatch_scratch: poisoned(ops, DType::I32, MoeDispatchParams::scratch_len(num_experts))?,
            host_logits,
            host_ids,
        })
    }

    fn gate(&mut self, ops: &DeviceOperations) -> Result<()> {
        let shape = [self.num_tokens, self.k];
        let scratch = self.gating_scratch.len();
        ops.topk_gating(TopkGatingParams {
            logits: self.logits.tensor(&[self.num_tokens, self.num_experts]),
            selection_bias: None,
            forced_ids: None,
            spec: GatingSpec::NANO_MOE,
            expert_ids: self.ids.tensor_mut(&shape),
            expert_weights: self.weights.tensor_mut(&shape),
            counts: None,
            losses: None,
            scratch: self.gating_scratch.tensor_mut(&[scratch]),
        })
    }

    fn dispatch(&mut self, ops: &DeviceOperations) -> Result<()> {
        let shape = [self.num_tokens, self.k];
        let scratch = self.dispatch_scratch.len();
        ops.moe_dispatch(MoeDispatchParams {
            expert_ids: self.ids.tensor(&shape),
            num_experts: self.num_experts,
            capacity: None,
            expert_offsets: self.offsets.tensor_mut(&[self.num_experts + 1]),
            row_tokens: self.tokens.tensor_mut(&[self.num_tokens * self.k]),
            slots: self.slots.tensor_mut(&shape),
            scratch: self.dispatch_scratch.tensor_mut(&[scratch]),
        })
    }
}

impl Work for Routed {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        if self.part == Part::Gating { self.gate(ops) } else { self.dispatch(ops) }
    }

    fn check(&self, ops: &DeviceOperations) -> Result<f64> {
        if self.part == Part::Dispatch {
            let read = |buffer| data::read_integers(ops, buffer);
            let got = (read(&self.offsets)?, read(&self.tokens)?, read(&self.slots)?);
            let wanted = data::dispatch(&self.host_ids, self.num_experts, self.k);
            return Ok(if got == wanted { 0.0 } else { f64::INFINITY });
        }
        let weights = data::part(ops, &self.weights, 0, self.num_tokens * self.k)?;
        if data::read_integers(ops, &self.ids)? != self.host_ids {
            return Ok(f64::INFINITY);
        }
        let mut worst = 0.0;
        for token in sample(self.num_tokens, 256) {
            let row = &self.host_logits[token * self.num_experts..][..self.num_experts];
            let row: Vec<f64> = row.iter().map(|&logit| logit.into()).collect();
            let wanted = topk_gating(&row, self.num_experts, self.k, &GatingSpec::NANO_MOE, None, None);
            for (got, wanted) in weights[token * self.k..].iter().zip(wanted.expert_weights) {
                worst = worse(worst, *got, wanted, 1e-6 + 1e-5 * wanted);
            }
        }
        Ok(worst)
    }

    /// Comparisons of gating (k rounds over the experts) and its exponentials; an addition and a store an assignment.
    fn flops(&self) -> f64 {
        match self.part {
            Part::Gating => (self.num_tokens * self.num_experts * self.k + self.num_tokens * self.k) as f64,
            Part::Dispatch => (2 * self.num_tokens * self.k) as f64,
        }
    }

    fn bytes(&self) -> f64 {
        let assignments = self.num_tokens * self.k;
        match self.part {
            Part::Gating => (4 * self.num_tokens * self.num_experts + 8 * assignments) as f64,
            Part::Dispatch => (12 * assignments + 4 * (self.num_experts + 1)) as f64,
        }
    }
}

/// The first grouped product alone, its rows gathered; or gating, dispatch, both products with GELU (erf) between
/// them, and the weighted sum.
struct Experts {
    routed: Routed,
    hidden_size: usize,
    intermediate_size: usize,
    is_layer: bool,
    x: Buffer,          // [num_tokens, hidden_size]
    up: Buffer,         // [num_experts, intermediate_size, hidden_size]
    down: Buffer,       // [num_experts, hidden_size, intermediate_size], or one element
    hidden: Buffer,     // [num_tokens * k, intermediate_size]
    expert_out: Buffer, // [num_tokens * k, hidden_size], or one element
    out: Buffer,        // [num_tokens, hidden_size], or one element
}

impl Experts {
    fn new(ops: &DeviceOperations, dims: &[usize], routing: &str, is_layer: bool) -> Result<Self> {
        let &[num_tokens, hidden_size, intermediate_size, num_experts, k] = dims else {
            return Err(unknown("moe_layer"));
        };
        let mut routed = Routed::new(ops, [num_tokens, num_experts, k], routing, Part::Gating)?;
        if !is_layer {
            routed.gate(ops)?;
            routed.dispatch(ops)?;
        }
        let (weights, rows) = (num_experts * hidden_size * intermediate_size, num_tokens * k);
        let of_layer = |len| if is_layer { len } else { 1 };
        Ok(Experts {
            routed,
            hidden_size,
            intermediate_size,
            is_layer,
            x: random(ops, DTYPE, num_tokens * hidden_size, 1, 1.0)?,
            up: random(ops, DTYPE, weights, 2, 1.0 / (hidden_size as f32).sqrt())?,
            down: random(ops, DTYPE, of_layer(weights), 3, 1.0 / (intermediate_size as f32).sqrt())?,
            hidden: poisoned(ops, DTYPE, rows * intermediate_size)?,
            expert_out: poisoned(ops, DTYPE, of_layer(rows * hidden_size))?,
            out: poisoned(ops, DTYPE, of_layer(num_tokens * hidden_size))?,
        })
    }

    fn rows(&self) -> usize {
        self.routed.num_tokens * self.routed.k
    }

    /// Rows of the hidden layer against sums of their own.
    fn check_hidden(&self, ops: &DeviceOperations) -> Result<f64> {
        let (h, i, k) = (self.hidden_size, self.intermediate_size, self.routed.k);
        let (offsets, tokens, _) = data::dispatch(&self.routed.host_ids, self.routed.num_experts, k);
        let mut worst = 0.0;
        for row in sample(self.rows(), 16) {
            let expert = offsets.partition_point(|&offset| offset as usize <= row) - 1;
            let x = data::row(ops, &self.x, tokens[row] as usize, h)?;
            let got = data::row(ops, &self.hidden, row, i)?;
            if got.iter().any(|value| !value.is_finite()) {
                return Ok(f64::INFINITY);
            }
            for column in sample(i, 32) {
                let (sum, size) = dot(&x, &data::row(ops, &self.up, expert * i + column, h)?);
                let wanted = if self.is_layer { gelu_erf(sum) } else { sum };
                let allowed = wanted.abs() / 256.0 + 1.13 * sum_error(h, size) + 1e-6;
                worst = worse(worst, got[column], wanted, allowed);
            }
        }
        Ok(worst)
    }

    /// Tokens of the result against the sum over their experts, from the hidden layer as it was stored.
    fn check_out(&self, ops: &DeviceOperations) -> Result<f64> {
        let (h, i, k) = (self.hidden_size, self.intermediate_size, self.routed.k);
        let (_, _, slots) = data::dispatch(&self.routed.host_ids, self.routed.num_experts, k);
        let weights = data::part(ops, &self.routed.weights, 0, self.rows())?;
        let mut worst = 0.0;
        for token in sample(self.routed.num_tokens, 8) {
            let got = data::row(ops, &self.out, token, h)?;
            if got.iter().any(|value| !value.is_finite()) {
                return Ok(f64::INFINITY);
            }
            let chosen = token * k..(token + 1) * k;
            let hidden: Vec<Vec<f64>> = chosen
                .clone()
                .map(|at| data::row(ops, &self.hidden, slots[at] as usize, i))
                .collect::<Result<_>>()?;
            for column in sample(h, 32) {
                let (mut wanted, mut allowed) = (0.0, 1e-6);
                for (hidden, at) in hidden.iter().zip(chosen.clone()) {
                    let row = self.routed.host_ids[at] as usize * h + column;
                    let (sum, size) = dot(hidden, &data::row(ops, &self.down, row, i)?);
                    wanted += weights[at] * stored(sum);
                    // A sum at the edge between two stored values may be stored as either.
                    allowed += weights[at].abs() * (stored(sum).abs() / 128.0 + sum_error(i, size));
                }
                worst = worse(worst, got[column], wanted, allowed + wanted.abs() / 256.0);
            }
        }
        Ok(worst)
    }
}

impl Work for Experts {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        let (t, h, i) = (self.routed.num_tokens, self.hidden_size, self.intermediate_size);
        let (e, k, rows) = (self.routed.num_experts, self.routed.k, self.rows());
        if self.is_layer {
            self.routed.gate(ops)?;
            self.routed.dispatch(ops)?;
        }
        ops.moe_gemm(MoeGemmParams {
            out: self.hidden.tensor_mut(&[rows, i]),
            a: self.x.tensor(&[t, h]),
            row_index: Some(self.routed.tokens.tensor(&[rows])),
            b: self.up.tensor(&[e, i, h]),
            bias: None,
            expert_offsets: self.routed.offsets.tensor(&[e + 1]),
            activation: if self.is_layer { Activation::GeluErf } else { Activation::Identity },
        })?;
        if !self.is_layer {
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

    fn check(&self, ops: &DeviceOperations) -> Result<f64> {
        let worst = if self.is_layer { worse_of(self.routed.check(ops)?, self.check_out(ops)?) } else { 0.0 };
        Ok(worse_of(worst, self.check_hidden(ops)?))
    }

    fn flops(&self) -> f64 {
        let products = if self.is_layer { 4.0 } else { 2.0 };
        products * (self.rows() * self.hidden_size) as f64 * self.intermediate_size as f64
    }

    /// Weights of the experts that were hit, what comes in and what goes out.
    fn bytes(&self) -> f64 {
        let mut hit: Vec<i32> = self.routed.host_ids.clone();
        hit.sort_unstable();
        hit.dedup();
        let weights = (2 * hit.len() * self.hidden_size * self.intermediate_size) as f64;
        let (t, h) = (self.routed.num_tokens, self.hidden_size);
        if self.is_layer {
            2.0 * weights + (4 * t * h) as f64
        } else {
            weights + (2 * t * h + 2 * self.rows() * self.intermediate_size) as f64
        }
    }
}

/// The larger; NaN stays.
fn worse_of(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}
