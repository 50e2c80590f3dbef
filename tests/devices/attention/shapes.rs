//! Shapes that straddle tiles, and every mask with every class of head dimensions.

use super::case::{Case, Form, Scores};
use super::check_all;
use ocelli::DType;
use ocelli::params::Attention;
use ocelli::params::attention::Dropout;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Every third of the list for each type, or all of it where the long tests are asked for.
fn spread(cases: &[Case]) {
    let is_full = std::env::var("OCELLI_TEST_FULL").is_ok_and(|value| value == "1");
    for (at, case) in cases.iter().enumerate() {
        for (number, dtype) in DTYPES.into_iter().enumerate() {
            if is_full || at % 3 == number {
                check_all(case, dtype).unwrap_or_else(|error| panic!("{case:?}: {error}"));
            }
        }
    }
}

#[test]
fn lengths_straddle_tiles() {
    let pairs = [
        (1, 1),
        (1, 17),
        (239, 1),
        (3, 199),
        (199, 3),
        (31, 33),
        (63, 65),
        (64, 128),
        (113, 203),
        (127, 129),
        (128, 217),
        (197, 197),
        (257, 257),
        (255, 256),
        (16, 600),
    ];
    let dims = [64, 32, 128, 72, 64];
    let cases: Vec<Case> = pairs
        .into_iter()
        .enumerate()
        .flat_map(|(at, (queries, keys))| {
            let plain = Case::plain([1, 1, queries, keys, dims[at % 5]]);
            let causal = Attention {
                causal: true,
                ..plain.params
            };
            [
                plain.clone(),
                Case {
                    params: causal,
                    has_dlse: true,
                    ..plain
                },
            ]
        })
        .collect();
    spread(&cases);
}

#[test]
fn every_head_dimension() {
    let dims = [
        8, 16, 40, 48, 64, 72, 80, 96, 112, 128, 136, 160, 192, 248, 256,
    ];
    let case = |dim: usize| {
        let plain = Case::plain([1, 2, 70, 90, dim]);
        Case {
            kv_heads: 1,
            has_dlse: true,
            params: Attention {
                causal: true,
                ..plain.params
            },
            ..plain
        }
    };
    spread(&dims.map(case));
}

#[test]
fn every_mask_with_every_class_of_head_dimensions() {
    let mut cases = Vec::new();
    for dim in [64, 128, 256] {
        let plain = Case::plain([2, 2, 100, 140, dim]);
        let with = |params: Attention| Case {
            params,
            ..plain.clone()
        };
        let none = plain.params;
        cases.extend([
            with(Attention {
                window_left: Some(20),
                ..none
            }),
            with(Attention {
                window_left: Some(0),
                window_right: Some(0),
                ..none
            }),
            with(Attention {
                causal: true,
                window_left: Some(70),
                ..none
            }),
            with(Attention {
                softcap: 3.0,
                ..none
            }),
            with(Attention {
                dropout: Some(Dropout {
                    probability: 0.3,
                    seed: 77 << 30,
                }),
                ..none
            }),
            Case {
                has_kv_lengths: true,
                ..plain.clone()
            },
            Case {
                bias: Some([true, false]),
                has_dlse: true,
                ..plain.clone()
            },
            Case {
                bias: Some([false, true]),
                has_kv_lengths: true,
                ..with(Attention {
                    softcap: 9.0,
                    ..none
                })
            },
            Case {
                bias: Some([true, true]),
                ..with(Attention {
                    causal: true,
                    ..none
                })
            },
            Case {
                form: Form::Sequences,
                batch: 3,
                ..with(Attention {
                    causal: true,
                    ..none
                })
            },
            Case {
                form: Form::Sequences,
                has_kv_lengths: true,
                ..with(Attention {
                    window_right: Some(5),
                    ..none
                })
            },
            Case {
                form: Form::Projection,
                keys: 100,
                ..with(Attention {
                    causal: true,
                    ..none
                })
            },
            Case {
                queries: 140,
                keys: 100,
                has_dlse: true,
                ..with(Attention {
                    causal: true,
                    ..none
                })
            },
        ]);
    }
    // Another third of each class for each type.
    spread(&cases);
}

#[test]
fn scores_at_the_limits() {
    let kinds = [
        Scores::Low,
        Scores::Huge,
        Scores::ConstantKeys,
        Scores::Offset,
        Scores::Spread(20.0),
    ];
    let cases: Vec<Case> = kinds
        .into_iter()
        .flat_map(|scores| {
            let plain = Case {
                scores,
                ..Case::plain([1, 2, 66, 130, 64])
            };
            let bias = Case {
                bias: Some([true, true]),
                ..plain.clone()
            };
            let causal = Attention {
                causal: true,
                ..plain.params
            };
            let wide = Case {
                head_dim: 128,
                queries: 130,
                params: causal,
                ..plain.clone()
            };
            [plain, bias, wide]
        })
        .collect();
    spread(&cases);
    // The list is of threes: the other types once more, one place on.
    spread(&cases[1..]);
}
