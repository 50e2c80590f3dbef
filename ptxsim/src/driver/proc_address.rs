//! `cuGetProcAddress`: entry points by their unversioned names.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};

use super::ffi::{Out, Text, exports};
use super::status::{Result, Status};

/// Functions whose newest version came with a CUDA release that this driver's users may predate:
/// name, first CUDA version, suffix; newest first.
const VERSIONS: &[(&str, c_int, &str)] = &[
    ("cuCtxCreate", 13000, "_v4"),
    ("cuCtxCreate", 11040, "_v3"),
    ("cuDeviceGetUuid", 11040, "_v2"),
    ("cuEventElapsedTime", 12080, "_v2"),
    ("cuMemAdvise", 12020, "_v2"),
    ("cuMemPrefetchAsync", 12020, "_v2"),
    ("cuGetProcAddress", 12000, "_v2"),
    ("cuGraphAddKernelNode", 12000, "_v2"),
    ("cuGraphKernelNodeSetParams", 12000, "_v2"),
    ("cuGraphExecKernelNodeSetParams", 12000, "_v2"),
    ("cuStreamGetCaptureInfo", 12030, "_v3"),
    ("cuStreamGetCaptureInfo", 11030, "_v2"),
];

/// The exported name for `name` as a program of `version` means it.
fn exported(name: &str, version: c_int) -> Option<*mut c_void> {
    // Since CUDA 12 this name stands for the form with flags.
    if name == "cuGraphInstantiate" && version >= 12000 {
        return symbol("cuGraphInstantiateWithFlags");
    }
    let staged = VERSIONS.iter().filter(|entry| entry.0 == name);
    let mut suffixes = staged
        .filter(|entry| entry.1 <= version)
        .map(|entry| entry.2);
    let has_stages = VERSIONS.iter().any(|entry| entry.0 == name);
    match suffixes.next() {
        Some(suffix) => symbol(&format!("{name}{suffix}")),
        None if has_stages => symbol(name).or_else(|| symbol(&format!("{name}_v2"))),
        // Everything else had its last change long before CUDA 11.
        None => symbol(&format!("{name}_v2")).or_else(|| symbol(name)),
    }
}

/// An export of this library.
fn symbol(name: &str) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    let library = own_library()?;
    // SAFETY: `library` is a handle of `dlopen` and never closed.
    let address = unsafe { libc::dlsym(library as *mut c_void, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// A handle of this library, or of the program where this is linked into it.
fn own_library() -> Option<usize> {
    static LIBRARY: std::sync::LazyLock<usize> = std::sync::LazyLock::new(|| {
        let own: unsafe extern "C" fn(Out<c_int>) -> u32 = super::device::cuDriverGetVersion;
        // SAFETY: `info` is plain data that `dladdr` fills, and the name that it gives is a string
        // that lives as long as this library.
        unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            if libc::dladdr(own as *const c_void, &mut info) == 0 || info.dli_fname.is_null() {
                return 0;
            }
            let path = CStr::from_ptr(info.dli_fname);
            libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) as usize
        }
    });
    (*LIBRARY != 0).then_some(*LIBRARY)
}

/// CU_GET_PROC_ADDRESS_LEGACY_STREAM and CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM. The second
/// gives the same functions: default streams differ only in what they wait for.
const FLAGS: u64 = 3;

fn find(
    out: Out<*mut c_void>,
    name: Text,
    version: c_int,
    flags: u64,
    found: Option<Out<c_uint>>,
) -> Result {
    out.set(std::ptr::null_mut())?;
    let name = name.get()?;
    if flags & !FLAGS != 0 || version <= 0 {
        return Err(Status::INVALID_VALUE);
    }
    let address = exported(&name, version);
    if let Some(found) = found {
        // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND is 1.
        found.set_if_wanted(c_uint::from(address.is_none()));
    }
    out.set(address.ok_or(Status::NOT_FOUND)?)
}

exports! {
    fn cuGetProcAddress(name: Text, function: Out<*mut c_void>, version: c_int, flags: u64) {
        find(function, name, version, flags, None)
    }

    fn cuGetProcAddress_v2(
        name: Text, function: Out<*mut c_void>, version: c_int, flags: u64, found: Out<c_uint>,
    ) {
        find(function, name, version, flags, Some(found))
    }
}
