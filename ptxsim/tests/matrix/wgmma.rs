//! `wgmma` and `setmaxnreg`: compiled kernels, each with its planted bugs, and all element types.

use crate::support::{Argument, Device, Random, expect_clean, expect_finding};
use ptxsim::report::FindingKind;
use ptxsim::sim::{Arch, Checks, LaunchError, Outcome};

const FIXTURE: &str = include_str!("../fixtures/matrix/wgmma_sm90a.ptx");
const M: usize = 64;
const N: usize = 128;
const K: usize = 64;
/// A's and B's tile.
const SHARED: u32 = ((M + N) * K * 2) as u32;

/// Small integers, so that every sum is exact in f32.
fn matrices() -> (Vec<f32>, Vec<f32>) {
    let mut random = Random(0x77);
    let mut draw = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| (random.next() % 9) as f32 - 4.0)
            .collect()
    };
    (draw(M * K), draw(K * N))
}

fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}

fn run(kernel: &str) -> (Outcome, bool) {
    let device = Device::new(FIXTURE, Arch::Sm90a);
    let (a, b) = matrices();
    let c = device.buffer(4 * M * N);
    let arguments = [device.upload(&bf16(&a)), device.upload(&bf16(&b)), c].map(Argument::Pointer);
    let outcome = device.launch(
        kernel,
        [[1; 3], [128, 1, 1]],
        SHARED,
        Checks::All,
        &arguments,
    );
    let product: Vec<f32> = device.download(c, M * N);
    let expected = |i: usize| {
        (0..K)
            .map(|k| a[i / N * K + k] * b[k * N + i % N])
            .sum::<f32>()
    };
    let right = product.iter().enumerate().all(|(i, &c)| c == expected(i));
    (outcome, right)
}

#[test]
fn products_of_swizzled_tiles_are_right_in_both_majors() {
    for kernel in [
        "wgmma_k_k",
        "wgmma_k_mn",
        "wgmma_mn_k",
        "wgmma_mn_mn",
        "wgmma_registers",
    ] {
        let (outcome, right) = run(kernel);
        let report = expect_clean(&outcome);
        assert!(right, "{kernel}");
        assert_eq!(report.counters.tensor_flops, 2 * (M * N * K) as u64);
        assert_eq!(report.counters.wgmma_instructions, (K / 16) as u64);
    }
}

#[test]
fn planted_bugs_are_found() {
    for (kernel, kind) in [
        ("wgmma_no_fence", FindingKind::AsyncRegister),
        ("wgmma_no_wait", FindingKind::AsyncRegister),
        ("wgmma_wrong_wait", FindingKind::AsyncRegister),
        ("wgmma_no_proxy_fence", FindingKind::ProxyFence),
        ("wgmma_reuse", FindingKind::SharedRace),
    ] {
        let (outcome, _) = run(kernel);
        expect_finding(&outcome, kind);
    }
}

#[test]
fn setmaxnreg_waits_for_registers() {
    let run = |kernel| {
        let device = Device::new(FIXTURE, Arch::Sm90a);
        let out = device.buffer(4 * 384);
        let arguments = [Argument::Pointer(out)];
        device.launch(kernel, [[1; 3], [384, 1, 1]], 0, Checks::All, &arguments)
    };
    expect_clean(&run("setmaxnreg_balanced"));
    let starved = run("setmaxnreg_starved");
    expect_finding(&starved, FindingKind::Deadlock);
    assert_eq!(starved.result, Err(LaunchError::Timeout));
}

/// One instruction on tiles that the host has laid out.
struct Single {
    opcode: String,
    /// Operands after `scale-d`.
    tail: &'static str,
    registers: usize,
}

impl Single {
    /// A kernel of a warpgroup: copies `%n` words to shared memory, multiplies with accumulators
    /// from memory, and stores them.
    fn kernel(&self) -> String {
        let names: Vec<String> = (0..self.registers).map(|i| format!("%d{i}")).collect();
        let each =
            |text: &dyn Fn(usize) -> String| -> String { (0..self.registers).map(text).collect() };
        format!(
            ".version 8.4\n.target sm_90a\n.address_size 64\n\
             .extern .shared .align 1024 .b8 tiles[];\n\
             .visible .entry k(.param .u64 k_0, .param .u64 k_1, .param .u32 k_2, .param .u64 k_3, \
             .param .u64 k_4) {{\n\
             .reg .b32 %d<{}>, %i, %n, %v, %t; .reg .pred %p, %q; .reg .b64 %from, %acc, %o, %s, %a, %b;\n\
             mov.u32 %t, %tid.x; mov.u32 %i, %t;\n\
             ld.param.u64 %from, [k_0]; ld.param.u64 %acc, [k_1]; ld.param.u32 %n, [k_2];\n\
             ld.param.u64 %a, [k_3]; ld.param.u64 %b, [k_4];\n\
             LOOP: setp.ge.u32 %p, %i, %n; @%p bra DONE;\n\
             mul.wide.u32 %o, %i, 4; add.s64 %s, %from, %o; ld.global.b32 %v, [%s];\n\
             mov.u64 %s, tiles; add.s64 %s, %s, %o; st.shared.b32 [%s], %v;\n\
             add.u32 %i, %i, 128; bra LOOP;\n\
             DONE: fence.proxy.async;\n bar.sync 0;\n\
             mul.wide.u32 %o, %t, {}; add.s64 %acc, %acc, %o;\n{}\
             setp.eq.u32 %q, %n, %n;\n wgmma.fence.sync.aligned;\n\
             wgmma.mma_async.sync.aligned.{} {{{}}}, %a, %b, %q{};\n\
             wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;\n{} ret;\n}}",
            self.registers,
            4 * self.registers,
            each(&|i| format!("ld.global.b32 %d{i}, [%acc+{}];\n", 4 * i)),
            self.opcode,
            names.join(", "),
            self.tail,
            each(&|i| format!("st.global.b32 [%acc+{}], %d{i};\n", 4 * i)),
        )
    }
}

