//! A model's parameters, uploaded.

use crate::buffer::{Buffer, zeroed};
use crate::error::Result;
use crate::operations::Operations;
use crate::tensor::{DType, Tensor};
use crate::weights::{Checkpoint, LayerWeight, Weight};

/// A weight `[out, in]`, or one of each expert, and its bias.
#[derive(Debug)]
pub(super) struct Linear {
    pub weight: Buffer,
    bias: Option<Buffer>,
}

impl Linear {
    /// The bias as `[len]`.
    pub fn bias(&self, len: usize) -> Option<Tensor<'_>> {
        self.bias.as_ref().map(|bias| bias.tensor(&[len]))
    }
}

/// Gain and shift of a layer norm.
#[derive(Debug)]
pub(super) struct Norm {
    pub gamma: Buffer,        // f32 [hidden_size]
    pub beta: Option<Buffer>, // f32 [hidden_size]
}

/// One transformer block.
#[derive(Debug)]
pub(super) struct Block {
    pub norm1: Norm,
    pub qkv: Linear, // [3 · hidden_size, hidden_size]
    pub out: Linear, // [hidden_size, hidden_size]
    pub norm2: Norm,
    pub feed_forward: FeedForward,
}

#[derive(Debug)]
pub(super) enum FeedForward {
    Dense { up: Linear, down: Linear },
    Experts(Experts),
}

/// A router and its experts.
#[derive(Debug)]
pub(super) struct Experts {
    pub router: Buffer,        // f32 [num_experts, hidden_size]
    pub noise: Option<Buffer>, // f32 [num_experts, hidden_size]
    pub up: Linear,            // [num_experts, intermediate_size, hidden_size]
    pub down: Linear,          // [num_experts, hidden_size, intermediate_size]
}

#[derive(Debug)]
pub(super) struct Parameters {
    pub token_table: Buffer,    // [vocab_size, hidden_size]
    pub position_table: Buffer, // [block_size, hidden_size]
    pub blocks: Vec<Block>,
    pub final_norm: Norm,
    own_head: Option<Buffer>,      // [vocab_size, hidden_size]
    pub head_bias: Option<Buffer>, // f32 [vocab_size]
}

impl Parameters {
    /// Reads and uploads one parameter after the other.
    pub fn upload(ops: &dyn Operations, checkpoint: &Checkpoint, dtype: DType) -> Result<Self> {
        let mut uploader = Uploader { ops, checkpoint, dtype, bytes: Vec::new() };
        let config = checkpoint.config();
        Ok(Parameters {
            token_table: uploader.upload(Weight::TokenEmbedding)?,
            position_table: uploader.upload(Weight::PositionEmbedding)?,
            blocks: (0..config.num_layers).map(|layer| uploader.block(layer)).collect::<Result<_>>()?,
            final_norm: uploader.norm(Weight::FinalNormGamma, Weight::FinalNormBeta)?,
            own_head: uploader.optional(Weight::Head)?,
            head_bias: uploader.optional(Weight::HeadBias)?,
        })
    }

    /// The head's weight, which may be the token embedding.
    pub fn head(&self) -> &Buffer {
        self.own_head.as_ref().unwrap_or(&self.token_table)
    }
}

struct Uploader<'a> {
    ops: &'a dyn Operations,
    checkpoint: &'a Checkpoint,
    dtype: DType,
    /// One parameter at a time on its way.
    bytes: Vec<u8>,
}

impl Uploader<'_> {
    fn upload(&mut self, weight: Weight) -> Result<Buffer> {
        let dtype = if weight.is_matrix() { self.dtype } else { DType::F32 };
        let len: usize = self.checkpoint.shape(weight).iter().product();
        let size = len * dtype.size();
        if self.bytes.len() < size {
            self.bytes = zeroed(size)?;
        }
        let bytes = &mut self.bytes[..size];
        self.checkpoint.read(weight, dtype, bytes)?;
        let mut buffer = self.ops.allocate(dtype, len)?;
        self.ops.upload(buffer.tensor_mut(&[len]), bytes)?;
        Ok(buffer)
    }

    fn optional(&mut self, weight: Weight) -> Result<Option<Buffer>> {
        if weight.is_in(self.checkpoint.config()) { self.upload(weight).map(Some) } else { Ok(None) }
    }

    fn norm(&mut self, gamma: Weight, beta: Weight) -> Result<Norm> {
        Ok(Norm { gamma: self.upload(gamma)?, beta: self.optional(beta)? })
    }

    fn linear(&mut self, weight: Weight, bias: Weight) -> Result<Linear> {
        Ok(Linear { weight: self.upload(weight)?, bias: self.optional(bias)? })
    }

    fn block(&mut self, layer: usize) -> Result<Block> {
        use LayerWeight as L;
        let of = |weight| Weight::Layer(layer, weight);
        let norm1 = self.norm(of(L::Norm1Gamma), of(L::Norm1Beta))?;
        let qkv = self.linear(of(L::Qkv), of(L::QkvBias))?;
        let out = self.linear(of(L::Out), of(L::OutBias))?;
        let norm2 = self.norm(of(L::Norm2Gamma), of(L::Norm2Beta))?;
        let feed_forward = match self.checkpoint.config().moe_layer(layer) {
            None => FeedForward::Dense {
                up: self.linear(of(L::Up), of(L::UpBias))?,
                down: self.linear(of(L::Down), of(L::DownBias))?,
            },
            Some(_) => FeedForward::Experts(Experts {
                router: self.upload(of(L::Router))?,
                noise: self.optional(of(L::RouterNoise))?,
                up: self.linear(of(L::ExpertsUp), of(L::ExpertsUpBias))?,
                down: self.linear(of(L::ExpertsDown), of(L::ExpertsDownBias))?,
            }),
        };
        Ok(Block { norm1, qkv, out, norm2, feed_forward })
    }
}
