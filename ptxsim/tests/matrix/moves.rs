//! `ldmatrix`, `stmatrix` and `movmatrix` against the fragment layout of the PTX ISA
//! (9.7.14.5.15 to .17), with scattered rows.

use crate::support::{Argument, Device, Random, expect_clean, expect_finding};
use ptxsim::report::FindingKind;
use ptxsim::sim::{Arch, Checks, LaunchError, Outcome};

const ROWS: usize = 64;
const BYTES: usize = ROWS * 16;

/// A kernel of one warp: copies `memory` to shared memory, loads fragments from the addresses given
/// for each lane, and stores them.
fn load_kernel(count: usize, modifiers: &str, generic: bool) -> String {
    let registers: Vec<String> = (0..count).map(|i| format!("%r{i}")).collect();
    let stores: String = (0..count)
        .map(|i| format!("st.global.b32 [%p2+{}], %r{i};\n", 4 * i))
        .collect();
    let address = if generic {
        "cvta.shared.u64 %g, %base; cvt.u64.u32 %o, %at; add.s64 %g, %g, %o;"
    } else {
        "cvt.u32.u64 %b, %base; add.u32 %at, %at, %b;"
    };
    let operand = if generic { "%g" } else { "%at" };
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 k_0, .param .u64 k_1, .param .u64 k_2) {{\n\
         .shared .align 16 .b8 tile[{BYTES}];\n\
         .reg .b32 %r<4>, %t, %at, %v, %b; .reg .b64 %p<3>, %o, %base, %g, %s;\n\
         mov.u32 %t, %tid.x; mov.u64 %base, tile;\n\
         ld.param.u64 %p0, [k_0]; ld.param.u64 %p1, [k_1]; ld.param.u64 %p2, [k_2];\n\
         mul.wide.u32 %o, %t, 4; add.s64 %p0, %p0, %o; add.s64 %p1, %p1, %o; add.s64 %s, %base, %o;\n\
         {}\
         bar.sync 0;\n ld.global.u32 %at, [%p1];\n {address}\n\
         ldmatrix.sync.aligned.m8n8.{modifiers} {{{}}}, [{operand}];\n\
         mul.wide.u32 %o, %t, {}; add.s64 %p2, %p2, %o;\n{stores} ret;\n}}",
        (0..BYTES / 128)
            .map(|i| {
                let at = 128 * i;
                format!("ld.global.b32 %v, [%p0+{at}]; st.shared.b32 [%s+{at}], %v;\n")
            })
            .collect::<String>(),
        registers.join(", "),
        4 * count,
    )
}

fn row_addresses(random: &mut Random) -> Vec<u32> {
    (0..32).map(|_| random.next() % ROWS as u32 * 16).collect()
}

/// The half-word that element `e` of lane `lane` has of a matrix.
fn place(lane: usize, e: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, lane % 4 * 2 + e);
    if transposed {
        (column, row)
    } else {
        (row, column)
    }
}

#[test]
fn ldmatrix_gives_each_lane_its_fragment() {
    let mut random = Random(0xabcdef);
    for count in [1, 2, 4] {
        for transposed in [false, true] {
            for generic in [false, true] {
                let trans = if transposed { ".trans" } else { "" };
                let space = if generic { "" } else { ".shared" };
                let text = load_kernel(count, &format!("x{count}{trans}{space}.b16"), generic);
                let device = Device::new(&text, Arch::Sm80);
                let memory: Vec<u16> = (0..BYTES / 2).map(|_| random.next() as u16).collect();
                let mut addresses = row_addresses(&mut random);
                // Lanes beyond those that name rows may hold anything.
                addresses[8 * count..].fill(0x7fff_fff1);
                let out = device.buffer(4 * 32 * count);
                let arguments = [device.upload(&memory), device.upload(&addresses), out];
                let outcome = device.launch(
                    "k",
                    [[1; 3], [32, 1, 1]],
                    0,
                    Checks::All,
                    &arguments.map(Argument::Pointer),
                );
                let report = expect_clean(&outcome);
                assert_eq!(report.counters.matrix_loads.requests, 1);
                assert_eq!(report.counters.matrix_loads.bytes, 128 * count as u64);
                let words: Vec<u32> = device.download(out, 32 * count);
                for lane in 0..32 {
                    for matrix in 0..count {
                        for e in 0..2 {
                            let (row, column) = place(lane, e, transposed);
                            let start = addresses[8 * matrix + row] as usize / 2;
                            let got = (words[lane * count + matrix] >> (16 * e)) as u16;
                            assert_eq!(got, memory[start + column], "lane {lane} matrix {matrix}");
                        }
                    }
                }
            }
        }
    }
}

fn load_with(addresses: &[u32]) -> Outcome {
    let device = Device::new(&load_kernel(4, "x4.shared.b16", false), Arch::Sm80);
    let memory = vec![1u16; BYTES / 2];
    let out = device.buffer(4 * 32 * 4);
    let arguments = [device.upload(&memory), device.upload(addresses), out];
    device.launch(
        "k",
        [[1; 3], [32, 1, 1]],
        0,
        Checks::All,
        &arguments.map(Argument::Pointer),
    )
}

#[test]
fn ldmatrix_counts_wavefronts() {
    let conflicts = |stride: u32| {
        let addresses: Vec<u32> = (0..32).map(|row| row * stride % BYTES as u32).collect();
        let outcome = load_with(&addresses);
        let counters = expect_clean(&outcome).counters;
        (
            counters.matrix_loads.wavefronts,
            counters.matrix_loads.conflicts,
        )
    };
    assert_eq!(conflicts(16), (4, 0)); // eight rows cover all banks
    assert_eq!(conflicts(32), (8, 4)); // half of the banks, twice
    assert_eq!(conflicts(128), (32, 28)); // rows in the same banks
}

