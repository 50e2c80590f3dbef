//! Runs a kernel of `fixtures/checks` and compares its findings with those that its source marks.

use ptxsim::memory::Memory;
use ptxsim::report::{Finding, LaunchReport};
use ptxsim::sim::{Arch, Checks, LaunchConfig, LaunchError, Module, launch};
use std::sync::Arc;

/// A device and a module on it.
pub struct Device {
    pub memory: Arc<Memory>,
    file: &'static str,
    module: Module,
}

/// A kernel's argument.
pub enum Arg {
    Pointer(u64),
    Int(i32),
    /// A structure by value.
    Bytes(Vec<u8>),
}

/// What a run left.
pub struct Ran {
    pub report: LaunchReport,
    pub result: Result<(), LaunchError>,
}

impl Ran {
    /// The only finding.
    pub fn finding(&self) -> &Finding {
        assert_eq!(self.report.findings.len(), 1, "{:#?}", self.report.findings);
        &self.report.findings[0]
    }
}

fn path(file: &str, extension: &str) -> String {
    format!(
        "{}/tests/fixtures/checks/{file}.{extension}",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn read(file: &str, extension: &str) -> String {
    let path = path(file, extension);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Kind and line of the findings that the source marks for a kernel: comments `finds KIND` in its
/// body, and `finds KIND in KERNEL` anywhere.
fn marked(file: &str, kernel: &str) -> Vec<(String, u32)> {
    let mut body = "";
    let mut found = Vec::new();
    let text = read(file, "cu");
    for (line, number) in text.lines().zip(1..) {
        if let Some(rest) = line.strip_prefix("extern \"C\" __global__ void ") {
            body = rest.split('(').next().unwrap_or(rest);
        } else if line.starts_with("template") || line.starts_with("__device__") {
            body = "";
        }
        let Some((_, mark)) = line.split_once("// finds ") else {
            continue;
        };
        let words: Vec<&str> = mark.split(' ').collect();
        let (kinds, owner) = match words.iter().position(|&word| word == "in") {
            Some(at) => (&words[..at], words[at + 1]),
            None => (&words[..], body),
        };
        if owner == kernel {
            found.extend(kinds.iter().map(|kind| (kind.to_string(), number)));
        }
    }
    found
}

fn kind_name(finding: &Finding) -> String {
    let json = serde_json::to_string(&finding.kind).expect("a kind is a string");
    json.trim_matches('"').to_owned()
}

impl Device {
    /// Loads `fixtures/checks/FILE.ptx`.
    pub fn new(file: &'static str) -> Device {
        let memory = Arc::new(Memory::new(1 << 30));
        let arch = if file.ends_with("sm90a") {
            Arch::Sm90a
        } else {
            Arch::Sm80
        };
        let module = Module::load(&read(file, "ptx"), arch, &memory);
        let module = module.unwrap_or_else(|e| panic!("{file}: {e}"));
        Device {
            memory,
            file,
            module,
        }
    }

    /// Device memory with these words.
    pub fn words(&self, values: &[i32]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let address = self.memory.alloc(bytes.len() as u64).expect("memory");
        self.memory.copy_in(address, &bytes).expect("inside");
        address
    }

    /// Device memory for `count` words that nothing has written.
    pub fn fresh(&self, count: u64) -> u64 {
        self.memory.alloc(4 * count).expect("memory")
    }

    /// The words at `address`.
    pub fn read(&self, address: u64, count: usize) -> Vec<i32> {
        let mut bytes = vec![0; 4 * count];
        self.memory.copy_out(address, &mut bytes).expect("inside");
        let word = |c: &[u8]| i32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        bytes.chunks_exact(4).map(word).collect()
    }

    /// Launches a kernel whatever its findings are.
    pub fn launch(&self, kernel: &str, blocks: u32, threads: u32, args: &[Arg]) -> Ran {
        let compiled = self
            .module
            .kernel(kernel)
            .unwrap_or_else(|| panic!("no kernel {kernel}"));
        let info = compiled.info();
        let mut params = vec![0; info.param_bytes as usize];
        assert_eq!(info.params.len(), args.len(), "{kernel}: arguments");
        for (&(offset, size), arg) in info.params.iter().zip(args) {
            let bytes = match arg {
                Arg::Pointer(address) => address.to_le_bytes().to_vec(),
                Arg::Int(value) => value.to_le_bytes().to_vec(),
                Arg::Bytes(bytes) => bytes.clone(),
            };
            assert_eq!(bytes.len(), size as usize, "{kernel}: size of an argument");
            params[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let config = LaunchConfig {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            cluster: [1; 3],
            dynamic_shared: 0,
            cooperative: false,
        };
        let outcome = launch(&self.memory, &compiled, &config, &params, Checks::All);
        Ran {
            report: outcome.report,
            result: outcome.result,
        }
    }

    /// Launches a kernel and compares kinds and source lines of its findings with the marks.
    pub fn run(&self, kernel: &str, blocks: u32, threads: u32, args: &[Arg]) -> Ran {
        let ran = self.launch(kernel, blocks, threads, args);
        let mut found: Vec<(String, u32)> = ran
            .report
            .findings
            .iter()
            .map(|f| (kind_name(f), f.source.as_ref().map_or(0, |(_, line)| *line)))
            .collect();
        found.sort();
        let mut expected = marked(self.file, kernel);
        expected.sort();
        assert_eq!(found, expected, "{kernel}: {:#?}", ran.report.findings);
        for finding in &ran.report.findings {
            assert_eq!(finding.kernel, kernel);
            let file = finding.source.as_ref().map(|(file, _)| file.as_str());
            assert_eq!(file, Some(format!("{}.cu", self.file).as_str()));
        }
        ran
    }

    /// [`Device::run`] of a kernel that has no marks and succeeds.
    pub fn clean(&self, kernel: &str, blocks: u32, threads: u32, args: &[Arg]) -> Ran {
        assert_eq!(marked(self.file, kernel), [], "{kernel} is not clean");
        let ran = self.run(kernel, blocks, threads, args);
        assert_eq!(ran.result, Ok(()), "{kernel}");
        ran
    }

    /// [`Device::run`] of a kernel that has marks.
    pub fn caught(&self, kernel: &str, blocks: u32, threads: u32, args: &[Arg]) -> Ran {
        assert_ne!(marked(self.file, kernel), [], "{kernel} has no marks");
        self.run(kernel, blocks, threads, args)
    }
}
