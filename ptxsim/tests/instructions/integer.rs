//! Integer arithmetic: PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer
//! Arithmetic Instructions".

use crate::harness::{Compare, Definition, Row, Setting, check, partial, row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// An integer type: its name, register kind, bits and sign.
#[derive(Debug, Clone, Copy)]
pub struct Int {
    pub name: &'static str,
    pub kind: Kind,
    pub bits: u32,
    pub signed: bool,
}

pub const INTEGERS: [Int; 6] = [
    Int {
        name: "u16",
        kind: Kind::I16,
        bits: 16,
        signed: false,
    },
    Int {
        name: "s16",
        kind: Kind::I16,
        bits: 16,
        signed: true,
    },
    Int {
        name: "u32",
        kind: Kind::I32,
        bits: 32,
        signed: false,
    },
    Int {
        name: "s32",
        kind: Kind::I32,
        bits: 32,
        signed: true,
    },
    Int {
        name: "u64",
        kind: Kind::I64,
        bits: 64,
        signed: false,
    },
    Int {
        name: "s64",
        kind: Kind::I64,
        bits: 64,
        signed: true,
    },
];

impl Int {
    /// The number that bits stand for.
    pub fn value(self, bits: u64) -> i128 {
        let unused = 128 - self.bits;
        let shifted = i128::from(bits) << unused;
        if self.signed {
            shifted >> unused
        } else {
            (shifted as u128 >> unused) as i128
        }
    }

    fn low(self) -> i128 {
        if self.signed {
            -(1 << (self.bits - 1))
        } else {
            0
        }
    }

    fn high(self) -> i128 {
        if self.signed {
            (1 << (self.bits - 1)) - 1
        } else {
            (1 << self.bits) - 1
        }
    }
}

/// `op.type d, a, b` for all integer types.
fn binary(op: &'static str, f: fn(Int, i128, i128) -> Option<i128>) -> Vec<Row> {
    let make = |int: Int| {
        partial(
            format!("{op}.{} $d0, $0, $1;", int.name),
            int.kind,
            &[int.kind; 2],
            Compare::Bits,
            move |v| f(int, int.value(v[0]), int.value(v[1])).map(|result| result as u64),
        )
    };
    INTEGERS.map(make).into()
}

#[test]
pub fn two_operands() {
    let rows = [
        binary("add", |_, a, b| Some(a + b)),
        binary("sub", |_, a, b| Some(a - b)),
        binary("mul.lo", |_, a, b| Some(a.wrapping_mul(b))),
        binary("mul.hi", |int, a, b| Some(high_product(int, a, b))),
        // A division by zero is left open.
        binary("div", |_, a, b| (b != 0).then(|| a / b)),
        binary("rem", |_, a, b| (b != 0).then(|| a % b)),
        binary("min", |_, a, b| Some(a.min(b))),
        binary("max", |_, a, b| Some(a.max(b))),
    ];
    check(Arch::Sm80, rows.into_iter().flatten().collect());
}

/// The upper half of the product in twice the width.
fn high_product(int: Int, a: i128, b: i128) -> i128 {
    if int.signed || int.bits < 64 {
        (a * b) >> int.bits
    } else {
        ((a as u128 * b as u128) >> 64) as i128
    }
}

#[test]
pub fn one_operand_and_saturation() {
    let mut rows = Vec::new();
    for int in INTEGERS.into_iter().filter(|int| int.signed) {
        let unary = |op: &str, f: fn(i128) -> i128| {
            let text = format!("{op}.{} $d0, $0;", int.name);
            row(text, int.kind, &[int.kind], Compare::Bits, move |v| {
                f(int.value(v[0])) as u64
            })
        };
        rows.push(unary("abs", i128::abs));
        rows.push(unary("neg", |a| -a));
    }
    let int = INTEGERS[3];
    let saturated = |op: &str, f: fn(i128, i128) -> i128| {
        row(
            format!("{op}.sat.s32 $d0, $0, $1;"),
            int.kind,
            &[int.kind; 2],
            Compare::Bits,
            move |v| f(int.value(v[0]), int.value(v[1])).clamp(int.low(), int.high()) as u64,
        )
    };
    rows.push(saturated("add", |a, b| a + b));
    rows.push(saturated("sub", |a, b| a - b));
    rows.push(row(
        "mad.hi.sat.s32 $d0, $0, $1, $2;",
        int.kind,
        &[int.kind; 3],
        Compare::Bits,
        move |v| {
            let product = (int.value(v[0]) * int.value(v[1])) >> 32;
            (product + int.value(v[2])).clamp(int.low(), int.high()) as u64
        },
    ));
    check(Arch::Sm80, rows);
}

#[test]
pub fn multiply_add() {
    let mut rows = Vec::new();
    for int in INTEGERS {
        let three = [int.kind; 3];
        let name = int.name;
        rows.push(row(
            format!("mad.lo.{name} $d0, $0, $1, $2;"),
            int.kind,
            &three,
            Compare::Bits,
            move |v| {
                int.value(v[0])
                    .wrapping_mul(int.value(v[1]))
                    .wrapping_add(int.value(v[2])) as u64
            },
        ));
        rows.push(row(
            format!("mad.hi.{name} $d0, $0, $1, $2;"),
            int.kind,
            &three,
            Compare::Bits,
            move |v| (high_product(int, int.value(v[0]), int.value(v[1])) + int.value(v[2])) as u64,
        ));
        rows.push(row(
            format!("sad.{name} $d0, $0, $1, $2;"),
            int.kind,
            &three,
            Compare::Bits,
            move |v| (int.value(v[2]) + (int.value(v[0]) - int.value(v[1])).abs()) as u64,
        ));
        if int.bits == 64 {
            continue;
        }
        let wide = if int.bits == 16 { Kind::I32 } else { Kind::I64 };
        rows.push(row(
            format!("mul.wide.{name} $d0, $0, $1;"),
            wide,
            &three[..2],
            Compare::Bits,
            move |v| (int.value(v[0]) * int.value(v[1])) as u64,
        ));
        let operands = [int.kind, int.kind, wide];
        rows.push(row(
            format!("mad.wide.{name} $d0, $0, $1, $2;"),
            wide,
            &operands,
            Compare::Bits,
            move |v| (int.value(v[0]) * int.value(v[1]) + i128::from(v[2])) as u64,
        ));
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn products_of_24_bits() {
    let mut rows = Vec::new();
    for (name, signed) in [("u32", false), ("s32", true)] {
        let int = Int {
            name,
            kind: Kind::I32,
            bits: 24,
            signed,
        };
        for (half, shift) in [("lo", 0), ("hi", 16)] {
            let product = move |v: &[u64]| (int.value(v[0]) * int.value(v[1])) >> shift;
            rows.push(row(
                format!("mul24.{half}.{name} $d0, $0, $1;"),
                Kind::I32,
                &[Kind::I32; 2],
                Compare::Bits,
                move |v| product(v) as u64,
            ));
            rows.push(row(
                format!("mad24.{half}.{name} $d0, $0, $1, $2;"),
                Kind::I32,
                &[Kind::I32; 3],
                Compare::Bits,
                move |v| (product(v) + i128::from(v[2])) as u64,
            ));
        }
    }
    check(Arch::Sm80, rows);
}

/// The `index`-th part of `bits` bits.
fn part(value: u64, bits: u32, index: u32, signed: bool) -> i128 {
    Int {
        name: "",
        kind: Kind::I32,
        bits,
        signed,
    }
    .value(value >> (bits * index))
}

#[test]
pub fn dot_products() {
    let mut rows = Vec::new();
    for (a_type, a_signed) in [("u32", false), ("s32", true)] {
        for (b_type, b_signed) in [("u32", false), ("s32", true)] {
            let text = format!("dp4a.{a_type}.{b_type} $d0, $0, $1, $2;");
            rows.push(row(
                text,
                Kind::I32,
                &[Kind::I32; 3],
                Compare::Bits,
                move |v| {
                    let products =
                        (0..4).map(|i| part(v[0], 8, i, a_signed) * part(v[1], 8, i, b_signed));
                    (products.sum::<i128>() + i128::from(v[2])) as u64
                },
            ));
            for (half, first) in [("lo", 0), ("hi", 2)] {
                let text = format!("dp2a.{half}.{a_type}.{b_type} $d0, $0, $1, $2;");
                rows.push(row(
                    text,
                    Kind::I32,
                    &[Kind::I32; 3],
                    Compare::Bits,
                    move |v| {
                        let products = (0..2).map(|i| {
                            part(v[0], 16, i, a_signed) * part(v[1], 8, first + i, b_signed)
                        });
                        (products.sum::<i128>() + i128::from(v[2])) as u64
                    },
                ));
            }
        }
    }
    check(Arch::Sm80, rows);
}

/// A row with a low and a high result: a number of twice the bits.
fn double(text: String, kind: Kind, operands: usize, f: impl Fn(&[u128]) -> u128 + 'static) -> Row {
    let bits = if kind == Kind::I64 { 64 } else { 32 };
    Row {
        text,
        results: vec![kind; 2],
        operands: vec![kind; operands],
        compare: Compare::Bits,
        definition: Definition::Lane(Box::new(move |lane| {
            let lane: Vec<u128> = lane.iter().map(|&value| u128::from(value)).collect();
            let result = f(&lane);
            Some(vec![result as u64, (result >> bits) as u64])
        })),
        setting: Setting::default(),
    }
}

#[test]
pub fn carries() {
    let mut rows = Vec::new();
    for (ty, kind, bits) in [
        ("u32", Kind::I32, 32),
        ("s32", Kind::I32, 32),
        ("u64", Kind::I64, 64),
        ("s64", Kind::I64, 64),
    ] {
        let pair = move |low: u128, high: u128| low | high << bits;
        rows.push(double(
            format!("add.cc.{ty} $d0, $0, $2; addc.{ty} $d1, $1, $3;"),
            kind,
            4,
            move |v| pair(v[0], v[1]).wrapping_add(pair(v[2], v[3])),
        ));
        rows.push(double(
            format!("sub.cc.{ty} $d0, $0, $2; subc.{ty} $d1, $1, $3;"),
            kind,
            4,
            move |v| pair(v[0], v[1]).wrapping_sub(pair(v[2], v[3])),
        ));
        // The carry out of the second addition, and the borrow out of the second subtraction.
        rows.push(double(
            format!("add.cc.{ty} $d0, $0, $1; addc.cc.{ty} $d0, $2, $3; addc.{ty} $d1, 0, 0;"),
            kind,
            4,
            move |v| v[2] + v[3] + ((v[0] + v[1]) >> bits),
        ));
        rows.push(double(
            format!("sub.cc.{ty} $d0, $0, $1; subc.cc.{ty} $d0, $2, $3; subc.{ty} $d1, 0, 0;"),
            kind,
            4,
            move |v| {
                let borrow = u128::from(v[0] < v[1]);
                let result = v[2].wrapping_sub(v[3]).wrapping_sub(borrow);
                let high = if v[2] < v[3] + borrow {
                    u128::MAX << bits
                } else {
                    0
                };
                result & !(u128::MAX << bits) | high
            },
        ));
    }
    for (ty, kind, bits) in [("u32", Kind::I32, 32), ("u64", Kind::I64, 64)] {
        rows.push(double(
            format!("mad.lo.cc.{ty} $d0, $0, $1, $2; madc.hi.{ty} $d1, $0, $1, $3;"),
            kind,
            4,
            move |v| (v[0] * v[1]).wrapping_add(v[2] | v[3] << bits),
        ));
        // The carry out of the upper half, and a lower half that takes a carry in.
        rows.push(double(
            format!("mad.hi.cc.{ty} $d0, $0, $1, $2; madc.lo.{ty} $d1, $0, $1, $3;"),
            kind,
            4,
            move |v| {
                let low = u128::MAX >> (128 - bits);
                let first = ((v[0] * v[1]) >> bits) + v[2];
                let second = ((v[0] * v[1]) & low) + v[3] + (first >> bits);
                first & low | (second & low) << bits
            },
        ));
    }
    check(Arch::Sm80, rows);
}
