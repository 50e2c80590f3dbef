//! Operand values: the edges of each type and random ones between them.

use crate::exact::{BF16, F16, F32, F64, Format, Round, Value};

/// Type of an operand or result, as far as its values and its register go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pred,
    I16,
    I32,
    I64,
    /// 32 bits that count something: 0 to 70, and a few wild ones.
    Count,
    /// A lane number, 0 to 31.
    Lane,
    F16,
    Bf16,
    F32,
    /// f32 of which the low 13 bits are open.
    Tf32,
    F64,
    F16x2,
    Bf16x2,
    /// Small integers, as the elements of a matrix operand.
    SmallF16x2,
    SmallBf16x2,
    SmallF32,
    SmallF64,
    /// f32 of ordinary size, for approximate functions.
    Moderate,
}

/// Rows of operands at most; what the product of the edges exceeds is thinned out.
const MAX_ROWS: usize = 4096;
/// Rows of random operands.
const RANDOM_ROWS: usize = 512;

impl Kind {
    /// The register type that holds it.
    pub fn register(self) -> &'static str {
        match self {
            Kind::Pred => "pred",
            Kind::I16 | Kind::F16 | Kind::Bf16 => "b16",
            Kind::I64 | Kind::F64 | Kind::SmallF64 => "b64",
            _ => "b32",
        }
    }

    /// The bits that count.
    pub fn mask(self) -> u64 {
        match self {
            Kind::Pred => 1,
            Kind::I16 | Kind::F16 | Kind::Bf16 => 0xFFFF,
            Kind::I64 | Kind::F64 | Kind::SmallF64 => u64::MAX,
            Kind::Tf32 => 0xFFFF_E000,
            _ => u64::from(u32::MAX),
        }
    }

    fn edges(self) -> Vec<u64> {
        let integers = |bits: u32| {
            let high = 1u64 << (bits - 1);
            vec![
                0,
                1,
                2,
                7,
                high - 1,
                high,
                high + 1,
                high | high >> 1,
                0u64.wrapping_sub(1),
                0u64.wrapping_sub(2),
                0x55 * (high >> 6),
            ]
        };
        match self {
            Kind::Pred => vec![0, 1],
            Kind::I16 => integers(16),
            Kind::I32 => [
                integers(32),
                vec![0xFFFF, 0x1_0000, 0x00FF_00FF, 0x1234_5678],
            ]
            .concat(),
            Kind::I64 => [integers(64), integers(32), vec![0x0123_4567_89AB_CDEF]].concat(),
            Kind::Count => vec![
                0,
                1,
                7,
                8,
                15,
                16,
                30,
                31,
                32,
                33,
                47,
                48,
                63,
                64,
                70,
                0xFF,
                0x100,
                0xFFFF_FFFF,
            ],
            Kind::Lane => (0..32).collect(),
            Kind::F16 => floats(F16),
            Kind::Bf16 => floats(BF16),
            Kind::F32 | Kind::Tf32 => [floats(F32), fractions32()].concat(),
            Kind::F64 => [floats(F64), fractions64()].concat(),
            Kind::F16x2 => pairs(&floats(F16)),
            Kind::Bf16x2 => pairs(&floats(BF16)),
            Kind::SmallF16x2 | Kind::SmallBf16x2 | Kind::SmallF32 | Kind::SmallF64 => [-3, 0, 1, 4]
                .map(|value| self.small(value, 1 - value))
                .into(),
            Kind::Moderate => [
                0.0f32, -0.0, 1.0, -1.0, 0.5, 1.5, 2.0, 3.0, 10.0, 0.1, -7.25, 60.0, 1e-3, -1e-5,
            ]
            .iter()
            .map(|value| u64::from(value.to_bits()))
            .collect(),
        }
    }

    /// One small integer, or two in the halves.
    fn small(self, low: i32, high: i32) -> u64 {
        let encode = |format: Format, value: i32| {
            format.encode(
                &Value::finite(value < 0, value.unsigned_abs().into()),
                Round::Zero,
            )
        };
        match self {
            Kind::SmallF16x2 => encode(F16, low) | encode(F16, high) << 16,
            Kind::SmallBf16x2 => encode(BF16, low) | encode(BF16, high) << 16,
            Kind::SmallF64 => encode(F64, low),
            _ => encode(F32, low),
        }
    }

    fn random(self, generator: &mut Generator) -> u64 {
        let bits = generator.next();
        match self {
            Kind::Pred => bits & 1,
            Kind::Count => bits % 71,
            Kind::Lane => bits % 32,
            Kind::SmallF16x2 | Kind::SmallBf16x2 | Kind::SmallF32 | Kind::SmallF64 => {
                self.small((bits % 9) as i32 - 4, (bits >> 32) as i32 % 5)
            }
            Kind::Moderate => u64::from(((bits % 4_000_001) as f32 / 31_250.0 - 64.0).to_bits()),
            // Half of them near one, where sums and products round.
            Kind::F32 if bits & 1 == 1 => 0x3F00_0000 | bits >> 33 & 0x81FF_FFFF,
            Kind::F64 if bits & 1 == 1 => 0x3FE0_0000_0000_0000 | bits >> 1 & 0x803F_FFFF_FFFF_FFFF,
            _ => bits & self.mask(),
        }
    }
}

