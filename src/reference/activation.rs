//! Functions that layers end with.

/// Rectified linear unit; NaN stays NaN.
pub fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// Gaussian error linear unit, exact: `x * Phi(x)` (Hendrycks and Gimpel, "Gaussian Error Linear
/// Units", 2016).
pub fn gelu(x: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return 0.0;
    }
    x * distribution(x)
}

/// The normal distribution function.
///
/// Near 0 by the series `Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ..)`, farther out by the
/// continued fraction of the tail, `1 - Phi(x) = phi(x) / (x + 1/(x + 2/(x + 3/(x + ..))))`
/// (Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.2.11 and 26.2.14).
fn distribution(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if x.abs() > 5.0 {
        let fraction = (1..60)
            .rev()
            .fold(x.abs(), |rest, k| x.abs() + f64::from(k) / rest);
        let tail = density / fraction;
        return if x < 0.0 { tail } else { 1.0 - tail };
    }
    let (mut term, mut sum) = (x, x);
    for k in 1..120 {
        term *= x * x / f64::from(2 * k + 1);
        sum += term;
    }
    0.5 + density * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_has_the_published_values() {
        // Phi(1) and Phi(-5), Abramowitz and Stegun, table 26.1.
        assert!((gelu(1.0) - 0.841_344_746_068_543).abs() < 1e-14);
        assert!((gelu(-5.0) + 5.0 * 2.866_515_72e-7).abs() < 1e-14);
        assert_eq!((gelu(0.0), gelu(f64::NEG_INFINITY)), (0.0, 0.0));
        assert!(gelu(f64::NAN).is_nan() && relu(f64::NAN).is_nan());
    }

    #[test]
    fn gelu_of_x_and_minus_x_differ_by_x() {
        for step in -200..=200 {
            let x = f64::from(step) * 0.05;
            assert!((gelu(x) - gelu(-x) - x).abs() < 1e-13, "{x}");
        }
        let around = |x: f64| distribution(x + 1e-9) - distribution(x - 1e-9);
        assert!(
            around(5.0) > 0.0 && around(5.0) < 1e-12,
            "both formulas meet at 5"
        );
    }
}
