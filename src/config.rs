//! What a model is made of, read from `config.json` and checked before anything is allocated.
//!
//! Three families share one [`ModelConfig`]: the article's GPT, nanoGPT and nanoMoE, and Hugging Face's GPT-2. Each
//! names its fields in its own way; any of the names is understood for any of them, two names that disagree are an
//! error, and fields that do not touch the forward pass are ignored.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::operations::{Activation, MAX_EXPERTS, MAX_HEAD_DIM};

/// The family whose tensor names and matrix orientation a checkpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The article's GPT: `transformer.blocks`, `ffnn`, a head of its own, matrices `[out, in]`.
    SeedGpt,
    /// nanoGPT and nanoMoE: `transformer.h`, tied head, matrices `[out, in]`, expert matrices `[E, in, out]`.
    NanoMoe,
    /// Hugging Face GPT-2: `transformer.h`, `Conv1D` matrices `[in, out]`.
    HfGpt2,
}

impl Layout {
    /// The name of the family for people.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::SeedGpt => "the article's GPT",
            Layout::NanoMoe => "nanoGPT/nanoMoE",
            Layout::HfGpt2 => "Hugging Face GPT-2",
        }
    }

    /// The family a `model_type` stands for.
    ///
    /// # Errors
    /// [`Error::Config`] for a family that is not supported.
    pub fn from_model_type(model_type: &str) -> Result<Self> {
        match model_type {
            "seed_gpt" => Ok(Layout::SeedGpt),
            "nanogpt" | "nanomoe" => Ok(Layout::NanoMoe),
            "gpt2" => Ok(Layout::HfGpt2),
            other => fail(format!(
                "model_type {other:?} is not supported; expected seed_gpt, nanogpt, nanomoe or gpt2"
            )),
        }
    }
}

/// A model's shape and options. Every value is checked: sizes are at least 1 and at most [`MAX_SIZE`], and
/// `num_heads` divides `hidden_size`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Whose tensor names and orientation the checkpoint uses.
    pub layout: Layout,
    /// Rows of the token embedding, and logits of a token.
    pub vocab_size: usize,
    /// Rows of the position embedding: the longest sequence.
    pub block_size: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Attention heads; `hidden_size / num_heads` is the head's width, at most 256.
    pub num_heads: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP and inside every expert.
    pub intermediate_size: usize,
    /// Whether linear layers and experts have a bias.
    pub linear_bias: bool,
    /// Whether layer norms have a bias.
    pub norm_bias: bool,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Whether the head's matrix is the token embedding.
    pub tied_head: bool,
    /// Added to the variance in layer norms.
    pub norm_eps: f32,
    /// Between the two matrices of an MLP or expert.
    pub activation: Activation,
    /// Experts; `None` for a dense model.
    pub moe: Option<MoeConfig>,
    /// The id that ends a text, where the configuration names one inside the vocabulary.
    pub end_of_text: Option<u32>,
}

/// What a Mixture-of-Experts model adds. `1 <= num_experts_per_token <= num_experts`.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    /// Experts of a layer (E), 2 to 1024.
    pub num_experts: usize,
    /// Experts a token is sent to (k).
    pub num_experts_per_token: usize,
    /// Layer i has experts when `i % stride == 0`.
    pub stride: usize,
    /// Slots of an expert in `capacity` mode, as a multiple of its even share.
    pub eval_capacity: f64,
    /// Fewest slots of an expert in `capacity` mode.
    pub min_capacity: usize,
    /// Whether seeded noise, scaled by a learned matrix, is added to the router's logits.
    pub noisy: bool,
    /// Whether the load-balancing loss is part of the loss.
    pub use_aux_loss: bool,
    /// Its weight.
    pub aux_loss_weight: f64,
    /// Whether the router's z loss is part of the loss.
    pub use_z_loss: bool,
    /// Its weight.
    pub z_loss_weight: f64,
}

impl MoeConfig {
    /// Slots of one expert when `num_tokens` tokens (batch times sequence) are routed together, as nanoMoE counts
    /// them: `floor(k · f · num_tokens / E)`, rounded up to even, at least `min_capacity`, at least 1 (where the
    /// original stops with an assertion) and at most [`MAX_SIZE`].
    pub fn capacity(&self, num_tokens: usize) -> usize {
        // The same operations in the same order as the original, so that rounding cannot differ.
        let share = self.num_experts_per_token as f64 * self.eval_capacity * num_tokens as f64;
        let slots = (share / self.num_experts as f64).floor() as usize;
        slots.saturating_add(slots % 2).max(self.min_capacity).clamp(1, MAX_SIZE)
    }

