//! Tokens spread evenly over experts, and room for where dispatch puts them.

use nanomoe::buffer::Buffer;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{MoeDispatchParams, Operations};
use nanomoe::tensor::{Tensor, TensorMut};

use super::integers;

pub struct Routing {
    tokens: usize,
    experts: usize,
    k: usize,
    ids: Buffer,            // i32 [tokens, k]
    pub offsets: Buffer,    // i32 [experts + 1]
    pub row_tokens: Buffer, // i32 [tokens * k]
    pub slots: Buffer,      // i32 [tokens, k]
    scratch: Buffer,
}

impl Routing {
    pub fn new(ops: &DeviceOperations, tokens: usize, experts: usize, k: usize) -> Self {
        // Experts of a token differ, and every expert has as many tokens as any other.
        let chosen: Vec<i32> = (0..tokens * k).map(|at| ((at / k * 5 + at % k) % experts) as i32).collect();
        let mut ids = integers(ops, tokens * k, experts, 1);
        ops.upload(ids.tensor_mut(&[tokens * k]), bytemuck::cast_slice(&chosen)).expect("upload");
        Routing {
            tokens,
            experts,
            k,
            ids,
            offsets: integers(ops, experts + 1, experts, 2),
            row_tokens: integers(ops, tokens * k, tokens, 3),
            slots: integers(ops, tokens * k, tokens, 4),
            scratch: integers(ops, MoeDispatchParams::scratch_len(experts), experts, 5),
        }
    }

    pub fn params(&mut self) -> MoeDispatchParams<Tensor<'_>, TensorMut<'_>> {
        let (assignments, scratch) = (self.tokens * self.k, self.scratch.len());
        MoeDispatchParams {
            expert_ids: self.ids.tensor(&[self.tokens, self.k]),
            num_experts: self.experts,
            capacity: None,
            expert_offsets: self.offsets.tensor_mut(&[self.experts + 1]),
            row_tokens: self.row_tokens.tensor_mut(&[assignments]),
            slots: self.slots.tensor_mut(&[self.tokens, self.k]),
            scratch: self.scratch.tensor_mut(&[scratch]),
        }
    }
}