/// Zeros, subnormals, one and its neighbours, halfway cases, extremes, infinities, NaN; both signs.
fn floats(format: Format) -> Vec<u64> {
    let one = (format.bias() as u64) << format.mantissa_bits;
    let ulp = 1;
    let smallest_normal = 1 << format.mantissa_bits;
    let positive = [
        0,
        1,
        smallest_normal - 1,
        smallest_normal,
        one - ulp,
        one,
        one + ulp,
        one + (smallest_normal >> 1),
        one + smallest_normal,
        // Two to the mantissa's width: here halves are ties.
        one + (u64::from(format.mantissa_bits) << format.mantissa_bits) + ulp,
        format.max(),
        format.infinity(),
        format.infinity() | smallest_normal >> 1,
    ];
    let negative = positive.map(|bits| bits | format.sign_bit());
    [positive, negative].concat()
}

/// f32 values around the limits of integers and of narrower formats, and ties between them.
fn fractions32() -> Vec<u64> {
    let values = [
        0.5f32,
        1.5,
        2.5,
        -2.5,
        0.49999997,
        127.5,
        128.0,
        -128.5,
        255.5,
        32767.5,
        -32768.5,
        65504.0,
        65519.996,
        65520.0,
        2147483500.0,
        2147483648.0,
        -2147483648.0,
        4294967300.0,
        9.223372e18,
        1.8446744e19,
        448.0,
        464.0,
        480.0,
        57344.0,
        61440.0,
        2.9802322e-8,
        2.9802326e-8,
        5.9604645e-8,
        8.940697e-8,
    ];
    let ties = [
        0x3F80_1000u32,
        0x3F80_3000,
        0x3F80_8000,
        0x3F81_8000,
        0x3F80_1001,
        0x3F80_0FFF,
        0x3F88_0000,
        0x3F98_0000,
    ];
    values
        .iter()
        .map(|value| value.to_bits())
        .chain(ties)
        .map(u64::from)
        .collect()
}

fn fractions64() -> Vec<u64> {
    [
        0.5f64,
        -1.5,
        2.5,
        2147483647.5,
        -2147483648.5,
        4294967295.5,
        9.223372036854775e18,
        9.223372036854776e18,
        1.8446744073709552e19,
        3.4028235677973366e38,
        1.1754943e-38,
        7.006492321624085e-46,
        1e-50,
        65519.99999999,
    ]
    .iter()
    .map(|value| value.to_bits())
    .collect()
}

/// Each value in the low half with another in the high half.
fn pairs(values: &[u64]) -> Vec<u64> {
    let shifted = values.iter().cycle().skip(5);
    values
        .iter()
        .zip(shifted)
        .map(|(low, high)| low | high << 16)
        .collect()
}

/// splitmix64: fixed, so that failures repeat.
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}

/// Rows of operands: the product of all edges, or as many of its rows as fit, then random ones.
pub fn operands(kinds: &[Kind]) -> Vec<Vec<u64>> {
    let edges: Vec<Vec<u64>> = kinds.iter().map(|kind| kind.edges()).collect();
    let product: usize = edges.iter().map(Vec::len).product();
    // A step without a factor in common with the lengths visits the product evenly.
    let step = (product / MAX_ROWS).max(1) | 1;
    let mut rows: Vec<Vec<u64>> = (0..product.min(MAX_ROWS))
        .map(|index| {
            let mut rest = index * step % product;
            let pick = |values: &Vec<u64>| {
                let value = values[rest % values.len()];
                rest /= values.len();
                value
            };
            let row: Vec<u64> = edges.iter().map(pick).collect();
            row.iter()
                .zip(kinds)
                .map(|(value, kind)| value & kind.mask())
                .collect()
        })
        .collect();
    let mut generator = Generator(1);
    rows.extend((0..RANDOM_ROWS).map(|_| {
        kinds
            .iter()
            .map(|kind| kind.random(&mut generator))
            .collect()
    }));
    rows
}
