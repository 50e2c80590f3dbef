//! Forms of one problem: a packed projection, packed sequences, no tokens, any number of threads.

use crate::device::targets;
use ocelli::ops::{AttentionMask, Sequences, Upstream, attention, attention_backward};
use ocelli::params::Attention;
use ocelli::params::attention::{Dropout, Qkv};
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Tensor};

fn random(shape: &[usize], seed: u64, device: &Device) -> Tensor {
    let values = Data::Spread(1.0).values(shape.iter().product(), seed);
    Tensor::from_vec(values, shape, device).unwrap()
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
