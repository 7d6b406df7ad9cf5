//! The operations that are measured: inputs, the launch, the fewest bytes and operations, and the answer checked
//! against plain f64 loops, on samples where all of it would take too long.

use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use nanomoe::{Error, Result};

use super::cases::Case;
use super::measure::Times;
use super::{attention, experts, forward, lm_head, norms, products, routing, sampling};

/// Storage type of matrices and activations that are measured.
pub const DTYPE: DType = DType::BF16;
/// Half a unit in the last place of bf16, relative: what rounding to it costs at most.
pub const ROUNDING: f64 = 1.0 / 256.0;

/// Times a launch, over and over.
pub type Measure<'a> = dyn FnMut(&mut dyn FnMut() -> Result<()>) -> Result<Times> + 'a;

/// One operation on its inputs.
pub trait Work {
    /// Puts it into the stream of `ops`.
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()>;
    /// The largest error of what was looked at, as a part of what is allowed: at most 1 where the answer is right,
    /// infinite or NaN where it was not written.
    fn check(&mut self, ops: &DeviceOperations) -> Result<f64>;
    /// Floating-point operations.
    fn flops(&self) -> f64;
    /// The fewest bytes it must move.
    fn bytes(&mut self) -> f64;
    /// What its launches move by their tiles, where they have any.
    fn launch_bytes(&mut self, _ops: &DeviceOperations) -> Result<Option<u64>> {
        Ok(None)
    }
    /// Whether its launches can be captured in a CUDA graph.
    fn can_be_captured(&self) -> bool {
        true
    }
    /// Measures it: `clock` times what it is given to launch.
    fn measured(&mut self, ops: &DeviceOperations, clock: &mut Measure<'_>) -> Result<Times> {
        clock(&mut || self.launch(ops))
    }
}

/// The inputs of `case`, with a poisoned result.
pub fn prepare(ops: &DeviceOperations, case: &Case) -> Result<Box<dyn Work>> {
    prepare_in(DTYPE, ops, case)
}

/// The same in any storage type; answers are checked in [`DTYPE`] only.
pub fn prepare_in(dtype: DType, ops: &DeviceOperations, case: &Case) -> Result<Box<dyn Work>> {
    let d = &case.dims;
    let work: Box<dyn Work> = match case.op {
        "gemm" => Box::new(products::Gemm::new(ops, dtype, [d[0], d[1], d[2]], case.variant)?),
        "mlp" => Box::new(products::Mlp::new(ops, dtype, [d[0], d[1], d[2]], case.variant)?),
        "attention" => Box::new(attention::Attention::new(ops, dtype, d)?),
        "layer_norm" => Box::new(norms::LayerNorm::new(ops, dtype, d[0], d[1], case.variant == "residual")?),
        "embedding" => Box::new(norms::Embedding::new(ops, dtype, [d[0], d[1], d[2], d[3]])?),
        "router_logits" => Box::new(routing::RouterLogits::new(ops, dtype, [d[0], d[1], d[2]])?),
        "topk_gating" => {
            Box::new(routing::Gating(routing::Routed::new(ops, [d[0], d[1], d[2]], case.variant)?))
        }
        "moe_dispatch" => Box::new(routing::Dispatch::new(ops, [d[0], d[1], d[2]], case.variant)?),
        "moe_gemm" => Box::new(experts::Experts::new(ops, dtype, d, case.variant, false)?),
        "moe_combine" => Box::new(experts::Combine::new(ops, dtype, [d[0], d[1], d[2]])?),
        "moe_layer" => Box::new(experts::Experts::new(ops, dtype, d, case.variant, true)?),
        "lm_head" => {
            Box::new(lm_head::LmHead::new(ops, dtype, [d[0], d[1], d[2]], case.variant == "argmax")?)
        }
        "sampling" => Box::new(sampling::Sampling::new(ops, [d[0], d[1]], case.variant)?),
        "forward" => Box::new(forward::ForwardPass::new(ops, dtype, d, case.variant)?),
        op => return Err(Error::Usage(format!("there is no benchmark of `{op}`"))),
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
        "mlp" => 3 * d[0] * d[1] + d[0] * d[2] + 2 * d[1] * d[2],
        "attention" => 2 * d[0] * d[5] * (d[1] * d[3] + d[2] * d[4]),
        "layer_norm" => 4 * d[0] * d[1],
        "embedding" => d[0] * d[1] * d[2] + d[2] * (d[1] + d[3]),
        "router_logits" => d[0] * d[1] + 2 * d[2] * (d[0] + d[1]),
        "lm_head" => d[2] * (d[0] + d[1]) + d[0] * d[1] / 6,
        "sampling" => 2 * d[0] * d[1],
        "moe_gemm" => d[3] * d[1] * d[2] + d[0] * d[1] + d[0] * d[4] * d[2],
        "moe_combine" => d[0] * d[1] * (d[2] + 1),
        "moe_layer" => 2 * d[3] * d[1] * d[2] + 2 * d[0] * d[1] + d[0] * d[4] * (d[1] + d[2]),
        "forward" => forward::elements(&d, case.variant),
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

/// The larger; NaN stays.
pub fn worse_of(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The sizes of an operation; which and how many they are was checked with the shape.
pub fn sizes<const N: usize>(dims: &[usize]) -> Result<[usize; N]> {
    dims.try_into().map_err(|_| Error::Usage(format!("{dims:?} are not {N} sizes")))
}
