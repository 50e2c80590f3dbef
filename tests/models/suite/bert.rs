//! BERT against transformers' `BertModel`.

use super::golden::{Golden, everywhere};
use crate::device::Target;
use ocelli::io::Weights;
use ocelli::models::bert::{Bert, Config, Padding, own_names, sentence_embeddings};
use ocelli::{DType, Device, Tensor};

const HEADS: usize = 4;

fn golden() -> Golden {
    Golden::new(include_bytes!("../../golden/models/bert.safetensors"))
}

fn load(mut weights: Weights) -> Bert {
    own_names(&mut weights).unwrap();
    let config = Config::of(&weights, HEADS);
    let model = Bert::load(&mut weights, &config).unwrap();
    weights.finish().unwrap();
    model
}

#[test]
fn hidden_states_and_embeddings_are_those_of_transformers() {
    everywhere(|target, dtype| {
        let golden = golden();
        let model = load(golden.weights(target, dtype));
        let [ids, types] =
            ["input_ids", "token_type_ids"].map(|name| golden.input(name, target, dtype));
        let [padded, holes] =
            ["attention_mask", "holes"].map(|name| golden.input(name, &Target::Cpu, dtype));
        let of = |mask: &Tensor| Padding::of(mask, &target.device(), dtype).unwrap();
        let lengths = of(&padded);
        assert!(matches!(lengths, Padding::Lengths(_)));
        let hidden = model.forward(&ids, None, &lengths.mask()).unwrap();
        golden.check("hidden", &hidden, target);
        let embeddings = sentence_embeddings(&hidden, &padded).unwrap();
        assert_eq!(embeddings.dtype(), DType::F32);
        golden.check("embedding", &embeddings.to_dtype(dtype).unwrap(), target);
        let typed = model.forward(&ids, Some(&types), &lengths.mask());
        golden.check("typed", &typed.unwrap(), target);
        let bias = of(&holes);
        assert!(matches!(bias, Padding::Bias(_)));
        let hidden = model.forward(&ids, None, &bias.mask()).unwrap();
        golden.check("holes", &hidden, target);
    });
}

#[test]
fn old_names_and_parts_beside_the_encoder_are_understood() {
    let mut weights = golden().weights(&Target::Cpu, DType::F32);
    // As in a file of a whole model, where position indices are a buffer; any tensor stands for the other parts.
    let old = |name: &str| {
        let name = match name {
            "encoder.layer.1.output.LayerNorm.weight" => "encoder.layer.1.output.LayerNorm.gamma",
            "encoder.layer.1.output.LayerNorm.bias" => "encoder.layer.1.output.LayerNorm.beta",
            name => name,
        };
        Some(format!("bert.{name}"))
    };
    weights.rename(old).unwrap();
    load(weights);
    let mut weights = golden().weights(&Target::Cpu, DType::F32);
    let others = [
        "pooler.dense.bias",
        "cls.predictions.bias",
        "embeddings.position_ids",
    ];
    let mut others = others.iter();
    let renamed = |name: &str| match name {
        name if name.starts_with("encoder.layer.1.attention.output") => {
            others.next().map(ToString::to_string)
        }
        name if name.starts_with("encoder.layer.1.") => None,
        name => Some(name.to_string()),
    };
    weights.rename(renamed).unwrap();
    own_names(&mut weights).unwrap();
    let config = Config::of(&weights, HEADS);
    assert_eq!(config.layers, 1);
    assert_eq!(
        [config.vocabulary, config.positions, config.types],
        [53, 24, 2]
    );
    Bert::load(&mut weights, &config).unwrap();
    weights.finish().unwrap();
}

#[test]
fn the_base_model_has_its_parameters() {
    let mut weights = Weights::listing();
    Bert::load(&mut weights, &Config::default()).unwrap();
    let elements = weights.parameters().values();
    let elements: usize = elements.map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!(elements, 108_891_648);
}

#[test]
fn a_mask_is_lengths_where_its_zeros_are_at_the_ends() {
    let of = |mask: Vec<i32>, shape: &[usize]| {
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu).unwrap();
        Padding::of(&mask, &Device::Cpu, DType::F32)
    };
    let Ok(Padding::Lengths(lengths)) = of(vec![1, 7, 0, 0, 0, 0], &[2, 3]) else {
        panic!("zeros at the ends");
    };
    assert_eq!(lengths.to_vec::<i32>().unwrap(), [2, 0]);
    let Ok(Padding::Bias(bias)) = of(vec![1, 1, 0, 1], &[2, 2]) else {
        panic!("a zero at the start");
    };
    let hidden = f32::NEG_INFINITY;
    let expected = [0.0, 0.0, 0.0, 0.0, hidden, 0.0, hidden, 0.0];
    assert_eq!(bias.shape(), [2, 1, 2, 2]);
    assert_eq!(bias.to_vec::<f32>().unwrap(), expected);
    assert!(matches!(of(vec![], &[2, 0]), Ok(Padding::Lengths(_))));
    let error = of(vec![1], &[1]).unwrap_err().to_string();
    assert_eq!(error, "bert: attention_mask must be [B, N], got [1]");
}

#[test]
fn padding_alone_gives_zeros_and_mistakes_are_named() {
    let golden = golden();
    let model = load(golden.weights(&Target::Cpu, DType::F32));
    let mask = Tensor::zeros(&[1, 3], DType::I32, &Device::Cpu).unwrap();
    let padding = Padding::of(&mask, &Device::Cpu, DType::F32).unwrap();
    // A word that there is not.
    let ids = Tensor::from_vec(vec![-1i32, 53, i32::MAX], &[1, 3], &Device::Cpu).unwrap();
    let hidden = model.forward(&ids, None, &padding.mask()).unwrap();
    let embedding = sentence_embeddings(&hidden, &mask).unwrap();
    assert!(
        embedding
            .to_vec::<f32>()
            .unwrap()
            .iter()
            .all(|&value| value == 0.0)
    );
    let fails = |shape: &[usize], types: Option<&Tensor>| {
        let ids = Tensor::zeros(shape, DType::I32, &Device::Cpu).unwrap();
        let error = model.forward(&ids, types, &Default::default());
        error.unwrap_err().to_string()
    };
    let error = "bert: input_ids must be [B, N] with N at most 24, got [1, 25]";
    assert_eq!(fails(&[1, 25], None), error);
    assert_eq!(fails(&[4], None), "bert: input_ids must be [B, N], got [4]");
    let error = "bert: token_types must be [1, 4], as input_ids is, got [1, 3]";
    assert_eq!(fails(&[1, 4], Some(&mask)), error);
    let error = sentence_embeddings(&mask, &mask).unwrap_err().to_string();
    assert_eq!(error, "bert: hidden must be [1, 3, D], got [1, 3]");
}
