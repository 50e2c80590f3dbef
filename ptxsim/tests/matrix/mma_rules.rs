//! `mma.sync` in f64, and what is an error or a finding.

use crate::support::{Argument, Device, Random, expect_clean, expect_finding};
use ptxsim::report::FindingKind;
use ptxsim::sim::{Arch, Checks};

#[test]
fn f64_is_a_chain_of_fused_multiply_adds() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry k(.param .u64 k_0, .param .u64 k_1, .param .u64 k_2, .param .u64 k_3) {\n\
        .reg .b32 %t; .reg .f64 %a, %b, %c<2>, %d<2>; .reg .b64 %p<4>, %o;\n\
        mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 8;\n\
        ld.param.u64 %p0, [k_0]; add.s64 %p0, %p0, %o; ld.global.f64 %a, [%p0];\n\
        ld.param.u64 %p1, [k_1]; add.s64 %p1, %p1, %o; ld.global.f64 %b, [%p1];\n\
        mul.wide.u32 %o, %t, 16;\n\
        ld.param.u64 %p2, [k_2]; add.s64 %p2, %p2, %o;\n\
        ld.global.f64 %c0, [%p2]; ld.global.f64 %c1, [%p2+8];\n\
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0, %d1}, {%a}, {%b}, {%c0, %c1};\n\
        ld.param.u64 %p3, [k_3]; add.s64 %p3, %p3, %o;\n\
        st.global.f64 [%p3], %d0; st.global.f64 [%p3+8], %d1; ret; }";
    let device = Device::new(text, Arch::Sm80);
    let mut random = Random(77);
    let mut values = |count: usize| -> Vec<f64> {
        (0..count)
            .map(|_| f64::from(random.unit()) * (1.0 + f64::from(random.unit())))
            .collect()
    };
    let (a, b, c) = (values(32), values(32), values(64));
    let upload = |v: &[f64]| device.upload(&v.iter().map(|v| v.to_bits()).collect::<Vec<u64>>());
    let d = device.buffer(512);
    let arguments = [upload(&a), upload(&b), upload(&c), d].map(Argument::Pointer);
    expect_clean(&device.launch("k", [[1; 3], [32, 1, 1]], 0, Checks::All, &arguments));
    let d: Vec<u64> = device.download(d, 64);
    for lane in 0..32 {
        for i in 0..2 {
            let (row, column) = (lane / 4, lane % 4 * 2 + i);
            // A is held row by row, B column by column, four lanes each.
            let wanted = (0..4).fold(c[2 * lane + i], |sum, k| {
                a[4 * row + k].mul_add(b[4 * column + k], sum)
            });
            assert_eq!(f64::from_bits(d[2 * lane + i]), wanted);
        }
    }
}

#[test]
fn undefined_operands_and_missing_lanes_are_found() {
    let text = |guard: &str, skip: &str| {
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {{\n\
             .reg .b32 %a<2>, %b, %d<2>; .reg .pred %p; .reg .b32 %t;\n\
             mov.u32 %t, %tid.x; setp.lt.u32 %p, %t, 16;\n mov.b32 %a0, 0; mov.b32 %b, 0;\n{skip}\n\
             {guard} mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {{%d0, %d1}}, {{%a0, %a1}}, {{%b}}, {{%a0, %a0}};\n\
             ret; }}"
        )
    };
    let run = |text: String| {
        let device = Device::new(&text, Arch::Sm80);
        device.launch("k", [[1; 3], [32, 1, 1]], 0, Checks::All, &[])
    };
    expect_clean(&run(text("", "mov.b32 %a1, 0;")));
    expect_finding(&run(text("", "")), FindingKind::Uninitialized);
    expect_finding(&run(text("@%p", "mov.b32 %a1, 0;")), FindingKind::WarpSync);
}

#[test]
fn unknown_forms_are_load_errors() {
    for opcode in [
        "m16n8k32.row.col.f32.e4m3.e4m3.f32",
        "m16n8k16.col.col.f32.f16.f16.f32",
        "m16n8k16.row.col.f32.f16.bf16.f32",
        "m16n8k16.row.col.f16.bf16.bf16.f16",
        "m16n8k64.row.col.s32.s4.s4.s32",
    ] {
        let text = format!(
            ".version 8.4\n.target sm_90a\n.address_size 64\n.visible .entry k() {{\n\
             .reg .b32 %r<4>;\n mma.sync.aligned.{opcode} {{%r0, %r1, %r2, %r3}}, \
             {{%r0, %r1, %r2, %r3}}, {{%r0, %r1}}, {{%r0, %r1, %r2, %r3}};\n ret; }}"
        );
        let memory = std::sync::Arc::new(ptxsim::memory::Memory::new(1 << 20));
        let error = ptxsim::sim::Module::load(&text, Arch::Sm90a, &memory).err();
        let message = error
            .unwrap_or_else(|| panic!("{opcode} loads"))
            .to_string();
        assert!(
            message.contains("mma.sync") && message.contains("line 6"),
            "{message}"
        );
    }
}
