//! Matrix products over the edges of their element types: PTX ISA, "mma.sync", "wgmma.mma_async".
//!
//! One product reaches each sum: all elements beyond the first of K are zero. So the result is
//! defined where the order and the width of the additions do not matter: where the product or the
//! addend is zero, infinite or NaN. The signs of zeros are open.

use crate::exact::{BF16, E4M3, E5M2, F16, F32, F64, Format, Round, Value};
use crate::harness::{Compare, Row, check, cluster_row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Threads of a block: a warpgroup.
const BLOCK: usize = 128;

/// Element type of both factors, and type of addends and results.
#[derive(Clone, Copy)]
struct Types {
    /// As the opcode has it.
    name: &'static str,
    factor: Format,
    /// Values of the registers that hold factors, the first of K in the low bits.
    kind: Kind,
    /// Bits of a factor; of tf32, those that do not count are 0.
    mask: u64,
    sum: Format,
}

const HALVES: [Types; 3] = [
    Types {
        name: "f16.f16",
        factor: F16,
        kind: Kind::F16x2,
        mask: 0xFFFF,
        sum: F32,
    },
    Types {
        name: "bf16.bf16",
        factor: BF16,
        kind: Kind::Bf16x2,
        mask: 0xFFFF,
        sum: F32,
    },
    Types {
        name: "f16.f16",
        factor: F16,
        kind: Kind::F16x2,
        mask: 0xFFFF,
        sum: F16,
    },
];
const TF32: Types = Types {
    name: "tf32.tf32",
    factor: F32,
    kind: Kind::Tf32,
    mask: 0xFFFF_E000,
    sum: F32,
};
const EIGHTHS: [Types; 2] = [
    Types {
        name: "e4m3.e4m3",
        factor: E4M3,
        kind: Kind::I32,
        mask: 0xFF,
        sum: F32,
    },
    Types {
        name: "e5m2.e5m2",
        factor: E5M2,
        kind: Kind::I32,
        mask: 0xFF,
        sum: F32,
    },
];

impl Types {
    /// The opcode's part for addend or result.
    fn sum_name(self) -> &'static str {
        if self.sum == F32 { "f32" } else { "f16" }
    }

    /// Registers of addends and results of a thread: four numbers.
    fn sums(self) -> usize {
        if self.sum == F32 { 4 } else { 2 }
    }

    /// `a * b + c`, where it is defined.
    fn defined(self, a: u64, b: u64, c: u64) -> Option<u64> {
        let product = self
            .factor
            .decode(a & self.mask)
            .mul(&self.factor.decode(b & self.mask));
        let addend = self.sum.decode(c);
        let finite = |value: &Value| matches!(value, Value::Finite { .. });
        if !finite(&product) || !finite(&addend) {
            let sum = product.add(&addend, Round::Nearest);
            return Some(self.sum.encode(&sum, Round::Nearest));
        }
        if product.is_zero() {
            return Some(c);
        }
        if !addend.is_zero() {
            return None;
        }
        let bits = self.sum.encode(&product, Round::Nearest);
        let exact = |value: &Value| F64.encode(value, Round::Nearest);
        let is_exact = exact(&self.sum.decode(bits)) == exact(&product);
        // To f16 it is rounded once, but for what lies below the adder's last bit.
        let rounds = self.sum == F16 && bits & self.sum.infinity() != 0;
        (is_exact || rounds).then_some(bits)
    }

    /// A row of a block whose text multiplies `a0`, `a1` (the first of K of rows `g` and `g + 8`),
    /// with what thread `column(n)` has in `$2` and adds `c`. Without `adds` the addends are zero.
    fn row(self, text: String, adds: bool, column: fn(usize, usize) -> usize) -> Row {
        let sum_kind = if self.sum == F32 {
            Kind::F32
        } else {
            Kind::F16x2
        };
        let kinds = [vec![self.kind; 3], vec![sum_kind; self.sums()]].concat();
        let definition = move |lanes: &[Vec<u64>]| {
            let number = |thread: usize, i: usize| {
                let (warp, group) = (thread / 32, thread % 32 / 4);
                let a = lanes[32 * warp + 4 * group][i / 2];
                let b = lanes[column(warp, thread % 4 * 2 + i % 2)][2];
                let c = match self.sums() {
                    _ if !adds => 0,
                    4 => lanes[thread][3 + i],
                    _ => lanes[thread][3 + i / 2] >> (16 * (i % 2)) & 0xFFFF,
                };
                self.defined(a, b, c)
            };
            let thread = |thread: usize| {
                let numbers: Option<Vec<u64>> = (0..4).map(|i| number(thread, i)).collect();
                numbers.map(|n| match self.sums() {
                    4 => n,
                    _ => n.chunks(2).map(|pair| pair[0] | pair[1] << 16).collect(),
                })
            };
            (0..BLOCK).map(thread).collect()
        };
        let compare = if self.sum == F32 {
            Compare::UnsignedZero(F32)
        } else {
            Compare::UnsignedZeros(F16)
        };
        cluster_row(
            text,
            &vec![sum_kind; self.sums()],
            &kinds,
            compare,
            definition,
        )
    }

    /// Text that puts the addends into the destinations.
    fn addends(self, adds: bool) -> String {
        let addend = |i: usize| {
            let from = if adds {
                format!("${}", 3 + i)
            } else {
                "0".into()
            };
            format!("mov.b32 $d{i}, {from};\n")
        };
        (0..self.sums()).map(addend).collect()
    }

    fn results(self) -> String {
        let names: Vec<String> = (0..self.sums()).map(|i| format!("$d{i}")).collect();
        format!("{{{}}}", names.join(", "))
    }

    /// Keeps of the factors in `$0`, `$1` only those of the first threads of four, as `a0`, `a1`.
    fn factors(self) -> String {
        format!(
            ".reg .b32 a0, a1, zero, rest, mask; .reg .pred first; mov.b32 zero, 0; and.b32 rest, %thread, 3;\n\
             setp.eq.u32 first, rest, 0; selp.b32 mask, {}, 0, first; and.b32 a0, $0, mask; and.b32 a1, $1, mask;\n",
            self.mask
        )
    }
}

