//! A GPU, a stream on it, and the kernels loaded there.

use super::image::Images;
use super::launch::{Kernel, Launch};
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError};
use std::error::Error as _;
use std::sync::Arc;

/// A GPU, a stream on it, and the kernels loaded there.
///
/// All work of one `Context` is queued on its one stream, in program order, from whichever thread.
/// Clones are the same context; two calls of [`Context::new`] are two, and tensors of the one are
/// copied to be used on the other.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    properties: Properties,
    images: Images,
}

/// What plans need to know of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Properties {
    /// Marketing name.
    pub name: String,
    /// Compute capability, e.g. (9, 0).
    pub compute_capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// Dynamic shared memory that one block can opt in to, in bytes.
    pub shared_bytes_per_block: u32,
    /// L2 cache in bytes.
    pub l2_bytes: u32,
}

impl Properties {
    /// Properties of an imagined GPU, to plan for one that is not there.
    pub fn new(
        compute_capability: (u32, u32),
        multiprocessors: u32,
        shared_bytes_per_block: u32,
    ) -> Self {
        let name = format!("sm_{}{}", compute_capability.0, compute_capability.1);
        Self {
            name,
            compute_capability,
            multiprocessors,
            shared_bytes_per_block,
            l2_bytes: 0,
        }
    }
}

impl Context {
    /// The GPU number `ordinal`, with a stream of its own.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::NoDevice`], [`Error::KernelsNotBuilt`], [`Error::ImageUnfit`]
    /// or [`Error::Driver`].
    pub fn new(ordinal: usize) -> Result<Self> {
        probe_driver()?;
        let count = match CudaContext::device_count() {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
            Err(error) => return Err(driver_error("counting devices")(error)),
        };
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(driver_error("opening the device"))?;
        // SAFETY: events would order the uses of one buffer on several streams. This `CudaContext`
        // is reachable through `self` alone, whose buffers are allocated, used and freed on the one
        // stream created here, in program order. (Events also forbid graph capture of buffers made
        // before it.)
        unsafe { context.disable_event_tracking() };
        let stream = context
            .new_stream()
            .map_err(driver_error("creating a stream"))?;
        Self::from_stream(stream)
    }

    /// The GPU and stream of a program that uses cudarc itself.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`], [`Error::ImageUnfit`] or [`Error::Driver`].
    pub fn from_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context().clone();
        let properties = properties(&context)?;
        let images = Images::new()?;
        Ok(Self(Arc::new(Inner {
            context,
            stream,
            properties,
            images,
        })))
    }

    /// The stream that everything is queued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.0.stream
    }

    /// The GPU's number.
    pub fn ordinal(&self) -> usize {
        self.0.context.ordinal()
    }

    /// What the GPU is.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// Waits until all queued work is done.
    ///
    /// # Errors
    /// [`Error::Driver`], also for a fault in an earlier kernel.
    pub fn synchronize(&self) -> Result<()> {
        self.0
            .stream
            .synchronize()
            .map_err(driver_error("waiting for the stream"))
    }

    /// Loads every kernel that the GPU runs now instead of at its first launch, which a graph capture would not
    /// allow.
    ///
    /// # Errors
    /// [`Error::ImageUnfit`] or [`Error::Driver`].
    pub fn preload(&self) -> Result<()> {
        super::kernels()
            .into_iter()
            .filter(|kernel| kernel.suits(self.properties()))
            .try_for_each(|kernel| self.function(kernel).map(drop))
    }

    /// The loaded function of a kernel.
    fn function(&self, kernel: Kernel) -> Result<CudaFunction> {
        self.0
            .images
            .function(&self.0.context, &self.0.properties, kernel)
    }

    /// The function of a launch, allowed as much dynamic shared memory as the launch asks for.
    pub(super) fn function_for(&self, launch: &Launch) -> Result<CudaFunction> {
        /// A block may use 48 KiB without asking (CUDA C++ Programming Guide, compute capabilities), what its kernel
        /// declares included; that is at most 16 KiB in kernels with dynamic shared memory.
        const FREE_SHARED_BYTES: u32 = 32 * 1024;
        let function = self.function(launch.kernel)?;
        if launch.shared_bytes > FREE_SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(attribute, launch.shared_bytes as i32)
                .map_err(driver_error("raising a kernel's shared memory"))?;
        }
        Ok(function)
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cuda::Context({}, {})",
            self.ordinal(),
            self.0.properties.name
        )
    }
}

/// The newest CUDA version that the driver supports, e.g. `13.0`.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::NoDevice`] or [`Error::Driver`].
pub fn driver_version() -> Result<String> {
    probe_driver()?;
    let mut version = 0;
    // SAFETY: the driver is loaded, as was just found, and writes one `int` to where it is told.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(driver_error("asking for its version"))?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

/// Wraps a driver error with what was being done.
pub(super) fn driver_error(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Driver {
        doing,
        reason: format!("{error:?}"),
    }
}

/// Fails where no driver library can be loaded: cudarc's first call would panic there.
fn probe_driver() -> Result<()> {
    /// The names under which cudarc looks, too.
    const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];
    let mut tried = Vec::new();
    for name in NAMES {
        // SAFETY: NVIDIA's driver library is made to be loaded by any program; its initialisers ask
        // nothing of us.
        match unsafe { libloading::Library::new(name) } {
            Ok(_) => return initialise(),
            Err(error) => tried.push(match error.source() {
                Some(cause) => cause.to_string(),
                None => error.to_string(),
            }),
        }
    }
    Err(Error::NoDriver {
        reason: tried.join("; "),
    })
}

/// Fails where the driver library is there but has nothing to drive.
fn initialise() -> Result<()> {
    match cudarc::driver::result::init() {
        Ok(()) => Ok(()),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Err(Error::NoDevice {
            ordinal: 0,
            count: 0,
        }),
        Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => Err(Error::NoDriver {
            reason: "the library found is the toolkit's stub".into(),
        }),
        Err(error) => Err(driver_error("initialising it")(error)),
    }
}

fn properties(context: &Arc<CudaContext>) -> Result<Properties> {
    let ask = |attribute| -> Result<u32> {
        let value = context
            .attribute(attribute)
            .map_err(driver_error("reading a device attribute"))?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok(Properties {
        name: context
            .name()
            .map_err(driver_error("reading the device's name"))?,
        compute_capability: (
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: ask(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        l2_bytes: ask(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
    })
}
