//! What each kernel may use of a multiprocessor, and what is expected to bound it. `nanomoe kernels --check` holds ptxas to
//! it. Threads, stages and shared memory are the launchers' own; registers are what lets as many blocks run together.

use super::attention::{DECODE_THREADS, Tiles};
use super::gemm::GemmTile;
use super::layer_norm::STATIC_SHARED_BYTES;
use super::moe_dispatch::STATIC_SHARED_BYTES as DISPATCH_STATIC_SHARED_BYTES;
use super::sampling;
use super::sm90a::{self, WgmmaTile};
use super::topk_gating::{GatingKernel, ROUTER_STATIC_SHARED_BYTES, router_weight_bytes};
use crate::tensor::DType;

/// Multiprocessors that waves are counted on.
pub const NUM_SMS: usize = 132;
const REGISTERS_PER_SM: u32 = 65536;
const SHARED_BYTES_PER_SM: u32 = 228 * 1024;
/// What the system keeps of shared memory for each block.
const RESERVED_SHARED_BYTES: u32 = 1024;
const THREADS_PER_SM: u32 = 2048;

/// What is expected to take the time of a kernel at its named shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Bytes to and from device memory.
    Memory,
    /// Bytes from L2.
    L2,
    /// Products on the tensor cores.
    TensorCores,
    /// Products in f32, which tensor cores do not take.
    FusedMultiplyAdds,
    /// Waiting: too little work to fill the GPU.
    Latency,
}

/// What one kernel may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its name, with `*` for the storage type where that does not matter, and `half` for bf16 and f16.
    pub kernel: String,
    /// Registers a thread at most, as ptxas gives them at launch.
    pub registers: u32,
    /// Registers of a producing and of a consuming thread after `setmaxnreg`.
    pub moved_registers: Option<(u32, u32)>,
    /// Threads of a block.
    pub threads: u32,
    /// Static shared memory of a block at most, in bytes.
    pub static_shared_bytes: u32,
    /// Dynamic shared memory of a block in bytes, at the named shape.
    pub dynamic_shared_bytes: u32,
    /// Stages of its pipeline; 1 without one.
    pub stages: u32,
    /// Blocks that must fit a multiprocessor together.
    pub blocks_per_sm: u32,
    /// A shape it is for.
    pub shape: &'static str,
    /// Blocks of that shape, were each given one tile or row.
    pub blocks: usize,
    /// What bounds it there.
    pub bound: Bound,
    /// Why.
    pub why: &'static str,
}

impl Budget {
    /// How often the blocks of the named shape fill 132 multiprocessors.
    pub fn waves(&self) -> f64 {
        self.blocks as f64 / (NUM_SMS * self.blocks_per_sm as usize) as f64
    }

    /// Whether a compiled kernel of this name is meant.
    pub fn covers(&self, name: &str) -> bool {
        let matches =
            |types: &[&str], star: &str| types.iter().any(|dtype| self.kernel.replace(star, dtype) == name);
        self.kernel == name || matches(&["bf16", "f16"], "half") || matches(&["f32", "bf16", "f16"], "*")
    }

    /// What is exceeded by a kernel that ptxas gave these registers and this static shared memory.
    pub fn exceeded_by(&self, registers: u32, static_shared_bytes: u32) -> Vec<String> {
        let mut exceeded = Vec::new();
        if registers > self.registers {
            exceeded.push(format!("{registers} registers, its budget is {}", self.registers));
        }
        if static_shared_bytes > self.static_shared_bytes {
            let budget = self.static_shared_bytes;
            exceeded
                .push(format!("{static_shared_bytes} bytes of static shared memory, its budget is {budget}"));
        }
        let fit = self.blocks_that_fit(registers, static_shared_bytes);
        if fit < self.blocks_per_sm {
            exceeded
                .push(format!("{fit} blocks fit a multiprocessor, its budget needs {}", self.blocks_per_sm));
        }
        if let Some((producer, consumer)) = self.moved_registers {
            let wanted = 128 * producer + (self.threads - 128) * consumer;
            if wanted > registers.next_multiple_of(8) * self.threads {
                exceeded.push(format!("{wanted} registers after setmaxnreg, the block was given fewer"));
            }
        }
        exceeded
    }

