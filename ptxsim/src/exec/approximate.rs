//! Approximations that PTX bounds by an error instead of defining by bits.

/// `2^x`, within 1 ulp; PTX allows 2.
///
/// Written as a polynomial of the fraction, so that the loop over lanes vectorises.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    // Coefficients ln(2)^k / k!; the first term left out is below 2^-27 for |f| <= 1/2.
    const TERMS: [f32; 8] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_5,
        0.055_504_11,
        0.009_618_129,
        0.001_333_355_8,
        0.000_154_035_3,
        0.000_015_252_734,
    ];
    let clamped = x.clamp(-150.0, 128.0);
    let whole = clamped.round_ties_even();
    let fraction = clamped - whole;
    let polynomial = TERMS
        .iter()
        .rev()
        .fold(0.0f32, |sum, &term| sum.mul_add(fraction, term));
    // Two steps: 2^-150 and 2^128 are not normal numbers.
    let half = (whole * 0.5).floor();
    let power = |exponent: f32| f32::from_bits(((exponent as i32 + 127) as u32) << 23);
    let scaled = polynomial * power(half) * power(whole - half);
    if x.is_nan() { x } else { scaled }
}

/// Binary logarithm; PTX allows an error of 2^-22, of the result outside of [0.5, 2].
///
/// With x = m 2^e and t = (m - 1) / (m + 1), log2(m) = 2 / ln 2 * (t + t^3 / 3 + t^5 / 5 + ..).
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    // 2 / ln 2 / (2k + 1); |t| <= 0.1716, so the first term left out is below 2^-30 of the sum.
    const TERMS: [f32; 5] = [2.885_39, 0.961_796_7, 0.577_078, 0.412_198_6, 0.320_598_9];
    // Subnormal numbers are brought into the normal range.
    let tiny = x < f32::MIN_POSITIVE;
    let (scaled, shift) = if tiny {
        (x * 2f32.powi(32), 32)
    } else {
        (x, 0)
    };
    // Distance from the bits of sqrt(1/2): its exponent part is that of a fraction in
    // [sqrt(1/2), sqrt(2)).
    let distance = scaled.to_bits() as i32 - std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32;
    let exponent = distance >> 23;
    let fraction = f32::from_bits((scaled.to_bits() as i32 - (exponent << 23)) as u32);
    let t = (fraction - 1.0) / (fraction + 1.0);
    let square = t * t;
    let series = TERMS
        .iter()
        .rev()
        .fold(0.0f32, |sum, &term| sum.mul_add(square, term));
    let result = t.mul_add(series, (exponent - shift) as f32);
    let finite = if x < f32::INFINITY { result } else { x };
    let positive = if x > 0.0 { finite } else { f32::NAN };
    if x == 0.0 {
        f32::NEG_INFINITY
    } else {
        positive
    }
}

/// Hyperbolic tangent, within 3 ulp; PTX allows a relative error of 2^-11.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    // Lambert's continued fraction, cut where the next term is below 2^-30 of the result.
    let square = x * x;
    let above = square.mul_add(square + 105.0, 945.0);
    let below = square.mul_add(square.mul_add(15.0, 420.0), 945.0);
    let small = magnitude * above / below;
    // Beyond 10 the result is 1.
    let power = exp2(magnitude.min(10.0) * (2.0 * std::f32::consts::LOG2_E));
    let large = 1.0 - 2.0 / (power + 1.0);
    let result = if magnitude < 0.6 { small } else { large };
    if x.is_nan() { x } else { result.copysign(x) }
}

/// `f` as the f64 approximations with `.ftz` have it: of the upper 32 bits of the operand, in the
/// upper 32 bits of the result, and both zeros instead of subnormal. NaN stays NaN.
#[inline(always)]
pub fn gross(value: f64, f: fn(f64) -> f64) -> f64 {
    let result = f(upper(flush64(value)));
    if value.is_nan() {
        value
    } else {
        upper(flush64(result))
    }
}

fn upper(value: f64) -> f64 {
    f64::from_bits(value.to_bits() & 0xffff_ffff_0000_0000)
}

fn flush64(value: f64) -> f64 {
    if value.is_subnormal() {
        0.0f64.copysign(value)
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_within_one_ulp() {
        let mut x = -149.0f32;
        while x < 128.0 {
            let exact = f64::from(x).exp2();
            let ulp =
                f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            let error = (f64::from(exp2(x)) - exact).abs();
            assert!(error <= 1.01 * ulp, "2^{x}: {error:e} of {ulp:e}");
            x += 0.003_7;
        }
    }

    /// Largest error of `f` in units in the last place of the exact result.
    fn worst(f: fn(f32) -> f32, exact: fn(f64) -> f64, values: impl Iterator<Item = f32>) -> f64 {
        let error = |x: f32| {
            let exact = exact(x.into());
            let unit = f64::from((exact as f32).abs().next_up()) - f64::from((exact as f32).abs());
            (f64::from(f(x)) - exact).abs() / unit
        };
        values.map(error).fold(0.0, f64::max)
    }

    #[test]
    fn tanh_is_within_three_ulp() {
        let values = (0..1_000_000).map(|i| (i - 500_000) as f32 * 2.3e-5);
        let error = worst(tanh, f64::tanh, values);
        assert!(error <= 3.0, "{error}");
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(-30.0), -1.0);
        assert_eq!(tanh(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(tanh(1e-40), 1e-40);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn log2_is_within_three_ulp() {
        let values = (1..2_000_000u32).map(|i| f32::from_bits(i * 1_069));
        let error = worst(log2, f64::log2, values);
        assert!(error <= 3.0, "{error}");
        let near_one = (0..1_000_000u32).map(|i| f32::from_bits(1f32.to_bits() - 500_000 + i));
        let error = worst(log2, f64::log2, near_one.filter(|&x| x != 1.0));
        assert!(error <= 3.0, "{error}");
        assert_eq!(log2(1.0), 0.0);
        assert_eq!(log2(8.0), 3.0);
        assert_eq!(log2(f32::from_bits(1)), -149.0);
        assert_eq!(log2(-0.0), f32::NEG_INFINITY);
        assert_eq!(log2(f32::INFINITY), f32::INFINITY);
        assert!(log2(-1.0).is_nan() && log2(f32::NEG_INFINITY).is_nan() && log2(f32::NAN).is_nan());
    }

    #[test]
    fn exp2_at_the_edges() {
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(-200.0), 0.0);
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(128.0), f32::INFINITY);
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert!(exp2(f32::NAN).is_nan());
    }
}
