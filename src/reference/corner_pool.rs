//! Corner pooling (Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", 2018, section
//! 3.3): each cell takes the maximum of all cells from its own to one end of an axis.

/// Which lines of a map are pooled, and from which end they are scanned.
#[derive(Debug, Clone, Copy)]
pub struct Lines {
    /// Extents of the map, outermost first.
    pub shape: [usize; 4],
    /// The axis along which lines run.
    pub axis: usize,
    /// Lines are scanned from their last element to their first.
    pub from_end: bool,
}

impl Lines {
    /// Every line as the positions of its elements in scan order.
    fn positions(&self) -> Vec<Vec<usize>> {
        let strides: Vec<usize> = (1..=4).map(|k| self.shape[k..].iter().product()).collect();
        let mut lines = Vec::new();
        for start in 0..self.shape.iter().product() {
            if !(start / strides[self.axis]).is_multiple_of(self.shape[self.axis]) {
                continue;
            }
            let mut line: Vec<usize> = (0..self.shape[self.axis])
                .map(|step| start + step * strides[self.axis])
                .collect();
            if self.from_end {
                line.reverse();
            }
            lines.push(line);
        }
        lines
    }
}

/// The position of the element that each cell of the map takes its value from.
///
/// Of all elements from the start of the scan to the cell it is the greatest, NaN counting as
/// greater than any number; of several equal ones, the first met.
pub fn corner_pool_winners(map: &[f64], lines: &Lines) -> Vec<usize> {
    let mut winners = vec![0; map.len()];
    for line in lines.positions() {
        for (step, &cell) in line.iter().enumerate() {
            let seen = &line[..=step];
            let is_nan = |&&at: &&usize| map[at].is_nan();
            let greatest = |&&at: &&usize| seen.iter().all(|&other| map[other] <= map[at]);
            winners[cell] = *seen
                .iter()
                .find(is_nan)
                .or_else(|| seen.iter().find(greatest))
                .expect("a line without NaN has a greatest element");
        }
    }
    winners
}

/// `out[cell] = max(map from the start of the scan to cell)`.
pub fn corner_pool(map: &[f64], lines: &Lines) -> Vec<f64> {
    let winners = corner_pool_winners(map, lines);
    winners.into_iter().map(|at| map[at]).collect()
}

/// Gradient with respect to the map: each cell's `upstream` goes to the element it was taken from.
pub fn corner_pool_gradient(map: &[f64], upstream: &[f64], lines: &Lines) -> Vec<f64> {
    let mut gradient = vec![0.0; map.len()];
    for (cell, at) in corner_pool_winners(map, lines).into_iter().enumerate() {
        gradient[at] += upstream[cell];
    }
    gradient
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 4] = [2, 5, 4, 3];
    const LEN: usize = 120;

    fn every() -> impl Iterator<Item = Lines> {
        (0..4).flat_map(|axis| {
            [false, true].map(|from_end| Lines {
                shape: SHAPE,
                axis,
                from_end,
            })
        })
    }

    /// Few distinct values, so that many tie.
    fn map() -> Vec<f64> {
        (0..LEN).map(|i| ((i * 7919) % 11) as f64 - 5.0).collect()
    }

    #[test]
    fn it_is_idempotent() {
        for lines in every() {
            let once = corner_pool(&map(), &lines);
            assert_eq!(corner_pool(&once, &lines), once);
        }
    }

    #[test]
    fn it_is_monotone_and_bounds_its_input() {
        let higher: Vec<f64> = map()
            .iter()
            .enumerate()
            .map(|(i, x)| x + (i % 3) as f64)
            .collect();
        for lines in every() {
            let (low, high) = (corner_pool(&map(), &lines), corner_pool(&higher, &lines));
            assert!(low.iter().zip(&high).all(|(low, high)| low <= high));
            assert!(map().iter().zip(&low).all(|(x, out)| x <= out));
        }
    }

    #[test]
    fn the_end_of_a_line_is_its_maximum() {
        let lines = Lines {
            shape: [1, 1, 1, 6],
            axis: 3,
            from_end: true,
        };
        let out = corner_pool(&[1.0, 4.0, -2.0, 4.0, 0.0, 3.0], &lines);
        assert_eq!(out, [4.0, 4.0, 4.0, 4.0, 3.0, 3.0]);
    }

    #[test]
    fn gradients_are_moved_and_none_is_lost() {
        let upstream: Vec<f64> = (0..LEN).map(|i| ((i * 31) % 17) as f64).collect();
        for lines in every() {
            let gradient = corner_pool_gradient(&map(), &upstream, &lines);
            for line in lines.positions() {
                let sum = |values: &[f64]| line.iter().map(|&at| values[at]).sum::<f64>();
                assert_eq!(sum(&gradient), sum(&upstream));
            }
        }
    }

    #[test]
    fn the_first_of_equals_and_the_first_nan_win() {
        let lines = |from_end| Lines {
            shape: [1, 1, 1, 4],
            axis: 3,
            from_end,
        };
        let ones = [1.0; 4];
        assert_eq!(
            corner_pool_gradient(&ones, &ones, &lines(false)),
            [4.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(
            corner_pool_gradient(&ones, &ones, &lines(true)),
            [0.0, 0.0, 0.0, 4.0]
        );
        let map = [2.0, f64::NAN, f64::INFINITY, f64::NAN];
        assert_eq!(corner_pool_winners(&map, &lines(false)), [0, 1, 1, 1]);
        assert_eq!(corner_pool_winners(&map, &lines(true)), [3, 3, 3, 3]);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_sum() {
        let map: Vec<f64> = (0..LEN).map(|i| (i as f64 * 1.7).sin()).collect();
        let upstream: Vec<f64> = (0..LEN).map(|i| (i as f64 * 0.3).cos()).collect();
        for lines in every() {
            let sum = |map: &[f64]| -> f64 {
                let out = corner_pool(map, &lines);
                out.iter().zip(&upstream).map(|(out, up)| out * up).sum()
            };
            let gradient = corner_pool_gradient(&map, &upstream, &lines);
            for at in [0, 17, 59, 119] {
                let (mut up, mut down) = (map.clone(), map.clone());
                up[at] += 1e-6;
                down[at] -= 1e-6;
                let slope = (sum(&up) - sum(&down)) / 2e-6;
                assert!(
                    (slope - gradient[at]).abs() < 1e-6,
                    "{slope} {}",
                    gradient[at]
                );
            }
        }
    }
}
