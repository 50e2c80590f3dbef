//! Activations over slices.

use super::math::exp_of_minus;
use crate::params::Activation;

impl Activation {
    /// Replaces each value by its function.
    #[inline(always)]
    pub(super) fn apply(self, values: &mut [f32]) {
        match self {
            Activation::None => {}
            Activation::Relu => values.iter_mut().for_each(|x| *x = relu(*x)),
            Activation::Gelu => gelu_all(values),
        }
    }
}

/// NaN stays NaN, as in PyTorch.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn gelu_all(values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just found to have AVX2, which is all that the function asks for.
        return unsafe { gelu_all_avx2(values) };
    }
    values.iter_mut().for_each(|x| *x = gelu(*x));
}

/// The same arithmetic in registers twice as wide.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn gelu_all_avx2(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = gelu(*x));
}

/// `x * Phi(x)`.
///
/// With `z = |x| / sqrt(2)`, `Phi(-|x|) = erfc(z) / 2` keeps its digits in the tail. `erfc(z) =
/// exp(-z^2) * t * P(t)`, `t = 1 / (1 + 0.3 z)`, with the polynomial of degree 8 that is nearest in
/// relative error over `0 <= z <= 10` (2e-8 before rounding). Beyond 20 the tail is 0 in f32.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 8] = [
        0.485_564_4,
        -0.512_280_76,
        0.547_723_3,
        -0.094_653_14,
        0.214_927_17,
        0.148_338_85,
        0.170_715_27,
        0.169_188_01,
    ];
    let size = x.abs().min(20.0);
    let z = size * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.3 * z);
    let mut series = -0.129_523_14;
    for coefficient in COEFFICIENTS {
        series = series * t + coefficient;
    }
    // What the square lost in rounding would cost the exponential a digit in the tail. Products of 12
    // bits are exact (Dekker, "A floating-point technique for extending the available precision", 1971).
    let square = size * size;
    let high = f32::from_bits(size.to_bits() & 0xffff_f000);
    let low = size - high;
    let lost = (high * high - square) + 2.0 * high * low + low * low;
    let below = 0.5 * exp_of_minus(0.5 * square) * (1.0 - 0.5 * lost) * t * series;
    let phi = if x < 0.0 { below } else { 1.0 - below };
    // At minus infinity the tail is 0, and 0 times the largest number is the limit that 0 times
    // infinity is not.
    (if x < f32::MIN { f32::MIN } else { x }) * phi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_holds_its_bound() {
        // The distribution function by its density's integral (trapezoids of 1e-4 from -9 on).
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let mut phi = 0.0;
        for step in 0..180_000 {
            let x = -9.0 + f64::from(step) * 1e-4;
            let (a, b, middle) = (density(x), density(x + 1e-4), density(x + 5e-5));
            phi += 1e-4 * (a + 4.0 * middle + b) / 6.0;
            let at = (x + 1e-4) as f32;
            // `at` differs from the end of the step by its rounding. The bound is 2e-7 for the exponential and
            // half a unit, 6e-8, for each of six more roundings.
            let exact = f64::from(at) * (phi + (f64::from(at) - x - 1e-4) * density(x + 1e-4));
            let error = (f64::from(gelu(at)) - exact).abs();
            assert!(error <= 6e-7 * exact.abs() + 1e-9, "{at}: {error:e}");
        }
        assert_eq!((gelu(0.0), gelu(f32::INFINITY)), (0.0, f32::INFINITY));
        assert_eq!(gelu(f32::NEG_INFINITY), 0.0);
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn relu_passes_nan_on() {
        let mut values = [-1.0, 2.0, f32::NAN, f32::NEG_INFINITY];
        Activation::Relu.apply(&mut values);
        assert_eq!((values[0], values[1], values[3]), (0.0, 2.0, 0.0));
        assert!(values[2].is_nan());
    }
}
