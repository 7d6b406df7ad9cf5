//! Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), and a normal deviate from it.

/// Ten rounds on a counter of four words under a key of two.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    for round in 0..10u32 {
        let key_0 = key[0].wrapping_add(round.wrapping_mul(0x9E37_79B9));
        let key_1 = key[1].wrapping_add(round.wrapping_mul(0xBB67_AE85));
        let first = u64::from(a) * 0xD251_1F53;
        let second = u64::from(c) * 0xCD9E_8D57;
        (a, b, c, d) = (
            (second >> 32) as u32 ^ b ^ key_0,
            second as u32,
            (first >> 32) as u32 ^ d ^ key_1,
            first as u32,
        );
    }
    [a, b, c, d]
}

/// The normal deviate of (token, expert) under `seed`, by Box and Muller: counter `(token, expert, 0, 0)`, key the low
/// and the high word of the seed, `u1 = ((r0 >> 8) + 1) / 2^24`, `u2 = (r1 >> 8) / 2^24` (exact in f32), and
/// `sqrt(-2 ln u1) cos(2 pi u2)`.
pub fn router_normal(seed: u64, token: usize, expert: usize) -> f64 {
    let words = philox4x32_10([token as u32, expert as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let u1 = (f64::from(words[0] >> 8) + 1.0) / 16_777_216.0;
    let u2 = f64::from(words[1] >> 8) / 16_777_216.0;
    (-2.0 * u1.ln()).sqrt() * (2.0 * std::f64::consts::PI * u2).cos()
}

#[cfg(test)]
mod tests {
    use super::philox4x32_10;

    /// The known answers that come with the paper's library (Random123, kat_vectors).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
