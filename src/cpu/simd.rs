//! Vector loops, compiled for the instruction set found at run time: dot products with explicit vectors, and exp and
//! GELU as branch-free arithmetic that the compiler vectorises.

use pulp::{Arch, Simd, WithSimd};

use crate::operations::Activation;

/// `f` compiled for the best instruction set of this machine; `f` must be `#[inline(always)]` throughout.
#[inline(always)]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(f)
}

/// Most rows of `a` that one pass over a weight row serves.
const BLOCK: usize = 4;

/// `out[n · M + m] = a[m] · weights[n]` for the M rows of `a`: each weight row is read from memory once.
///
/// `weights` are rows of `a_len` elements, `stride` apart.
pub(super) fn dot_rows(out: &mut [f32], a: &[&[f32]], weights: &[f32], stride: usize) {
    Arch::new().dispatch(DotRows { out, a, weights, stride });
}

struct DotRows<'a> {
    out: &'a mut [f32],
    a: &'a [&'a [f32]],
    weights: &'a [f32],
    stride: usize,
}

impl WithSimd for DotRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let len = self.a[0].len();
        for (row, out) in self.out.chunks_exact_mut(self.a.len()).enumerate() {
            let weights = &self.weights[row * self.stride..][..len];
            for (out, a) in out.chunks_mut(BLOCK).zip(self.a.chunks(BLOCK)) {
                match *a {
                    [a0] => out.copy_from_slice(&dots(simd, weights, [a0])),
                    [a0, a1] => out.copy_from_slice(&dots(simd, weights, [a0, a1])),
                    [a0, a1, a2] => out.copy_from_slice(&dots(simd, weights, [a0, a1, a2])),
                    [a0, a1, a2, a3] => out.copy_from_slice(&dots(simd, weights, [a0, a1, a2, a3])),
                    _ => unreachable!("chunks of at most {BLOCK}"),
                }
            }
        }
    }
}

/// Dot products of one row with M others.
#[inline(always)]
fn dots<S: Simd, const M: usize>(simd: S, weights: &[f32], a: [&[f32]; M]) -> [f32; M] {
    // Four independent sums each: one fused multiply-add waits for nobody.
    const UNROLL: usize = 4;
    let mut sums = [[simd.splat_f32s(0.0); UNROLL]; M];
    let (body, tail) = S::as_simd_f32s(weights);
    let a_body = a.map(|a| S::as_simd_f32s(a).0);
    let whole = body.len() / UNROLL * UNROLL;
    let (unrolled, rest) = body.split_at(whole);
    for (chunk, w) in unrolled.chunks_exact(UNROLL).enumerate() {
        for m in 0..M {
            let a = &a_body[m][chunk * UNROLL..][..UNROLL];
            for lane in 0..UNROLL {
                sums[m][lane] = simd.mul_add_e_f32s(w[lane], a[lane], sums[m][lane]);
            }
        }
    }
    let mut result = [0.0; M];
    for m in 0..M {
        for (w, a) in rest.iter().zip(&a_body[m][whole..]) {
            sums[m][0] = simd.mul_add_e_f32s(*w, *a, sums[m][0]);
        }
        let pairs = [simd.add_f32s(sums[m][0], sums[m][1]), simd.add_f32s(sums[m][2], sums[m][3])];
        result[m] = simd.reduce_sum_f32s(simd.add_f32s(pairs[0], pairs[1]));
        for (w, a) in tail.iter().zip(&a[m][weights.len() - tail.len()..]) {
            result[m] += w * a;
        }
    }
    result
}

/// `sums[i] += weight · values[i]`.
#[inline(always)]
pub(super) fn add_scaled(sums: &mut [f32], weight: f32, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += weight * value;
    }
}

/// `e^x` within about 1e-7 of its value; 0 below -87.3, NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.3;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > 88.7 { 88.7 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    // ln 2 in two parts, so that n times the first is exact.
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    // Half of n at a time: 2^128 would not fit one factor.
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let (half, rest) = (n >> 1, n - (n >> 1));
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let result = p * power(half) * power(rest);
    let result = if x > 88.73 { f32::INFINITY } else { result };
    if x < LOWEST { 0.0 } else { result }
}

