//! The runner, on tests of this very program that are otherwise ignored.

mod common;

use std::process::{Command, Output};
use std::sync::Arc;

use common::{SAXPY, function, saxpy, simulator};
use cudarc::driver::{CudaContext, DriverError, LaunchConfig};

/// A context on a device whose driver prints what it finds.
fn context() -> Arc<CudaContext> {
    simulator().set_prints(true);
    common::context()
}

/// Runs the ignored test `name` under the runner.
fn run(options: &[&str], name: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptxsim"))
        .args(options)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", name, "--nocapture"])
        .output()
        .unwrap()
}

/// Launches a kernel over 64 elements, and over more than there are for a larger number.
fn launch(elements: u32) -> Result<(), DriverError> {
    let context = context();
    let stream = context.default_stream();
    let kernel = function(&context, SAXPY, "saxpy");
    let x = stream.clone_htod(&[1.0f32; 64]).unwrap();
    let mut y = stream.clone_htod(&[1.0f32; 64]).unwrap();
    let shape = LaunchConfig::for_num_elems(elements);
    saxpy(&stream, &kernel, shape, &mut y, &x, 1.0, elements)
}

#[test]
#[ignore = "run by others"]
fn clean() {
    launch(64).unwrap();
}

#[test]
#[ignore = "run by others"]
fn out_of_bounds() {
    launch(65).unwrap_err();
}

/// Passes where the launch itself succeeds and the error comes later, as on a GPU.
#[test]
#[ignore = "run by others"]
fn deferred() {
    launch(65).unwrap();
    let stream = context().default_stream();
    stream.synchronize().unwrap_err();
    stream.synchronize().unwrap_err();
    std::process::exit(0);
}

#[test]
#[ignore = "run by others"]
fn leaking() {
    let stream = context().default_stream();
    std::mem::forget(stream.clone_htod(&[1.0f32; 64]).unwrap());
}

#[test]
#[ignore = "run by others"]
fn architecture() {
    assert_eq!(context().compute_capability().unwrap(), (9, 0));
}

#[test]
fn status_is_the_program_s_own_without_findings() {
    assert_eq!(run(&[], "clean").status.code(), Some(0));
    // The test program's status for a failed test.
    assert_eq!(run(&[], "architecture").status.code(), Some(101));
    assert_eq!(
        run(&["--arch", "sm_90a"], "architecture").status.code(),
        Some(0)
    );
}

#[test]
fn findings_are_printed_and_change_the_status() {
    let output = run(&[], "out_of_bounds");
    assert_eq!(output.status.code(), Some(86));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("saxpy") && errors.contains("past the end of allocation"),
        "{errors}"
    );
    let output = run(&["--errors", "deferred"], "deferred");
    assert_eq!(
        output.status.code(),
        Some(86),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn leaks_are_findings_on_request() {
    assert_eq!(run(&[], "leaking").status.code(), Some(0));
    let output = run(&["--leaks"], "leaking");
    assert_eq!(output.status.code(), Some(86));
    assert!(String::from_utf8_lossy(&output.stderr).contains("256 bytes"));
}

#[test]
fn report_has_a_line_for_each_launch() {
    let file = std::env::temp_dir().join(format!("ptxsim-report-{}.json", std::process::id()));
    let path = file.to_str().unwrap();
    assert_eq!(run(&["--report", path], "clean").status.code(), Some(0));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1);
    let report: ptxsim::report::LaunchReport = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(report.kernel, "saxpy");
    assert_eq!(report.counters.global_stores.bytes, 256);
}

#[test]
fn directories_of_killed_runners_are_removed() {
    let parent = std::env::temp_dir().join(format!("runner-test-{}", std::process::id()));
    std::fs::create_dir(&parent).unwrap();
    let left = || std::fs::read_dir(&parent).unwrap().count();
    let runner = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptxsim"));
        command.env("TMPDIR", &parent).args(arguments);
        command
    };
    let mut killed = runner(&["sh", "-c", "kill -9 $PPID"]).spawn().unwrap();
    assert_eq!(killed.wait().unwrap().code(), None);
    assert_eq!(left(), 1);
    // That of a runner that lives is not taken for a leftover.
    let script = "\"$0\" true && ls \"$TMPDIR\"";
    let output = runner(&["sh", "-c", script, env!("CARGO_BIN_EXE_ptxsim")])
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert_eq!(left(), 0);
    std::fs::remove_dir(&parent).unwrap();
}

#[test]
fn mistakes_on_the_command_line() {
    let status = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_ptxsim"))
            .args(arguments)
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(status(&[]), Some(85));
    assert_eq!(status(&["--fast", "true"]), Some(85));
    assert_eq!(status(&["/nonexistent/program"]), Some(85));
    assert_eq!(status(&["--help"]), Some(0));
    assert_eq!(status(&["sh", "-c", "exit 7"]), Some(7));
}
