//! Single instructions against their scalar definition, and rules that must be reported.

use crate::harness::{Device, assert_clean, assert_finds, pointer, shape};
use ptxsim::report::FindingKind::{
    self, Barrier, Deadlock, Mbarrier, Misaligned, Operand, OutOfBounds, ProxyFence, SharedRace,
};
use ptxsim::sim::{Arch, LaunchError, Outcome};

/// A kernel `k(out)` of one warp with `bar`, an mbarrier, and `data`, 256 bytes of shared memory.
/// %rd1 is `out`, %r1 the lane, %p1 true in lane 0.
fn text(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 out) {{\n\
         .shared .align 8 .b64 bar; .shared .align 128 .b8 data[256];\n\
         .reg .pred %p<9>; .reg .b16 %h<4>; .reg .b32 %r<20>; .reg .b64 %rd<20>;\n\
         ld.param.u64 %rd1, [out]; cvta.to.global.u64 %rd1, %rd1;\n\
         mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0;\n{body}\nret; }}"
    )
}

/// Runs `body` in one warp with 1 KiB of output and gives the outcome and the output's words.
fn run(body: &str) -> (Outcome, Vec<u32>) {
    let device = Device::with_text(&text(body), Arch::Sm90a);
    let out = device.upload(&[0; 1024]);
    let outcome = device.launch("k", shape(1, 32, 1), &[pointer(out)]);
    (outcome, device.download_u32(out, 256))
}

#[track_caller]
fn results(body: &str) -> Vec<u32> {
    let (outcome, words) = run(body);
    assert_clean(&outcome);
    words
}

/// Runs `body` in lane 0 alone.
fn first_lane(body: &str) -> String {
    format!("@!%p1 bra DONE;\n{body}\nDONE:")
}

#[track_caller]
fn rejects(body: &str, kind: FindingKind) {
    let (outcome, _) = run(&first_lane(body));
    assert_finds(&outcome, kind, &[]);
}

