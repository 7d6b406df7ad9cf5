//! The fewest bytes that each operation must move to and from memory: each input once, each output once.

use super::*;

fn bytes(tensor: &impl AsView) -> u64 {
    let view = tensor.view();
    (view.num_elements() * view.dtype.size()) as u64
}

fn some_bytes<T: AsView>(tensor: &Option<T>) -> u64 {
    tensor.as_ref().map_or(0, bytes)
}

/// Bytes of `rows` rows of a tensor of two dimensions or more, at most all of it.
fn row_bytes(tensor: &impl AsView, rows: usize) -> u64 {
    let view = tensor.view();
    let row: usize = view.shape()[1..].iter().product();
    (rows.min(view.shape()[0]) * row * view.dtype.size()) as u64
}

fn residual_bytes<I: AsView>(residual: &Residual<I>, out: &impl AsView) -> u64 {
    if matches!(residual, Residual::None) { 0 } else { bytes(out) }
}

impl<I: AsView, O: AsView> EmbeddingParams<I, O> {
    /// The fewest bytes it must move, where so many tokens differ and all sequences begin at one position.
    pub fn fewest_bytes(&self, num_distinct: usize) -> u64 {
        let seq_len = self.out.view().shape()[1];
        bytes(&self.out)
            + bytes(&self.token_ids)
            + row_bytes(&self.token_table, num_distinct)
            + row_bytes(&self.position_table, seq_len)
            + some_bytes(&self.first_positions)
    }
}

impl<I: AsView, O: AsView> LayerNormParams<I, O> {
    /// The fewest bytes it must move.
    pub fn fewest_bytes(&self) -> u64 {
        let residual = self.residual.as_ref().map_or(0, |fused| bytes(&fused.delta) + bytes(&fused.sum));
        bytes(&self.out) + bytes(&self.x) + residual + bytes(&self.gamma) + some_bytes(&self.beta)
    }
}

impl<I: AsView, O: AsView> GemmParams<I, O> {
    /// The fewest bytes it must move.
    pub fn fewest_bytes(&self) -> u64 {
        let inputs = bytes(&self.a) + bytes(&self.b) + some_bytes(&self.bias);
        inputs + bytes(&self.out) + residual_bytes(&self.residual, &self.out)
    }
}

impl<I: AsView, O: AsView> MlpParams<I, O> {
    /// The fewest bytes it must move: the hidden layer might stay on the chip.
    pub fn fewest_bytes(&self) -> u64 {
        let weights = bytes(&self.fc) + bytes(&self.proj);
        let biases = some_bytes(&self.fc_bias) + some_bytes(&self.proj_bias);
        bytes(&self.x) + weights + biases + bytes(&self.out) + residual_bytes(&self.residual, &self.out)
    }
}

impl<I: AsView, O: AsView> AttentionParams<I, O> {
    /// The fewest bytes it must move, with `kv_len` keys in every sequence.
    pub fn fewest_bytes(&self) -> u64 {
        let (q, k) = (self.q.view(), self.k.view());
        let rows = q.shape()[0] * self.kv_len; // of k and of v
        let keys = (rows * k.shape()[2] * k.shape()[3] * k.dtype.size()) as u64;
        let lengths = some_bytes(&self.kv_lengths) + some_bytes(&self.block_table);
        bytes(&self.out) + bytes(&self.q) + 2 * keys + lengths
    }
}

impl<I: AsView, O: AsView> RouterLogitsParams<I, O> {
    /// The fewest bytes it must move.
    pub fn fewest_bytes(&self) -> u64 {
        let noise = self.noise.as_ref().map_or(0, |noise| bytes(&noise.weight));
        bytes(&self.logits) + bytes(&self.x) + bytes(&self.weight) + noise
    }
}

impl<I: AsView, O: AsView> TopkGatingParams<I, O> {
    /// The fewest bytes it must move.
    pub fn fewest_bytes(&self) -> u64 {
        let inputs = bytes(&self.logits) + some_bytes(&self.selection_bias) + some_bytes(&self.forced_ids);
        let statistics = some_bytes(&self.counts) + some_bytes(&self.losses);
        inputs + bytes(&self.expert_ids) + bytes(&self.expert_weights) + statistics
    }
}

impl<I: AsView, O: AsView> MoeDispatchParams<I, O> {
    /// The fewest bytes it must move.
    pub fn fewest_bytes(&self) -> u64 {
        bytes(&self.expert_ids) + bytes(&self.expert_offsets) + bytes(&self.row_tokens) + bytes(&self.slots)
    }
}

impl<I: AsView, O: AsView> MoeGemmParams<I, O> {
    /// The fewest bytes it must move where `num_rows` rows, of as many rows of a as there are, go to `num_experts_hit`
    /// experts.
    pub fn fewest_bytes(&self, num_rows: usize, num_experts_hit: usize) -> u64 {
        let bias = self.bias.as_ref().map_or(0, |bias| row_bytes(bias, num_experts_hit));
        let index = if self.row_index.is_some() { 4 * num_rows as u64 } else { 0 };
        row_bytes(&self.out, num_rows)
            + row_bytes(&self.a, num_rows)
            + row_bytes(&self.b, num_experts_hit)
            + bias
            + index
            + bytes(&self.expert_offsets)
    }
}

impl<I: AsView, O: AsView> MoeCombineParams<I, O> {
    /// The fewest bytes it must move where no assignment was dropped.
    pub fn fewest_bytes(&self) -> u64 {
        let num_assignments = self.slots.view().num_elements();
        bytes(&self.out)
            + row_bytes(&self.expert_out, num_assignments)
            + bytes(&self.slots)
            + bytes(&self.weights)
            + residual_bytes(&self.residual, &self.out)
    }
}

impl<I: AsView, O: AsView> SamplingParams<I, O> {
    /// The fewest bytes it must move. The ids seen are read where the penalty of a row asks for them: without them.
    pub fn fewest_bytes(&self) -> u64 {
        let inputs = bytes(&self.logits) + some_bytes(&self.allowed) + bytes(&self.settings);
        inputs + bytes(&self.positions) + bytes(&self.ids) + some_bytes(&self.logprobs)
    }
}

impl<I: AsView, O: AsView> LmHeadParams<I, O> {
    /// The fewest bytes it must move.
    pub fn fewest_bytes(&self) -> u64 {
        let x = match &self.rows {
            Some(rows) => row_bytes(&self.x, rows.view().num_elements()) + bytes(rows),
            None => bytes(&self.x),
        };
        let loss = self.cross_entropy.as_ref().map_or(0, |loss| bytes(&loss.targets) + bytes(&loss.losses));
        let outputs = some_bytes(&self.logits) + some_bytes(&self.argmax) + loss;
        x + bytes(&self.weight) + some_bytes(&self.bias) + outputs
    }
}

/// The fewest bytes that a layer of experts must move, from `x` through the router and both products to `out`, where its
/// tokens go to `num_experts_hit` experts: what lies between might stay on the chip.
pub fn moe_layer_fewest_bytes(
    x: &impl AsView,
    router: &impl AsView,
    up: &impl AsView,
    down: &impl AsView,
    out: &impl AsView,
    num_experts_hit: usize,
) -> u64 {
    let experts = row_bytes(up, num_experts_hit) + row_bytes(down, num_experts_hit);
    bytes(x) + bytes(router) + experts + bytes(out)
}
