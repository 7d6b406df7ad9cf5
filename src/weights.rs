//! Checkpoints: a mapped safetensors file, checked tensor by tensor, and read one parameter at a time.
//!
//! Opening looks at the header only: the family is recognised by its names and shapes, and every parameter the
//! configuration asks for must be there with its shape and a float type. Reading converts one parameter straight from
//! the map into the caller's memory, in the program's orientation and type, so a large model is never held twice.

mod convert;
mod file;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use crate::buffer::zeroed;
use crate::config::{Layout, ModelConfig};
use crate::embedded;
use crate::error::{Error, Result};
use crate::tensor::DType;
use convert::Order;
pub(crate) use file::TensorFile;
use file::{Entry, FileBytes};
pub use names::{LayerWeight, Weight};

/// An open checkpoint: a folder with `config.json` and `model.safetensors`, both checked.
///
/// The file stays mapped; whoever changes it meanwhile changes the weights, and whoever truncates it ends the program.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    file: TensorFile,
    weights: HashMap<Weight, Stored>,
}

/// Where a parameter stands in the file.
#[derive(Debug)]
struct Stored {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// The file's tensors by their names without prefixes.
type Entries = BTreeMap<String, Entry>;

impl Checkpoint {
    /// Opens the checkpoint in folder `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`], naming the file, and the tensor where there is one, with what was wanted
    /// and what was found: a broken header, a configuration that contradicts itself or the tensors, and any missing,
    /// extra, misshapen or non-float tensor.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("model.safetensors");
        // The folder itself is named when it is the folder that is not there.
        let file = TensorFile::map(&path).map_err(|error| match error {
            Error::Io { source, .. } if !dir.is_dir() => Error::io(dir, source),
            other => other,
        })?;
        let config_path = dir.join("config.json");
        Self::check(file, |layout| ModelConfig::load(&config_path, layout))
    }

    /// Opens the model that feature `embedded-model` put into the program.
    ///
    /// # Errors
    /// [`Error::NoEmbeddedModel`] where there is none: the feature is off, or `model/` was not there at build time.
    pub fn embedded() -> Result<Self> {
        let path = PathBuf::from("the model inside this program");
        let bytes = embedded::file("model.safetensors")?;
        let config = std::str::from_utf8(embedded::file("config.json")?)
            .map_err(|error| Error::file(&path, format!("config.json: {error}")))?;
        let file = TensorFile { path, bytes: FileBytes::BuiltIn(bytes) };
        Self::check(file, |layout| ModelConfig::from_json(config, layout))
    }

    /// `read_config` is given the layout once the tensors have shown it.
    fn check(file: TensorFile, read_config: impl Fn(Option<Layout>) -> Result<ModelConfig>) -> Result<Self> {
        let mut entries = short_names(&file)?;
        let layout = detect_layout(&entries, &file.path).map_err(|unknown| {
            // Of a family that is not supported, its name says more than its tensors.
            match read_config(None) {
                Err(named @ (Error::File { .. } | Error::Config(_))) => named,
                _ => unknown,
            }
        })?;
        let config = read_config(Some(layout))?;

        let prefix = prefix_of(&entries);
        let mut weights = HashMap::new();
        for weight in Weight::all(&config) {
            let entry = entries.remove(&weight.stored_name(layout));
            weights.insert(weight, check_entry(weight, entry, &config, &prefix, &file.path)?);
        }
        for (name, entry) in &entries {
            check_extra(name, entry, &config, &weights, &file)?;
        }
        Ok(Checkpoint { config, file, weights })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The safetensors file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Every parameter of the model, in the order of the forward pass.
    pub fn weights(&self) -> impl Iterator<Item = Weight> + '_ {
        Weight::all(&self.config)
    }

    /// The shape of a parameter as it is read: matrices are `[out, in]`.
    pub fn shape(&self, weight: Weight) -> Vec<usize> {
        weight.shape(&self.config)
    }

    /// The float type a parameter has in the file; `None` when the model has no such parameter.
    pub fn stored_dtype(&self, weight: Weight) -> Option<DType> {
        self.weights.get(&weight).map(|stored| stored.dtype)
    }

