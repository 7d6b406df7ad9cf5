//! Gates and goals: what is wanted of a case, in ratios to peers, shares of the ceilings, and time.

/// What is wanted of some cases. A ratio is the peer's time over ours, of one run.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// What it is about.
    pub what: &'static str,
    /// Peer, gate (must hold) and goal; 0 where there is none.
    pub peers: &'static [(&'static str, f64, f64)],
    /// Gate and goal in percent of the ceilings measured in the same run; 0 where there is none.
    pub percent: (f64, f64),
    /// Goal in microseconds; 0 where there is none.
    pub goal_us: f64,
    /// Compared by replays of a CUDA graph with the inputs in L2.
    pub warm: bool,
}

const fn row(what: &'static str, peers: &'static [(&'static str, f64, f64)]) -> Row {
    Row { what, peers, percent: (0.0, 0.0), goal_us: 0.0, warm: false }
}

pub const SQUARE_GEMM: Row =
    row("GEMM 4096^3, 8192^3", &[("cublas", 0.92, 1.0), ("max-autotune", 0.92, 1.0)]);
/// The best of the peers counts, so each must be reached.
pub const MODEL_GEMM: Row = row(
    "GPT-2 and nanoMoE GEMMs, T >= 16k",
    &[("cublas", 0.95, 1.05), ("cublaslt", 0.95, 1.05), ("max-autotune", 0.95, 1.05)],
);
pub const SMALL_GEMM: Row = Row {
    warm: true,
    ..row(
        "GPT-2 and nanoMoE GEMMs, T <= 1024",
        &[("cublas", 0.90, 1.0), ("cublaslt", 0.90, 1.0), ("max-autotune", 0.90, 1.0)],
    )
};
pub const GELU_TANH: Row = row("bias + GELU (tanh)", &[("addmm_activation", 0.95, 1.05)]);
pub const GELU_ERF: Row = row("bias + GELU (erf)", &[("compile", 1.0, 1.15), ("eager", 1.2, 1.3)]);
pub const SMALL_GELU_TANH: Row = Row { what: "bias + GELU (tanh), T <= 1024", warm: true, ..GELU_TANH };
pub const SMALL_GELU_ERF: Row = Row { what: "bias + GELU (erf), T <= 1024", warm: true, ..GELU_ERF };
pub const ATTENTION_128: Row = row("causal attention, D = 128, S >= 2k", &[("cudnn", 0.85, 0.97)]);
pub const ATTENTION_64: Row =
    row("causal attention, D = 64, S >= 1k", &[("cudnn", 0.90, 1.05), ("fa2", 1.3, 1.5)]);
pub const DECODE_ATTENTION: Row = Row {
    percent: (70.0, 85.0),
    ..row("decode attention, KV >= 128 MB", &[("cudnn", 0.0, 0.0), ("fa2", 0.0, 0.0)])
};
pub const NORM: Row =
    Row { percent: (85.0, 95.0), ..row("norms, >= 128 MB", &[("compile", 0.95, 1.05), ("eager", 0.0, 1.4)]) };
pub const NORM_IN_L2: Row =
    Row { warm: true, ..row("norms of 384 and 768, T <= 16k", &[("compile", 1.0, 1.2)]) };
pub const GATING: Row = row("top-k gating, T >= 16k", &[("compile", 1.5, 3.0)]);
/// 1.3 times the time that the bytes alone take.
pub const LARGE_GATING: Row = Row { what: "top-k gating, T = 64k, E = 256", percent: (0.0, 77.0), ..GATING };
pub const SMALL_GATING: Row = Row { what: "top-k gating, T <= 4k", goal_us: 3.0, warm: true, ..GATING };
pub const DISPATCH: Row =
    Row { goal_us: 6.0, warm: true, ..row("dispatch, T k <= 131k", &[("argsort", 3.0, 0.0)]) };
/// A product of as many operations with one weight, and the same grouped.
pub const GROUPED_GEMM: Row = row("grouped GEMM", &[("grouped_mm", 1.0, 1.15), ("mm", 0.0, 0.88)]);
pub const MOE_LAYER: Row = Row {
    percent: (0.0, 65.0),
    ..row("MoE layer, >= 512 rows an expert", &[("grouped_mm", 1.15, 1.4), ("transformers", 1.15, 1.4)])
};
pub const NANO_MOE_LAYER: Row =
    Row { what: "nanoMoE's layer, >= 512 rows an expert", percent: (0.0, 50.0), ..MOE_LAYER };
pub const FINE_MOE_LAYER: Row =
    row("MoE layer, E >= 128, I <= 2048", &[("grouped_mm", 1.3, 1.8), ("transformers", 1.3, 1.8)]);
pub const MOE_DECODE: Row = Row {
    percent: (65.0, 80.0),
    ..row("MoE decode, T <= 64", &[("grouped_mm", 1.3, 0.0), ("transformers", 1.3, 0.0)])
};
/// Logits that are not written should cost no more than the bare product.
pub const ARGMAX: Row = row("logits + argmax", &[("mm+argmax", 1.1, 0.0), ("mm", 0.0, 1.0)]);
pub const CROSS_ENTROPY: Row = row("logits + cross-entropy", &[("compile", 1.1, 1.35), ("mm", 0.0, 1.0)]);
pub const FORWARD: Row =
    Row { goal_us: 8800.0, ..row("GPT-2 124M forward, 16 x 1024", &[("max-autotune", 1.0, 1.25)]) };
pub const DECODE: Row =
    Row { goal_us: 110.0, ..row("GPT-2 124M decode, B = 1, 512 tokens", &[("reduce-overhead", 1.5, 3.0)]) };
pub const MIXTRAL_DECODE: Row =
    Row { percent: (70.0, 80.0), ..row("Mixtral decode, B = 1", &[("reduce-overhead", 0.0, 0.0)]) };

/// All of them, in the order of the tables.
pub const ROWS: &[&Row] = &[
    &SQUARE_GEMM,
    &MODEL_GEMM,
    &SMALL_GEMM,
    &GELU_TANH,
    &SMALL_GELU_TANH,
    &GELU_ERF,
    &SMALL_GELU_ERF,
    &ATTENTION_128,
    &ATTENTION_64,
    &DECODE_ATTENTION,
    &NORM,
    &NORM_IN_L2,
    &SMALL_GATING,
    &GATING,
    &LARGE_GATING,
    &DISPATCH,
    &GROUPED_GEMM,
    &MOE_LAYER,
    &NANO_MOE_LAYER,
    &FINE_MOE_LAYER,
    &MOE_DECODE,
    &ARGMAX,
    &CROSS_ENTROPY,
    &FORWARD,
    &DECODE,
    &MIXTRAL_DECODE,
];
