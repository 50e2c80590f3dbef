//! The layers between the products, as ViT-B/16 and RetinaNet have them.

use crate::bench::Bench;
use ocelli::ops;
use ocelli::params::{Activation, GroupNorm, MaxPool2d, ResizeBilinear};
use ocelli::testing::strategy::Data;
use ocelli::{Device, Result, Tensor};

/// Times `call` of random tensors of these shapes, checked against the CPU, which the tests hold to the
/// reference.
fn case(
    bench: &mut Bench,
    op: &str,
    case: &str,
    shapes: &[&[usize]],
    call: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let make = |device: &Device| -> Vec<Tensor> {
        let tensor = |(seed, shape): (usize, &&[usize])| {
            let values = Data::Spread(1.0).values(shape.iter().product(), seed as u64);
            Tensor::from_vec(values, shape, device).expect("a tensor")
        };
        shapes.iter().enumerate().map(tensor).collect()
    };
    let outputs = call(&make(&Device::Cpu)).expect("a result");
    let inputs: usize = shapes
        .iter()
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    bench.case(op, case, 4 * (inputs + outputs.len()), |device| {
        let tensors = make(device);
        let here = call(&tensors)
            .expect("a result")
            .to_vec::<f32>()
            .expect("values");
        for (a, b) in here.iter().zip(outputs.to_vec::<f32>().expect("values")) {
            assert!((a - b).abs() < 1e-4, "{op}: {a} for {b}");
        }
        let call = &call;
        move || drop(call(&tensors).expect("a result"))
    });
}

pub fn run(bench: &mut Bench) {
    let rows = bench.size(197 * 8);
    case(
        bench,
        "layer_norm",
        "[1576, 768] f32",
        &[&[rows, 768], &[768], &[768]],
        |t| ops::layer_norm(&t[0], &t[1], &t[2], 1e-6),
    );
    let height = bench.size(60);
    let map: &[usize] = &[1, height.max(4), 80, 256];
    let group = GroupNorm {
        activation: Activation::Relu,
        ..GroupNorm::default()
    };
    case(
        bench,
        "group_norm",
        "[1, 60, 80, 256] f32 relu",
        &[map, &[256], &[256]],
        |t| ops::group_norm(&t[0], &t[1], &t[2], &group),
    );
    let height = bench.size(240).max(4);
    let pool = MaxPool2d {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    case(
        bench,
        "max_pool2d",
        "[1, 240, 320, 64] f32",
        &[&[1, height, 320, 64]],
        |t| ops::max_pool2d(&t[0], &pool),
    );
    let small: &[usize] = &[1, map[1] / 2, 40, 256];
    case(
        bench,
        "upsample_nearest_add",
        "[1, 60, 80, 256] f32",
        &[small, map],
        |t| ops::upsample_nearest_add(&t[0], &t[1]),
    );
    let height = bench.size(480).max(4);
    for (name, antialias) in [("", false), (" antialias", true)] {
        let params = ResizeBilinear {
            height: 224,
            width: 224,
            antialias,
        };
        let label = format!("[1, 480, 640, 3] to 224 x 224 f32{name}");
        case(
            bench,
            "resize_bilinear",
            &label,
            &[&[1, height, 640, 3]],
            |t| ops::resize_bilinear(&t[0], &params),
        );
    }
    case(
        bench,
        "activation",
        "[197, 3072] f32 gelu",
        &[&[197, 3072]],
        |t| ops::activation(&t[0], Activation::Gelu),
    );
    let height = bench.size(480).max(4);
    case(
        bench,
        "normalize_image",
        "[1, 480, 640, 3] f32",
        &[&[1, height, 640, 3]],
        |t| ops::normalize_image(&t[0], &[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]),
    );
    case(
        bench,
        "add_positions",
        "[8, 196, 768] f32 behind a token",
        &[&[8, 196, 768], &[1, 768], &[197, 768]],
        |t| ops::add_positions(&t[0], Some(&t[1]), &t[2]),
    );
    embedding(bench);
}

/// A small sentence encoder's words: only the rows asked for move.
fn embedding(bench: &mut Bench) {
    const WORDS: usize = 30_522;
    const WIDTH: usize = 384;
    let tokens = bench.size(32 * 128);
    let rows = Data::Spread(1.0).values(WORDS * WIDTH, 1);
    // A step that has no divisor in common with the number of words visits them as if at random.
    let words: Vec<i32> = (0..tokens).map(|at| (at * 7919 % WORDS) as i32).collect();
    let bytes = 4 * tokens * (2 * WIDTH + 1);
    bench.case(
        "embedding",
        "[32, 128] of [30522, 384] f32",
        bytes,
        |device| {
            let table = Tensor::from_vec(rows.clone(), &[WORDS, WIDTH], device).expect("a table");
            let indices = Tensor::from_vec(words.clone(), &[tokens], device).expect("indices");
            let call = move || ops::embedding(&table, &indices).expect("a result");
            let found = call().to_vec::<f32>().expect("values");
            for (&word, found) in words.iter().zip(found.chunks(WIDTH)) {
                let row = word as usize * WIDTH;
                assert_eq!(found, &rows[row..row + WIDTH], "embedding");
            }
            move || drop(call())
        },
    );
}
