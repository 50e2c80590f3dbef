//! Two 16-bit integers in a register, and integer results that are clipped at 0: PTX ISA, "Integer
//! Arithmetic Instructions", the forms of sm_90.

use crate::harness::{Compare, check, row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Both halves of a word from `f` of the halves of two words.
fn halves(v: &[u64], signed: bool, f: impl Fn(i64, i64) -> i64) -> u64 {
    let half = |word: u64, shift: u32| {
        let bits = (word >> shift) as u16;
        if signed {
            i64::from(bits as i16)
        } else {
            i64::from(bits)
        }
    };
    let result = |shift: u32| f(half(v[0], shift), half(v[1], shift)) as u64 & 0xFFFF;
    result(0) | result(16) << 16
}

#[test]
pub fn sums_and_extrema_of_halves() {
    type Binary = fn(i64, i64) -> i64;
    let rows: [(&str, bool, Binary); 8] = [
        ("add.u16x2", false, |a, b| a + b),
        ("add.s16x2", true, |a, b| a + b),
        ("min.u16x2", false, |a, b| a.min(b)),
        ("max.u16x2", false, |a, b| a.max(b)),
        ("min.s16x2", true, |a, b| a.min(b)),
        ("max.s16x2", true, |a, b| a.max(b)),
        ("min.s16x2.relu", true, |a, b| a.min(b).max(0)),
        ("max.s16x2.relu", true, |a, b| a.max(b).max(0)),
    ];
    let rows = rows.map(|(op, signed, f)| {
        let text = format!("{op} $d0, $0, $1;");
        row(text, Kind::I32, &[Kind::I32; 2], Compare::Bits, move |v| {
            halves(v, signed, f)
        })
    });
    check(Arch::Sm90a, rows.into());
}

#[test]
pub fn extrema_clipped_at_zero() {
    let rows = [("min", i32::min as fn(i32, i32) -> i32), ("max", i32::max)].map(|(op, f)| {
        let text = format!("{op}.relu.s32 $d0, $0, $1;");
        row(text, Kind::I32, &[Kind::I32; 2], Compare::Bits, move |v| {
            f(v[0] as i32, v[1] as i32).max(0) as u64
        })
    });
    check(Arch::Sm90a, rows.into());
}
