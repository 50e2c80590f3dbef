//! Loads a module, launches its kernels, looks at memory and at findings.

use std::path::Path;
use std::sync::Arc;

use ptxsim::memory::Memory;
use ptxsim::report::{Finding, FindingKind};
use ptxsim::sim::{Arch, Checks, LaunchConfig, LaunchError, Module, Outcome, launch};

/// Bytes of device memory.
const CAPACITY: u64 = 1 << 24;

pub struct Device {
    pub memory: Arc<Memory>,
    module: Module,
}

/// A kernel argument: its bytes.
pub type Argument = Vec<u8>;

pub fn bytes_of<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
}

pub fn pointer(address: u64) -> Argument {
    address.to_le_bytes().to_vec()
}

pub fn int(value: i32) -> Argument {
    value.to_le_bytes().to_vec()
}

/// `blocks` blocks of `threads` threads in clusters of `cluster`.
pub fn shape(blocks: u32, threads: u32, cluster: u32) -> LaunchConfig {
    LaunchConfig {
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        cluster: [cluster, 1, 1],
        dynamic_shared: 0,
        cooperative: false,
    }
}

impl Device {
    /// Loads `tests/fixtures/async/NAME.ptx`.
    pub fn with_fixture(name: &str) -> Device {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/async");
        let text = std::fs::read_to_string(folder.join(name).with_extension("ptx")).unwrap();
        let arch = if name.ends_with("sm80") {
            Arch::Sm80
        } else {
            Arch::Sm90a
        };
        Device::with_text(&text, arch)
    }

    pub fn with_text(text: &str, arch: Arch) -> Device {
        let memory = Arc::new(Memory::new(CAPACITY));
        let module = Module::load(text, arch, &memory).unwrap_or_else(|error| panic!("{error}"));
        Device { memory, module }
    }

    /// Memory that was never written.
    pub fn alloc(&self, bytes: usize) -> u64 {
        self.memory.alloc(bytes as u64).unwrap()
    }

    pub fn upload(&self, bytes: &[u8]) -> u64 {
        let address = self.alloc(bytes.len());
        self.memory.copy_in(address, bytes).unwrap();
        address
    }

    pub fn upload_f32(&self, values: &[f32]) -> u64 {
        self.upload(&bytes_of(values, f32::to_le_bytes))
    }

    pub fn download(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.memory.copy_out(address, &mut out).unwrap();
        out
    }

    pub fn download_u32(&self, address: u64, count: usize) -> Vec<u32> {
        let bytes = self.download(address, count * 4);
        bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    pub fn download_f32(&self, address: u64, count: usize) -> Vec<f32> {
        self.download_u32(address, count)
            .into_iter()
            .map(f32::from_bits)
            .collect()
    }

    pub fn launch(&self, kernel: &str, config: LaunchConfig, arguments: &[Argument]) -> Outcome {
        self.launch_checked(kernel, config, arguments, Checks::All)
    }

    pub fn launch_checked(
        &self,
        kernel: &str,
        config: LaunchConfig,
        arguments: &[Argument],
        checks: Checks,
    ) -> Outcome {
        let kernel = self.module.kernel(kernel).unwrap();
        let info = kernel.info();
        let mut params = vec![0; info.param_bytes as usize];
        assert_eq!(
            arguments.len(),
            info.params.len(),
            "arguments of {}",
            info.name
        );
        for (argument, &(offset, size)) in arguments.iter().zip(&info.params) {
            assert_eq!(
                argument.len(),
                size as usize,
                "an argument of {}",
                info.name
            );
            params[offset as usize..][..argument.len()].copy_from_slice(argument);
        }
        launch(&self.memory, &kernel, &config, &params, checks)
    }
}

/// The launch went well and nothing was found.
#[track_caller]
pub fn assert_clean(outcome: &Outcome) {
    let findings: Vec<String> = outcome.report.findings.iter().map(line).collect();
    assert_eq!(outcome.result, Ok(()), "{findings:#?}");
    assert!(
        findings.is_empty(),
        "{}: {findings:#?}",
        outcome.report.kernel
    );
}

/// A finding of `kind` was made, and none of a kind that is neither it nor in `consequences`.
#[track_caller]
pub fn assert_finds(outcome: &Outcome, kind: FindingKind, consequences: &[FindingKind]) {
    let findings = &outcome.report.findings;
    let all: Vec<String> = findings.iter().map(line).collect();
    let kernel = &outcome.report.kernel;
    assert!(
        findings.iter().any(|f| f.kind == kind),
        "{kernel}: no {kind:?} in {all:#?}"
    );
    let expected = |f: &Finding| f.kind == kind || consequences.contains(&f.kind);
    assert!(findings.iter().all(expected), "{kernel}: {all:#?}");
}

/// The launch ends in a deadlock that names what is waited for.
#[track_caller]
pub fn assert_deadlock(outcome: &Outcome, waits_for: &str) {
    assert_eq!(outcome.result, Err(LaunchError::Timeout));
    let findings = &outcome.report.findings;
    let deadlock = findings.iter().find(|f| f.kind == FindingKind::Deadlock);
    let message = &deadlock.expect("a deadlock finding").message;
    assert!(message.contains(waits_for), "{message}");
}

fn line(finding: &Finding) -> String {
    format!(
        "{:?} at PTX line {}: {}",
        finding.kind, finding.ptx_line, finding.message
    )
}

/// `count` numbers that differ from their neighbours.
pub fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 37 % 1009) as f32).collect()
}
