//! The crate's one error type.

use std::fmt;

/// Result of every fallible function of the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong, in two families.
///
/// [`Error::Input`] and [`Error::File`] say that what was passed in is not acceptable. All others
/// say that the machine cannot do what was asked, and what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An argument breaks a rule of the op. Nothing was computed.
    Input {
        /// The op, e.g. `nms`.
        op: &'static str,
        /// The argument, e.g. `boxes`.
        argument: String,
        /// What it must be, e.g. `[B, N, 4]`.
        rule: String,
        /// What it was, e.g. `[12, 5]`.
        value: String,
    },
    /// A file cannot be read, written or understood.
    File {
        /// Path of the file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The crate was built without its feature `cuda`.
    CudaFeatureOff,
    /// No CUDA driver library can be loaded.
    NoDriver {
        /// What was tried and what came of it.
        reason: String,
    },
    /// The driver has no device of this number.
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The crate was built without `nvcc`, so it holds no kernels.
    KernelsNotBuilt {
        /// Why, as the build script found it.
        reason: String,
    },
    /// The kernels in this program cannot run on this GPU or under this driver.
    ImageUnfit {
        /// The image, named after its source file.
        image: String,
        /// GPU, driver, and what the driver answered.
        reason: String,
    },
    /// A call of the CUDA driver failed.
    Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's code and text.
        reason: String,
    },
}

impl Error {
    /// An [`Error::Input`].
    pub fn input(
        op: &'static str,
        argument: impl Into<String>,
        rule: impl Into<String>,
        value: impl fmt::Display,
    ) -> Self {
        Error::Input {
            op,
            argument: argument.into(),
            rule: rule.into(),
            value: value.to_string(),
        }
    }

    /// Whether the machine, not the input, is at fault.
    pub fn is_environment(&self) -> bool {
        !matches!(self, Error::Input { .. } | Error::File { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Input {
                op,
                argument,
                rule,
                value,
            } => {
                write!(f, "{op}: {argument} must be {rule}, got {value}")
            }
            Error::File { path, reason } => write!(f, "{path}: {reason}"),
            Error::CudaFeatureOff => {
                write!(
                    f,
                    "CUDA was left out of this build: build ocelli with its feature `cuda`"
                )
            }
            Error::NoDriver { reason } => write!(
                f,
                "no CUDA driver ({reason}): install NVIDIA's driver, or use the CPU device"
            ),
            Error::NoDevice { ordinal, count } => write!(
                f,
                "no CUDA device {ordinal}: the driver offers {count}; see CUDA_VISIBLE_DEVICES, or \
                 use the CPU device"
            ),
            Error::KernelsNotBuilt { reason } => write!(
                f,
                "this build of ocelli holds no CUDA kernels ({reason}): make nvcc available \
                 (OCELLI_NVCC, CUDA_HOME or PATH) and build again"
            ),
            Error::ImageUnfit { image, reason } => write!(
                f,
                "the kernels of `{image}` do not run here ({reason}): they need an Ampere or newer \
                 GPU and a driver at least as new as the nvcc that built them"
            ),
            Error::Driver { doing, reason } => {
                write!(f, "the CUDA driver failed while {doing}: {reason}")
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_error_names_op_argument_rule_and_value() {
        let error = Error::input("nms", "boxes", "[B, N, 4]", "[12, 5]");
        assert_eq!(
            error.to_string(),
            "nms: boxes must be [B, N, 4], got [12, 5]"
        );
        assert!(!error.is_environment());
        assert!(Error::CudaFeatureOff.is_environment());
    }
}
