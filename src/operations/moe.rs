use super::checks::Checker;
use super::gemm::{Activation, Residual};
use super::topk_gating::TopkGatingParams;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK_DISPATCH: Checker = Checker { operation: "moe_dispatch" };
const CHECK_GEMM: Checker = Checker { operation: "moe_gemm" };
const CHECK_COMBINE: Checker = Checker { operation: "moe_combine" };

/// Gives each assignment of a token to an expert its row in expert-major order.
///
/// An assignment's rank in its expert counts the assignments before it in choice-major order: all first choices in
/// token order, then all second choices, and so on. It is kept if its rank is below the capacity.
#[derive(Clone, Copy, Debug)]
pub struct MoeDispatchParams<I = TensorView, O = TensorView> {
    /// i32 `[num_tokens, k]`, each in `0..num_experts`.
    pub expert_ids: I,
    /// Number of experts, at most 1024.
    pub num_experts: usize,
    /// Most assignments an expert takes; `None` keeps all.
    pub capacity: Option<usize>,
    /// i32 `[num_experts + 1]`: first row of each expert, and the number of rows in all.
    pub expert_offsets: O,
    /// i32 `[num_tokens · k]`: token of each row; -1 beyond the last row.
    pub row_tokens: O,
    /// i32 `[num_tokens, k]`: row of each assignment, -1 where it was dropped.
    pub slots: O,
    /// i32 scratch of at least [`MoeDispatchParams::scratch_len`] elements.
    pub scratch: O,
}

impl MoeDispatchParams {
    /// Most blocks that leave per-expert counts; the kernels' grid never exceeds it.
    pub const MAX_BLOCKS: usize = 512;

    /// Elements of scratch for any number of tokens.
    pub fn scratch_len(num_experts: usize) -> usize {
        (Self::MAX_BLOCKS + 2) * num_experts + 2
    }
}

impl<I: AsView, O: AsView> MoeDispatchParams<I, O> {
    /// Checks shapes and types; gives (num_tokens, k).
    pub fn check(&self) -> Result<(usize, usize)> {
        let check = CHECK_DISPATCH;
        let ids = check.rank("expert_ids", &self.expert_ids, 2)?;
        let &[num_tokens, k] = ids.shape() else { unreachable!("rank was checked") };
        let shape = [num_tokens, k];
        check.dense("expert_ids", &self.expert_ids, DType::I32, &shape, "[num_tokens, k]")?;
        check.that((1..=1024).contains(&self.num_experts), || {
            format!("{} experts, expected 1 to 1024", self.num_experts)
        })?;
        check.dense(
            "expert_offsets",
            &self.expert_offsets,
            DType::I32,
            &[self.num_experts + 1],
            "[experts + 1]",
        )?;
        check.dense("row_tokens", &self.row_tokens, DType::I32, &[num_tokens * k], "[num_tokens * k]")?;
        check.dense("slots", &self.slots, DType::I32, &shape, "[num_tokens, k]")?;
        let scratch = self.scratch.view();
        let needed = MoeDispatchParams::scratch_len(self.num_experts);
        check.dtype("scratch", &scratch, DType::I32)?;
        check.that(scratch.is_dense() && scratch.num_elements() >= needed, || {
            format!("scratch has {} elements, expected {needed}", scratch.num_elements())
        })?;
        Ok((num_tokens, k))
    }
}

impl MoeDispatchParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<MoeDispatchParams> {
        CHECK_DISPATCH.place(
            place,
            &[
                ("expert_ids", self.expert_ids.place()),
                ("expert_offsets", self.expert_offsets.place()),
                ("row_tokens", self.row_tokens.place()),
                ("slots", self.slots.place()),
                ("scratch", self.scratch.place()),
            ],
        )?;
        Ok(MoeDispatchParams {
            expert_ids: self.expert_ids.view(),
            num_experts: self.num_experts,
            capacity: self.capacity,
            expert_offsets: self.expert_offsets.view(),
            row_tokens: self.row_tokens.view(),
            slots: self.slots.view(),
            scratch: self.scratch.view(),
        })
    }
}

/// [`TopkGatingParams`], then [`MoeDispatchParams`] of the experts chosen.
#[derive(Clone, Copy, Debug)]
pub struct RouteParams<I = TensorView, O = TensorView> {
    /// The choice.
    pub gating: TopkGatingParams<I, O>,
    /// As of [`MoeDispatchParams`].
    pub capacity: Option<usize>,
    /// As of [`MoeDispatchParams`].
    pub expert_offsets: O,
    /// As of [`MoeDispatchParams`].
    pub row_tokens: O,
    /// As of [`MoeDispatchParams`].
    pub slots: O,
    /// As of [`MoeDispatchParams`], apart from the gating's.
    pub scratch: O,
}

impl RouteParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views of both, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<(TopkGatingParams, MoeDispatchParams)> {
        let gating = self.gating.raw(place)?;
        let dims = gating.check()?;
        CHECK_DISPATCH.place(
            place,
            &[
                ("expert_offsets", self.expert_offsets.place()),
                ("row_tokens", self.row_tokens.place()),
                ("slots", self.slots.place()),
                ("scratch", self.scratch.place()),
            ],
        )?;
        let dispatch = MoeDispatchParams {
            expert_ids: gating.expert_ids,
            num_experts: dims.num_experts,
            capacity: self.capacity,
            expert_offsets: self.expert_offsets.view(),
            row_tokens: self.row_tokens.view(),
            slots: self.slots.view(),
            scratch: self.scratch.view(),
        };
        Ok((gating, dispatch))
    }
}