    fn blocks_that_fit(&self, registers: u32, static_shared_bytes: u32) -> u32 {
        // Registers are given to warps, 256 at a time.
        let by_registers =
            REGISTERS_PER_SM / (registers.next_multiple_of(8) * self.threads.next_multiple_of(32));
        let shared = static_shared_bytes + self.dynamic_shared_bytes + RESERVED_SHARED_BYTES;
        by_registers.min(SHARED_BYTES_PER_SM / shared).min(THREADS_PER_SM / self.threads)
    }
}

/// The budget of every kernel.
pub fn budgets() -> Vec<Budget> {
    let mut budgets = rows();
    budgets.extend(products());
    budgets.extend(attention());
    budgets.extend(hopper_products());
    budgets.extend(hopper_attention());
    budgets
}

/// A kernel without pipeline or dynamic shared memory.
fn plain(kernel: &str, threads: u32, registers: u32) -> Budget {
    Budget {
        kernel: kernel.to_owned(),
        registers,
        moved_registers: None,
        threads,
        static_shared_bytes: 0,
        dynamic_shared_bytes: 0,
        stages: 1,
        blocks_per_sm: (THREADS_PER_SM / threads).min(REGISTERS_PER_SM / (registers * threads)),
        shape: "",
        blocks: 0,
        bound: Bound::Memory,
        why: "",
    }
}

/// Row-wise kernels, at GPT-2's and nanoMoE's widths.
fn rows() -> Vec<Budget> {
    let read_once = "each row is read and written once; warps enough to cover the latency of memory";
    let gpt2 = |budget| Budget { shape: "16384x768", why: read_once, ..budget };
    let gating = |kernel: &GatingKernel| Budget {
        static_shared_bytes: 32,
        dynamic_shared_bytes: (4 * kernel.warps * 2 * 2) as u32,
        blocks_per_sm: kernel.blocks_per_sm as u32,
        shape: "65536 tokens, 2 experts each",
        blocks: 65536 / kernel.warps,
        why: "as many lanes a token as its logits fill: read once, the choice stays in registers",
        ..plain(kernel.name, 32 * kernel.warps as u32, kernel.registers)
    };
    let dispatch = |kernel, static_shared_bytes, kept_ids: u32| Budget {
        static_shared_bytes,
        dynamic_shared_bytes: 4 * ((8 + 1) * (8 + 1) + kept_ids),
        shape: "12288 tokens, 2 of 8 experts",
        blocks: 12,
        bound: Bound::Latency,
        why: "a stable counting sort of few bytes: one pass over the ids counts, one places",
        ..plain(kernel, 256, 32)
    };
    let draws = |kernel, threads, vocab_size: u32, shape, why| Budget {
        static_shared_bytes: sampling::STATIC_SHARED_BYTES,
        dynamic_shared_bytes: 4 * vocab_size,
        shape,
        blocks: 128,
        why,
        ..plain(kernel, threads, 64)
    };
    vec![
        gpt2(Budget {
            static_shared_bytes: STATIC_SHARED_BYTES as u32,
            dynamic_shared_bytes: 768 * 8,
            blocks: 1024,
            why: "persistent: gamma and beta once an SM, each row once and kept in registers",
            ..plain("layer_norm_*", 512, 128)
        }),
        gpt2(Budget { static_shared_bytes: 16 * 1024, blocks: 1024, ..plain("embedding_*", 256, 112) }),
        gpt2(Budget { static_shared_bytes: 8 * 1024, blocks: 8192, ..plain("moe_combine_*", 256, 64) }),
        Budget {
            shape: "12288x384, 8 experts",
            blocks: 192,
            why: "persistent: the weights of 8 experts once an SM, x once",
            static_shared_bytes: ROUTER_STATIC_SHARED_BYTES as u32,
            dynamic_shared_bytes: router_weight_bytes(384, 1) as u32,
            ..plain("topk_gating_router_logits_*", 512, 128)
        },
        gating(&GatingKernel::ALL[0]),
        gating(&GatingKernel::ALL[1]),
        gating(&GatingKernel::ALL[2]),
        Budget {
            static_shared_bytes: 8192 + 128,
            shape: "8 experts, 512 blocks' counts",
            blocks: 1,
            bound: Bound::Latency,
            why: "one block adds up what the others left, in one order",
            ..plain("topk_gating_totals", 1024, 32)
        },
        dispatch("moe_dispatch_count", 0, 0),
        dispatch("moe_dispatch_place", DISPATCH_STATIC_SHARED_BYTES as u32, 2048),
        Budget {
            shape: "16384 rows of 50304 logits",
            blocks: 4096,
            why: "partial results of 128 logits each, a fiftieth of the product's operands",
            ..plain("lm_head_reduce", 128, 32)
        },
        draws(
            "sampling_256",
            sampling::THREADS[0],
            4096,
            "128 rows of 4096 logits",
            "logits once; their keys stay in shared memory",
        ),
        draws(
            "sampling_1024",
            sampling::THREADS[1],
            50257,
            "128 rows of 50257 logits",
            "logits once; their keys take 201 KB, so one block an SM",
        ),
        draws(
            "sampling_1024_streamed",
            sampling::THREADS[1],
            0,
            "128 rows of 128256 logits",
            "logits once from memory, then from L2; none are kept",
        ),
    ]
}

