use super::*;
use crate::sim::Arch;
use crate::tensor::model::Accumulator;

/// Deterministic bits (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }
}

/// How operands are drawn.
#[derive(Clone, Copy)]
enum Draw {
    /// All bit patterns, NaNs and infinities included.
    Any,
    /// Finite patterns only.
    Finite,
    /// Exponents close together, so that alignment and cancellation matter.
    Near,
    /// Mostly zeros and the ends of the range.
    Corners,
}

fn fields(format: Format) -> (u32, u32) {
    match format {
        Format::F16 => (5, 10),
        Format::Bf16 => (8, 7),
        Format::Tf32 | Format::F32 => (8, 23),
        Format::E4m3 => (4, 3),
        Format::E5m2 => (5, 2),
    }
}

fn element(format: Format, draw: Draw, random: &mut Random) -> u32 {
    let (e, f) = fields(format);
    let (sign, fraction) = (random.below(2) << (e + f), random.next() & ((1 << f) - 1));
    let top = (1 << e) - 1;
    let exponent = match draw {
        Draw::Any => random.below(top + 1),
        Draw::Finite => random.below(top),
        Draw::Near => top / 2 - 2 + random.below(4),
        Draw::Corners => [0, 0, 1, top / 2, top - 1][random.below(5) as usize],
    };
    let fraction = match draw {
        Draw::Corners => [0, 0, 1, (1 << f) - 1][random.below(4) as usize],
        _ => fraction,
    };
    sign | exponent << f | fraction
}

/// A value of the accumulator's format, as f32.
fn addend(model: &Model, draw: Draw, random: &mut Random) -> f32 {
    let format = match model.accumulator {
        Accumulator::F32 => Format::F32,
        Accumulator::F16 => Format::F16,
    };
    let bits = element(format, draw, random);
    match model.accumulator {
        Accumulator::F32 => f32::from_bits(bits),
        Accumulator::F16 => {
            let term = format.term(bits);
            match (term.is_nan(), term.is_special()) {
                (true, _) => f32::NAN,
                (_, true) => f32::INFINITY.copysign(term.significand),
                _ => term.significand * 2f32.powi(term.exponent.max(-14)),
            }
        }
    }
}

fn models() -> Vec<(Format, Model)> {
    let mut models = Vec::new();
    for format in [
        Format::F16,
        Format::Bf16,
        Format::Tf32,
        Format::E4m3,
        Format::E5m2,
    ] {
        for accumulator in [Accumulator::F32, Accumulator::F16] {
            let known = [
                Model::mma(Arch::Sm80, format, accumulator),
                Model::mma(Arch::Sm90a, format, accumulator),
                Model::wgmma(format, accumulator),
            ];
            models.extend(known.into_iter().flatten().map(|model| (format, model)));
        }
    }
    models
}

/// The vector code against the definition in integers, bit for bit.
#[test]
fn vector_code_is_the_definition() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (rows, columns) = (4, 16);
    for (format, model) in models() {
        for draw in [Draw::Any, Draw::Finite, Draw::Near, Draw::Corners] {
            for round in 0..60 {
                let depth = [4, 8, 16, 32][round % 4];
                let mut draw_all = |count: usize| -> Vec<u32> {
                    (0..count)
                        .map(|_| element(format, draw, &mut random))
                        .collect()
                };
                let (a_bits, b_bits) = (draw_all(rows * depth), draw_all(columns * depth));
                let c: Vec<f32> = (0..rows * columns)
                    .map(|_| addend(&model, draw, &mut random))
                    .collect();
                let (mut a, mut b) = (Rows::default(), Columns::default());
                a.load(format, &a_bits, depth, false);
                b.load(format, &b_bits, depth, false);
                let mut d = c.clone();
                multiply_add(&model, &a, &b, &mut d);
                for (index, &d) in d.iter().enumerate() {
                    let (row, column) = (index / columns, index % columns);
                    let a: Vec<Term> = (0..depth)
                        .map(|k| format.term(a_bits[row * depth + k]))
                        .collect();
                    let b_at = |k| b_bits[(column / LANES * depth + k) * LANES + column % LANES];
                    let b: Vec<Term> = (0..depth).map(|k| format.term(b_at(k))).collect();
                    let mut expected = c[index];
                    for (a, b) in a.chunks(model.block).zip(b.chunks(model.block)) {
                        expected = model.fused_dot_add(a, b, expected);
                    }
                    assert_eq!(
                        d.to_bits(),
                        expected.to_bits(),
                        "{format:?} {model:?} {d} {expected}"
                    );
                }
            }
        }
    }
}

