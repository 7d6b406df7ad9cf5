//! Drawing ids: the rule of `kernels/sampling.cu` by selection and sorting, with the same integer weights.

use rayon::prelude::*;

use super::simd::vectorized;
use crate::error::Result;
use crate::operations::{SamplingParams, SamplingSettings};
use crate::philox::philox;
use crate::tensor::{Place, Tensor, TensorMut};

/// The id where there is a NaN among the allowed logits, or no id is allowed.
pub(crate) const NONE: i32 = -1;

/// A weight of 1: `kWeightBits` of the kernel.
const WEIGHT_BITS: u32 = 43;

pub(super) fn sampling(p: SamplingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
    const NAME: &str = "sampling";
    let (_, vocab_size) = p.check()?;
    p.raw(Place::Host)?;
    let num_words = vocab_size.div_ceil(32);
    let logits = p.logits.as_slice::<f32>(NAME)?;
    let allowed = p.allowed.map(|bits| bits.as_slice::<i32>(NAME)).transpose()?;
    let settings = p.settings.as_slice::<i32>(NAME)?;
    let positions = p.positions.as_slice::<i32>(NAME)?;
    let mut seen = p.seen.map(|bits| bits.into_slice::<i32>(NAME)).transpose()?;
    let ids = p.ids.into_slice::<i32>(NAME)?;
    ids.par_iter_mut().enumerate().for_each(|(row, id)| {
        let words = &settings[row * SamplingSettings::WORDS..][..SamplingSettings::WORDS];
        let settings: SamplingSettings = bytemuck::pod_read_unaligned(bytemuck::cast_slice(words));
        let seen = seen.as_deref().map(|bits| &bits[row * num_words..][..num_words]);
        let logits = &logits[row * vocab_size..][..vocab_size];
        *id = draw(logits, allowed, seen, &settings, u64::from(positions[row] as u32));
    });
    if let Some(seen) = &mut seen {
        for (bits, &id) in seen.chunks_exact_mut(num_words).zip(ids.iter()).filter(|(_, id)| **id >= 0) {
            bits[id as usize / 32] |= 1 << (id % 32);
        }
    }
    if let Some(logprobs) = p.logprobs {
        let rows = logits.par_chunks_exact(vocab_size).zip(ids.par_iter());
        let logprobs = logprobs.into_slice::<f32>(NAME)?;
        logprobs.par_iter_mut().zip(rows).for_each(|(logprob, (row, &id))| *logprob = log_softmax(row, id));
    }
    Ok(())
}

fn is_set(bits: &[i32], id: usize) -> bool {
    bits[id / 32] >> (id % 32) & 1 == 1
}

/// Draws an id from one row, or gives [`NONE`]: see [`SamplingParams`].
pub(crate) fn draw(
    logits: &[f32],
    allowed: Option<&[i32]>,
    seen: Option<&[i32]>,
    settings: &SamplingSettings,
    position: u64,
) -> i32 {
    let penalty = settings.repetition_penalty;
    let seen = seen.filter(|_| penalty != 1.0);
    let mut candidates = Vec::with_capacity(logits.len());
    for (id, &logit) in logits.iter().enumerate() {
        if allowed.is_some_and(|bits| !is_set(bits, id)) {
            continue;
        }
        let logit = match seen.is_some_and(|bits| is_set(bits, id)) {
            true if logit > 0.0 => logit / penalty,
            true => logit * penalty,
            false => logit,
        };
        if logit.is_nan() {
            return NONE;
        }
        candidates.push(Candidate::new(logit, id as u32));
    }
    let Some(best) = candidates.iter().map(|candidate| candidate.order).min() else { return NONE };
    let max = Candidate { order: best, weight: 0 }.logit();
    // A NaN is not above 0.
    if settings.inverse_temperature.is_nan() || settings.inverse_temperature <= 0.0 || max.is_infinite() {
        return best as u32 as i32;
    }

    if let Some(k) = usize::try_from(settings.top_k).ok().filter(|&k| k > 0 && k < candidates.len()) {
        candidates.select_nth_unstable_by_key(k - 1, |candidate| candidate.order);
        candidates.truncate(k);
    }
    let inverse_temperature = settings.inverse_temperature.min(f32::MAX);
    vectorized(
        #[inline(always)]
        || {
            for candidate in &mut candidates {
                candidate.weight = fixed_weight((candidate.logit() - max) * inverse_temperature);
            }
        },
    );
    if settings.top_p > 0 {
        candidates.sort_unstable_by_key(|candidate| candidate.order);
        let share = u128::from(total(&candidates)) * u128::from(settings.top_p);
        let (wanted, mut sum) = (share.div_ceil(1 << 32), 0);
        let reaches = |candidate: &Candidate| {
            sum += u128::from(candidate.weight);
            sum >= wanted
        };
        if let Some(last) = candidates.iter().position(reaches) {
            candidates.truncate(last + 1);
        }
    }
    let least = u64::from(settings.min_p) << (WEIGHT_BITS - 32);
    candidates.retain(|candidate| candidate.weight >= least);

    candidates.sort_unstable_by_key(|candidate| candidate.order as u32);
    let seed = u64::from(settings.seed_high) << 32 | u64::from(settings.seed_low);
    let words = philox([settings.sequence, position as u32, (position >> 32) as u32, 0], seed);
    let random = u64::from(words[0]) << 32 | u64::from(words[1]);
    let target = ((u128::from(random) * u128::from(total(&candidates))) >> 64) as u64;
    let mut sum = 0;
    let drawn = candidates.iter().find(|candidate| {
        sum += candidate.weight;
        sum > target
    });
    // The largest logit weighs 1, so the total is above the target.
    drawn.map_or(NONE, |candidate| candidate.order as u32 as i32)
}

