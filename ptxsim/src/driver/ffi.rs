//! The border to C: wrappers of exported functions and of the pointers that they are given.
//!
//! The pointer types here exist only as arguments of exported functions. Each of those is
//! `unsafe`: its caller promises what the CUDA driver API documents, that a pointer is null or
//! points to what the function reads or writes. That promise is what the `SAFETY` comments of this
//! file rest on, and why the rest of the driver needs no `unsafe` for its arguments.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::status::{Result, Status};

/// Runs the body of an exported function: a panic becomes `CUDA_ERROR_UNKNOWN`, since unwinding
/// into C would abort the program.
pub fn guard(name: &str, body: impl FnOnce() -> Result) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS.0,
        Ok(Err(status)) => status.0,
        Err(_) => {
            eprintln!("ptxsim: internal error in {name}; please report it");
            Status::UNKNOWN.0
        }
    }
}

/// Defines exported functions of the CUDA driver API. Bodies evaluate to [`Result`].
macro_rules! exports {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[doc = concat!("`", stringify!($name), "` of the CUDA driver API.")]
        ///
        /// # Safety
        ///
        /// Pointers are null or point to what the CUDA driver API says of this function.
        #[allow(non_snake_case)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $ty),*) -> u32 {
            $crate::driver::ffi::guard(stringify!($name), move || $body)
        }
    )*};
}
pub(super) use exports;

/// A pointer that a function writes one value to.
#[repr(transparent)]
pub struct Out<T>(*mut T);

// Derived, these would ask the same of `T`.
impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// `INVALID_VALUE` if the pointer is null.
    pub fn check(self) -> Result {
        if self.0.is_null() {
            Err(Status::INVALID_VALUE)
        } else {
            Ok(())
        }
    }

    /// Writes `value`; `INVALID_VALUE` if the pointer is null.
    pub fn set(self, value: T) -> Result {
        self.check()?;
        self.set_if_wanted(value);
        Ok(())
    }

    /// Writes `value` unless the pointer is null.
    pub fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, so by the caller's promise it points to room for a `T`.
            unsafe { self.0.write_unaligned(value) }
        }
    }

    /// Writes as many of `values` as `room` holds.
    pub fn set_many(self, values: impl Iterator<Item = T>, room: usize) -> Result {
        self.check()?;
        for (index, value) in values.take(room).enumerate() {
            // SAFETY: the caller promises room for `room` values, and `index < room`.
            unsafe { self.0.add(index).write_unaligned(value) }
        }
        Ok(())
    }
}

impl<T: Copy> Out<T> {
    /// Reads the value, for pointers that carry one in and another out.
    pub fn get(self) -> Result<T> {
        In(self.0.cast_const()).get()
    }
}

/// A pointer that a function reads values from.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> In<T> {
    /// Null.
    pub const NULL: In<T> = In(std::ptr::null());

    /// Whether the pointer is null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

impl<T: Copy> In<T> {
    /// The value at an index of an array; `INVALID_VALUE` if the pointer is null.
    pub fn at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller promises an array, and that it ends where its callee stops reading.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// The value; `INVALID_VALUE` if the pointer is null.
    pub fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so by the caller's promise it points to a `T`.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// `count` values; `INVALID_VALUE` if they are not all mapped.
    pub fn get_many(self, count: usize) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = count
            .checked_mul(size_of::<T>())
            .ok_or(Status::INVALID_VALUE)?;
        require_mapped(self.0 as usize, bytes)?;
        let values = (0..count).map(|index| {
            // SAFETY: by the caller's promise `count` values lie there.
            unsafe { self.0.add(index).read_unaligned() }
        });
        Ok(values.collect())
    }
}

/// A C string.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// The text; `INVALID_VALUE` if the pointer is null or the text is not UTF-8.
    pub fn get(self) -> Result<String> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so by the caller's promise a string with a terminating zero.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str()
            .map(str::to_owned)
            .map_err(|_| Status::INVALID_VALUE)
    }
}

/// Host memory whose length another argument gives, or its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct HostPointer(*mut c_void);

// SAFETY: an address; whoever dereferences it states why that is sound on its thread.
unsafe impl Send for HostPointer {}
// SAFETY: as above.
unsafe impl Sync for HostPointer {}

impl HostPointer {
    /// The address as a number, which for pinned memory is its device address too.
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// The memory at an address that an exported function was given as a number.
    pub fn from_address(address: u64) -> Self {
        Self(address as *mut c_void)
    }

    /// Lets `body` read the `len` bytes there; `INVALID_VALUE` for null.
    pub fn read<R>(self, len: usize, body: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        if len == 0 {
            return body(&[]);
        }
        require_mapped(self.0 as usize, len)?;
        // SAFETY: by the caller's promise `len` bytes lie there and no one writes them during the
        // call. Memory that a kernel can write is never accessed through this: see `copy.rs`.
        body(unsafe { std::slice::from_raw_parts(self.0.cast(), len) })
    }

    /// Lets `body` write the `len` bytes there; `INVALID_VALUE` for null.
    pub fn write<R>(self, len: usize, body: impl FnOnce(&mut [u8]) -> Result<R>) -> Result<R> {
        if len == 0 {
            return body(&mut []);
        }
        require_mapped(self.0 as usize, len)?;
        // SAFETY: as for `read`, and no one else reads them either.
        body(unsafe { std::slice::from_raw_parts_mut(self.0.cast(), len) })
    }

    /// The text that ends with a zero there, without it; `None` for null.
    pub fn text(self) -> Option<Vec<u8>> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: not null, so by the caller's promise a text with a terminating zero.
        Some(unsafe { CStr::from_ptr(self.0.cast()) }.to_bytes().to_vec())
    }

    /// Copies `len` bytes from another place, which may overlap; `INVALID_VALUE` for null.
    pub fn copy_from(self, from: HostPointer, len: usize) -> Result {
        if len == 0 {
            return Ok(());
        }
        require_mapped(self.0 as usize, len)?;
        require_mapped(from.0 as usize, len)?;
        // SAFETY: by the caller's promise `len` bytes may be read there and written here.
        unsafe { std::ptr::copy(from.0.cast::<u8>(), self.0.cast::<u8>(), len) }
        Ok(())
    }
}

/// `INVALID_VALUE` unless the `len` bytes at `address` are mapped. This costs a system call of less
/// than a microsecond, and turns most wild pointers into errors, as a real driver does.
fn require_mapped(address: usize, len: usize) -> Result {
    const PAGE: usize = 4096;
    let start = address / PAGE * PAGE;
    let end = address.checked_add(len).ok_or(Status::INVALID_VALUE)?;
    if address == 0 || isize::try_from(len).is_err() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: `msync` touches no memory: it fails with ENOMEM where a page is not mapped, and with
    // MS_ASYNC does nothing else.
    match unsafe { libc::msync(start as *mut c_void, end - start, libc::MS_ASYNC) } {
        0 => Ok(()),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// A callback with its argument.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HostFunction {
    /// The function; null is refused.
    pub function: Option<unsafe extern "C" fn(*mut c_void)>,
    /// Its argument.
    pub data: HostPointer,
}

impl HostFunction {
    /// Calls it.
    pub fn call(self) {
        if let Some(function) = self.function {
            // SAFETY: whoever enqueued it promised that it may be called with this argument from
            // any thread.
            unsafe { function(self.data.0) }
        }
    }
}
