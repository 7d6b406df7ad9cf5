//! The hottest operations over a whole warp register, compiled for the vector units that the machine has.
//!
//! `f32::mul_add` without the FMA instruction is a call into the mathematics library for each lane; here one check of
//! the machine's features a call chooses vector code.

/// A warp register: one 32-bit value a lane.
pub type Lanes = [u32; 32];

/// `fma.rn.f32` in all lanes. NaN results are canonical.
#[inline]
pub fn fma_f32(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features that the function is compiled for were just detected.
        return unsafe { fma_f32_avx2(a, b, c) };
    }
    fma_f32_plain(a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_f32_avx2(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    fma_f32_plain(a, b, c)
}

#[inline(always)]
fn fma_f32_plain(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    let mut out = [0; 32];
    for i in 0..32 {
        let value = f32::from_bits(a[i]).mul_add(f32::from_bits(b[i]), f32::from_bits(c[i]));
        out[i] = if value.is_nan() { super::arith::F32_NAN } else { value.to_bits() };
    }
    out
}

/// `fma.rn.f64` in all lanes.
#[inline]
pub fn fma_f64(a: &[u64; 32], b: &[u64; 32], c: &[u64; 32]) -> [u64; 32] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features that the function is compiled for were just detected.
        return unsafe { fma_f64_avx2(a, b, c) };
    }
    fma_f64_plain(a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_f64_avx2(a: &[u64; 32], b: &[u64; 32], c: &[u64; 32]) -> [u64; 32] {
    fma_f64_plain(a, b, c)
}

#[inline(always)]
fn fma_f64_plain(a: &[u64; 32], b: &[u64; 32], c: &[u64; 32]) -> [u64; 32] {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f64::from_bits(a[i]).mul_add(f64::from_bits(b[i]), f64::from_bits(c[i])).to_bits();
    }
    out
}
