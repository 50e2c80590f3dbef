//! A NaN or an infinity reaches what may see it, and nothing else.

use super::case::{Case, Form, Operands};
use super::truth::exact;
use super::{Output, bf16, run};
use crate::device::{Target, targets};
use ocelli::Float;
use ocelli::params::Attention;

/// Puts `poison` into one element of one operand.
fn poisoned<T: Float>(operands: &Operands<T>, part: usize, at: usize, poison: f32) -> Operands<T> {
    let mut operands = operands.clone();
    let Operands { q, k, v, dout, .. } = &mut operands;
    let part = [q, k, v, dout].into_iter().nth(part).unwrap();
    let at = at % part.len();
    part[at] = T::from_f32(poison);
    operands
}

/// What the reference has as a finite number has the bits of the clean run, and all else is not finite.
fn check<T: Float>(
    target: &Target,
    case: &Case,
    clean: &Output<T>,
    operands: &Operands<T>,
) -> Result<(), String> {
    let (truth, output) = (exact(case, operands), run(target, case, operands).wide());
    let (truth, output, clean) = (truth.named(case), output.named(case), clean.wide());
    for ((truth, output), clean) in truth.into_iter().zip(output).zip(clean.named(case)) {
        for (at, ((&truth, &actual), &clean)) in
            truth.1.iter().zip(output.1).zip(clean.1).enumerate()
        {
            let is_clean = truth.is_finite() || [truth, clean] == [f64::NEG_INFINITY; 2];
            let good = if is_clean {
                actual == clean
            } else {
                !actual.is_finite()
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
        Case {
            has_kv_lengths: true,
            seed: 2,
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
            ];
            for (number, (part, poison)) in poisons.into_iter().enumerate() {
                // Elements in all thirds of a tensor, and at its end.
                let at = [3571, 9043, 20_011, usize::MAX / 4][number % 4];
                let operands = poisoned(&operands, part, at, poison);
                check(target, &case, &clean, &operands).unwrap_or_else(|error| {
                    panic!(
                        "{target:?} {}: {case:?}, {poison} in operand {part} at {at}: {error}",
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
