//! Packages from PyPI, unpacked into a directory of their own.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Unpacks packages into `directory` by `pip install --target`, with these options besides. pip's own progress is shown
/// unless they say otherwise.
pub fn install(directory: &Path, arguments: &[&str]) -> Result<()> {
    let python = ["python3", "python"]
        .into_iter()
        .find(|python| runs(python, &["-m", "pip", "--version"]))
        .context("python3 with pip was not found: install it")?;
    let status = Command::new(python)
        .args(["-m", "pip", "install", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary=:all:", "--retries=2"])
        .arg("--target")
        .arg(directory)
        .args(arguments)
        // A private directory is safe to fill as root; older versions of pip ignore this.
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .status()
        .with_context(|| format!("{python} -m pip"))?;
    if !status.success() {
        bail!("pip failed: {status}");
    }
    Ok(())
}

/// Whether a program is there and succeeds.
pub fn runs(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
