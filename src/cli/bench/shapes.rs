//! The shapes of the tables: GPT-2 124M and XL, nanoMoE, Mixtral, layers like DeepSeek-V3's and Qwen3's, and those on
//! which others published numbers. What tells most comes first in each group: `--quick` takes the first of each row.

use super::cases::Case;
use super::rows::{self, Row};

/// Every line of the tables.
pub fn all() -> Vec<Case> {
    let mut shapes = Shapes(Vec::new());
    shapes.gemm();
    shapes.mlp();
    shapes.attention();
    shapes.norms();
    shapes.routing();
    shapes.experts();
    shapes.lm_head();
    shapes.sampling();
    shapes.forward();
    shapes.0
}

/// One case of each operation and row.
pub fn quick() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for case in all() {
        if !cases.iter().any(|known| known.op == case.op && known.row == case.row) {
            cases.push(case);
        }
    }
    cases
}

struct Shapes(Vec<Case>);

type Wanted = Option<&'static Row>;

impl Shapes {
    fn add(&mut self, op: &'static str, dims: &[usize], variant: &'static str, row: Wanted) {
        self.0.push(Case { op, dims: dims.to_vec(), variant, row });
    }

    fn gemm(&mut self) {
        for n in [8192, 4096] {
            self.add("gemm", &[n, n, n], "", Some(&rows::SQUARE_GEMM));
        }
        for c in [768, 384] {
            for t in [16384, 65536, 1024, 512] {
                let small = t <= 1024;
                self.block(t, c, small);
            }
        }
        for m in [1, 8, 16, 64, 128] {
            self.block(m, 768, true);
        }
        for t in [16384, 65536, 1024] {
            let row = if t <= 1024 { &rows::SMALL_GEMM } else { &rows::MODEL_GEMM };
            self.add("gemm", &[t, 50304, 768], "", Some(row));
        }
        // GPT-2 XL: 1600 is 6.25 tiles of 256.
        self.add("gemm", &[4096, 4800, 1600], "bias", None);
        self.add("gemm", &[4096, 1600, 1600], "residual", None);
        self.add("gemm", &[4096, 6400, 1600], "gelu_tanh", None);
        self.add("gemm", &[4096, 1600, 6400], "residual", None);
        self.add("gemm", &[4096, 50304, 1600], "", None);
        for t in [4096, 1, 8, 64, 512] {
            self.add("gemm", &[t, 6144, 4096], "", None); // Mixtral: q, and k and v of eight heads
            self.add("gemm", &[t, 4096, 4096], "residual", None);
            self.add("gemm", &[t, 32000, 4096], "", None);
        }
    }

    /// The products of a block of width `c`: qkv, projection with the residual, both halves of the MLP.
    fn block(&mut self, t: usize, c: usize, small: bool) {
        let of = |large, warm| Some(if small { warm } else { large });
        let row = of(&rows::MODEL_GEMM, &rows::SMALL_GEMM);
        self.add("gemm", &[t, 3 * c, c], "bias", row);
        self.add("gemm", &[t, c, c], "residual", row);
        self.add("gemm", &[t, c, 4 * c], "residual", row);
        self.add("gemm", &[t, 4 * c, c], "gelu_tanh", of(&rows::GELU_TANH, &rows::SMALL_GELU_TANH));
        self.add("gemm", &[t, 4 * c, c], "gelu_erf", of(&rows::GELU_ERF, &rows::SMALL_GELU_ERF));
    }

    fn mlp(&mut self) {
        for t in [16384, 1024, 512, 64, 1] {
            self.add("mlp", &[t, 768, 3072], "gelu_tanh", None);
        }
        self.add("mlp", &[12288, 384, 1536], "gelu_erf", None);
        self.add("mlp", &[4096, 1600, 6400], "gelu_tanh", None);
    }

