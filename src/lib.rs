//! The forward pass of GPT and Mixture-of-Experts language models, in CUDA kernels written by hand.
//!
//! - [`tensor`], [`buffer`]: memory with a shape
//! - [`operations`]: what a forward pass is made of, with shapes and checks
//! - [`mod@reference`]: the operations and the whole pass in f64, as judge
//! - [`cpu`]: the operations on all cores in f32
//! - [`device`]: the seam to what runs kernels: a GPU, or the virtual GPU
//! - [`kernels`]: launchers of the CUDA kernels
//! - [`config`], [`weights`]: a model's shape, and its parameters from a safetensors file
//! - [`model`]: the whole forward pass over the operations, with its memory and its KV cache
//! - [`generate`]: one id after the other, drawn from the logits
//! - [`tokenizer`]: text to token ids and back
//! - [`verify`]: a model against what another program computed
//! - [`error`]: one error type

pub mod buffer;
pub mod config;
pub mod cpu;
pub mod device;
mod embedded;
pub mod error;
pub mod generate;
pub mod kernels;
pub mod model;
pub mod operations;
mod philox;
pub mod reference;
pub mod tensor;
pub mod tokenizer;
pub mod verify;
pub mod weights;

pub use cudarc;
pub use error::{Error, Result};
