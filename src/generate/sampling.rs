//! Drawing an id from logits.

use crate::cpu::{NONE, draw};
use crate::operations::SamplingSettings;

/// What [`sample`] gives for logits with a NaN.
pub const NAN: i32 = NONE;

/// How an id is drawn. The steps are those of [`crate::operations::SamplingParams`], in its order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest logit, the lowest id on ties.
    pub temperature: f32,
    /// Only so many of the most probable ids.
    pub top_k: Option<usize>,
    /// Only the fewest most probable ids that have this probability together, after top-k.
    pub top_p: Option<f32>,
    /// Only ids at least this part as probable as the most probable one.
    pub min_p: Option<f32>,
    /// Divides positive logits of ids seen before, and multiplies the others; 1 for no penalty.
    pub repetition_penalty: f32,
    /// The key of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    /// nanoGPT's: temperature 0.8, the 200 most probable ids.
    fn default() -> Self {
        Sampling {
            temperature: 0.8,
            top_k: Some(200),
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            seed: 1337,
        }
    }
}

impl Sampling {
    /// These settings in the words that the operation takes, for one of the sequences that share the seed.
    pub fn settings(&self, sequence: u32) -> SamplingSettings {
        let share = |part: f32| (f64::from(part) * 2f64.powi(32)).round() as u32; // saturates, and 0 for NaN
        SamplingSettings {
            inverse_temperature: if self.temperature > 0.0 {
                self.temperature.recip().min(f32::MAX)
            } else {
                0.0
            },
            top_k: self.top_k.map_or(0, |k| i32::try_from(k).unwrap_or(i32::MAX).max(1)),
            // 0 stands for all, so the smallest share there is takes its place.
            top_p: self.top_p.filter(|&top_p| top_p < 1.0).map_or(0, |top_p| share(top_p).max(1)),
            min_p: self.min_p.map_or(0, share),
            repetition_penalty: self.repetition_penalty,
            seed_low: self.seed as u32,
            seed_high: (self.seed >> 32) as u32,
            sequence,
        }
    }
}

/// Draws an id from `logits` `[vocab_size]` among those `allowed` `[vocab_size]`, or gives [`NAN`] when one of those is
/// NaN. The random number is Philox's of (`sequence`, `position`) under the seed: the same logits give the same id everywhere.
/// No id counts as seen.
///
/// # Panics
/// If no id is allowed.
pub fn sample(logits: &[f32], sampling: &Sampling, allowed: &[bool], sequence: u32, position: u64) -> i32 {
    assert!(allowed.contains(&true), "an allowed id");
    let word = |ids: &[bool]| ids.iter().rev().fold(0, |word, &allowed| word << 1 | i32::from(allowed));
    let allowed: Vec<i32> = allowed.chunks(32).map(word).collect();
    draw(logits, Some(&allowed), None, &sampling.settings(sequence), position)
}
