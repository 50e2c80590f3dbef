//! Elementary functions without branches or calls, so that loops over them vectorise.

/// `exp(-a)` for `a >= 0`, to 2e-7 relative; 0 from about 87.7 on, where the result turns
/// subnormal. NaN gives NaN.
///
/// `exp(-a) = 2^n * exp(r)` with `n` an integer and `|r| <= ln(2) / 2`; the Taylor series of
/// `exp(r)` to `r^7` is within 6e-9.
#[inline(always)]
pub(super) fn exp_of_minus(a: f32) -> f32 {
    /// Adding 1.5 * 2^23 leaves the sum rounded to an integer, which stands in its low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln(2) in two parts: the first has 9 bits, so that its product with `n` is exact.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = -if a > 88.0 { 88.0 } else { a };
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
