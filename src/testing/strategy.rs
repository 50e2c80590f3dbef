//! Sizes and data on which kernels go wrong.

use proptest::prelude::*;
use proptest::sample::select;

/// How many cases a property is tried on: `PROPTEST_CASES` where it is set; else `cases`, or 16
/// times as many where `OCELLI_TEST_FULL=1` asks for the long tests.
pub fn cases(cases: u32) -> u32 {
    let set = |name| std::env::var(name).ok();
    match set("PROPTEST_CASES").and_then(|count| count.parse().ok()) {
        Some(count) => count,
        None if set("OCELLI_TEST_FULL").as_deref() == Some("1") => 16 * cases,
        None => cases,
    }
}

/// Sizes up to `max` that straddle warps, vectors and tiles: 0, 1, around powers of two, primes,
/// and any.
pub fn size(max: usize) -> impl Strategy<Value = usize> {
    let mut edges = vec![0, 1, 2, 3, 5, 7, 97, 251, 509];
    let powers = (2..14).map(|power| 1usize << power);
    edges.extend(powers.flat_map(|power| [power - 1, power, power + 1]));
    edges.retain(|&edge| edge <= max);
    prop_oneof![select(edges), 0..=max]
}

/// One kind of data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Data {
    /// Independent, standard deviation about `spread`.
    Spread(f32),
    /// All the same, so that everything ties.
    Constant(f32),
    /// A large mean with small differences, which a one-pass variance would lose.
    Offset(f32),
    /// Few distinct values, so that many tie.
    Ties,
    /// Any, with NaN, infinities, zeros of both signs and subnormals among them.
    Special,
}

impl Data {
    /// `len` values. The same seed gives the same values on every machine.
    pub fn values(self, len: usize, seed: u64) -> Vec<f32> {
        const SPECIAL: [f32; 8] = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            0.0,
            -0.0,
            1e-40,
            100.0,
            -100.0,
        ];
        let mut random = SplitMix(seed);
        let mut value = || match self {
            Data::Spread(spread) => spread * random.normal(),
            Data::Constant(value) => value,
            Data::Offset(mean) => mean + random.normal(),
            Data::Ties => (random.next() % 4) as f32 * 0.5 - 1.0,
            Data::Special if random.next().is_multiple_of(4) => SPECIAL[random.next() as usize % 8],
            Data::Special => 3.0 * random.normal(),
        };
        (0..len).map(|_| value()).collect()
    }
}

/// All kinds of data, the finite ones most often.
pub fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        4 => Just(Data::Spread(2.0)),
        2 => Just(Data::Spread(60.0)),
        1 => Just(Data::Constant(0.0)),
        1 => Just(Data::Constant(-4.595_119_5)),
        1 => Just(Data::Offset(1000.0)),
        1 => Just(Data::Ties),
        2 => Just(Data::Special),
    ]
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next 64 bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless generator, not an iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normal: mean 0, variance 1, within 6 of 0 (the sum of twelve uniform numbers, less 6).
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_data_hold_what_they_promise() {
        let values = Data::Special.values(1000, 1);
        assert!(values.iter().any(|x| x.is_nan()));
        assert!(values.contains(&f32::INFINITY) && values.contains(&f32::NEG_INFINITY));
        assert!(values.iter().any(|x| x.is_subnormal()));
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let values = Data::Spread(1.0).values(100_000, 2);
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f32>() / 1e5;
        assert!(
            mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02,
            "{mean} {variance}"
        );
    }
}
