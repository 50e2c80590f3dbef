//! The library's exports.

mod common;

use std::collections::BTreeSet;
use std::ffi::{CString, c_void};

use common::simulator;
use libloading::os::unix::Library;

/// All driver functions that cudarc 0.19.10 declares: the output of
/// `grep -oE "fn cu[A-Z][A-Za-z0-9_]*" src/driver/sys/mod.rs | sed 's/fn //' | sort -u`.
const NAMES: &str = include_str!("driver_symbols.txt");

fn library() -> Library {
    // SAFETY: the library runs no code when it is loaded, and is loaded already.
    unsafe { Library::open(Some(simulator().path()), libc::RTLD_NOW) }.unwrap()
}

#[test]
fn every_driver_function_exists() {
    let library = library();
    let names: BTreeSet<_> = NAMES.lines().collect();
    assert_eq!(names.len(), 514);
    let missing = |name: &&&str| {
        // SAFETY: only looked up.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err()
    };
    let missing: Vec<_> = names.iter().filter(missing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn cudarc_and_the_client_use_the_same_library() {
    let own = library();
    // SAFETY: as above; the name is the one that cudarc opens first.
    let named = unsafe { Library::open(Some("libcuda.so"), libc::RTLD_NOW) }.unwrap();
    // SAFETY: only looked up.
    let addresses = [&own, &named].map(|library| unsafe {
        library
            .get::<*const c_void>(b"cuInit\0")
            .unwrap()
            .as_raw_ptr()
    });
    assert_eq!(addresses[0], addresses[1]);
}

/// The rlib in this program defines the same functions. The program must not export them, or its
/// copy could take the place of the library's.
#[test]
fn the_program_itself_exports_no_driver() {
    // SAFETY: opens the program itself, and looks a name up.
    let found = unsafe {
        let program = Library::this();
        program
            .get::<*const c_void>(b"cuInit\0")
            .map(|symbol| symbol.as_raw_ptr())
            .ok()
    };
    let own = library();
    // SAFETY: only looked up.
    let real = unsafe { own.get::<*const c_void>(b"cuInit\0").unwrap().as_raw_ptr() };
    // The global scope holds the library itself, once it is loaded.
    assert!(found.is_none() || found == Some(real));
}

#[test]
fn entry_points_by_name_and_version() {
    simulator();
    let find = |name: &str, version: i32| {
        let name = CString::new(name).unwrap();
        let mut address = std::ptr::null_mut();
        // SAFETY: valid pointers.
        let result = unsafe {
            cudarc::driver::sys::cuGetProcAddress_v2(
                name.as_ptr(),
                &mut address,
                version,
                0,
                std::ptr::null_mut(),
            )
        };
        (result as u32, address)
    };
    let library = library();
    // SAFETY: only looked up.
    let symbol = |name: &str| unsafe {
        library
            .get::<*const c_void>(name.as_bytes())
            .unwrap()
            .as_raw_ptr()
    };
    assert_eq!(find("cuMemAlloc", 12000), (0, symbol("cuMemAlloc_v2")));
    assert_eq!(find("cuInit", 12000), (0, symbol("cuInit")));
    assert_eq!(find("cuCtxCreate", 11080), (0, symbol("cuCtxCreate_v3")));
    assert_eq!(
        find("cuEventElapsedTime", 12000),
        (0, symbol("cuEventElapsedTime"))
    );
    assert_eq!(
        find("cuEventElapsedTime", 13000),
        (0, symbol("cuEventElapsedTime_v2"))
    );
    assert_eq!(find("cuFrobnicate", 13000), (500, std::ptr::null_mut()));
}
