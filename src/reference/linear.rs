//! Linear layers.

/// `x W^T + bias`: for each row of `inputs` values in `x`, one sum for each row of `weight`
/// `[outputs, inputs]`.
pub fn linear(x: &[f64], weight: &[f64], bias: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(inputs) {
        for (output, weights) in weight.chunks(inputs).enumerate() {
            let product: f64 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            out.push(product + bias.map_or(0.0, |bias| bias[output]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_changes_nothing_and_sums_are_linear() {
        let x = [1.0, -2.0, 3.0, 0.5, 0.25, -8.0];
        let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(linear(&x, &identity, None, 3), x);
        let weight = [1.0, 2.0, 3.0, -1.0, 0.0, 4.0];
        assert_eq!(
            linear(&x, &weight, Some(&[10.0, 20.0]), 3),
            [16.0, 31.0, -13.0, -12.5]
        );
        let doubled: Vec<f64> = x.iter().map(|x| 2.0 * x).collect();
        let (once, twice) = (
            linear(&x, &weight, None, 3),
            linear(&doubled, &weight, None, 3),
        );
        assert!(once.iter().zip(&twice).all(|(a, b)| 2.0 * a == *b));
    }
}
