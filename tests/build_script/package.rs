//! The build script under cargo: a small package with our `build.rs` and made-up kernels.

use std::fs;
use std::process::Command;

use super::tree::Tree;

struct Package {
    tree: Tree,
}

/// What one `cargo build` did.
struct Built {
    output: String,
    /// The files compiled, sorted.
    compiled: Vec<String>,
}

impl Built {
    /// Whether cargo compiled anything at all.
    fn is_no_op(&self) -> bool {
        !self.output.contains("Compiling")
    }
}

impl Package {
    fn new(name: &str) -> Self {
        let tree = Tree::new(name);
        tree.file(
            "Cargo.toml",
            "[package]\nname = \"probe\"\nedition = \"2024\"\n[features]\ndefault = [\"cuda\"]\ncuda = []\ntesting = []\n[workspace]\n",
        );
        tree.file(
            "src/main.rs",
            "include!(concat!(env!(\"OUT_DIR\"), \"/kernels.rs\"));
            fn main() {
                for (name, image) in IMAGES {
                    assert_eq!(image.as_ptr() as usize % 16, 0);
                    print!(\"{name}: {}\", String::from_utf8_lossy(image));
                }
                println!(\"{NVCC:?} {ARCHS:?} {ABSENT:?}\");
            }",
        );
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/build");
        for entry in fs::read_dir(source).expect("the build script's parts") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            tree.file(
                &format!("build/{name}"),
                &fs::read_to_string(&path).expect("a part"),
            );
        }
        tree.file("build.rs", include_str!("../../build.rs"));
        tree.file("kernels/common/vec.cuh", "");
        tree.file("kernels/nms.cu", "#include \"common/vec.cuh\"\n");
        tree.file("kernels/attention/forward.cu", "");
        tree.file("kernels/testing/probe.cu", "");
        Self { tree }
    }

    fn cargo(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Built {
        let log = self.tree.path("target/cuda/bin/nvcc.log");
        let _ = fs::remove_file(&log);
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(self.tree.root()).args(arguments);
        for name in [
            "OCELLI_NVCC",
            "CUDA_HOME",
            "CUDA_PATH",
            "CARGO_TARGET_DIR",
            "OCELLI_CUDA_ARCHS",
        ] {
            command.env_remove(name);
        }
        // A PATH with a linker and `touch`, but without whatever nvcc this machine has.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::split_paths(&path).filter(|directory| !directory.join("nvcc").exists());
        command.env("PATH", std::env::join_paths(path).expect("a PATH"));
        command
            .env("OCELLI_REQUIRE_NVCC", "0")
            .envs(variables.iter().copied());
        let output = command.output().expect("cargo runs");
        let text = [output.stdout, output.stderr].concat();
        let mut compiled: Vec<String> = fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        compiled.sort();
        Built {
            output: String::from_utf8_lossy(&text).into_owned(),
            compiled,
        }
    }
}

/// Whether this machine has a toolkit where no setting of the test can hide it.
fn system_toolkit() -> bool {
    std::path::Path::new("/usr/local/cuda/bin/nvcc").exists()
}

#[test]
fn a_toolkit_that_appears_is_noticed_and_nothing_to_do_is_a_no_op() {
    if system_toolkit() {
        println!("skipped: /usr/local/cuda has an nvcc, so it cannot be absent first");
        return;
    }
    let package = Package::new("a_toolkit_that_appears_is_noticed");
    let first = package.cargo(&["run"], &[]);
    let warnings = first
        .output
        .matches("built without its CUDA kernels")
        .count();
    assert_eq!(warnings, 1, "{}", first.output);
    assert!(
        first.output.contains("None \"\" Some(\"no usable nvcc in "),
        "{}",
        first.output
    );
    let again = package.cargo(&["build"], &[]);
    assert!(again.is_no_op(), "{}", again.output);
    let required = package.cargo(&["build"], &[("OCELLI_REQUIRE_NVCC", "1")]);
    assert!(
        required
            .output
            .contains("OCELLI_REQUIRE_NVCC=1, but no usable nvcc"),
        "{}",
        required.output
    );
    package.cargo(&["build"], &[]);

    package.tree.nvcc("target/cuda/bin/nvcc", "13.0.88");
    // As a package manager does: installed now, dated long ago.
    let status = Command::new("touch")
        .args(["-d", "2020-01-01"])
        .arg(package.tree.path("target/cuda/bin/nvcc"))
        .status();
    assert!(status.is_ok_and(|status| status.success()));
    let found = package.cargo(&["run"], &[]);
    assert_eq!(
        found.compiled,
        ["kernels/attention/forward.cu", "kernels/nms.cu"],
        "{}",
        found.output
    );
    for line in [
        "attention/forward: image of kernels/attention/forward.cu",
        "nms: image of kernels/nms.cu",
        "Some(\"13.0.88\") \"sm_80 (code, PTX), sm_90 (code), sm_90a (code, PTX)\" None",
    ] {
        assert!(found.output.contains(line), "{}", found.output);
    }
    let again = package.cargo(&["build"], &[]);
    assert!(again.is_no_op(), "{}", again.output);
}

#[test]
fn exactly_what_changed_is_compiled_again() {
    let package = Package::new("exactly_what_changed_is_compiled_again");
    package.tree.nvcc("target/cuda/bin/nvcc", "13.0.88");
    let nvcc = package.tree.path("target/cuda/bin/nvcc");
    let setting = [("OCELLI_NVCC", nvcc.to_str().expect("UTF-8"))];
    assert_eq!(package.cargo(&["build"], &setting).compiled.len(), 2);
    assert!(package.cargo(&["build"], &setting).is_no_op());

    package.tree.file("kernels/common/vec.cuh", "// changed\n");
    assert_eq!(
        package.cargo(&["build"], &setting).compiled,
        ["kernels/nms.cu"]
    );
    package.tree.file("kernels/common/vec.cuh", "");
    let undone = package.cargo(&["build"], &setting);
    assert!(
        !undone.is_no_op() && undone.compiled.is_empty(),
        "the cache has it already"
    );
    package.tree.file("kernels/new.cu", "");
    assert_eq!(
        package.cargo(&["build"], &setting).compiled,
        ["kernels/new.cu"]
    );

    let release = package.cargo(&["build", "--release"], &setting);
    assert!(
        release.compiled.is_empty(),
        "profiles share the cache: {:?}",
        release.compiled
    );
    let archs = package.cargo(&["build"], &[setting[0], ("OCELLI_CUDA_ARCHS", "sm_86")]);
    assert_eq!(archs.compiled.len(), 3);
    fs::remove_dir_all(package.tree.path("target/ocelli-kernels")).expect("the cache can go");
    assert!(
        package
            .cargo(&["build"], &[setting[0], ("OCELLI_CUDA_ARCHS", "sm_86")])
            .is_no_op()
    );

    package.tree.nvcc("target/cuda/bin/nvcc", "13.1.10");
    assert_eq!(package.cargo(&["build"], &setting).compiled.len(), 3);

    let with_tests = package.cargo(&["build", "--features=testing"], &setting);
    assert_eq!(with_tests.compiled, ["kernels/testing/probe.cu"]);
}

#[test]
fn the_cuda_feature_off_leaves_everything_alone() {
    let package = Package::new("the_cuda_feature_off_leaves_everything_alone");
    package.tree.file("src/main.rs", "fn main() {}");
    let built = package.cargo(
        &["build", "--no-default-features"],
        &[("OCELLI_NVCC", "/nowhere")],
    );
    assert!(built.output.contains("Finished"), "{}", built.output);
    assert!(!built.output.contains("warning"), "{}", built.output);
    let wrong = package.cargo(&["build"], &[("OCELLI_NVCC", "/nowhere")]);
    assert!(
        wrong
            .output
            .contains("error: OCELLI_NVCC=/nowhere: there is no such file"),
        "{}",
        wrong.output
    );
}
