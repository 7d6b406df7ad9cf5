use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK: Checker = Checker { operation: "layer_norm" };

/// Layer norm over the last dimension (Ba et al. 2016, arXiv:1607.06450):
/// `out[t, :] = (x[t, :] - mean) / sqrt(var + eps) * gamma + beta`, of `x + delta` when `residual` is given.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormParams<I = TensorView, O = TensorView> {
    /// `[num_tokens, hidden_size]`, of x's type.
    pub out: O,
    /// `[num_tokens, hidden_size]`
    pub x: I,
    /// Added to x before the norm.
    pub residual: Option<FusedResidual<I, O>>,
    /// f32 `[hidden_size]`
    pub gamma: I,
    /// f32 `[hidden_size]`
    pub beta: Option<I>,
    /// Added to the variance.
    pub eps: f32,
}

/// The residual add fused into a layer norm: `sum = x + delta`, rounded to its type, is what is normalised.
#[derive(Clone, Copy, Debug)]
pub struct FusedResidual<I = TensorView, O = TensorView> {
    /// `[num_tokens, hidden_size]`
    pub delta: I,
    /// `[num_tokens, hidden_size]`
    pub sum: O,
}

/// Sizes of a checked [`LayerNormParams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LayerNormDims {
    pub num_tokens: usize,
    pub hidden_size: usize,
}

impl<I: AsView, O: AsView> LayerNormParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<LayerNormDims> {
        let x = CHECK.rank("x", &self.x, 2)?;
        CHECK.float("x", &x)?;
        let &[num_tokens, hidden_size] = x.shape() else { unreachable!("rank was checked") };
        let what = "[num_tokens, hidden_size]";
        let out = CHECK.shape("out", &self.out, x.shape(), what)?;
        CHECK.dtype("out", &out, x.dtype)?;
        if let Some(residual) = &self.residual {
            let delta = CHECK.shape("delta", &residual.delta, x.shape(), what)?;
            CHECK.dtype("delta", &delta, x.dtype)?;
            let sum = CHECK.shape("sum", &residual.sum, x.shape(), what)?;
            CHECK.dtype("sum", &sum, x.dtype)?;
        }
        CHECK.dense("gamma", &self.gamma, DType::F32, &[hidden_size], "[hidden_size]")?;
        if let Some(beta) = &self.beta {
            CHECK.dense("beta", beta, DType::F32, &[hidden_size], "[hidden_size]")?;
        }
        Ok(LayerNormDims { num_tokens, hidden_size })
    }
}

impl LayerNormParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<LayerNormParams> {
        let residual =
            self.residual.as_ref().map(|r| FusedResidual { delta: r.delta.view(), sum: r.sum.view() });
        let residual_place = |of: fn(&FusedResidual<Tensor<'_>, TensorMut<'_>>) -> Place| {
            self.residual.as_ref().map_or(Place::Unknown, of)
        };
        CHECK.place(
            place,
            &[
                ("out", self.out.place()),
                ("x", self.x.place()),
                ("delta", residual_place(|r| r.delta.place())),
                ("sum", residual_place(|r| r.sum.place())),
                ("gamma", self.gamma.place()),
                ("beta", self.beta.map_or(Place::Unknown, |t| t.place())),
            ],
        )?;
        Ok(LayerNormParams {
            out: self.out.view(),
            x: self.x.view(),
            residual,
            gamma: self.gamma.view(),
            beta: view_of(&self.beta),
            eps: self.eps,
        })
    }
}
