use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK: Checker = Checker { operation: "sampling" };

/// Largest vocabulary: integer weights of so many ids cannot overflow.
const MAX_VOCAB_SIZE: usize = 1 << 20;

/// Draws one id a row from logits. In this order: ids that are not allowed are out; the repetition penalty; the
/// temperature, where 0 takes the largest logit, the lowest id on ties; top-k, of which exactly k stay; top-p; min-p; and a
/// random number of Philox, keyed by the seed, of (sequence, position). Equal logits are taken in the order of ids.
///
/// Weights are integers, so the same bits of logits and the same settings give the same id on every executor. A NaN among
/// the allowed logits gives -1, as does a row where no id is allowed; a logit of +inf is drawn for certain, and of several
/// the lowest id; where all that is allowed is -inf, so is the lowest id allowed.
#[derive(Clone, Copy, Debug)]
pub struct SamplingParams<I = TensorView, O = TensorView> {
    /// f32 `[num_rows, vocab_size]`, dense; vocab_size is 1 to 2^20.
    pub logits: I,
    /// i32 `[vocab_size.div_ceil(32)]`: bit id % 32 of word id / 32 is set where the id may be drawn; all without.
    pub allowed: Option<I>,
    /// i32 `[num_rows, vocab_size.div_ceil(32)]`, bits as of `allowed`: ids that the repetition penalty applies to. The id
    /// that is drawn is added.
    pub seen: Option<O>,
    /// i32 `[num_rows, SamplingSettings::WORDS]`: the [`SamplingSettings`] of each row.
    pub settings: I,
    /// i32 `[num_rows]`: the position of the id that is drawn.
    pub positions: I,
    /// i32 `[num_rows]`
    pub ids: O,
    /// f32 `[num_rows]`: logarithm of the softmax over all of the row's logits as they came, without penalty, temperature
    /// or limits, at the drawn id. NaN where the id is -1 and where the softmax is not defined: a NaN or +inf in the row,
    /// or nothing but -inf.
    pub logprobs: Option<O>,
}

/// How one row is drawn, in the words that the kernel reads. [`crate::generate::Sampling::settings`] makes them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SamplingSettings {
    /// Multiplies the logits; 0 takes the largest.
    pub inverse_temperature: f32,
    /// Only so many of the largest logits; 0 for all.
    pub top_k: i32,
    /// Only the fewest largest logits with this share of the weight, in units of 2^-32; 0 for all.
    pub top_p: u32,
    /// Only ids of at least this part of the largest weight, in units of 2^-32.
    pub min_p: u32,
    /// Divides the positive logits of ids seen, and multiplies the others.
    pub repetition_penalty: f32,
    /// Lower half of the seed.
    pub seed_low: u32,
    /// Upper half of the seed.
    pub seed_high: u32,
    /// Tells sequences of one seed apart.
    pub sequence: u32,
}

impl SamplingSettings {
    /// 32-bit words of one row's settings.
    pub const WORDS: usize = size_of::<Self>() / 4;
}

impl<I: AsView, O: AsView> SamplingParams<I, O> {
    /// Checks shapes and types; gives (num_rows, vocab_size).
    pub fn check(&self) -> Result<(usize, usize)> {
        let logits = CHECK.rank("logits", &self.logits, 2)?;
        let &[num_rows, vocab_size] = logits.shape() else { unreachable!("rank was checked") };
        CHECK.that((1..=MAX_VOCAB_SIZE).contains(&vocab_size), || {
            format!("vocab_size is {vocab_size}, expected 1 to {MAX_VOCAB_SIZE}")
        })?;
        let shape = [num_rows, vocab_size];
        CHECK.dense("logits", &self.logits, DType::F32, &shape, "[num_rows, vocab_size]")?;
        let num_words = vocab_size.div_ceil(32);
        if let Some(allowed) = &self.allowed {
            CHECK.dense("allowed", allowed, DType::I32, &[num_words], "[ceil(vocab_size / 32)]")?;
        }
        if let Some(seen) = &self.seen {
            let what = "[num_rows, ceil(vocab_size / 32)]";
            CHECK.dense("seen", seen, DType::I32, &[num_rows, num_words], what)?;
        }
        let shape = [num_rows, SamplingSettings::WORDS];
        CHECK.dense("settings", &self.settings, DType::I32, &shape, "[num_rows, words]")?;
        CHECK.dense("positions", &self.positions, DType::I32, &[num_rows], "[num_rows]")?;
        CHECK.dense("ids", &self.ids, DType::I32, &[num_rows], "[num_rows]")?;
        if let Some(logprobs) = &self.logprobs {
            CHECK.dense("logprobs", logprobs, DType::F32, &[num_rows], "[num_rows]")?;
        }
        Ok((num_rows, vocab_size))
    }
}

impl SamplingParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<SamplingParams> {
        let optional = |t: &Option<TensorMut<'_>>| t.as_ref().map_or(Place::Unknown, AsView::place);
        CHECK.place(
            place,
            &[
                ("logits", self.logits.place()),
                ("allowed", self.allowed.map_or(Place::Unknown, |t| t.place())),
                ("seen", optional(&self.seen)),
                ("settings", self.settings.place()),
                ("positions", self.positions.place()),
                ("ids", self.ids.place()),
                ("logprobs", optional(&self.logprobs)),
            ],
        )?;
        Ok(SamplingParams {
            logits: self.logits.view(),
            allowed: view_of(&self.allowed),
            seen: view_of(&self.seen),
            settings: self.settings.view(),
            positions: self.positions.view(),
            ids: self.ids.view(),
            logprobs: view_of(&self.logprobs),
        })
    }
}
