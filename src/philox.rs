//! Philox4x32-10 (Salmon et al. 2011), the counter-based generator of router noise and of sampling: the same key and
//! counter give the same words on every executor.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words of a 128-bit counter under a 64-bit key.
pub(crate) fn philox(counter: [u32; 4], seed: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut words = counter;
    for _ in 0..10 {
        let (low_0, high_0) = wide_product(words[0], MULTIPLIERS[0]);
        let (low_1, high_1) = wide_product(words[2], MULTIPLIERS[1]);
        words = [high_1 ^ words[1] ^ key[0], low_1, high_0 ^ words[3] ^ key[1], low_0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    words
}

/// The low and the high word of a product.
fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    (product as u32, (product >> 32) as u32)
}

/// A number of 24 random bits in [0, 1), exact in f32.
pub(crate) fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// The normal deviate of (token, expert): Box and Muller on the first two words of counter (token, expert, 0, 0).
pub(crate) fn router_normal(seed: u64, token: usize, expert: usize) -> f32 {
    let words = philox([token as u32, expert as u32, 0, 0], seed);
    let (u1, u2) = (unit(words[0]) + 1.0 / 16_777_216.0, unit(words[1]));
    (-2.0 * u1.ln()).sqrt() * (2.0 * std::f32::consts::PI * u2).cos()
}

#[cfg(test)]
mod tests {
    use crate::reference;

    #[test]
    fn agrees_with_the_reference() {
        for (seed, token, expert) in [(0, 0, 0), (1, 7, 3), (0xdead_beef_1234_5678, 100_000, 1023)] {
            let expected = reference::router_normal(seed, token, expert);
            let got = super::router_normal(seed, token, expert);
            assert!((f64::from(got) - expected).abs() < 1e-5, "{got} {expected}");
        }
    }
}
