//! Comparisons that NaN fails, element by element.

use super::budget::Budget;
use crate::dtype::Element;
use std::fmt;

/// Elements that differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    what: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mismatch {}

/// Whether every element of `actual` is within its budget of `exact`.
///
/// NaN must meet NaN and an infinity the same infinity. A finite exact value that rounds to
/// infinity in the type of the results is not excused.
///
/// # Errors
/// With the number of bad elements and the worst of them, or when lengths differ.
pub fn within(actual: &[f64], exact: &[f64], budget: &Budget) -> Result<(), Mismatch> {
    if actual.len() != exact.len() || actual.len() != budget.len() {
        let what = format!("{} elements for {}", actual.len(), exact.len());
        return Err(Mismatch { what });
    }
    let bad: Vec<(usize, f64)> = actual
        .iter()
        .zip(exact)
        .enumerate()
        .filter_map(|(index, (&actual, &exact))| {
            let excess = excess(actual, exact, budget.of(index));
            // False for NaN.
            let good = excess <= 1.0;
            (!good).then_some((index, excess))
        })
        .collect();
    let Some(&(index, excess)) = bad.iter().max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return Ok(());
    };
    let what = format!(
        "{} of {} elements are out of budget; the worst, at {index}: {:e} for {:e}, {excess:.3} times \
         the allowed {:e}",
        bad.len(),
        actual.len(),
        actual[index],
        exact[index],
        budget.of(index),
    );
    Err(Mismatch { what })
}

/// The error in units of the tolerance: above 1, or NaN, is bad.
fn excess(actual: f64, exact: f64, tolerance: f64) -> f64 {
    if exact.is_nan() {
        return if actual.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if exact.is_infinite() || actual.is_infinite() {
        return if actual == exact { 0.0 } else { f64::INFINITY };
    }
    let error = (actual - exact).abs();
    if error == 0.0 { 0.0 } else { error / tolerance }
}

/// Whether two results have the same bits.
///
/// # Errors
/// With the first element that differs.
pub fn bitwise<T: Element>(left: &[T], right: &[T]) -> Result<(), Mismatch> {
    if left.len() != right.len() {
        return Err(Mismatch {
            what: format!("{} elements for {}", left.len(), right.len()),
        });
    }
    let same = |a: &T, b: &T| bytemuck::bytes_of(a) == bytemuck::bytes_of(b);
    match left.iter().zip(right).position(|(a, b)| !same(a, b)) {
        None => Ok(()),
        Some(index) => {
            let what = format!("element {index}: {:?} and {:?}", left[index], right[index]);
            Err(Mismatch { what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    const EXACT: [f64; 6] = [1.0, -2.0, 0.0, f64::INFINITY, f64::NAN, 3.0];

    fn budget() -> Budget {
        Budget::new(
            &EXACT,
            &[1.1, -2.0, 0.0, f64::INFINITY, f64::NAN, 3.0],
            DType::F32,
        )
    }

    fn with(index: usize, value: f64) -> [f64; 6] {
        let mut values = EXACT;
        values[index] = value;
        values
    }

    #[test]
    fn equal_and_close_pass() {
        assert_eq!(within(&EXACT, &EXACT, &budget()), Ok(()));
        assert_eq!(within(&with(0, 1.19), &EXACT, &budget()), Ok(()));
    }

    #[test]
    fn every_corruption_of_one_element_fails() {
        let corrupted = [
            with(0, 1.21),
            with(0, f64::NAN),
            with(1, 2.0),
            with(1, f64::NEG_INFINITY),
            with(2, 1e-30),
            with(2, f64::NAN),
            with(3, f64::NEG_INFINITY),
            with(3, f64::MAX),
            with(3, f64::NAN),
            with(4, 0.0),
            with(5, 0.0),
        ];
        for values in corrupted {
            assert!(within(&values, &EXACT, &budget()).is_err(), "{values:?}");
        }
        let mut swapped = EXACT;
        swapped.swap(0, 1);
        assert!(within(&swapped, &EXACT, &budget()).is_err());
        assert!(within(&[0.0; 6], &EXACT, &budget()).is_err());
        assert!(within(&EXACT[1..], &EXACT, &budget()).is_err());
    }

    #[test]
    fn bits_tell_zeros_and_nans_apart() {
        assert_eq!(bitwise(&[f32::NAN, 1.0], &[f32::NAN, 1.0]), Ok(()));
        assert!(bitwise(&[0.0f32], &[-0.0]).is_err());
        assert!(bitwise(&[f32::NAN], &[f32::from_bits(f32::NAN.to_bits() ^ 1)]).is_err());
        assert!(bitwise(&[1i32], &[1, 2]).is_err());
    }
}
