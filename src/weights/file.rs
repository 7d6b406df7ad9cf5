//! A safetensors file in memory: mapped or built in, its header read and checked.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// The bytes of a file, without a copy of them.
#[derive(Debug)]
pub(crate) enum FileBytes {
    Mapped(Mmap),
    BuiltIn(&'static [u8]),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::BuiltIn(bytes) => bytes,
        }
    }
}

/// A tensor of the file, before it is known what it is.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Where it stands in the file.
    pub bytes: Range<usize>,
}

/// A file whose header is sound: every tensor is inside, with as many bytes as its shape and type need.
#[derive(Debug)]
pub(crate) struct TensorFile {
    pub path: PathBuf,
    pub bytes: FileBytes,
}

impl TensorFile {
    /// Maps the file at `path`. It stays mapped; whoever truncates it meanwhile ends the program.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] for a folder.
    pub fn map(path: &Path) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(Error::file(path, "not a regular file, expected safetensors"));
        }
        // SAFETY: nothing is checked here: the map is read-only, and that nobody truncates the file meanwhile is
        // asked of the user in `Checkpoint`'s documentation, as every program that maps a file must.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(TensorFile { path: path.into(), bytes: FileBytes::Mapped(map) })
    }

    /// The names, types, shapes and places of all tensors. The safetensors crate checks that the places fit the shapes,
    /// follow each other without gap or overlap, and fill the file; what people meet is said in plainer words.
    ///
    /// # Errors
    /// [`Error::File`] with what is wrong in the header.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let fail = |message: String| Err(Error::file(&self.path, message));
        let Some((length, rest)) = self.bytes.split_first_chunk::<8>() else {
            return fail(format!("not safetensors: {} bytes, expected at least 8", self.bytes.len()));
        };
        let length = u64::from_le_bytes(*length);
        if length > rest.len() as u64 {
            return fail(format!("the header claims {length} bytes, but only {} follow", rest.len()));
        }
        let (header, metadata) = match SafeTensors::read_metadata(&self.bytes) {
            Ok(read) => read,
            Err(safetensors::SafeTensorError::MetadataIncompleteBuffer) => {
                return fail("truncated or overlong: the tensors do not end where the file ends".into());
            }
            Err(error) => return fail(format!("not a sound safetensors header: {error}")),
        };
        let data = 8 + header;
        let entries = metadata.tensors().into_iter().map(|(name, info)| Entry {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: data + info.data_offsets.0..data + info.data_offsets.1,
        });
        let mut entries: Vec<Entry> = entries.collect();
        entries.sort_by_key(|entry| (entry.bytes.start, entry.bytes.end));
        Ok(entries)
    }

    /// The bytes of a tensor of this file.
    pub fn data(&self, bytes: &Range<usize>) -> &[u8] {
        &self.bytes[bytes.clone()]
    }
}
