//! Which tile a product takes: the one whose clocks a small model of the GPU says are fewest.
//!
//! It knows what decides between tiles and nothing else: waves, the slowest of tensor cores, L2 and an SM's way to L2 in a
//! step of 64 in K, the weights' bytes, and an epilogue where it hides under nothing. All of it is predicted, not measured.

use super::{BLOCK_K, WgmmaTile};

/// Bytes of L2 that all SMs together get a clock: 9 TB/s at 1.6 GHz (published: 5 to 10 TB/s).
const L2_BYTES_PER_CLOCK: usize = 5600;
/// Bytes that arrive at an SM a clock.
const SM_BYTES_PER_CLOCK: usize = 64;
/// Bytes of HBM a clock: 4.3 TB/s.
const HBM_BYTES_PER_CLOCK: usize = 2700;
/// Of a consumer's epilogue that hides under nothing, every 64 columns: the way through shared memory.
const EPILOGUE_CLOCKS: usize = 500;
/// Two cluster barriers, and the bytes of the other CTAs' shared memory that arrive a clock.
const EXCHANGE_CLOCKS: usize = 1000;
const EXCHANGE_BYTES_PER_CLOCK: usize = 32;

/// `[m, n]` outputs over `k` for each of `groups` weights.
#[derive(Clone, Copy)]
struct Problem {
    groups: usize,
    m: usize,
    n: usize,
    k: usize,
    num_sms: usize,
    /// CTAs that an SM holds, where they are no more than the tile's own.
    most_per_sm: usize,
}

impl WgmmaTile {
    /// The tile of a dense product `[m, n]` over `k` on a GPU of `num_sms`. Without `has_panels`, which the wide tiles need
    /// for their way out, a split one.
    pub fn pick(m: usize, n: usize, k: usize, num_sms: usize, has_panels: bool) -> WgmmaTile {
        let problem = Problem { groups: 1, m, n, k, num_sms, most_per_sm: 2 };
        // Of equals the first: it reads L2 least.
        let wide = [WgmmaTile::T256x256, WgmmaTile::T256x128, WgmmaTile::T128x192, WgmmaTile::T128x128];
        let split = [WgmmaTile::Split128x128(2), WgmmaTile::Split128x128(4), WgmmaTile::Split128x192(4)];
        let wide = if has_panels { &wide[..] } else { &[] };
        let split = split.into_iter().filter(|tile| k.div_ceil(BLOCK_K) >= 2 * tile.parts());
        problem.best(wide.iter().copied().chain(split).filter(|_| m > 64))
    }

    /// The tile of a grouped product of `max_rows` rows over `num_experts` weights `[n, k]`. Only the device knows how the
    /// rows are spread: evenly is the guess, and what skew does to it is less than a tile an expert.
    pub fn pick_grouped(
        max_rows: usize,
        num_experts: usize,
        n: usize,
        k: usize,
        num_sms: usize,
    ) -> WgmmaTile {
        let groups = num_experts.min(max_rows).max(1);
        let problem = Problem { groups, m: max_rows.div_ceil(groups), n, k, num_sms, most_per_sm: 2 };
        problem.best(
            [WgmmaTile::T256x256, WgmmaTile::T256x128, WgmmaTile::T128x128, WgmmaTile::T64x128].into_iter(),
        )
    }

    /// The tile of a product of `num_rows` rows over the vocabulary. Only the widest cannot gather rows.
    pub fn pick_vocab(
        num_rows: usize,
        vocab_size: usize,
        hidden_size: usize,
        num_sms: usize,
        gathers: bool,
    ) -> WgmmaTile {
        let (m, n, k) = (num_rows, vocab_size, hidden_size);
        let problem = Problem { groups: 1, m, n, k, num_sms, most_per_sm: 1 };
        let tiles = WgmmaTile::LM_HEAD.into_iter().filter(|&tile| !gathers || tile != WgmmaTile::T256x128);
        tiles.min_by_key(|&tile| problem.predicted_clocks(tile)).unwrap_or(WgmmaTile::T64x128)
    }
}

impl Problem {
    fn best(self, tiles: impl Iterator<Item = WgmmaTile>) -> WgmmaTile {
        let split = self.split();
        tiles.chain([split]).min_by_key(|&tile| self.predicted_clocks(tile)).unwrap_or(split)
    }

    /// Tiles of the whole output.
    fn tiles(self, tile: WgmmaTile) -> usize {
        let (block_m, block_n) = tile.shape();
        self.groups * self.m.div_ceil(block_m) * self.n.div_ceil(block_n)
    }

    /// As many parts of K as fill two CTAs an SM, each of two steps at least: a part costs a pass through shared memory.
    fn split(self) -> WgmmaTile {
        let wanted = 2 * self.num_sms / self.tiles(WgmmaTile::Split(1)).max(1);
        let parts = wanted.min(self.k.div_ceil(BLOCK_K) / 2).clamp(1, 8);
        WgmmaTile::Split(1 << parts.ilog2())
    }

    fn predicted_clocks(self, tile: WgmmaTile) -> usize {
        let (block_m, block_n) = tile.shape();
        let cluster = tile.cluster() as usize;
        let parts = tile.parts();
        let slots = self.num_sms * tile.blocks_per_sm().min(self.most_per_sm) / cluster;
        let tiles = self.tiles(tile);
        let waves = tiles.div_ceil(slots);
        let ctas = tiles.min(slots) * cluster;

        // A step of one CTA's part of the tile, shared with the CTAs on its SM: 4,096 FLOP a clock.
        let neighbours = ctas.div_ceil(self.num_sms);
        let cta_m = block_m * parts / cluster;
        let tensor = 2 * cta_m * block_n * BLOCK_K / 4096 * neighbours;
        let arrival = (cta_m + block_n) * BLOCK_K * 2 * neighbours / SM_BYTES_PER_CLOCK;
        let (box_a, box_b, _) = tile.boxes();
        let l2 = ctas * (box_a + box_b) as usize * BLOCK_K * 2 / L2_BYTES_PER_CLOCK;
        let steps = self.k.div_ceil(BLOCK_K).div_ceil(parts);
        let products = waves * steps * tensor.max(arrival).max(l2);
        let weights = self.groups * self.n * self.k * 2 / HBM_BYTES_PER_CLOCK;

        let epilogue = EPILOGUE_CLOCKS * (block_n / 64);
        let exposed = match tile {
            // One consumer's epilogue hides under the other's products, but for the last.
            WgmmaTile::T256x128 | WgmmaTile::T128x128 => 2 * epilogue,
            // Two CTAs on an SM hide each other's: the last is 64 rows of 128 columns or two of 64.
            WgmmaTile::T64x128 | WgmmaTile::Split(1) => 2 * EPILOGUE_CLOCKS,
            WgmmaTile::Split(_) | WgmmaTile::Split128x128(_) | WgmmaTile::Split128x192(_) => {
                let exchange = EXCHANGE_CLOCKS + block_m * block_n * 4 / EXCHANGE_BYTES_PER_CLOCK;
                waves * (epilogue + exchange)
            }
            WgmmaTile::T256x256 | WgmmaTile::T128x192 => waves * epilogue,
        };
        products.max(weights) + exposed
    }
}
