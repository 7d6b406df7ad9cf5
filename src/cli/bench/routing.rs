//! The router: its logits, the choice of experts, and where each assignment goes.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::kernels::{DeviceOperations, traffic};
use nanomoe::operations::*;
use nanomoe::reference::topk_gating;
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::data::{self, poisoned, random, sample};
use super::work::{Work, dot, sum_error, worse};

/// `logits = x · weightᵀ` in f32.
pub struct RouterLogits {
    dims: [usize; 3],
    x: Buffer,      // [num_tokens, hidden_size]
    weight: Buffer, // f32 [num_experts, hidden_size]
    logits: Buffer, // f32 [num_tokens, num_experts]
}

impl RouterLogits {
    pub fn new(ops: &DeviceOperations, dtype: DType, dims: [usize; 3]) -> Result<Self> {
        let [num_tokens, hidden_size, num_experts] = dims;
        Ok(RouterLogits {
            dims,
            x: random(ops, dtype, num_tokens * hidden_size, 1, 1.0)?,
            weight: random(ops, DType::F32, num_experts * hidden_size, 5, 1.0 / (hidden_size as f32).sqrt())?,
            logits: poisoned(ops, DType::F32, num_tokens * num_experts)?,
        })
    }

    /// The logits of `x` `[num_tokens, hidden_size]`, which may be another's.
    pub fn launch_on(&mut self, ops: &DeviceOperations, x: &Buffer) -> Result<()> {
        let [num_tokens, hidden_size, num_experts] = self.dims;
        ops.router_logits(RouterLogitsParams {
            logits: self.logits.tensor_mut(&[num_tokens, num_experts]),
            x: x.tensor(&[num_tokens, hidden_size]),
            weight: self.weight.tensor(&[num_experts, hidden_size]),
            noise: None,
        })
    }

    pub fn weight(&self) -> Tensor<'_> {
        let [_, hidden_size, num_experts] = self.dims;
        self.weight.tensor(&[num_experts, hidden_size])
    }

    fn params(&mut self) -> RouterLogitsParams<Tensor<'_>, TensorMut<'_>> {
        let [num_tokens, hidden_size, num_experts] = self.dims;
        RouterLogitsParams {
            logits: self.logits.tensor_mut(&[num_tokens, num_experts]),
            x: self.x.tensor(&[num_tokens, hidden_size]),
            weight: self.weight.tensor(&[num_experts, hidden_size]),
            noise: None,
        }
    }

    pub fn check_on(&self, ops: &DeviceOperations, x: &Buffer) -> Result<f64> {
        let [num_tokens, hidden_size, num_experts] = self.dims;
        let weight = data::part(ops, &self.weight, 0, num_experts * hidden_size)?;
        let mut worst = 0.0;
        for row in sample(num_tokens, 32) {
            let x = data::row(ops, x, row, hidden_size)?;
            let got = data::row(ops, &self.logits, row, num_experts)?;
            for (got, weight) in got.into_iter().zip(weight.chunks_exact(hidden_size)) {
                let (wanted, size) = dot(&x, weight);
                worst = worse(worst, got, wanted, sum_error(hidden_size, size) + 1e-6 * wanted.abs());
            }
        }
        Ok(worst)
    }
}

impl Work for RouterLogits {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.router_logits(self.params())
    }

    fn launch_bytes(&mut self, ops: &DeviceOperations) -> Result<Option<u64>> {
        let raw = self.params().raw(ops.place())?;
        Ok(Some(traffic::router_logits_bytes(ops.kernels(), &raw)?))
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        self.check_on(ops, &self.x)
    }

    fn flops(&self) -> f64 {
        2.0 * self.dims.iter().map(|&n| n as f64).product::<f64>()
    }

    fn bytes(&mut self) -> f64 {
        self.params().fewest_bytes() as f64
    }
}

/// Router logits to expert ids and weights, and to rows.
pub struct Routed {
    pub num_tokens: usize,
    pub num_experts: usize,
    pub k: usize,
    capacity: Option<usize>,
    host_logits: Vec<f32>,
    pub host_ids: Vec<i32>,
    logits: Buffer,      // f32 [num_tokens, num_experts]
    ids: Buffer,         // i32 [num_tokens, k]
    pub weights: Buffer, // f32 [num_tokens, k]
    pub offsets: Buffer, // i32 [num_experts + 1]
    pub tokens: Buffer,  // i32 [num_tokens * k]
    pub slots: Buffer,   // i32 [num_tokens, k]
    gating_scratch: Buffer,
    dispatch_scratch: Buffer,
}

