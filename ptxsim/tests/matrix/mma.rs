//! `mma.sync` in all its shapes, and the moves of matrices, against scalar definitions.
//!
//! Fragments are laid out here by the formulas of the PTX ISA (9.7.14.5), which number the elements
//! of a thread; the library has one formula by registers for all shapes.

use crate::support::{Argument, Device, Random, expect_clean};
use ptxsim::sim::{Arch, Checks};
use ptxsim::tensor::format::{Format, Term};
use ptxsim::tensor::model::{Accumulator, Model};

/// Element types of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Types {
    Float(Format, Accumulator),
    Integer { signed: [bool; 2], saturate: bool },
}

#[derive(Clone, Copy, Debug)]
struct Case {
    opcode: &'static str,
    m: usize,
    k: usize,
    types: Types,
}

const fn float(opcode: &'static str, k: usize, format: Format, accumulator: Accumulator) -> Case {
    Case {
        opcode,
        m: 16,
        k,
        types: Types::Float(format, accumulator),
    }
}

const fn integer(
    opcode: &'static str,
    m: usize,
    k: usize,
    signed: [bool; 2],
    saturate: bool,
) -> Case {
    Case {
        opcode,
        m,
        k,
        types: Types::Integer { signed, saturate },
    }
}

const CASES: &[Case] = &[
    float(
        "m16n8k8.row.col.f32.f16.f16.f32",
        8,
        Format::F16,
        Accumulator::F32,
    ),
    float(
        "m16n8k16.row.col.f32.f16.f16.f32",
        16,
        Format::F16,
        Accumulator::F32,
    ),
    float(
        "m16n8k8.row.col.f16.f16.f16.f16",
        8,
        Format::F16,
        Accumulator::F16,
    ),
    float(
        "m16n8k16.row.col.f16.f16.f16.f16",
        16,
        Format::F16,
        Accumulator::F16,
    ),
    float(
        "m16n8k8.row.col.f32.bf16.bf16.f32",
        8,
        Format::Bf16,
        Accumulator::F32,
    ),
    float(
        "m16n8k16.row.col.f32.bf16.bf16.f32",
        16,
        Format::Bf16,
        Accumulator::F32,
    ),
    float(
        "m16n8k4.row.col.f32.tf32.tf32.f32",
        4,
        Format::Tf32,
        Accumulator::F32,
    ),
    float(
        "m16n8k8.row.col.f32.tf32.tf32.f32",
        8,
        Format::Tf32,
        Accumulator::F32,
    ),
    integer("m8n8k16.row.col.s32.s8.s8.s32", 8, 16, [true, true], false),
    integer(
        "m16n8k16.row.col.s32.u8.s8.s32",
        16,
        16,
        [false, true],
        false,
    ),
    integer(
        "m16n8k32.row.col.s32.s8.u8.s32",
        16,
        32,
        [true, false],
        false,
    ),
    integer(
        "m16n8k32.row.col.satfinite.s32.u8.u8.s32",
        16,
        32,
        [false, false],
        true,
    ),
    integer(
        "m16n8k32.row.col.satfinite.s32.s8.s8.s32",
        16,
        32,
        [true, true],
        true,
    ),
];

impl Case {
    /// Bits of an element of A and B.
    fn bits(&self) -> usize {
        match self.types {
            Types::Float(format, _) => format.bits() as usize,
            Types::Integer { .. } => 8,
        }
    }

    fn result_bits(&self) -> usize {
        if matches!(self.types, Types::Float(_, Accumulator::F16)) {
            16
        } else {
            32
        }
    }

    /// Registers of A, B and C.
    fn registers(&self) -> [usize; 3] {
        let of = |elements: usize, bits: usize| elements * bits / 32 / 32;
        [
            of(self.m * self.k, self.bits()),
            of(8 * self.k, self.bits()),
            of(self.m * 8, self.result_bits()),
        ]
    }
}