    fn attention(&mut self) {
        // Batch, tokens, heads, heads of keys, head_dim.
        let mut causal = |b: usize, s: usize, heads: usize, kv_heads: usize, d: usize| {
            let row = match d {
                64 if s >= 1000 => Some(&rows::ATTENTION_64),
                128 if s >= 2000 => Some(&rows::ATTENTION_128),
                _ => None,
            };
            self.add("attention", &[b, s, s, heads, kv_heads, d], "", row);
        };
        for (b, s) in [(16, 1024), (64, 1024), (4, 4096), (1, 16384), (1, 1024), (1, 512)] {
            causal(b, s, 12, 12, 64); // GPT-2
        }
        causal(12, 1024, 6, 6, 64); // nanoMoE
        causal(4, 1024, 25, 25, 64); // GPT-2 XL
        for s in [4096, 2048, 8192, 16384] {
            causal(1, s, 64, 8, 128);
        }
        for (b, s) in [(32, 512), (16, 1024), (8, 2048), (4, 4096), (2, 8192), (1, 16384)] {
            causal(b, s, 32, 32, 64);
            causal(b, s, 16, 16, 128);
            causal(b, s, 32, 8, 128); // Mixtral
        }
        for s in [1000, 4097] {
            causal(4, s, 16, 16, 128);
            causal(4, s, 32, 32, 64);
        }
        let mut decode = |b: usize, kv: usize, heads: usize, kv_heads: usize, d: usize| {
            let row = (4 * b * kv * kv_heads * d >= 128_000_000).then_some(&rows::DECODE_ATTENTION);
            self.add("attention", &[b, 1, kv, heads, kv_heads, d], "", row);
        };
        for (b, kv) in [(16, 8192), (64, 1024), (64, 8192), (8, 32768), (1, 1024), (1, 8192), (1, 32768)] {
            decode(b, kv, 32, 8, 128); // Mixtral
        }
        for b in [1, 8, 64, 128] {
            for kv in [128, 512, 1023] {
                decode(b, kv, 12, 12, 64); // GPT-2
            }
        }
    }

    fn norms(&mut self) {
        let sizes = [4096, 768, 384, 1600, 7168];
        let grid = [65536, 16384, 1024].into_iter().flat_map(|t| sizes.map(|c| (t, c)));
        for (t, c) in grid.chain([(4096, 16384)]) {
            let row = match (t, c) {
                _ if 4 * t * c >= 128_000_000 => Some(&rows::NORM),
                (..=16384, 384 | 768) => Some(&rows::NORM_IN_L2),
                _ => None,
            };
            self.add("layer_norm", &[t, c], "", row);
            self.add("layer_norm", &[t, c], "residual", row);
        }
        for (b, s, c, v) in
            [(16, 1024, 768, 50257), (12, 1024, 384, 50304), (4, 1024, 1600, 50257), (1, 1, 768, 50257)]
        {
            self.add("embedding", &[b, s, c, v], "", None);
        }
    }

    fn routing(&mut self) {
        for (h, e) in [(384, 8), (4096, 8), (2048, 128), (7168, 256)] {
            for t in [16384, 1024, 64, 1] {
                self.add("router_logits", &[t, h, e], "", None);
            }
        }
        for t in [16384, 65536, 1024, 64, 1] {
            for e in [8, 64, 128, 256] {
                for k in [2, 1, 4, 8] {
                    // The peers take long to compile: those that models use are compared.
                    let is_usual = matches!((e, k), (8, 1 | 2) | (64, 4) | (128 | 256, 8));
                    let row = match (t, e) {
                        (65536, 256) => &rows::LARGE_GATING,
                        (..=4096, _) => &rows::SMALL_GATING,
                        _ => &rows::GATING,
                    };
                    self.add("topk_gating", &[t, e, k], "", is_usual.then_some(row));
                }
            }
        }
        for (t, e, k) in [(12288, 8, 2), (1024, 8, 2), (65536, 8, 2), (4096, 128, 8), (16384, 256, 8)] {
            for variant in ["", "zipf", "one", "empty", "drop1.25", "drop2"] {
                self.add("moe_dispatch", &[t, e, k], variant, Some(&rows::DISPATCH));
            }
        }
        for (t, h, k) in [(12288, 384, 2), (4096, 4096, 2), (32768, 2048, 8), (16384, 7168, 8)] {
            self.add("moe_combine", &[t, h, k], "", None);
        }
    }

