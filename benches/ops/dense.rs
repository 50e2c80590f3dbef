//! The layers between the products: of one image, and on CUDA of batches, as ViT-B/16 and RetinaNet have them.

use crate::bench::{Bench, Cost, normal};
use ocelli::ops;
use ocelli::params::{Activation, GroupNorm, MaxPool2d, ResizeBilinear};
use ocelli::{DType, Device, Result, Tensor};

/// One op at one size.
struct Case<'a> {
    op: &'a str,
    name: &'a str,
    dtype: DType,
    on_cpu: bool,
    shapes: &'a [&'a [usize]],
    /// Of the output.
    shape: &'a [usize],
}

impl<'a> Case<'a> {
    /// f32 on all devices.
    fn of(op: &'a str, name: &'a str, shapes: &'a [&'a [usize]], shape: &'a [usize]) -> Self {
        Self {
            op,
            name,
            dtype: DType::F32,
            on_cpu: true,
            shapes,
            shape,
        }
    }

    /// bf16, too large for a CPU.
    fn batch(op: &'a str, name: &'a str, shapes: &'a [&'a [usize]], shape: &'a [usize]) -> Self {
        Self {
            dtype: DType::BF16,
            on_cpu: false,
            ..Self::of(op, name, shapes, shape)
        }
    }

    fn tensors(&self, device: &Device) -> Vec<Tensor> {
        let tensor = |(seed, shape): (usize, &&[usize])| {
            let values = normal(1.0, shape.iter().product(), seed as u64);
            let host = Tensor::from_vec(values, shape, &Device::Cpu)?;
            host.to_dtype(self.dtype)?.to_device(device)
        };
        let tensors = self.shapes.iter().enumerate().map(tensor);
        tensors.collect::<Result<_>>().expect("tensors")
    }

    /// The answer against that of the CPU, which the tests hold to the reference.
    fn check(&self, here: &Tensor, expected: &Tensor) {
        let values = |tensor: &Tensor| {
            let host = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            host.to_vec::<f32>()
        };
        let unit = match self.dtype {
            DType::F32 => 0.0,
            _ => 1.0 / 64.0,
        };
        let (here, expected) = (
            values(here).expect("values"),
            values(expected).expect("values"),
        );
        for (a, b) in here.iter().zip(expected) {
            let good = (a - b).abs() <= 1e-4 + unit * b.abs();
            assert!(good, "{}: {a} for {b}", self.op);
        }
    }

    /// Times `call` of random tensors of these shapes.
    fn time(&self, bench: &mut Bench, call: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let inputs: usize = self.shapes.iter().map(|shape| elements(shape)).sum();
        let cost = Cost {
            bytes: self.dtype.size() * (inputs + elements(self.shape)),
            operations: 0.0,
        };
        bench.costly_case(self.op, self.name, cost, [self.on_cpu, true], |device| {
            let tensors = self.tensors(device);
            let here = call(&tensors).expect("a result");
            assert_eq!(here.shape(), self.shape, "{}", self.op);
            if *device != Device::Cpu {
                self.check(&here, &call(&self.tensors(&Device::Cpu)).expect("a result"));
            }
            let call = &call;
            move || drop(call(&tensors).expect("a result"))
        });
    }
}

pub fn run(bench: &mut Bench) {
    norms(bench);
    images(bench);
    elementwise(bench);
    embedding(bench);
    cast(bench);
}

fn norms(bench: &mut Bench) {
    let rows = bench.size(197 * 8);
    let shapes: &[&[usize]] = &[&[rows, 768], &[768], &[768]];
    let layer = |t: &[Tensor]| ops::layer_norm(&t[0], &t[1], &t[2], 1e-6);
    Case::of("layer_norm", "[1576, 768] f32", shapes, shapes[0]).time(bench, layer);
    let rows = bench.size(197 * 32);
    let shapes: &[&[usize]] = &[&[rows, 768], &[768], &[768]];
    Case::batch("layer_norm", "[6304, 768] bf16", shapes, shapes[0]).time(bench, layer);

    let params = GroupNorm {
        activation: Activation::Relu,
        ..GroupNorm::default()
    };
    let group = |t: &[Tensor]| ops::group_norm(&t[0], &t[1], &t[2], &params);
    let height = bench.size(60).max(4);
    let shapes: &[&[usize]] = &[&[1, height, 80, 256], &[256], &[256]];
    Case::of("group_norm", "[1, 60, 80, 256] f32 relu", shapes, shapes[0]).time(bench, group);
    let height = bench.size(100).max(4);
    let shapes: &[&[usize]] = &[&[8, height, 168, 256], &[256], &[256]];
    Case::batch(
        "group_norm",
        "[8, 100, 168, 256] bf16 relu",
        shapes,
        shapes[0],
    )
    .time(bench, group);
}

