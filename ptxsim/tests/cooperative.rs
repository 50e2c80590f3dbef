//! Cooperative grids: `grid.sync()` of cooperative groups, and a race that its absence makes.

use ptxsim::memory::Memory;
use ptxsim::report::FindingKind;
use ptxsim::sim::{Arch, Checks, LaunchConfig, Module, Outcome, launch};
use std::sync::Arc;

const BLOCKS: usize = 6;
const ROUNDS: usize = 3;

/// Runs a kernel of `cooperative.cu`; the outcome and what it left in `sums`.
fn run(name: &str) -> (Outcome, Vec<u32>) {
    let memory = Arc::new(Memory::new(1 << 20));
    let module = Module::load(
        include_str!("fixtures/cooperative_sm80.ptx"),
        Arch::Sm80,
        &memory,
    )
    .unwrap();
    let kernel = module.kernel(name).unwrap();
    let bytes = (ROUNDS * BLOCKS * 4) as u64;
    let (values, sums) = (
        memory.alloc(BLOCKS as u64 * 4).unwrap(),
        memory.alloc(bytes).unwrap(),
    );
    let mut params = [values.to_le_bytes(), sums.to_le_bytes()].concat();
    params.extend_from_slice(&(ROUNDS as u32).to_le_bytes());
    let config = LaunchConfig {
        grid: [BLOCKS as u32, 1, 1],
        block: [64, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
        cooperative: true,
    };
    let in_use = memory.in_use();
    let outcome = launch(&memory, &kernel, &config, &params, Checks::All);
    assert_eq!(
        memory.in_use(),
        in_use,
        "the launch leaves device memory behind"
    );
    let mut out = vec![0; bytes as usize];
    memory.copy_out(sums, &mut out).unwrap();
    let words = out
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    (outcome, words.collect())
}

#[test]
fn a_grid_synchronises() {
    let (outcome, sums) = run("rounds");
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.report.findings, []);
    let blocks = 0..BLOCKS as u32;
    for (round, sums) in sums.chunks(BLOCKS).enumerate() {
        let expected: u32 = blocks.clone().map(|block| block + round as u32).sum();
        assert_eq!(sums, [expected; BLOCKS], "round {round}");
    }
}

#[test]
fn a_missing_synchronisation_is_a_race_between_blocks() {
    let (outcome, _) = run("racing_rounds");
    let kinds: Vec<_> = outcome
        .report
        .findings
        .iter()
        .map(|finding| finding.kind)
        .collect();
    assert!(kinds.contains(&FindingKind::GlobalRace), "{kinds:?}");
}
