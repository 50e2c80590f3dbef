//! `cargo xtask ci`: what CI runs.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, shown};
use crate::{ptxas, test};

/// Runs every check, so that one failure does not hide another; `false` when any failed.
pub fn run(workspace: &Workspace) -> Result<bool> {
    let start = Instant::now();
    let mut failed = Vec::new();
    let mut note = |what: &str, ok: bool| {
        if !ok {
            failed.push(what.to_owned());
        }
    };
    note("tests", test::run(workspace, &test::Options::default())?);
    for (what, arguments) in [
        ("formatting", &["fmt", "--all", "--check"][..]),
        (
            "clippy",
            &[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "--deny=warnings",
            ],
        ),
        (
            "documentation",
            &["doc", "--quiet", "--workspace", "--no-deps"],
        ),
        // Built as tests, without another build of everything for speed; `--test` runs each case once, small.
        (
            "benches",
            &[
                "test",
                "--quiet",
                "--workspace",
                "--bench=*",
                "--",
                "--test",
            ],
        ),
    ] {
        let mut command = workspace.cargo(arguments);
        command.env("RUSTDOCFLAGS", "--deny=warnings");
        println!("== {what}: {}", shown(&command));
        note(
            what,
            command.status().with_context(|| shown(&command))?.success(),
        );
    }
    println!("== ptxas report");
    note("ptxas report", ptxas::check(workspace)?);
    let seconds = start.elapsed().as_secs();
    match failed.is_empty() {
        true => println!("ci: everything passed ({seconds} s)"),
        false => println!("ci: FAILED: {} ({seconds} s)", failed.join(", ")),
    }
    Ok(failed.is_empty())
}