fn images(bench: &mut Bench) {
    let pool = MaxPool2d {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let pooled = |t: &[Tensor]| ops::max_pool2d(&t[0], &pool);
    let height = bench.size(240).max(4);
    let (maps, shape) = ([1, height, 320, 64], [1, height / 2, 160, 64]);
    Case::of("max_pool2d", "[1, 240, 320, 64] f32", &[&maps], &shape).time(bench, pooled);
    let height = bench.size(400).max(4);
    let (maps, shape) = ([8, height, 672, 64], [8, height / 2, 336, 64]);
    Case::batch("max_pool2d", "[8, 400, 672, 64] bf16", &[&maps], &shape).time(bench, pooled);

    let added = |t: &[Tensor]| ops::upsample_nearest_add(&t[0], &t[1]);
    let height = bench.size(60).max(4);
    let (small, large) = ([1, height / 2, 40, 256], [1, height, 80, 256]);
    let (name, shapes) = ("[1, 60, 80, 256] f32", [&small[..], &large]);
    Case::of("upsample_nearest_add", name, &shapes, &large).time(bench, added);
    let height = bench.size(100).max(4);
    let (small, large) = ([8, height / 2, 84, 256], [8, height, 168, 256]);
    let (name, shapes) = ("[8, 100, 168, 256] bf16", [&small[..], &large]);
    Case::batch("upsample_nearest_add", name, &shapes, &large).time(bench, added);

    let image = [1, bench.size(480).max(4), 640, 3];
    for (kind, antialias) in [("", false), (" antialias", true)] {
        let params = ResizeBilinear {
            height: 224,
            width: 224,
            antialias,
        };
        let name = format!("[1, 480, 640, 3] to 224 x 224 f32{kind}");
        Case::of("resize_bilinear", &name, &[&image], &[1, 224, 224, 3])
            .time(bench, |t| ops::resize_bilinear(&t[0], &params));
    }
    let [mean, deviation] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
    Case::of("normalize_image", "[1, 480, 640, 3] f32", &[&image], &image)
        .time(bench, |t| ops::normalize_image(&t[0], &mean, &deviation));
}

fn elementwise(bench: &mut Bench) {
    let gelu = |t: &[Tensor]| ops::activation(&t[0], Activation::Gelu);
    let hidden = [197, 3072];
    Case::of("activation", "[197, 3072] f32 gelu", &[&hidden], &hidden).time(bench, gelu);
    let hidden = [bench.size(6304), 3072];
    Case::batch("activation", "[6304, 3072] bf16 gelu", &[&hidden], &hidden).time(bench, gelu);

    let placed = |t: &[Tensor]| ops::add_positions(&t[0], Some(&t[1]), &t[2]);
    let of_images = |images: usize| [images, 196, 768];
    let (name, tokens) = ("[8, 196, 768] f32 behind a token", of_images(8));
    let shapes: [&[usize]; 3] = [&tokens, &[1, 768], &[197, 768]];
    Case::of("add_positions", name, &shapes, &[8, 197, 768]).time(bench, placed);
    let images = bench.size(64).max(1);
    let (name, tokens) = ("[64, 196, 768] bf16 behind a token", of_images(images));
    let shapes: [&[usize]; 3] = [&tokens, &[1, 768], &[197, 768]];
    Case::batch("add_positions", name, &shapes, &[images, 197, 768]).time(bench, placed);
}

/// A small sentence encoder's words: only the rows asked for move.
fn embedding(bench: &mut Bench) {
    const WORDS: usize = 30_522;
    const WIDTH: usize = 384;
    let tokens = bench.size(32 * 128);
    // A step that has no divisor in common with the number of words visits them as if at random.
    let words: Vec<i32> = (0..tokens).map(|at| (at * 7919 % WORDS) as i32).collect();
    let bytes = 4 * tokens * (2 * WIDTH + 1);
    let case = "[32, 128] of [30522, 384] f32";
    bench.case("embedding", case, bytes, |device| {
        let rows = normal(1.0, WORDS * WIDTH, 1);
        let table = Tensor::from_vec(rows.clone(), &[WORDS, WIDTH], device).expect("a table");
        let indices = Tensor::from_vec(words.clone(), &[tokens], device).expect("indices");
        let call = move || ops::embedding(&table, &indices).expect("a result");
        let found = call().to_vec::<f32>().expect("values");
        for (&word, found) in words.iter().zip(found.chunks(WIDTH)) {
            let row = word as usize * WIDTH;
            assert_eq!(found, &rows[row..row + WIDTH], "embedding");
        }
        move || drop(call())
    });
}

/// The logits of eight images.
fn cast(bench: &mut Bench) {
    let elements = bench.size(1 << 25);
    let (case, bytes) = ("[33554432] f32 to bf16", 6 * elements);
    bench.case("cast", case, bytes, |device| {
        let values = normal(1.0, elements, 1);
        let host = Tensor::from_vec(values, &[elements], &Device::Cpu).expect("values");
        let from = host.to_device(device).expect("a copy");
        let cast = |from: &Tensor| from.to_dtype(DType::BF16).expect("a cast");
        let here = cast(&from).to_device(&Device::Cpu).expect("a copy");
        let bits = |tensor: &Tensor| tensor.to_vec::<half::bf16>().expect("values");
        assert!(bits(&here) == bits(&cast(&host)), "cast");
        move || drop(cast(&from))
    });
}
