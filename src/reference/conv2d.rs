//! Two-dimensional convolutions, in deep learning's sense: correlations.

/// Extents of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    /// Images, rows, columns and channels of the input.
    pub input: [usize; 4],
    /// Outputs, channels, rows and columns of the weight.
    pub weight: [usize; 4],
    /// Rows and columns from one output to the next.
    pub stride: usize,
    /// Rows and columns of zeros around an image.
    pub padding: usize,
}

impl Conv2d {
    /// Rows and columns of the output.
    pub fn output(&self) -> [usize; 2] {
        let extent = |input, kernel| (input + 2 * self.padding - kernel) / self.stride + 1;
        [
            extent(self.input[1], self.weight[2]),
            extent(self.input[2], self.weight[3]),
        ]
    }
}

/// `out[b, y, x, n] = bias[n] + sum over i, j, c of x[b, y * stride + i - padding, x * stride + j -
/// padding, c] * weight[n, c, i, j]`, where `x` is 0 outside of the image.
pub fn conv2d(x: &[f64], weight: &[f64], bias: Option<&[f64]>, extents: &Conv2d) -> Vec<f64> {
    let [images, height, width, channels] = extents.input;
    let [outputs, _, rows, columns] = extents.weight;
    let [out_height, out_width] = extents.output();
    let mut out = Vec::new();
    for image in 0..images {
        for (y, x0) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
            for output in 0..outputs {
                let mut sum = bias.map_or(0.0, |bias| bias[output]);
                for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                    let (row, column) = (y * extents.stride + i, x0 * extents.stride + j);
                    let inside = |at: usize, extent| {
                        (extents.padding..extents.padding + extent).contains(&at)
                    };
                    if !inside(row, height) || !inside(column, width) {
                        continue;
                    }
                    let (row, column) = (row - extents.padding, column - extents.padding);
                    for channel in 0..channels {
                        let at = ((image * height + row) * width + column) * channels + channel;
                        let tap = ((output * channels + channel) * rows + i) * columns + j;
                        sum += x[at] * weight[tap];
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_tap_moves_the_image() {
        let x: Vec<f64> = (0..12).map(f64::from).collect();
        for tap in 0..9 {
            let mut weight = [0.0; 9];
            weight[tap] = 1.0;
            let extents = Conv2d {
                input: [1, 3, 4, 1],
                weight: [1, 1, 3, 3],
                stride: 1,
                padding: 1,
            };
            let out = conv2d(&x, &weight, None, &extents);
            for (at, value) in out.iter().enumerate() {
                let (y, x0) = ((at / 4 + tap / 3) as i32 - 1, (at % 4 + tap % 3) as i32 - 1);
                let inside = (0..3).contains(&y) && (0..4).contains(&x0);
                assert_eq!(*value, if inside { f64::from(y * 4 + x0) } else { 0.0 });
            }
        }
    }

    #[test]
    fn one_by_one_is_a_linear_layer() {
        let x: Vec<f64> = (0..24).map(|i| f64::from(i * i % 7)).collect();
        let weight: Vec<f64> = (0..6).map(|i| f64::from(i) - 2.5).collect();
        let extents = Conv2d {
            input: [2, 2, 2, 3],
            weight: [2, 3, 1, 1],
            stride: 1,
            padding: 0,
        };
        let expected = crate::reference::linear(&x, &weight, Some(&[1.0, 2.0]), 3);
        assert_eq!(conv2d(&x, &weight, Some(&[1.0, 2.0]), &extents), expected);
    }

    #[test]
    fn a_stride_keeps_every_second_output() {
        let x: Vec<f64> = (0..35).map(|i| f64::from(i * 5 % 11)).collect();
        let weight: Vec<f64> = (0..9).map(f64::from).collect();
        let extents = |stride| Conv2d {
            input: [1, 5, 7, 1],
            weight: [1, 1, 3, 3],
            stride,
            padding: 1,
        };
        let (all, some) = (
            conv2d(&x, &weight, None, &extents(1)),
            conv2d(&x, &weight, None, &extents(2)),
        );
        let kept: Vec<f64> = (0..3)
            .flat_map(|y| (0..4).map(move |x| (y, x)))
            .map(|(y, x)| all[y * 14 + x * 2])
            .collect();
        assert_eq!(some, kept);
    }
}