    /// Numbers in all parameters together.
    pub fn num_parameters(&self) -> u64 {
        self.weights.values().map(Stored::num_elements).sum::<usize>() as u64
    }

    /// Reads a parameter into `out`, in the program's orientation, converted to `dtype`: dense, little-endian. `out`
    /// needs no alignment; a large parameter is converted on all cores.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the model has no such parameter, `out` has another size, or `dtype` is no float type.
    pub fn read(&self, weight: Weight, dtype: DType, out: &mut [u8]) -> Result<()> {
        let fail = |message| Err(Error::Tensor { operation: "Checkpoint::read", message });
        let Some(stored) = self.weights.get(&weight) else {
            return fail(format!("the model has no {weight:?}"));
        };
        let wanted = stored.num_elements() * dtype.size();
        if out.len() != wanted || dtype == DType::I32 {
            return fail(format!(
                "{} in {dtype}: out has {} bytes, expected {wanted} for {:?}",
                stored.name,
                out.len(),
                self.shape(weight)
            ));
        }
        let order = match *self.shape(weight) {
            [.., outputs, inputs] if weight.is_stored_transposed(self.config.layout) => {
                Order::Transposed { inputs, outputs }
            }
            _ => Order::Same,
        };
        convert::convert(self.file.data(&stored.bytes), stored.dtype, order, out, dtype);
        Ok(())
    }

