//! Checkpoints made and spoilt for tests, with a safetensors reader and writer of their own.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A folder that is removed when dropped.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A new, empty folder.
    pub fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nanomoe-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for temporary files");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The folder of the golden data called `name`.
pub fn golden(name: &str) -> PathBuf {
    super::golden_dir(name)
}

/// The folder of the default model.
pub fn default_model() -> PathBuf {
    super::repository("model")
}

/// One tensor as the file has it.
#[derive(Clone, Debug)]
pub struct RawTensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// The values of an F32 tensor.
    pub fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, "F32");
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// A safetensors file and the configuration beside it, to be changed and written.
#[derive(Clone, Debug)]
pub struct Draft {
    pub config: Map<String, Value>,
    pub tensors: Vec<RawTensor>,
}

impl Draft {
    /// A copy of the checkpoint in `dir`.
    pub fn read(dir: &Path) -> Self {
        let config = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        Draft { config, tensors: read_safetensors(&dir.join("model.safetensors")) }
    }

    /// The tensor called `name`.
    pub fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Drops the tensor called `name`.
    pub fn remove(&mut self, name: &str) {
        self.tensor(name);
        self.tensors.retain(|tensor| tensor.name != name);
    }

    /// Adds an F32 tensor of zeros.
    pub fn add_zeros(&mut self, name: &str, shape: &[usize]) {
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        self.tensors.push(RawTensor { name: name.into(), dtype: "F32".into(), shape: shape.to_vec(), bytes });
    }

    /// Writes it into a new folder.
    pub fn write(&self) -> Scratch {
        let scratch = Scratch::new();
        std::fs::write(scratch.0.join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
        std::fs::write(scratch.0.join("model.safetensors"), safetensors_bytes(&self.tensors)).unwrap();
        scratch
    }
}

/// All tensors of a safetensors file, in the order of the file.
pub fn read_safetensors(path: &Path) -> Vec<RawTensor> {
    let file = std::fs::read(path).unwrap();
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let data = &file[8 + header_len..];
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, info)| {
        let offsets = (number(&info["data_offsets"][0]), number(&info["data_offsets"][1]));
        let tensor = RawTensor {
            name: name.clone(),
            dtype: info["dtype"].as_str().unwrap().into(),
            shape: info["shape"].as_array().unwrap().iter().map(number).collect(),
            bytes: data[offsets.0..offsets.1].to_vec(),
        };
        (offsets.0, tensor)
    });
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by_key(|&(begin, _)| begin);
    tensors.into_iter().map(|(_, tensor)| tensor).collect()
}

/// A safetensors file of these tensors.
pub fn safetensors_bytes(tensors: &[RawTensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.bytes);
        let info =
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()] });
        header.insert(tensor.name.clone(), info);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A file that begins as safetensors does, with any header.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}
