//! Modules and libraries, and finding functions and variables in them.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_uint, c_void};
use std::sync::{Arc, PoisonError, RwLock};

use super::context::current;
use super::ffi::{HostPointer, In, Out, Text, exports};
use super::function::Function;
use super::handle::Handle;
use super::report;
use super::state::driver;
use super::status::{Result, Status};
use crate::image::{self, ImageError, Kind};
use crate::sim::{LoadError, Module};

/// A module; also what a library is.
pub struct LoadedModule {
    handle: Handle,
    module: Module,
    functions: BTreeMap<String, Arc<Function>>,
}

/// A status with what is wrong, for the error log that a caller may have asked for.
struct Failure {
    status: Status,
    message: String,
}

impl Failure {
    fn new(status: Status, message: impl ToString) -> Failure {
        Failure {
            status,
            message: message.to_string(),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        let status = match error {
            ImageError::NoPtx { .. } => Status::NO_BINARY_FOR_GPU,
            ImageError::Malformed(_) => Status::INVALID_IMAGE,
        };
        Failure::new(status, error)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        let status = match error {
            LoadError::OutOfMemory(_) => Status::OUT_OF_MEMORY,
            _ => Status::INVALID_PTX,
        };
        Failure::new(status, error)
    }
}

/// Images larger than this are taken for garbage in a header.
const MAX_IMAGE: usize = 1 << 30;

/// The bytes of an image of which only the start is known.
fn image_bytes(image: HostPointer) -> std::result::Result<Vec<u8>, Failure> {
    let malformed = |message: &str| Failure::new(Status::INVALID_IMAGE, message);
    let read = |at: HostPointer, len: usize| {
        at.read(len, |bytes| Ok(bytes.to_vec()))
            .map_err(|_| malformed("the image ends before its header says"))
    };
    match image::kind(&read(image, 4)?) {
        Kind::Fatbin => {
            let mut header = [0; image::HEADER_BYTES];
            header.copy_from_slice(&read(image, image::HEADER_BYTES)?);
            let len = image::container_bytes(&header)?;
            if len > MAX_IMAGE {
                return Err(malformed("the image's header asks for more than 1 GiB"));
            }
            read(image, len)
        }
        Kind::Wrapper => {
            let mut address = [0; 8];
            address.copy_from_slice(&read(image, 16)?[8..]);
            let inner = HostPointer::from_address(u64::from_le_bytes(address));
            // A wrapper within a wrapper does not exist; refusing it ends the recursion.
            match image::kind(&read(inner, 4)?) {
                Kind::Wrapper => Err(malformed("a fatbin wrapper points to another one")),
                _ => image_bytes(inner),
            }
        }
        Kind::Cubin => Err(Failure::new(
            Status::NO_BINARY_FOR_GPU,
            "the image is a cubin: ptxsim executes PTX; compile with -gencode arch=compute_80,code=compute_80",
        )),
        Kind::Text => Ok(image.text().ok_or_else(|| malformed("no image"))?),
    }
}

fn load(bytes: &[u8]) -> std::result::Result<Arc<LoadedModule>, Failure> {
    let driver = driver().map_err(|status| Failure::new(status, "cuInit has not been called"))?;
    let ptx = image::ptx_for(bytes, driver.arch)?;
    let module = Module::load(&ptx, driver.arch, &driver.memory)?;
    let handle = Handle::fresh();
    let mut functions = BTreeMap::new();
    for name in module.kernel_names() {
        if let Some(kernel) = module.kernel(name) {
            let function = Function::new(handle, kernel, driver.arch);
            driver.functions.insert(function.handle, function.clone());
            functions.insert(name.to_owned(), function);
        }
    }
    let loaded = Arc::new(LoadedModule {
        handle,
        module,
        functions,
    });
    driver.modules.insert(handle, loaded.clone());
    Ok(loaded)
}

/// Loads an image, and says on the standard error why it cannot be.
fn load_reporting(
    out: Out<Handle>,
    bytes: std::result::Result<Vec<u8>, Failure>,
    log: &Log,
) -> Result {
    current()?;
    out.check()?;
    match bytes.and_then(|bytes| load(&bytes)) {
        Ok(module) => out.set(module.handle),
        Err(failure) => {
            report::explain("cannot load module", &failure.message);
            log.write(&failure.message)?;
            Err(failure.status)
        }
    }
}

fn file_bytes(path: Text) -> Result<Vec<u8>> {
    std::fs::read(path.get()?).map_err(|_| Status::FILE_NOT_FOUND)
}

/// The error log of `cuModuleLoadDataEx`.
#[derive(Default)]
struct Log {
    buffer: Option<HostPointer>,
    room: usize,
}

impl Log {
    const BUFFER: c_uint = 5;
    const BUFFER_BYTES: c_uint = 6;

