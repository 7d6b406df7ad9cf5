//! Drawing an id from logits.

use crate::philox::philox;

/// What [`sample`] gives for logits with a NaN.
pub const NAN: i32 = -1;

/// How an id is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest logit, the lowest id on ties.
    pub temperature: f32,
    /// Only so many of the most probable ids.
    pub top_k: Option<usize>,
    /// Only the fewest most probable ids that have this probability together, after top-k.
    pub top_p: Option<f32>,
    /// The key of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    /// nanoGPT's: temperature 0.8, the 200 most probable ids.
    fn default() -> Self {
        Sampling { temperature: 0.8, top_k: Some(200), top_p: None, seed: 1337 }
    }
}

/// Draws an id from `logits` `[vocab_size]` among those `allowed` `[vocab_size]`, or gives [`NAN`] when one of those is
/// NaN. The random number is Philox's of (`sequence`, `position`) under the seed: the same logits give the same id everywhere.
///
/// # Panics
/// If no id is allowed.
pub fn sample(logits: &[f32], sampling: &Sampling, allowed: &[bool], sequence: u32, position: u64) -> i32 {
    let ids = logits.iter().zip(allowed).enumerate();
    let mut candidates: Vec<(f32, u32)> =
        ids.filter(|(_, (_, allowed))| **allowed).map(|(id, (&logit, _))| (logit, id as u32)).collect();
    if candidates.iter().any(|(logit, _)| logit.is_nan()) {
        return NAN;
    }
    // Strictly greater: the first of equals stays.
    let best = candidates.iter().copied().reduce(|best, next| if next.0 > best.0 { next } else { best });
    let (max, best) = best.expect("an allowed id");
    if sampling.temperature <= 0.0 || max.is_infinite() {
        return best as i32;
    }

    let descending = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if let Some(k) = sampling.top_k.map(|k| k.max(1)).filter(|&k| k < candidates.len()) {
        candidates.select_nth_unstable_by(k - 1, descending);
        candidates.truncate(k);
    }
    if sampling.top_k.is_some() || sampling.top_p.is_some() {
        candidates.sort_unstable_by(descending);
    }
    let temperature = f64::from(sampling.temperature);
    let weight = |logit: f32| ((f64::from(logit) - f64::from(max)) / temperature).exp();
    let mut total: f64 = candidates.iter().map(|&(logit, _)| weight(logit)).sum();
    if let Some(top_p) = sampling.top_p.map(f64::from).filter(|&top_p| top_p < 1.0) {
        let mut sum = 0.0;
        let enough = candidates.iter().position(|&(logit, _)| {
            sum += weight(logit);
            sum >= top_p * total
        });
        candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
        total = sum;
    }

    let words = philox([sequence, position as u32, (position >> 32) as u32, 0], sampling.seed);
    let bits = u64::from(words[0]) << 21 | u64::from(words[1]) >> 11;
    let target = bits as f64 / (1u64 << 53) as f64 * total;
    let mut sum = 0.0;
    let drawn = candidates.iter().find(|&&(logit, _)| {
        sum += weight(logit);
        sum > target
    });
    // Rounding may leave the sum at the target: the last candidate with any weight it is.
    drawn.or(candidates.last()).map_or(NAN, |&(_, id)| id as i32)
}
