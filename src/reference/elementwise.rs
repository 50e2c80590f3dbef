//! Ops on single elements and rows.

/// `(x - mean) / deviation`, channel by channel, the channels last.
pub fn normalize_image(x: &[f64], mean: &[f64], deviation: &[f64]) -> Vec<f64> {
    let channels = mean.len();
    let normal = |(at, x): (usize, &f64)| (x - mean[at % channels]) / deviation[at % channels];
    x.iter().enumerate().map(normal).collect()
}

/// A row of `table` for each index; zeros for an index that it does not have.
pub fn embedding(table: &[f64], width: usize, indices: &[i32]) -> Vec<f64> {
    let row = |&index: &i32| {
        let rows = usize::try_from(index)
            .ok()
            .and_then(|row| table.chunks(width).nth(row));
        rows.map_or_else(|| vec![0.0; width], <[f64]>::to_vec)
    };
    indices.iter().flat_map(row).collect()
}

/// The tokens of each sequence of `x`, behind those of `prefix`, plus `positions`. There are as many
/// positions as tokens in a sequence then.
pub fn add_positions(x: &[f64], prefix: &[f64], positions: &[f64]) -> Vec<f64> {
    let own = positions.len() - prefix.len();
    let sequences = x.len().checked_div(own).unwrap_or(1);
    (0..sequences)
        .flat_map(|sequence| {
            prefix
                .iter()
                .chain(&x[sequence * own..(sequence + 1) * own])
                .zip(positions)
        })
        .map(|(token, position)| token + position)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_its_own_mean_and_deviation() {
        let out = normalize_image(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0], &[2.0, 4.0]);
        assert_eq!(out, [0.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn rows_are_looked_up_and_those_that_are_not_there_are_zeros() {
        let table = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(
            embedding(&table, 2, &[1, 0, 2, -1]),
            [3.0, 4.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn a_prefix_stands_before_each_sequence() {
        let out = add_positions(&[1.0, 2.0, 3.0, 4.0], &[9.0], &[0.5, 10.0, 20.0]);
        assert_eq!(out, [9.5, 11.0, 22.0, 9.5, 13.0, 24.0]);
    }
}
