//! The matrix product of small dense tiles, in ascending k with one rounding a product.

/// Columns of one vector block.
const BLOCK: usize = 16;
/// Rows of one register block: with `BLOCK`, eight 256-bit accumulators.
const ROWS: usize = 4;

/// `acc[m][n] += a[m][k] * b[k][n]`, all row-major and dense.
pub(crate) fn multiply(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], acc: &mut [f32]) {
    assert!(a.len() >= m * k && b.len() >= k * n && acc.len() >= m * n, "tiles too small for {m}x{n}x{k}");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features that the function is compiled for were just detected.
        return unsafe { multiply_avx2(m, n, k, a, b, acc) };
    }
    multiply_plain(m, n, k, a, b, acc)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], acc: &mut [f32]) {
    multiply_plain(m, n, k, a, b, acc)
}

#[inline(always)]
fn multiply_plain(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], acc: &mut [f32]) {
    let whole = n - n % BLOCK;
    for row in (0..m).step_by(ROWS) {
        for col in (0..whole).step_by(BLOCK) {
            if row + ROWS <= m {
                block::<ROWS, BLOCK>(row, col, n, k, a, b, acc);
            } else {
                (row..m).for_each(|row| block::<1, BLOCK>(row, col, n, k, a, b, acc));
            }
        }
        for col in (whole..n).step_by(8) {
            // Every shape's n is a multiple of 8.
            if row + ROWS <= m {
                block::<ROWS, 8>(row, col, n, k, a, b, acc);
            } else {
                (row..m).for_each(|row| block::<1, 8>(row, col, n, k, a, b, acc));
            }
        }
    }
}

#[inline(always)]
fn block<const R: usize, const C: usize>(
    row: usize,
    col: usize,
    n: usize,
    k: usize,
    a: &[f32],
    b: &[f32],
    acc: &mut [f32],
) {
    let mut sums = [[0f32; C]; R];
    for (r, sum) in sums.iter_mut().enumerate() {
        sum.copy_from_slice(&acc[(row + r) * n + col..][..C]);
    }
    for i in 0..k {
        let b_row: &[f32; C] = b[i * n + col..][..C].try_into().expect("C columns");
        for (r, sum) in sums.iter_mut().enumerate() {
            let x = a[(row + r) * k + i];
            for c in 0..C {
                sum[c] = x.mul_add(b_row[c], sum[c]);
            }
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        acc[(row + r) * n + col..][..C].copy_from_slice(sum);
    }
}
