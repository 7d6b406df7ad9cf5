//! Logits over the vocabulary, and what is made of them.

use super::gemm::{add_bias, gemm};

/// `logits = x · weightᵀ + bias`: `x` `[rows, hidden_size]`, `weight` `[vocab_size, hidden_size]`; `[rows, vocab_size]`.
pub fn lm_head(x: &[f64], weight: &[f64], bias: Option<&[f64]>, hidden_size: usize) -> Vec<f64> {
    let mut logits = gemm(x, weight, hidden_size);
    if let Some(bias) = bias {
        add_bias(&mut logits, bias);
    }
    logits
}

/// Index of the largest logit of each row, the lowest on ties; -1 for a row with a NaN.
pub fn argmax(logits: &[f64], vocab_size: usize) -> Vec<i32> {
    let of_row = |row: &[f64]| {
        if row.iter().any(|value| value.is_nan()) {
            return -1;
        }
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().position(|&value| value == max).map_or(-1, |index| index as i32)
    };
    logits.chunks_exact(vocab_size).map(of_row).collect()
}

/// `ln(sum of exp(values))`, with the largest value taken out first.
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        // All -inf, or a +inf: the maximum is the answer, unless a NaN hides behind it.
        return if values.iter().any(|value| value.is_nan()) { f64::NAN } else { max };
    }
    max + values.iter().map(|value| (value - max).exp()).sum::<f64>().ln()
}

/// Cross-entropy of each row, `log_sum_exp(row) - row[target]`, and 0 where the target is `ignore_index`; the mean is
/// the sum over the number of rows that count.
pub fn cross_entropy(logits: &[f64], targets: &[i32], vocab_size: usize, ignore_index: i32) -> Vec<f64> {
    assert_eq!(logits.len(), targets.len() * vocab_size);
    let of_row = |(row, &target): (&[f64], &i32)| {
        if target == ignore_index { 0.0 } else { log_sum_exp(row) - row[target as usize] }
    };
    logits.chunks_exact(vocab_size).zip(targets).map(of_row).collect()
}