fn mma(types: Types, adds: bool, depth: usize, registers: usize) -> Row {
    let sum = types.sum_name();
    let zeros = |count: usize| ", zero".repeat(count);
    let text = format!(
        "{{ {} .reg .b32 b; and.b32 b, $2, mask; {}\n\
         mma.sync.aligned.m16n8k{depth}.row.col.{sum}.{}.{sum} {}, {{a0, a1{}}}, {{b{}}}, {}; }}",
        types.factors(),
        types.addends(adds),
        types.name,
        types.results(),
        zeros(registers - 2),
        zeros(registers / 2 - 1),
        types.results(),
    );
    types.row(text, adds, |warp, n| 32 * warp + 4 * n)
}

#[test]
pub fn mma_over_edges() {
    let rows = || {
        let mut rows = Vec::new();
        for adds in [false, true] {
            for (types, depths) in HALVES
                .map(|types| (types, [(8, 2), (16, 4)]))
                .into_iter()
                .chain([(TF32, [(4, 2), (8, 4)])])
            {
                rows.extend(depths.map(|(depth, registers)| mma(types, adds, depth, registers)));
            }
        }
        rows
    };
    check(Arch::Sm80, rows());
    check(Arch::Sm90a, rows());
}

/// `a b + c` in f64 is rounded once for each product.
#[test]
pub fn mma_of_f64_over_edges() {
    let text = "{ .reg .b32 rest; .reg .pred first; .reg .b64 a, b; and.b32 rest, %thread, 3; setp.eq.u32 first, rest, 0;\n\
        selp.b64 a, $0, 0, first; selp.b64 b, $1, 0, first;\n\
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {$d0, $d1}, {a}, {b}, {$2, $3}; }";
    let definition = |lanes: &[Vec<u64>]| {
        let number = |thread: usize, i: usize| {
            let first = thread / 4 * 4;
            let column = thread / 32 * 32 + 4 * (thread % 4 * 2 + i);
            let product = F64
                .decode(lanes[first][0])
                .mul(&F64.decode(lanes[column][1]));
            let sum = product.add(&F64.decode(lanes[thread][2 + i]), Round::Nearest);
            F64.encode(&sum, Round::Nearest)
        };
        (0..BLOCK)
            .map(|thread| Some(vec![number(thread, 0), number(thread, 1)]))
            .collect()
    };
    let compare = Compare::UnsignedZero(F64);
    let row = cluster_row(text, &[Kind::F64; 2], &[Kind::F64; 4], compare, definition);
    check(Arch::Sm80, vec![row]);
}

/// How B's tile of 8 columns is made: thread `t` stores a word of `bits` bits at its place; the first of K
/// of column `n` is that of thread `step n`.
struct Tile {
    bits: usize,
    step: usize,
}

/// A descriptor of B's tile, K-major and not swizzled: 8 rows of 16 bytes, and as many behind them.
const DESCRIPTOR: &str = "fence.proxy.async; bar.sync 0; .reg .b64 desc; cvt.u64.u32 desc, tile_at; shr.u64 desc, desc, 4;\n\
    or.b64 desc, desc, 0x800080000; wgmma.fence.sync.aligned;";

