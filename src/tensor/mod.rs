//! Tensors: a shape over shared, contiguous, row-major storage on one device.

mod device;
mod shape;
mod storage;

pub use device::Device;
pub(crate) use shape::{ShapeText, element_count};
pub(crate) use storage::{CpuData, Storage};

use crate::cuda;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use half::{bf16, f16};
use std::sync::Arc;

/// A dense array in row-major order.
///
/// Cloning shares the storage, which is never written after it was made: ops return new tensors.
#[derive(Debug, Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

impl Tensor {
    /// A tensor of these values on `device`.
    ///
    /// # Errors
    /// When `shape` does not hold exactly `values.len()` elements, or the device is out of memory.
    pub fn from_vec<T: Element>(values: Vec<T>, shape: &[usize], device: &Device) -> Result<Self> {
        if element_count("tensor", "shape", shape)? != values.len() {
            let rule = format!("{} elements", values.len());
            return Err(Error::input("tensor", "shape", rule, ShapeText(shape)));
        }
        let host = Storage::Cpu(Arc::new(CpuData::from_vec(values)));
        Self {
            shape: shape.to_vec(),
            storage: host,
        }
        .to_device(device)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// When the shape is too large to address, or the device is out of memory.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let len = element_count("tensor", "shape", shape)?;
        match dtype {
            DType::F32 => Self::from_vec(vec![0f32; len], shape, device),
            DType::F16 => Self::from_vec(vec![f16::ZERO; len], shape, device),
            DType::BF16 => Self::from_vec(vec![bf16::ZERO; len], shape, device),
            DType::I32 => Self::from_vec(vec![0i32; len], shape, device),
        }
    }

    /// The result of an op on the CPU. `values` fill `shape`.
    pub(crate) fn from_cpu<T: Element>(values: Vec<T>, shape: &[usize]) -> Self {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        Self {
            shape: shape.to_vec(),
            storage: Storage::Cpu(Arc::new(CpuData::from_vec(values))),
        }
    }

    /// The result of an op on CUDA. `buffer` fills `shape`.
    pub(crate) fn from_cuda(buffer: cuda::Buffer, shape: &[usize]) -> Self {
        debug_assert_eq!(buffer.len(), shape.iter().product::<usize>());
        Self {
            shape: shape.to_vec(),
            storage: Storage::Cuda(Arc::new(buffer)),
        }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        match &self.storage {
            Storage::Cpu(data) => data.dtype(),
            Storage::Cuda(buffer) => buffer.dtype(),
        }
    }