/// The result of one row by one column.
fn dot(format: Format, model: &Model, a: &[f32], b: &[f32], c: f32) -> f32 {
    let bits = |x: &f32| match format {
        Format::Bf16 => x.to_bits() >> 16,
        _ => x.to_bits(),
    };
    let terms = |x: &[f32]| -> Vec<Term> { x.iter().map(|x| format.term(bits(x))).collect() };
    let (a, b) = (terms(a), terms(b));
    let blocks = a.chunks(model.block).zip(b.chunks(model.block));
    blocks.fold(c, |c, (a, b)| model.fused_dot_add(a, b, c))
}

/// What sets one generation apart, by hand: 1 in front of terms at the end of the adder.
#[test]
fn keeps_the_bits_that_the_adder_has() {
    let ampere = Model::mma(Arch::Sm80, Format::Bf16, Accumulator::F32).unwrap();
    let hopper = Model::mma(Arch::Sm90a, Format::Bf16, Accumulator::F32).unwrap();
    let sum = |model: &Model, small: f32| {
        let mut a = [small; 16];
        a[0] = 1.0;
        dot(Format::Bf16, model, &a, &[1.0; 16], 0.0) - 1.0
    };
    // Ampere: 7 of 15 small terms stand in the block of the 1, 8 in a block of their own that is
    // added to a rounded result.
    let unit = 2f32.powi(-24);
    assert_eq!(sum(&ampere, unit), 14.0 * unit); // 7 rounds down to 6; 8 more fit
    assert_eq!(sum(&hopper, unit), 14.0 * unit); // 15 rounds down to 14
    assert_eq!(sum(&ampere, unit / 2.0), 0.0); // each is cut off
    assert_eq!(sum(&hopper, unit / 2.0), 6.0 * unit); // 7.5 units, rounded down once
}

#[test]
fn handles_special_values() {
    let model = Model::mma(Arch::Sm80, Format::Bf16, Accumulator::F32).unwrap();
    let run = |a: [f32; 2], b: [f32; 2], c: f32| dot(Format::Bf16, &model, &a, &b, c);
    let inf = f32::INFINITY;
    for (a, b, c) in [
        ([inf, 0.0], [0.0, 0.0], 0.0),
        ([inf, inf], [1.0, -1.0], 0.0),
        ([inf, 0.0], [1.0, 0.0], -inf),
        ([f32::NAN, 0.0], [0.0, 0.0], 0.0),
        ([1.0, 1.0], [1.0, 1.0], f32::NAN),
    ] {
        assert_eq!(run(a, b, c).to_bits(), 0x7fff_ffff, "{a:?} {b:?} {c}");
    }
    assert_eq!(run([inf, 1.0], [2.0, 1.0], 5.0), inf);
    assert_eq!(run([inf, 1.0], [-2.0, 1.0], 5.0), -inf);
    assert_eq!(run([-0.0, -0.0], [1.0, 1.0], -0.0).to_bits(), 0);
    let huge = 2f32.powi(127);
    assert_eq!(run([huge, 0.0], [2.0, 0.0], 0.0), inf);
    // A product beyond f32 that another one cancels is no overflow.
    assert_eq!(run([huge, huge], [4.0, -4.0], 3.0), 0.0);
    assert_eq!(
        run([2f32.powi(-100), 0.0], [2f32.powi(-49), 0.0], 0.0),
        f32::from_bits(1)
    );
}
