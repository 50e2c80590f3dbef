//! Stands in for the CUDA backend in builds without the feature `cuda`: no context can be made.

use crate::dtype::DType;
use crate::error::{Error, Result};

/// A GPU that cannot be: the crate was built without its feature `cuda`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Context {}

impl Context {
    /// Always an error.
    ///
    /// # Errors
    /// [`Error::CudaFeatureOff`].
    pub fn new(_ordinal: usize) -> Result<Self> {
        Err(Error::CudaFeatureOff)
    }

    /// Never called: there is no context to call it on.
    pub fn ordinal(&self) -> usize {
        match *self {}
    }
}

/// Device memory that cannot be.
#[derive(Debug)]
pub enum Buffer {}

impl Buffer {
    pub(crate) fn upload(context: &Context, _dtype: DType, _bytes: &[u8]) -> Result<Self> {
        match *context {}
    }

    pub(crate) fn download(&self, _bytes: &mut [u8]) -> Result<()> {
        match *self {}
    }

    pub(crate) fn copied(&self, _elements: std::ops::Range<usize>) -> Result<Self> {
        match *self {}
    }

    pub(crate) fn concat(context: &Context, _dtype: DType, _parts: &[&Self]) -> Result<Self> {
        match *context {}
    }

    pub(crate) fn cast(&self, _dtype: DType) -> Result<Option<Self>> {
        match *self {}
    }

    pub(crate) fn context(&self) -> &Context {
        match *self {}
    }

    pub(crate) fn dtype(&self) -> DType {
        match *self {}
    }

    pub(crate) fn len(&self) -> usize {
        match *self {}
    }
}
