//! What is measured: operations, their sizes, and one case of them.

use nanomoe::{Error, Result};

use super::rows::Row;
use super::shapes;

/// One line of the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The operation, as `nanomoe bench OP` takes it.
    pub op: &'static str,
    /// Its sizes, in the order of [`OPS`].
    pub dims: Vec<usize>,
    /// What is fused, or how tokens are routed; empty for the plain operation.
    pub variant: &'static str,
    /// What is wanted of it.
    pub row: Option<&'static Row>,
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
        name: "mlp",
        sizes: &["num_tokens", "hidden_size", "intermediate_size"],
        variants: &["gelu_tanh", "gelu_erf"],
        smallest: &[33, 64, 128],
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
        name: "embedding",
        sizes: &["batch_size", "seq_len", "hidden_size", "vocab_size"],
        variants: &[""],
        smallest: &[2, 5, 72, 97],
    },
    Op {
        name: "router_logits",
        sizes: &["num_tokens", "hidden_size", "num_experts"],
        variants: &[""],
        smallest: &[33, 72, 8],
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
        variants: ROUTINGS,
        smallest: &[65, 8, 2],
    },
    Op {
        name: "moe_gemm",
        sizes: &["num_tokens", "hidden_size", "intermediate_size", "num_experts", "num_experts_per_token"],
        variants: ROUTINGS,
        smallest: &[40, 64, 72, 4, 2],
    },
    Op {
        name: "moe_combine",
        sizes: &["num_tokens", "hidden_size", "num_experts_per_token"],
        variants: &[""],
        smallest: &[9, 72, 2],
    },
    Op {
        name: "moe_layer",
        sizes: &["num_tokens", "hidden_size", "intermediate_size", "num_experts", "num_experts_per_token"],
        variants: ROUTINGS,
        smallest: &[24, 64, 128, 4, 2],
    },
    Op {
        name: "lm_head",
        sizes: &["num_tokens", "vocab_size", "hidden_size"],
        variants: &["argmax", "cross_entropy"],
        smallest: &[17, 320, 64],
    },
    Op {
        name: "sampling",
        sizes: &["num_rows", "vocab_size"],
        variants: &["", "argmax", "top_k", "top_p"],
        smallest: &[3, 1000],
    },
    Op {
        name: "forward",
        sizes: &["batch_size", "seq_len", "kv_len", "num_layers", "hidden_size", "num_heads", "vocab_size"],
        variants: &["", "moe", "mixtral"],
        smallest: &[2, 5, 5, 2, 64, 2, 97],
    },
];

/// How tokens are spread over experts: evenly, by Zipf's law, all on one expert first, none on the second half of the
/// experts; and Zipf's law with what exceeds nanoMoE's capacity, of a factor of 1.25 or 2, dropped.
const ROUTINGS: &[&str] = &["", "zipf", "one", "empty", "drop1.25", "drop2"];

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
        let known =
            shapes::all().into_iter().find(|c| c.op == op.name && c.dims == dims && c.variant == *variant);
        Ok(known.unwrap_or(Case { op: op.name, dims, variant, row: None }))
    }
}

/// Small cases of `op`, one a variant, whose answers can be checked without a GPU.
pub fn small(op: &Op) -> Vec<Case> {
    let case = |variant: &&'static str| Case { op: op.name, dims: op.smallest.to_vec(), variant, row: None };
    // There is no Mixtral here, small or large.
    let mut cases: Vec<Case> = op.variants.iter().filter(|v| **v != "mixtral").map(case).collect();
    if op.name == "forward" {
        let decode = |variant| Case { op: op.name, dims: vec![2, 1, 6, 2, 64, 2, 97], variant, row: None };
        cases.extend(["", "moe"].map(decode));
    }
    cases
}