/// Element types: opcode suffix, bytes, k, and the value and bits of small integers.
struct Type {
    suffix: &'static str,
    bytes: usize,
    tail: &'static str,
    encode: fn(i32) -> u32,
    decode: fn(u32) -> f64,
}

fn e4m3(value: i32) -> u32 {
    let magnitude = [0x00, 0x38, 0x40, 0x44, 0x48][value.unsigned_abs() as usize];
    magnitude | u32::from(value < 0) << 7
}

fn e5m2(value: i32) -> u32 {
    u32::from(half::f16::from_f32(value as f32).to_bits() >> 8)
}

fn f32_value(bits: u32) -> f64 {
    f32::from_bits(bits).into()
}

const TYPES: &[Type] = &[
    Type {
        suffix: "k16.f32.f16.f16",
        bytes: 2,
        tail: ", 1, 1, 0, 0",
        encode: |v| half::f16::from_f32(v as f32).to_bits().into(),
        decode: f32_value,
    },
    Type {
        suffix: "k16.f32.bf16.bf16",
        bytes: 2,
        tail: ", -1, -1, 0, 0",
        encode: |v| (v as f32).to_bits() >> 16,
        decode: f32_value,
    },
    Type {
        suffix: "k8.f32.tf32.tf32",
        bytes: 4,
        tail: ", 1, 1",
        encode: |v| (v as f32).to_bits(),
        decode: f32_value,
    },
    Type {
        suffix: "k32.f32.e4m3.e4m3",
        bytes: 1,
        tail: ", 1, 1",
        encode: e4m3,
        decode: f32_value,
    },
    Type {
        suffix: "k32.f32.e5m2.e5m2",
        bytes: 1,
        tail: ", 1, 1",
        encode: e5m2,
        decode: f32_value,
    },
    Type {
        suffix: "k32.s32.s8.s8",
        bytes: 1,
        tail: "",
        encode: |v| u32::from(v as u8),
        decode: |bits| f64::from(bits as i32),
    },
];

/// All element types, widths and swizzles of K-major tiles: 64 rows of A, then the rows of B.
#[test]
fn every_type_and_swizzle_multiplies() {
    let mut random = Random(0x1357);
    for ty in TYPES {
        for columns in [8, 24, 32, 96, 256] {
            for (mode, chunks) in [(0u64, 1), (3, 2), (2, 4), (1, 8)] {
                let device = Device::new(
                    &Single {
                        opcode: format!("m64n{columns}{}", ty.suffix),
                        tail: ty.tail,
                        registers: columns / 2,
                    }
                    .kernel(),
                    Arch::Sm90a,
                );
                let depth = 32 / ty.bytes;
                let mut draw = |count: usize| -> Vec<i32> {
                    (0..count).map(|_| (random.next() % 9) as i32 - 4).collect()
                };
                let (a, b) = (draw(64 * depth), draw(columns * depth));
                let start = |index: usize| index * 64 * 128;
                let mut shared = vec![0u8; start(1) + columns * 128];
                let layout = Layout { mode, chunks };
                layout.place(&mut shared, 0, ty, &a, depth);
                layout.place(&mut shared, start(1), ty, &b, depth);
                let descriptors = [
                    layout.descriptor(0, 64),
                    layout.descriptor(start(1), columns),
                ];
                let words: Vec<u32> = shared
                    .chunks(4)
                    .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
                    .collect();
                let sums = device.upload(&vec![0u32; 128 * columns / 2]);
                let arguments = [
                    Argument::Pointer(device.upload(&words)),
                    Argument::Pointer(sums),
                    Argument::Int(words.len() as i32),
                    Argument::Pointer(descriptors[0]),
                    Argument::Pointer(descriptors[1]),
                ];
                let shared_bytes = shared.len() as u32;
                let outcome = device.launch(
                    "k",
                    [[1; 3], [128, 1, 1]],
                    shared_bytes,
                    Checks::All,
                    &arguments,
                );
                expect_clean(&outcome);
                let sums: Vec<u32> = device.download(sums, 64 * columns);
                for (i, &bits) in sums.iter().enumerate() {
                    let (thread, register) = (i / (columns / 2), i % (columns / 2));
                    let row = thread / 32 * 16 + thread % 32 / 4 + register / 2 % 2 * 8;
                    let column = register / 4 * 8 + thread % 4 * 2 + register % 2;
                    let dot = (0..depth).map(|k| a[row * depth + k] * b[column * depth + k]);
                    let wanted = f64::from(dot.sum::<i32>());
                    assert_eq!(
                        (ty.decode)(bits),
                        wanted,
                        "{} n{columns} mode {mode}",
                        ty.suffix
                    );
                }
            }
        }
    }
}

