//! Laws of attention, and its gradient against finite differences.

use super::*;

/// Smooth values without a pattern.
fn values(len: usize, seed: usize) -> Vec<f64> {
    (0..len)
        .map(|i| ((i * 37 + seed * 101 + 11) as f64).sin() * 1.5)
        .collect()
}

/// One of the operands.
type Select = fn(&mut Operands) -> &mut Vec<f64>;

/// Operands of two sequences with 5 queries and 7 keys, 4 heads over 2, 3 elements a head.
struct Operands {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    bias: Vec<f64>,
}

impl Operands {
    fn new() -> Self {
        Self {
            q: values(2 * 5 * 4 * 3, 1),
            k: values(2 * 7 * 2 * 3, 2),
            v: values(2 * 7 * 2 * 3, 3),
            bias: values(4 * 5 * 7, 4),
        }
    }

    fn inputs(&self) -> AttentionInputs<'_> {
        AttentionInputs {
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            q: &self.q,
            k: &self.k,
            v: &self.v,
            sequences: AttentionSequences::Dense {
                batch: 2,
                queries: 5,
                keys: 7,
            },
            kv_lengths: Some(&[7, 6]),
            bias: Some(([1, 4], &self.bias)),
        }
    }
}

const PLAIN: Attention = Attention {
    scale: 0.6,
    causal: false,
    window_left: None,
    window_right: None,
    softcap: 0.0,
    dropout: None,
};

fn near(left: &[f64], right: &[f64], tolerance: f64) {
    assert_eq!(left.len(), right.len());
    for (index, (a, b)) in left.iter().zip(right).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * (1.0 + b.abs()),
            "{index}: {a} and {b}"
        );
    }
}

#[test]
fn the_output_is_a_mean_of_the_values() {
    let operands = Operands::new();
    let ones = vec![1.0; operands.v.len()];
    let inputs = AttentionInputs {
        v: &ones,
        ..operands.inputs()
    };
    let (out, _) = attention(&inputs, &PLAIN);
    near(&out, &vec![1.0; out.len()], 1e-14);
    let probabilities = attention_probabilities(&operands.inputs(), &PLAIN, &[4, 9, 0]);
    for (row, of_row) in probabilities.chunks(7).enumerate() {
        let sum: f64 = of_row.iter().sum();
        assert!(
            (sum - f64::from(row % 3 != 1)).abs() < 1e-14,
            "{row}: {sum}"
        );
    }
}

#[test]
fn a_constant_added_to_the_scores_moves_the_log_sum_exp_alone() {
    let operands = Operands::new();
    let (out, lse) = attention(&operands.inputs(), &PLAIN);
    let raised: Vec<f64> = operands.bias.iter().map(|x| x + 3.0).collect();
    let inputs = AttentionInputs {
        bias: Some(([1, 4], &raised)),
        ..operands.inputs()
    };
    let (same, moved) = attention(&inputs, &PLAIN);
    near(&same, &out, 1e-13);
    near(
        &moved,
        &lse.iter().map(|x| x + 3.0).collect::<Vec<_>>(),
        1e-13,
    );
}

#[test]
fn masks_align_to_the_bottom_right() {
    let operands = Operands::new();
    let inputs = AttentionInputs {
        kv_lengths: None,
        ..operands.inputs()
    };
    let rule = Attention {
        causal: true,
        window_left: Some(1),
        ..PLAIN
    };
    let probabilities = attention_probabilities(&inputs, &rule, &[0, 4]);
    let seen: Vec<bool> = probabilities[..14].iter().map(|&p| p > 0.0).collect();
    // Of 5 queries and 7 keys, query 0 stands at place 2 and query 4 at place 6.
    let expected = [1, 2, 7 + 5, 7 + 6];
    assert_eq!(
        seen,
        (0..14).map(|at| expected.contains(&at)).collect::<Vec<_>>()
    );
}

#[test]
fn a_query_that_sees_nothing_is_zero() {
    let operands = Operands::new();
    let hidden = vec![f64::NEG_INFINITY; operands.bias.len()];
    let cases = [
        AttentionInputs {
            kv_lengths: Some(&[0, -3]),
            ..operands.inputs()
        },
        AttentionInputs {
            bias: Some(([1, 4], &hidden)),
            ..operands.inputs()
        },
    ];
    for inputs in cases {
        let (out, lse) = attention(&inputs, &PLAIN);
        assert!(out.iter().all(|&x| x == 0.0) && lse.iter().all(|&x| x == f64::NEG_INFINITY));
        let gradient = attention_gradient(&inputs, &PLAIN, &out, Some(&vec![1.0; lse.len()]));
        let AttentionGradient { dq, dk, dv, dbias } = gradient;
        assert!([dq, dk, dv, dbias].concat().iter().all(|&x| x == 0.0));
    }
}

#[test]
fn packed_sequences_are_attended_one_by_one() {
    let operands = Operands::new();
    let rule = Attention {
        causal: true,
        dropout: Some((0.3, 5)),
        ..PLAIN
    };
    let dense = AttentionInputs {
        bias: None,
        kv_lengths: Some(&[7, 5]),
        ..operands.inputs()
    };
    let (out, lse) = attention(&dense, &rule);
    let sequences = AttentionSequences::Packed {
        offsets_q: &[-1, 5, 10],
        offsets_k: &[0, 7, 99],
        max_queries: 5,
        max_keys: 7,
    };
    let packed = AttentionInputs { sequences, ..dense };
    let (same, rows) = attention(&packed, &rule);
    assert_eq!(out, same);
    // [B, H, Nq] against [H, Tq].
    for (at, &x) in lse.iter().enumerate() {
        let (b, h, i) = (at / 20, at / 5 % 4, at % 5);
        assert_eq!(rows[h * 10 + b * 5 + i], x);
    }
    let sequences = AttentionSequences::Packed {
        offsets_q: &[2, 7, 4],
        offsets_k: &[0, 3, 3],
        max_queries: 4,
        max_keys: 7,
    };
    let (out, rows) = attention(
        &AttentionInputs {
            sequences,
            ..packed
        },
        &PLAIN,
    );
    let empty: Vec<bool> = rows[..10].iter().map(|&x| x == f64::NEG_INFINITY).collect();
    // Tokens 0 and 1 are in no sequence, 6 is beyond the longest, and the second sequence is empty.
    assert_eq!(
        empty,
        [
            true, true, false, false, false, false, true, true, true, true
        ]
    );
    assert!(out[..24].iter().all(|&x| x == 0.0));
}