/// Portable matrix products.
fn products() -> Vec<Budget> {
    let mut budgets = Vec::new();
    let tiles = [
        (GemmTile::T128x128, [224, 168], [2, 1], "16384x768x768", (16384, 768)),
        (GemmTile::T64x64, [120, 96], [3, 2], "1024x768x768", (1024, 768)),
        (GemmTile::T16x32, [64, 80], [4, 4], "1x2304x768", (1, 2304)),
        (GemmTile::T16x128, [80, 120], [3, 3], "1x50304x768", (1, 50304)),
    ];
    for (tile, registers, blocks_per_sm, shape, (m, n)) in tiles {
        for (index, (types, dtype)) in [("half", DType::BF16), ("f32", DType::F32)].into_iter().enumerate() {
            let (bound, why) = match (tile, dtype) {
                (GemmTile::T16x32 | GemmTile::T16x128, _) => {
                    (Bound::Memory, "weights once; six or four stages in flight cover the latency of memory")
                }
                (_, DType::F32) => (Bound::FusedMultiplyAdds, "8x8 or 4x4 sums a thread, no TF32"),
                _ => (Bound::TensorCores, "mma.sync, of which Hopper gives about 60 % of wgmma's rate"),
            };
            let (block_m, block_n) = tile.shape();
            let stems: &[&str] = match tile {
                GemmTile::T16x128 => &["lm_head"],
                GemmTile::T128x128 => &["gemm", "mlp_up", "mlp_down", "moe_gemm", "lm_head"],
                _ => &["gemm", "mlp_up", "mlp_down", "moe_gemm", "qkv"],
            };
            budgets.extend(stems.iter().map(|stem| Budget {
                kernel: format!("{stem}_{types}_{block_m}x{block_n}"),
                registers: registers[index],
                threads: tile.num_threads(dtype),
                dynamic_shared_bytes: tile.shared_bytes(),
                stages: tile.num_stages(),
                blocks_per_sm: blocks_per_sm[index],
                shape,
                blocks: tile.count(m, n),
                bound,
                why,
                ..plain("", 128, 255)
            }));
        }
    }
    budgets
}

/// Head size, rows and types of the decode kernels, and their registers: the queries and sums of all rows.
const DECODE_REGISTERS: [(u32, u32, &str, u32); 11] = [
    (64, 1, "f32", 80),
    (128, 1, "f32", 80),
    (256, 1, "f32", 80),
    (64, 1, "half", 80),
    (64, 4, "half", 160),
    (64, 8, "half", 224),
    (128, 1, "half", 80),
    (128, 4, "half", 160),
    (128, 8, "half", 224),
    (256, 1, "half", 80),
    (256, 8, "half", 224),
];

