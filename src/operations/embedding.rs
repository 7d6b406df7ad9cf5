use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK: Checker = Checker { operation: "embedding" };

/// `out[b, t, :] = token_table[token_ids[b, t], :] + position_table[position, :]` with
/// `position = first_position + first_positions[b] + t`. An id or position outside its table gives a row of NaN.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingParams<I = TensorView, O = TensorView> {
    /// `[batch_size, seq_len, hidden_size]`, of the tables' type.
    pub out: O,
    /// i32 `[batch_size, seq_len]`
    pub token_ids: I,
    /// `[vocab_size, hidden_size]`
    pub token_table: I,
    /// `[num_positions, hidden_size]`
    pub position_table: I,
    /// i32 `[batch_size]`: added to every position of its sequence.
    pub first_positions: Option<I>,
    /// Position of the first token.
    pub first_position: usize,
}

/// Sizes of a checked [`EmbeddingParams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct EmbeddingDims {
    pub batch_size: usize,
    pub seq_len: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    pub num_positions: usize,
}

impl<I: AsView, O: AsView> EmbeddingParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<EmbeddingDims> {
        let out = CHECK.rank("out", &self.out, 3)?;
        let &[batch_size, seq_len, hidden_size] = out.shape() else { unreachable!("rank was checked") };
        CHECK.float("out", &out)?;
        CHECK.dense(
            "token_ids",
            &self.token_ids,
            DType::I32,
            &[batch_size, seq_len],
            "[batch_size, seq_len]",
        )?;
        let tokens = CHECK.rank("token_table", &self.token_table, 2)?;
        let positions = CHECK.rank("position_table", &self.position_table, 2)?;
        for (name, table) in [("token_table", &tokens), ("position_table", &positions)] {
            CHECK.dtype(name, table, out.dtype)?;
            CHECK.that(table.shape()[1] == hidden_size, || {
                format!("{name} has rows of {}, expected {hidden_size} (hidden_size)", table.shape()[1])
            })?;
        }
        if let Some(first) = &self.first_positions {
            CHECK.dense("first_positions", first, DType::I32, &[batch_size], "[batch_size]")?;
        }
        let (vocab_size, num_positions) = (tokens.shape()[0], positions.shape()[0]);
        Ok(EmbeddingDims { batch_size, seq_len, hidden_size, vocab_size, num_positions })
    }
}

impl EmbeddingParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<EmbeddingParams> {
        CHECK.place(
            place,
            &[
                ("out", self.out.place()),
                ("token_ids", self.token_ids.place()),
                ("token_table", self.token_table.place()),
                ("position_table", self.position_table.place()),
                ("first_positions", self.first_positions.map_or(Place::Unknown, |t| t.place())),
            ],
        )?;
        Ok(EmbeddingParams {
            out: self.out.view(),
            token_ids: self.token_ids.view(),
            token_table: self.token_table.view(),
            position_table: self.position_table.view(),
            first_positions: view_of(&self.first_positions),
            first_position: self.first_position,
        })
    }
}
