//! Loads, stores, moves and copies: PTX ISA, "Data Movement and Conversion Instructions".

use crate::harness::{Compare, check, row, several, warp_row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// A cell of 16 bytes for each thread and its address in `p`, in each state space. `generic` has
/// the address in the generic space, too.
pub fn cell(space: &str) -> String {
    match space {
        "global" => "{ .reg .b64 p, generic; mov.b64 p, %out; mov.b64 generic, p;".into(),
        "shared" => "{ .shared .align 16 .b8 cells[2048]; .reg .b32 p; .reg .b64 generic;\n\
                     mov.u32 p, cells; mad.lo.u32 p, %thread, 16, p;\n\
                     cvt.u64.u32 generic, p; cvta.shared.u64 generic, generic;"
            .into(),
        _ => "{ .local .align 16 .b8 cells[16]; .reg .b64 p, generic;\n\
              mov.u64 p, cells; cvta.local.u64 generic, p;"
            .into(),
    }
}

const SPACES: [&str; 3] = ["global", "shared", "local"];

#[test]
pub fn narrow_loads_extend_and_narrow_stores_cut() {
    let mut rows = Vec::new();
    for space in SPACES {
        let cell = cell(space);
        for (ty, bits, signed) in [
            ("u8", 8, false),
            ("s8", 8, true),
            ("b8", 8, false),
            ("u16", 16, false),
            ("s16", 16, true),
            ("b16", 16, false),
            ("u32", 32, false),
            ("s32", 32, true),
        ] {
            let extend = move |value: u64| {
                let unused = 64 - bits;
                if signed {
                    ((value << unused) as i64 >> unused) as u64
                } else {
                    value << unused >> unused
                }
            };
            let text = format!(
                "{cell} st.{space}.b64 [p], $0; ld.{space}.{ty} $d0, [p]; ld.{ty} $d1, [generic]; }}"
            );
            rows.push(several(
                text,
                &[Kind::I64, Kind::I64],
                &[Kind::I64],
                move |v| vec![extend(v[0]); 2],
            ));
            let text = format!(
                "{cell} st.{space}.b64 [p], $1; st.{space}.{ty} [p+1], $0; ld.{space}.b64 $d0, [p]; }}"
            );
            if bits == 8 {
                rows.push(several(text, &[Kind::I64], &[Kind::I64; 2], |v| {
                    vec![v[1] & !0xFF00 | (v[0] & 0xFF) << 8]
                }));
            }
            let text = format!(
                "{cell} st.{space}.b64 [p], $1; st.{ty} [generic], $0; ld.{space}.b64 $d0, [p]; }}"
            );
            rows.push(several(text, &[Kind::I64], &[Kind::I64; 2], move |v| {
                let mask = u64::MAX >> (64 - bits);
                vec![v[1] & !mask | v[0] & mask]
            }));
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn vectors() {
    let mut rows = Vec::new();
    for space in SPACES {
        let cell = cell(space);
        for (ty, kind) in [("b32", Kind::I32), ("f32", Kind::F32), ("u16", Kind::I16)] {
            let text = format!(
                "{cell} st.{space}.v4.{ty} [p], {{$0, $1, $2, $3}}; ld.{space}.v2.{ty} {{$d0, $d1}}, [p];\n\
                 ld.v4.{ty} {{_, $d2, _, $d3}}, [generic]; }}"
            );
            rows.push(several(text, &[kind; 4], &[kind; 4], |v| {
                vec![v[0], v[1], v[1], v[3]]
            }));
        }
        let text = format!(
            "{cell} st.{space}.v2.b64 [p], {{$0, $1}}; ld.{space}.v2.b64 {{$d1, $d0}}, [p]; }}"
        );
        rows.push(several(text, &[Kind::I64; 2], &[Kind::I64; 2], |v| {
            vec![v[1], v[0]]
        }));
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn moves_pack_and_unpack() {
    let rows = vec![
        several(
            "mov.b32 $d0, {$0, $1};",
            &[Kind::I32],
            &[Kind::I16; 2],
            |v| vec![v[0] | v[1] << 16],
        ),
        several(
            "mov.b64 $d0, {$0, $1};",
            &[Kind::I64],
            &[Kind::I32; 2],
            |v| vec![v[0] | v[1] << 32],
        ),
        several(
            "mov.b64 $d0, {$0, $1, $2, $3};",
            &[Kind::I64],
            &[Kind::I16; 4],
            |v| vec![v[0] | v[1] << 16 | v[2] << 32 | v[3] << 48],
        ),
        several(
            "mov.b32 {$d0, $d1}, $0;",
            &[Kind::I16; 2],
            &[Kind::I32],
            |v| vec![v[0], v[0] >> 16],
        ),
        several("mov.b32 {_, $d0}, $0;", &[Kind::I16], &[Kind::I32], |v| {
            vec![v[0] >> 16]
        }),
        several(
            "mov.b64 {$d0, $d1}, $0;",
            &[Kind::I32; 2],
            &[Kind::I64],
            |v| vec![v[0], v[0] >> 32],
        ),
        several(
            "mov.b64 {$d0, $d1, $d2, $d3}, $0;",
            &[Kind::I16; 4],
            &[Kind::I64],
            |v| vec![v[0], v[0] >> 16, v[0] >> 32, v[0] >> 48],
        ),
        row(
            "mov.pred $d0, $0;",
            Kind::Pred,
            &[Kind::Pred],
            Compare::Bits,
            |v| v[0],
        ),
        row(
            "mov.u16 $d0, $0;",
            Kind::I16,
            &[Kind::I16],
            Compare::Bits,
            |v| v[0],
        ),
        row(
            "mov.f32 $d0, $0;",
            Kind::F32,
            &[Kind::F32],
            Compare::Bits,
            |v| v[0],
        ),
        row(
            "mov.b64 $d0, $0;",
            Kind::I64,
            &[Kind::I64],
            Compare::Bits,
            |v| v[0],
        ),
        row(
            "mov.f32 $d0, 0f3FC00000;",
            Kind::F32,
            &[Kind::F32],
            Compare::Bits,
            |_| 0x3FC0_0000,
        ),
        row(
            "mov.f64 $d0, 0d3FF8000000000000;",
            Kind::F64,
            &[Kind::F64],
            Compare::Bits,
            |_| 1.5f64.to_bits(),
        ),
        row(
            "mov.f32 $d0, -1.5;",
            Kind::F32,
            &[Kind::F32],
            Compare::Bits,
            |_| 0xBFC0_0000,
        ),
        row(
            "mov.u32 $d0, -1;",
            Kind::I32,
            &[Kind::I32],
            Compare::Bits,
            |_| 0xFFFF_FFFF,
        ),
        row(
            "mov.u64 $d0, 0x123456789ABCDEF;",
            Kind::I64,
            &[Kind::I64],
            Compare::Bits,
            |_| 0x0123_4567_89AB_CDEF,
        ),
    ];
    check(Arch::Sm80, rows);
}

#[test]
pub fn guards_keep_what_they_skip() {
    let rows = vec![
        row(
            "mov.u32 $d0, 7; @$1 mov.u32 $d0, $0;",
            Kind::I32,
            &[Kind::I32, Kind::Pred],
            Compare::Bits,
            |v| {
                if v[1] != 0 { v[0] } else { 7 }
            },
        ),
        row(
            "mov.u64 $d0, 7; @!$1 add.u64 $d0, $0, 1;",
            Kind::I64,
            &[Kind::I64, Kind::Pred],
            Compare::Bits,
            |v| {
                if v[1] == 0 { v[0].wrapping_add(1) } else { 7 }
            },
        ),
        row(
            "mov.u32 $d0, 1; @$1 bra TAKEN; mov.u32 $d0, 2; @!$2 bra END; add.u32 $d0, $d0, 8; bra END;\n\
             TAKEN: @$2 add.u32 $d0, $d0, 4; END:",
            Kind::I32,
            &[Kind::I32, Kind::Pred, Kind::Pred],
            Compare::Bits,
            |v| match (v[1] != 0, v[2] != 0) {
                (true, true) => 5,
                (true, false) => 1,
                (false, true) => 10,
                (false, false) => 2,
            },
        ),
        // A loop whose count differs by lane.
        row(
            "{ .reg .pred p; .reg .b32 n; and.b32 n, $0, 63; mov.u32 $d0, 0;\n\
             LOOP: setp.eq.u32 p, n, 0; @p bra DONE; add.u32 $d0, $d0, n; sub.u32 n, n, 1; bra LOOP; DONE: }",
            Kind::I32,
            &[Kind::I32],
            Compare::Bits,
            |v| (v[0] & 63) * ((v[0] & 63) + 1) / 2,
        ),
        row(
            "{ .reg .b32 n; and.b32 n, $0, 3; t: .branchtargets A, B, A, C; brx.idx n, t;\n\
             A: mov.u32 $d0, 10; bra E; B: mov.u32 $d0, 20; bra E; C: mov.u32 $d0, 30; E: }",
            Kind::I32,
            &[Kind::I32],
            Compare::Bits,
            |v| [10, 20, 10, 30][v[0] as usize & 3],
        ),
    ];
    check(Arch::Sm80, rows);
}

#[test]
pub fn special_registers() {
    let special = |name: &str, f: fn(u32) -> u64| {
        let text = format!("mov.u32 $d0, %{name};");
        warp_row(text, &[Kind::I32], &[Kind::I32], move |_| {
            (0..32).map(|lane| Some(vec![f(lane)])).collect()
        })
    };
    let rows = vec![
        special("laneid", u64::from),
        special("ntid.x", |_| 128),
        special("ntid.y", |_| 1),
        special("tid.z", |_| 0),
        special("ctaid.y", |_| 0),
        special("nctaid.z", |_| 1),
        special("lanemask_eq", |lane| 1 << lane),
        special("lanemask_lt", |lane| (1 << lane) - 1),
        special("lanemask_le", |lane| (2 << lane) - 1),
        special("lanemask_gt", |lane| !((2u64 << lane) - 1)),
        special("lanemask_ge", |lane| !((1u64 << lane) - 1)),
    ];
    check(Arch::Sm80, rows);
}

#[test]
pub fn spaces_of_generic_addresses() {
    let mut rows = Vec::new();
    for space in SPACES {
        for asked in SPACES {
            let text = format!("{} isspacep.{asked} $d0, generic; }}", cell(space));
            rows.push(row(
                text,
                Kind::Pred,
                &[Kind::I32],
                Compare::Bits,
                move |_| u64::from(space == asked),
            ));
        }
    }
    check(Arch::Sm80, rows);
}

/// `cp.async` with its source size: what is missing becomes zero.
#[test]
pub fn asynchronous_copies() {
    let mut rows = Vec::new();
    let cell = cell("shared");
    for (form, size) in [("ca", 4u32), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for source in [None, Some(0), Some(size / 2), Some(size)] {
            let operand = source.map_or(String::new(), |bytes| format!(", {bytes}"));
            for wait in [
                "cp.async.wait_all;",
                "cp.async.commit_group; cp.async.wait_group 0;",
            ] {
                let text = format!(
                    "{cell} st.shared.v2.b64 [p], {{-1, -1}}; cp.async.{form}.shared.global [p], [%in], {size}{operand};\n\
                     {wait} ld.shared.v2.b64 {{$d0, $d1}}, [p]; }}"
                );
                rows.push(several(text, &[Kind::I64; 2], &[Kind::I64; 2], move |v| {
                    let operands = u128::from(v[0]) | u128::from(v[1]) << 64;
                    let below = |bytes: u32| {
                        if bytes == 16 {
                            u128::MAX
                        } else {
                            (1 << (8 * bytes)) - 1
                        }
                    };
                    let result = operands & below(source.unwrap_or(size)) | !below(size);
                    vec![result as u64, (result >> 64) as u64]
                }));
            }
        }
    }
    check(Arch::Sm80, rows);
}

/// Loads of other caches and memory orders.
#[test]
pub fn loads_of_all_orders() {
    let forms = [
        "ldu.global",
        "ld.global.nc",
        "ld.volatile.global",
        "ld.relaxed.gpu.global",
        "ld.acquire.sys.global",
    ];
    let rows = forms.map(|load| {
        let text = format!("{load}.b64 $d0, [%in]; {load}.v2.b32 {{$d1, $d2}}, [%in];");
        several(
            text,
            &[Kind::I64, Kind::I32, Kind::I32],
            &[Kind::I64],
            |v| vec![v[0], v[0], v[0] >> 32],
        )
    });
    check(Arch::Sm80, rows.into());
}