fn wgmma(types: Types, adds: bool, depth: usize, tail: &str, tile: Tile) -> Row {
    let bytes = tile.bits / 8;
    let stored = 256 / bytes;
    // Of the threads that store, those of the first half hold the first half of K.
    let text = format!(
        "{{ {} .shared .align 128 .b8 tile[256]; .reg .b32 tile_at, place, b; .reg .pred stores, all;\n\
         mov.u32 tile_at, tile; mad.lo.u32 place, %thread, {bytes}, tile_at; rem.u32 rest, %thread, {};\n\
         setp.eq.u32 first, rest, 0; setp.lt.and.u32 first, %thread, {}, first; selp.b32 b, {}, 0, first; and.b32 b, b, $2;\n\
         setp.lt.u32 stores, %thread, {stored}; {} {DESCRIPTOR}\n\
         {} setp.eq.u32 all, %thread, %thread;\n\
         wgmma.mma_async.sync.aligned.m64n8k{depth}.{}.{} {}, {{a0, a1, zero, zero}}, desc, all{tail};\n\
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; }}",
        types.factors(),
        tile.step,
        stored / 2,
        types.mask,
        match tile.bits {
            32 => "@stores st.shared.b32 [place], b;",
            _ => ".reg .b16 half; cvt.u16.u32 half, b; @stores st.shared.b16 [place], half;",
        },
        types.addends(adds),
        types.sum_name(),
        types.name,
        types.results(),
    );
    match tile.step {
        8 => types.row(text, adds, |_, n| 8 * n),
        _ => types.row(text, adds, |_, n| 4 * n),
    }
}

#[test]
pub fn wgmma_over_edges() {
    let mut rows = Vec::new();
    for adds in [false, true] {
        for types in HALVES {
            rows.push(wgmma(
                types,
                adds,
                16,
                ", 1, 1, 0",
                Tile { bits: 16, step: 8 },
            ));
        }
        rows.push(wgmma(TF32, adds, 8, ", 1, 1", Tile { bits: 32, step: 4 }));
    }
    // The adder of 8-bit factors is too narrow for addends of f32.
    for types in EIGHTHS {
        rows.push(wgmma(
            types,
            false,
            32,
            ", 1, 1",
            Tile { bits: 16, step: 8 },
        ));
    }
    check(Arch::Sm90a, rows);
}

/// Integers: every byte of A and B is an edge, and sums are exact, modulo 2^32 or clamped.
#[test]
pub fn wgmma_of_integers() {
    let mut rows = Vec::new();
    for (left, right, saturate) in [
        ("s8", "s8", false),
        ("u8", "u8", false),
        ("s8", "u8", true),
        ("u8", "s8", true),
    ] {
        let finish = if saturate { ".satfinite" } else { "" };
        let text = format!(
            "{{ .shared .align 128 .b8 tile[256]; .reg .b32 tile_at, place; .reg .b16 half; .reg .pred all;\n\
             mov.u32 tile_at, tile; mad.lo.u32 place, %thread, 2, tile_at; cvt.u16.u32 half, $4; st.shared.b16 [place], half;\n\
             {DESCRIPTOR} setp.eq.u32 all, %thread, %thread;\n\
             mov.b32 $d0, $5; mov.b32 $d1, $6; mov.b32 $d2, $7; mov.b32 $d3, $8;\n\
             wgmma.mma_async.sync.aligned.m64n8k32{finish}.s32.{left}.{right} {{$d0, $d1, $d2, $d3}}, {{$0, $1, $2, $3}}, desc, all;\n\
             wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; }}"
        );
        let byte = |word: u64, index: usize, ty: &str| match ty {
            "s8" => i64::from((word >> (8 * index)) as i8),
            _ => i64::from((word >> (8 * index)) as u8),
        };
        let definition = move |lanes: &[Vec<u64>]| {
            let number = |thread: usize, i: usize| {
                let product = |k: usize| {
                    let a = lanes[thread / 4 * 4 + k % 16 / 4][i / 2 + 2 * (k / 16)];
                    let n = thread % 4 * 2 + i % 2;
                    let b = lanes[k / 16 * 64 + 8 * n + k % 16 / 2][4];
                    byte(a, k % 4, left) * byte(b, k % 2, right)
                };
                let sum =
                    i64::from(lanes[thread][5 + i] as i32) + (0..32).map(product).sum::<i64>();
                let clamped = sum.clamp(i32::MIN.into(), i32::MAX.into());
                if saturate { clamped as u64 } else { sum as u64 }
            };
            (0..BLOCK)
                .map(|thread| Some((0..4).map(|i| number(thread, i)).collect()))
                .collect()
        };
        rows.push(cluster_row(
            text,
            &[Kind::I32; 4],
            &[Kind::I32; 9],
            Compare::Bits,
            definition,
        ));
    }
    check(Arch::Sm90a, rows);
}
