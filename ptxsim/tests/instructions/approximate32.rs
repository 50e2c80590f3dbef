//! f32 functions that PTX bounds by an error: PTX ISA, "Floating-Point Instructions".

use crate::exact::{F32, Round};
use crate::harness::{Compare, Row, check, row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// A row for an approximate f32 function of one operand, defined by the host's f64 function.
fn approximate(
    text: &'static str,
    kind: Kind,
    compare: Compare,
    ftz: bool,
    f: fn(f64) -> f64,
) -> Row {
    row(text, Kind::F32, &[kind], compare, move |v| {
        let flush = |bits: u64| if ftz { F32.flush(bits) } else { bits };
        let result = f(f64::from(f32::from_bits(flush(v[0]) as u32)));
        flush(u64::from((result as f32).to_bits()))
    })
}

/// The errors are those that PTX states; 2^-n relative is at most 2^(24-n) units in the last place.
#[test]
pub fn approximations() {
    let ulp = Compare::Ulp;
    let rows = vec![
        approximate("rcp.approx.f32 $d0, $0;", Kind::F32, ulp(1.0), false, |a| {
            1.0 / a
        }),
        approximate(
            "rcp.approx.ftz.f32 $d0, $0;",
            Kind::F32,
            ulp(1.0),
            true,
            |a| 1.0 / a,
        ),
        approximate(
            "sqrt.approx.f32 $d0, $0;",
            Kind::F32,
            ulp(2.0),
            false,
            f64::sqrt,
        ),
        approximate(
            "sqrt.approx.ftz.f32 $d0, $0;",
            Kind::F32,
            ulp(2.0),
            true,
            f64::sqrt,
        ),
        approximate(
            "rsqrt.approx.f32 $d0, $0;",
            Kind::F32,
            ulp(2.2),
            false,
            |a| 1.0 / a.sqrt(),
        ),
        approximate(
            "rsqrt.approx.ftz.f32 $d0, $0;",
            Kind::F32,
            ulp(2.2),
            true,
            |a| 1.0 / a.sqrt(),
        ),
        approximate(
            "ex2.approx.f32 $d0, $0;",
            Kind::F32,
            ulp(2.0),
            false,
            f64::exp2,
        ),
        approximate(
            "ex2.approx.ftz.f32 $d0, $0;",
            Kind::F32,
            ulp(2.0),
            true,
            f64::exp2,
        ),
        approximate(
            "ex2.approx.ftz.f32 $d0, $0;",
            Kind::Moderate,
            ulp(2.0),
            true,
            f64::exp2,
        ),
        approximate(
            "tanh.approx.f32 $d0, $0;",
            Kind::Moderate,
            ulp(8192.0),
            false,
            f64::tanh,
        ),
        approximate(
            "sin.approx.f32 $d0, $0;",
            Kind::Moderate,
            Compare::Absolute(1e-4),
            false,
            f64::sin,
        ),
        approximate(
            "cos.approx.f32 $d0, $0;",
            Kind::Moderate,
            Compare::Absolute(1e-4),
            false,
            f64::cos,
        ),
        approximate(
            "cos.approx.ftz.f32 $d0, $0;",
            Kind::Moderate,
            Compare::Absolute(1e-4),
            true,
            f64::cos,
        ),
        row(
            "lg2.approx.f32 $d0, $0;",
            Kind::F32,
            &[Kind::F32],
            Compare::Absolute(2.5e-5),
            |v| u64::from((f64::from(f32::from_bits(v[0] as u32)).log2() as f32).to_bits()),
        ),
    ];
    check(Arch::Sm80, rows);
}

#[test]
pub fn approximate_quotients() {
    let mut rows = Vec::new();
    for (mode, ftz) in [
        ("approx", false),
        ("approx.ftz", true),
        ("full", false),
        ("full.ftz", true),
    ] {
        let text = format!("div.{mode}.f32 $d0, $0, $1;");
        // Two units; where |b| is above 2^126, div.approx gives 0, which no ordinary operand reaches.
        rows.push(row(
            text,
            Kind::F32,
            &[Kind::Moderate; 2],
            Compare::Ulp(2.0),
            move |v| {
                let flush = |bits: u64| if ftz { F32.flush(bits) } else { bits };
                let quotient = F32.decode(flush(v[0])).div(&F32.decode(flush(v[1])));
                flush(F32.encode(&quotient, Round::Nearest))
            },
        ));
    }
    check(Arch::Sm80, rows);
}
