//! Single cases: PyTorch's results, forms of the input, empty problems, mistakes.

use super::{Target, targets};
use ocelli::ops::{Attended, AttentionMask, Sequences, Upstream, attention, attention_backward};
use ocelli::params::Attention;
use ocelli::params::attention::{Dropout, Qkv};
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Tensor};
use safetensors::SafeTensors;

fn random(shape: &[usize], seed: u64, device: &Device) -> Tensor {
    let values = Data::Spread(1.0).values(shape.iter().product(), seed);
    Tensor::from_vec(values, shape, device).unwrap()
}

fn near(what: &str, actual: &Tensor, exact: &[f64]) {
    let actual = actual.to_vec::<f32>().unwrap();
    assert_eq!(actual.len(), exact.len(), "{what}");
    for (at, (&actual, &exact)) in actual.iter().zip(exact).enumerate() {
        let error = (f64::from(actual) - exact).abs();
        assert!(
            error <= 4e-6 * (1.0 + exact.abs()),
            "{what} {at}: {actual} for {exact}"
        );
    }
}

/// One of PyTorch's cases on a device.
fn check_golden(golden: &SafeTensors<'_>, case: usize, target: &Target) {
    let device = target.device();
    let view = |name: &str| golden.tensor(&format!("{name}_{case}"));
    let input = |name: &str| {
        let view = view(name).ok()?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        Some(Tensor::from_vec(values, view.shape(), &device).unwrap())
    };
    let result =
        |name: &str| -> Vec<f64> { bytemuck::pod_collect_to_vec(view(name).unwrap().data()) };
    let scalar = |name: &str| input(name).unwrap().to_vec::<f32>().unwrap()[0];
    let (q, k, v, bias) = (
        input("q").unwrap(),
        input("k").unwrap(),
        input("v").unwrap(),
        input("bias"),
    );
    let params = Attention {
        causal: scalar("causal") == 1.0,
        softcap: scalar("softcap"),
        ..Attention::default()
    };
    let (qkv, mask) = (
        Qkv::Separate {
            q: &q,
            k: &k,
            v: &v,
        },
        AttentionMask {
            bias: bias.as_ref(),
            ..Default::default()
        },
    );
    let attended = attention(qkv, &mask, &params).unwrap();
    let what = |name: &str| format!("{target:?} case {case} {name}");
    near(&what("out"), &attended.out, &result("out"));
    let upstream = Upstream {
        dout: &input("dout").unwrap(),
        dlse: None,
        dbias: bias.is_some(),
    };
    let gradient = attention_backward(qkv, &mask, &params, &attended, &upstream).unwrap();
    for (name, gradient) in ["dq", "dk", "dv"].into_iter().zip(gradient.qkv.parts()) {
        near(&what(name), gradient, &result(name));
    }
    if let Some(dbias) = gradient.dbias {
        near(&what("dbias"), &dbias, &result("dbias"));
    }
}

#[test]
fn pytorch_agrees() {
    let golden =
        SafeTensors::deserialize(include_bytes!("../../golden/attention.safetensors")).unwrap();
    for case in 0..5 {
        targets()
            .iter()
            .for_each(|target| check_golden(&golden, case, target));
    }
}

#[test]
fn a_projection_is_read_and_its_gradient_written_in_place() {
    for target in targets() {
        let device = target.device();
        let qkv = random(&[2, 37, 3, 2, 16], 3, &device);
        let values = qkv.to_vec::<f32>().unwrap();
        let part = |part: usize| {
            let rows: Vec<f32> = values
                .chunks(32)
                .skip(part)
                .step_by(3)
                .flatten()
                .copied()
                .collect();
            Tensor::from_vec(rows, &[2, 37, 2, 16], &device).unwrap()
        };
        let [q, k, v] = [part(0), part(1), part(2)];
        let params = Attention {
            causal: true,
            ..Attention::default()
        };
        let mask = AttentionMask::default();
        let separate = Qkv::Separate {
            q: &q,
            k: &k,
            v: &v,
        };
        let together = attention(Qkv::Packed(&qkv), &mask, &params).unwrap();
        let apart = attention(separate, &mask, &params).unwrap();
        assert_eq!(
            together.out.to_vec::<f32>().unwrap(),
            apart.out.to_vec::<f32>().unwrap()
        );
        assert_eq!(
            together.lse.to_vec::<f32>().unwrap(),
            apart.lse.to_vec::<f32>().unwrap()
        );
        let upstream = Upstream {
            dout: &random(&[2, 37, 2, 16], 4, &device),
            dlse: None,
            dbias: false,
        };
        let in_place =
            attention_backward(Qkv::Packed(&qkv), &mask, &params, &together, &upstream).unwrap();
        let gradients = attention_backward(separate, &mask, &params, &apart, &upstream).unwrap();
        let Qkv::Packed(in_place) = in_place.qkv else {
            panic!("the form of the input")
        };
        assert_eq!(in_place.shape(), qkv.shape());
        let in_place = in_place.to_vec::<f32>().unwrap();
        for (part, gradient) in gradients.qkv.parts().into_iter().enumerate() {
            let rows: Vec<f32> = in_place
                .chunks(32)
                .skip(part)
                .step_by(3)
                .flatten()
                .copied()
                .collect();
            assert_eq!(rows, gradient.to_vec::<f32>().unwrap(), "{target:?} {part}");
        }
    }
}

