//! Drawing an id by a full sort of the row and sums of 128-bit integers.

use std::cmp::Ordering;

use super::philox4x32_10;

/// How one row is drawn: what [`crate::operations::SamplingSettings`] says, in words of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct SamplingRule {
    /// 0 takes the largest logit.
    pub inverse_temperature: f32,
    /// 0 for all.
    pub top_k: usize,
    /// Of 2^32; 0 for all.
    pub top_p: u64,
    /// Of 2^32.
    pub min_p: u64,
    pub repetition_penalty: f32,
    pub seed: u64,
    pub sequence: u32,
}

/// What [`sampling`] gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// -1 where a NaN is among the allowed logits, or no id is allowed.
    pub id: i32,
    /// Logarithm of the softmax of the logits as they came; NaN where there is none.
    pub logprob: f64,
}

/// Draws an id from `logits` `[vocab_size]`, of those `allowed` `[vocab_size]`, where those `seen` `[vocab_size]` are
/// penalised.
///
/// Logits are f32, since whether two of them are equal, and the last bit of a weight, decide an id.
pub fn sampling(
    logits: &[f32],
    allowed: &[bool],
    seen: &[bool],
    rule: &SamplingRule,
    position: u32,
) -> Drawn {
    let penalty = rule.repetition_penalty;
    let mut candidates: Vec<(usize, f32)> = Vec::new();
    for id in (0..logits.len()).filter(|&id| allowed[id]) {
        let penalised = if logits[id] > 0.0 { logits[id] / penalty } else { logits[id] * penalty };
        candidates.push((id, if seen[id] { penalised } else { logits[id] }));
    }
    let is_nan = candidates.iter().any(|(_, logit)| logit.is_nan());
    if is_nan || candidates.is_empty() {
        return Drawn { id: -1, logprob: f64::NAN };
    }
    // Largest first, lower ids first among equals.
    candidates.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0)));
    let (best, max) = candidates[0];
    let id = if rule.inverse_temperature == 0.0 || max.is_infinite() {
        best
    } else {
        draw(&candidates, max, rule, position)
    };
    Drawn { id: id as i32, logprob: log_softmax(logits, id) }
}

/// `candidates` are sorted, and none is infinite but those of weight 0.
fn draw(candidates: &[(usize, f32)], max: f32, rule: &SamplingRule, position: u32) -> usize {
    let weight = |logit: f32| u128::from(fixed_weight((logit - max) * rule.inverse_temperature));
    let mut weighted: Vec<(usize, u128)> =
        candidates.iter().map(|&(id, logit)| (id, weight(logit))).collect();
    if rule.top_k > 0 {
        weighted.truncate(rule.top_k);
    }
    if rule.top_p > 0 {
        let total: u128 = weighted.iter().map(|(_, weight)| weight).sum();
        let share = |ids: &[(usize, u128)]| (ids.iter().map(|(_, weight)| weight).sum::<u128>()) << 32;
        // The shortest beginning that has the share; sums grow with it.
        let lengths: Vec<usize> = (1..=weighted.len()).collect();
        let enough = lengths.partition_point(|&n| share(&weighted[..n]) < total * u128::from(rule.top_p));
        weighted.truncate(enough + 1);
    }
    let heaviest = weighted[0].1;
    weighted.retain(|&(_, weight)| weight << 32 >= heaviest * u128::from(rule.min_p));
    weighted.sort();

    let key = [rule.seed as u32, (rule.seed >> 32) as u32];
    let words = philox4x32_10([rule.sequence, position, 0, 0], key);
    let random = u128::from(words[0]) << 32 | u128::from(words[1]);
    let total: u128 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut left = (random * total) >> 64;
    for (id, weight) in weighted {
        if left < weight {
            return id;
        }
        left -= weight;
    }
    unreachable!("a 64-bit fraction of the total is less than it")
}

/// `exp(x)` in units of 2^-43, for `x <= 0`: the value that the operation is defined by, as a significand of 24 bits
/// times a power of two, rounded to an integer with halves up.
///
/// The significand comes from seven roundings that IEEE 754 fixes (Moshier's polynomial of Cephes, in Horner's form with
/// fused multiply-adds), so any machine that keeps the standard finds the same.
pub fn fixed_weight(x: f32) -> u64 {
    if x.is_nan() || x < -30.5 {
        return 0;
    }
    const POLYNOMIAL: [f64; 6] = [
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    ];
    // The nearest whole number to x / ln 2 as f32 sees it: a fused multiply-add and its inverse.
    let n = f32::mul_add(x, std::f32::consts::LOG2_E, 1.5 * 8_388_608.0) - 1.5 * 8_388_608.0;
    let ln_2 = std::f32::consts::LN_2;
    let rest = (std::f64::consts::LN_2 - f64::from(ln_2)) as f32;
    let r = f32::mul_add(n, -rest, f32::mul_add(n, -ln_2, x));
    let p = POLYNOMIAL.iter().map(|&c| c as f32).reduce(|p, c| f32::mul_add(p, r, c)).unwrap_or(0.0);
    let exp_r = f64::from(f32::mul_add(p, r * r, r) + 1.0);
    // Exact: 24 bits of significand; then one rounding.
    (exp_r * 2f64.powi(n as i32 + 43) + 0.5).floor() as u64
}

fn log_softmax(logits: &[f32], id: usize) -> f64 {
    let values: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !max.is_finite() || values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    values[id] - max - values.iter().map(|value| (value - max).exp()).sum::<f64>().ln()
}
