//! Activations over slices.

#[cfg(target_arch = "x86_64")]
use super::lanes::Avx2;
use super::lanes::{LANES, Lanes, Portable};
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
    if Avx2::is_available() {
        // SAFETY: the processor was just found to have AVX2 and FMA.
        return unsafe { gelu_all_avx2(values) };
    }
    gelu_all_by::<Portable>(values);
}

/// # Safety
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn gelu_all_avx2(values: &mut [f32]) {
    gelu_all_by::<Avx2>(values);
}

#[inline(always)]
fn gelu_all_by<L: Lanes>(values: &mut [f32]) {
    let (blocks, rest) = values.as_chunks_mut();
    blocks.iter_mut().for_each(gelu::<L>);
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    gelu::<L>(&mut last);
    rest.copy_from_slice(&last[..rest.len()]);
}

/// `x * Phi(x)`.
///
/// With `z = |x| / sqrt(2)`, `Phi(-|x|) = erfc(z) / 2` keeps its digits in the tail. `erfc(z) =
/// exp(-z^2) * t * P(t)`, `t = 1 / (1 + 0.3 z)`, with the polynomial of degree 8 that is nearest in
/// relative error over `0 <= z <= 10` (2e-8 before rounding). Beyond 20 the tail is 0 in f32.
#[inline(always)]
fn gelu<L: Lanes>(values: &mut [f32; LANES]) {
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
    let [zero, half, one, most] = [0.0, 0.5, 1.0, 20.0].map(L::splat);
    // SAFETY: eight numbers.
    let x = unsafe { L::load(values.as_ptr()) };
    let size = x.select_less(zero, zero.sub(x), x);
    let size = size.select_less(most, size, most);
    let z = size.mul(L::splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = one.div(z.mul_add(L::splat(0.3), one));
    let mut series = L::splat(-0.129_523_14);
    for coefficient in COEFFICIENTS {
        series = series.mul_add(t, L::splat(coefficient));
    }
    // What the square lost in rounding would cost the exponential a digit in the tail.
    let square = size.mul(size);
    let lost = size.mul_add(size, zero.sub(square));
    let tail = square.mul(L::splat(-0.5)).exp();
    let tail = tail.mul(lost.mul_add(L::splat(-0.5), one));
    let below = tail.mul(half).mul(t).mul(series);
    let phi = x.select_less(zero, below, one.sub(below));
    // At minus infinity the tail is 0, and 0 times the largest number is the limit that 0 times
    // infinity is not.
    let least = L::splat(f32::MIN);
    let product = x.select_less(least, least, x).mul(phi);
    // SAFETY: eight numbers.
    unsafe { product.store(values.as_mut_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the processor's vectors and by arrays, which must agree bit for bit.
    fn gelu_of(values: &[f32]) -> Vec<f32> {
        let [mut values, mut portable] = [0; 2].map(|_| values.to_vec());
        gelu_all(&mut values);
        gelu_all_by::<Portable>(&mut portable);
        let pairs = values.iter().zip(&portable);
        assert!(
            pairs
                .clone()
                .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
        );
        values
    }

    #[test]
    fn gelu_holds_its_bound() {
        // The distribution function by its density's integral (Simpson's rule over 1e-4 from -9 on).
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let mut phi = 0.0;
        let (mut places, mut truth) = (Vec::new(), Vec::new());
        for step in 0..180_000 {
            let x = -9.0 + f64::from(step) * 1e-4;
            let (a, b, middle) = (density(x), density(x + 1e-4), density(x + 5e-5));
            phi += 1e-4 * (a + 4.0 * middle + b) / 6.0;
            let at = (x + 1e-4) as f32;
            // `at` differs from the end of the step by its rounding.
            truth.push(f64::from(at) * (phi + (f64::from(at) - x - 1e-4) * density(x + 1e-4)));
            places.push(at);
        }
        for ((at, actual), exact) in places.iter().zip(gelu_of(&places)).zip(truth) {
            let error = (f64::from(actual) - exact).abs();
            // The bound is 2e-7 for the exponential and half a unit, 6e-8, for each of six more roundings.
            assert!(error <= 6e-7 * exact.abs() + 1e-9, "{at}: {error:e}");
        }
        // A number of values that is no multiple of eight.
        let edges = [0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -30.0];
        let [zero, infinity, limit, nan, far] = gelu_of(&edges)[..] else {
            panic!("a value each");
        };
        assert_eq!((zero, infinity, limit, far), (0.0, f32::INFINITY, 0.0, 0.0));
        assert!(nan.is_nan());
    }

    #[test]
    fn relu_passes_nan_on() {
        let mut values = [-1.0, 2.0, f32::NAN, f32::NEG_INFINITY];
        Activation::Relu.apply(&mut values);
        assert_eq!((values[0], values[1], values[3]), (0.0, 2.0, 0.0));
        assert!(values[2].is_nan());
    }
}