impl Routed {
    pub fn new(ops: &DeviceOperations, dims: [usize; 3], routing: &str) -> Result<Self> {
        let [num_tokens, num_experts, k] = dims;
        let host_logits = data::router_logits(num_tokens, num_experts, routing);
        let host_ids = data::top_k(&host_logits, num_experts, k);
        Ok(Routed {
            num_tokens,
            num_experts,
            k,
            capacity: data::capacity(routing, num_tokens, num_experts, k),
            logits: data::floats(ops, &host_logits)?,
            ids: poisoned(ops, DType::I32, num_tokens * k)?,
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

    fn gating_params(&mut self) -> TopkGatingParams<Tensor<'_>, TensorMut<'_>> {
        let shape = [self.num_tokens, self.k];
        let scratch = self.gating_scratch.len();
        TopkGatingParams {
            logits: self.logits.tensor(&[self.num_tokens, self.num_experts]),
            selection_bias: None,
            forced_ids: None,
            spec: GatingSpec::NANO_MOE,
            expert_ids: self.ids.tensor_mut(&shape),
            expert_weights: self.weights.tensor_mut(&shape),
            counts: None,
            losses: None,
            scratch: self.gating_scratch.tensor_mut(&[scratch]),
        }
    }

    fn dispatch_params(&mut self) -> MoeDispatchParams<Tensor<'_>, TensorMut<'_>> {
        let shape = [self.num_tokens, self.k];
        let scratch = self.dispatch_scratch.len();
        MoeDispatchParams {
            expert_ids: self.ids.tensor(&shape),
            num_experts: self.num_experts,
            capacity: self.capacity,
            expert_offsets: self.offsets.tensor_mut(&[self.num_experts + 1]),
            row_tokens: self.tokens.tensor_mut(&[self.num_tokens * self.k]),
            slots: self.slots.tensor_mut(&shape),
            scratch: self.dispatch_scratch.tensor_mut(&[scratch]),
        }
    }

    pub fn gate(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.topk_gating(self.gating_params())
    }

    pub fn dispatch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.moe_dispatch(self.dispatch_params())
    }

    /// What dispatch should give: (expert_offsets, row_tokens, slots)
    pub fn dispatched(&self) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        data::dispatch(&self.host_ids, self.num_experts, self.k, self.capacity)
    }

    pub fn check_gating(&self, ops: &DeviceOperations) -> Result<f64> {
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
}

/// The choice alone.
pub struct Gating(pub Routed);

impl Work for Gating {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        self.0.gate(ops)
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        self.0.check_gating(ops)
    }

    /// Comparisons, k rounds over the experts, and an exponential an assignment.
    fn flops(&self) -> f64 {
        (self.0.num_tokens * self.0.k * (self.0.num_experts + 1)) as f64
    }

    fn bytes(&mut self) -> f64 {
        self.0.gating_params().fewest_bytes() as f64
    }
}

/// The places alone, of ids that are there.
pub struct Dispatch(Routed);

impl Dispatch {
    pub fn new(ops: &DeviceOperations, dims: [usize; 3], routing: &str) -> Result<Self> {
        let mut routed = Routed::new(ops, dims, routing)?;
        routed.ids = data::integers(ops, &routed.host_ids)?;
        Ok(Dispatch(routed))
    }
}

impl Work for Dispatch {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        self.0.dispatch(ops)
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let read = |buffer| data::read_integers(ops, buffer);
        let got = (read(&self.0.offsets)?, read(&self.0.tokens)?, read(&self.0.slots)?);
        Ok(if got == self.0.dispatched() { 0.0 } else { f64::INFINITY })
    }

    /// An addition and a store an assignment.
    fn flops(&self) -> f64 {
        (2 * self.0.num_tokens * self.0.k) as f64
    }

    fn bytes(&mut self) -> f64 {
        self.0.dispatch_params().fewest_bytes() as f64
    }

    fn launch_bytes(&mut self, ops: &DeviceOperations) -> Result<Option<u64>> {
        let raw = self.0.dispatch_params().raw(ops.place())?;
        Ok(Some(traffic::moe_dispatch_bytes(&raw)?))
    }
}
