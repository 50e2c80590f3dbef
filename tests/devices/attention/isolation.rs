//! A NaN or an infinity reaches what may see it, and nothing else.

use super::case::{Case, Form, Operands};
use super::truth::exact;
use super::{Output, bf16, run};
use crate::device::{Target, targets};
use ocelli::Float;
use ocelli::params::Attention;
use ocelli::params::attention::Dropout;

/// Puts a number into one element of one operand, and says which.
fn poisoned<T: Float>(
    operands: &Operands<T>,
    part: usize,
    at: usize,
    number: f32,
) -> (Operands<T>, usize) {
    let mut operands = operands.clone();
    let Operands {
        q,
        k,
        v,
        dout,
        bias,
        ..
    } = &mut operands;
    let part = [q, k, v, dout, bias].into_iter().nth(part).unwrap();
    let at = at % part.len();
    part[at] = T::from_f32(number);
    (operands, at)
}

/// What is no number among the inputs.
#[derive(Clone, Copy)]
struct Poison {
    /// It may come through as an infinity, too.
    infinite: bool,
    /// It is an infinity in a query or a key: scores of `-inf` hide a key from some rows, which are then others.
    hides: bool,
    /// Row of the key that it is in, whose own gradients may be NaN.
    key: Option<usize>,
}

/// A NaN that only makes others.
const NAN: Poison = Poison {
    infinite: false,
    hides: false,
    key: None,
};

/// What the reference has as a finite number has the bits of the clean run, and all else is not finite: NaN where an
/// infinity has no part in it.
fn check<T: Float>(
    target: &Target,
    case: &Case,
    clean: &Output<T>,
    operands: &Operands<T>,
    poison: Poison,
) -> Result<(), String> {
    let (truth, output) = (exact(case, operands), run(target, case, operands).wide());
    let (truth, output, clean) = (truth.named(case), output.named(case), clean.wide());
    for ((truth, output), clean) in truth.into_iter().zip(output).zip(clean.named(case)) {
        for (at, ((&truth, &actual), &clean)) in
            truth.1.iter().zip(output.1).zip(clean.1).enumerate()
        {
            let of_key = ["dk", "dv"].contains(&output.0) && poison.key == Some(at / output.2);
            let good = if truth.is_finite() {
                actual == clean || poison.hides && (actual.is_finite() || of_key)
            } else if output.0 == "lse" {
                actual == truth || actual.is_nan() && truth.is_nan()
            } else {
                actual.is_nan() || poison.infinite && actual.is_infinite()
            };
            if !good {
                return Err(format!(
                    "{} {at}: {actual}, clean {clean}, exact {truth}",
                    output.0
                ));
            }
        }
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let plain = Case {
        kv_heads: 1,
        ..Case::plain([2, 2, 70, 150, 64])
    };
    let with = |params: Attention| Case {
        params,
        ..plain.clone()
    };
    let none = plain.params;
    vec![
        with(none),
        with(Attention {
            causal: true,
            ..none
        }),
        with(Attention {
            window_left: Some(9),
            window_right: Some(3),
            ..none
        }),
        // Probabilities that are 0 in single precision.
        with(Attention {
            scale: Some(6.0),
            window_left: Some(40),
            ..none
        }),
        with(Attention {
            causal: true,
            dropout: Some(Dropout {
                probability: 0.4,
                seed: 5,
            }),
            ..none
        }),
        Case {
            has_kv_lengths: true,
            seed: 2,
            ..with(none)
        },
        // A part of all keys of a sequence.
        Case {
            has_kv_lengths: true,
            seed: 3,
            ..with(none)
        },
        Case {
            form: Form::Sequences,
            ..with(Attention {
                causal: true,
                ..none
            })
        },
        Case {
            queries: 150,
            keys: 70,
            ..with(Attention {
                causal: true,
                ..none
            })
        },
        Case {
            head_dim: 128,
            bias: Some([true, true]),
            ..with(Attention {
                causal: true,
                softcap: 5.0,
                ..none
            })
        },
    ]
}

fn check_cases<T: Float>() {
    for target in targets() {
        for case in cases() {
            let operands = Operands::<T>::new(&case);
            let clean = run(target, &case, &operands);
            let poisons = [
                (0, f32::NAN),
                (1, f32::NAN),
                (2, f32::NAN),
                (2, f32::INFINITY),
                (3, f32::NAN),
                (3, f32::NEG_INFINITY),
                (4, f32::INFINITY),
                (4, f32::NAN),
                (0, f32::INFINITY),
                (1, f32::INFINITY),
            ];
            for (index, (part, number)) in poisons.into_iter().enumerate() {
                if part == 4 && case.bias.is_none() {
                    continue;
                }
                // Elements in all thirds of a tensor, and at its end.
                let at = [3571, 9043, 20_011, usize::MAX / 4][index % 4];
                let (operands, at) = poisoned(&operands, part, at, number);
                let hides = part < 2 && number.is_infinite();
                let poison = Poison {
                    // In the bias it makes a score whose row is NaN.
                    infinite: number.is_infinite() && part != 4,
                    hides,
                    key: (hides && part == 1).then_some(at / case.head_dim),
                };
                check(target, &case, &clean, &operands, poison).unwrap_or_else(|error| {
                    panic!(
                        "{target:?} {}: {case:?}, {number} in operand {part} at {at}: {error}",
                        T::DTYPE
                    )
                });
            }
        }
    }
}

#[test]
fn what_may_not_see_a_nan_keeps_its_bits() {
    check_cases::<bf16>();
}

#[test]
fn what_may_not_see_a_nan_keeps_its_bits_in_single_precision() {
    check_cases::<f32>();
}

fn check_given_rows<T: Float>() {
    for target in targets() {
        for case in cases() {
            let operands = Operands::<T>::new(&case);
            let clean = run(target, &case, &operands);
            let rows = case.rows();
            for (row, number) in [(rows / 5, f32::INFINITY), (rows * 4 / 5, f32::NAN)] {
                let operands = Operands {
                    given_lse: Some((row, number)),
                    ..operands.clone()
                };
                check(target, &case, &clean, &operands, NAN).unwrap_or_else(|error| {
                    panic!(
                        "{target:?} {}: {case:?}, lse {number} in row {row}: {error}",
                        T::DTYPE
                    )
                });
            }
        }
    }
}

#[test]
fn a_log_sum_exp_that_is_no_number_breaks_its_row() {
    check_given_rows::<bf16>();
    check_given_rows::<f32>();
}
