//! Products of a warpgroup: every shape, kind of operand and type that there is.

use super::launch::{Argument, Call, Hopper, Memory, Mistake, hoppers};
use half::{bf16, f16};
use ocelli::Float;
use ocelli::testing::strategy::SplitMix;
use ptxsim::report::FindingKind;

/// Rows of a product.
const ROWS: usize = 64;
/// Columns of a block of an operand.
const BLOCK: usize = 64;
/// k of operands along whose rows it runs, and of those down whose rows.
const ALONG: usize = 128;
const DOWN: usize = 32;
const ELEMENT: usize = 2;

/// Whole numbers from -8 to 8: exact in both types, as any sum of their products here is in f32.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix(seed);
    (0..len)
        .map(|_| (random.next() % 17) as f32 - 8.0)
        .collect()
}

fn rounded<T: Float>(numbers: &[f32]) -> Vec<T> {
    numbers.iter().map(|&number| T::from_f32(number)).collect()
}

/// `start + a b`, [64, columns], of whole numbers a(row, k) and b(k, column).
fn exact(
    start: &[f32],
    depth: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let columns = start.len() / ROWS;
    let sum = |(i, start): (usize, &f32)| {
        let (row, column) = (i / columns, i % columns);
        start + (0..depth).map(|k| a(row, k) * b(k, column)).sum::<f32>()
    };
    start.iter().enumerate().map(sum).collect()
}

fn symbol<T: Float>(form: &str) -> String {
    format!("hopper_{form}_{}", T::DTYPE.name())
}

/// sums = a b^T, added to `start` where there is one.
fn along_rows<T: Float>(
    hopper: &Hopper,
    [a, b]: [&[f32]; 2],
    start: Option<&[f32]>,
    mistake: Mistake,
) -> Vec<f32> {
    let columns = b.len() / ALONG;
    let [a, b] = [a, b].map(|numbers| Memory::holding(hopper, &rounded::<T>(numbers)));
    let sums = match start {
        Some(start) => Memory::holding(hopper, start),
        None => Memory::unwritten(hopper, ROWS * columns),
    };
    let symbol = symbol::<T>(&format!("along_rows_n{columns}"));
    let call = Call::warpgroup(&symbol, (ROWS + columns) * ALONG * ELEMENT);
    let add = Argument::Number(start.is_some().into());
    let arguments = [
        a.argument(),
        b.argument(),
        add,
        mistake.argument(),
        sums.argument(),
    ];
    hopper.launch(call, &arguments);
    sums.read()
}

fn check_along_rows<T: Float>(hopper: &Hopper, columns: usize) {
    let [a, b] = [ROWS, columns].map(|rows| numbers(rows * ALONG, rows as u64));
    let start = numbers(ROWS * columns, 3);
    for start in [None, Some(&start[..])] {
        let zeros = vec![0.0; ROWS * columns];
        let expected = exact(
            start.unwrap_or(&zeros),
            ALONG,
            |row, k| a[row * ALONG + k],
            |k, column| b[column * ALONG + k],
        );
        for _ in 0..2 {
            let sums = along_rows::<T>(hopper, [&a, &b], start, Mistake::None);
            let added = start.is_some();
            assert!(sums == expected, "{} n{columns} {added}", T::DTYPE);
        }
    }
    hopper.check();
}

#[test]
fn operands_whose_k_runs_along_the_rows() {
    for hopper in hoppers() {
        for columns in [32, 64, 80, 128, 136, 208] {
            check_along_rows::<f16>(&hopper, columns);
            check_along_rows::<bf16>(&hopper, columns);
        }
    }
}

/// sums += a b, a in registers, k down the rows of b.
fn check_registers<T: Float>(hopper: &Hopper, columns: usize) {
    let (a, b) = (numbers(ROWS * DOWN, 4), numbers(DOWN * columns, 5));
    let start = numbers(ROWS * columns, 6);
    let expected = exact(
        &start,
        DOWN,
        |row, k| a[row * DOWN + k],
        |k, column| b[k * columns + column],
    );
    let a = Memory::holding(hopper, &a);
    let b = Memory::holding(hopper, &rounded::<T>(&b));
    let symbol = symbol::<T>(&format!("registers_n{columns}"));
    let call = Call::warpgroup(&symbol, DOWN * columns * ELEMENT);
    for _ in 0..2 {
        let sums = Memory::holding(hopper, &start);
        hopper.launch(call, &[a.argument(), b.argument(), sums.argument()]);
        assert!(sums.read() == expected, "{} n{columns}", T::DTYPE);
    }
    hopper.check();
}