#[test]
fn packed_sequences_are_each_attended_alone() {
    let lengths = [5usize, 0, 70, 33];
    let offsets: Vec<i32> = vec![0, 5, 5, 75, 108];
    let params = Attention {
        causal: true,
        dropout: Some(Dropout {
            probability: 0.25,
            seed: 9,
        }),
        ..Attention::default()
    };
    for target in targets() {
        let device = target.device();
        let all = random(&[108, 3, 2, 64], 7, &device);
        let offsets = Tensor::from_vec(offsets.clone(), &[5], &device).unwrap();
        let sequences = Sequences {
            offsets_q: &offsets,
            offsets_k: &offsets,
            max_queries: 70,
            max_keys: 70,
        };
        let mask = AttentionMask {
            sequences: Some(sequences),
            ..Default::default()
        };
        let packed = attention(Qkv::Packed(&all), &mask, &params).unwrap();
        assert_eq!(
            (packed.out.shape(), packed.lse.shape()),
            (&[108, 2, 64][..], &[2, 108][..])
        );
        let (out, values) = (
            packed.out.to_vec::<f32>().unwrap(),
            all.to_vec::<f32>().unwrap(),
        );
        // Dropout counts heads through the batch: padded to the same place, each sequence drops the same.
        let mut dense = vec![0f32; 4 * 70 * 384];
        let mut first = 0;
        for (b, length) in lengths.into_iter().enumerate() {
            let rows = &values[first * 384..][..length * 384];
            dense[b * 70 * 384..][..rows.len()].copy_from_slice(rows);
            first += length;
        }
        let dense = Tensor::from_vec(dense, &[4, 70, 3, 2, 64], &device).unwrap();
        let lengths_of =
            Tensor::from_vec(lengths.map(|n| n as i32).to_vec(), &[4], &device).unwrap();
        let mask = AttentionMask {
            kv_lengths: Some(&lengths_of),
            ..Default::default()
        };
        let padded = attention(Qkv::Packed(&dense), &mask, &params)
            .unwrap()
            .out
            .to_vec::<f32>()
            .unwrap();
        let mut first = 0;
        for (b, length) in lengths.into_iter().enumerate() {
            let (ours, theirs) = (
                &out[first * 128..][..length * 128],
                &padded[b * 70 * 128..][..length * 128],
            );
            for (at, (a, b)) in ours.iter().zip(theirs).enumerate() {
                assert!((a - b).abs() <= 2e-6, "{target:?} {at}: {a} and {b}");
            }
            first += length;
        }
    }
}

#[test]
fn an_empty_problem_is_no_error() {
    for target in targets() {
        let device = target.device();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::BF16, &device).unwrap();
        for (queries, keys) in [(0, 4), (3, 0), (0, 0)] {
            let (q, k) = (zeros(&[2, queries, 2, 8]), zeros(&[2, keys, 1, 8]));
            let (qkv, mask) = (
                Qkv::Separate {
                    q: &q,
                    k: &k,
                    v: &k,
                },
                AttentionMask::default(),
            );
            let attended = attention(qkv, &mask, &Attention::default()).unwrap();
            assert_eq!(attended.out.shape(), q.shape(), "{target:?}");
            let lse = attended.lse.to_vec::<f32>().unwrap();
            assert_eq!(lse, vec![f32::NEG_INFINITY; 4 * queries]);
            let upstream = Upstream {
                dout: &attended.out,
                dlse: None,
                dbias: false,
            };
            let gradient =
                attention_backward(qkv, &mask, &Attention::default(), &attended, &upstream)
                    .unwrap();
            for (gradient, like) in gradient.qkv.parts().into_iter().zip([&q, &k, &k]) {
                assert_eq!(gradient.shape(), like.shape());
                assert!(
                    gradient
                        .to_vec::<half::bf16>()
                        .unwrap()
                        .iter()
                        .all(|x| x.to_f32() == 0.0)
                );
            }
        }
    }
}

