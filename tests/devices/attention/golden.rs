//! PyTorch's results.

use crate::device::{Target, targets};
use ocelli::Tensor;
use ocelli::ops::{AttentionMask, Upstream, attention, attention_backward};
use ocelli::params::Attention;
use ocelli::params::attention::Qkv;
use safetensors::SafeTensors;

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
