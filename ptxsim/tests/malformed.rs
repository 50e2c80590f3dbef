//! Whatever a program passes, a call returns a status: nothing crashes, and nothing is `UNKNOWN`,
//! which would be a panic caught at the border.

mod common;

use std::ffi::c_void;
use std::sync::OnceLock;

use common::{SAXPY, simulator};
use cudarc::driver::{result, sys};
use libloading::os::unix::Library;
use proptest::prelude::*;

/// An exported function and the types of its arguments, as the source has them.
#[derive(Debug)]
struct Function {
    name: String,
    address: usize,
    arguments: Vec<String>,
}

/// All functions that the driver implements, read from its source so that none is forgotten.
fn functions() -> &'static [Function] {
    static FUNCTIONS: OnceLock<Vec<Function>> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        // SAFETY: the library runs no code when it is loaded, and is loaded already.
        let library = unsafe { Library::open(Some(simulator().path()), libc::RTLD_NOW) }.unwrap();
        let mut functions = Vec::new();
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/driver")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for rest in text.split("\n    fn cu").skip(1) {
                let (name, rest) = rest.split_once('(').unwrap();
                let (arguments, _) = rest.split_once(") {\n").unwrap();
                let types = arguments
                    .split_inclusive([',', '\n'])
                    .filter_map(|argument| {
                        let (_, ty) = argument.trim().split_once(": ")?;
                        Some(ty.trim_end_matches(',').to_owned())
                    });
                let name = format!("cu{name}");
                // SAFETY: only looked up.
                let symbol = unsafe { library.get::<*const c_void>(name.as_bytes()) };
                let address = symbol.unwrap().as_raw_ptr() as usize;
                functions.push(Function {
                    name,
                    address,
                    arguments: types.collect(),
                });
            }
        }
        functions
    })
}

/// Memory that pointers to structures and arrays may point to: zeros, or pointers to itself, so
/// that a pointer within is valid too.
fn scratch(filled: bool) -> u64 {
    static SCRATCH: OnceLock<[usize; 2]> = OnceLock::new();
    let areas = SCRATCH.get_or_init(|| {
        [false, true].map(|filled| {
            let area = Vec::leak(vec![0u64; 8192]);
            let address = area.as_ptr() as u64;
            if filled {
                area.fill(address);
            }
            address as usize
        })
    });
    areas[usize::from(filled)] as u64
}

/// Handles and addresses of live and of dead objects.
fn objects() -> &'static [u64] {
    static OBJECTS: OnceLock<Vec<u64>> = OnceLock::new();
    OBJECTS.get_or_init(|| {
        let context = common::context();
        let stream = context.new_stream().unwrap();
        let event = context.new_event(None).unwrap();
        let function = common::function(&context, SAXPY, "saxpy");
        // SAFETY: the memory that is freed is not used by anything that must work.
        let (memory, freed) = unsafe {
            let memory = [result::malloc_sync(256), result::malloc_sync(256)].map(Result::unwrap);
            result::free_sync(memory[1]).unwrap();
            (memory[0], memory[1])
        };
        let handles = [
            stream.cu_stream() as u64,
            event.cu_event() as u64,
            context.cu_ctx() as u64,
        ];
        // What cudarc destroys here is a stale handle from then on.
        drop((stream, event, function));
        let mut live = std::ptr::null_mut();
        let mut objects = vec![0, 1, 2, 3, memory, freed, memory + 255, u64::MAX];
        objects.extend(handles);
        // SAFETY: a valid pointer.
        unsafe { sys::cuStreamCreate(&mut live, 0) }
            .result()
            .unwrap();
        objects.push(live as u64);
        let mut live = std::ptr::null_mut();
        // SAFETY: as above.
        unsafe { sys::cuGraphCreate(&mut live, 0) }
            .result()
            .unwrap();
        objects.push(live as u64);
        objects
    })
}

/// An argument of the given type that a wrong but not lawless program could pass: pointers are null
/// or good for what they are, everything else is anything.
fn argument(ty: &str, pick: u32) -> u64 {
    let pick = pick as usize;
    let small = [0, 1, 2, 3, 7, 31, 64, 4096];
    match ty {
        // Callbacks, also within structures, must be null or functions.
        "SharedByThreads" | "In<HostFunction>" => 0,
        _ if ty.starts_with("Option<") => 0,
        "Handle" => objects()[pick % objects().len()],
        // Lengths, counts and device addresses.
        "usize" => small[pick % small.len()],
        "u64" => objects()[pick % objects().len()],
        "c_uint" | "c_int" | "u32" if pick.is_multiple_of(4) => u64::from(u32::MAX),
        "c_uint" | "c_int" | "u32" => small[pick % small.len()],
        "c_uchar" | "c_ushort" | "Location" => pick as u64,
        // Text must end somewhere.
        "Text" => [0, scratch(false)][pick % 2],
        _ => [0, scratch(false), scratch(true)][pick % 3],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn calls_return_a_status(which in any::<prop::sample::Index>(), picks in prop::array::uniform12(any::<u32>())) {
        objects();
        let function = which.get(functions());
        let mut arguments = [0; 12];
        for (slot, (ty, &pick)) in arguments.iter_mut().zip(function.arguments.iter().zip(&picks)) {
            *slot = argument(ty, pick);
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = arguments;
        type Any = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u32;
        // SAFETY: in the C ABI an argument of up to 8 bytes is passed like a u64, and arguments
        // that a function does not take are not looked at. Pointers are valid or null.
        let status = unsafe {
            let call: Any = std::mem::transmute(function.address);
            call(a, b, c, d, e, f, g, h, i, j, k, l)
        };
        prop_assert_ne!(status, 999, "{:?} {:x?}", function, arguments);
        prop_assert!(status < 1000);
    }

    #[test]
    fn damaged_modules_are_refused(at in any::<prop::sample::Index>(), byte in 1u8.., cut in any::<prop::sample::Index>()) {
        let context = common::context();
        context.bind_to_thread().unwrap();
        let mut text = SAXPY.as_bytes().to_vec();
        let at = at.index(text.len());
        text[at] = byte;
        text.truncate(cut.index(text.len()) + 1);
        text.push(0);
        // SAFETY: the text ends with a zero.
        let loaded = unsafe { result::module::load_data(text.as_ptr().cast()) };
        match loaded {
            // SAFETY: it was just loaded.
            Ok(module) => unsafe { result::module::unload(module) }.unwrap(),
            Err(error) => prop_assert_ne!(error.0, sys::CUresult::CUDA_ERROR_UNKNOWN),
        }
    }
}

#[test]
fn the_source_was_understood() {
    assert!(functions().len() > 200);
    let launch = functions()
        .iter()
        .find(|function| function.name == "cuLaunchKernel")
        .unwrap();
    assert_eq!(launch.arguments.len(), 11);
    let encode = functions()
        .iter()
        .find(|function| function.name == "cuTensorMapEncodeTiled")
        .unwrap();
    assert_eq!(encode.arguments.len(), 12);
}
