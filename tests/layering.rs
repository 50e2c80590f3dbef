//! Imports run one way, as DESIGN.md says; `unsafe` stays where it is allowed.

use std::fs;
use std::path::{Path, PathBuf};

/// What each module of `src/` may import from the crate. `testing` serves tests of all layers and
/// may see any.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("error", &[]),
    ("dtype", &[]),
    ("params", &["error"]),
    ("reference", &[]),
    ("cpu", &["error", "dtype", "params"]),
    ("cuda", &["error", "dtype", "params"]),
    ("cuda_absent", &["error", "dtype", "params"]),
    ("tensor", &["error", "dtype", "cuda"]),
    (
        "ops",
        &["error", "dtype", "params", "tensor", "cpu", "cuda"],
    ),
    (
        "models",
        &["error", "dtype", "params", "tensor", "ops", "io"],
    ),
    ("io", &["error", "dtype", "tensor"]),
];

/// Names that `lib.rs` re-exports, and the module that each comes from.
const REEXPORTS: [(&str, &str); 7] = [
    ("DType", "dtype"),
    ("Element", "dtype"),
    ("Float", "dtype"),
    ("Error", "error"),
    ("Result", "error"),
    ("Device", "tensor"),
    ("Tensor", "tensor"),
];

/// Modules whose files may hold `unsafe`.
const MAY_BE_UNSAFE: [&str; 2] = ["cuda", "cpu"];

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The module of a file: the first part of its path below `src`.
fn module_of(file: &Path, src: &Path) -> String {
    let below = file.strip_prefix(src).expect("the file lies below src");
    let first = below.components().next().expect("a file has a name");
    Path::new(first.as_os_str())
        .with_extension("")
        .to_string_lossy()
        .into_owned()
}

/// The lines of a text that are not comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// The crate's modules that a text names as `crate::x` or `crate::{x, y}`.
fn imports(text: &str) -> Vec<String> {
    let text: String = code(text).collect::<Vec<_>>().join(" ");
    text.split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(group) => group
                .split(['}', ';'])
                .next()
                .unwrap_or("")
                .split(',')
                .collect(),
            None => vec![rest],
        })
        .map(|name| {
            name.trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        })
        .map(
            |name| match REEXPORTS.iter().find(|(reexport, _)| *reexport == name) {
                Some((_, module)) => (*module).to_owned(),
                None => name,
            },
        )
        .collect()
}

/// Breaches of the rule in one file of `module`.
fn breaches(module: &str, text: &str) -> Vec<String> {
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        return Vec::new();
    };
    imports(text)
        .into_iter()
        .filter(|import| import != module && !allowed.contains(&import.as_str()))
        .map(|import| format!("`{module}` must not import `{import}`"))
        .collect()
}

#[test]
fn imports_run_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in rust_files(&src) {
        let text = fs::read_to_string(&file).expect("src is readable");
        let module = module_of(&file, &src);
        let known = MAY_IMPORT.iter().any(|(name, _)| *name == module);
        assert!(
            known || module == "lib" || module == "testing",
            "`{module}` has no rule"
        );
        for breach in breaches(&module, &text) {
            found.push(format!("{}: {breach}", file.display()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_stays_in_the_backends() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&src) {
        if MAY_BE_UNSAFE.contains(&module_of(&file, &src).as_str()) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("src is readable");
        for line in code(&text) {
            assert!(!line.contains("unsafe "), "{}: {line}", file.display());
        }
    }
}

#[test]
fn a_breach_is_seen() {
    assert_eq!(breaches("cpu", "use crate::cuda::Context;").len(), 1);
    assert_eq!(breaches("cpu", "use crate::{cuda, dtype::Float};").len(), 1);
    assert_eq!(breaches("cuda", "let x: crate::Tensor;").len(), 1);
    assert_eq!(breaches("reference", "use crate::dtype::Float;").len(), 1);
    assert_eq!(
        breaches("ops", "use crate::cuda;\n// crate::models").len(),
        0
    );
}
