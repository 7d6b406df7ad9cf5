//! Every operation again in plain Rust and f64: the judge of the kernels and of [`crate::cpu`].
//!
//! No code and no shortcut is shared with what is judged: norms take two passes, softmax is written out in full over
//! a whole row, matrix products are three loops, top-k is a sort, a rank counts everybody who stands ahead. Inputs
//! are slices of f64 (values already rounded to the type under test), dense and row-major; outputs are new vectors.
//! It is slow, and meant to be read. A size that does not fit is a panic: the caller is a test.

mod attention;
mod embedding;
mod gemm;
mod layer_norm;
mod lm_head;
mod mlp;
mod model;
mod moe_combine;
mod moe_dispatch;
mod moe_gemm;
mod philox;
mod sampling;
mod topk_gating;

pub use attention::{AttentionShape, attention, attention_log_sum_exp};
pub use embedding::embedding;
pub use gemm::{add_bias, add_residual, gemm};
pub use layer_norm::layer_norm;
pub use lm_head::{argmax, cross_entropy, lm_head, log_sum_exp};
pub use mlp::{gelu_erf, gelu_tanh, mlp};
pub use model::{Routing, Trace, forward};
pub use moe_combine::moe_combine;
pub use moe_dispatch::{Dispatch, expert_capacity, moe_dispatch};
pub use moe_gemm::moe_gemm;
pub use philox::{philox4x32_10, router_normal};
pub use sampling::{Drawn, SamplingRule, fixed_weight, sampling};
pub use topk_gating::{Gating, router_logits, topk_gating};
