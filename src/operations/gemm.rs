use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK: Checker = Checker { operation: "gemm" };
const CHECK_MLP: Checker = Checker { operation: "mlp" };

/// The function applied to a matrix product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activation {
    /// None.
    #[default]
    Identity,
    /// `x/2 · (1 + erf(x/√2))`: the article, nanoGPT and nanoMoE.
    GeluErf,
    /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`: GPT-2.
    GeluTanh,
}

/// What is added to a matrix product after its activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual<I = TensorView> {
    /// Nothing.
    None,
    /// What stands in `out`.
    InPlace,
    /// Another tensor of `out`'s shape and type.
    From(I),
}

impl<I: AsView> Residual<I> {
    pub(super) fn raw(&self) -> Residual {
        match self {
            Residual::None => Residual::None,
            Residual::InPlace => Residual::InPlace,
            Residual::From(tensor) => Residual::From(tensor.view()),
        }
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Residual::From(tensor) => tensor.place(),
            _ => Place::Unknown,
        }
    }

    pub(super) fn check(&self, check: Checker, out: &TensorView) -> Result<()> {
        if let Residual::From(tensor) = self {
            let view = check.shape("residual", tensor, out.shape(), "(out's shape)")?;
            check.dtype("residual", &view, out.dtype)?;
        }
        Ok(())
    }
}

/// `out[M, N] = activation(a[M, K] · b[N, K]ᵀ + bias) + residual`, accumulated in f32.
#[derive(Clone, Copy, Debug)]
pub struct GemmParams<I = TensorView, O = TensorView> {
    /// `[M, N]`, or `[batch, rows, N]` with `batch · rows = M` and any strides between batches and rows. Of a's
    /// type, or f32.
    pub out: O,
    /// `[M, K]`
    pub a: I,
    /// `[N, K]`, of a's type.
    pub b: I,
    /// f32 `[N]`
    pub bias: Option<I>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added last.
    pub residual: Residual<I>,
}

/// Sizes of a checked [`GemmParams`]: M tokens, N outputs, K inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GemmDims {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

impl<I: AsView, O: AsView> GemmParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<GemmDims> {
        let a = CHECK.rank("a", &self.a, 2)?;
        CHECK.float("a", &a)?;
        let b = CHECK.rank("b", &self.b, 2)?;
        CHECK.dtype("b", &b, a.dtype)?;
        let &[m, k] = a.shape() else { unreachable!("rank was checked") };
        let n = b.shape()[0];
        CHECK
            .that(b.shape()[1] == k, || format!("b has rows of {}, expected {k} (K, as a)", b.shape()[1]))?;
        let rank = self.out.view().shape().len();
        let out = CHECK.rank("out", &self.out, if rank == 3 { 3 } else { 2 })?;
        let rows: usize = out.shape()[..rank - 1].iter().product();
        CHECK.that(rows == m && out.shape()[rank - 1] == n, || {
            format!("out has shape {:?}, expected {m} rows of {n} (M and N)", out.shape())
        })?;
        CHECK.that(out.dtype == a.dtype || out.dtype == DType::F32, || {
            format!("out is {}, expected {} (as a) or f32", out.dtype, a.dtype)
        })?;
        if let Some(bias) = &self.bias {
            CHECK.dense("bias", bias, DType::F32, &[n], "[N]")?;
        }
        self.residual.check(CHECK, &out)?;
        Ok(GemmDims { m, n, k })
    }
}

impl GemmParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<GemmParams> {
        CHECK.place(
            place,
            &[
                ("out", self.out.place()),
                ("a", self.a.place()),
                ("b", self.b.place()),
                ("bias", self.bias.map_or(Place::Unknown, |t| t.place())),
                ("residual", self.residual.place()),
            ],
        )?;
        Ok(GemmParams {
            out: self.out.view(),
            a: self.a.view(),
            b: self.b.view(),
            bias: view_of(&self.bias),
            activation: self.activation,
            residual: self.residual.raw(),
        })
    }
}

/// The GELU MLP: `hidden = activation(x · fcᵀ + fc_bias)`, `out = hidden · projᵀ + proj_bias + residual`.
#[derive(Clone, Copy, Debug)]
pub struct MlpParams<I = TensorView, O = TensorView> {
    /// `[num_tokens, hidden_size]`, of x's type.
    pub out: O,
    /// `[num_tokens, hidden_size]`
    pub x: I,
    /// Scratch `[num_tokens, intermediate_size]`, of x's type.
    pub hidden: O,
    /// `[intermediate_size, hidden_size]`
    pub fc: I,
    /// f32 `[intermediate_size]`
    pub fc_bias: Option<I>,
    /// `[hidden_size, intermediate_size]`
    pub proj: I,
    /// f32 `[hidden_size]`
    pub proj_bias: Option<I>,
    /// Which GELU.
    pub activation: Activation,
    /// Added last.
    pub residual: Residual<I>,
}

impl<I: AsView, O: AsView> MlpParams<I, O> {
    /// The two matrix products it is. The second reads what the first writes to `hidden`.
    pub fn gemms(&self) -> (GemmParams, GemmParams) {
        let first = GemmParams {
            out: self.hidden.view(),
            a: self.x.view(),
            b: self.fc.view(),
            bias: view_of(&self.fc_bias),
            activation: self.activation,
            residual: Residual::None,
        };
        let second = GemmParams {
            out: self.out.view(),
            a: self.hidden.view(),
            b: self.proj.view(),
            bias: view_of(&self.proj_bias),
            activation: Activation::Identity,
            residual: self.residual.raw(),
        };
        (first, second)
    }

    /// Checks shapes and types of both products.
    pub fn check(&self) -> Result<(GemmDims, GemmDims)> {
        let (first, second) = self.gemms();
        let x = CHECK_MLP.rank("x", &self.x, 2)?;
        CHECK_MLP.dtype("hidden", &self.hidden.view(), x.dtype)?;
        Ok((first.check()?, second.check()?))
    }
}

impl MlpParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<MlpParams> {
        CHECK_MLP.place(
            place,
            &[
                ("out", self.out.place()),
                ("x", self.x.place()),
                ("hidden", self.hidden.place()),
                ("fc", self.fc.place()),
                ("fc_bias", self.fc_bias.map_or(Place::Unknown, |t| t.place())),
                ("proj", self.proj.place()),
                ("proj_bias", self.proj_bias.map_or(Place::Unknown, |t| t.place())),
                ("residual", self.residual.place()),
            ],
        )?;
        Ok(MlpParams {
            out: self.out.view(),
            x: self.x.view(),
            hidden: self.hidden.view(),
            fc: self.fc.view(),
            fc_bias: view_of(&self.fc_bias),
            proj: self.proj.view(),
            proj_bias: view_of(&self.proj_bias),
            activation: self.activation,
            residual: self.residual.raw(),
        })
    }
}
