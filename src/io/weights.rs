//! The named tensors of a model, taken one by one.

use super::TensorFile;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Device, ShapeText, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The weights of a model: a file's tensors under the names that the model knows.
///
/// A model takes what it needs; what is missing, misshapen or left over is noted, and [`finish`](Self::finish) reports
/// all of it in one error. Until then a placeholder stands for a tensor that cannot be had, so that loading goes on.
#[derive(Debug)]
pub struct Weights {
    source: Source,
    device: Device,
    dtype: DType,
    taken: BTreeMap<String, Vec<usize>>,
    faults: Vec<String>,
}

#[derive(Debug)]
enum Source {
    File {
        file: TensorFile,
        /// The model's name of a tensor, and the file's.
        names: BTreeMap<String, String>,
    },
    /// No tensors at all: every request is met by a placeholder.
    Listing,
}

impl Weights {
    /// The tensors of a safetensors file, to be laid out on `device` as `dtype`.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn open(path: impl AsRef<Path>, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self::new(TensorFile::open(path)?, device, dtype))
    }

    /// The tensors of an opened file.
    pub fn new(file: TensorFile, device: &Device, dtype: DType) -> Self {
        let names = file.names().into_iter().map(|name| (name.clone(), name));
        let names = names.collect();
        Self {
            source: Source::File { file, names },
            device: device.clone(),
            dtype,
            taken: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// No file: a model that loads from it cannot be run, and its [`parameters`](Self::parameters) can be listed.
    pub fn listing() -> Self {
        Self {
            source: Source::Listing,
            device: Device::Cpu,
            dtype: DType::F32,
            taken: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// Where the model is to run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type in which the model is to compute.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Gives every tensor the name that `rename` makes of its present one; `None` drops the tensor.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) when two tensors come to the same name.
    pub fn rename(&mut self, mut rename: impl FnMut(&str) -> Option<String>) -> Result<()> {
        let Source::File { file, names } = &mut self.source else {
            return Ok(());
        };
        let mut renamed = BTreeMap::new();
        for (name, stored) in std::mem::take(names) {
            let Some(to) = rename(&name) else { continue };
            if let Some(other) = renamed.insert(to.clone(), stored) {
                let reason = format!("`{name}` and `{other}` both stand for `{to}`");
                return Err(file.error(reason));
            }
        }
        *names = renamed;
        Ok(())
    }

    /// The model's names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = match &self.source {
            Source::File { names, .. } => Some(names.keys()),
            Source::Listing => None,
        };
        names.into_iter().flatten().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match &self.source {
            Source::File { file, names } => file.shape(names.get(name)?),
            Source::Listing => None,
        }
    }

    /// An entry of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        match &self.source {
            Source::File { file, .. } => file.metadata(key),
            Source::Listing => None,
        }
    }

    /// The elements of a float tensor as f32. `None` stands for one that cannot be had; the reason is noted.
    pub fn values(&mut self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        self.taken.insert(name.to_string(), shape.to_vec());
        let Source::File { file, names } = &self.source else {
            return None;
        };
        let read = || {
            let stored = names.get(name).ok_or("is missing".to_string())?;
            let tensor = file.tensor(stored).map_err(|error| error.to_string())?;
            if tensor.shape() != shape {
                let (rule, value) = (ShapeText(shape), ShapeText(tensor.shape()));
                return Err(format!("must be {rule}, got {value}"));
            }
            let tensor = tensor.to_dtype(DType::F32);
            tensor
                .and_then(|tensor| tensor.to_vec())
                .map_err(|error| error.to_string())
        };
        let values = read();
        values
            .map_err(|fault| self.faults.push(format!("`{name}` {fault}")))
            .ok()
    }

    /// A float tensor on the model's device, of its type. For one that cannot be had it is a placeholder: all extents 1.
    ///
    /// # Errors
    /// From the device.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let values = self.values(name, shape);
        self.host_tensor(values, shape)?.to_device(&self.device)
    }

    /// Values of this shape as a tensor of the model's type on the CPU; the placeholder where there are none.
    ///
    /// # Errors
    /// When `shape` does not hold the values.
    pub fn host_tensor(&self, values: Option<Vec<f32>>, shape: &[usize]) -> Result<Tensor> {
        let tensor = match values {
            Some(values) => Tensor::from_vec(values, shape, &Device::Cpu)?,
            None => Tensor::zeros(&vec![1; shape.len()], DType::F32, &Device::Cpu)?,
        };
        tensor.to_dtype(self.dtype)
    }

    /// Notes a fault that the model found itself: of its configuration, say.
    pub fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// Names and shapes of all tensors that were taken.
    pub fn parameters(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.taken
    }

    /// Ends loading.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) that lists every tensor that is missing or misshapen, and every one that nobody took.
    pub fn finish(self) -> Result<()> {
        let Source::File { file, names } = self.source else {
            return Ok(());
        };
        let taken: BTreeSet<&String> = self.taken.keys().collect();
        let extra = names.keys().filter(|name| !taken.contains(name));
        let mut faults = self.faults;
        faults.extend(extra.map(|name| format!("`{name}` belongs to no part of the model")));
        if faults.is_empty() {
            return Ok(());
        }
        Err(file.error(format!("does not fit the model: {}", faults.join("; "))))
    }
}
