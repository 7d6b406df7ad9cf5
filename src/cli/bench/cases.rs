//! What is measured: shapes, and what ratios to the peers are wanted.

use nanomoe::{Error, Result};

/// One line of the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The operation, as `nanomoe bench OP` takes it.
    pub op: &'static str,
    /// Its sizes, in the order of [`OPS`].
    pub dims: Vec<usize>,
    /// What is fused, or how tokens are routed; empty for the plain operation.
    pub variant: &'static str,
    /// The row of [`ROWS`] it belongs to; 0 for none.
    pub row: usize,
}

/// An operation and the names of its sizes.
pub struct Op {
    pub name: &'static str,
    pub sizes: &'static [&'static str],
    pub variants: &'static [&'static str],
    /// Small sizes, on which answers are checked without a GPU.
    pub smallest: &'static [usize],
}

/// Every operation that is measured.
pub const OPS: &[Op] = &[
    Op {
        name: "gemm",
        sizes: &["M", "N", "K"],
        variants: &["", "bias", "residual", "gelu_tanh", "gelu_erf"],
        smallest: &[129, 72, 64],
    },
    Op {
        name: "attention",
        sizes: &["batch_size", "seq_len", "kv_len", "num_heads", "num_kv_heads", "head_dim"],
        variants: &[""],
        smallest: &[1, 40, 72, 4, 2, 64],
    },
    Op {
        name: "layer_norm",
        sizes: &["num_tokens", "hidden_size"],
        variants: &["", "residual"],
        smallest: &[5, 384],
    },
    Op {
        name: "topk_gating",
        sizes: &["num_tokens", "num_experts", "num_experts_per_token"],
        variants: &[""],
        smallest: &[65, 8, 2],
    },
    Op {
        name: "moe_dispatch",
        sizes: &["num_tokens", "num_experts", "num_experts_per_token"],
        variants: &["", "zipf", "one"],
        smallest: &[65, 8, 2],
    },
    Op {
        name: "moe_gemm",
        sizes: &["num_tokens", "hidden_size", "intermediate_size", "num_experts", "num_experts_per_token"],
        variants: &["", "zipf", "one"],
        smallest: &[40, 64, 72, 4, 2],
    },
    Op {
        name: "moe_layer",
        sizes: &["num_tokens", "hidden_size", "intermediate_size", "num_experts", "num_experts_per_token"],
        variants: &["", "zipf", "one"],
        smallest: &[24, 64, 128, 4, 2],
    },
    Op {
        name: "lm_head",
        sizes: &["num_tokens", "vocab_size", "hidden_size"],
        variants: &["argmax", "cross_entropy"],
        smallest: &[17, 320, 64],
    },
];

/// A row of the table of gates and goals. A ratio is the peer's time over ours.
pub struct Row {
    /// What it is about.
    pub what: &'static str,
    /// Peer, gate (must hold) and goal; 0 where there is none.
    pub peers: &'static [(&'static str, f64, f64)],
    /// Least and wanted percent of the ceiling measured in the same run; 0 where there is none.
    pub percent: (f64, f64),
    /// Compared by replays of a CUDA graph with the inputs in L2.
    pub warm: bool,
}

