//! The kernels in `kernels/` and the names that the host side loads are the same set.
#![cfg(feature = "cuda")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// `(image, symbol)` of every `extern "C"` function in the `.cu` files below `dir`. An image is
/// named after its file's path below `root`.
fn defined(root: &Path, dir: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(dir).expect("kernels is readable") {
        let path = entry.expect("kernels is readable").path();
        if path.is_dir() {
            defined(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            let text = fs::read_to_string(&path).expect("kernels is readable");
            let image = path
                .strip_prefix(root)
                .expect("the file lies below the root");
            let image = image.with_extension("").to_string_lossy().into_owned();
            found.extend(
                symbols(&text)
                    .into_iter()
                    .map(|symbol| (image.clone(), symbol)),
            );
        }
    }
}

/// Names of the `extern "C"` functions in a source text: the word before the parameter list. A macro
/// `NAME(SYMBOL, ..)` that defines one is looked up where it is used, at the start of a line.
fn symbols(text: &str) -> Vec<String> {
    let mut parts = text.split("extern \"C\"");
    let mut before = parts.next().unwrap_or_default();
    let mut found = Vec::new();
    for rest in parts {
        let parameters = without_launch_bounds(rest);
        let head = parameters.split('(').next().unwrap_or_default();
        match head.split_whitespace().last() {
            Some("SYMBOL") => found.extend(uses_of_macro(text, before)),
            Some(symbol) => found.push(symbol.to_owned()),
            None => {}
        }
        before = rest;
    }
    found
}

/// First arguments of all uses of the macro that `before` ends in the definition of.
fn uses_of_macro(text: &str, before: &str) -> Vec<String> {
    let definition = before.rsplit("#define ").next().unwrap_or_default();
    let call = format!("{}(", definition.split('(').next().unwrap_or_default());
    let argument = |line: &str| {
        Some(
            line.strip_prefix(&call)?
                .split([',', ')'])
                .next()?
                .to_owned(),
        )
    };
    text.lines().filter_map(argument).collect()
}

fn without_launch_bounds(text: &str) -> String {
    match text.split_once("__launch_bounds__(") {
        Some((before, after)) if !before.contains(['(', '{', ';']) => {
            format!(
                "{before} {}",
                after.split_once(')').map_or("", |(_, rest)| rest)
            )
        }
        _ => text.to_owned(),
    }
}

#[test]
fn host_and_kernels_agree_on_names() {
    let mut in_sources = BTreeSet::new();
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    defined(&kernels, &kernels, &mut in_sources);
    // Tests alone launch these: tests/devices/hopper.
    in_sources.retain(|(image, _)| !image.starts_with("testing/"));
    let on_host: BTreeSet<_> = ocelli::cuda::kernels()
        .iter()
        .map(|kernel| (kernel.image.to_owned(), kernel.symbol.to_owned()))
        .collect();
    let missing: Vec<_> = on_host.difference(&in_sources).collect();
    let unused: Vec<_> = in_sources.difference(&on_host).collect();
    assert!(
        missing.is_empty() && unused.is_empty(),
        "missing: {missing:?}; never loaded: {unused:?}"
    );
}

#[test]
fn symbols_are_found_in_a_source() {
    let text = "extern \"C\" __global__ void a_f32(int n) {}\n\
                extern \"C\" __global__ void __launch_bounds__(128, 2)\nb_f16(F<g(1)> x) {}";
    assert_eq!(symbols(text), ["a_f32", "b_f16"]);
    let text = "#define KERNEL(SYMBOL, T) \\\n  extern \"C\" __global__ void \\\n  SYMBOL(T* out) {}\n\
                KERNEL(c_f32, float)\nKERNEL(c_f16,\n       __half)\n";
    assert_eq!(symbols(text), ["c_f32", "c_f16"]);
}
