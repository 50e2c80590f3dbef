//! The checkout, and running cargo in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A checkout and its target directory.
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
}

impl Workspace {
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in the workspace")?
            .to_path_buf();
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(&root)
            .stderr(Stdio::inherit())
            .output()
            .context("cargo metadata")?;
        let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata: no target")?;
        Ok(Self {
            root,
            target: target.into(),
        })
    }

    /// A cargo command, to be run in the checkout.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).args(arguments);
        command
    }

    /// Runs a cargo command that builds, and returns its JSON messages. Diagnostics are shown.
    pub fn build_messages(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut command = self.cargo(&arguments[..1]);
        command
            .arg("--message-format=json-render-diagnostics")
            .args(&arguments[1..])
            .stderr(Stdio::inherit());
        let output = command.output().with_context(|| shown(&command))?;
        if !output.status.success() {
            bail!("{} failed: {}", shown(&command), output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .map(|line| serde_json::from_str(line).context("a message of cargo"))
            .collect()
    }
}

/// The cargo that runs us.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy();
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy());
    std::iter::once(name)
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
