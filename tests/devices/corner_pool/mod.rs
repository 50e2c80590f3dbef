//! Corner pooling: every device against the reference.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;
mod pair;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::Float;
use ocelli::params::{Direction, Layout, Scan};
use ocelli::reference::{Lines, corner_pool_gradient, corner_pool_winners};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::{Data, cases, data, size};
use proptest::prelude::*;
use proptest::sample::select;

const DIRECTIONS: [Direction; 4] = [
    Direction::Top,
    Direction::Bottom,
    Direction::Left,
    Direction::Right,
];

/// One problem.
#[derive(Debug, Clone)]
struct Case {
    shape: [usize; 4],
    direction: Direction,
    layout: Layout,
    data: Data,
    seed: u64,
    /// Elements between an aligned address and the first of the map.
    shift: usize,
}

impl Case {
    fn scan(&self) -> Scan {
        Scan::new(self.shape, self.direction, self.layout)
    }

    fn lines(&self) -> Lines {
        let axis = match (self.layout, self.direction) {
            (Layout::ChannelsLast, Direction::Top | Direction::Bottom) => 1,
            (Layout::ChannelsLast, _) => 2,
            (Layout::ChannelsFirst, Direction::Top | Direction::Bottom) => 2,
            (Layout::ChannelsFirst, _) => 3,
        };
        Lines {
            shape: self.shape,
            axis,
            from_end: matches!(self.direction, Direction::Top | Direction::Left),
        }
    }

    fn map<T: Float>(&self) -> Vec<T> {
        let values = self.data.values(self.scan().elements(), self.seed);
        values.into_iter().map(T::from_f32).collect()
    }

    fn upstream<T: Float>(&self) -> Vec<T> {
        let values = Data::Spread(1.0).values(self.scan().elements(), self.seed ^ 1);
        values.into_iter().map(T::from_f32).collect()
    }
}

fn case() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![
        // The axis of the scan is one of the middle two, or the last.
        (1..3usize, size(40), size(20), size(20)).prop_map(|(a, b, c, d)| [a, b, c, d]),
        (1..3usize, size(260), size(5), size(9)).prop_map(|(a, b, c, d)| [a, b, c, d]),
        (1..3usize, size(5), size(260), select(vec![1, 3, 8, 16, 64]))
            .prop_map(|(a, b, c, d)| [a, b, c, d]),
        (1..3usize, size(4), size(5), size(1100)).prop_map(|(a, b, c, d)| [a, b, c, d]),
    ];
    let layout = select(vec![Layout::ChannelsLast, Layout::ChannelsFirst]);
    let shift = prop_oneof![3 => Just(0), 1 => 0..9usize];
    let direction = select(DIRECTIONS.to_vec());
    (shape, direction, layout, data(), any::<u64>(), shift).prop_map(
        |(shape, direction, layout, data, seed, shift)| Case {
            shape,
            direction,
            layout,
            data,
            seed,
            shift,
        },
    )
}

/// Maxima without bits, with them, the bits, and the gradient.
#[derive(Debug, Clone)]
struct Output<T> {
    alone: Vec<T>,
    pooled: Vec<T>,
    bits: Vec<i32>,
    gradient: Vec<T>,
}

fn run<T: Float + ocelli::cpu::corner_pool::Ordered>(target: &Target, case: &Case) -> Output<T> {
    match target {
        Target::Cpu => run_cpu(case),
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => cuda::run(device, case),
    }
}

/// What `write` leaves in a guarded buffer.
fn guarded<T: Float>(len: usize, shift: usize, write: impl FnOnce(&mut [T])) -> Vec<T> {
    let guarded = Guarded::<T>::new(len, shift);
    let mut all = guarded.all().to_vec();
    write(&mut all[guarded.range()]);
    guarded.check(&all).unwrap().to_vec()
}

