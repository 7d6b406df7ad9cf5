//! The parameters of a model: which there are, their shape in the program, and their name and shape in a file.

use crate::config::{Layout, ModelConfig};

/// One parameter. Shapes are those the program computes with: matrices are `[out, in]`, whatever the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Weight {
    /// `[vocab_size, hidden_size]`
    TokenEmbedding,
    /// `[block_size, hidden_size]`
    PositionEmbedding,
    /// A parameter of one block.
    Layer(usize, LayerWeight),
    /// `[hidden_size]`
    FinalNormGamma,
    /// `[hidden_size]`
    FinalNormBeta,
    /// `[vocab_size, hidden_size]`; a tied head has none of its own.
    Head,
    /// `[vocab_size]`
    HeadBias,
}

/// A parameter of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerWeight {
    /// Of the norm before attention, `[hidden_size]`
    Norm1Gamma,
    /// `[hidden_size]`
    Norm1Beta,
    /// Queries, keys and values in this order, `[3 · hidden_size, hidden_size]`
    Qkv,
    /// `[3 · hidden_size]`
    QkvBias,
    /// Attention's output projection, `[hidden_size, hidden_size]`
    Out,
    /// `[hidden_size]`
    OutBias,
    /// Of the norm before the MLP, `[hidden_size]`
    Norm2Gamma,
    /// `[hidden_size]`
    Norm2Beta,
    /// First matrix of a dense MLP, `[intermediate_size, hidden_size]`
    Up,
    /// `[intermediate_size]`
    UpBias,
    /// Second matrix of a dense MLP, `[hidden_size, intermediate_size]`
    Down,
    /// `[hidden_size]`
    DownBias,
    /// `[num_experts, hidden_size]`
    Router,
    /// The learned scale of the router's noise, `[num_experts, hidden_size]`
    RouterNoise,
    /// First matrix of every expert, `[num_experts, intermediate_size, hidden_size]`
    ExpertsUp,
    /// `[num_experts, intermediate_size]`
    ExpertsUpBias,
    /// Second matrix of every expert, `[num_experts, hidden_size, intermediate_size]`
    ExpertsDown,
    /// `[num_experts, hidden_size]`
    ExpertsDownBias,
}

use LayerWeight as L;

impl LayerWeight {
    const ALL: [LayerWeight; 18] = [
        L::Norm1Gamma,
        L::Norm1Beta,
        L::Qkv,
        L::QkvBias,
        L::Out,
        L::OutBias,
        L::Norm2Gamma,
        L::Norm2Beta,
        L::Up,
        L::UpBias,
        L::Down,
        L::DownBias,
        L::Router,
        L::RouterNoise,
        L::ExpertsUp,
        L::ExpertsUpBias,
        L::ExpertsDown,
        L::ExpertsDownBias,
    ];
}