    /// `CUjit_option` and their values; a number stands in place of the pointer.
    fn from_options(count: c_uint, options: In<c_uint>, values: In<HostPointer>) -> Result<Log> {
        let options = options.get_many(count as usize)?;
        let values = values.get_many(count as usize)?;
        let mut log = Log::default();
        for (option, value) in options.into_iter().zip(values) {
            match option {
                Log::BUFFER => log.buffer = Some(value),
                Log::BUFFER_BYTES => log.room = value.address() as u32 as usize,
                _ => {}
            }
        }
        Ok(log)
    }

    fn write(&self, message: &str) -> Result {
        let (Some(buffer), Some(room)) = (self.buffer, self.room.checked_sub(1)) else {
            return Ok(());
        };
        let text = &message.as_bytes()[..message.len().min(room)];
        buffer.write(text.len() + 1, |target| {
            target[..text.len()].copy_from_slice(text);
            target[text.len()] = 0;
            Ok(())
        })
    }
}

impl LoadedModule {
    fn function(&self, name: &str) -> Result<Arc<Function>> {
        self.functions.get(name).cloned().ok_or(Status::NOT_FOUND)
    }

    fn global(&self, name: Text, address: Out<u64>, bytes: Out<usize>) -> Result {
        let (start, len) = self.module.global(&name.get()?).ok_or(Status::NOT_FOUND)?;
        address.set_if_wanted(start);
        bytes.set_if_wanted(len as usize);
        Ok(())
    }
}

fn find(module: Handle) -> Result<Arc<LoadedModule>> {
    driver()?.modules.get(module)
}

fn unload(module: Handle) -> Result {
    let driver = driver()?;
    let module = driver.modules.remove(module)?;
    for function in module.functions.values() {
        driver.functions.remove(function.handle)?;
    }
    Ok(())
}

/// Names as C strings that live as long as the process, since the API lends them out.
pub fn intern(name: &str) -> *const c_char {
    static NAMES: RwLock<BTreeMap<String, CString>> = RwLock::new(BTreeMap::new());
    let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
    let make = || CString::new(name.replace('\0', "")).unwrap_or_default();
    // The text of a `CString` does not move with the map's entry, and entries are never removed.
    names.entry(name.to_owned()).or_insert_with(make).as_ptr()
}

exports! {
    fn cuModuleLoadData(module: Out<Handle>, image: HostPointer) {
        load_reporting(module, image_bytes(image), &Log::default())
    }

    fn cuModuleLoadDataEx(
        module: Out<Handle>, image: HostPointer, count: c_uint, options: In<c_uint>,
        values: In<HostPointer>,
    ) {
        load_reporting(module, image_bytes(image), &Log::from_options(count, options, values)?)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, image: HostPointer) {
        load_reporting(module, image_bytes(image), &Log::default())
    }

    fn cuModuleLoad(module: Out<Handle>, path: Text) {
        current()?;
        load_reporting(module, Ok(file_bytes(path)?), &Log::default())
    }

    fn cuModuleUnload(module: Handle) {
        unload(module)
    }

    fn cuModuleGetLoadingMode(mode: Out<c_uint>) {
        // CU_MODULE_EAGER_LOADING.
        mode.set(1)
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        function.set(find(module)?.function(&name.get()?)?.handle)
    }

    fn cuModuleGetFunctionCount(count: Out<c_uint>, module: Handle) {
        count.set(find(module)?.functions.len() as c_uint)
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, room: c_uint, module: Handle) {
        let module = find(module)?;
        functions.set_many(module.functions.values().map(|function| function.handle), room as usize)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        find(module)?.global(name, address, bytes)
    }

    fn cuLibraryLoadData(
        library: Out<Handle>, image: HostPointer, _jit: In<c_uint>, _jit_values: In<HostPointer>,
        _jit_count: c_uint,
        _options: In<c_uint>, _values: In<c_void>, _count: c_uint,
    ) {
        load_reporting(library, image_bytes(image), &Log::default())
    }

    fn cuLibraryLoadFromFile(
        library: Out<Handle>, path: Text, _jit: In<c_uint>, _jit_values: In<HostPointer>,
        _jit_count: c_uint,
        _options: In<c_uint>, _values: In<c_void>, _count: c_uint,
    ) {
        load_reporting(library, Ok(file_bytes(path)?), &Log::default())
    }

    fn cuLibraryUnload(library: Handle) {
        unload(library)
    }

    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) {
        module.set(find(library)?.handle)
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        kernel.set(find(library)?.function(&name.get()?)?.handle)
    }

    fn cuLibraryGetKernelCount(count: Out<c_uint>, library: Handle) {
        count.set(find(library)?.functions.len() as c_uint)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        find(library)?.global(name, address, bytes)
    }
}