/// Row and column in A of element `i` of a thread.
fn a_place(case: &Case, lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane / 4, lane % 4);
    match (case.bits(), case.m, case.k) {
        (16, _, 8) => (if i < 2 { group } else { group + 8 }, t * 2 + (i & 1)),
        (16, _, _) => (
            if i < 2 || (4..6).contains(&i) {
                group
            } else {
                group + 8
            },
            t * 2 + (i & 1) + if i < 4 { 0 } else { 8 },
        ),
        (32, _, _) => (
            if i.is_multiple_of(2) {
                group
            } else {
                group + 8
            },
            if i < 2 { t } else { t + 4 },
        ),
        (_, 8, _) => (group, t * 4 + (i & 3)),
        _ => (
            if i < 4 || (8..12).contains(&i) {
                group
            } else {
                group + 8
            },
            t * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
        ),
    }
}

/// Row and column in B.
fn b_place(case: &Case, lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane / 4, lane % 4);
    let row = match case.bits() {
        16 => t * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        32 => t + 4 * i,
        _ => t * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
    };
    (row, group)
}

/// Row and column in C and D.
fn d_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1))
}

/// Packs elements into the registers of each lane.
fn pack(registers: usize, bits: usize, element: impl Fn(usize, usize) -> u32) -> Vec<u32> {
    let width = 32 / bits;
    let mut words = vec![0; 32 * registers];
    for lane in 0..32 {
        for i in 0..registers * width {
            words[lane * registers + i / width] |= element(lane, i) << (i % width * bits);
        }
    }
    words
}