/// Grouped matrix product: for rows `r` of expert `e` (`expert_offsets[e] <= r < expert_offsets[e + 1]`)
/// `out[r, :] = activation(a[row_index[r], :] · b[e]ᵀ + bias[e])`. Rows beyond the last expert's are not written.
#[derive(Clone, Copy, Debug)]
pub struct MoeGemmParams<I = TensorView, O = TensorView> {
    /// `[max_rows, N]`, of a's type.
    pub out: O,
    /// `[rows, K]`
    pub a: I,
    /// i32 `[max_rows]`: which row of `a`; the same row without.
    pub row_index: Option<I>,
    /// `[num_experts, N, K]`, of a's type.
    pub b: I,
    /// f32 `[num_experts, N]`
    pub bias: Option<I>,
    /// i32 `[num_experts + 1]`
    pub expert_offsets: I,
    /// Applied after the bias.
    pub activation: Activation,
}

/// Sizes of a checked [`MoeGemmParams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MoeGemmDims {
    pub max_rows: usize,
    pub num_experts: usize,
    pub n: usize,
    pub k: usize,
}

impl<I: AsView, O: AsView> MoeGemmParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<MoeGemmDims> {
        let check = CHECK_GEMM;
        let b = check.rank("b", &self.b, 3)?;
        let &[num_experts, n, k] = b.shape() else { unreachable!("rank was checked") };
        let a = check.rank("a", &self.a, 2)?;
        check.float("a", &a)?;
        check.dtype("b", &b, a.dtype)?;
        check
            .that(a.shape()[1] == k, || format!("a has rows of {}, expected {k} (K, as b)", a.shape()[1]))?;
        let out = check.rank("out", &self.out, 2)?;
        check.dtype("out", &out, a.dtype)?;
        let max_rows = out.shape()[0];
        check
            .that(out.shape()[1] == n, || format!("out has rows of {}, expected {n} (N)", out.shape()[1]))?;
        match &self.row_index {
            Some(index) => check.dense("row_index", index, DType::I32, &[max_rows], "[max_rows]")?,
            None => check.that(a.shape()[0] >= max_rows, || {
                format!("a has {} rows, expected {max_rows} (as out)", a.shape()[0])
            })?,
        }
        if let Some(bias) = &self.bias {
            check.dense("bias", bias, DType::F32, &[num_experts, n], "[num_experts, N]")?;
        }
        let what = "[num_experts + 1]";
        check.dense("expert_offsets", &self.expert_offsets, DType::I32, &[num_experts + 1], what)?;
        Ok(MoeGemmDims { max_rows, num_experts, n, k })
    }
}

impl MoeGemmParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<MoeGemmParams> {
        CHECK_GEMM.place(
            place,
            &[
                ("out", self.out.place()),
                ("a", self.a.place()),
                ("row_index", self.row_index.map_or(Place::Unknown, |t| t.place())),
                ("b", self.b.place()),
                ("bias", self.bias.map_or(Place::Unknown, |t| t.place())),
                ("expert_offsets", self.expert_offsets.place()),
            ],
        )?;
        Ok(MoeGemmParams {
            out: self.out.view(),
            a: self.a.view(),
            row_index: view_of(&self.row_index),
            b: self.b.view(),
            bias: view_of(&self.bias),
            expert_offsets: self.expert_offsets.view(),
            activation: self.activation,
        })
    }
}

/// `out[t, :] = residual[t, :] + Σ_j weights[t, j] · expert_out[slots[t, j], :]`, in the order of j; a dropped
/// assignment (slot -1) adds nothing, and weights are not renormalised.
#[derive(Clone, Copy, Debug)]
pub struct MoeCombineParams<I = TensorView, O = TensorView> {
    /// `[num_tokens, hidden_size]`, of expert_out's type.
    pub out: O,
    /// `[max_rows, hidden_size]`
    pub expert_out: I,
    /// i32 `[num_tokens, k]`
    pub slots: I,
    /// f32 `[num_tokens, k]`
    pub weights: I,
    /// Added to the sum.
    pub residual: Residual<I>,
}

impl<I: AsView, O: AsView> MoeCombineParams<I, O> {
    /// Checks shapes and types; gives (num_tokens, hidden_size, k).
    pub fn check(&self) -> Result<(usize, usize, usize)> {
        let check = CHECK_COMBINE;
        let out = check.rank("out", &self.out, 2)?;
        check.float("out", &out)?;
        let &[num_tokens, hidden_size] = out.shape() else { unreachable!("rank was checked") };
        let expert_out = check.rank("expert_out", &self.expert_out, 2)?;
        check.dtype("expert_out", &expert_out, out.dtype)?;
        check.that(expert_out.shape()[1] == hidden_size, || {
            format!("expert_out has rows of {}, expected {hidden_size} (hidden_size)", expert_out.shape()[1])
        })?;
        let k = check.rank("slots", &self.slots, 2)?.shape()[1];
        check.dense("slots", &self.slots, DType::I32, &[num_tokens, k], "[num_tokens, k]")?;
        check.dense("weights", &self.weights, DType::F32, &[num_tokens, k], "[num_tokens, k]")?;
        self.residual.check(check, &out)?;
        Ok((num_tokens, hidden_size, k))
    }
}

impl MoeCombineParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<MoeCombineParams> {
        CHECK_COMBINE.place(
            place,
            &[
                ("out", self.out.place()),
                ("expert_out", self.expert_out.place()),
                ("slots", self.slots.place()),
                ("weights", self.weights.place()),
                ("residual", self.residual.place()),
            ],
        )?;
        Ok(MoeCombineParams {
            out: self.out.view(),
            expert_out: self.expert_out.view(),
            slots: self.slots.view(),
            weights: self.weights.view(),
            residual: self.residual.raw(),
        })
    }
}
