//! Status codes of the driver API.

use std::ffi::CStr;

use super::ffi::{Out, exports};

/// A `CUresult`. Only codes that CUDA 11.4 already had are returned: bindings that turn the number
/// into an enum of their own version stay sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub u32);

/// What an exported function returns before it becomes a number.
pub type Result<T = ()> = std::result::Result<T, Status>;

macro_rules! statuses {
    ($($constant:ident = $code:literal, $name:literal, $text:literal;)*) => {
        impl Status {
            $(#[doc = concat!("`", $name, "`.")] pub const $constant: Status = Status($code);)*

            /// The code's name in `cuda.h`, and what it means.
            fn describe(self) -> Option<(&'static str, &'static str)> {
                // Each string carries its terminating zero for C.
                match self.0 {
                    $($code => Some((concat!($name, "\0"), concat!($text, "\0"))),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0, "CUDA_SUCCESS", "success";
    INVALID_VALUE = 1, "CUDA_ERROR_INVALID_VALUE", "an argument is out of its range";
    OUT_OF_MEMORY = 2, "CUDA_ERROR_OUT_OF_MEMORY", "device memory is exhausted";
    NOT_INITIALIZED = 3, "CUDA_ERROR_NOT_INITIALIZED", "cuInit has not been called";
    NO_DEVICE = 100, "CUDA_ERROR_NO_DEVICE", "there is no device";
    INVALID_DEVICE = 101, "CUDA_ERROR_INVALID_DEVICE", "no device has this ordinal";
    INVALID_IMAGE = 200, "CUDA_ERROR_INVALID_IMAGE", "the module image cannot be read";
    INVALID_CONTEXT = 201, "CUDA_ERROR_INVALID_CONTEXT", "no valid context is current";
    NO_BINARY_FOR_GPU = 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "the image holds no code that this device can run";
    UNSUPPORTED_LIMIT = 215, "CUDA_ERROR_UNSUPPORTED_LIMIT", "the device has no such limit";
    PEER_ACCESS_UNSUPPORTED = 217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "the devices cannot reach each other's memory";
    INVALID_PTX = 218, "CUDA_ERROR_INVALID_PTX", "the PTX does not compile";
    FILE_NOT_FOUND = 301, "CUDA_ERROR_FILE_NOT_FOUND", "the file cannot be read";
    INVALID_HANDLE = 400, "CUDA_ERROR_INVALID_HANDLE", "the handle is stale or of another kind";
    ILLEGAL_STATE = 401, "CUDA_ERROR_ILLEGAL_STATE", "the object is not in a state that allows this";
    NOT_FOUND = 500, "CUDA_ERROR_NOT_FOUND", "no symbol has this name";
    NOT_READY = 600, "CUDA_ERROR_NOT_READY", "work is still pending";
    ILLEGAL_ADDRESS = 700, "CUDA_ERROR_ILLEGAL_ADDRESS", "a kernel accessed memory that is not its own";
    LAUNCH_OUT_OF_RESOURCES = 701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "a block needs more than a multiprocessor has";
    LAUNCH_TIMEOUT = 702, "CUDA_ERROR_LAUNCH_TIMEOUT", "a kernel can make no progress";
    PEER_ACCESS_ALREADY_ENABLED = 704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is on already";
    PRIMARY_CONTEXT_ACTIVE = 708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "the primary context is in use";
    CONTEXT_IS_DESTROYED = 709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "the current context has been destroyed";
    ASSERT = 710, "CUDA_ERROR_ASSERT", "an assertion of a kernel failed";
    HOST_MEMORY_ALREADY_REGISTERED = 712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "the host range is registered already";
    HOST_MEMORY_NOT_REGISTERED = 713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "the host range is not registered";
    MISALIGNED_ADDRESS = 716, "CUDA_ERROR_MISALIGNED_ADDRESS", "a kernel accessed a misaligned address";
    LAUNCH_FAILED = 719, "CUDA_ERROR_LAUNCH_FAILED", "a kernel failed while it ran";
    COOPERATIVE_LAUNCH_TOO_LARGE = 720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "the grid's blocks cannot all be resident";
    NOT_SUPPORTED = 801, "CUDA_ERROR_NOT_SUPPORTED", "ptxsim does not support this";
    STREAM_CAPTURE_UNSUPPORTED = 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "not allowed while a stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "an earlier error invalidated the capture";
    STREAM_CAPTURE_MERGE = 902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "two captures cannot become one";
    STREAM_CAPTURE_UNMATCHED = 903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture did not begin in this stream";
    STREAM_CAPTURE_UNJOINED = 904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "a forked stream was not joined to the capture's origin";
    STREAM_CAPTURE_ISOLATION = 905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "a dependency would cross the border of the capture";
    STREAM_CAPTURE_IMPLICIT = 906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "the legacy stream would depend on a capture";
    CAPTURED_EVENT = 907, "CUDA_ERROR_CAPTURED_EVENT", "the event was last recorded in a capturing stream";
    STREAM_CAPTURE_WRONG_THREAD = 908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "the capture began in another thread";
    UNKNOWN = 999, "CUDA_ERROR_UNKNOWN", "internal error of ptxsim";
}

/// The text as a C string, or `INVALID_VALUE` with null in `out`, as the driver has it.
fn describe(
    code: u32,
    out: Out<*const std::ffi::c_char>,
    pick: fn((&'static str, &'static str)) -> &'static str,
) -> Result {
    let text = Status(code).describe().map(pick);
    let text = text.and_then(|text| CStr::from_bytes_with_nul(text.as_bytes()).ok());
    out.set(text.map_or(std::ptr::null(), CStr::as_ptr))?;
    text.map(|_| ()).ok_or(Status::INVALID_VALUE)
}

exports! {
    fn cuGetErrorName(code: u32, name: Out<*const std::ffi::c_char>) {
        describe(code, name, |(name, _)| name)
    }

    fn cuGetErrorString(code: u32, text: Out<*const std::ffi::c_char>) {
        describe(code, text, |(_, text)| text)
    }
}