/// A kernel of one warp: loads three operands, runs the instruction, stores the result.
fn kernel(case: &Case, target: &str) -> String {
    let [a, b, c] = case.registers();
    let list = |name: &str, count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("%{name}{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let mut body = String::new();
    for (name, count, pointer) in [("a", a, 0), ("b", b, 1), ("c", c, 2), ("d", c, 3)] {
        body += &format!(
            "ld.param.u64 %p{pointer}, [k_{pointer}];\n mul.wide.u32 %o, %t, {};\n \
             add.s64 %p{pointer}, %p{pointer}, %o;\n",
            4 * count
        );
        if name != "d" {
            for i in 0..count {
                body += &format!("ld.global.b32 %{name}{i}, [%p{pointer}+{}];\n", 4 * i);
            }
        }
    }
    body += &format!(
        "mma.sync.aligned.{} {}, {}, {}, {};\n",
        case.opcode,
        list("d", c),
        list("a", a),
        list("b", b),
        list("c", c)
    );
    for i in 0..c {
        body += &format!("st.global.b32 [%p3+{}], %d{i};\n", 4 * i);
    }
    format!(
        ".version 8.0\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .u64 k_0, .param .u64 k_1, .param .u64 k_2, .param .u64 k_3) {{\n\
         .reg .b32 %a<4>, %b<4>, %c<4>, %d<4>, %t;\n .reg .b64 %p<4>, %o;\n\
         mov.u32 %t, %tid.x;\n{body} ret;\n}}\n"
    )
}

/// Bits of a random element: any value, or one of ordinary size.
fn draw(case: &Case, random: &mut Random, wild: bool) -> u32 {
    let mask = u32::MAX >> (32 - case.bits());
    let any = random.next() & mask;
    match case.types {
        Types::Integer { .. } => any,
        Types::Float(..) if wild => any,
        Types::Float(Format::F16, _) => half::f16::from_f32(random.unit() * 4.0).to_bits().into(),
        Types::Float(Format::Bf16, _) => (random.unit() * 4.0).to_bits() >> 16,
        Types::Float(..) => (random.unit() * 4.0).to_bits(),
    }
}

fn draw_c(case: &Case, random: &mut Random, wild: bool) -> u32 {
    match (case.types, wild) {
        (Types::Float(_, Accumulator::F32), false) => random.unit().to_bits(),
        (Types::Float(_, Accumulator::F16), false) => {
            half::f16::from_f32(random.unit()).to_bits().into()
        }
        (Types::Float(_, Accumulator::F16), true) => random.next() & 0xffff,
        // Near the ends of the range too, so that sums overflow.
        (Types::Integer { .. }, true) => (i32::MAX as u32).wrapping_add(random.next() % 1_000_000),
        _ => random.next(),
    }
}

/// One element of D from a row of A and a column of B.
fn expected(case: &Case, arch: Arch, a: &[u32], b: &[u32], c: u32) -> u32 {
    match case.types {
        Types::Integer { signed, saturate } => {
            let value = |signed, bits: u32| match signed {
                true => i64::from(bits as u8 as i8),
                false => i64::from(bits),
            };
            let products = a
                .iter()
                .zip(b)
                .map(|(&a, &b)| value(signed[0], a) * value(signed[1], b));
            let sum = i64::from(c as i32) + products.sum::<i64>();
            let clamped = sum.clamp(i32::MIN.into(), i32::MAX.into());
            if saturate { clamped as u32 } else { sum as u32 }
        }
        Types::Float(format, accumulator) => {
            let model = Model::mma(arch, format, accumulator).unwrap();
            let terms = |x: &[u32]| -> Vec<Term> { x.iter().map(|&x| format.term(x)).collect() };
            let (a, b) = (terms(a), terms(b));
            let half_width = accumulator == Accumulator::F16;
            let start = match half_width {
                true => half::f16::from_bits(c as u16).to_f32(),
                false => f32::from_bits(c),
            };
            let blocks = a.chunks(model.block).zip(b.chunks(model.block));
            let sum = blocks.fold(start, |sum, (a, b)| model.fused_dot_add(a, b, sum));
            match half_width {
                true if sum.is_nan() => 0x7fff,
                true => half::f16::from_f32(sum).to_bits().into(),
                false => sum.to_bits(),
            }
        }
    }
}

fn run_case(case: &Case, arch: Arch, random: &mut Random, wild: bool) {
    let target = if arch == Arch::Sm80 {
        "sm_80"
    } else {
        "sm_90a"
    };
    let device = Device::new(&kernel(case, target), arch);
    let [a_count, b_count, c_count] = case.registers();
    let a: Vec<u32> = (0..case.m * case.k)
        .map(|_| draw(case, random, wild))
        .collect();
    let b: Vec<u32> = (0..case.k * 8).map(|_| draw(case, random, wild)).collect();
    let c: Vec<u32> = (0..case.m * 8)
        .map(|_| draw_c(case, random, wild))
        .collect();
    let at = |(row, column): (usize, usize), width: usize| row * width + column;
    let a_words = pack(a_count, case.bits(), |lane, i| {
        a[at(a_place(case, lane, i), case.k)]
    });
    let b_words = pack(b_count, case.bits(), |lane, i| {
        b[at(b_place(case, lane, i), 8)]
    });
    let c_words = pack(c_count, case.result_bits(), |lane, i| {
        c[at(d_place(lane, i), 8)]
    });
    let d = device.buffer(4 * 32 * c_count);
    let arguments = [
        Argument::Pointer(device.upload(&a_words)),
        Argument::Pointer(device.upload(&b_words)),
        Argument::Pointer(device.upload(&c_words)),
        Argument::Pointer(d),
    ];
    let outcome = device.launch("k", [[1; 3], [32, 1, 1]], 0, Checks::All, &arguments);
    let report = expect_clean(&outcome);
    assert_eq!(
        report.counters.tensor_flops,
        2 * (case.m * 8 * case.k) as u64
    );
    assert_eq!(report.counters.mma_instructions, 1);
    let d_words: Vec<u32> = device.download(d, 32 * c_count);
    let wanted = pack(c_count, case.result_bits(), |lane, i| {
        let (row, column) = d_place(lane, i);
        let a_row = &a[row * case.k..(row + 1) * case.k];
        let b_column: Vec<u32> = (0..case.k).map(|k| b[k * 8 + column]).collect();
        expected(case, arch, a_row, &b_column, c[row * 8 + column])
    });
    assert_eq!(d_words, wanted, "{case:?} {arch:?}");
}

#[test]
fn every_shape_follows_its_definition() {
    let mut random = Random(0x9876_5432_1234_5678);
    for case in CASES {
        for arch in [Arch::Sm80, Arch::Sm90a] {
            for wild in [false, true, false, true] {
                run_case(case, arch, &mut random, wild);
            }
        }
    }
}
