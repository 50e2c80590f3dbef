//! Slots by liveness on random programs: every read sees what it would see with a register each.

use proptest::collection::vec;
use proptest::prelude::*;
use ptxsim::program::liveness::{Flow, assign};
use ptxsim::ptx::ast::RegId;

const REGISTERS: usize = 12;
/// Instructions executed; loops end by this.
const STEPS: usize = 400;

/// Reads, writes, guard, falls through, jump.
type Step = (Vec<u32>, Vec<u32>, bool, bool, Option<prop::sample::Index>);

fn program() -> impl Strategy<Value = Vec<Step>> {
    let register = 0..REGISTERS as u32;
    let step = (
        vec(register.clone(), 0..3),
        vec(register, 0..3),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.9),
        prop::option::weighted(0.25, any::<prop::sample::Index>()),
    );
    vec(step, 1..40)
}

fn flow_of(program: &[Step]) -> Vec<Flow> {
    program
        .iter()
        .map(|(reads, writes, guarded, falls_through, jump)| Flow {
            reads: reads.iter().map(|&r| RegId(r)).collect(),
            writes: writes.iter().map(|&r| RegId(r)).collect(),
            guarded: *guarded,
            falls_through: *falls_through,
            // One past the end is an exit.
            targets: jump
                .iter()
                .map(|index| index.index(program.len() + 1))
                .collect(),
        })
        .collect()
}

/// Runs the program with registers stored where `home` says and returns all values read. A write
/// stores a number that tells it from all others; `choices` decides guards and branches.
fn trace(flow: &[Flow], home: &[usize], choices: &[bool]) -> Vec<u64> {
    let mut storage = vec![0u64; home.iter().max().map_or(0, |&slot| slot + 1)];
    let mut seen = Vec::new();
    let mut position = 0;
    for step in 0..STEPS {
        let Some(instruction) = flow.get(position) else {
            break;
        };
        let choice = choices[step % choices.len()];
        seen.extend(
            instruction
                .reads
                .iter()
                .map(|r| storage[home[r.0 as usize]]),
        );
        if !instruction.guarded || choice {
            for (index, register) in instruction.writes.iter().enumerate() {
                storage[home[register.0 as usize]] = (step * 10 + index + 1) as u64;
            }
        }
        position = match instruction.targets.first() {
            Some(&target) if choice || !instruction.falls_through => target,
            _ if instruction.falls_through => position + 1,
            _ => break,
        };
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_see_the_same_values(program in program(), choices in vec(any::<bool>(), 1..50)) {
        let flow = flow_of(&program);
        let slots = assign(&[0; REGISTERS], &flow);
        let own: Vec<usize> = (0..REGISTERS).collect();
        let shared: Vec<usize> = slots.slot.iter().map(|&slot| slot as usize).collect();
        prop_assert!(slots.counts[0] as usize <= REGISTERS);
        prop_assert!(shared.iter().all(|&slot| slot < slots.counts[0] as usize));
        prop_assert_eq!(trace(&flow, &shared, &choices), trace(&flow, &own, &choices));
    }
}
