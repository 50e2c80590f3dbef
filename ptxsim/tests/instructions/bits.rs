//! Logic, shifts and bit fields: PTX ISA, "Logic and Shift Instructions" and the bit-field part of
//! "Integer Arithmetic Instructions".

use crate::harness::{Compare, Row, check, row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Untyped registers that logic works on.
const SIZES: [(&str, Kind, u32); 3] = [
    ("b16", Kind::I16, 16),
    ("b32", Kind::I32, 32),
    ("b64", Kind::I64, 64),
];

#[test]
pub fn logic() {
    let mut rows = Vec::new();
    for (ty, kind, _) in [("pred", Kind::Pred, 1)].into_iter().chain(SIZES) {
        let two = [kind; 2];
        rows.push(row(
            format!("and.{ty} $d0, $0, $1;"),
            kind,
            &two,
            Compare::Bits,
            |v| v[0] & v[1],
        ));
        rows.push(row(
            format!("or.{ty} $d0, $0, $1;"),
            kind,
            &two,
            Compare::Bits,
            |v| v[0] | v[1],
        ));
        rows.push(row(
            format!("xor.{ty} $d0, $0, $1;"),
            kind,
            &two,
            Compare::Bits,
            |v| v[0] ^ v[1],
        ));
        rows.push(row(
            format!("not.{ty} $d0, $0;"),
            kind,
            &[kind],
            Compare::Bits,
            |v| !v[0],
        ));
    }
    for (ty, kind, _) in SIZES {
        rows.push(row(
            format!("cnot.{ty} $d0, $0;"),
            kind,
            &[kind],
            Compare::Bits,
            |v| u64::from(v[0] == 0),
        ));
    }
    for table in [
        0x00u32, 0x01, 0x1B, 0x80, 0x96, 0xE2, 0xE8, 0xF8, 0xFE, 0xFF,
    ] {
        let text = format!("lop3.b32 $d0, $0, $1, $2, {table};");
        rows.push(row(
            text,
            Kind::I32,
            &[Kind::I32; 3],
            Compare::Bits,
            move |v| {
                (0..32).fold(0, |result, bit| {
                    let at = |value: u64| (value >> bit & 1) as u32;
                    let index = at(v[0]) << 2 | at(v[1]) << 1 | at(v[2]);
                    result | u64::from(table >> index & 1) << bit
                })
            },
        ));
    }
    check(Arch::Sm80, rows);
}

/// Bits `0..bits` from a function of the position.
fn assemble(bits: u32, bit: impl Fn(u32) -> bool) -> u64 {
    (0..bits).fold(0, |result, position| {
        result | u64::from(bit(position)) << position
    })
}

fn bit(value: u64, position: u32) -> bool {
    value >> position & 1 != 0
}

#[test]
pub fn shifts() {
    let mut rows = Vec::new();
    for (ty, kind, bits) in SIZES {
        let operands = [kind, Kind::Count];
        rows.push(row(
            format!("shl.{ty} $d0, $0, $1;"),
            kind,
            &operands,
            Compare::Bits,
            move |v| assemble(bits, |i| u64::from(i) >= v[1] && bit(v[0], i - v[1] as u32)),
        ));
        for (name, signed) in [
            (ty.to_owned(), false),
            (ty.replace('b', "u"), false),
            (ty.replace('b', "s"), true),
        ] {
            rows.push(row(
                format!("shr.{name} $d0, $0, $1;"),
                kind,
                &operands,
                Compare::Bits,
                move |v| {
                    assemble(bits, |i| match u64::from(i) + v[1] {
                        from if from < u64::from(bits) => bit(v[0], from as u32),
                        _ => signed && bit(v[0], bits - 1),
                    })
                },
            ));
        }
    }
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        let amount = move |count: u64| if clamp { count.min(32) } else { count & 31 } as u32;
        let operands = [Kind::I32, Kind::I32, Kind::Count];
        // The 64-bit number b:a, shifted.
        rows.push(row(
            format!("shf.l.{mode}.b32 $d0, $0, $1, $2;"),
            Kind::I32,
            &operands,
            Compare::Bits,
            move |v| (v[1] << 32 | v[0]) << amount(v[2]) >> 32,
        ));
        rows.push(row(
            format!("shf.r.{mode}.b32 $d0, $0, $1, $2;"),
            Kind::I32,
            &operands,
            Compare::Bits,
            move |v| (v[1] << 32 | v[0]) >> amount(v[2]),
        ));
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn fields() {
    let mut rows = Vec::new();
    for (size, kind, bits) in [("32", Kind::I32, 32u32), ("64", Kind::I64, 64)] {
        for (sign, signed) in [("u", false), ("s", true)] {
            let text = format!("bfe.{sign}{size} $d0, $0, $1, $2;");
            rows.push(row(
                text,
                kind,
                &[kind, Kind::Count, Kind::Count],
                Compare::Bits,
                move |v| {
                    let (start, length) = (v[1] as u32 & 0xFF, v[2] as u32 & 0xFF);
                    let fill =
                        signed && length > 0 && bit(v[0], (start + length - 1).min(bits - 1));
                    assemble(bits, |i| {
                        if i < length && start + i < bits {
                            bit(v[0], start + i)
                        } else {
                            fill
                        }
                    })
                },
            ));
        }
        let operands = [kind, kind, Kind::Count, Kind::Count];
        rows.push(row(
            format!("bfi.b{size} $d0, $0, $1, $2, $3;"),
            kind,
            &operands,
            Compare::Bits,
            move |v| {
                let (start, length) = (v[2] as u32 & 0xFF, v[3] as u32 & 0xFF);
                assemble(bits, |i| {
                    let inside = i >= start && i - start < length;
                    if inside {
                        bit(v[0], i - start)
                    } else {
                        bit(v[1], i)
                    }
                })
            },
        ));
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn counts_and_searches() {
    let mut rows = Vec::new();
    for (size, kind, bits) in [("32", Kind::I32, 32u32), ("64", Kind::I64, 64)] {
        let unary = |text: String, result: Kind, f: Box<dyn Fn(u64) -> u64>| -> Row {
            row(text, result, &[kind], Compare::Bits, move |v| f(v[0]))
        };
        rows.push(unary(
            format!("popc.b{size} $d0, $0;"),
            Kind::I32,
            Box::new(move |a| (0..bits).filter(|&i| bit(a, i)).count() as u64),
        ));
        rows.push(unary(
            format!("clz.b{size} $d0, $0;"),
            Kind::I32,
            Box::new(move |a| (0..bits).rev().take_while(|&i| !bit(a, i)).count() as u64),
        ));
        rows.push(unary(
            format!("brev.b{size} $d0, $0;"),
            kind,
            Box::new(move |a| assemble(bits, |i| bit(a, bits - 1 - i))),
        ));
        for (sign, signed) in [("u", false), ("s", true)] {
            let highest = move |a: u64| {
                let negative = signed && bit(a, bits - 1);
                (0..bits).rev().find(|&i| bit(a, i) != negative)
            };
            rows.push(unary(
                format!("bfind.{sign}{size} $d0, $0;"),
                Kind::I32,
                Box::new(move |a| highest(a).map_or(u64::MAX, u64::from)),
            ));
            rows.push(unary(
                format!("bfind.shiftamt.{sign}{size} $d0, $0;"),
                Kind::I32,
                Box::new(move |a| highest(a).map_or(u64::MAX, |i| u64::from(bits - 1 - i))),
            ));
        }
    }
    check(Arch::Sm80, rows);
}

/// Bytes that `prmt` selects in a mode, most significant first, by the low bits of the selector.
const MODES: [(&str, [[u32; 4]; 4]); 6] = [
    (
        "f4e",
        [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
    ),
    (
        "b4e",
        [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
    ),
    ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
    (
        "ecl",
        [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]],
    ),
    (
        "ecr",
        [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]],
    ),
    (
        "rc16",
        [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
    ),
];

#[test]
pub fn byte_permutation() {
    let byte = |v: &[u64], index: u32| (v[1] << 32 | v[0]) >> (8 * index) & 0xFF;
    let mut rows = vec![row(
        "prmt.b32 $d0, $0, $1, $2;",
        Kind::I32,
        &[Kind::I32; 3],
        Compare::Bits,
        move |v| {
            (0..4).fold(0, |result, position| {
                let selector = (v[2] >> (4 * position)) as u32;
                let byte = byte(v, selector & 7);
                let sign = if byte & 0x80 != 0 { 0xFF } else { 0 };
                result | (if selector & 8 != 0 { sign } else { byte }) << (8 * position)
            })
        },
    )];
    for (mode, table) in MODES {
        let text = format!("prmt.b32.{mode} $d0, $0, $1, $2;");
        rows.push(row(
            text,
            Kind::I32,
            &[Kind::I32, Kind::I32, Kind::Count],
            Compare::Bits,
            move |v| {
                table[v[2] as usize & 3]
                    .iter()
                    .fold(0, |result, &index| result << 8 | byte(v, index))
            },
        ));
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn masks_and_extensions_of_a_width() {
    let mut rows = Vec::new();
    for (mode, wrap) in [("clamp", false), ("wrap", true)] {
        let count = move |v: u64| if wrap { v & 31 } else { v };
        rows.push(row(
            format!("bmsk.{mode}.b32 $d0, $0, $1;"),
            Kind::I32,
            &[Kind::Count; 2],
            Compare::Bits,
            move |v| {
                let (first, width) = (count(v[0]), count(v[1]));
                assemble(32, |i| (first..first + width).contains(&u64::from(i)))
            },
        ));
        for (ty, signed) in [("u32", false), ("s32", true)] {
            rows.push(row(
                format!("szext.{mode}.{ty} $d0, $0, $1;"),
                Kind::I32,
                &[Kind::I32, Kind::Count],
                Compare::Bits,
                move |v| {
                    let width = count(v[1]).min(32) as u32;
                    let sign = signed && width > 0 && bit(v[0], width - 1);
                    assemble(32, |i| if i < width { bit(v[0], i) } else { sign })
                },
            ));
        }
    }
    check(Arch::Sm80, rows);
}

/// From -16 to 54, and a few wild ones, so that both directions and 0 come up.
#[test]
pub fn nth_set_bit() {
    let text = "{ .reg .b32 n; sub.s32 n, $2, 16; fns.b32 $d0, $0, $1, n; }";
    let operands = [Kind::I32, Kind::Lane, Kind::Count];
    let rows = vec![row(text, Kind::I32, &operands, Compare::Bits, |v| {
        let n = i64::from((v[2] as u32).wrapping_sub(16) as i32);
        let step = if n < 0 { -1 } else { 1 };
        // The bit at the base is the first; 0 asks for it alone.
        let mut left = n.abs().max(1);
        let mut place = v[1] as i64;
        while (0..32).contains(&place) {
            left -= i64::from(bit(v[0], place as u32));
            if left == 0 {
                return place as u64;
            }
            if n == 0 {
                break;
            }
            place += step;
        }
        u64::MAX
    })];
    check(Arch::Sm80, rows);
}
