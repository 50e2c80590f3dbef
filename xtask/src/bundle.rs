//! `cargo xtask gpu-bundle`: prebuilt tests and benches for a GPU machine that has no Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cuda;
use crate::test::DEVICE_TESTS;
use crate::workspace::{Workspace, shown};

/// The most the bundle may weigh, in bytes.
const LIMIT: u64 = 40 << 20;

/// Files of the checkout that go along as they are.
const FILES: [&str; 3] = [
    "xtask/bundle/run.sh",
    "xtask/bundle/ncu.txt",
    "benches/peers.py",
];

/// Makes `gpu-bundle` in the target directory.
pub fn run(workspace: &Workspace) -> Result<()> {
    let toolkit = cuda::set_up(workspace)?;
    println!("kernels: built by nvcc {}", toolkit.version);
    let bundle = workspace.target.join("gpu-bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle).with_context(|| bundle.display().to_string())?;
    }
    fs::create_dir_all(&bundle).with_context(|| bundle.display().to_string())?;

    let [ops, _] = DEVICE_TESTS;
    let tests = [
        "rustc",
        "--release",
        "--package=ocelli",
        "--test",
        ops,
        "--",
        "--cfg=with_models",
    ];
    let tests = program(&workspace.build_messages(&tests)?, "test")?;
    let benches = ["bench", "--no-run", "--package=ocelli", "--bench=*"];
    let benches = program(&workspace.build_messages(&benches)?, "bench")?;
    let programs = workspace.target.join("gpu-programs");
    fs::create_dir_all(&programs).with_context(|| programs.display().to_string())?;
    strip(&tests, &programs.join("tests"))?;
    strip(&benches, &programs.join("benches"))?;
    pack(&programs, &bundle.join("programs.tar.xz"))?;
    for file in FILES {
        let from = workspace.root.join(file);
        let name = from.file_name().context("a file's name")?;
        fs::copy(&from, bundle.join(name)).with_context(|| file.to_owned())?;
    }
    fs::write(bundle.join("version.txt"), version(workspace)).context("version.txt")?;
    let size = weigh(&bundle)?;
    println!(
        "{}: {:.1} MiB",
        bundle.display(),
        size as f64 / f64::from(1 << 20)
    );
    if size > LIMIT {
        bail!("the bundle weighs {size} bytes; it may weigh {LIMIT}");
    }
    Ok(())
}

/// The one program of this kind that cargo built for the library.
fn program(messages: &[Value], kind: &str) -> Result<PathBuf> {
    let programs: Vec<&str> = messages
        .iter()
        .filter(|message| message["target"]["kind"][0] == kind)
        .filter_map(|message| message["executable"].as_str())
        .collect();
    match programs[..] {
        [program] => Ok(program.into()),
        _ => bail!(
            "there must be one {kind} program, found {}: {programs:?}",
            programs.len()
        ),
    }
}

/// Copies a program without its symbols and line tables, which are most of its size.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("strip");
    command.arg("-o").args([to, from]);
    let status = command.status().context("strip, of binutils")?;
    match status.success() {
        true => Ok(()),
        false => bail!("{} failed: {status}", shown(&command)),
    }
}

/// Compresses the programs, of which the kernels of three architectures are most: to a sixth.
fn pack(programs: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--xz", "--file"]).arg(to);
    command
        .arg("--directory")
        .arg(programs)
        .args(["tests", "benches"]);
    let status = command.status().context("tar, with xz")?;
    match status.success() {
        true => Ok(()),
        false => bail!("{} failed: {status}", shown(&command)),
    }
}

/// The package version and the commit, marked where the checkout differs from it.
fn version(workspace: &Workspace) -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(&workspace.root)
        .output();
    let commit = git.ok().filter(|output| output.status.success());
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "{} {}\n",
        env!("CARGO_PKG_VERSION"),
        commit.as_deref().unwrap_or("(no commit known)")
    )
}

/// The bytes in a directory's files, each listed.
fn weigh(directory: &Path) -> Result<u64> {
    let mut sizes = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        sizes.push((entry.file_name(), entry.metadata()?.len()));
    }
    sizes.sort();
    for (name, size) in &sizes {
        println!("{size:>10} {}", name.to_string_lossy());
    }
    Ok(sizes.iter().map(|(_, size)| size).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(kind: &str, executable: Value) -> Value {
        serde_json::json!({
            "reason": "compiler-artifact",
            "target": { "kind": [kind], "name": "devices" },
            "executable": executable,
        })
    }

    #[test]
    fn the_program_is_told_from_libraries_and_other_messages() {
        let messages = [
            serde_json::json!({ "reason": "build-script-executed", "out_dir": "/o" }),
            artifact("lib", Value::Null),
            artifact("bin", "/t/ocelli".into()),
            artifact("test", "/t/devices-0a".into()),
        ];
        let found = program(&messages, "test").expect("one test program");
        assert_eq!(found, Path::new("/t/devices-0a"));
    }

    #[test]
    fn none_and_two_programs_are_errors() {
        let one = artifact("bench", "/t/a".into());
        let two = [one.clone(), artifact("bench", "/t/b".into())];
        assert!(program(&[], "bench").is_err());
        assert!(program(&two, "bench").is_err());
        assert!(program(&two[..1], "bench").is_ok());
    }

    #[test]
    fn a_directory_weighs_what_its_files_weigh() {
        let directory = std::env::temp_dir().join(format!("ocelli-weigh-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("a"), [0; 700]).expect("a file");
        fs::write(directory.join("b"), [0; 34]).expect("a file");
        let weight = weigh(&directory);
        fs::remove_dir_all(&directory).expect("the directory can go");
        assert_eq!(weight.expect("readable"), 734);
    }
}