/// A K-major tile of one instruction's depth, 32 bytes a row, by the canonical layouts of the PTX ISA.
struct Layout {
    mode: u64,
    /// 16-byte chunks of a swizzled row.
    chunks: usize,
}

impl Layout {
    /// Where the byte `byte` of row `row` lies from the start of the tile, which is aligned.
    fn offset(&self, row: usize, byte: usize, rows: usize) -> usize {
        if self.chunks == 1 {
            // Eight rows of 16 bytes a core matrix; second half of k after all rows.
            return row * 16 + byte / 16 * rows * 16 + byte % 16;
        }
        let line = row * self.chunks * 16;
        let pattern = (line >> 7) % self.chunks;
        let chunk = (line / 16 + byte / 16) % 8;
        let swizzled = (chunk & !(self.chunks - 1)) | ((chunk ^ pattern) & (self.chunks - 1));
        line / 128 * 128 + swizzled * 16 + byte % 16
    }

    fn place(&self, shared: &mut [u8], start: usize, ty: &Type, values: &[i32], depth: usize) {
        let rows = values.len() / depth;
        for (i, &value) in values.iter().enumerate() {
            let bits = (ty.encode)(value).to_le_bytes();
            for (byte, &bits) in bits[..ty.bytes].iter().enumerate() {
                let offset = self.offset(i / depth, i % depth * ty.bytes + byte, rows);
                shared[start + offset] = bits;
            }
        }
    }

    fn descriptor(&self, start: usize, rows: usize) -> u64 {
        let stride = 8 * 16 * self.chunks;
        let leading = if self.chunks == 1 { rows * 16 } else { 16 };
        (start as u64 >> 4)
            | (leading as u64 >> 4) << 16
            | (stride as u64 >> 4) << 32
            | self.mode << 62
    }
}

#[test]
fn bad_descriptors_and_small_blocks_are_found() {
    let single = Single {
        opcode: "m64n8k16.f32.bf16.bf16".into(),
        tail: ", 1, 1, 0, 0",
        registers: 4,
    };
    let run = |descriptor: u64, threads: u32| {
        let device = Device::new(&single.kernel(), Arch::Sm90a);
        let sums = device.upload(&[0u32; 512]);
        let words = device.upload(&[0u32; 1024]);
        let layout = Layout { mode: 1, chunks: 8 };
        let arguments = [
            Argument::Pointer(words),
            Argument::Pointer(sums),
            Argument::Int(1024),
            Argument::Pointer(descriptor),
            Argument::Pointer(layout.descriptor(0, 8)),
        ];
        device.launch(
            "k",
            [[1; 3], [threads, 1, 1]],
            8192,
            Checks::All,
            &arguments,
        )
    };
    let good = Layout { mode: 1, chunks: 8 }.descriptor(0, 64);
    // The kernel fills half of A's tile.
    expect_finding(&run(good, 128), FindingKind::Uninitialized);
    expect_finding(&run(good | 0x200, 128), FindingKind::OutOfBounds);
    expect_finding(&run(good | 1 << 49, 128), FindingKind::Operand);
    let outcome = run(good, 64);
    expect_finding(&outcome, FindingKind::WarpSync);
    assert_eq!(outcome.result, Err(LaunchError::LaunchFailed));
}

#[test]
fn is_a_load_error_on_other_architectures_and_in_unknown_forms() {
    let load = |opcode: &str, arch| {
        let text = Single {
            opcode: opcode.into(),
            tail: ", 1, 1, 0, 0",
            registers: 4,
        }
        .kernel();
        let memory = std::sync::Arc::new(ptxsim::memory::Memory::new(1 << 20));
        ptxsim::sim::Module::load(&text, arch, &memory)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    load("m64n8k16.f32.bf16.bf16", Arch::Sm90a).unwrap();
    assert!(
        load("m64n8k16.f32.bf16.bf16", Arch::Sm80)
            .unwrap_err()
            .contains("sm_90a")
    );
    for opcode in [
        "m64n12k16.f32.f16.f16",
        "m64n8k8.f32.f16.f16",
        "m64n8k16.f16.bf16.bf16",
    ] {
        assert!(
            load(opcode, Arch::Sm90a).unwrap_err().contains("wgmma"),
            "{opcode}"
        );
    }
}
