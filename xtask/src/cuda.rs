//! `cargo xtask cuda`: NVIDIA's compiler from PyPI, in the target directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::pip;
use crate::toolkit::{self, Places, Search, Toolkit};
use crate::workspace::Workspace;

/// Uses instructions of both architectures that we build for, and headers of all five wheels.
const CHECK: &str = r#"#include <cuda_fp16.h>
#include <cuda/std/cstdint>
extern "C" __global__ void check(__half* x, cuda::std::uint32_t n) {
    if (threadIdx.x < n) x[threadIdx.x] = __hadd(x[threadIdx.x], x[threadIdx.x]);
#if __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.fence.sync.aligned;");
#endif
}
"#;

/// Returns the compiler that the build script will use, after installing it where there is none.
/// A compiler that is already there needs no network.
pub fn set_up(workspace: &Workspace) -> Result<Toolkit> {
    let places = Places::from_env(&workspace.target);
    match toolkit::find(&places).map_err(anyhow::Error::msg)? {
        Search::Found(toolkit) => Ok(toolkit),
        Search::Absent(_) => install(&places.install_to),
    }
}

/// Installs into `directory`, which appears whole or not at all.
fn install(directory: &Path) -> Result<Toolkit> {
    if !pip::runs("g++", &["--version"]) {
        bail!("nvcc needs g++, which was not found: install it (Debian, Ubuntu: apt install g++)");
    }
    let partial = directory.with_extension("partial");
    remove(&partial)?;
    println!(
        "installing NVIDIA's compiler into {} (271 MB, once)",
        directory.display()
    );
    let arguments = [&["--quiet"], &toolkit::WHEELS[..]].concat();
    if let Err(error) = pip::install(&partial, &arguments) {
        remove(&partial)?;
        return Err(error.context(format!(
            "pip could not install NVIDIA's compiler. Without a network, set OCELLI_NVCC to an nvcc, or copy {} \
             from another checkout",
            directory.display()
        )));
    }
    let toolkit = toolkit::in_root(&partial).map_err(anyhow::Error::msg)?;
    check(&toolkit, &partial)?;
    remove(directory)?;
    fs::rename(&partial, directory).with_context(|| directory.display().to_string())?;
    toolkit::in_root(directory).map_err(anyhow::Error::msg)
}

/// Compiles one kernel in `directory`, from another working directory than the compiler's.
fn check(toolkit: &Toolkit, directory: &Path) -> Result<()> {
    let source = directory.join("check.cu");
    let image = directory.join("check.fatbin");
    fs::write(&source, CHECK).with_context(|| source.display().to_string())?;
    let output = Command::new(&toolkit.nvcc)
        .args(["-fatbin", "-std=c++17"])
        .args(["-gencode", "arch=compute_80,code=[compute_80,sm_80]"])
        .args(["-gencode", "arch=compute_90a,code=[compute_90a,sm_90a]"])
        .args([Path::new("-o"), &image, &source])
        .output()
        .with_context(|| toolkit.nvcc.display().to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("the installed compiler does not compile a kernel:\n{text}");
    }
    Ok(())
}

/// Removes a directory if it is there.
fn remove(directory: &Path) -> Result<()> {
    match directory.exists() {
        true => fs::remove_dir_all(directory).with_context(|| directory.display().to_string()),
        false => Ok(()),
    }
}