fn run_cpu<T: Float + ocelli::cpu::corner_pool::Ordered>(case: &Case) -> Output<T> {
    use ocelli::cpu::corner_pool::{backward, forward};
    let (scan, shift) = (case.scan(), case.shift);
    let (map, upstream) = (case.map::<T>(), case.upstream::<T>());
    let mut bits = vec![-1; scan.bit_words()];
    let alone = guarded(map.len(), shift, |out| {
        forward(&map, &scan, None, out).unwrap();
    });
    let pooled = guarded(map.len(), shift, |out| {
        forward(&map, &scan, Some(&mut bits), out).unwrap();
    });
    let gradient = guarded(map.len(), shift, |out| {
        backward(&upstream, &bits, &scan, out).unwrap();
    });
    Output {
        alone,
        pooled,
        bits,
        gradient,
    }
}

/// NaN has many bits; all else must have those of the input it is.
fn same<T: Float>(left: &[T], right: &[T]) -> Result<(), TestCaseError> {
    let plain = |values: &[T]| -> Vec<T> {
        let nan = T::from_f32(f32::NAN);
        let values = values.iter();
        values
            .map(|&x| if x.to_f32().is_nan() { nan } else { x })
            .collect()
    };
    bitwise(&plain(left), &plain(right)).map_err(|error| TestCaseError::fail(error.to_string()))
}

/// The bits that [`Scan`] defines, from the reference's winners.
fn expected_bits(scan: &Scan, winners: &[usize]) -> Vec<i32> {
    let mut bits = vec![0u32; scan.bit_words()];
    for (at, &winner) in winners.iter().enumerate() {
        if at != winner {
            continue;
        }
        let (row, column) = (at / scan.inner, at % scan.inner);
        let (outer, position) = (row / scan.length, row % scan.length);
        let step = if scan.from_end {
            scan.length - 1 - position
        } else {
            position
        };
        let byte = (outer * scan.length.div_ceil(8) + step / 8) * scan.inner + column;
        bits[byte / 4] |= 1 << (byte % 4 * 8 + step % 8);
    }
    bits.into_iter().map(|word| word as i32).collect()
}

/// The gradient as PyTorch scatters it, rounding at each step, and the sum of its terms' magnitudes.
fn naive<T: Float>(winners: &[usize], upstream: &[T]) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![T::default(); upstream.len()];
    let mut terms = vec![0.0; upstream.len()];
    for (cell, &at) in winners.iter().enumerate() {
        sums[at] = T::from_f32(sums[at].to_f32() + upstream[cell].to_f32());
        terms[at] += f64::from(upstream[cell].to_f32().abs());
    }
    let sums = sums.into_iter().map(|x| f64::from(x.to_f32())).collect();
    (sums, terms)
}

fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

fn check<T: Float + ocelli::cpu::corner_pool::Ordered>(
    target: &Target,
    case: &Case,
) -> Result<(), TestCaseError> {
    let output = run::<T>(target, case);
    let again = run::<T>(target, case);
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        TestCaseError::fail(format!("{target:?} {}: {what}: {error}", T::DTYPE))
    };
    same(&output.pooled, &again.pooled).map_err(|error| fail("second run", &error))?;
    bitwise(&output.bits, &again.bits).map_err(|error| fail("second run", &error))?;
    bitwise(&output.gradient, &again.gradient).map_err(|error| fail("second run", &error))?;

    let (map, upstream) = (case.map::<T>(), case.upstream::<T>());
    let winners = corner_pool_winners(&wide(&map), &case.lines());
    let expected: Vec<T> = winners.iter().map(|&at| map[at]).collect();
    same(&output.alone, &expected).map_err(|error| fail("maxima", &error))?;
    same(&output.pooled, &expected).map_err(|error| fail("maxima with bits", &error))?;
    let bits = expected_bits(&case.scan(), &winners);
    bitwise(&output.bits, &bits).map_err(|error| fail("bits", &error))?;

    let exact = corner_pool_gradient(&wide(&map), &wide(&upstream), &case.lines());
    let (naive, terms) = naive(&winners, &upstream);
    // A chain of at most `length` f32 additions.
    let dtype = T::DTYPE;
    let budget = Budget::of_sums(&exact, &terms, &naive, dtype);
    within(&wide(&output.gradient), &exact, &budget).map_err(|error| fail("gradient", &error))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case()) {
        for target in targets() {
            check::<f32>(target, &case)?;
            check::<f16>(target, &case)?;
            check::<bf16>(target, &case)?;
        }
    }
}
