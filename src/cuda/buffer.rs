//! Device memory that one tensor owns.

use super::context::{Context, driver_error};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// Device memory for `len` elements of one type, freed on the context's stream when dropped.
pub struct Buffer {
    context: Context,
    bytes: CudaSlice<u8>,
    dtype: DType,
    len: usize,
}

impl Buffer {
    /// Memory whose contents are whatever lay there before.
    ///
    /// The caller queues a kernel that writes every element before anything reads one.
    pub(crate) fn uninitialised(context: &Context, dtype: DType, len: usize) -> Result<Self> {
        // The driver refuses to allocate nothing.
        let bytes = (len * dtype.size()).max(1);
        // SAFETY: any bit pattern is a valid `u8`, and of each element type seen through `view`,
        // too: reading early gives a wrong value, not an invalid one.
        let bytes = unsafe { context.stream().alloc::<u8>(bytes) }
            .map_err(driver_error("allocating device memory"))?;
        Ok(Self {
            context: context.clone(),
            bytes,
            dtype,
            len,
        })
    }

    /// A copy of these elements on the device, queued on the context's stream.
    ///
    /// # Errors
    /// [`Error::Driver`], for want of memory, for example.
    pub fn from_slice<T: Element>(context: &Context, elements: &[T]) -> Result<Self> {
        Self::upload(context, T::DTYPE, bytemuck::cast_slice(elements))
    }

    /// The elements, copied to the host after all queued work is done.
    ///
    /// # Errors
    /// When `T` is not their type; [`Error::Driver`], also for a fault in an earlier kernel.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.check_type::<T>()?;
        let mut elements = vec![T::default(); self.len];
        self.download(bytemuck::cast_slice_mut(&mut elements))?;
        Ok(elements)
    }

    /// A copy of these bytes on the device, queued on the context's stream.
    pub(crate) fn upload(context: &Context, dtype: DType, bytes: &[u8]) -> Result<Self> {
        let mut buffer = Self::uninitialised(context, dtype, bytes.len() / dtype.size())?;
        if !bytes.is_empty() {
            context
                .stream()
                .memcpy_htod(bytes, &mut buffer.bytes)
                .map_err(driver_error("copying to the device"))?;
        }
        Ok(buffer)
    }

    /// Copies the contents to `bytes`, which is as long as they are, and waits until that is done.
    pub(crate) fn download(&self, bytes: &mut [u8]) -> Result<()> {
        if !bytes.is_empty() {
            let source = self.bytes.slice(..bytes.len());
            let stream = self.context.stream();
            stream
                .memcpy_dtoh(&source, bytes)
                .map_err(driver_error("copying from the device"))?;
        }
        self.context.synchronize()
    }

    /// A copy of these elements, queued on the context's stream.
    pub(crate) fn copied(&self, elements: std::ops::Range<usize>) -> Result<Self> {
        let mut copy = Self::uninitialised(&self.context, self.dtype, elements.len())?;
        let size = self.dtype.size();
        let source = self.bytes.slice(elements.start * size..elements.end * size);
        copy.write(0, &source)?;
        Ok(copy)
    }

    /// The elements of buffers of one type and context, one after the other, queued on the context's stream.
    pub(crate) fn concat(context: &Context, dtype: DType, parts: &[&Self]) -> Result<Self> {
        let len = parts.iter().map(|part| part.len).sum();
        let mut joined = Self::uninitialised(context, dtype, len)?;
        let mut at = 0;
        for part in parts {
            let bytes = part.len * dtype.size();
            joined.write(at, &part.bytes.slice(..bytes))?;
            at += bytes;
        }
        Ok(joined)
    }

    /// Copies bytes of the device to this place.
    fn write(&mut self, at: usize, source: &CudaView<'_, u8>) -> Result<()> {
        if source.is_empty() {
            return Ok(());
        }
        let mut target = self.bytes.slice_mut(at..at + source.len());
        let stream = self.context.stream();
        stream
            .memcpy_dtod(source, &mut target)
            .map_err(driver_error("copying on the device"))
    }

    /// The elements converted to another float type, queued on the context's stream; `None` where one of the two is no
    /// float type.
    pub(crate) fn cast(&self, dtype: DType) -> Result<Option<Self>> {
        super::cast::run(self, dtype)
    }

    /// The context that the memory belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements.
    ///
    /// # Errors
    /// When `T` is not their type.
    pub fn view<T: Element>(&self) -> Result<CudaView<'_, T>> {
        self.check_type::<T>()?;
        // SAFETY: the memory holds `len` elements of `T`, aligned to 256 bytes, and every bit
        // pattern is a valid `T`.
        unsafe { self.bytes.transmute(self.len) }.ok_or_else(|| too_small(self.len))
    }

    /// The elements, to be written.
    ///
    /// # Errors
    /// When `T` is not their type.
    pub fn view_mut<T: Element>(&mut self) -> Result<CudaViewMut<'_, T>> {
        self.check_type::<T>()?;
        // SAFETY: as in `view`; `&mut self` makes the view the only one.
        unsafe { self.bytes.transmute_mut(self.len) }.ok_or_else(|| too_small(self.len))
    }

    fn check_type<T: Element>(&self) -> Result<()> {
        if T::DTYPE == self.dtype {
            Ok(())
        } else {
            Err(Error::input(
                "tensor",
                "element type",
                self.dtype.name(),
                T::DTYPE,
            ))
        }
    }
}

fn too_small(len: usize) -> Error {
    Error::input("buffer", "memory", "large enough for its elements", len)
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Buffer({:?}, {} x {})",
            self.context, self.len, self.dtype
        )
    }
}