/// An id that may be drawn.
#[derive(Clone, Copy)]
struct Candidate {
    /// The larger the logit, the smaller the upper half; below it the id.
    order: u64,
    weight: u64,
}

impl Candidate {
    fn new(logit: f32, id: u32) -> Self {
        // Adding 0 makes both zeros equal.
        let bits = (logit + 0.0).to_bits();
        let descending = if bits >> 31 == 1 { bits } else { !(bits | 1 << 31) };
        Candidate { order: u64::from(descending) << 32 | u64::from(id), weight: 0 }
    }

    #[inline(always)]
    fn logit(self) -> f32 {
        let descending = (self.order >> 32) as u32;
        f32::from_bits(if descending >> 31 == 1 { descending } else { !descending & !(1 << 31) })
    }
}

fn total(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// The constants of the kernel, as they are written there: their bits decide ids.
#[allow(clippy::excessive_precision, clippy::approx_constant)]
mod constants {
    pub(super) const LOG2_E: f32 = 1.44269504;
    /// Above the logarithm of 2 by the second.
    pub(super) const LN_2: [f32; 2] = [0.693147182, 1.90465432e-9];
    /// Of exp, by Cephes (Moshier 1992).
    pub(super) const POLYNOMIAL: [f32; 6] = [
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    ];
}
use constants::{LN_2, LOG2_E, POLYNOMIAL};

/// `exp(x) · 2^43` for `x <= 0`, to the nearest integer; 0 for NaN. The operations of `kernels/fixed_weight.cuh`, one by
/// one, whose roundings IEEE 754 fixes: the same bits.
#[inline(always)]
fn fixed_weight(x: f32) -> u64 {
    // exp(-30.5) is below half of 2^-43.
    let is_some = x >= -30.5;
    let x = if is_some { x } else { 0.0 };
    // x = n ln 2 + r; adding 1.5 * 2^23 rounds to a whole number.
    let n = x.mul_add(LOG2_E, 12_582_912.0) - 12_582_912.0;
    let r = n.mul_add(LN_2[1], n.mul_add(-LN_2[0], x));
    let p = POLYNOMIAL[0].mul_add(r, POLYNOMIAL[1]);
    let p = p.mul_add(r, POLYNOMIAL[2]);
    let p = p.mul_add(r, POLYNOMIAL[3]);
    let p = p.mul_add(r, POLYNOMIAL[4]);
    let p = p.mul_add(r, POLYNOMIAL[5]);
    let p = p.mul_add(r * r, r);
    let bits = (p + 1.0).to_bits();

    let exponent = n as i32 + (bits >> 23) as i32 - 127;
    let significand = u64::from(bits & 0x7f_ffff | 0x80_0000) << 38;
    let shift = (38 + 23 - WEIGHT_BITS as i32 - exponent) as u32;
    let weight = significand.wrapping_add(1 << (shift - 1)) >> shift;
    if is_some { weight } else { 0 }
}

/// Logarithm of the softmax of a row at `id`: NaN where there is none.
fn log_softmax(logits: &[f32], id: i32) -> f32 {
    let larger = |max: f32, &logit: &f32| if logit > max || logit.is_nan() { logit } else { max };
    let max = logits.iter().fold(f32::NEG_INFINITY, larger);
    let Some(&logit) = usize::try_from(id).ok().and_then(|id| logits.get(id)) else { return f32::NAN };
    if !max.is_finite() {
        return f32::NAN;
    }
    let sum: u64 = vectorized(
        #[inline(always)]
        || logits.iter().map(|logit| fixed_weight(logit - max)).sum(),
    );
    let log_sum = (sum as f64 / (1u64 << WEIGHT_BITS) as f64).ln();
    (f64::from(logit) - f64::from(max) - log_sum) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit for bit, for every 61st number there is.
    #[test]
    fn weights_are_the_references() {
        for bits in (0..f32::to_bits(31.0)).step_by(61) {
            let x = -f32::from_bits(bits);
            assert_eq!(fixed_weight(x), crate::reference::fixed_weight(x), "{x}");
        }
    }

    /// Within 2 ulp of exp, where the weight is no longer an integer of few bits.
    #[test]
    fn weights_are_within_2_ulp_of_exp() {
        assert_eq!(fixed_weight(0.0), 1 << WEIGHT_BITS);
        assert_eq!(fixed_weight(f32::NAN), 0);
        assert_eq!(fixed_weight(f32::NEG_INFINITY), 0);
        let mut worst = 0.0f64;
        // Steps of about 4 ulp at 1 and far more than the reduction's periods.
        for step in 0..6_400_000 {
            let x = -(step as f32) * 4.768_371_6e-6;
            let exact = f64::from(x).exp();
            let got = fixed_weight(x) as f64 / (1u64 << WEIGHT_BITS) as f64;
            let ulp = 2f64.powi(exact.log2().floor() as i32 - 23);
            let rounding = 0.5 / (1u64 << WEIGHT_BITS) as f64;
            worst = worst.max(((got - exact).abs() - rounding).max(0.0) / ulp);
        }
        assert!(worst <= 2.0, "{worst} ulp");
    }
}
