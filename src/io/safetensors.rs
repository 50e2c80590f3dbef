//! Reading and writing tensors in the safetensors format.

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor, element_count};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A safetensors file in memory. Its header is checked when it is opened, its tensors are made when
/// asked for.
#[derive(Debug)]
pub struct TensorFile {
    path: String,
    bytes: Vec<u8>,
    /// Where the data begin.
    start: usize,
    metadata: Metadata,
}

impl TensorFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read or its header is not a valid one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|error| file_error(path, error))?;
        Self::from_bytes(path.display().to_string(), bytes)
    }

    /// Takes over the contents of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`] when the header is not a valid one.
    pub fn from_bytes(path: String, bytes: Vec<u8>) -> Result<Self> {
        let invalid = |reason: String| Error::File {
            path: path.clone(),
            reason,
        };
        let not_safetensors = |error| invalid(format!("not a safetensors file: {error}"));
        let (header, metadata) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(not_safetensors)?;
        for (name, info) in metadata.tensors() {
            // Beside an extent of 0 another may be anything; models multiply them.
            element_count("safetensors", &name, &info.shape)
                .map_err(|error| invalid(error.to_string()))?;
        }
        // The length of the header stands in 8 bytes before it.
        let start = header + 8;
        if start.checked_add(metadata.data_len()) != Some(bytes.len()) {
            return Err(invalid(format!(
                "{} bytes long, its header says otherwise",
                bytes.len()
            )));
        }
        Ok(Self {
            path,
            bytes,
            start,
            metadata,
        })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.metadata
            .tensors()
            .into_keys()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// An entry of the header's free-form metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let entries = self.metadata.metadata().as_ref()?;
        entries.get(key).map(String::as_str)
    }

    /// The tensor of this name, on the CPU.
    ///
    /// # Errors
    /// [`Error::File`] when there is none, or its type is not `f32`, `f16`, `bf16` or `i32`.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.metadata.info(name).ok_or_else(|| {
            self.error(format!(
                "has no tensor `{name}`; it has {}",
                self.names().join(", ")
            ))
        })?;
        match info.dtype {
            Dtype::F32 => self.elements::<f32>(info),
            Dtype::F16 => self.elements::<f16>(info),
            Dtype::BF16 => self.elements::<bf16>(info),
            Dtype::I32 => self.elements::<i32>(info),
            other => {
                let reason = format!("`{name}` must be of type f32, f16, bf16 or i32, got {other}");
                Err(self.error(reason))
            }
        }
    }

    fn elements<T: Element>(&self, info: &TensorInfo) -> Result<Tensor> {
        let (from, to) = info.data_offsets;
        let bytes = self
            .bytes
            .get(self.start..)
            .and_then(|data| data.get(from..to))
            .ok_or_else(|| self.error("a tensor lies outside of it".into()))?;
        // The file's data need not be aligned for `T`.
        let elements = bytemuck::pod_collect_to_vec::<u8, T>(bytes);
        Tensor::from_vec(elements, &info.shape, &Device::Cpu)
    }

    /// An error about this file.
    pub(crate) fn error(&self, reason: String) -> Error {
        Error::File {
            path: self.path.clone(),
            reason,
        }
    }
}

/// Writes tensors, from whichever device. The file appears whole or not at all.
///
/// # Errors
/// [`Error::File`] when it cannot be written; [`Error::Driver`] when a tensor cannot be copied to
/// the host.
pub fn write_tensors(path: impl AsRef<Path>, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let path = path.as_ref();
    let on_host = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)))
        .collect::<Result<Vec<_>>>()?;
    let views = on_host
        .iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.dtype() {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::I32 => Dtype::I32,
            };
            let view = TensorView::new(dtype, tensor.shape().to_vec(), tensor.host_bytes()?);
            Ok((name, view.map_err(|error| file_error(path, error))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| file_error(path, error))?;
    write_whole(path, &bytes)
}

/// Writes a file that appears whole or not at all: beside `path`, and then renamed.
///
/// # Errors
/// [`Error::File`] when it cannot be written; nothing is left of it then.
pub fn write_whole(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    // Threads that write one path each have a file of their own.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = path.as_ref();
    let name = path
        .file_name()
        .ok_or_else(|| file_error(path, "not the path of a file"))?;
    let temporary = path.with_file_name(format!(
        ".{}.{}.{}",
        name.to_string_lossy(),
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        // The rest of a failed write; that it may not be there either is no further failure.
        let _ = fs::remove_file(&temporary);
        file_error(path, error)
    })
}

fn file_error(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensors() -> BTreeMap<String, Tensor> {
        let half = Tensor::from_vec(vec![f16::ONE; 3], &[3], &Device::Cpu).unwrap();
        let label = Tensor::from_vec(vec![-1i32, 7], &[2, 1], &Device::Cpu).unwrap();
        let empty = Tensor::zeros(&[0, 4], DType::F32, &Device::Cpu).unwrap();
        BTreeMap::from([
            ("half".into(), half),
            ("label".into(), label),
            ("empty".into(), empty),
        ])
    }

    /// A file's bytes; `test` keeps the files of tests that run at once apart.
    fn written(test: &str) -> Vec<u8> {
        let name = format!("ocelli-{test}-{}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(name);
        write_tensors(&path, &tensors()).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let file = TensorFile::from_bytes("x".into(), written("what_is_written_is_read")).unwrap();
        assert_eq!(file.names(), ["empty", "half", "label"]);
        assert_eq!(
            file.tensor("label").unwrap().to_vec::<i32>().unwrap(),
            [-1, 7]
        );
        assert_eq!(file.tensor("label").unwrap().shape(), [2, 1]);
        assert_eq!(file.tensor("half").unwrap().dtype(), DType::F16);
        assert_eq!(file.tensor("empty").unwrap().shape(), [0, 4]);
        let error = file.tensor("boxes").unwrap_err().to_string();
        assert_eq!(error, "x: has no tensor `boxes`; it has empty, half, label");
    }

    #[test]
    fn extents_that_no_tensor_has_are_refused_beside_a_zero() {
        let header =
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904,0],"data_offsets":[0,0]}}"#;
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length[..], header.as_bytes()].concat();
        let error = TensorFile::from_bytes("x".into(), bytes).unwrap_err();
        let rule = "at most 2^48 elements, got [4611686018427387904, 0]";
        assert_eq!(
            error.to_string(),
            format!("x: safetensors: a must be {rule}")
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing() {
        let directory = std::env::temp_dir().join(format!("ocelli-io-dir-{}", std::process::id()));
        let path = directory.join("x.safetensors");
        assert!(write_tensors(&path, &tensors()).is_err());
        // A directory in the way of the rename.
        fs::create_dir_all(&path).unwrap();
        assert!(write_tensors(&path, &tensors()).is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    proptest! {
        #[test]
        fn damaged_files_are_errors(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = written("damaged_files_are_errors");
            let index = at.index(bytes.len());
            bytes[index] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            // Some damage leaves a valid file; none may panic.
            if let Ok(file) = TensorFile::from_bytes("x".into(), bytes) {
                for name in file.names() {
                    let _ = file.tensor(&name);
                }
            }
        }

        #[test]
        fn any_bytes_are_an_error_or_a_file(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = TensorFile::from_bytes("x".into(), bytes);
        }
    }
}
