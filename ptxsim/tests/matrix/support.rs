//! Launches for the tests of matrix instructions.

use ptxsim::memory::Memory;
use ptxsim::report::{FindingKind, LaunchReport};
use ptxsim::sim::{self, Arch, Checks, LaunchConfig, Module};
use std::sync::Arc;

/// Device memory of the tests, in bytes.
const CAPACITY: u64 = 1 << 30;

/// A module on a device of its own.
pub struct Device {
    pub memory: Arc<Memory>,
    module: Module,
}

/// A kernel argument.
pub enum Argument {
    Pointer(u64),
    Int(i32),
    Float(f32),
}

impl Device {
    pub fn new(text: &str, arch: Arch) -> Device {
        let memory = Arc::new(Memory::new(CAPACITY));
        let module = Module::load(text, arch, &memory).unwrap_or_else(|e| panic!("{e}"));
        Device { memory, module }
    }

    /// A buffer with these words.
    pub fn upload<T: Bits>(&self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
        let address = self.memory.alloc(bytes.len() as u64).expect("memory");
        self.memory.copy_in(address, &bytes).expect("copy");
        address
    }

    /// A buffer that nothing has written.
    pub fn buffer(&self, bytes: usize) -> u64 {
        self.memory.alloc(bytes as u64).expect("memory")
    }

    pub fn download<T: Bits>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * T::SIZE];
        self.memory.copy_out(address, &mut bytes).expect("copy");
        bytes.chunks_exact(T::SIZE).map(T::from_bytes).collect()
    }

    /// Launches, and gives the report whatever the result.
    pub fn launch(
        &self,
        kernel: &str,
        [grid, block]: [[u32; 3]; 2],
        dynamic_shared: u32,
        checks: Checks,
        arguments: &[Argument],
    ) -> sim::Outcome {
        let kernel = self
            .module
            .kernel(kernel)
            .unwrap_or_else(|| panic!("no kernel {kernel}"));
        let config = LaunchConfig {
            grid,
            block,
            cluster: [1; 3],
            dynamic_shared,
            cooperative: false,
        };
        let mut params = Vec::new();
        for argument in arguments {
            let bytes = match argument {
                Argument::Pointer(value) => value.to_le_bytes().to_vec(),
                Argument::Int(value) => value.to_le_bytes().to_vec(),
                Argument::Float(value) => value.to_le_bytes().to_vec(),
            };
            params.resize(params.len().next_multiple_of(bytes.len()), 0);
            params.extend(bytes);
        }
        sim::launch(&self.memory, &kernel, &config, &params, checks)
    }
}

/// Panics unless the launch went well and nothing was found.
pub fn expect_clean(outcome: &sim::Outcome) -> &LaunchReport {
    assert!(
        outcome.report.findings.is_empty(),
        "{:#?}",
        outcome.report.findings
    );
    assert_eq!(outcome.result, Ok(()));
    &outcome.report
}

/// Panics unless something of this kind was found.
pub fn expect_finding(outcome: &sim::Outcome, kind: FindingKind) {
    let found = outcome
        .report
        .findings
        .iter()
        .any(|finding| finding.kind == kind);
    assert!(found, "no {kind:?} in {:#?}", outcome.report.findings);
}

/// Plain values of a buffer.
pub trait Bits: Copy {
    const SIZE: usize;
    fn bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! bits {
    ($($ty:ty),*) => {$(
        impl Bits for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn from_bytes(bytes: &[u8]) -> $ty {
                <$ty>::from_le_bytes(bytes.try_into().expect("size"))
            }
        }
    )*};
}
bits!(u16, u32, u64, i32, f32);

/// Deterministic bits (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// In [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
