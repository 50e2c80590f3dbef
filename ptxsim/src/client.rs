//! For test programs: load the simulated driver in place of a real one, and read its reports.
//!
//! A test program links this crate for this module alone. The driver itself is the shared library
//! beside it, which has statics of its own: everything here goes through its `ptxsim_*` exports.
//!
//! ```no_run
//! let simulator = ptxsim::client::load()?; // before the first call of cudarc
//! // ... launch kernels ...
//! for report in simulator.take_reports() {
//!     assert!(report.findings.is_empty());
//! }
//! # Ok::<(), ptxsim::client::LoadError>(())
//! ```

use std::ffi::c_void;
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::driver::control::{ARCHS, CHECKS, Sink, VERSION};
use crate::report::LaunchReport;
use crate::sim::{Arch, Checks};

/// File name of the simulated driver.
const FILE: &str = "libptxsim.so";

/// The name that cudarc opens first, and the library's `DT_SONAME`.
const SONAME: &str = "libcuda.so";

/// Why the simulated driver is not in place.
#[derive(Debug)]
pub enum LoadError {
    /// The machine has a real driver, which is left alone unless asked otherwise.
    RealDriver(PathBuf),
    /// The library is in none of these places.
    NotFound(Vec<PathBuf>),
    /// The library was found and cannot be loaded.
    Broken(PathBuf, String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::RealDriver(device) => write!(
                f,
                "ptxsim: {} says that this machine has a GPU; set PTXSIM=1 to simulate one all the same",
                device.display()
            ),
            LoadError::NotFound(places) => {
                let places: Vec<_> = places
                    .iter()
                    .map(|place| place.display().to_string())
                    .collect();
                write!(
                    f,
                    "ptxsim: no {FILE} at {}; run `cargo build -p ptxsim` or set PTXSIM_LIB",
                    places.join(", ")
                )
            }
            LoadError::Broken(path, error) => write!(f, "ptxsim: {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for LoadError {}

/// The loaded simulated driver.
#[derive(Debug)]
pub struct Simulator {
    library: Library,
    path: PathBuf,
}

/// Loads the simulated driver, so that a later `dlopen("libcuda.so")` of this process gets it.
///
/// Does so only where there is no real driver, or `PTXSIM=1` asks for it. Must come before the
/// first use of cudarc, which settles on a driver once a process. May be called again.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load() -> Result<Simulator, LoadError> {
    let asked = std::env::var("PTXSIM").is_ok_and(|value| value == "1");
    match real_driver() {
        Some(device) if !asked && preloaded().is_none() => Err(LoadError::RealDriver(device)),
        _ => load_always(),
    }
}

/// [`load`], on a machine with a real driver too.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load_always() -> Result<Simulator, LoadError> {
    if let Some(library) = preloaded() {
        return Simulator::new(library, PathBuf::from(SONAME));
    }
    let path = find()?;
    // SAFETY: the library is this crate's own, whose loading runs no code.
    let library =
        unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL | libc::RTLD_NODELETE) };
    match library {
        Ok(library) => Simulator::new(library, path),
        Err(error) => Err(LoadError::Broken(path, error.to_string())),
    }
}

/// The simulated driver where the process has it already.
fn preloaded() -> Option<Library> {
    // SAFETY: with RTLD_NOLOAD nothing is loaded and no code runs.
    let library = unsafe { Library::open(Some(SONAME), RTLD_NOW | libc::RTLD_NOLOAD) }.ok()?;
    // SAFETY: only the symbol's presence matters; it is not called here.
    let own = unsafe { library.get::<extern "C" fn() -> u32>(b"ptxsim_version\0") }.is_ok();
    own.then_some(library)
}

/// A device file that says that there is a GPU, of a bare machine or of WSL.
fn real_driver() -> Option<PathBuf> {
    let devices = ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"];
    devices
        .iter()
        .map(PathBuf::from)
        .find(|device| device.exists())
}

/// The library: `PTXSIM_LIB`; else in the program's own profile of the target directory; else in
/// another profile of it.
fn find() -> Result<PathBuf, LoadError> {
    if let Some(path) = std::env::var_os("PTXSIM_LIB") {
        return Ok(PathBuf::from(path));
    }
    let program = std::env::current_exe().unwrap_or_default();
    // A test program lies in target/<profile>/deps, an example in target/<profile>/examples.
    let own: Vec<_> = program
        .ancestors()
        .skip(1)
        .take(2)
        .flat_map(in_directory)
        .collect();
    let target = program.ancestors().find(|directory| is_target(directory));
    let profiles = target
        .into_iter()
        .flat_map(|target| ["release", "debug"].map(|profile| target.join(profile)));
    let others: Vec<_> = profiles
        .flat_map(|profile| in_directory(&profile))
        .collect();
    let found = newest(&own).or_else(|| newest(&others));
    found.ok_or_else(|| LoadError::NotFound([own, others].concat()))
}

