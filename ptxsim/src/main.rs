//! `ptxsim [OPTIONS] [--] PROGRAM [ARGUMENTS]`: runs a program with the simulated CUDA driver.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

const USAGE: &str = "\
Runs a program with a simulated CUDA driver that executes PTX on the CPU.

Usage: ptxsim [OPTIONS] [--] PROGRAM [ARGUMENTS]

Options:
  --arch sm_80|sm_90a      architecture to simulate (PTXSIM_ARCH, default sm_80)
  --checks off|memory|all  checks to make (PTXSIM_CHECKS, default all)
  --report FILE            add a line of JSON for each launch (PTXSIM_REPORT)
  --leaks                  report device memory that is not freed at exit (PTXSIM_LEAKS=1)
  --errors return|deferred return errors of kernels from their launch, or from later calls as a GPU
                           does (PTXSIM_ERRORS, default return)
  -h, --help               print this

Exit status: 86 if there were findings, 85 if the program could not be run, else the program's own.
";

/// There were findings.
const FINDINGS: u8 = 86;
/// The program could not be run.
const NOT_RUN: u8 = 85;

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    environment: Vec<(&'static str, OsString)>,
    program: OsString,
    arguments: Vec<OsString>,
    help: bool,
}

impl Options {
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
        let mut options = Options::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = |name: &str, allowed: &[&str]| {
                let value = arguments
                    .next()
                    .ok_or_else(|| format!("{name} needs a value"))?;
                let fits = allowed.is_empty() || allowed.iter().any(|&allowed| value == allowed);
                let rule = || {
                    format!(
                        "{name} must be one of {}, got {value:?}",
                        allowed.join(", ")
                    )
                };
                if fits { Ok(value) } else { Err(rule()) }
            };
            let setting = match argument.to_str() {
                Some("--arch") => ("PTXSIM_ARCH", value("--arch", &["sm_80", "sm_90a"])?),
                Some("--checks") => (
                    "PTXSIM_CHECKS",
                    value("--checks", &["off", "memory", "all"])?,
                ),
                Some("--report") => ("PTXSIM_REPORT", value("--report", &[])?),
                Some("--errors") => ("PTXSIM_ERRORS", value("--errors", &["return", "deferred"])?),
                Some("--leaks") => ("PTXSIM_LEAKS", "1".into()),
                Some("-h" | "--help") => {
                    return Ok(Options {
                        help: true,
                        ..options
                    });
                }
                Some("--") => {
                    options.program = arguments.next().ok_or("a program is missing")?;
                    break;
                }
                Some(option) if option.starts_with('-') => {
                    return Err(format!("unknown option {option}"));
                }
                _ => {
                    options.program = argument;
                    break;
                }
            };
            options.environment.push(setting);
        }
        if options.program.is_empty() {
            return Err("a program is missing".into());
        }
        options.arguments = arguments.collect();
        Ok(options)
    }
}

/// A directory that is removed when the runner ends, or when the next one starts.
///
/// It is locked as long as its runner lives, however that ends.
struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// What the names of all such directories begin with.
    const PREFIX: &str = "ptxsim-run-";

    fn new() -> std::io::Result<Scratch> {
        let parent = std::env::temp_dir();
        Scratch::sweep(&parent);
        let mut number = std::process::id();
        loop {
            let path = parent.join(format!("{}{number}", Scratch::PREFIX));
            number = number.wrapping_add(1);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                result => result?,
            }
            // A runner that starts now may take the directory for a leftover until it is locked.
            if let Ok(lock) = File::open(&path)
                && lock.lock().is_ok()
                && path.exists()
            {
                return Ok(Scratch { path, _lock: lock });
            }
        }
    }

    /// Removes the directories of runners that were killed.
    fn sweep(parent: &Path) {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(Scratch::PREFIX)
                && let Ok(lock) = File::open(entry.path())
                && lock.try_lock().is_ok()
            {
                // Another user's cannot be removed, and another runner may be quicker.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary directory is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The shared library beside this program, where cargo puts both.
fn library() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = own.parent().unwrap_or(Path::new("."));
    let places = [
        directory.join("libptxsim.so"),
        directory.join("deps/libptxsim.so"),
    ];
    // `cargo test` builds the second only: an older first one may be left of an earlier build.
    let built = |place: &PathBuf| place.metadata().and_then(|file| file.modified()).ok();
    let found = places
        .into_iter()
        .filter(|place| place.is_file())
        .max_by_key(built);
    found.ok_or_else(|| format!("no libptxsim.so in {}", directory.display()))
}

/// `value` put before what a list variable holds already.
fn prepended(name: &str, value: &OsStr) -> OsString {
    let mut list = value.to_owned();
    if let Some(rest) = std::env::var_os(name).filter(|rest| !rest.is_empty()) {
        list.push(":");
        list.push(rest);
    }
    list
}

/// Runs the program and returns its status, and whether there were findings.
fn run(options: &Options) -> Result<(ExitStatus, bool), String> {
    let library = library()?;
    let scratch = Scratch::new().map_err(|error| format!("temporary directory: {error}"))?;
    // Programs that are linked with the driver, and libraries that open it by its full name.
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = std::os::unix::fs::symlink(&library, scratch.path.join(name));
        link.map_err(|error| format!("{name}: {error}"))?;
    }
    let findings = scratch.path.join("findings");
    let status = Command::new(&options.program)
        .args(&options.arguments)
        .env("LD_PRELOAD", prepended("LD_PRELOAD", library.as_os_str()))
        .env(
            "LD_LIBRARY_PATH",
            prepended("LD_LIBRARY_PATH", scratch.path.as_os_str()),
        )
        .env("PTXSIM", "1")
        .env("PTXSIM_FINDINGS", &findings)
        .envs(
            options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .status()
        .map_err(|error| format!("{}: {error}", options.program.display()))?;
    let found = std::fs::metadata(&findings).is_ok_and(|file| file.len() > 0);
    Ok((status, found))
}

/// The program's own status; 128 and the signal's number where one ended it, as in a shell.
fn own_status(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    code as u8
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) if options.help => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(options) => options,
        Err(error) => {
            eprintln!("ptxsim: {error}\n\n{USAGE}");
            return ExitCode::from(NOT_RUN);
        }
    };
    match run(&options) {
        Ok((_, true)) => ExitCode::from(FINDINGS),
        Ok((status, false)) => ExitCode::from(own_status(status)),
        Err(error) => {
            eprintln!("ptxsim: {error}");
            ExitCode::from(NOT_RUN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn options_end_at_the_program() {
        let options = parse(&["--arch", "sm_90a", "--leaks", "test", "--arch", "x"]).unwrap();
        let expected = [
            ("PTXSIM_ARCH", "sm_90a".into()),
            ("PTXSIM_LEAKS", "1".into()),
        ];
        assert_eq!(options.environment, expected);
        assert_eq!(options.program, "test");
        assert_eq!(options.arguments, ["--arch", "x"]);
        assert_eq!(parse(&["--", "--odd"]).unwrap().program, "--odd");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(&[]).unwrap_err().contains("program"));
        assert!(parse(&["--arch"]).unwrap_err().contains("needs a value"));
        assert!(
            parse(&["--arch", "sm_70", "x"])
                .unwrap_err()
                .contains("sm_70")
        );
        assert!(parse(&["--fast", "x"]).unwrap_err().contains("--fast"));
    }
}