#[test]
fn mistakes_are_named() {
    let cpu = Device::Cpu;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &cpu).unwrap();
    let (q, k) = (zeros(&[2, 5, 4, 16]), zeros(&[2, 7, 2, 16]));
    let none = AttentionMask::default();
    let plain = Attention::default();
    let message =
        |q: &Tensor, k: &Tensor, v: &Tensor, mask: &AttentionMask<'_>, params: &Attention| {
            attention(Qkv::Separate { q, k, v }, mask, params)
                .unwrap_err()
                .to_string()
        };
    let (three, dims) = (zeros(&[2, 7, 3, 16]), zeros(&[2, 7, 2, 12]));
    let integers = Tensor::zeros(&[2, 5, 4, 16], DType::I32, &cpu).unwrap();
    let half = Tensor::zeros(&[2, 7, 2, 16], DType::F16, &cpu).unwrap();
    let (flat, bias, lengths) = (zeros(&[5, 4, 16]), zeros(&[2, 3, 5, 7]), zeros(&[2]));
    let offsets = Tensor::zeros(&[3], DType::I32, &cpu).unwrap();
    let sequences = Sequences {
        offsets_q: &offsets,
        offsets_k: &offsets,
        max_queries: 5,
        max_keys: 5,
    };
    let odd = zeros(&[2, 7, 2, 12]);
    let cases = [
        (
            message(&flat, &k, &k, &none, &plain),
            "q must be [B, N, heads, D], got [5, 4, 16]",
        ),
        (
            message(&q, &dims, &dims, &none, &plain),
            "k must be [2, N, heads, 16], as q is, got [2, 7, 2, 12]",
        ),
        (
            message(&q, &k, &three, &none, &plain),
            "v must be [2, 7, 2, 16], got [2, 7, 3, 16]",
        ),
        (
            message(&q, &three, &three, &none, &plain),
            "heads must be a multiple of the key and value heads, both at least 1, got 4 and 3",
        ),
        (
            message(&odd, &odd, &odd, &none, &plain),
            "head_dim must be a multiple of 8 up to 256, got 12",
        ),
        (
            message(&integers, &k, &k, &none, &plain),
            "k must be of type i32, got f32",
        ),
        (
            message(&q, &half, &half, &none, &plain),
            "k must be of type f32, got f16",
        ),
        (
            message(
                &q,
                &k,
                &k,
                &AttentionMask {
                    bias: Some(&bias),
                    ..none
                },
                &plain,
            ),
            "bias must be [2 or 1, 4 or 1, 5, 7], got [2, 3, 5, 7]",
        ),
        (
            message(
                &q,
                &k,
                &k,
                &AttentionMask {
                    kv_lengths: Some(&lengths),
                    ..none
                },
                &plain,
            ),
            "kv_lengths must be of type i32, got f32",
        ),
        (
            message(
                &q,
                &k,
                &k,
                &AttentionMask {
                    sequences: Some(sequences),
                    ..none
                },
                &plain,
            ),
            "q must be [T, heads, D], got [2, 5, 4, 16]",
        ),
        (
            message(
                &q,
                &k,
                &k,
                &none,
                &Attention {
                    softcap: f32::NAN,
                    ..plain
                },
            ),
            "softcap must be finite and above 0, or 0 for none, got NaN",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("attention: {expected}"));
    }
    let attended = attention(
        Qkv::Separate {
            q: &q,
            k: &k,
            v: &k,
        },
        &none,
        &plain,
    )
    .unwrap();
    let backward = |attended: &Attended, upstream: Upstream<'_>| {
        let qkv = Qkv::Separate {
            q: &q,
            k: &k,
            v: &k,
        };
        attention_backward(qkv, &none, &plain, attended, &upstream)
            .unwrap_err()
            .to_string()
    };
    let upstream = Upstream {
        dout: &q,
        dlse: None,
        dbias: false,
    };
    let wrong = Upstream {
        dout: &k,
        ..upstream
    };
    assert_eq!(
        backward(&attended, wrong),
        "attention: dout must be [2, 5, 4, 16], got [2, 7, 2, 16]"
    );
    let wrong = Upstream {
        dbias: true,
        ..upstream
    };
    assert_eq!(
        backward(&attended, wrong),
        "attention: dbias must be false where there is no bias, got true"
    );
    let wrong = Attended {
        lse: zeros(&[2, 5, 4]),
        ..attended
    };
    assert_eq!(
        backward(&wrong, upstream),
        "attention: lse must be [2, 4, 5], got [2, 5, 4]"
    );
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let q = random(&[1, 130, 4, 24], 1, &Device::Cpu);
    let k = random(&[1, 300, 2, 24], 2, &Device::Cpu);
    let bias = random(&[1, 1, 130, 300], 3, &Device::Cpu);
    let qkv = Qkv::Separate {
        q: &q,
        k: &k,
        v: &k,
    };
    let mask = AttentionMask {
        bias: Some(&bias),
        ..Default::default()
    };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let params = Attention {
                causal: true,
                softcap: 4.0,
                ..Attention::default()
            };
            let attended = attention(qkv, &mask, &params).unwrap();
            let upstream = Upstream {
                dout: &q,
                dlse: None,
                dbias: true,
            };
            let gradient = attention_backward(qkv, &mask, &params, &attended, &upstream).unwrap();
            let [dq, dk, dv] = gradient.qkv.parts();
            let tensors = [
                &attended.out,
                &attended.lse,
                dq,
                dk,
                dv,
                gradient.dbias.as_ref().unwrap(),
            ];
            tensors.map(|tensor| {
                tensor
                    .to_vec::<f32>()
                    .unwrap()
                    .into_iter()
                    .map(f32::to_bits)
                    .collect::<Vec<_>>()
            })
        })
    };
    assert_eq!(run(1), run(3));
}