    fn experts(&mut self) {
        let nano = [384, 1536, 8, 2];
        let mixtral = [4096, 14336, 8, 2];
        let deepseek = [7168, 2048, 256, 8];
        let qwen = [2048, 768, 128, 8];
        for (tokens, [h, i, e, k]) in [
            (&[4096, 16384, 2048, 512, 128, 64, 32, 8, 4, 1][..], mixtral),
            (&[12288, 65536, 1024, 128, 16, 1], nano),
            (&[32768, 4096, 64], qwen),
            (&[4096, 16384, 512, 64, 8, 1], deepseek),
            // SonicMoE's.
            (&[24576], [1536, 256, 128, 8]),
            (&[24576], [1536, 1024, 32, 2]),
            (&[32768], [4096, 512, 128, 8]),
            (&[32768], [4096, 1024, 128, 8]),
        ] {
            for &t in tokens {
                let row = match () {
                    () if t <= 64 => Some(&rows::MOE_DECODE),
                    () if e >= 128 && i <= 2048 => Some(&rows::FINE_MOE_LAYER),
                    () if t * k / e < 512 => None,
                    () if h == 384 => Some(&rows::NANO_MOE_LAYER),
                    () => Some(&rows::MOE_LAYER),
                };
                self.add("moe_layer", &[t, h, i, e, k], "", row);
                self.add("moe_gemm", &[t, h, i, e, k], "", (t > 64).then_some(&rows::GROUPED_GEMM));
            }
        }
        for variant in ["zipf", "one", "empty", "drop1.25", "drop2"] {
            let [h, i, e, k] = nano;
            self.add("moe_layer", &[12288, h, i, e, k], variant, Some(&rows::NANO_MOE_LAYER));
            self.add("moe_gemm", &[12288, h, i, e, k], variant, Some(&rows::GROUPED_GEMM));
        }
        for variant in ["zipf", "one"] {
            let [h, i, e, k] = mixtral;
            self.add("moe_layer", &[4096, h, i, e, k], variant, Some(&rows::MOE_LAYER));
        }
    }

    fn lm_head(&mut self) {
        let mut add = |dims: [usize; 3], wanted: bool| {
            self.add("lm_head", &dims, "argmax", wanted.then_some(&rows::ARGMAX));
            self.add("lm_head", &dims, "cross_entropy", wanted.then_some(&rows::CROSS_ENTROPY));
        };
        for t in [16384, 1024, 128, 64, 8, 1] {
            add([t, 50304, 768], true);
        }
        add([12288, 50304, 384], true); // nanoMoE
        add([4096, 50304, 1600], false); // GPT-2 XL
        add([4096, 32000, 4096], false); // Mixtral
    }

    fn sampling(&mut self) {
        for num_rows in [1, 8, 64, 128] {
            for variant in ["top_k", "top_p", "", "argmax"] {
                self.add("sampling", &[num_rows, 50257], variant, None);
            }
        }
        self.add("sampling", &[64, 128_256], "top_k", None); // Llama 3's vocabulary
    }

    fn forward(&mut self) {
        let gpt2 = |b, s, kv| [b, s, kv, 12, 768, 12, 50257];
        for (b, s) in [(16, 1024), (64, 1024), (1, 1024), (1, 512)] {
            self.add("forward", &gpt2(b, s, s), "", (b == 16).then_some(&rows::FORWARD));
        }
        for b in [1, 8, 64, 128] {
            for kv in [512, 128, 1023] {
                let row = (b == 1 && kv == 512).then_some(&rows::DECODE);
                self.add("forward", &gpt2(b, 1, kv), "", row);
            }
        }
        self.add("forward", &[4, 1024, 1024, 48, 1600, 25, 50257], "", None); // GPT-2 XL
        self.add("forward", &[1, 1, 512, 48, 1600, 25, 50257], "", None);
        for (b, s, kv) in [(12, 1024, 1024), (1, 1024, 1024), (1, 1, 512), (64, 1, 512)] {
            self.add("forward", &[b, s, kv, 6, 384, 6, 50304], "moe", None); // nanoMoE
        }
        self.add("forward", &[1, 1, 512, 32, 4096, 32, 32000], "mixtral", Some(&rows::MIXTRAL_DECODE));
    }
}