const fn row(what: &'static str, peers: &'static [(&'static str, f64, f64)]) -> Row {
    Row { what, peers, percent: (0.0, 0.0), warm: false }
}

/// Row `n` is `ROWS[n - 1]`.
pub const ROWS: &[Row] = &[
    row("GEMM 4096^3, 8192^3", &[("cublas", 0.92, 1.0), ("max-autotune", 0.92, 1.0)]),
    row(
        "model GEMMs, T >= 16k",
        &[("cublas", 0.95, 1.05), ("cublaslt", 0.95, 1.05), ("max-autotune", 0.95, 1.05)],
    ),
    Row {
        warm: true,
        ..row(
            "model GEMMs, T <= 1024",
            &[("cublas", 0.90, 1.0), ("cublaslt", 0.90, 1.0), ("max-autotune", 0.90, 1.0)],
        )
    },
    row("bias + GELU (tanh)", &[("addmm_activation", 0.95, 1.05)]),
    row("bias + GELU (erf)", &[("compile", 1.0, 1.15), ("eager", 1.2, 1.3)]),
    row("causal attention, D = 128", &[("cudnn", 0.85, 0.97)]),
    row("causal attention, D = 64", &[("cudnn", 0.90, 1.05), ("fa2", 1.3, 1.5)]),
    Row { percent: (70.0, 85.0), ..row("decode attention", &[("cudnn", 0.0, 0.0), ("fa2", 0.0, 0.0)]) },
    Row { percent: (85.0, 95.0), ..row("norms, >= 128 MB", &[("compile", 0.95, 1.05), ("eager", 0.0, 1.4)]) },
    Row { warm: true, ..row("norms in L2", &[("compile", 1.0, 1.2)]) },
    row("top-k gating", &[("compile", 1.5, 3.0)]),
    row("dispatch", &[("argsort", 3.0, 0.0)]),
    row("grouped GEMM", &[("grouped_mm", 1.0, 1.15)]),
    row("MoE layer, >= 512 rows an expert", &[("grouped_mm", 1.15, 1.4), ("transformers", 1.15, 1.4)]),
    row("MoE layer, fine-grained", &[("grouped_mm", 1.3, 1.8), ("transformers", 1.3, 1.8)]),
    Row {
        percent: (65.0, 80.0),
        ..row("MoE decode, T <= 64", &[("grouped_mm", 1.3, 0.0), ("transformers", 1.3, 0.0)])
    },
    row("logits + argmax, cross-entropy", &[("mm+argmax", 1.1, 0.0), ("compile", 1.1, 1.35)]),
];

impl Case {
    /// `16384x768x768`
    pub fn shape(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        dims.join("x")
    }

    /// What names the line in tables and files.
    pub fn name(&self) -> String {
        let variant = if self.variant.is_empty() { String::new() } else { format!(" {}", self.variant) };
        format!("{} {}{variant}", self.op, self.shape())
    }

    /// A case of `op` by its sizes as typed: `16384x768x768`, or with what is fused `16384x768x768:residual`.
    ///
    /// # Errors
    /// [`Error::Usage`] saying what was expected.
    pub fn parse(op: &Op, text: &str) -> Result<Case> {
        let (sizes, variant) = text.split_once(':').unwrap_or((text, op.variants[0]));
        let dims: Option<Vec<usize>> =
            sizes.split('x').map(|size| size.parse().ok().filter(|&n| n > 0)).collect();
        let wanted = op.sizes.join("x");
        let dims = dims
            .filter(|dims| dims.len() == op.sizes.len())
            .ok_or_else(|| Error::Usage(format!("--shape {text}: {} takes {wanted}", op.name)))?;
        let variant = op.variants.iter().find(|known| **known == variant).ok_or_else(|| {
            Error::Usage(format!("--shape {text}: {} has no `{variant}`, it has {:?}", op.name, op.variants))
        })?;
        let known = all().into_iter().find(|c| c.op == op.name && c.dims == dims && c.variant == *variant);
        Ok(known.unwrap_or(Case { op: op.name, dims, variant, row: 0 }))
    }
}

/// Small cases of `op`, one a variant, whose answers can be checked without a GPU.
pub fn small(op: &Op) -> Vec<Case> {
    let case = |variant: &&'static str| Case { op: op.name, dims: op.smallest.to_vec(), variant, row: 0 };
    op.variants.iter().map(case).collect()
}

/// Every line of the tables.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |op: &'static str, dims: &[usize], variant: &'static str, row: usize| {
        cases.push(Case { op, dims: dims.to_vec(), variant, row });
    };
    for n in [4096, 8192] {
        add("gemm", &[n, n, n], "", 1);
    }
    // GPT-2 and nanoMoE: qkv, projection with the residual, both halves of the MLP.
    for c in [768, 384] {
        for t in [1024, 16384, 65536] {
            let row = if t <= 1024 { 3 } else { 2 };
            add("gemm", &[t, 3 * c, c], "bias", row);
            add("gemm", &[t, c, c], "residual", row);
            add("gemm", &[t, c, 4 * c], "residual", row);
            if t > 1024 {
                add("gemm", &[t, 4 * c, c], "gelu_tanh", 4);
                add("gemm", &[t, 4 * c, c], "gelu_erf", 5);
            }
        }
    }
    for m in [1, 16, 64] {
        add("gemm", &[m, 2304, 768], "bias", 3);
        add("gemm", &[m, 768, 3072], "residual", 3);
    }
    add("gemm", &[4096, 4800, 1600], "bias", 0); // GPT-2 XL: 6.25 tiles of 256
    for (b, s) in [(32, 512), (16, 1024), (8, 2048), (4, 4096), (2, 8192), (1, 16384)] {
        add("attention", &[b, s, s, 32, 32, 64], "", if s >= 1024 { 7 } else { 0 });
        add("attention", &[b, s, s, 16, 16, 128], "", if s >= 2048 { 6 } else { 0 });
    }
    add("attention", &[16, 1024, 1024, 12, 12, 64], "", 7);
    for s in [2048, 4096, 8192, 16384] {
        add("attention", &[1, s, s, 64, 8, 128], "", 6);
    }
    for s in [1000, 4097] {
        add("attention", &[4, s, s, 16, 16, 128], "", 0);
    }
    for (b, kv) in [(16, 1024), (64, 1024)] {
        add("attention", &[b, 1, kv, 12, 12, 64], "", 0);
    }
    for (b, kv) in [(16, 8192), (64, 8192), (8, 32768)] {
        add("attention", &[b, 1, kv, 32, 8, 128], "", 8);
    }
    for (t, c) in [(1024, 384), (1024, 768), (16384, 384), (16384, 768)] {
        add("layer_norm", &[t, c], "", 10);
        add("layer_norm", &[t, c], "residual", 10);
    }
    for (t, c) in [(65536, 1600), (16384, 4096), (65536, 4096), (16384, 7168), (4096, 16384)] {
        add("layer_norm", &[t, c], "", 9);
        add("layer_norm", &[t, c], "residual", 9);
    }
    for t in [1, 64, 1024, 16384, 65536] {
        for (e, k) in [(8, 2), (64, 4), (128, 8), (256, 8)] {
            add("topk_gating", &[t, e, k], "", 11);
        }
    }
    for (t, e, k) in [(1024, 8, 2), (12288, 8, 2), (65536, 8, 2), (4096, 128, 8), (16384, 256, 8)] {
        for variant in ["", "zipf", "one"] {
            add("moe_dispatch", &[t, e, k], variant, 12);
        }
    }
    // nanoMoE, Mixtral, Qwen3-30B-like and two of SonicMoE's.
    for (t, h, i, e, k) in [
        (12288, 384, 1536, 8, 2),
        (65536, 384, 1536, 8, 2),
        (4096, 4096, 14336, 8, 2),
        (16384, 4096, 14336, 8, 2),
        (32768, 2048, 768, 128, 8),
        (24576, 1536, 256, 128, 8),
        (32768, 4096, 1024, 128, 8),
    ] {
        let fine = e >= 128;
        add("moe_gemm", &[t, h, i, e, k], "", 13);
        add("moe_layer", &[t, h, i, e, k], "", if fine { 15 } else { 14 });
        if t == 12288 {
            for variant in ["zipf", "one"] {
                add("moe_gemm", &[t, h, i, e, k], variant, 13);
                add("moe_layer", &[t, h, i, e, k], variant, 14);
            }
        }
    }
    for t in [1, 8, 32, 64] {
        add("moe_layer", &[t, 4096, 14336, 8, 2], "", 16);
    }
    for t in [1, 16, 64] {
        add("moe_layer", &[t, 384, 1536, 8, 2], "", 16);
    }
    for t in [1, 64, 1024, 16384] {
        add("lm_head", &[t, 50304, 768], "argmax", 17);
        add("lm_head", &[t, 50304, 768], "cross_entropy", 17);
    }
    cases
}
