//! A file of golden tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::weights::TensorFile;

/// The tensors of a `golden.safetensors`, by name.
#[derive(Clone, Debug)]
pub struct Golden {
    path: PathBuf,
    tensors: BTreeMap<String, GoldenTensor>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub values: Values,
}

/// Elements of a golden tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Compared within a bound.
    Float(Vec<f32>),
    /// Compared exactly.
    Int(Vec<i64>),
}

impl Values {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Values::Float(values) => values.len(),
            Values::Int(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, index: usize) -> f64 {
        match self {
            Values::Float(values) => f64::from(values[index]),
            Values::Int(values) => values[index] as f64,
        }
    }
}

impl Golden {
    /// Reads a file of f32, int32 and int64 tensors.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::File`] when it is broken or holds another type.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, |_| true)
    }

    /// Reads `input_ids` and `targets` alone, whatever else the file holds.
    ///
    /// # Errors
    /// As [`Golden::open`].
    pub fn open_inputs(path: &Path) -> Result<Self> {
        Self::read(path, |name| matches!(name, "input_ids" | "targets"))
    }

    fn read(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let file = TensorFile::map(path)?;
        let mut tensors = BTreeMap::new();
        for entry in file.entries()?.into_iter().filter(|entry| wanted(&entry.name)) {
            let (name, data) = (entry.name, file.data(&entry.bytes));
            let words = || data.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            let values = match entry.dtype {
                Dtype::F32 => Values::Float(words().map(f32::from_le_bytes).collect()),
                Dtype::I32 => Values::Int(words().map(|word| i64::from(i32::from_le_bytes(word))).collect()),
                Dtype::I64 => {
                    let (longs, _) = data.as_chunks::<8>();
                    Values::Int(longs.iter().map(|&long| i64::from_le_bytes(long)).collect())
                }
                other => {
                    return Err(Error::file(
                        path,
                        format!("{name} has dtype {other:?}, expected F32, I32 or I64"),
                    ));
                }
            };
            tensors.insert(name, GoldenTensor { shape: entry.shape, values });
        }
        Ok(Golden { path: path.into(), tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Option<&GoldenTensor> {
        self.tensors.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The batch size and the ids `[batch_size, seq_len]`.
    ///
    /// # Errors
    /// [`Error::File`] when they are missing, not integers of two dimensions, or negative.
    pub fn ids(&self) -> Result<(usize, Vec<u32>)> {
        let Some(tensor) = self.get("input_ids") else {
            return Err(Error::file(&self.path, "input_ids is missing"));
        };
        let (&[batch_size, _], Values::Int(ids)) = (tensor.shape.as_slice(), &tensor.values) else {
            let message = format!("input_ids has shape {:?}, expected integers [batch, seq]", tensor.shape);
            return Err(Error::file(&self.path, message));
        };
        let ids = ids.iter().map(|&id| {
            u32::try_from(id)
                .map_err(|_| Error::file(&self.path, format!("input_ids holds {id}, expected an id")))
        });
        Ok((batch_size, ids.collect::<Result<_>>()?))
    }

    /// The targets `[batch_size, seq_len]`, if there are any.
    ///
    /// # Errors
    /// [`Error::File`] when they are not integers in the shape of `input_ids`.
    pub fn targets(&self) -> Result<Option<Vec<i64>>> {
        let shape = self.get("input_ids").map(|ids| ids.shape.as_slice());
        match self.get("targets") {
            None => Ok(None),
            Some(GoldenTensor { values: Values::Int(ids), shape: own }) if Some(own.as_slice()) == shape => {
                Ok(Some(ids.clone()))
            }
            Some(tensor) => {
                let (own, wanted) = (&tensor.shape, shape.unwrap_or_default());
                let message = format!("targets has shape {own:?}, expected integers {wanted:?} as input_ids");
                Err(Error::file(&self.path, message))
            }
        }
    }

    /// The expert ids of every MoE layer, if the file has them all.
    ///
    /// # Errors
    /// [`Error::File`] when they are not integers that fit.
    pub fn expert_ids(&self, config: &ModelConfig) -> Result<Option<Vec<Vec<i32>>>> {
        let mut layers = Vec::new();
        for layer in config.moe_layers() {
            let name = format!("layers.{layer}.expert_ids");
            let Some(tensor) = self.get(&name) else { return Ok(None) };
            let Values::Int(ids) = &tensor.values else {
                return Err(Error::file(&self.path, format!("{name} is not of integers")));
            };
            let narrow = |&id: &i64| {
                i32::try_from(id)
                    .map_err(|_| Error::file(&self.path, format!("{name} holds {id}, expected an id")))
            };
            layers.push(ids.iter().map(narrow).collect::<Result<_>>()?);
        }
        Ok(if layers.is_empty() { None } else { Some(layers) })
    }
}
