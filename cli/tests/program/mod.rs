//! The program `ocelli` as a user runs it.

#![allow(dead_code, reason = "each test program uses its part")]

use ocelli::io::{TensorFile, write_tensors};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own for a test, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ocelli-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the program.
pub fn ocelli(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs the program with a simulated GPU; nothing, and a line that says so, where there is no simulator or there are no
/// kernels for it.
pub fn ocelli_simulated(arguments: &[&str]) -> Option<Output> {
    let simulator = match ptxsim::client::load_always() {
        Ok(simulator) => simulator.path().to_owned(),
        Err(error) => {
            let required = std::env::var("OCELLI_REQUIRE_SIM").is_ok_and(|value| value == "1");
            assert!(!required, "{error}");
            println!("skipped: {error}");
            return None;
        }
    };
    let run = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .env("LD_PRELOAD", simulator)
        .args(arguments)
        .output()
        .unwrap();
    let text = error_text(&run);
    if text.contains("holds no CUDA kernels") {
        println!("skipped: {text}");
        return None;
    }
    Some(run)
}

/// What the program wrote on standard error.
pub fn error_text(run: &Output) -> String {
    String::from_utf8_lossy(&run.stderr).into_owned()
}

/// Fails with the program's own words where it failed.
pub fn assert_success(run: &Output) {
    assert!(run.status.success(), "{}", error_text(run));
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A golden file of a model: `weights.<name>` and `in.<name>`.
pub fn golden(model: &str) -> TensorFile {
    let file = format!("../tests/golden/models/{model}.safetensors");
    TensorFile::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Writes the tensors of a golden file whose names begin with `prefix`, without it.
pub fn write_part(golden: &TensorFile, prefix: &str, path: &Path) {
    let names = golden.names();
    let part = names.iter().filter_map(|name| {
        let own = name.strip_prefix(prefix)?;
        Some((own.to_owned(), golden.tensor(name).unwrap()))
    });
    write_tensors(path, &part.collect()).unwrap();
}