/// `erfc(z) · e^(z²)` for z >= 0, within about 3e-7 of its value: `t · P(t)` with `t = 1 / (1 + 0.34 z)`, P the
/// polynomial through the Chebyshev nodes of z in [0, 14].
#[inline(always)]
fn scaled_erfc(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.34 * z);
    let p = 0.051_438_875;
    let p = p * t - 0.249_883_92;
    let p = p * t + 0.410_653_68;
    let p = p * t - 0.289_957_67;
    let p = p * t + 0.284_898_33;
    let p = p * t + 0.054_547_755;
    let p = p * t + 0.176_469_44;
    let p = p * t + 0.177_945_37;
    let p = p * t + 0.192_073_33;
    let p = p * t + 0.191_814_82;
    t * p
}

#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    // x · Φ(x); Φ(x) = 1 - Φ(-x), and Φ(-|x|) is the tail. Its exponent is z² = x²/2, rounded once.
    let tail = 0.5 * scaled_erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2) * exp(-0.5 * x * x);
    if x < 0.0 { x * tail } else { x - x * tail }
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // (1 + tanh u) / 2 = 1 / (1 + e^(-2u))
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * u))
}

/// Applies `activation` to every value.
pub(super) fn activate(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::Identity => (),
        Activation::GeluErf => vectorized(
            #[inline(always)]
            || values.iter_mut().for_each(|value| *value = gelu_erf(*value)),
        ),
        Activation::GeluTanh => vectorized(
            #[inline(always)]
            || values.iter_mut().for_each(|value| *value = gelu_tanh(*value)),
        ),
    }
}

/// Replaces scores by their softmax; all -inf gives zeros. Returns nothing else: scores are scaled beforehand.
pub(super) fn softmax(scores: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            let max = largest(scores);
            if max == f32::NEG_INFINITY {
                scores.fill(0.0);
                return;
            }
            let sum = exp_sum(scores, max);
            let reciprocal = 1.0 / sum;
            scores.iter_mut().for_each(|score| *score *= reciprocal);
        },
    );
}

/// `ln(Σ e^values)`; `values` are overwritten.
pub(super) fn log_sum_exp(values: &mut [f32]) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let max = largest(values);
            if max == f32::NEG_INFINITY { max } else { max + exp_sum(values, max).ln() }
        },
    )
}

/// Vector lanes that reductions keep apart.
const LANES: usize = 16;

/// The largest value, NaN if there is one, -inf if there is none.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let mut max = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, greater);
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, value);
        }
    }
    for lane in lanes {
        max = greater(max, lane);
    }
    max
}

/// `values = e^(values - max)`, and their sum.
#[inline(always)]
fn exp_sum(values: &mut [f32], max: f32) -> f32 {
    for value in values.iter_mut() {
        *value = exp(*value - max);
    }
    sum_of(values, |value| value)
}

/// `Σ f(value)`, in a fixed order over vector lanes.
#[inline(always)]
pub(super) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(tail) {
        *lane += f(value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn exp_and_gelu_are_close_to_f64() {
        for step in -200_000..200_000 {
            let x = step as f32 * 5e-4;
            let expected = f64::from(x).exp();
            if x > -87.0 && x < 88.7 {
                assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7, "exp({x}) = {}", exp(x));
            }
            if x.abs() < 12.0 {
                // The exponent is rounded a few times, which its exponential shows in the left tail.
                let wide = f64::from(x);
                let tanh_exponent = 1.6 * (wide + 0.044715 * wide.powi(3)).abs();
                for (got, expected, exponent) in [
                    (gelu_erf(x), reference::gelu_erf(wide), 0.5 * wide * wide),
                    (gelu_tanh(x), reference::gelu_tanh(wide), tanh_exponent),
                ] {
                    // The reference's 1 + tanh cancels, too, from about 1e-16 on.
                    let bound = (4e-7 + 1.8e-7 * exponent) * expected.abs() + 1e-14;
                    assert!((f64::from(got) - expected).abs() <= bound, "gelu({x}) = {got}, not {expected}");
                }
            }
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(gelu_erf(100.0), 100.0);
        assert_eq!(gelu_tanh(-100.0), 0.0);
    }
}
