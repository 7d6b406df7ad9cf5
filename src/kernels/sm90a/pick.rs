//! Which tile a dense product takes: the one whose clocks a small model of the GPU says are fewest.
//!
//! It knows what decides between tiles and nothing else: waves, the slowest of tensor cores, shared memory and L2 in a
//! step of 64 in K, and an epilogue where it hides under nothing. Every clock here is predicted, not measured.

use super::{BLOCK_K, WgmmaTile};

/// Bytes of L2 that all SMs together get a clock: 9 TB/s at 1.6 GHz (published: 5 to 10 TB/s).
const L2_BYTES_PER_CLOCK: usize = 5600;
/// Of an epilogue that hides under nothing, for every 64 rows and 64 columns of a consumer: the way through shared memory.
const EPILOGUE_CLOCKS: usize = 500;
/// A pass through the other CTAs' shared memory, with its two cluster barriers.
const EXCHANGE_CLOCKS: usize = 1500;

impl WgmmaTile {
    /// The tile for `[m, n]` outputs and `k` on a GPU of `num_sms`. Without `has_panels`, which the wide tiles need for
    /// their way out, a split one.
    pub fn pick(m: usize, n: usize, k: usize, num_sms: usize, has_panels: bool) -> WgmmaTile {
        let split = Self::pick_split(m, n, k, num_sms);
        if !has_panels || m <= 64 {
            return split;
        }
        // Of equals the first: it reads L2 least.
        let wide = [WgmmaTile::T256x256, WgmmaTile::T256x128, WgmmaTile::T128x192, WgmmaTile::T128x128];
        let tiles = wide.into_iter().chain([split]);
        tiles.min_by_key(|tile| tile.predicted_clocks(m, n, k, num_sms)).unwrap_or(split)
    }

    /// As many parts of K as fill two CTAs an SM, each of two steps at least: a part costs a pass through shared memory.
    fn pick_split(m: usize, n: usize, k: usize, num_sms: usize) -> WgmmaTile {
        let tiles = m.div_ceil(64) * n.div_ceil(64);
        let wanted = (2 * num_sms / tiles.max(1)).min(k.div_ceil(BLOCK_K) / 2).clamp(1, 8);
        WgmmaTile::Split(1 << wanted.ilog2())
    }

    /// Clocks of a product by this tile.
    fn predicted_clocks(self, m: usize, n: usize, k: usize, num_sms: usize) -> usize {
        let (block_m, block_n) = self.shape();
        let (cluster, parts) = match self {
            WgmmaTile::Split(parts) => (parts as usize, parts as usize),
            _ => (self.cluster() as usize, 1),
        };
        let slots = num_sms * self.blocks_per_sm() / cluster;
        let tiles = m.div_ceil(block_m) * n.div_ceil(block_n);
        let waves = tiles.div_ceil(slots);
        let ctas = tiles.min(slots) * cluster;

        // Of one CTA's part of the tile: 4,096 FLOP and 128 bytes of shared memory a clock, shared by those on its SM.
        let cta_m = block_m * parts / cluster;
        let neighbours = ctas.div_ceil(num_sms);
        let tensor = 2 * cta_m * block_n * BLOCK_K / 4096 * neighbours;
        let (box_a, box_b, _) = self.boxes();
        let l2 = ctas * (box_a + box_b) as usize * BLOCK_K * 2 / L2_BYTES_PER_CLOCK;
        let steps = k.div_ceil(BLOCK_K).div_ceil(parts);
        let products = waves * steps * tensor.max(l2);

        let epilogue = EPILOGUE_CLOCKS * (block_n / 64);
        match self {
            // One consumer's epilogue hides under the other's products, but for the last.
            WgmmaTile::T256x128 | WgmmaTile::T128x128 => products + 2 * epilogue,
            WgmmaTile::Split(parts) => {
                products + waves * (epilogue + if parts > 1 { EXCHANGE_CLOCKS } else { 0 })
            }
            _ => products + waves * epilogue,
        }
    }
}