/// `cargo build` leaves the library in the profile's directory too, `cargo test` in `deps` only.
fn in_directory(directory: &Path) -> [PathBuf; 2] {
    [directory.join(FILE), directory.join("deps").join(FILE)]
}

/// The file that was built last, since an older one may be left of an earlier command.
fn newest(places: &[PathBuf]) -> Option<PathBuf> {
    let built = |place: &PathBuf| place.metadata().and_then(|file| file.modified()).ok();
    places
        .iter()
        .filter(|place| place.is_file())
        .max_by_key(|place| built(place))
        .cloned()
}

/// Cargo marks its target directory.
fn is_target(directory: &Path) -> bool {
    directory.join("CACHEDIR.TAG").is_file()
}

impl Simulator {
    fn new(library: Library, path: PathBuf) -> Result<Simulator, LoadError> {
        let simulator = Simulator { library, path };
        let version = simulator.call("ptxsim_version", |version: extern "C" fn() -> u32| {
            version()
        });
        if version != Some(VERSION) {
            let problem =
                format!("its exports have version {version:?}, this program wants {VERSION}");
            return Err(LoadError::Broken(simulator.path, problem));
        }
        simulator.call("ptxsim_keep_reports", |keep: extern "C" fn()| keep());
        Ok(simulator)
    }

    /// Calls an export whose type `F` must be that of `driver::control`.
    fn call<F: Copy, R>(&self, name: &str, body: impl FnOnce(F) -> R) -> Option<R> {
        // SAFETY: the types at the call sites are those of the functions in `driver::control`,
        // which carry these names; `ptxsim_version` holds the two together.
        let function = unsafe { self.library.get::<F>(name.as_bytes()) }.ok()?;
        Some(body(*function))
    }

    /// The library.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The architecture that the driver simulates, or will.
    pub fn arch(&self) -> Arch {
        let number = self.call("ptxsim_arch", |arch: extern "C" fn() -> u32| arch());
        number
            .and_then(|number| ARCHS.get(number as usize).copied())
            .unwrap_or_default()
    }

    /// Chooses the architecture instead of `PTXSIM_ARCH`. Returns whether the driver has it: after
    /// its first use it can no longer change.
    pub fn set_arch(&self, arch: Arch) -> bool {
        let number = ARCHS.iter().position(|&known| known == arch).unwrap_or(0) as u32;
        self.call("ptxsim_set_arch", |set: extern "C" fn(u32) -> u32| {
            set(number)
        }) == Some(0)
    }

    /// Chooses the checks of launches by the calling thread, instead of `PTXSIM_CHECKS`.
    pub fn set_checks(&self, checks: Checks) {
        let number = CHECKS
            .iter()
            .position(|&known| known == checks)
            .unwrap_or(0) as u32;
        self.call("ptxsim_set_checks", |set: extern "C" fn(u32) -> u32| {
            set(number)
        });
    }

    /// Whether the library prints findings, and why calls fail, to the standard error. Tests that
    /// provoke them turn it off. For all threads.
    pub fn set_prints(&self, prints: bool) {
        let number = u32::from(prints);
        self.call("ptxsim_set_prints", |set: extern "C" fn(u32)| set(number));
    }

    /// Reports of the launches that the calling thread made since the last call, in their order.
    /// Launches of other threads are theirs: tests that run in parallel do not mix.
    pub fn take_reports(&self) -> Vec<LaunchReport> {
        unsafe extern "C" fn collect(target: *mut c_void, bytes: *const u8, len: usize) {
            // SAFETY: `target` is the vector below, and the library lends `len` bytes.
            unsafe {
                let target = &mut *target.cast::<Vec<u8>>();
                target.extend_from_slice(std::slice::from_raw_parts(bytes, len));
            }
        }
        let mut json = Vec::new();
        let target = (&raw mut json).cast();
        self.call(
            "ptxsim_take_reports",
            |take: unsafe extern "C" fn(Sink, *mut c_void) -> u32| {
                // SAFETY: `collect` is called with `target` during this call only.
                unsafe { take(collect, target) }
            },
        );
        serde_json::from_slice(&json).unwrap_or_default()
    }

    /// Findings so far, of all threads of the process.
    pub fn findings(&self) -> u64 {
        self.call("ptxsim_findings", |count: extern "C" fn() -> u64| count())
            .unwrap_or(0)
    }
}
