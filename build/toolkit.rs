//! Finds nvcc.
//!
//! The order is `OCELLI_NVCC` (a program), `CUDA_HOME`, `CUDA_PATH` (directories), `PATH`,
//! `/usr/local/cuda`, and `cuda` in cargo's target directory. A setting of the first three that
//! does not lead to a usable nvcc is an error; the other places are passed over with a reason.

use std::env;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// NVIDIA's compiler on PyPI. All five are pinned: one alone pulls in newer ones that do not fit.
pub const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// The environment variables that the search reads.
pub const VARIABLES: [&str; 4] = ["OCELLI_NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"];

/// The oldest nvcc accepted: the first with every instruction that the sm_90a kernels use.
pub const OLDEST: Version = Version([12, 4, 0]);

/// Where nvcc lies below a toolkit's directory: NVIDIA's installers, and `pip install --target`.
const LAYOUTS: [&str; 2] = ["bin/nvcc", "nvidia/cu13/bin/nvcc"];

/// A usable compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolkit {
    pub nvcc: PathBuf,
    pub version: Version,
    /// What `nvcc --version` prints, which tells two builds of one version apart.
    pub banner: String,
}

/// An nvcc version: major, minor, build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u32; 3]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, build] = self.0;
        write!(f, "{major}.{minor}.{build}")
    }
}

impl Version {
    /// Reads the version out of what `nvcc --version` prints: `... release 13.0, V13.0.88 ...`.
    pub fn parse(banner: &str) -> Option<Self> {
        let (_, rest) = banner.split_once("release ")?;
        let (_, rest) = rest.split_once(", V")?;
        let number = rest.split_whitespace().next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let version = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(Self(version))
    }
}

/// The places to search, read from the environment once.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Settings that name one place: variable and value. Empty values count as unset.
    pub explicit: Vec<(&'static str, PathBuf)>,
    /// The absolute directories of `PATH`.
    pub path: Vec<PathBuf>,
    /// Toolkit directories that need no setting.
    pub roots: Vec<PathBuf>,
    /// The last of the roots: where the message suggests to install.
    pub install_to: PathBuf,
}

impl Places {
    /// The places for a build whose target directory is `target`.
    pub fn from_env(target: &Path) -> Self {
        let explicit = ["OCELLI_NVCC", "CUDA_HOME", "CUDA_PATH"]
            .into_iter()
            .filter_map(|name| Some((name, env::var_os(name).filter(|value| !value.is_empty())?)))
            .map(|(name, value)| (name, PathBuf::from(value)))
            .collect();
        let install_to = target.join("cuda");
        Self {
            explicit,
            path: env::split_paths(&env::var_os("PATH").unwrap_or_default())
                .filter(|directory| directory.is_absolute())
                .collect(),
            roots: vec![PathBuf::from("/usr/local/cuda"), install_to.clone()],
            install_to,
        }
    }

    /// Every file that the search takes for an nvcc if it exists, settings left out, in order.
    pub fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        let in_path = self.path.iter().map(|directory| directory.join("nvcc"));
        in_path.chain(
            self.roots
                .iter()
                .flat_map(|root| LAYOUTS.map(|layout| root.join(layout))),
        )
    }
}

/// How a search that met no wrong setting ended.
#[derive(Debug)]
pub enum Search {
    Found(Toolkit),
    /// One sentence or two: the places searched, and how to install the compiler.
    Absent(String),
}

/// Searches the places in order. An explicit setting that does not work is an error.
pub fn find(places: &Places) -> Result<Search, String> {
    if let Some((variable, value)) = places.explicit.first() {
        return explicit(variable, value)
            .map(Search::Found)
            .map_err(|why| format!("{variable}={}: {why}", value.display()));
    }
    let mut passed = vec!["OCELLI_NVCC, CUDA_HOME and CUDA_PATH (not set)".to_owned()];
    let mut misfits = 0;
    for nvcc in places
        .path
        .iter()
        .map(|directory| directory.join("nvcc"))
        .filter(|nvcc| nvcc.is_file())
    {
        match probe(&nvcc) {
            Ok(toolkit) => return Ok(Search::Found(toolkit)),
            Err(why) => passed.push(format!("PATH ({}: {why})", nvcc.display())),
        }
        misfits += 1;
    }
    if misfits == 0 {
        passed.push(format!(
            "PATH (no nvcc in its {} directories)",
            places.path.len()
        ));
    }
    for root in &places.roots {
        match in_root(root) {
            Ok(toolkit) => return Ok(Search::Found(toolkit)),
            Err(why) => passed.push(format!("{} ({why})", root.display())),
        }
    }
    Ok(Search::Absent(format!(
        "no usable nvcc in {}. To install NVIDIA's compiler: `cargo xtask cuda` in a checkout of ocelli, or `{}`; it needs g++ besides.",
        passed.join(", "),
        pip_command(&places.install_to),
    )))
}

/// The command that installs the compiler into `directory`.
pub fn pip_command(directory: &Path) -> String {
    format!(
        "python3 -m pip install --no-deps --target {} {}",
        directory.display(),
        WHEELS.join(" ")
    )
}

fn explicit(variable: &str, value: &Path) -> Result<Toolkit, String> {
    if variable != "OCELLI_NVCC" {
        return in_root(value);
    }
    match value.is_file() {
        true => probe(value),
        false => Err("there is no such file; it must be the path of nvcc".to_owned()),
    }
}

/// The compiler of the toolkit in `root`.
pub fn in_root(root: &Path) -> Result<Toolkit, String> {
    match LAYOUTS
        .iter()
        .map(|layout| root.join(layout))
        .find(|nvcc| nvcc.is_file())
    {
        Some(nvcc) => probe(&nvcc),
        None => Err(format!("no {}", LAYOUTS.join(" or "))),
    }
}

/// Runs `nvcc --version`. A file that was only just written may be busy: a process that forked in
/// between holds it until it executes its own program.
fn version_of(nvcc: &Path) -> std::io::Result<Output> {
    for _ in 0..50 {
        match Command::new(nvcc).arg("--version").output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
    Command::new(nvcc).arg("--version").output()
}

/// Asks an nvcc for its version.
fn probe(nvcc: &Path) -> Result<Toolkit, String> {
    let output = version_of(nvcc).map_err(|error| format!("it cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`nvcc --version` failed: {}", output.status));
    }
    let banner = String::from_utf8_lossy(&output.stdout).into_owned();
    let version =
        Version::parse(&banner).ok_or_else(|| "`nvcc --version` prints no version".to_owned())?;
    if version < OLDEST {
        return Err(format!("nvcc {version} is older than {OLDEST}"));
    }
    Ok(Toolkit {
        nvcc: nvcc.to_path_buf(),
        version,
        banner,
    })
}
