//! How far a result may lie from the exact one.

use crate::dtype::DType;

/// Largest allowed error of each element.
///
/// An implementation may be twice as far from the exact result as a naive one in the same type,
/// both on inputs that were rounded to that type. A naive result can be exact by luck, so some
/// relative error is always allowed: of `f32`, 16 units in the last place, a chain of as many
/// roundings; of the 16-bit types, one unit, as they are rounded to once. And so is the smallest
/// normal number, as subnormal ones may be flushed to zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    tolerances: Vec<f64>,
}

impl Budget {
    /// The budget of results of type `dtype`.
    ///
    /// # Panics
    /// When the two are not of one length.
    pub fn new(exact: &[f64], naive: &[f64], dtype: DType) -> Self {
        Self::of_sums(exact, exact, naive, dtype)
    }

    /// The same for sums whose terms may cancel: the relative error is allowed to `terms`, the sum
    /// of each element's terms without their signs.
    ///
    /// Where the naive result is not finite it sets no example, and the relative error alone is
    /// allowed; where `terms` is not, it is relative to the result.
    ///
    /// # Panics
    /// When the three are not of one length.
    pub fn of_sums(exact: &[f64], terms: &[f64], naive: &[f64], dtype: DType) -> Self {
        assert_eq!(exact.len(), naive.len(), "a naive result an exact one");
        assert_eq!(exact.len(), terms.len(), "a sum of terms an exact one");
        let tolerance = |((&exact, &terms), &naive): ((&f64, &f64), &f64)| {
            let example = 2.0 * (naive - exact).abs();
            let scale = if terms.is_finite() {
                terms.abs().max(exact.abs())
            } else {
                exact.abs()
            };
            let floor = relative_floor(dtype) * scale + smallest_normal(dtype);
            if example.is_finite() {
                example + floor
            } else {
                floor
            }
        };
        let tolerances = exact.iter().zip(terms).zip(naive).map(tolerance).collect();
        Self { tolerances }
    }

    /// The same, with at least this relative error allowed, for arithmetic that is documented as
    /// less exact.
    pub fn at_least(mut self, relative: f64, exact: &[f64]) -> Self {
        for (tolerance, exact) in self.tolerances.iter_mut().zip(exact) {
            *tolerance = tolerance.max(relative * exact.abs());
        }
        self
    }

    /// The largest allowed error of element `index`.
    pub fn of(&self, index: usize) -> f64 {
        self.tolerances[index]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.tolerances.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.tolerances.is_empty()
    }
}

/// Relative error that is always allowed; none to integers.
fn relative_floor(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 16.0 * f64::from(f32::EPSILON),
        DType::F16 => half::f16::EPSILON.to_f64(),
        DType::BF16 => half::bf16::EPSILON.to_f64(),
        DType::I32 => 0.0,
    }
}

fn smallest_normal(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::MIN_POSITIVE),
        DType::F16 => half::f16::MIN_POSITIVE.to_f64(),
        DType::BF16 => half::bf16::MIN_POSITIVE.to_f64(),
        DType::I32 => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_twice_the_naive_error() {
        let budget = Budget::new(&[1.0, 1.0, 0.0], &[1.5, f64::NAN, 0.0], DType::F32);
        assert!((budget.of(0) - 1.0).abs() < 1e-5);
        assert!(budget.of(1) < 1e-5 && budget.of(1) > 0.0);
        assert!(budget.of(2) < 1e-37);
    }

    #[test]
    fn cancelling_terms_widen_a_budget() {
        let plain = Budget::new(&[1e-3], &[1e-3], DType::F32);
        let sums = Budget::of_sums(&[1e-3], &[1.0], &[1e-3], DType::F32);
        assert!(plain.of(0) < 1e-8 && sums.of(0) > 1e-6);
        assert_eq!(plain.at_least(0.5, &[1e-3]).of(0), 5e-4);
    }
}
