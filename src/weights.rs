//! Checkpoints: a mapped safetensors file, checked tensor by tensor, and read one parameter at a time.
//!
//! Opening looks at the header only: the family is recognised by its names and shapes, and every parameter the
//! configuration asks for must be there with its shape and a float type. Reading converts one parameter straight from
//! the map into the caller's memory, in the program's orientation and type, so a large model is never held twice.

mod convert;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::config::{Layout, ModelConfig};
use crate::error::{Error, Result};
use crate::tensor::DType;
use convert::Order;
pub use names::{LayerWeight, Weight};

/// An open checkpoint: a folder with `config.json` and `model.safetensors`, both checked.
///
/// The file stays mapped; whoever changes it meanwhile changes the weights, and whoever truncates it ends the program.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    file: Mmap,
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

/// A tensor of the file, before it is known what it is.
struct Entry {
    name: String,
    dtype: Dtype,
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
        let file = File::open(&path).map_err(|source| Error::io(missing_part(dir, &path), source))?;
        // SAFETY: nothing is checked here: the map is read-only, and that nobody truncates the file meanwhile is
        // asked of the user in `Checkpoint`'s documentation, as every program that maps a file must.
        let file = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(&path, source))?;

        let mut entries = read_header(&file, &path)?;
        let config_path = dir.join("config.json");
        let layout = detect_layout(&entries, &path).map_err(|unknown| {
            // Of a family that is not supported, its name says more than its tensors.
            match ModelConfig::load(&config_path, None) {
                Err(named @ Error::File { .. }) => named,
                _ => unknown,
            }
        })?;
        let config = ModelConfig::load(&config_path, Some(layout))?;

        let mut weights = HashMap::new();
        for weight in Weight::all(&config) {
            let entry = entries.remove(&weight.stored_name(layout));
            weights.insert(weight, check_entry(weight, entry, &config, &path)?);
        }
        for (name, entry) in &entries {
            check_extra(name, entry, &config, &weights, &file, &path)?;
        }
        Ok(Checkpoint { path, config, file, weights })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The safetensors file.
    pub fn path(&self) -> &Path {
        &self.path
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
        convert::convert(&self.file[stored.bytes.clone()], stored.dtype, order, out, dtype);
        Ok(())
    }

    /// Reads a parameter as f32, in the program's orientation.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the model has no such parameter.
    pub fn read_f32(&self, weight: Weight) -> Result<Vec<f32>> {
        let mut values = vec![0.0f32; self.shape(weight).iter().product()];
        self.read(weight, DType::F32, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Looks for the first number that is NaN or infinite, or would be once matrices are converted to `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor, the index in the file's own orientation, and the value.
    pub fn check_finite(&self, dtype: DType) -> Result<()> {
        for weight in self.weights() {
            let stored = &self.weights[&weight];
            let dtype = if weight.is_matrix() { dtype } else { DType::F32 };
            let bytes = &self.file[stored.bytes.clone()];
            if let Some((at, value)) = convert::first_not_finite(bytes, stored.dtype, dtype) {
                let index = unravel(at, &stored.shape);
                let name = &stored.name;
                let message = if value.is_finite() {
                    format!(
                        "{name} holds {value} at {index:?}, which {dtype} cannot hold; use --dtype bf16 or f32"
                    )
                } else {
                    format!("{name} holds {value} at {index:?}, expected finite numbers only")
                };
                return Err(Error::file(&self.path, message));
            }
        }
        Ok(())
    }
}

impl Stored {
    fn num_elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }
}

/// What to name when the weights cannot be opened: the folder itself when it is the folder that is not there.
fn missing_part(dir: &Path, path: &Path) -> PathBuf {
    if dir.is_dir() { path.into() } else { dir.into() }
}

/// Reads the names, types, shapes and places of all tensors. The safetensors crate checks that the places fit the
/// shapes, follow each other without gap or overlap, and fill the file; what people meet is said in plainer words.
fn read_header(file: &[u8], path: &Path) -> Result<Entries> {
    let fail = |message: String| Err(Error::file(path, message));
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return fail(format!("not safetensors: {} bytes, expected at least 8", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > rest.len() as u64 {
        return fail(format!("the header claims {length} bytes, but only {} follow", rest.len()));
    }
    let (header, metadata) = match SafeTensors::read_metadata(file) {
        Ok(read) => read,
        Err(safetensors::SafeTensorError::MetadataIncompleteBuffer) => {
            return fail("truncated or overlong: the tensors do not end where the file ends".into());
        }
        Err(error) => return fail(format!("not a sound safetensors header: {error}")),
    };
    let data = 8 + header;

    let mut entries = Entries::new();
    for (name, info) in metadata.tensors() {
        let short = name.strip_prefix("_orig_mod.").unwrap_or(&name);
        let short = short.strip_prefix("transformer.").unwrap_or(short).to_string();
        let (begin, end) = info.data_offsets;
        let entry = Entry {
            name: name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: data + begin..data + end,
        };
        if let Some(twin) = entries.insert(short, entry) {
            return fail(format!("{} and {name} are the same parameter", twin.name));
        }
    }
    Ok(entries)
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
fn check_entry(weight: Weight, entry: Option<Entry>, config: &ModelConfig, path: &Path) -> Result<Stored> {
    let shape = weight.stored_shape(config);
    let Some(entry) = entry else {
        let name = weight.stored_name(config.layout);
        return Err(Error::file(path, format!("{name} is missing, expected it with shape {shape:?}")));
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
    file: &[u8],
    path: &Path,
) -> Result<()> {
    if is_buffer(short, config) {
        return Ok(());
    }
    if short == "lm_head.weight" && config.tied_head {
        let embedding = &weights[&Weight::TokenEmbedding];
        let equal =
            entry.shape == embedding.shape && file[entry.bytes.clone()] == file[embedding.bytes.clone()];
        if equal {
            return Ok(());
        }
        let message = format!("{} differs from {}, but the head is tied to it", entry.name, embedding.name);
        return Err(Error::file(path, message));
    }
    Err(Error::file(
        path,
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