/// Portable attention.
fn attention() -> Vec<Budget> {
    let mut budgets = Vec::new();
    for (head_dim, half_registers, f32_registers) in [(64, 136, 72), (128, 192, 104), (256, 240, 136)] {
        for (types, dtype, registers) in
            [("half", DType::BF16, half_registers), ("f32", DType::F32, f32_registers)]
        {
            let tiles = Tiles::new(dtype, head_dim);
            budgets.push(Budget {
                kernel: format!("attention_{}_{head_dim}_{types}", tiles.name),
                dynamic_shared_bytes: tiles.shared_bytes as u32,
                stages: 2,
                blocks_per_sm: (SHARED_BYTES_PER_SM / (tiles.shared_bytes as u32 + RESERVED_SHARED_BYTES))
                    .min(REGISTERS_PER_SM / (registers * tiles.threads)),
                shape: "16x1024, 12 heads",
                blocks: 16 * 12 * 1024_usize.div_ceil(tiles.block_m),
                bound: if dtype == DType::F32 { Bound::FusedMultiplyAdds } else { Bound::TensorCores },
                why: "scores stay in registers; two stages of keys and values",
                ..plain("", tiles.threads, registers)
            });
        }
    }
    for (head_dim, rows, types, registers) in DECODE_REGISTERS {
        budgets.push(Budget {
            static_shared_bytes: (8 + rows) * head_dim * 4 + rows * 64 + 4,
            blocks_per_sm: REGISTERS_PER_SM / (registers * DECODE_THREADS),
            shape: "64 sequences of 1024 keys, 12 heads",
            blocks: 64 * 12 * 4,
            why: "keys and values once for all heads that share them; loads of the next keys in flight",
            ..plain(&format!("attention_decode_{head_dim}x{rows}_{types}"), DECODE_THREADS, registers)
        });
    }
    budgets
}

