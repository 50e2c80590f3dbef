//! The Transformer against `torch.nn.Transformer`.

use super::golden::{Golden, everywhere};
use ocelli::io::Weights;
use ocelli::models::transformer::{Config, LayerConfig, Transformer, TransformerEncoder};
use ocelli::ops::AttentionMask;
use ocelli::params::Activation;
use ocelli::{DType, Device};

fn golden() -> Golden {
    Golden::new(include_bytes!(
        "../../golden/models/transformer.safetensors"
    ))
}

fn load(weights: &mut Weights, norm_first: bool, activation: Activation) -> Transformer {
    let config = Config::of(weights);
    let layer = LayerConfig {
        heads: 2,
        norm_first,
        activation,
        ..config.layer
    };
    Transformer::load(weights, &Config { layer, ..config }).unwrap()
}

#[test]
fn every_option_is_torchs() {
    everywhere(|target, dtype| {
        let golden = golden();
        let [src, tgt] = ["src", "tgt"].map(|name| golden.input(name, target, dtype));
        for (name, norm_first, activation) in [
            ("post_relu", false, Activation::Relu),
            ("post_gelu", false, Activation::Gelu),
            ("pre_relu", true, Activation::Relu),
            ("pre_gelu", true, Activation::Gelu),
        ] {
            let mut weights = golden.weights(target, dtype);
            let model = load(&mut weights, norm_first, activation);
            weights.finish().unwrap();
            golden.check(name, &model.forward(&src, &tgt).unwrap(), target);
        }
    });
}

#[test]
fn padding_of_the_source_is_torchs() {
    everywhere(|target, dtype| {
        let golden = golden();
        let [src, tgt, lengths] =
            ["src", "tgt", "lengths"].map(|name| golden.input(name, target, dtype));
        let mut weights = golden.weights(target, dtype);
        let model = load(&mut weights, false, Activation::Relu);
        let mask = AttentionMask {
            kv_lengths: Some(&lengths),
            ..AttentionMask::default()
        };
        let memory = model.encode(&src, &mask).unwrap();
        let all = AttentionMask::default();
        let out = model.decode(&tgt, &memory, &all, &mask).unwrap();
        golden.check("masked", &out, target);
    });
}

#[test]
fn an_encoder_stands_alone() {
    everywhere(|target, dtype| {
        let golden = golden();
        let mut weights = golden.weights(target, dtype);
        let of_encoder = |name: &str| name.strip_prefix("encoder.").map(str::to_string);
        weights.rename(of_encoder).unwrap();
        let config = LayerConfig {
            width: 32,
            heads: 2,
            feedforward: 40,
            ..LayerConfig::default()
        };
        let encoder = TransformerEncoder::load(&mut weights, "", &config, 2, true).unwrap();
        weights.finish().unwrap();
        let src = golden.input("src", target, dtype);
        let out = encoder.forward(&src, &AttentionMask::default()).unwrap();
        golden.check("encoded", &out, target);
    });
}

#[test]
fn sizes_are_read_and_what_does_not_fit_is_listed() {
    let target = crate::device::Target::Cpu;
    let weights = golden().weights(&target, DType::F32);
    let config = Config::of(&weights);
    assert_eq!((config.encoder_layers, config.decoder_layers), (2, 2));
    assert_eq!((config.layer.width, config.layer.feedforward), (32, 40));
    let mut weights = golden().weights(&target, DType::F32);
    let fewer = Config {
        decoder_layers: 1,
        layer: LayerConfig {
            heads: 3,
            feedforward: 48,
            ..config.layer
        },
        ..config
    };
    Transformer::load(&mut weights, &fewer).unwrap();
    let error = weights.finish().unwrap_err().to_string();
    for part in [
        "3 heads do not divide the width 32",
        "`encoder.layers.1.linear2.weight` must be [32, 48], got [32, 40]",
        "`decoder.layers.1.norm3.bias` belongs to no part of the model",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn nothing_in_a_weights_file_panics() {
    let target = crate::device::Target::Cpu;
    let mut weights = Weights::listing();
    Transformer::load(&mut weights, &Config::default()).unwrap();
    assert!(weights.device() == &Device::Cpu && weights.finish().is_ok());
    let mut weights = golden().weights(&target, DType::F32);
    weights.rename(|_| None).unwrap();
    let config = Config::of(&weights);
    assert_eq!((config.encoder_layers, config.decoder_layers), (0, 0));
    Transformer::load(&mut weights, &config).unwrap();
    assert!(weights.finish().is_err());
}