    /// Reads a parameter as f32, in the program's orientation.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the model has no such parameter, [`Error::OutOfMemory`].
    pub fn read_f32(&self, weight: Weight) -> Result<Vec<f32>> {
        let mut values: Vec<f32> = zeroed(self.shape(weight).iter().product())?;
        self.read(weight, DType::F32, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Looks for the first number that is NaN or infinite, or would be once matrices are converted to `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor, the index in the file's own orientation, and the value.
    pub fn check_finite(&self, dtype: DType) -> Result<()> {
        self.weights().try_for_each(|weight| self.check_finite_weight(weight, dtype))
    }

    /// As [`Checkpoint::check_finite`], for the routers alone: what is not finite elsewhere reaches the logits, but in a
    /// router it only sends tokens elsewhere.
    ///
    /// # Errors
    /// As [`Checkpoint::check_finite`].
    pub fn check_routers(&self) -> Result<()> {
        let is_router = |weight: &Weight| {
            matches!(weight, Weight::Layer(_, LayerWeight::Router | LayerWeight::RouterNoise))
        };
        let mut routers = self.weights().filter(is_router);
        routers.try_for_each(|weight| self.check_finite_weight(weight, DType::F32))
    }

    fn check_finite_weight(&self, weight: Weight, dtype: DType) -> Result<()> {
        let stored = &self.weights[&weight];
        let dtype = if weight.is_matrix() { dtype } else { DType::F32 };
        let bytes = self.file.data(&stored.bytes);
        let Some((at, value)) = convert::first_not_finite(bytes, stored.dtype, dtype) else { return Ok(()) };
        let (name, index) = (&stored.name, unravel(at, &stored.shape));
        let message = if value.is_finite() {
            format!("{name} holds {value} at {index:?}, which {dtype} cannot hold; use --dtype bf16 or f32")
        } else {
            format!("{name} holds {value} at {index:?}, expected finite numbers only")
        };
        Err(Error::file(&self.file.path, message))
    }
}

impl Stored {
    fn num_elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }
}

/// The file's tensors by their names without prefixes.
fn short_names(file: &TensorFile) -> Result<Entries> {
    let mut entries = Entries::new();
    for entry in file.entries()? {
        let name = entry.name.clone();
        let short = name.strip_prefix("_orig_mod.").unwrap_or(&name);
        let short = short.strip_prefix("transformer.").unwrap_or(short);
        if let Some(twin) = entries.insert(short.to_owned(), entry) {
            let message = format!("{} and {name} are the same parameter", twin.name);
            return Err(Error::file(&file.path, message));
        }
    }
    Ok(entries)
}

/// What stands before the names of a file: what its first block has there.
fn prefix_of(entries: &Entries) -> String {
    let block = entries.iter().find(|(short, _)| short.starts_with("h.") || short.starts_with("blocks."));
    block.map_or(String::new(), |(short, entry)| entry.name.trim_end_matches(short.as_str()).to_owned())
}

/// The family, from the names, and between nanoGPT and Hugging Face GPT-2 from the shape of the QKV matrix, which is
/// never square.
fn detect_layout(entries: &Entries, path: &Path) -> Result<Layout> {
    if entries.keys().any(|name| name.starts_with("blocks.")) {
        return Ok(Layout::SeedGpt);
    }
    let qkv =
        entries.iter().find(|(name, _)| name.starts_with("h.") && name.ends_with(".attn.c_attn.weight"));
    let Some((_, entry)) = qkv else {
        let found = entries
            .values()
            .next()
            .map_or("no tensor at all".into(), |entry| format!("{} first", entry.name));
        return Err(Error::file(
            path,
            format!("expected transformer.blocks.0.* or transformer.h.0.attn.c_attn.weight, found {found}"),
        ));
    };
    match entry.shape[..] {
        [out, inner] if inner.checked_mul(3) == Some(out) => Ok(Layout::NanoMoe),
        [inner, out] if inner.checked_mul(3) == Some(out) => Ok(Layout::HfGpt2),
        _ => Err(Error::file(
            path,
            format!("{} has shape {:?}, expected [3d, d] or [d, 3d]", entry.name, entry.shape),
        )),
    }
}

/// The parameter is in the file, with its shape and a float type.
fn check_entry(
    weight: Weight,
    entry: Option<Entry>,
    config: &ModelConfig,
    prefix: &str,
    path: &Path,
) -> Result<Stored> {
    let shape = weight.stored_shape(config);
    let Some(entry) = entry else {
        let name = weight.stored_name(config.layout);
        // The head stands beside the transformer.
        let is_head = matches!(weight, Weight::Head | Weight::HeadBias) && config.layout != Layout::SeedGpt;
        let prefix = if is_head { prefix.trim_end_matches("transformer.") } else { prefix };
        return Err(Error::file(
            path,
            format!("{prefix}{name} is missing, expected it with shape {shape:?}"),
        ));
    };
    let Entry { name, dtype, bytes, .. } = entry;
    if entry.shape != shape {
        let found = entry.shape;
        return Err(Error::file(path, format!("{name} has shape {found:?}, expected {shape:?}")));
    }
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        other => {
            return Err(Error::file(path, format!("{name} has dtype {other:?}, expected F32, BF16 or F16")));
        }
    };
    Ok(Stored { name, dtype, shape, bytes })
}

/// A tensor beyond the parameters is a buffer every program can make for itself, or a copy of the tied embedding.
fn check_extra(
    short: &str,
    entry: &Entry,
    config: &ModelConfig,
    weights: &HashMap<Weight, Stored>,
    file: &TensorFile,
) -> Result<()> {
    if is_buffer(short, config) {
        return Ok(());
    }
    if short == "lm_head.weight" && config.tied_head {
        let embedding = &weights[&Weight::TokenEmbedding];
        let equal = entry.shape == embedding.shape && file.data(&entry.bytes) == file.data(&embedding.bytes);
        if equal {
            return Ok(());
        }
        let message = format!("{} differs from {}, but the head is tied to it", entry.name, embedding.name);
        return Err(Error::file(&file.path, message));
    }
    Err(Error::file(
        &file.path,
        format!(
            "{} {:?} is not part of a model of this configuration ({})",
            entry.name,
            entry.shape,
            config.layout.name()
        ),
    ))
}

/// Causal masks that PyTorch saves with the parameters: `h.3.attn.bias` and the like.
fn is_buffer(short: &str, config: &ModelConfig) -> bool {
    let blocks = if config.layout == Layout::SeedGpt { "blocks." } else { "h." };
    let Some((layer, name)) = short.strip_prefix(blocks).and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    layer.parse().is_ok_and(|layer: usize| layer < config.num_layers)
        && matches!(name, "attn.mask" | "attn.bias" | "attn.masked_bias")
}

/// The index of element `at` of a dense tensor.
fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (index, &size) in index.iter_mut().zip(shape).rev() {
        *index = at % size;
        at /= size;
    }
    index
}
