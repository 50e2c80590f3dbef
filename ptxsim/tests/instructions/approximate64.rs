//! Approximate f64 functions: PTX ISA, "rcp.approx.ftz.f64", "rsqrt.approx.ftz.f64" and
//! "rsqrt.approx.f64".

use crate::exact::F64;
use crate::harness::{Compare, Row, check, row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// PTX states no error for the forms with `.ftz`, but that operand and result keep 20 bits of the
/// mantissa: a unit in the last of them for the result, and another for what computes it.
const GROSS: Compare = Compare::Relative64(1.0 / (1 << 19) as f64);
/// PTX states no error for `rsqrt.approx.f64`. `ptxas` 13 makes of it the approximation above, scaled
/// where the operand is subnormal, and a step of third order: a few units in the last place.
const REFINED: Compare = Compare::Relative64(1.0 / (1u64 << 50) as f64);

/// The function of the upper word of the operand; subnormal operands and results are zeros.
fn gross(op: &str, f: fn(f64) -> f64) -> [Row; 2] {
    let operands = [Kind::F64];
    let value = row(
        format!("{op}.approx.ftz.f64 $d0, $0;"),
        Kind::F64,
        &operands,
        GROSS,
        move |v| {
            let upper = F64.flush(v[0]) & !0xFFFF_FFFF;
            F64.flush(f(f64::from_bits(upper)).to_bits())
        },
    );
    let lower_word = row(
        format!(
            "{{ .reg .b64 t; .reg .b32 u; {op}.approx.ftz.f64 t, $0; mov.b64 {{$d0, u}}, t; }}"
        ),
        Kind::I32,
        &operands,
        Compare::Bits,
        |_| 0,
    );
    [value, lower_word]
}

#[test]
pub fn gross_approximations() {
    let rows = [
        gross("rcp", |a| 1.0 / a),
        gross("rsqrt", |a| 1.0 / a.sqrt()),
    ];
    check(Arch::Sm80, rows.into_iter().flatten().collect());
}

#[test]
pub fn root_with_subnormal_operands() {
    let text = "rsqrt.approx.f64 $d0, $0;";
    let rows = vec![row(text, Kind::F64, &[Kind::F64], REFINED, |v| {
        (1.0 / f64::from_bits(v[0]).sqrt()).to_bits()
    })];
    check(Arch::Sm80, rows);
}