/// Hopper's matrix products.
fn hopper_products() -> Vec<Budget> {
    let base = |tile: WgmmaTile| Budget {
        registers: 168,
        threads: tile.num_threads(),
        dynamic_shared_bytes: tile.shared_bytes(),
        stages: tile.num_stages(),
        blocks_per_sm: tile.blocks_per_sm() as u32,
        bound: Bound::TensorCores,
        moved_registers: (tile.num_threads() == 384).then_some((40, 232)),
        ..plain("", 128, 255)
    };
    let blocks = |tile: WgmmaTile, m: usize, n: usize| {
        let (block_m, block_n) = tile.shape();
        m.div_ceil(block_m) * n.div_ceil(block_n) * tile.cluster() as usize
    };
    let mut budgets = Vec::new();
    for tile in WgmmaTile::GEMM {
        let suffix = tile.suffix();
        let (shape, (m, n), why) = match tile {
            WgmmaTile::T256x256 => (
                "4096x4096x4096",
                (4096, 4096),
                "reads L2 least; 1024 clocks of products a step, 640 of smem",
            ),
            WgmmaTile::T256x128 => (
                "16384x2304x768",
                (16384, 2304),
                "an epilogue hides under the other tile's products; b once for two",
            ),
            WgmmaTile::T128x192 => ("1024x2304x768", (1024, 2304), "as many tiles as SMs: one wave"),
            WgmmaTile::T128x128 => {
                ("8192x768x768", (8192, 768), "an epilogue hides under the other tile's products")
            }
            WgmmaTile::Split128x128(2) => {
                ("1024x768x768", (1024, 768), "96 CTAs where 48 tiles would be at work")
            }
            WgmmaTile::Split128x128(_) => {
                ("512x768x3072", (512, 768), "96 CTAs where 24 tiles would be at work")
            }
            WgmmaTile::Split128x192(_) => {
                ("1024x768x3072", (1024, 768), "128 CTAs where 48 tiles of 128x128 would be at work")
            }
            _ => ("1x2304x768", (1, 2304), "80 KB of weights under way a CTA, two CTAs an SM"),
        };
        let of_tile = Budget { shape, blocks: blocks(tile, m, n), why, ..base(tile) };
        if tile.is_split() {
            let (registers, bound) = match tile {
                WgmmaTile::Split(_) => (64, Bound::Memory),
                WgmmaTile::Split128x128(_) => (96, Bound::TensorCores),
                _ => (128, Bound::TensorCores),
            };
            let split = Budget { registers, bound, moved_registers: None, ..of_tile };
            budgets.push(Budget { kernel: format!("wgmma_gemm_{suffix}_half"), ..split });
            continue;
        }
        for gelu in ["", "gelu_"] {
            budgets.push(Budget { kernel: format!("wgmma_gemm_{gelu}{suffix}_half"), ..of_tile.clone() });
        }
    }
    for tile in WgmmaTile::MOE {
        let (suffix, is_small) = (tile.suffix(), tile == WgmmaTile::T64x128);
        if let WgmmaTile::Split(_) = tile {
            budgets.extend(["", "gather_"].map(|gather| Budget {
                kernel: format!("wgmma_moe_gemm_{gather}{suffix}_half"),
                registers: 64,
                moved_registers: None,
                shape: "1 token, 2 of 8 experts of 1536x384",
                blocks: blocks(tile, 2, 1536) * 2,
                bound: Bound::Latency,
                why: "a few steps of K in each CTA, behind one another",
                ..base(tile)
            }));
            continue;
        }
        for gather in ["", "gather_"] {
            for gelu in ["", "gelu_"] {
                let of_tile = base(tile);
                budgets.push(Budget {
                    kernel: format!("wgmma_moe_gemm_{gather}{gelu}{suffix}_half"),
                    registers: if is_small { 128 } else { 168 },
                    moved_registers: match (is_small, gather) {
                        (true, _) => None,
                        (false, "") => Some((40, 232)),
                        (false, _) => Some((56, 224)),
                    },
                    shape: if is_small {
                        "64 tokens, 2 of 8 experts of 1536x384"
                    } else {
                        "65536 tokens, the same"
                    },
                    blocks: if is_small {
                        blocks(tile, 128, 1536) + 7 * 12
                    } else {
                        blocks(tile, 131_072, 1536)
                    },
                    bound: if is_small { Bound::Memory } else { Bound::TensorCores },
                    why: if is_small {
                        "few rows an expert: the bytes of the weights"
                    } else {
                        "as a dense product; 8 cp.async a producing thread a step where rows are gathered"
                    },
                    ..of_tile
                });
            }
        }
    }
    for tile in WgmmaTile::LM_HEAD {
        let gather = if tile == WgmmaTile::T256x128 { "" } else { "gather_" };
        let is_small = tile == WgmmaTile::T64x128;
        budgets.push(Budget {
            kernel: format!("wgmma_lm_head_{gather}{}_half", tile.suffix()),
            dynamic_shared_bytes: sm90a::lm_head::SHARED_BYTES,
            stages: if is_small { 8 } else { 6 },
            blocks_per_sm: 1,
            moved_registers: match (is_small, gather) {
                (true, _) => None,
                (false, "") => Some((40, 232)),
                (false, _) => Some((56, 224)),
            },
            shape: if is_small { "1x50304x768" } else { "16384x50304x768" },
            blocks: blocks(tile, if is_small { 1 } else { 16384 }, 50304),
            bound: if is_small { Bound::Memory } else { Bound::TensorCores },
            why: "no staging for the way out: logits are reduced in registers",
            ..base(tile)
        });
    }
    budgets
}

/// Hopper's attention.
fn hopper_attention() -> Vec<Budget> {
    let of = |head_dim: usize, moved, stages, bound, why| {
        let block_m = sm90a::attention::block_m(head_dim);
        let threads = sm90a::attention::num_threads(head_dim);
        Budget {
            kernel: format!("wgmma_attention_{head_dim}_half"),
            registers: REGISTERS_PER_SM / threads / 8 * 8,
            moved_registers: Some(moved),
            dynamic_shared_bytes: sm90a::attention::shared_bytes(head_dim),
            stages,
            blocks_per_sm: 1,
            shape: "16x1024, 12 heads",
            blocks: 16 * 12 * 1024_usize.div_ceil(block_m),
            bound,
            why,
            ..plain("", threads, 128)
        }
    };
    vec![
        of(
            64,
            (32, 160),
            4,
            Bound::TensorCores,
            "exponentials take as long as the products: no more than 500 TFLOP/s",
        ),
        of(
            128,
            (40, 232),
            2,
            Bound::TensorCores,
            "1024 clocks of products a block of keys, 512 of exponentials",
        ),
    ]
}