#[test]
fn reductions_agree_with_their_definition() {
    let old: [u32; 4] = [0, 5, 0xffff_fff0, 0x8000_0000];
    let value: [u32; 4] = [7, 5, 0x20, 3];
    type Update = fn(u32, u32) -> u32;
    let cases: [(&str, Update); 9] = [
        ("add.u32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("inc.u32", |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("and.b32", |a, b| a & b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (name, definition) in cases {
        let mut body = String::new();
        for (i, (old, value)) in old.iter().zip(value).enumerate() {
            let at = 4 * i;
            body +=
                &format!("st.global.u32 [%rd1+{at}], {old}; st.shared.u32 [data+{at}], {value};\n");
        }
        body += &format!(
            "fence.proxy.async;\n\
             cp.reduce.async.bulk.global.shared::cta.bulk_group.{name} [%rd1], [data], 16;\n\
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
        );
        let got = results(&first_lane(&body));
        for i in 0..4 {
            assert_eq!(
                got[i],
                definition(old[i], value[i]),
                "{name} {:#x} {:#x}",
                old[i],
                value[i]
            );
        }
    }
}

#[test]
fn wide_and_narrow_reductions() {
    let reduce = |name: &str, old: [u64; 2], value: [u64; 2]| {
        let body = format!(
            "st.global.u64 [%rd1], {}; st.global.u64 [%rd1+8], {};\n\
             st.shared.u64 [data], {}; st.shared.u64 [data+8], {}; fence.proxy.async;\n\
             cp.reduce.async.bulk.global.shared::cta.bulk_group.{name} [%rd1], [data], 16;\n\
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;",
            old[0] as i64, old[1] as i64, value[0] as i64, value[1] as i64
        );
        let got = results(&first_lane(&body));
        [0, 2].map(|i| u64::from(got[i]) | u64::from(got[i + 1]) << 32)
    };
    assert_eq!(
        reduce("add.u64", [u64::MAX, 1 << 40], [2, 1 << 40]),
        [1, 1 << 41]
    );
    assert_eq!(reduce("min.s64", [u64::MAX, 9], [1, 4]), [u64::MAX, 4]);
    assert_eq!(reduce("max.u64", [u64::MAX, 9], [1, 4]), [u64::MAX, 9]);
    let doubles = |a: f64, b: f64| [a.to_bits(), b.to_bits()];
    assert_eq!(
        reduce("add.f64", doubles(1.5, -2.0), doubles(2.25, 0.5)),
        doubles(3.75, -1.5)
    );
    // f16: 1 + 2, 2048 + 1 (a tie, to even), two subnormals; bf16: 1 + 2.
    let halves = |a: u64, b: u64, c: u64| [a | b << 16 | c << 32, 0];
    let sum = reduce(
        "add.noftz.f16",
        halves(0x3c00, 0x6800, 1),
        halves(0x4000, 0x3c00, 1),
    );
    assert_eq!(sum, halves(0x4200, 0x6800, 2));
    let sum = reduce("add.noftz.bf16", halves(0x3f80, 0, 0), halves(0x4000, 0, 0));
    assert_eq!(sum, halves(0x4040, 0, 0));
}

#[test]
fn mbarrier_tokens_counts_and_parities() {
    let body = "mbarrier.init.shared.b64 [bar], 3;\n\
        mbarrier.arrive.noComplete.shared.b64 %rd2, [bar], 2;\n\
        mbarrier.pending_count.b64 %r2, %rd2; st.global.u32 [%rd1], %r2;\n\
        mbarrier.test_wait.shared.b64 %p2, [bar], %rd2; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1+4], %r2;\n\
        mbarrier.test_wait.parity.shared.b64 %p2, [bar], 1; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1+8], %r2;\n\
        mbarrier.arrive_drop.shared.b64 %rd3, [bar];\n\
        mbarrier.pending_count.b64 %r2, %rd3; st.global.u32 [%rd1+12], %r2;\n\
        mbarrier.test_wait.shared.b64 %p2, [bar], %rd2; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1+16], %r2;\n\
        mbarrier.arrive.shared.b64 %rd4, [bar];\n\
        mbarrier.pending_count.b64 %r2, %rd4; st.global.u32 [%rd1+20], %r2;\n\
        mbarrier.inval.shared.b64 [bar];";
    // Pending before the first arrival 3; phase 0 incomplete, the one before it complete; 1 pending;
    // complete; after the drop, 2 are expected.
    assert_eq!(results(&first_lane(body))[..6], [3, 0, 1, 1, 1, 2]);
}

#[test]
fn transactions_hold_a_phase_open() {
    let body = "mbarrier.init.shared.b64 [bar], 1;\n\
        mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 48;\n\
        mbarrier.arrive.expect_tx.shared::cta.b64 %rd2, [bar], 16;\n\
        mbarrier.test_wait.shared.b64 %p2, [bar], %rd2; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1], %r2;\n\
        mbarrier.complete_tx.shared.b64 [bar], 60;\n\
        mbarrier.test_wait.shared.b64 %p2, [bar], %rd2; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1+4], %r2;\n\
        mbarrier.complete_tx.shared.b64 [bar], 4;\n\
        mbarrier.try_wait.shared.b64 %p2, [bar], %rd2; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1+8], %r2;";
    assert_eq!(results(&first_lane(body))[..3], [0, 0, 1]);
}

#[test]
fn a_suspended_wait_may_end_early() {
    // The phase is peeked at before the only thread that can complete it does.
    let body = "mbarrier.init.shared.b64 [bar], 1;\n\
        mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1], %r2;\n\
        mbarrier.arrive.shared.b64 _, [bar];\n\
        mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd1+4], %r2;";
    assert_eq!(results(&first_lane(body))[..2], [0, 1]);
}

#[test]
fn a_phase_that_never_completes_is_a_deadlock() {
    for wait in ["try_wait", "test_wait"] {
        let body = format!(
            "mbarrier.init.shared.b64 [bar], 2; mbarrier.arrive.shared.b64 %rd2, [bar];\n\
             AGAIN: mbarrier.{wait}.shared.b64 %p2, [bar], %rd2; @!%p2 bra AGAIN;"
        );
        let (outcome, _) = run(&first_lane(&body));
        assert_eq!(outcome.result, Err(LaunchError::Timeout), "{wait}");
        assert_finds(&outcome, Deadlock, &[]);
    }
}

#[test]
fn elections_choose_the_first_member() {
    let body = "setp.lt.u32 %p2, %r1, 5; @%p2 bra SKIP;\n\
        elect.sync %r2|%p3, 0xffffffe0; selp.u32 %r3, 100, 0, %p3; add.u32 %r3, %r3, %r2;\n\
        mul.wide.u32 %rd2, %r1, 4; add.u64 %rd2, %rd2, %rd1; st.global.u32 [%rd2], %r3;\n\
        SKIP:";
    let got = results(body);
    let expected = |lane: usize| match lane {
        0..5 => 0,
        5 => 105,
        _ => 5,
    };
    assert!(
        (0..32).all(|lane| got[lane] == expected(lane)),
        "{:?}",
        &got[..32]
    );
}

#[test]
fn mapped_addresses_have_the_rank_of_their_block() {
    let body = "mov.u32 %r2, data; mapa.shared::cluster.u32 %r3, %r2, 0; getctarank.shared::cluster.u32 %r4, %r3;\n\
        mapa.shared::cluster.u32 %r5, data+16, 0; sub.u32 %r5, %r5, %r3;\n\
        cvta.shared.u64 %rd2, %rd2; cvt.u64.u32 %rd2, %r2; cvta.shared.u64 %rd2, %rd2;\n\
        mapa.u64 %rd3, %rd2, 0; getctarank.u64 %r6, %rd3; st.u32 [%rd3], 77; ld.shared.u32 %r7, [data];\n\
        st.global.u32 [%rd1], %r4; st.global.u32 [%rd1+4], %r5; st.global.u32 [%rd1+8], %r6; st.global.u32 [%rd1+12], %r7;"
        .replace("cvta.shared.u64 %rd2, %rd2; cvt", "cvt");
    assert_eq!(results(&first_lane(&body))[..4], [0, 16, 0, 77]);
}

#[test]
fn rules_of_mbarriers_are_checked() {
    rejects("mbarrier.init.shared.b64 [bar], 0;", Mbarrier);
    rejects("mbarrier.init.shared.b64 [bar], 1048576;", Mbarrier);
    rejects(
        "st.shared.u64 [bar], 0; mbarrier.arrive.shared.b64 _, [bar];",
        Mbarrier,
    );
    rejects(
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.init.shared.b64 [bar], 1;",
        Mbarrier,
    );
    rejects(
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.shared.b64 _, [bar], 2;",
        Mbarrier,
    );
    rejects(
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.expect_tx.shared.b64 [bar], 1048576;",
        Mbarrier,
    );
    rejects(
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.noComplete.shared.b64 _, [bar], 1;",
        Mbarrier,
    );
    rejects(
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.inval.shared.b64 [bar]; mbarrier.arrive.shared.b64 _, [bar];",
        Mbarrier,
    );
    rejects(
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.shared.b64 _, [bar]; mbarrier.arrive.shared.b64 _, [bar];",
        Mbarrier,
    );
    rejects("mbarrier.init.shared.b64 [data+4], 1;", Misaligned);
    rejects("mbarrier.init.shared.b64 [data+4096], 1;", OutOfBounds);
    rejects(
        "mov.u64 %rd2, %rd1; mbarrier.init.b64 [%rd2], 1;",
        OutOfBounds,
    );
}

#[test]
fn rules_of_copies_are_checked() {
    let prepare = "mbarrier.init.shared.b64 [bar], 1;";
    let load = |to: &str, from: &str, bytes: &str| {
        format!(
            "{prepare} mov.u32 %r2, {bytes}; \
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}], [{from}], %r2, [bar];"
        )
    };
    rejects(&load("data", "%rd1", "24"), Operand);
    rejects(&load("data+8", "%rd1", "16"), Misaligned);
    rejects(&load("data", "%rd1+8", "16"), Misaligned);
    rejects(&load("data", "%rd1", "4096"), OutOfBounds);
    rejects(&load("data+240", "%rd1", "32"), OutOfBounds);
    rejects(
        "cp.async.cg.shared.global [data+8], [%rd1], 16;",
        Misaligned,
    );
    rejects("cp.async.ca.shared.global [data], [%rd1+2], 4;", Misaligned);
    rejects(
        "mov.u32 %r2, 9; cp.async.ca.shared.global [data], [%rd1], 8, %r2;",
        Operand,
    );
    rejects(
        "cp.async.ca.shared.global [data], [%rd1+1024], 4;",
        OutOfBounds,
    );
    rejects(
        "mov.u32 %r2, 3; mov.u32 %r3, data; mapa.shared::cluster.u32 %r3, %r3, %r2;",
        Operand,
    );
}

/// A bulk load over bytes that were written through the generic proxy.
#[test]
fn generic_writes_before_bulk_loads_need_a_proxy_fence() {
    let body = |fence: &str| {
        format!(
            "mbarrier.init.shared.b64 [bar], 1; st.global.u32 [%rd1], 1; st.shared.u32 [data], 1; {fence}\n\
             mbarrier.arrive.expect_tx.shared.b64 %rd2, [bar], 16;\n\
             cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [data], [%rd1], 16, [bar];\n\
             AGAIN: mbarrier.try_wait.shared.b64 %p2, [bar], %rd2; @!%p2 bra AGAIN; ld.shared.u32 %r2, [data];"
        )
    };
    results(&first_lane(&body("fence.proxy.async;")));
    results(&first_lane(&body("fence.proxy.async.shared::cta;")));
    rejects(&body(""), ProxyFence);
    rejects(&body("fence.proxy.async.global;"), ProxyFence);
    rejects(&body("fence.acq_rel.cta;"), ProxyFence);
}

/// `.relaxed` arrivals and waits order nothing, but for what fences before and behind them order.
#[test]
fn relaxed_phases_do_not_order() {
    let body = |arrive: &str, wait: &str| {
        format!(
            "@%p1 mbarrier.init.shared.b64 [bar], 64; bar.sync 0;\n\
             shl.b32 %r2, %r1, 2; xor.b32 %r3, %r2, 128; mov.u32 %r4, data;\n\
             add.u32 %r2, %r2, %r4; add.u32 %r3, %r3, %r4;\n\
             st.shared.u32 [%r2], %r1; mbarrier.arrive{arrive}.shared.b64 %rd2, [bar];\n\
             AGAIN: mbarrier.try_wait{wait}.shared.b64 %p2, [bar], %rd2; @!%p2 bra AGAIN;\n\
             ld.shared.u32 %r5, [%r3];"
        )
    };
    let two_warps = |body: String| {
        let device = Device::with_text(&text(&body), Arch::Sm90a);
        device.launch("k", shape(1, 64, 1), &[pointer(device.alloc(1024))])
    };
    assert_clean(&two_warps(body("", "")));
    assert_clean(&two_warps(body(".release.cta", ".acquire.cta")));
    assert_finds(&two_warps(body(".relaxed.cta", "")), SharedRace, &[]);
    assert_finds(&two_warps(body("", ".relaxed.cta")), SharedRace, &[]);
    let fenced = body(".relaxed.cta", ".relaxed.cta")
        .replace("mbarrier.arrive", "fence.acq_rel.cta; mbarrier.arrive")
        .replace("ld.shared.u32 %r5", "fence.acq_rel.cta; ld.shared.u32 %r5");
    assert_clean(&two_warps(fenced));
}

#[test]
fn the_cluster_barrier_checks_its_order() {
    let (outcome, _) = run("barrier.cluster.arrive; barrier.cluster.wait;");
    assert_clean(&outcome);
    let (outcome, _) = run("barrier.cluster.wait;");
    assert_finds(&outcome, Barrier, &[]);
}

#[test]
fn unknown_forms_do_not_load() {
    let memory = std::sync::Arc::new(ptxsim::memory::Memory::new(1 << 20));
    for body in [
        "cp.async.ca.shared.global [data], [%rd1], 12;",
        "cp.async.cg.shared.global [data], [%rd1], 8;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.min.f32 [%rd1], [data], 16;",
        "cp.async.bulk.tensor.2d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [data], [%rd1, {%r1, %r1}], [bar];",
        "fence.proxy.other;",
        "mbarrier.arrive.later.shared.b64 _, [bar];",
    ] {
        let loaded = ptxsim::sim::Module::load(&text(body), Arch::Sm90a, &memory);
        assert!(loaded.is_err(), "{body}");
    }
}
