use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK: Checker = Checker { operation: "lm_head" };

/// Over the vocabulary: logits of chosen rows, their argmax, their cross-entropy. What is not asked for is not
/// written, so a loss does not hold all logits.
#[derive(Clone, Copy, Debug)]
pub struct LmHeadParams<I = TensorView, O = TensorView> {
    /// `[num_tokens, hidden_size]`
    pub x: I,
    /// i32 `[num_rows]`: which rows of x; all of them without.
    pub rows: Option<I>,
    /// `[vocab_size, hidden_size]`, of x's type.
    pub weight: I,
    /// f32 `[vocab_size]`
    pub bias: Option<I>,
    /// f32 `[num_rows, vocab_size]`
    pub logits: Option<O>,
    /// i32 `[num_rows]`: the largest logit among ids below `allowed_vocab`, the lowest id on ties, -1 if one of
    /// those logits is NaN.
    pub argmax: Option<O>,
    /// Ids from here on are never the argmax.
    pub allowed_vocab: usize,
    /// Negative log-likelihood of targets.
    pub cross_entropy: Option<CrossEntropy<I, O>>,
    /// f32 scratch of at least [`LmHeadParams::scratch_len`] elements.
    pub scratch: O,
}

/// `losses[r] = logsumexp(logits[r, :]) - logits[r, targets[r]]`, over the whole vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy<I = TensorView, O = TensorView> {
    /// i32 `[num_rows]`
    pub targets: I,
    /// A target that is not scored: its loss is 0. Any other id outside the vocabulary gives NaN.
    pub ignore_index: i32,
    /// f32 `[num_rows]`
    pub losses: O,
}

/// Sizes of a checked [`LmHeadParams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LmHeadDims {
    pub num_tokens: usize,
    pub num_rows: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
}

impl LmHeadParams {
    /// Narrowest vocabulary tile a kernel leaves partial results for.
    pub const MIN_TILE: usize = 64;

    /// Elements of scratch: five partial results a row and vocabulary tile (largest logit, its id, sum of
    /// exponentials, target logit, whether there was a NaN).
    pub fn scratch_len(num_rows: usize, vocab_size: usize) -> usize {
        num_rows * vocab_size.div_ceil(Self::MIN_TILE) * 5
    }
}

impl<I: AsView, O: AsView> LmHeadParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<LmHeadDims> {
        let x = CHECK.rank("x", &self.x, 2)?;
        CHECK.float("x", &x)?;
        let &[num_tokens, hidden_size] = x.shape() else { unreachable!("rank was checked") };
        let weight = CHECK.rank("weight", &self.weight, 2)?;
        CHECK.dtype("weight", &weight, x.dtype)?;
        let vocab_size = weight.shape()[0];
        CHECK.that(weight.shape()[1] == hidden_size, || {
            format!("weight has rows of {}, expected {hidden_size} (hidden_size)", weight.shape()[1])
        })?;
        let num_rows = match &self.rows {
            Some(rows) => {
                let rows = CHECK.rank("rows", rows, 1)?;
                CHECK.dtype("rows", &rows, DType::I32)?;
                rows.shape()[0]
            }
            None => num_tokens,
        };
        if let Some(bias) = &self.bias {
            CHECK.dense("bias", bias, DType::F32, &[vocab_size], "[vocab_size]")?;
        }
        if let Some(logits) = &self.logits {
            CHECK.dense("logits", logits, DType::F32, &[num_rows, vocab_size], "[num_rows, vocab_size]")?;
        }
        if let Some(argmax) = &self.argmax {
            CHECK.dense("argmax", argmax, DType::I32, &[num_rows], "[num_rows]")?;
        }
        CHECK.that((1..=vocab_size.max(1)).contains(&self.allowed_vocab), || {
            format!("allowed_vocab is {}, expected 1 to {vocab_size} (vocab_size)", self.allowed_vocab)
        })?;
        if let Some(loss) = &self.cross_entropy {
            CHECK.dense("targets", &loss.targets, DType::I32, &[num_rows], "[num_rows]")?;
            CHECK.dense("losses", &loss.losses, DType::F32, &[num_rows], "[num_rows]")?;
        }
        CHECK.scratch(
            "scratch",
            &self.scratch,
            DType::F32,
            LmHeadParams::scratch_len(num_rows, vocab_size),
        )?;
        Ok(LmHeadDims { num_tokens, num_rows, hidden_size, vocab_size })
    }
}

impl LmHeadParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<LmHeadParams> {
        let optional = |t: &Option<TensorMut<'_>>| t.as_ref().map_or(Place::Unknown, AsView::place);
        let (targets, losses) = match &self.cross_entropy {
            Some(loss) => (loss.targets.place(), loss.losses.place()),
            None => (Place::Unknown, Place::Unknown),
        };
        CHECK.place(
            place,
            &[
                ("x", self.x.place()),
                ("rows", self.rows.map_or(Place::Unknown, |t| t.place())),
                ("weight", self.weight.place()),
                ("bias", self.bias.map_or(Place::Unknown, |t| t.place())),
                ("logits", optional(&self.logits)),
                ("argmax", optional(&self.argmax)),
                ("targets", targets),
                ("losses", losses),
                ("scratch", self.scratch.place()),
            ],
        )?;
        Ok(LmHeadParams {
            x: self.x.view(),
            rows: view_of(&self.rows),
            weight: self.weight.view(),
            bias: view_of(&self.bias),
            logits: view_of(&self.logits),
            argmax: view_of(&self.argmax),
            allowed_vocab: self.allowed_vocab,
            cross_entropy: self.cross_entropy.as_ref().map(|loss| CrossEntropy {
                targets: loss.targets.view(),
                ignore_index: loss.ignore_index,
                losses: loss.losses.view(),
            }),
            scratch: self.scratch.view(),
        })
    }
}
