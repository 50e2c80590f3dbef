//! Layer norm and group norm.

/// Layer norm of rows of as many values as `weight` has: `(x - mean) / sqrt(variance + epsilon) *
/// weight + bias`, the variance over the row's values, not one less (Ba, Kiros and Hinton, "Layer
/// Normalization", 2016).
pub fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], epsilon: f64) -> Vec<f64> {
    x.chunks(weight.len())
        .flat_map(|row| {
            let (mean, deviation) = moments(row, epsilon);
            let normal = |(i, x): (usize, &f64)| (x - mean) / deviation * weight[i] + bias[i];
            row.iter().enumerate().map(normal).collect::<Vec<f64>>()
        })
        .collect()
}

/// Group norm of images of `pixels` pixels with the channels of `weight`: the same over all pixels of
/// `groups` groups of neighbouring channels, weight and bias an element a channel (Wu and He, "Group
/// Normalization", 2018).
pub fn group_norm(
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
    pixels: usize,
    groups: usize,
    epsilon: f64,
) -> Vec<f64> {
    let channels = weight.len();
    let width = channels / groups;
    let mut out = x.to_vec();
    for image in out.chunks_mut(pixels * channels) {
        for group in 0..groups {
            let of_group = |at: usize| at % channels / width == group;
            let members: Vec<usize> = (0..image.len()).filter(|&at| of_group(at)).collect();
            let values: Vec<f64> = members.iter().map(|&at| image[at]).collect();
            let (mean, deviation) = moments(&values, epsilon);
            for at in members {
                let channel = at % channels;
                image[at] = (image[at] - mean) / deviation * weight[channel] + bias[channel];
            }
        }
    }
    out
}

/// Mean, and root of variance plus epsilon, in two passes.
fn moments(values: &[f64], epsilon: f64) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    (mean, (variance + epsilon).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normal_row_has_mean_0_and_variance_1_whatever_its_place_and_size() {
        let row = [1.0, 5.0, -2.0, 0.5];
        let moved: Vec<f64> = row.iter().map(|x| 1e6 + 8.0 * x).collect();
        let (once, twice) = (
            layer_norm(&row, &[1.0; 4], &[0.0; 4], 0.0),
            layer_norm(&moved, &[1.0; 4], &[0.0; 4], 0.0),
        );
        assert!(once.iter().sum::<f64>().abs() < 1e-12);
        assert!((once.iter().map(|x| x * x).sum::<f64>() - 4.0).abs() < 1e-12);
        assert!(once.iter().zip(&twice).all(|(a, b)| (a - b).abs() < 1e-8));
        assert_eq!(layer_norm(&[3.0; 4], &[2.0; 4], &[7.0; 4], 1e-5), [7.0; 4]);
    }

    #[test]
    fn one_group_of_one_pixel_is_layer_norm_and_groups_do_not_meet() {
        let x = [1.0, 4.0, -3.0, 2.5, 0.0, 9.0];
        let (weight, bias) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5; 6]);
        let layer = layer_norm(&x, &weight, &bias, 1e-5);
        assert_eq!(group_norm(&x, &weight, &bias, 1, 1, 1e-5), layer);
        let left = layer_norm(&x[..3], &weight[..3], &bias[..3], 1e-5);
        assert_eq!(group_norm(&x, &weight, &bias, 1, 2, 1e-5)[..3], left);
    }
}