impl Weight {
    /// Every parameter a model of this configuration has, in the order of the forward pass.
    pub fn all(config: &ModelConfig) -> impl Iterator<Item = Weight> + '_ {
        let layers = (0..config.num_layers)
            .flat_map(|layer| LayerWeight::ALL.into_iter().map(move |weight| Weight::Layer(layer, weight)));
        [Weight::TokenEmbedding, Weight::PositionEmbedding]
            .into_iter()
            .chain(layers)
            .chain([Weight::FinalNormGamma, Weight::FinalNormBeta, Weight::Head, Weight::HeadBias])
            .filter(|weight| weight.is_in(config))
    }

    /// Whether a model of this configuration has this parameter.
    pub fn is_in(self, config: &ModelConfig) -> bool {
        match self {
            Weight::TokenEmbedding | Weight::PositionEmbedding | Weight::FinalNormGamma => true,
            Weight::FinalNormBeta => config.norm_bias,
            Weight::Head => !config.tied_head,
            Weight::HeadBias => config.head_bias,
            Weight::Layer(layer, weight) => {
                let moe = config.moe_layer(layer);
                layer < config.num_layers
                    && match weight {
                        L::Norm1Gamma | L::Norm2Gamma | L::Qkv | L::Out => true,
                        L::Norm1Beta | L::Norm2Beta => config.norm_bias,
                        L::QkvBias | L::OutBias => config.linear_bias,
                        L::Up | L::Down => moe.is_none(),
                        L::UpBias | L::DownBias => moe.is_none() && config.linear_bias,
                        L::Router | L::ExpertsUp | L::ExpertsDown => moe.is_some(),
                        L::RouterNoise => moe.is_some_and(|moe| moe.noisy),
                        L::ExpertsUpBias | L::ExpertsDownBias => moe.is_some() && config.linear_bias,
                    }
            }
        }
    }

    /// The shape in the program.
    pub fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let experts = config.moe.as_ref().map_or(0, |moe| moe.num_experts);
        match self {
            Weight::TokenEmbedding | Weight::Head => vec![config.vocab_size, hidden],
            Weight::PositionEmbedding => vec![config.block_size, hidden],
            Weight::FinalNormGamma | Weight::FinalNormBeta => vec![hidden],
            Weight::HeadBias => vec![config.vocab_size],
            Weight::Layer(_, weight) => match weight {
                L::Norm1Gamma | L::Norm1Beta | L::Norm2Gamma | L::Norm2Beta | L::OutBias | L::DownBias => {
                    vec![hidden]
                }
                L::Qkv => vec![3 * hidden, hidden],
                L::QkvBias => vec![3 * hidden],
                L::Out => vec![hidden, hidden],
                L::Up => vec![inner, hidden],
                L::UpBias => vec![inner],
                L::Down => vec![hidden, inner],
                L::Router | L::RouterNoise => vec![experts, hidden],
                L::ExpertsUp => vec![experts, inner, hidden],
                L::ExpertsUpBias => vec![experts, inner],
                L::ExpertsDown => vec![experts, hidden, inner],
                L::ExpertsDownBias => vec![experts, hidden],
            },
        }
    }

    /// Whether it is stored in the model's type (`--dtype`). Norm parameters, biases and routers stay f32.
    pub fn is_matrix(self) -> bool {
        match self {
            Weight::TokenEmbedding | Weight::PositionEmbedding | Weight::Head => true,
            Weight::Layer(_, weight) => {
                matches!(weight, L::Qkv | L::Out | L::Up | L::Down | L::ExpertsUp | L::ExpertsDown)
            }
            Weight::FinalNormGamma | Weight::FinalNormBeta | Weight::HeadBias => false,
        }
    }

    /// The name in a file of this layout, without the `_orig_mod.` and `transformer.` prefixes.
    pub fn stored_name(self, layout: Layout) -> String {
        let seed = layout == Layout::SeedGpt;
        match self {
            Weight::TokenEmbedding => "wte.weight".into(),
            Weight::PositionEmbedding => "wpe.weight".into(),
            Weight::FinalNormGamma => "ln_f.weight".into(),
            Weight::FinalNormBeta => "ln_f.bias".into(),
            Weight::Head if seed => "head.weight".into(),
            Weight::HeadBias if seed => "head.bias".into(),
            Weight::Head => "lm_head.weight".into(),
            Weight::HeadBias => "lm_head.bias".into(),
            Weight::Layer(layer, weight) => {
                let blocks = if seed { "blocks" } else { "h" };
                let mlp = if seed { "ffnn" } else { "mlp" };
                let (part, name) = match weight {
                    L::Norm1Gamma => ("ln_1", "weight"),
                    L::Norm1Beta => ("ln_1", "bias"),
                    L::Qkv => ("attn", "c_attn.weight"),
                    L::QkvBias => ("attn", "c_attn.bias"),
                    L::Out => ("attn", "c_proj.weight"),
                    L::OutBias => ("attn", "c_proj.bias"),
                    L::Norm2Gamma => ("ln_2", "weight"),
                    L::Norm2Beta => ("ln_2", "bias"),
                    L::Up => (mlp, "c_fc.weight"),
                    L::UpBias => (mlp, "c_fc.bias"),
                    L::Down => (mlp, "c_proj.weight"),
                    L::DownBias => (mlp, "c_proj.bias"),
                    L::Router => (mlp, "router.w_g.weight"),
                    L::RouterNoise => (mlp, "router.w_noise.weight"),
                    L::ExpertsUp => (mlp, "experts.c_fc"),
                    L::ExpertsUpBias => (mlp, "experts.fc_bias"),
                    L::ExpertsDown => (mlp, "experts.c_proj"),
                    L::ExpertsDownBias => (mlp, "experts.proj_bias"),
                };
                format!("{blocks}.{layer}.{part}.{name}")
            }
        }
    }

    /// The shape in a file of the configuration's layout.
    pub fn stored_shape(self, config: &ModelConfig) -> Vec<usize> {
        let mut shape = self.shape(config);
        if self.is_stored_transposed(config.layout) {
            let rank = shape.len();
            shape.swap(rank - 2, rank - 1);
        }
        if let Weight::Layer(_, L::ExpertsUpBias | L::ExpertsDownBias) = self {
            shape.insert(1, 1);
        }
        shape
    }

    /// Whether a file of this layout holds the matrix as `[.., in, out]`.
    pub(super) fn is_stored_transposed(self, layout: Layout) -> bool {
        match self {
            Weight::Layer(_, L::ExpertsUp | L::ExpertsDown) => true,
            Weight::Layer(_, L::Qkv | L::Out | L::Up | L::Down) => layout == Layout::HfGpt2,
            _ => false,
        }
    }
}