    /// Where the elements lie.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Cuda(buffer) => Device::Cuda(buffer.context().clone()),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same elements under another shape; nothing is copied.
    ///
    /// # Errors
    /// When `shape` does not hold as many elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if element_count("reshape", "shape", shape)? != self.len() {
            let rule = format!("{} elements", self.len());
            return Err(Error::input("reshape", "shape", rule, ShapeText(shape)));
        }
        Ok(Self {
            shape: shape.to_vec(),
            storage: self.storage.clone(),
        })
    }

    /// The same elements on `device`; shared, not copied, where they already lie there.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let storage = match (&self.storage, device) {
            (Storage::Cpu(data), Device::Cuda(context)) => Storage::Cuda(Arc::new(
                cuda::Buffer::upload(context, data.dtype(), data.bytes())?,
            )),
            (Storage::Cuda(buffer), Device::Cuda(context)) if buffer.context() != context => {
                return self.to_device(&Device::Cpu)?.to_device(device);
            }
            (Storage::Cuda(buffer), Device::Cpu) => {
                let mut data = CpuData::zeros(buffer.dtype(), buffer.len());
                buffer.download(data.bytes_mut())?;
                Storage::Cpu(Arc::new(data))
            }
            (storage, _) => storage.clone(),
        };
        Ok(Self {
            shape: self.shape.clone(),
            storage,
        })
    }

    /// The elements, copied to the host. On CUDA this waits for the device.
    ///
    /// # Errors
    /// When `T` is not the tensor's element type, or a copy fails.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        Ok(self.to_device(&Device::Cpu)?.as_slice::<T>()?.to_vec())
    }

    /// The elements of a tensor on the CPU.
    ///
    /// # Errors
    /// When `T` is not the tensor's element type, or the tensor lies on another device.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        match &self.storage {
            Storage::Cpu(data) => data.as_slice().ok_or_else(|| {
                Error::input("tensor", "element type", self.dtype().name(), T::DTYPE)
            }),
            Storage::Cuda(_) => Err(Error::input("tensor", "device", "cpu", self.device())),
        }
    }

    /// The bytes of a tensor on the CPU.
    pub(crate) fn host_bytes(&self) -> Result<&[u8]> {
        match &self.storage {
            Storage::Cpu(data) => Ok(data.bytes()),
            Storage::Cuda(_) => Err(Error::input("tensor", "device", "cpu", self.device())),
        }
    }

    /// The device memory of a tensor on CUDA.
    pub(crate) fn as_cuda(&self) -> Result<&cuda::Buffer> {
        match &self.storage {
            Storage::Cuda(buffer) => Ok(buffer),
            Storage::Cpu(_) => Err(Error::input("tensor", "device", "cuda", Device::Cpu)),
        }
    }

    /// A copy of the rows `range` of the first axis, on the tensor's device.
    ///
    /// # Errors
    /// When there is no first axis, the range runs past its end, or the device is out of memory.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Result<Self> {
        let Some((&rows, inner)) = self.shape.split_first() else {
            let value = ShapeText(&self.shape);
            return Err(Error::input("slice", "tensor", "of rank 1 or more", value));
        };
        if range.start > range.end || range.end > rows {
            let rule = format!("within the {rows} rows");
            return Err(Error::input("slice", "range", rule, format!("{range:?}")));
        }
        let row: usize = inner.iter().product();
        let elements = range.start * row..range.end * row;
        let storage = match &self.storage {
            Storage::Cpu(data) => Storage::Cpu(Arc::new(data.copied(elements))),
            Storage::Cuda(buffer) => Storage::Cuda(Arc::new(buffer.copied(elements)?)),
        };
        let shape = [&[range.len()], inner].concat();
        Ok(Self { shape, storage })
    }

    /// Tensors of one type on one device, one after the other along the first axis; their other extents are the same.
    ///
    /// # Errors
    /// When there are none, they differ in more than their first extent, or the device is out of memory.
    pub fn concat(tensors: &[Self]) -> Result<Self> {
        const OP: &str = "concat";
        let Some(first) = tensors.first() else {
            return Err(Error::input(OP, "tensors", "at least one", 0));
        };
        let Some((_, inner)) = first.shape.split_first() else {
            return Err(Error::input(OP, "tensors", "of rank 1 or more", "[]"));
        };
        let mut rows = 0;
        for tensor in tensors {
            if tensor.shape.get(1..) != Some(inner) {
                let rule = format!("{} but for the first extent", ShapeText(&first.shape));
                return Err(Error::input(OP, "tensors", rule, ShapeText(&tensor.shape)));
            }
            if tensor.dtype() != first.dtype() || tensor.device() != first.device() {
                let rule = format!("of type {} on {}", first.dtype(), first.device());
                let value = format!("{} on {}", tensor.dtype(), tensor.device());
                return Err(Error::input(OP, "tensors", rule, value));
            }
            rows += tensor.shape[0];
        }
        let shape = [&[rows], inner].concat();
        element_count(OP, "tensors", &shape)?;
        let storage = match &first.storage {
            Storage::Cpu(_) => {
                let bytes = tensors.iter().map(Self::host_bytes);
                let bytes = bytes.collect::<Result<Vec<_>>>()?.concat();
                let mut data = CpuData::zeros(first.dtype(), bytes.len() / first.dtype().size());
                data.bytes_mut().copy_from_slice(&bytes);
                Storage::Cpu(Arc::new(data))
            }
            Storage::Cuda(buffer) => {
                let parts = tensors.iter().map(Self::as_cuda);
                let parts = parts.collect::<Result<Vec<_>>>()?;
                let joined = cuda::Buffer::concat(buffer.context(), first.dtype(), &parts)?;
                Storage::Cuda(Arc::new(joined))
            }
        };
        Ok(Self { shape, storage })
    }

    /// The elements converted to `dtype` on the tensor's device, rounded to nearest, ties to even; what is out of range
    /// becomes infinite, NaN stays NaN. A tensor of that type is shared.
    ///
    /// # Errors
    /// When one of the two types is `i32` and the other is not, or the device is out of memory.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let storage = match &self.storage {
            Storage::Cpu(data) => data.cast(dtype).map(|data| Storage::Cpu(Arc::new(data))),
            Storage::Cuda(buffer) => buffer
                .cast(dtype)?
                .map(|buffer| Storage::Cuda(Arc::new(buffer))),
        };
        let rule = "a float type for a float tensor";
        Ok(Self {
            shape: self.shape.clone(),
            storage: storage.ok_or_else(|| Error::input("to_dtype", "dtype", rule, dtype))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_hold_the_values() {
        let error = Tensor::from_vec(vec![1f32; 5], &[2, 3], &Device::Cpu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor: shape must be 5 elements, got [2, 3]"
        );
        assert!(Tensor::zeros(&[usize::MAX, 2], DType::F32, &Device::Cpu).is_err());
    }

    #[test]
    fn a_cast_rounds_to_even() {
        let x =
            Tensor::from_vec(vec![1.0f32, 1.0 + 2f32.powi(-8), 1e9], &[3], &Device::Cpu).unwrap();
        let bf = x.to_dtype(DType::BF16).unwrap().to_vec::<bf16>().unwrap();
        assert_eq!(bf[..2], [bf16::ONE, bf16::ONE]);
        let half = x.to_dtype(DType::F16).unwrap().to_vec::<f16>().unwrap();
        assert_eq!(half[2], f16::INFINITY);
        assert!(x.to_dtype(DType::I32).is_err());
    }

    #[test]
    fn slices_join_to_the_whole() {
        let x = Tensor::from_vec((0..12).collect::<Vec<i32>>(), &[4, 3], &Device::Cpu).unwrap();
        let parts = [0..1, 1..1, 1..4].map(|rows| x.slice(rows).unwrap());
        assert_eq!(parts[0].to_vec::<i32>().unwrap(), [0, 1, 2]);
        assert_eq!(parts[1].shape(), [0, 3]);
        let joined = Tensor::concat(&parts).unwrap();
        assert_eq!(joined.shape(), [4, 3]);
        assert_eq!(joined.to_vec::<i32>(), x.to_vec::<i32>());
        assert_eq!(
            x.slice(2..5).unwrap_err().to_string(),
            "slice: range must be within the 4 rows, got 2..5"
        );
        assert!(Tensor::concat(&[]).is_err());
        let other = Tensor::zeros(&[4, 2], DType::I32, &Device::Cpu).unwrap();
        assert!(Tensor::concat(&[x.clone(), other]).is_err());
        let float = Tensor::zeros(&[4, 3], DType::F32, &Device::Cpu).unwrap();
        assert!(Tensor::concat(&[x, float]).is_err());
    }

    #[test]
    fn the_element_type_is_checked() {
        let x = Tensor::zeros(&[2], DType::I32, &Device::Cpu).unwrap();
        assert_eq!(
            x.to_vec::<f32>().unwrap_err().to_string(),
            "tensor: element type must be i32, got f32"
        );
        assert_eq!(x.reshape(&[1, 2, 1]).unwrap().shape(), [1, 2, 1]);
    }
}
