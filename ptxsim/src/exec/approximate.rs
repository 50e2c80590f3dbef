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
