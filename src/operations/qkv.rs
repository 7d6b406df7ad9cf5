use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK: Checker = Checker { operation: "qkv" };

/// Queries, keys and values in one matrix product, keys and values straight into the rows of a cache where they stay:
/// `[q | kv] = a · weightᵀ + bias`, accumulated in f32; `q[m]` and `kv[kv_rows[m]]`.
#[derive(Clone, Copy, Debug)]
pub struct QkvParams<I = TensorView, O = TensorView> {
    /// `[num_tokens, q_columns]`, of a's type.
    pub q: O,
    /// `[num_cache_rows, kv_columns]`, of a's type: a token's key beside its value.
    pub kv: O,
    /// i32 `[num_tokens]`: the row of `kv` that a token's key and value go to, each another; what is outside of `kv`
    /// is not stored.
    pub kv_rows: I,
    /// `[num_tokens, K]`
    pub a: I,
    /// `[q_columns + kv_columns, K]`, of a's type.
    pub weight: I,
    /// f32 `[q_columns + kv_columns]`
    pub bias: Option<I>,
}

/// Sizes of a checked [`QkvParams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct QkvDims {
    pub num_tokens: usize,
    pub q_columns: usize,
    pub kv_columns: usize,
    pub num_cache_rows: usize,
    pub k: usize,
}

impl<I: AsView, O: AsView> QkvParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<QkvDims> {
        let a = CHECK.rank("a", &self.a, 2)?;
        CHECK.float("a", &a)?;
        let &[num_tokens, k] = a.shape() else { unreachable!("rank was checked") };
        let q = CHECK.rank("q", &self.q, 2)?;
        CHECK.dtype("q", &q, a.dtype)?;
        CHECK.that(q.shape()[0] == num_tokens, || {
            format!("q has {} rows, expected {num_tokens} (num_tokens)", q.shape()[0])
        })?;
        let kv = CHECK.rank("kv", &self.kv, 2)?;
        CHECK.dtype("kv", &kv, a.dtype)?;
        let (q_columns, kv_columns) = (q.shape()[1], kv.shape()[1]);
        let weight = CHECK.shape(
            "weight",
            &self.weight,
            &[q_columns + kv_columns, k],
            "[q_columns + kv_columns, K]",
        )?;
        CHECK.dtype("weight", &weight, a.dtype)?;
        CHECK.dense("kv_rows", &self.kv_rows, DType::I32, &[num_tokens], "[num_tokens]")?;
        if let Some(bias) = &self.bias {
            let what = "[q_columns + kv_columns]";
            CHECK.dense("bias", bias, DType::F32, &[q_columns + kv_columns], what)?;
        }
        Ok(QkvDims { num_tokens, q_columns, kv_columns, num_cache_rows: kv.shape()[0], k })
    }
}

impl QkvParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<QkvParams> {
        CHECK.place(
            place,
            &[
                ("q", self.q.place()),
                ("kv", self.kv.place()),
                ("kv_rows", self.kv_rows.place()),
                ("a", self.a.place()),
                ("weight", self.weight.place()),
                ("bias", self.bias.map_or(Place::Unknown, |t| t.place())),
            ],
        )?;
        Ok(QkvParams {
            q: self.q.view(),
            kv: self.kv.view(),
            kv_rows: self.kv_rows.view(),
            a: self.a.view(),
            weight: self.weight.view(),
            bias: view_of(&self.bias),
        })
    }
}
