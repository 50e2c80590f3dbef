//! Elementary functions without branches or calls, so that loops over them vectorise.

/// `exp(-a)` for `a >= 0`, to 2e-7 relative; 0 from about 87.7 on, where the result turns
/// subnormal. NaN gives NaN.
#[inline(always)]
pub(super) fn exp_of_minus(a: f32) -> f32 {
    exp(-a)
}

/// `exp(x)` for `x <= 88`, to 2e-7 relative; 0 below about -87.7, where the result turns subnormal.
/// NaN gives NaN. `kernels/common/exact.cuh` does the same operations, for the same bits.
///
/// `exp(x) = 2^n * exp(r)` with `n` an integer and `|r| <= ln(2) / 2`; the Taylor series of
/// `exp(r)` to `r^7` is within 6e-9.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 leaves the sum rounded to an integer, which stands in its low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln(2) in two parts: the first has 9 bits, so that its product with `n` is exact.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = if x < -88.0 { -88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2.0) - n * LN2.1;
    let mut series = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = series * r + coefficient;
    }
    // The low bits of `shifted` hold n; with the bias of 127 they become the exponent of 2^n.
    series * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `exp(-a)` for `a >= 0`, to 4e-16 relative; exp(-110) from `a = 110` on, which is 0 as `f32`.
///
/// As [`exp_of_minus`], with the Taylor series to `r^12`, within 2e-16. `kernels/common/exact_double.cuh` has the same
/// operations in the same order, so that both give the same bits.
#[inline(always)]
pub(super) fn exp_of_minus_f64(a: f64) -> f64 {
    /// Adding 1.5 * 2^52 leaves the sum rounded to an integer, which stands in its low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln(2) in two parts: the first has 33 bits, so that its product with `n` is exact.
    const LN2: (f64, f64) = (0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10);
    let x = -if a < 110.0 { a } else { 110.0 };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2.0) - n * LN2.1;
    let mut series = 1.0 / 479_001_600.0;
    for coefficient in [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = series * r + coefficient;
    }
    series * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

/// `ln(1 + t)` for `0 <= t <= 1`, to 3e-7 relative, so exact in the tail where `1 + t` rounds to 1.
///
/// `t` times the polynomial of degree 8 nearest to `ln(1 + t) / t` in relative error (Remez; 3e-8
/// before rounding).
#[inline(always)]
pub(super) fn ln_1p(t: f32) -> f32 {
    const COEFFICIENTS: [f32; 8] = [
        -0.029_505_237,
        0.078_225_955,
        -0.136_632_46,
        0.191_060_07,
        -0.248_429_82,
        0.333_190_98,
        -0.499_994_93,
        0.999_999_94,
    ];
    let mut series = 0.005_232_694;
    for coefficient in COEFFICIENTS {
        series = series * t + coefficient;
    }
    series * t
}

/// Loss `p^gamma * -ln(1 - p)` and its slope at `z`, `p` being the sigmoid of `z`: the probability of the
/// wrong answer, towards which `z` grows. `STANDARD`: `gamma` is taken as 2 and `smoothed`, half a label
/// smoothing, as 0.
///
/// With `t = exp(-|z|)`, one exponential gives both tails exactly: `sigmoid(|z|) = 1 / (1 + t)`,
/// `sigmoid(-|z|) = t / (1 + t)` and `softplus(z) = max(z, 0) + ln(1 + t)`.
#[inline(always)]
pub(super) fn focal<const STANDARD: bool>(z: f32, gamma: f32, smoothed: f32) -> (f32, f32) {
    let t = exp_of_minus(z.abs());
    let larger = 1.0 / (1.0 + t);
    let smaller = t * larger;
    let (wrong, right) = if z < 0.0 {
        (smaller, larger)
    } else {
        (larger, smaller)
    };
    let softplus = (if z > 0.0 { z } else { 0.0 }) + ln_1p(t);
    let (gamma, smoothed) = if STANDARD {
        (2.0, 0.0)
    } else {
        (gamma, smoothed)
    };
    let entropy = if STANDARD || smoothed == 0.0 {
        softplus
    } else {
        softplus - smoothed * z
    };
    let focus = if STANDARD {
        wrong * wrong
    } else {
        wrong.powf(gamma)
    };
    // At infinity `right` is 0, and 0 times the largest number is the limit that 0 times infinity is
    // not.
    let bounded = if entropy > f32::MAX {
        f32::MAX
    } else {
        entropy
    };
    (
        focus * entropy,
        focus * (gamma * right * bounded + wrong - smoothed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_holds_its_bound() {
        for step in 0..=870_000 {
            let a = step as f32 * 1e-4;
            let exact = (-f64::from(a)).exp();
            let error = (f64::from(exp_of_minus(a)) / exact - 1.0).abs();
            assert!(error <= 2e-7, "{a}: {error}");
        }
        assert_eq!(exp_of_minus(0.0), 1.0);
        assert_eq!(exp_of_minus(f32::INFINITY), 0.0);
        assert!(exp_of_minus(f32::NAN).is_nan());
        for step in 0..=880_000 {
            let x = step as f32 * 1e-4;
            let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
            assert!(error <= 2e-7, "{x}: {error}");
        }
    }

    #[test]
    fn exp_in_double_precision_holds_its_bound() {
        for step in 0..=1_100_000 {
            let a = f64::from(step) * 1e-4;
            let error = (exp_of_minus_f64(a) / (-a).exp() - 1.0).abs();
            assert!(error <= 5e-16, "{a}: {error}");
        }
        assert_eq!(exp_of_minus_f64(0.0), 1.0);
        assert_eq!(exp_of_minus_f64(f64::INFINITY) as f32, 0.0);
    }

    #[test]
    fn ln_1p_holds_its_bound() {
        for step in 1..=1_000_000 {
            let t = step as f32 * 1e-6;
            let error = (f64::from(ln_1p(t)) / f64::from(t).ln_1p() - 1.0).abs();
            assert!(error <= 3e-7, "{t}: {error}");
        }
        assert_eq!(ln_1p(1e-30), 1e-30 * 0.999_999_94);
    }
}
