//! Control flow, and instructions that leave registers and memory as they are: PTX ISA, "Control
//! Flow Instructions", "Miscellaneous Instructions" and the hints among "Data Movement".

use crate::harness::{Compare, Row, Setting, check, row};
use crate::kernel::launch_once;
use crate::values::Kind;
use ptxsim::report::FindingKind;
use ptxsim::sim::{Arch, LaunchError};

/// One result from one operand.
fn unary(text: impl Into<String>, definition: fn(u64) -> u64) -> Row {
    row(text, Kind::I32, &[Kind::I32], Compare::Bits, move |v| {
        definition(v[0])
    })
}

#[test]
pub fn branches() {
    let odd = |v: u64| if v & 1 == 1 { v } else { 7 };
    let begin = ".reg .pred odd; .reg .b32 bit; and.b32 bit, $0, 1; setp.ne.u32 odd, bit, 0;";
    let by_rest = |v: u64| [v, 5, 6][(v % 3) as usize];
    let rows = vec![
        unary(
            format!("{{ {begin} mov.b32 $d0, 7; @!odd bra END; mov.b32 $d0, $0; END: }}"),
            odd,
        ),
        unary(
            format!("{{ {begin} mov.b32 $d0, 7; @!odd bra.uni END; mov.b32 $d0, $0; END: }}"),
            odd,
        ),
        unary(
            "{ .reg .b32 rest; rem.u32 rest, $0, 3; TABLE: .branchtargets A, B, C;\n\
             brx.idx rest, TABLE; A: mov.b32 $d0, $0; bra END;\n\
             B: mov.b32 $d0, 5; bra END; C: mov.b32 $d0, 6; END: }",
            by_rest,
        ),
    ];
    check(Arch::Sm80, rows);
}

#[test]
pub fn calls_and_ends() {
    let odd = |v: u64| if v & 1 == 1 { v } else { 7 };
    let function = |prelude: &str, text: &str| {
        unary(text, odd).set(Setting {
            prelude: prelude.into(),
            ..Setting::default()
        })
    };
    let pick = ".func (.param .b32 result) pick(.param .b32 x) { .reg .pred even; .reg .b32 v, bit;\n\
                ld.param.b32 v, [x]; and.b32 bit, v, 1; setp.eq.u32 even, bit, 0;\n\
                @even st.param.b32 [result], 7; @even ret; st.param.b32 [result], v; ret; }\n";
    let pointer = format!("{pick}.global .u64 table[1] = {{pick}};\n");
    let begin = "{ .param .b32 x; .param .b32 result; st.param.b32 [x], $0;";
    let end = "ld.param.b32 $d0, [result]; }";
    let rows = vec![
        function(pick, &format!("{begin} call (result), pick, (x); {end}")),
        function(
            pick,
            &format!("{begin} call.uni (result), pick, (x); {end}"),
        ),
        function(
            &pointer,
            &format!(
                "{begin} .reg .b64 f; ld.global.u64 f, [table];\n\
                 P: .callprototype (.param .b32 _) _ (.param .b32 _); call (result), f, (x), P; {end}"
            ),
        ),
        // Threads that end have stored their result before.
        unary(
            "{ .reg .pred even; .reg .b32 bit; and.b32 bit, $0, 1; setp.eq.u32 even, bit, 0;\n\
             mov.b32 $d0, 7; st.global.b32 [%out], $d0; @even exit; mov.b32 $d0, $0; }",
            odd,
        ),
    ];
    check(Arch::Sm80, rows);
}

#[test]
pub fn traps_end_the_launch() {
    for instruction in ENDING {
        let (result, findings) = launch_once(Arch::Sm80, &format!("{instruction};"));
        assert_eq!(result, Err(LaunchError::LaunchFailed), "{instruction}");
        assert!(findings.contains(&FindingKind::Trap), "{instruction}");
    }
}

/// Instructions that no row can have, for they end the launch.
pub const ENDING: [&str; 2] = ["trap", "brkpt"];

/// Rows of instructions that change nothing.
fn identities(texts: &[&str]) -> Vec<Row> {
    let prelude = ".global .align 128 .b8 scratch[256];\n.const .align 64 .b64 map[16];\n";
    let each = |text: &&str| {
        let text = format!("{{ .reg .b64 p, policy; {text} mov.b32 $d0, $0; }}");
        unary(text, |v| v).set(Setting {
            prelude: prelude.into(),
            ..Setting::default()
        })
    };
    texts.iter().map(each).collect()
}

#[test]
pub fn hints() {
    let rows = identities(&[
        "nanosleep.u32 $0;",
        "nanosleep.u32 40;",
        "prefetch.global.L1 [%in];",
        "prefetch.global.L2::evict_last [%in];",
        "prefetch.L2 [%in];",
        "prefetchu.L1 [%in];",
        "discard.global.L2 [scratch], 128;",
        "applypriority.global.L2::evict_normal [scratch], 128;",
        "pmevent 7;",
        "pmevent.mask 0xff;",
        "createpolicy.fractional.L2::evict_last.b64 policy, 0.5;\n\
         ld.global.L2::cache_hint.b32 $d0, [%in], policy;",
        "createpolicy.range.global.L2::evict_first.b64 policy, [%in], 64, 128;",
        "createpolicy.cvt.L2.b64 policy, 0x10F0000000000000;",
    ]);
    check(Arch::Sm80, rows);
    let rows = identities(&[
        "cp.async.bulk.prefetch.L2.global [scratch], 16;",
        "griddepcontrol.wait;",
        "griddepcontrol.launch_dependents;",
    ]);
    check(Arch::Sm90a, rows);
}

#[test]
pub fn fences() {
    let mut rows = identities(&[
        "membar.cta;",
        "membar.gl;",
        "membar.sys;",
        "fence.sc.cta;",
        "fence.acq_rel.gpu;",
        "fence.acq_rel.sys;",
        "fence.proxy.alias;",
        "membar.proxy.alias;",
    ]);
    check(Arch::Sm80, std::mem::take(&mut rows));
    let rows = identities(&[
        "fence.acq_rel.cluster;",
        "fence.mbarrier_init.release.cluster;",
        "fence.proxy.async;",
        "fence.proxy.async.global;",
        "fence.proxy.async.shared::cta;",
        "fence.proxy.async.shared::cluster;",
        "fence.proxy.tensormap::generic.release.gpu;",
        "mov.u64 p, map; cvta.const.u64 p, p; fence.proxy.tensormap::generic.acquire.sys [p], 128;",
    ]);
    check(Arch::Sm90a, rows);
}

#[test]
pub fn register_counts() {
    let text =
        "setmaxnreg.dec.sync.aligned.u32 32; setmaxnreg.inc.sync.aligned.u32 64; mov.b32 $d0, $0;";
    let row = unary(text, |v| v).set(Setting {
        directives: ".maxntid 128, 1, 1 .maxnreg 64",
        ..Setting::default()
    });
    check(Arch::Sm90a, vec![row]);
}