#[test]
fn the_gradient_is_the_slope() {
    let rules = [
        PLAIN,
        Attention {
            causal: true,
            softcap: 1.5,
            ..PLAIN
        },
        Attention {
            window_left: Some(2),
            window_right: Some(1),
            dropout: Some((0.4, 7 << 40)),
            ..PLAIN
        },
    ];
    for rule in rules {
        let operands = Operands::new();
        let (out, lse) = attention(&operands.inputs(), &rule);
        let (dout, dlse) = (values(out.len(), 5), values(lse.len(), 6));
        let loss = |operands: &Operands| -> f64 {
            let (out, lse) = attention(&operands.inputs(), &rule);
            let terms = out.iter().zip(&dout).chain(lse.iter().zip(&dlse));
            terms
                .map(|(x, slope)| if x.is_finite() { x * slope } else { 0.0 })
                .sum()
        };
        let exact = attention_gradient(&operands.inputs(), &rule, &dout, Some(&dlse));
        let parts: [(&[f64], Select); 4] = [
            (&exact.dq, |operands| &mut operands.q),
            (&exact.dk, |operands| &mut operands.k),
            (&exact.dv, |operands| &mut operands.v),
            (&exact.dbias, |operands| &mut operands.bias),
        ];
        for (part, (gradient, select)) in parts.into_iter().enumerate() {
            for (at, &slope) in gradient.iter().enumerate().step_by(3) {
                let moved = |h: f64| {
                    let mut operands = Operands::new();
                    select(&mut operands)[at] += h;
                    loss(&operands)
                };
                let h = 1e-5;
                let difference = (moved(h) - moved(-h)) / (2.0 * h);
                let error = (difference - slope).abs();
                assert!(
                    error <= 1e-8 * (1.0 + slope.abs()),
                    "{part} {at}: {slope} {difference}"
                );
            }
        }
    }
}

#[test]
fn a_nan_stays_with_those_who_see_it() {
    let mut operands = Operands::new();
    // Element 0 of key 6 of the first sequence, head 0: causal hides it from all but query 4 of heads 0 and 1.
    operands.v[6 * 6] = f64::NAN;
    let (out, _) = attention(
        &operands.inputs(),
        &Attention {
            causal: true,
            ..PLAIN
        },
    );
    let bad: Vec<usize> = (0..out.len()).filter(|&at| out[at].is_nan()).collect();
    assert_eq!(bad, [4 * 12, 4 * 12 + 3]);
}

#[test]
fn a_score_that_is_no_number_makes_its_row_nan() {
    for number in [f64::INFINITY, f64::NAN] {
        let mut operands = Operands::new();
        // Query 3 of head 1, in both sequences. The same query of head 2 does not see its key 6.
        operands.bias[(5 + 3) * 7 + 2] = number;
        operands.bias[(2 * 5 + 3) * 7 + 6] = number;
        let rule = Attention {
            causal: true,
            ..PLAIN
        };
        let (out, lse) = attention(&operands.inputs(), &rule);
        let bad = |values: &[f64]| -> Vec<usize> {
            (0..values.len())
                .filter(|&at| values[at].is_nan())
                .collect()
        };
        assert_eq!(bad(&lse), [5 + 3, 20 + 5 + 3]);
        let of_row: Vec<usize> = (0..3).map(|d| (3 * 4 + 1) * 3 + d).collect();
        let rows = [of_row.clone(), of_row.iter().map(|at| at + 60).collect()].concat();
        assert_eq!(bad(&out), rows);
        let gradient = attention_gradient(&operands.inputs(), &rule, &values(out.len(), 5), None);
        assert_eq!(bad(&gradient.dq), rows);
        // Keys 0 to 5 of the sequences' first heads.
        let keys =
            (0..2).flat_map(|b| (0..6).flat_map(move |j| (0..3).map(move |d| (b * 7 + j) * 6 + d)));
        let keys: Vec<usize> = keys.collect();
        assert_eq!(bad(&gradient.dk), keys);
        assert_eq!(bad(&gradient.dv), keys);
        let of_bias: Vec<usize> = (0..6).map(|j| (5 + 3) * 7 + j).collect();
        assert_eq!(bad(&gradient.dbias), of_bias);
    }
}

#[test]
fn dropout_keeps_the_mean() {
    let rule = Attention {
        dropout: Some((0.25, 1)),
        ..PLAIN
    };
    let kept: Vec<f64> = (0..40_000)
        .map(|at| kept(&rule, at / 10_000, at / 100 % 100, at % 100))
        .collect();
    let mean = kept.iter().sum::<f64>() / kept.len() as f64;
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
}

#[test]
fn the_generator_gives_the_published_words() {
    // The known answers of the authors' Random123.
    assert_eq!(
        philox4x32([0; 4], [0; 2]),
        [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
    );
    assert_eq!(
        philox4x32([u32::MAX; 4], [u32::MAX; 2]),
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
    );
    let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    assert_eq!(
        philox4x32(counter, [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}
