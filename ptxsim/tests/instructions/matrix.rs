//! Matrix products of a warp: PTX ISA, "mma.sync".
//!
//! These tables hold the layouts: operands are small integers, whose products and sums every
//! arithmetic gets exactly. The rounding of larger ones is held by recorded results of GPUs.

use crate::exact::{BF16, F16, F32, Format, Round, Value};
use crate::harness::{Row, check, warp_row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Elements of a matrix: how they lie in registers and what they are.
#[derive(Clone, Copy)]
enum Element {
    Float(Format, u32),
    Integer(u32, bool),
}

impl Element {
    fn bits(self) -> u32 {
        match self {
            Element::Float(_, bits) | Element::Integer(bits, _) => bits,
        }
    }

    fn value(self, bits: u64) -> i64 {
        match self {
            Element::Float(format, _) => {
                let host =
                    f64::from_bits(crate::exact::F64.encode(&format.decode(bits), Round::Zero));
                host as i64
            }
            Element::Integer(width, signed) => {
                let unused = 64 - width;
                if signed {
                    (bits << unused) as i64 >> unused
                } else {
                    (bits << unused >> unused) as i64
                }
            }
        }
    }

    fn encode(self, value: i64) -> u64 {
        match self {
            Element::Float(format, _) => format.encode(
                &Value::finite(value < 0, value.unsigned_abs()),
                Round::Nearest,
            ),
            Element::Integer(..) => value as u64,
        }
    }
}

/// Row and column of element `i` of a lane.
type Position = fn(group: usize, thread: usize, i: usize) -> (usize, usize);

/// One matrix operand: registers, elements, positions.
#[derive(Clone, Copy)]
struct Operand {
    registers: usize,
    element: Element,
    position: Position,
}

impl Operand {
    fn per_register(self, register_bits: u32) -> usize {
        (register_bits / self.element.bits()) as usize
    }

    /// Calls `f` with lane, register, bit offset, row and column of every element.
    fn each(self, mut f: impl FnMut(usize, usize, u32, usize, usize)) {
        let register_bits = self.element.bits().max(32);
        let each = self.per_register(register_bits);
        for lane in 0..32 {
            for i in 0..self.registers * each {
                let (row, column) = (self.position)(lane / 4, lane % 4, i);
                f(
                    lane,
                    i / each,
                    (i % each) as u32 * self.element.bits(),
                    row,
                    column,
                );
            }
        }
    }

    fn kind(self) -> Kind {
        match self.element {
            Element::Float(F16, 16) => Kind::SmallF16x2,
            Element::Float(BF16, 16) => Kind::SmallBf16x2,
            Element::Float(F32, _) => Kind::SmallF32,
            Element::Float(..) => Kind::SmallF64,
            Element::Integer(..) => Kind::I32,
        }
    }
}

const HALF: Element = Element::Float(F16, 16);
const BHALF: Element = Element::Float(BF16, 16);
const SINGLE: Element = Element::Float(F32, 32);
const DOUBLE: Element = Element::Float(crate::exact::F64, 64);
const S8: Element = Element::Integer(8, true);
const U8: Element = Element::Integer(8, false);
const S32: Element = Element::Integer(32, true);

/// Accumulators of 16 rows: two elements in a row, the next two eight rows below.
const SUM16: Position = |g, t, i| (g + 8 * (i / 2), 2 * t + i % 2);
const SUM8: Position = |g, t, i| (g, 2 * t + i);

fn mma(types: &str, shape: &str, a: Operand, b: Operand, c: Operand) -> Row {
    let names = |prefix: &str, from: usize, count: usize| {
        let list: Vec<String> = (from..from + count)
            .map(|index| format!("{prefix}{index}"))
            .collect();
        format!("{{{}}}", list.join(", "))
    };
    let text = format!(
        "mma.sync.aligned.{shape}.row.col.{types} {}, {}, {}, {};",
        names("$d", 0, c.registers),
        names("$", 0, a.registers),
        names("$", a.registers, b.registers),
        names("$", a.registers + b.registers, c.registers),
    );
    let kinds = [
        vec![a.kind(); a.registers],
        vec![b.kind(); b.registers],
        vec![c.kind(); c.registers],
    ]
    .concat();
    let results = vec![c.kind(); c.registers];
    let saturate = types.starts_with("satfinite");
    warp_row(text, &results, &kinds, move |warp| {
        let mut left = [[0i64; 64]; 16];
        let mut right = [[0i64; 8]; 64];
        let read = |lane: usize, register: usize, shift: u32, element: Element| {
            let bits = warp[lane][register] >> shift;
            element.value(if element.bits() == 64 {
                bits
            } else {
                bits & ((1 << element.bits()) - 1)
            })
        };
        a.each(|lane, register, shift, row, column| {
            left[row][column] = read(lane, register, shift, a.element)
        });
        b.each(|lane, register, shift, row, column| {
            right[row][column] = read(lane, a.registers + register, shift, b.element);
        });
        let mut results = vec![vec![0u64; c.registers]; 32];
        c.each(|lane, register, shift, row, column| {
            let addend = read(lane, a.registers + b.registers + register, shift, c.element);
            let mut sum = addend
                + (0..64)
                    .map(|k| left[row][k] * right[k][column])
                    .sum::<i64>();
            if saturate {
                sum = sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            }
            let encoded = c.element.encode(sum);
            let width = c.element.bits();
            let mask = if width == 64 {
                u64::MAX
            } else {
                (1 << width) - 1
            };
            results[lane][register] |= (encoded & mask) << shift;
        });
        results.into_iter().map(Some).collect()
    })
}

#[test]
pub fn products_of_halves() {
    let mut rows = Vec::new();
    for (name, element) in [("f16", HALF), ("bf16", BHALF)] {
        let a16 = Operand {
            registers: 4,
            element,
            position: |g, t, i| (g + 8 * (i / 2 % 2), 2 * t + i % 2 + 8 * (i / 4)),
        };
        let b16 = Operand {
            registers: 2,
            element,
            position: |g, t, i| (2 * t + i % 2 + 8 * (i / 2), g),
        };
        let a8 = Operand {
            registers: 2,
            element,
            position: |g, t, i| (g + 8 * (i / 2), 2 * t + i % 2),
        };
        let b8 = Operand {
            registers: 1,
            element,
            position: |g, t, i| (2 * t + i, g),
        };
        let sum = Operand {
            registers: 4,
            element: SINGLE,
            position: SUM16,
        };
        rows.push(mma(
            &format!("f32.{name}.{name}.f32"),
            "m16n8k16",
            a16,
            b16,
            sum,
        ));
        rows.push(mma(
            &format!("f32.{name}.{name}.f32"),
            "m16n8k8",
            a8,
            b8,
            sum,
        ));
        if name == "f16" {
            let sum = Operand {
                registers: 2,
                element: HALF,
                position: SUM16,
            };
            rows.push(mma("f16.f16.f16.f16", "m16n8k16", a16, b16, sum));
            rows.push(mma("f16.f16.f16.f16", "m16n8k8", a8, b8, sum));
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn products_of_tf32_and_f64() {
    let sum = Operand {
        registers: 4,
        element: SINGLE,
        position: SUM16,
    };
    let a8 = Operand {
        registers: 4,
        element: SINGLE,
        position: |g, t, i| (g + 8 * (i % 2), t + 4 * (i / 2)),
    };
    let b8 = Operand {
        registers: 2,
        element: SINGLE,
        position: |g, t, i| (t + 4 * i, g),
    };
    let a4 = Operand {
        registers: 2,
        element: SINGLE,
        position: |g, t, i| (g + 8 * i, t),
    };
    let b4 = Operand {
        registers: 1,
        element: SINGLE,
        position: |g, t, _| (t, g),
    };
    let a = Operand {
        registers: 1,
        element: DOUBLE,
        position: |g, t, _| (g, t),
    };
    let b = Operand {
        registers: 1,
        element: DOUBLE,
        position: |g, t, _| (t, g),
    };
    let c = Operand {
        registers: 2,
        element: DOUBLE,
        position: SUM8,
    };
    check(
        Arch::Sm80,
        vec![
            mma("f32.tf32.tf32.f32", "m16n8k8", a8, b8, sum),
            mma("f32.tf32.tf32.f32", "m16n8k4", a4, b4, sum),
            mma("f64.f64.f64.f64", "m8n8k4", a, b, c),
        ],
    );
}

#[test]
pub fn products_of_integers() {
    let mut rows = Vec::new();
    for (a_name, a_element) in [("s8", S8), ("u8", U8)] {
        for (b_name, b_element) in [("s8", S8), ("u8", U8)] {
            let sum = Operand {
                registers: 4,
                element: S32,
                position: SUM16,
            };
            let a32 = Operand {
                registers: 4,
                element: a_element,
                position: |g, t, i| (g + 8 * (i / 4 % 2), 4 * t + i % 4 + 16 * (i / 8)),
            };
            let b32 = Operand {
                registers: 2,
                element: b_element,
                position: |g, t, i| (4 * t + i % 4 + 16 * (i / 4), g),
            };
            let a16 = Operand {
                registers: 2,
                element: a_element,
                position: |g, t, i| (g + 8 * (i / 4), 4 * t + i % 4),
            };
            let b16 = Operand {
                registers: 1,
                element: b_element,
                position: |g, t, i| (4 * t + i, g),
            };
            let a8 = Operand {
                registers: 1,
                element: a_element,
                position: |g, t, i| (g, 4 * t + i),
            };
            let sum8 = Operand {
                registers: 2,
                element: S32,
                position: SUM8,
            };
            for prefix in ["", "satfinite."] {
                let types = format!("{prefix}s32.{a_name}.{b_name}.s32");
                rows.push(mma(&types, "m16n8k32", a32, b32, sum));
                rows.push(mma(&types, "m16n8k16", a16, b16, sum));
                rows.push(mma(&types, "m8n8k16", a8, b16, sum8));
            }
        }
    }
    check(Arch::Sm80, rows);
}