#[test]
fn ldmatrix_finds_bad_addresses() {
    let good: Vec<u32> = (0..32).map(|row| row * 16).collect();
    expect_clean(&load_with(&good));
    let mut misaligned = good.clone();
    misaligned[9] += 8;
    let outcome = load_with(&misaligned);
    expect_finding(&outcome, FindingKind::Misaligned);
    assert_eq!(outcome.result, Err(LaunchError::MisalignedAddress));
    let mut outside = good;
    outside[31] = BYTES as u32;
    let outcome = load_with(&outside);
    expect_finding(&outcome, FindingKind::OutOfBounds);
    assert_eq!(outcome.result, Err(LaunchError::IllegalAddress));
}

#[test]
fn stmatrix_is_the_inverse_of_ldmatrix() {
    let mut random = Random(0x5151);
    for count in [1, 2, 4] {
        for transposed in [false, true] {
            let registers: Vec<String> = (0..count).map(|i| format!("%r{i}")).collect();
            let trans = if transposed { ".trans" } else { "" };
            let loads: String = (0..count)
                .map(|i| format!("ld.global.b32 %r{i}, [%p0+{}];\n", 4 * i))
                .collect();
            let copies: String = (0..count)
                .map(|i| {
                    let at = 128 * i;
                    format!("ld.shared.b32 %v, [%s+{at}]; st.global.b32 [%p2+{at}], %v;\n")
                })
                .collect();
            let text = format!(
                ".version 8.0\n.target sm_90a\n.address_size 64\n\
                 .visible .entry k(.param .u64 k_0, .param .u64 k_1, .param .u64 k_2) {{\n\
                 .shared .align 16 .b8 tile[512];\n\
                 .reg .b32 %r<4>, %t, %at, %v, %b; .reg .b64 %p<3>, %o, %base, %s;\n\
                 mov.u32 %t, %tid.x; mov.u64 %base, tile; cvt.u32.u64 %b, %base;\n\
                 ld.param.u64 %p0, [k_0]; ld.param.u64 %p1, [k_1]; ld.param.u64 %p2, [k_2];\n\
                 mul.wide.u32 %o, %t, {}; add.s64 %p0, %p0, %o;\n{loads}\
                 mul.wide.u32 %o, %t, 4; add.s64 %p1, %p1, %o; add.s64 %p2, %p2, %o;\n\
                 add.s64 %s, %base, %o;\n\
                 ld.global.u32 %at, [%p1]; add.u32 %at, %at, %b;\n\
                 stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%at], {{{}}};\n\
                 bar.sync 0;\n{copies} ret;\n}}",
                4 * count,
                registers.join(", "),
            );
            let device = Device::new(&text, Arch::Sm90a);
            let fragments: Vec<u32> = (0..32 * count).map(|_| random.next()).collect();
            // Rows in an order of their own.
            let mut rows: Vec<u32> = (0..8 * count as u32).collect();
            for i in (1..rows.len()).rev() {
                rows.swap(i, random.next() as usize % (i + 1));
            }
            let mut addresses: Vec<u32> = rows.iter().map(|row| row * 16).collect();
            addresses.resize(32, 0xffff_fff1);
            let out = device.buffer(128 * count);
            let arguments = [device.upload(&fragments), device.upload(&addresses), out];
            let outcome = device.launch(
                "k",
                [[1; 3], [32, 1, 1]],
                0,
                Checks::All,
                &arguments.map(Argument::Pointer),
            );
            let report = expect_clean(&outcome);
            assert_eq!(report.counters.matrix_stores.bytes, 128 * count as u64);
            let stored: Vec<u16> = device.download(out, 64 * count);
            for lane in 0..32 {
                for matrix in 0..count {
                    for e in 0..2 {
                        let (row, column) = place(lane, e, transposed);
                        let start = addresses[8 * matrix + row] as usize / 2;
                        let sent = (fragments[lane * count + matrix] >> (16 * e)) as u16;
                        assert_eq!(stored[start + column], sent, "lane {lane} matrix {matrix}");
                    }
                }
            }
        }
    }
}

#[test]
fn movmatrix_transposes() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry k(.param .u64 k_0, .param .u64 k_1) {\n\
        .reg .b32 %t, %a, %d; .reg .b64 %p<2>, %o;\n\
        mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 4;\n\
        ld.param.u64 %p0, [k_0]; add.s64 %p0, %p0, %o; ld.global.b32 %a, [%p0];\n\
        movmatrix.sync.aligned.m8n8.trans.b16 %d, %a;\n\
        ld.param.u64 %p1, [k_1]; add.s64 %p1, %p1, %o; st.global.b32 [%p1], %d; ret; }";
    let device = Device::new(text, Arch::Sm80);
    let matrix: Vec<u16> = (0..64).collect();
    let out = device.buffer(128);
    let arguments = [device.upload(&matrix), out].map(Argument::Pointer);
    expect_clean(&device.launch("k", [[1; 3], [32, 1, 1]], 0, Checks::All, &arguments));
    let transposed: Vec<u16> = device.download(out, 64);
    for row in 0..8 {
        for column in 0..8 {
            assert_eq!(transposed[8 * row + column], matrix[8 * column + row]);
        }
    }
}
