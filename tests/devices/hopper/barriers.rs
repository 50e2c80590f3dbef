//! Barriers that count copies, rings of buffers on them, and named barriers.

use super::launch::{Argument, Call, Hopper, Memory, Mistake, WARPGROUP, hoppers};
use ptxsim::report::FindingKind;

/// The place that a reader reads of those that the writers wrote: another warp's.
fn turned(thread: usize) -> usize {
    (thread + 33) % WARPGROUP
}

fn rings(hopper: &Hopper, pieces: &[i32], mistake: Mistake) -> Vec<i32> {
    let from = Memory::holding(hopper, pieces);
    let out = Memory::<i32>::unwritten(hopper, pieces.len());
    let count = (pieces.len() / WARPGROUP) as i32;
    let call = Call {
        threads: WARPGROUP + 32,
        ..Call::warpgroup("hopper_rings", 0)
    };
    let count = Argument::Number(count);
    let arguments = [from.argument(), count, mistake.argument(), out.argument()];
    hopper.launch(call, &arguments);
    out.read()
}

/// Numbers that differ from those around them.
fn pieces(count: usize) -> Vec<i32> {
    (0..(count * WARPGROUP) as i32)
        .map(|i| i * 37 % 100_003)
        .collect()
}

#[test]
fn rings_carry_copies_and_stores_through_many_phases() {
    for hopper in hoppers() {
        // Up to five uses of a buffer of three, and seven of one of two.
        for count in [1, 2, 3, 4, 6, 7, 13] {
            let pieces = pieces(count);
            let expected: Vec<i32> = (0..pieces.len())
                .map(|i| (i / WARPGROUP, i % WARPGROUP))
                .map(|(n, i)| pieces[n * WARPGROUP + turned(i)] + 3 * n as i32 + 1)
                .collect();
            for _ in 0..2 {
                assert_eq!(rings(&hopper, &pieces, Mistake::None), expected, "{count}");
            }
        }
        hopper.check();
    }
}

#[test]
fn a_ring_whose_sides_do_not_wait_is_a_race() {
    for hopper in hoppers() {
        for mistake in [Mistake::NoWait, Mistake::EarlyRelease] {
            let run = || {
                rings(&hopper, &pieces(9), mistake);
            };
            if let Some(findings) = hopper.findings(run) {
                assert!(
                    findings.contains(&FindingKind::SharedRace),
                    "{mistake:?}: {findings:?}"
                );
            }
        }
    }
}

/// What the second warpgroup read, and what each thread learnt of the vote.
fn named_barriers(
    hopper: &Hopper,
    rounds: usize,
    voter: i32,
    mistake: Mistake,
) -> (Vec<i32>, Vec<i32>) {
    let out = Memory::<i32>::unwritten(hopper, rounds * WARPGROUP);
    let votes = Memory::<i32>::unwritten(hopper, 2 * WARPGROUP);
    let call = Call {
        threads: 2 * WARPGROUP,
        ..Call::warpgroup("hopper_named_barriers", 0)
    };
    let arguments = [
        Argument::Number(rounds as i32),
        Argument::Number(voter),
        mistake.argument(),
        out.argument(),
        votes.argument(),
    ];
    hopper.launch(call, &arguments);
    (out.read(), votes.read())
}

#[test]
fn named_barriers_order_warpgroups_and_count_votes() {
    for hopper in hoppers() {
        for (rounds, voter) in [(1, -1), (2, 0), (9, 127), (3, 128), (3, 255), (3, 201)] {
            let expected: Vec<i32> = (0..rounds * WARPGROUP)
                .map(|i| (1000 * (i / WARPGROUP) + turned(i % WARPGROUP)) as i32)
                .collect();
            let group = WARPGROUP as i32;
            let is_concerned = |thread: i32| voter >= 0 && thread / group == voter / group;
            let told: Vec<i32> = (0..2 * group).map(|i| is_concerned(i).into()).collect();
            for _ in 0..2 {
                let (out, votes) = named_barriers(&hopper, rounds, voter, Mistake::None);
                assert_eq!(out, expected, "{rounds}");
                assert_eq!(votes, told, "{voter}");
            }
        }
        hopper.check();
    }
}

#[test]
fn reading_before_the_named_barrier_is_a_race() {
    for hopper in hoppers() {
        let run = || {
            named_barriers(&hopper, 3, 0, Mistake::NoWait);
        };
        if let Some(findings) = hopper.findings(run) {
            assert!(findings.contains(&FindingKind::SharedRace), "{findings:?}");
        }
    }
}