    /// Whether no assignment can be dropped in `capacity` mode, whatever the number of tokens.
    pub fn never_drops(&self) -> bool {
        self.eval_capacity * self.num_experts_per_token as f64 >= self.num_experts as f64
    }
}

/// The largest size a configuration may name: ids and counts are 32-bit signed integers.
pub const MAX_SIZE: usize = i32::MAX as usize;

impl ModelConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// The experts of layer `layer`, where it has any.
    pub fn moe_layer(&self, layer: usize) -> Option<&MoeConfig> {
        self.moe.as_ref().filter(|moe| layer < self.num_layers && layer.is_multiple_of(moe.stride))
    }

    /// The layers that have experts, in order.
    pub fn moe_layers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.num_layers).filter(|&layer| self.moe_layer(layer).is_some())
    }

    /// Reads `config.json`; `layout` is what the checkpoint's tensors show, if they were looked at.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::File`], naming the file, for everything [`ModelConfig::from_json`]
    /// refuses.
    pub fn load(path: &Path, layout: Option<Layout>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        Self::from_json(&text, layout).map_err(|error| match error {
            Error::Config(message) => Error::file(path, message),
            other => other,
        })
    }

    /// Parses and checks a configuration. Without `layout`, `model_type` must name the family.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field, what was wanted and what was found.
    pub fn from_json(text: &str, layout: Option<Layout>) -> Result<Self> {
        let value: Value = serde_json::from_str(text).or_else(|error| fail(format!("not JSON: {error}")))?;
        let Value::Object(map) = value else {
            return fail("expected a JSON object".into());
        };
        let fields = Fields(&map);
        let named = fields.text("model_type")?.map(Layout::from_model_type).transpose()?;
        let layout = match (layout, named) {
            (Some(found), Some(named)) if found != named => {
                return fail(format!(
                    "model_type says {}, but the tensors are those of {}",
                    named.name(),
                    found.name()
                ));
            }
            (Some(layout), _) | (None, Some(layout)) => layout,
            (None, None) => return fail("model_type is missing".into()),
        };
        fields.model(layout)
    }
}