#[test]
fn left_operands_in_registers() {
    for hopper in hoppers() {
        for columns in [64, 128, 256] {
            check_registers::<f16>(&hopper, columns);
            check_registers::<bf16>(&hopper, columns);
        }
    }
}

/// sums += a^T b, k down the rows of both.
fn check_turned<T: Float>(hopper: &Hopper) {
    let [a, b] = [7, 8].map(|seed| numbers(DOWN * BLOCK, seed));
    let start = numbers(ROWS * BLOCK, 9);
    let expected = exact(
        &start,
        DOWN,
        |row, k| a[k * BLOCK + row],
        |k, column| b[k * BLOCK + column],
    );
    let [a, b] = [a, b].map(|numbers| Memory::holding(hopper, &rounded::<T>(&numbers)));
    let symbol = symbol::<T>("turned");
    let call = Call::warpgroup(&symbol, 2 * DOWN * BLOCK * ELEMENT);
    for _ in 0..2 {
        let sums = Memory::holding(hopper, &start);
        hopper.launch(call, &[a.argument(), b.argument(), sums.argument()]);
        assert!(sums.read() == expected, "{}", T::DTYPE);
    }
    hopper.check();
}

#[test]
fn operands_whose_k_runs_down_the_rows() {
    for hopper in hoppers() {
        check_turned::<f16>(&hopper);
        check_turned::<bf16>(&hopper);
    }
}

/// a b^T and b a^T, as groups of products under way at a time.
fn two_groups(hopper: &Hopper, [a, b]: [&[f32]; 2], mistake: Mistake) -> Vec<f32> {
    let [a, b] = [a, b].map(|numbers| Memory::holding(hopper, &rounded::<bf16>(numbers)));
    let sums = Memory::<f32>::unwritten(hopper, 2 * ROWS * ROWS);
    let call = Call::warpgroup("hopper_two_groups", 2 * ROWS * BLOCK * ELEMENT);
    let mistake = mistake.argument();
    hopper.launch(
        call,
        &[a.argument(), b.argument(), mistake, sums.argument()],
    );
    sums.read()
}

#[test]
fn the_older_of_two_groups_is_there_first() {
    for hopper in hoppers() {
        let [a, b] = [10, 11].map(|seed| numbers(ROWS * BLOCK, seed));
        let zeros = [0.0; ROWS * ROWS];
        let product = |a: &[f32], b: &[f32]| {
            exact(
                &zeros,
                BLOCK,
                |row, k| a[row * BLOCK + k],
                |k, column| b[column * BLOCK + k],
            )
        };
        let expected = [product(&a, &b), product(&b, &a)].concat();
        for _ in 0..2 {
            let sums = two_groups(&hopper, [&a, &b], Mistake::None);
            assert!(sums == expected);
        }
        hopper.check();
    }
}

#[test]
fn operands_without_a_fence_or_overwritten_early_are_found() {
    for hopper in hoppers() {
        let [a, b] = [1, 2].map(|seed| numbers(ROWS * ALONG, seed));
        let unfenced = hopper.findings(|| {
            along_rows::<bf16>(&hopper, [&a, &b], None, Mistake::NoProxyFence);
        });
        let overwritten = hopper.findings(|| {
            let halves = [&a[..ROWS * BLOCK], &b[..ROWS * BLOCK]];
            two_groups(&hopper, halves, Mistake::EarlyStore);
        });
        for (findings, expected) in [
            (unfenced, FindingKind::ProxyFence),
            (overwritten, FindingKind::SharedRace),
        ] {
            let Some(findings) = findings else { continue };
            assert!(findings.contains(&expected), "{expected:?}: {findings:?}");
        }
    }
}
