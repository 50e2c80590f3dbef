//! The compiled kernels inside this program.

use super::context::{Properties, driver_error};
use super::launch::Kernel;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Written by the build script: `IMAGES`, `NVCC`, `ARCHS` and `ABSENT`.
mod built {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// How the kernels were built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Toolkit {
    /// Version of the nvcc that built them; `None` where there was none.
    pub nvcc: Option<&'static str>,
    /// GPU architectures that they were built for.
    pub architectures: &'static str,
    /// Why there are no kernels, where there are none.
    pub absent: Option<&'static str>,
}

/// How the kernels were built, or why they were not.
pub fn toolkit() -> Toolkit {
    Toolkit {
        nvcc: built::NVCC,
        architectures: built::ARCHS,
        absent: built::ABSENT,
    }
}

/// Name and fatbin of each kernel file inside this program.
pub fn images() -> &'static [(&'static str, &'static [u8])] {
    built::IMAGES
}

/// Whether the program holds this image, as it does not where the build left its architecture out.
pub(super) fn is_built(image: &str) -> bool {
    images().iter().any(|(name, _)| *name == image)
}

/// The images of one context, each loaded at the first launch of one of its kernels.
pub(super) struct Images(Mutex<Loaded>);

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<Kernel, CudaFunction>,
}

impl Images {
    pub(super) fn new() -> Result<Self> {
        match built::ABSENT {
            Some(reason) => Err(Error::KernelsNotBuilt {
                reason: reason.into(),
            }),
            None => Ok(Self(Mutex::default())),
        }
    }

    /// The function of `kernel`, loaded on the first request.
    pub(super) fn function(
        &self,
        context: &Arc<CudaContext>,
        properties: &Properties,
        kernel: Kernel,
    ) -> Result<CudaFunction> {
        // A panic elsewhere cannot leave the maps half-written: each insert is whole.
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(&kernel) {
            return Ok(function.clone());
        }
        let module = match loaded.modules.get(kernel.image) {
            Some(module) => module.clone(),
            None => {
                let module = load(context, properties, kernel.image)?;
                loaded.modules.insert(kernel.image, module.clone());
                module
            }
        };
        let function = module
            .load_function(kernel.symbol)
            .map_err(|error| unfit(properties, kernel.image, error))?;
        loaded.functions.insert(kernel, function.clone());
        Ok(function)
    }
}

fn load(
    context: &Arc<CudaContext>,
    properties: &Properties,
    image: &'static str,
) -> Result<Arc<CudaModule>> {
    let fatbin = images()
        .iter()
        .find_map(|(name, fatbin)| (*name == image).then_some(*fatbin))
        .ok_or_else(|| Error::KernelsNotBuilt {
            reason: format!("there is no image `{image}`"),
        })?;
    context
        .load_module(Ptx::from_binary(fatbin.to_vec()))
        .map_err(|error| unfit(properties, image, error))
}

/// Tells an image that cannot run on this GPU or driver from other failures of the driver.
fn unfit(properties: &Properties, image: &str, error: DriverError) -> Error {
    match error.0 {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_PTX
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
        | CUresult::CUDA_ERROR_INVALID_IMAGE
        | CUresult::CUDA_ERROR_NOT_FOUND => {
            let (major, minor) = properties.compute_capability;
            let reason = format!(
                "{} of compute capability {major}.{minor}; kernels built by nvcc {} for {}; {error:?}",
                properties.name,
                built::NVCC.unwrap_or("?"),
                built::ARCHS,
            );
            Error::ImageUnfit {
                image: image.into(),
                reason,
            }
        }
        _ => driver_error("loading kernels")(error),
    }
}
