//! The GPU bundle's script, with made-up programs in place of the bundle's and the machine's tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TESTS: &str = "[ \"$1\" = --list ] && exit 0
echo 'test nms ... ok'; echo 'test result: ok. 3 passed; 0 failed'";
const SANITIZER: &str = "case \"$*\" in
*racecheck*) echo '========= Error: Device not supported'; exit 3 ;;
*synccheck*) echo 'test a ... ok'; echo '========= ERROR SUMMARY: 2 errors'; exit 9 ;;
*initcheck*) sleep 9 ;;
esac
echo 'test a ... ok'; echo '========= ERROR SUMMARY: 0 errors'";
const NCU: &str = "echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1";

struct Bundle(PathBuf);

impl Bundle {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("tools")).expect("a directory");
        for file in ["run.sh", "ncu.txt"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("bundle")
                .join(file);
            fs::copy(from, root.join(file)).expect("a file of the bundle");
        }
        fs::write(root.join("version.txt"), "0.0.0 made-up\n").expect("a file");
        let bundle = Self(root);
        bundle.program("tests", TESTS);
        bundle.program("benches", "echo bench $@");
        bundle
    }

    fn program(&self, name: &str, body: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// Packed without compression, which asks for no tool more than `tar`.
    fn pack(&self) {
        let tar = Command::new("tar")
            .args(["--create", "--file", "programs.tar.xz", "tests", "benches"])
            .current_dir(&self.0)
            .status();
        assert!(tar.expect("tar runs").success());
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.pack();
        let path = format!("{}:/usr/bin:/bin", self.0.join("tools").display());
        Command::new("bash")
            .arg(self.0.join("run.sh"))
            .args(arguments)
            .current_dir(&self.0)
            .env("PATH", path)
            .env("OCELLI_STAGE_LIMIT", "2")
            .output()
            .expect("bash runs")
    }

    fn summary(&self) -> String {
        fs::read_to_string(self.0.join("out/summary.txt")).expect("a summary")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_gpu_it_fails_in_one_clear_line() {
    if Path::new("/dev/nvidiactl").exists() {
        return;
    }
    let bundle = Bundle::new("without_a_gpu");
    bundle.program("tools/nvidia-smi", "exit 9");
    let output = bundle.run(&["out"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.starts_with("run.sh: no NVIDIA GPU can be used here"),
        "{error}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_arguments_name_the_stages() {
    let bundle = Bundle::new("wrong_arguments");
    for arguments in [&["nonsense", "out"][..], &[], &["a", "b", "c"]] {
        let output = bundle.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains("correctness memcheck"),
            "{arguments:?}"
        );
    }
}

#[test]
fn each_stage_is_reported_and_a_refusing_tool_is_passed_over() {
    let bundle = Bundle::new("each_stage");
    bundle.program("tools/nvidia-smi", "echo 'Made-up GPU, 580'");
    bundle.program("tools/compute-sanitizer", SANITIZER);
    bundle.program("tools/ncu", NCU);
    bundle.program("tools/python3", "exit 1");
    let output = bundle.run(&["out"]);
    assert_eq!(output.status.code(), Some(1), "two stages failed");
    let summary = bundle.summary();
    for line in [
        "ocelli 0.0.0 made-up",
        "Made-up GPU, 580",
        "correctness: passed;test result: ok. 3 passed; 0 failed",
        "memcheck: passed;========= ERROR SUMMARY: 0 errors",
        "racecheck: passed over: compute-sanitizer refuses this machine: ========= Error: Device not supported",
        "initcheck: FAILED: not done in 2 s",
        "synccheck: FAILED: exit status 9;========= ERROR SUMMARY: 2 errors",
        "benches: passed",
        "peers: passed over: python3 with PyTorch is not installed",
        "ncu: passed over: ncu refuses this machine: ==ERROR== ERR_NVGPUCTRPERM",
    ] {
        assert!(summary.contains(line), "{line} is not in:\n{summary}");
    }
    assert!(
        text(&output.stdout).ends_with(&summary),
        "the summary comes last"
    );
}

#[test]
fn one_stage_runs_alone_and_running_nothing_is_a_failure() {
    let bundle = Bundle::new("one_stage");
    bundle.program("tools/nvidia-smi", "echo 'Made-up GPU, 580'");
    assert_eq!(bundle.run(&["correctness", "out"]).status.code(), Some(0));
    assert!(!bundle.summary().contains("benches"));
    bundle.program("tests", "echo 'test result: ok. 0 passed; 0 failed'");
    let again = bundle.run(&["correctness", "out"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stdout).contains("FAILED: no test ran"),
        "{}",
        text(&again.stdout)
    );
    assert!(
        !text(&again.stdout).contains("3 passed"),
        "one summary, of this run"
    );
}