/// A parsed object, and the ways to read typed fields from it. JSON null counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn model(&self, layout: Layout) -> Result<ModelConfig> {
        let hidden_size = self.size(&["n_embd", "hidden_size", "d"])?;
        let num_heads = self.size(&["n_head", "num_attention_heads", "H"])?;
        if hidden_size % num_heads != 0 {
            return fail(format!("hidden size {hidden_size} is not a multiple of the {num_heads} heads"));
        }
        let head_dim = hidden_size / num_heads;
        if head_dim > MAX_HEAD_DIM {
            return fail(format!(
                "hidden size {hidden_size} over {num_heads} heads is {head_dim} a head, expected at most {MAX_HEAD_DIM}"
            ));
        }
        self.refuse("scale_attn_weights", false)?;
        self.refuse("scale_attn_by_inverse_layer_idx", true)?;
        self.refuse("add_cross_attention", true)?;

        let bias = self.flag("bias")?.unwrap_or(layout != Layout::SeedGpt);
        let vocab_size = self.size(&["vocab_size", "V"])?;
        let inner = self.optional_size(&["n_inner", "intermediate_size"], 1)?;
        Ok(ModelConfig {
            layout,
            vocab_size,
            block_size: self.size(&["block_size", "n_positions", "max_position_embeddings", "C"])?,
            num_layers: self.size(&["n_layer", "num_hidden_layers", "layers"])?,
            num_heads,
            hidden_size,
            intermediate_size: match inner {
                Some(inner) => inner,
                None => check_size("4 times the hidden size", 4 * hidden_size as u64, 1)?,
            },
            linear_bias: bias || layout == Layout::HfGpt2,
            // The article builds its norms by torch's default, which has a bias whatever the linear layers do.
            norm_bias: bias || layout != Layout::NanoMoe,
            head_bias: bias && layout == Layout::SeedGpt,
            tied_head: self.tied_head(layout)?,
            norm_eps: self.positive("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
            activation: self.activation(layout)?,
            moe: self.moe(layout)?,
            end_of_text: self.end_of_text(vocab_size),
        })
    }

    fn moe(&self, layout: Layout) -> Result<Option<MoeConfig>> {
        let num_experts = self.optional_size(&["n_exp", "num_experts"], 1)?.unwrap_or(1);
        if num_experts == 1 {
            return Ok(None);
        }
        if num_experts > MAX_EXPERTS {
            return fail(format!("n_exp is {num_experts}, expected at most {MAX_EXPERTS}"));
        }
        if layout != Layout::NanoMoe {
            return fail(format!("n_exp is {num_experts}, but {} has no experts", layout.name()));
        }
        let k = self.optional_size(&["top_k", "num_experts_per_tok"], 1)?.unwrap_or(2);
        if k > num_experts {
            return fail(format!("top_k is {k}, but there are {num_experts} experts"));
        }
        Ok(Some(MoeConfig {
            num_experts,
            num_experts_per_token: k,
            stride: self.optional_size(&["stride"], 1)?.unwrap_or(2),
            eval_capacity: self.positive("eval_capacity")?.unwrap_or(2.0),
            min_capacity: self.optional_size(&["min_capacity"], 0)?.unwrap_or(4),
            noisy: self.flag("use_noisy_top_k")?.unwrap_or(false),
            use_aux_loss: self.flag("use_aux_loss")?.unwrap_or(false),
            aux_loss_weight: self.number("aux_loss_weight")?.unwrap_or(0.01),
            use_z_loss: self.flag("use_router_z_loss")?.unwrap_or(false),
            z_loss_weight: self.number("router_z_loss_weight")?.unwrap_or(0.001),
        }))
    }

    fn tied_head(&self, layout: Layout) -> Result<bool> {
        let said = self.flag("tie_word_embeddings")?;
        match (layout, said) {
            (Layout::SeedGpt, Some(true)) => {
                fail("tie_word_embeddings is true, but this family's head is its own".into())
            }
            (Layout::NanoMoe, Some(false)) => {
                fail("tie_word_embeddings is false, but this family's head is tied".into())
            }
            (Layout::SeedGpt, _) => Ok(false),
            (_, said) => Ok(said.unwrap_or(true)),
        }
    }

    fn activation(&self, layout: Layout) -> Result<Activation> {
        match self.text("activation_function")? {
            Some("gelu") => Ok(Activation::GeluErf),
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some(other) => fail(format!(
                "activation_function {other:?} is not supported; expected gelu, gelu_new or gelu_pytorch_tanh"
            )),
            // What transformers takes for a GPT-2 that does not say.
            None if layout == Layout::HfGpt2 => Ok(Activation::GeluTanh),
            None => Ok(Activation::GeluErf),
        }
    }

    /// An id outside the vocabulary cannot be generated, so it ends nothing: small test models keep GPT-2's 50256.
    fn end_of_text(&self, vocab_size: usize) -> Option<u32> {
        let value = self.0.get("eos_token_id")?;
        let id = value.as_u64().or_else(|| value.as_array()?.first()?.as_u64())?;
        u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A size under any of its names; names that disagree are an error.
    fn optional_size(&self, names: &[&str], least: usize) -> Result<Option<usize>> {
        let mut found: Option<(&str, usize)> = None;
        for &name in names {
            let Some(value) = self.get(name) else { continue };
            let Some(size) = value.as_u64() else {
                return fail(format!("{name} is {value}, expected a whole number of at least {least}"));
            };
            let size = check_size(name, size, least)?;
            match found {
                Some((other, earlier)) if earlier != size => {
                    return fail(format!("{other} is {earlier}, but {name} is {size}"));
                }
                _ => found = Some((name, size)),
            }
        }
        Ok(found.map(|(_, size)| size))
    }

    fn size(&self, names: &[&str]) -> Result<usize> {
        match self.optional_size(names, 1)? {
            Some(size) => Ok(size),
            None => fail(format!("{} is missing", names.join(" or "))),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    fn positive(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number above 0", |value| value.as_f64().filter(|&number| number > 0.0))
    }

    fn text(&self, name: &str) -> Result<Option<&str>> {
        self.typed(name, "a string", Value::as_str)
    }

    fn typed<'v, T>(
        &'v self,
        name: &str,
        wanted: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => fail(format!("{name} is {value}, expected {wanted}")),
        }
    }

    fn refuse(&self, name: &str, value: bool) -> Result<()> {
        match self.flag(name)? {
            Some(found) if found == value => fail(format!("{name} = {value} is not supported")),
            _ => Ok(()),
        }
    }
}

fn check_size(name: &str, size: u64, least: usize) -> Result<usize> {
    match usize::try_from(size) {
        Ok(size) if size < least => fail(format!("{name} is {size}, expected at least {least}")),
        Ok(size) if size <= MAX_SIZE => Ok(size),
        _ => fail(format!("{name} is {size}, expected at most {MAX_SIZE}")),
    }
}

fn fail<T>(message: String) -> Result<T> {
    Err(Error::Config(message))
}
