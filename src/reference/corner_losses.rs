//! Pull, push and offset losses of corners (Law and Deng, "CornerNet", 2018, equations 2 to 5), with the
//! constants of the authors' code (`models/py_utils/kp_utils.py` of princeton-vl/CornerNet).

/// What the authors add to every count that divides.
const EPSILON: f64 = 1e-4;

/// Pull and push losses of one image and their gradients with respect to the embeddings of the top-left
/// and of the bottom-right corners, box by box.
///
/// With `m_k` the mean of box k's two embeddings and n boxes, pull is `sum((a_k - m_k)^2 + (b_k - m_k)^2) /
/// (n + e)`, and push the sum over all pairs of boxes, a box with itself included, of
/// `(max(0, 1 - |m_j - m_k|) - 1 / (n + e)) / (n (n - 1) + e)`, e being 1e-4.
pub fn pull_and_push(pairs: &[(f64, f64)]) -> ([f64; 2], [Vec<(f64, f64)>; 2]) {
    let n = pairs.len() as f64;
    let mean: Vec<f64> = pairs.iter().map(|(a, b)| (a + b) / 2.0).collect();
    let (mut pull, mut push) = (0.0, 0.0);
    let (mut pulled, mut pushed) = (Vec::new(), Vec::new());
    for (&(a, b), &m) in pairs.iter().zip(&mean) {
        pull += ((a - m).powi(2) + (b - m).powi(2)) / (n + EPSILON);
        pulled.push((2.0 * (a - m) / (n + EPSILON), 2.0 * (b - m) / (n + EPSILON)));
        // Each of a pair's two orders moves with m, and m by half of either embedding.
        let mut slope = 0.0;
        for &other in &mean {
            let distance = (m - other).abs();
            push += ((1.0 - distance).max(0.0) - 1.0 / (n + EPSILON)) / (n * (n - 1.0) + EPSILON);
            if distance > 0.0 && distance < 1.0 {
                slope -= (m - other).signum() / (n * (n - 1.0) + EPSILON);
            }
        }
        pushed.push((slope, slope));
    }
    ([pull, push], [pulled, pushed])
}

/// Smooth-L1 loss of offsets against their targets, `[boxes, 2]` each, over `boxes + 1e-4`, and its
/// gradient.
pub fn offset_loss(offsets: &[f64], targets: &[f64]) -> (f64, Vec<f64>) {
    let count = offsets.len() as f64 / 2.0 + EPSILON;
    let differences: Vec<f64> = offsets.iter().zip(targets).map(|(x, y)| x - y).collect();
    let smooth = |d: f64| {
        if d.abs() < 1.0 {
            d * d / 2.0
        } else {
            d.abs() - 0.5
        }
    };
    let loss = differences.iter().map(|&d| smooth(d)).sum::<f64>() / count;
    let gradient = differences.iter().map(|d| d.clamp(-1.0, 1.0) / count);
    (loss, gradient.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(f64, f64); 4] = [(0.1, 0.3), (-0.4, 0.7), (0.9, 1.2), (5.0, 4.0)];

    #[test]
    fn gradients_are_the_slopes_of_the_losses() {
        let (_, gradients) = pull_and_push(&PAIRS);
        for (which, gradient) in gradients.iter().enumerate() {
            for (at, &(a, b)) in gradient.iter().enumerate() {
                for (side, slope) in [(0, a), (1, b)] {
                    let moved = |by: f64| {
                        let mut pairs = PAIRS;
                        if side == 0 {
                            pairs[at].0 += by;
                        } else {
                            pairs[at].1 += by;
                        }
                        pull_and_push(&pairs).0[which]
                    };
                    let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                    assert!(
                        (slope - expected).abs() < 1e-7,
                        "{which} {at}: {slope} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn equal_embeddings_are_not_pulled_and_distant_boxes_not_pushed() {
        let ([pull, push], gradients) = pull_and_push(&[(0.0, 0.0), (2.0, 2.0), (4.0, 4.0)]);
        assert_eq!(pull, 0.0);
        // What is left are the diagonal's 3 ones less 9 times about a third.
        assert!(push.abs() < 1e-4);
        assert!(gradients.iter().flatten().all(|&slope| slope == (0.0, 0.0)));
    }

    #[test]
    fn a_lone_box_has_the_authors_constant() {
        let ([_, push], gradients) = pull_and_push(&[(0.5, 0.5)]);
        assert!((push - (1.0 - 1.0 / 1.0001) / 1e-4).abs() < 1e-12);
        assert_eq!(gradients[1], [(0.0, 0.0)]);
    }

    #[test]
    fn pushing_moves_no_mean_of_all() {
        let (_, [_, pushed]) = pull_and_push(&PAIRS);
        assert!(pushed.iter().map(|slope| slope.0).sum::<f64>().abs() < 1e-15);
    }

    #[test]
    fn the_offset_loss_has_its_slope() {
        let (offsets, targets) = ([0.3, -0.2, 4.0, -3.0], [0.1, 0.9, 0.5, 0.5]);
        let (_, gradient) = offset_loss(&offsets, &targets);
        for at in 0..4 {
            let moved = |by: f64| {
                let mut offsets = offsets;
                offsets[at] += by;
                offset_loss(&offsets, &targets).0
            };
            let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((gradient[at] - expected).abs() < 1e-7);
        }
        assert_eq!(offset_loss(&[], &[]), (0.0, vec![]));
    }
}
