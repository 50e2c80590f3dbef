//! Copies and reductions of boxes of tensors: PTX ISA, "cp.async.bulk.tensor" and
//! "cp.reduce.async.bulk.tensor", over coordinates inside, at the edge and far outside.

use crate::exact::F32;
use crate::harness::{Compare, Row, Setting, check, several, warp_row};
use crate::values::Kind;
use ptxsim::sim::Arch;
use ptxsim::tensor::tensor_map::{TiledParams, encode_tiled};

/// Numbers of the driver's `CUtensorMapDataType`.
const U32: u32 = 2;
const S32: u32 = 3;
const FLOAT32: u32 = 7;
const FLOAT32_FTZ: u32 = 10;

/// Elements of a row in memory, more than the tensor has.
const PITCH: usize = 8;

/// A tensor of 32-bit elements and the box that is moved.
struct Tensor {
    data_type: u32,
    /// Innermost first.
    dims: Vec<u64>,
    box_dims: Vec<u32>,
    /// Elements outside are NaN instead of zero.
    fill_nan: bool,
}

impl Tensor {
    fn new(dims: &[u64], box_dims: &[u32]) -> Tensor {
        Tensor {
            data_type: U32,
            dims: dims.to_vec(),
            box_dims: box_dims.to_vec(),
            fill_nan: false,
        }
    }

    /// Bytes between neighbours of each dimension but the first.
    fn strides(&self) -> Vec<u64> {
        let mut stride = 4 * PITCH as u64;
        let mut strides = Vec::new();
        for dim in &self.dims[1..] {
            strides.push(stride);
            stride *= dim;
        }
        strides
    }

    /// Elements of the tensor's memory.
    fn words(&self) -> usize {
        PITCH * self.dims[1..].iter().product::<u64>() as usize
    }

    fn encode(&self, address: u64) -> [u8; 128] {
        let params = TiledParams {
            data_type: self.data_type,
            address,
            dims: &self.dims,
            strides: &self.strides(),
            box_dims: &self.box_dims,
            element_strides: &vec![1; self.dims.len()],
            interleave: 0,
            swizzle: 0,
            l2_promotion: 0,
            oob_fill: self.fill_nan.into(),
        };
        encode_tiled(&params).unwrap()
    }

    /// The tensor as variable `data` with the values of [`value`], or zeros, and its map as `map`.
    fn prelude(&self, filled: bool) -> String {
        let words = |bytes: [u8; 128]| -> Vec<u64> {
            let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().unwrap());
            bytes.chunks(8).map(word).collect()
        };
        let (low, high) = (words(self.encode(0)), words(self.encode(1 << 20)));
        let word = |(low, high): (&u64, &u64)| match low == high {
            true => low.to_string(),
            false => "generic(data)".into(),
        };
        let map: Vec<String> = low.iter().zip(&high).map(word).collect();
        let data: Vec<String> = (0..self.words()).map(|i| value(i).to_string()).collect();
        let data = match filled {
            true => format!(" = {{{}}}", data.join(", ")),
            false => String::new(),
        };
        format!(
            ".global .align 128 .b32 data[{}]{data};\n.const .align 64 .u64 map[16] = {{{}}};\n",
            self.words(),
            map.join(", "),
        )
    }

    /// Where the element at these coordinates lies, if it is inside.
    fn index(&self, at: &[i64]) -> Option<usize> {
        let inside = at
            .iter()
            .zip(&self.dims)
            .all(|(&c, &dim)| (0..dim as i64).contains(&c));
        let offset = |(d, &c): (usize, &i64)| match d {
            0 => c as usize,
            _ => c as usize * self.strides()[d - 1] as usize / 4,
        };
        inside.then(|| at.iter().enumerate().map(offset).sum())
    }

    /// Where each element of the box at `start` lies.
    fn boxed(&self, start: &[i64]) -> Vec<Option<usize>> {
        let count = self.box_dims.iter().product::<u32>();
        let element = |index: u32| {
            let mut rest = index;
            let coordinate = |(&start, &size): (&i64, &u32)| {
                let within = rest % size;
                rest /= size;
                start + i64::from(within)
            };
            let at: Vec<i64> = start.iter().zip(&self.box_dims).map(coordinate).collect();
            self.index(&at)
        };
        (0..count).map(element).collect()
    }
}

/// Element `index` of the tensor: zeros, subnormals, infinities and NaN among them.
fn value(index: usize) -> u32 {
    const EDGES: [u32; 8] = [
        0,
        1,
        0x8000_0000,
        0x007f_ffff,
        0x8000_0001,
        0x7f80_0000,
        0xffff_ffff,
        0x3f80_0000,
    ];
    match index % 3 {
        0 => EDGES[index / 3 % EDGES.len()],
        _ => (index as u32 + 1).wrapping_mul(0x9e37_79b9),
    }
}

/// Each thread's 128 bytes of shared memory at `p`, its mbarrier at `bar`, the map's address in `m`.
const CELL: &str = ".shared .align 128 .b8 cells[16384]; .shared .align 8 .b64 bars[128]; .reg .b32 p, bar;\n\
    .reg .b64 state, m; .reg .pred done; mov.u32 p, cells; mad.lo.u32 p, %thread, 128, p;\n\
    mov.u32 bar, bars; mad.lo.u32 bar, %thread, 8, bar; mov.u64 m, map; cvta.const.u64 m, m;";

/// Brings the operands into reach of the tensor: -4 to 8.
fn near(operands: usize) -> String {
    let each = |i: usize| format!("rem.u32 ${i}, ${i}, 13; sub.s32 ${i}, ${i}, 4;\n");
    (0..operands).map(each).collect()
}

fn near_value(v: u64) -> i64 {
    (v % 13) as i64 - 4
}

/// `{prefix from, ..}`
fn list(prefix: &str, from: usize, count: usize) -> String {
    let names: Vec<String> = (from..from + count)
        .map(|i| format!("{prefix}{i}"))
        .collect();
    format!("{{{}}}", names.join(", "))
}

/// Loads, or stores, the words of the cell at `p` in fours.
fn words(op: &str, count: usize) -> String {
    let four = |i: usize| {
        let (register, place) = (list("$d", 4 * i, 4), format!("[p+{}]", 16 * i));
        format!("{op}.shared.v4.b32 {register}, {place};\n")
    };
    (0..count / 4).map(four).collect()
}

/// A row that loads the box at the operands, brought near the tensor or as they are.
fn load(tensor: Tensor, is_near: bool) -> Row {
    let rank = tensor.dims.len();
    let count = tensor.box_dims.iter().product::<u32>() as usize;
    let text = format!(
        "{{ {CELL} {} mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 state, [bar], {};\n\
         fence.proxy.async;\n\
         cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [p], [m, {}], [bar];\n\
         AGAIN: mbarrier.try_wait.shared.b64 done, [bar], state; @!done bra AGAIN; {} }}",
        if is_near { near(rank) } else { String::new() },
        4 * count,
        list("$", 0, rank),
        words("ld", count),
    );
    let prelude = tensor.prelude(true);
    let row = several(
        text,
        &vec![Kind::I32; count],
        &vec![Kind::I32; rank],
        move |v| {
            let coordinate = |&v: &u64| {
                if is_near {
                    near_value(v)
                } else {
                    i64::from(v as i32)
                }
            };
            let start: Vec<i64> = v.iter().map(coordinate).collect();
            let outside = if tensor.fill_nan { F32.nan() } else { 0 };
            let element = |index: Option<usize>| match index.map(value) {
                None => outside,
                Some(bits) if tensor.data_type == FLOAT32_FTZ => F32.flush(bits.into()),
                Some(bits) => bits.into(),
            };
            tensor.boxed(&start).into_iter().map(element).collect()
        },
    );
    row.set(Setting {
        prelude,
        ..Setting::default()
    })
}

/// Tensors of every rank, whose dimensions the box does not divide.
fn shapes() -> [Tensor; 5] {
    [
        Tensor::new(&[5], &[4]),
        Tensor::new(&[5, 3], &[4, 2]),
        Tensor::new(&[6, 3, 2], &[4, 1, 2]),
        Tensor::new(&[7, 2, 3, 2], &[4, 2, 1, 2]),
        Tensor::new(&[5, 2, 2, 3, 2], &[4, 1, 2, 1, 2]),
    ]
}

#[test]
pub fn loads_of_every_rank() {
    let near = shapes().map(|tensor| load(tensor, true));
    let far = shapes().map(|tensor| load(tensor, false));
    check(Arch::Sm90a, near.into_iter().chain(far).collect());
}

#[test]
pub fn loads_of_floats() {
    let rows = [(FLOAT32, true), (FLOAT32_FTZ, false), (FLOAT32_FTZ, true)].map(
        |(data_type, fill_nan)| {
            let tensor = Tensor {
                data_type,
                fill_nan,
                ..Tensor::new(&[5, 3], &[4, 2])
            };
            load(tensor, true)
        },
    );
    check(Arch::Sm90a, rows.into());
}

/// What a store or reduction makes of an old and a new element.
type New = fn(u64, u64) -> u64;

/// A row of a tensor whose second dimension is the thread: each stores 4 elements at a coordinate of
/// its own row of 5, whose old values are operands, too.
fn update(copy: &str, data_type: u32, compare: Compare, new: New) -> Row {
    let threads = 8192;
    let tensor = Tensor {
        data_type,
        ..Tensor::new(&[5, threads], &[4, 1])
    };
    let text = format!(
        "{{ {CELL} .reg .b64 own; mov.u64 own, data; mad.wide.u32 own, %index, 32, own; rem.u32 $0, $0, 13; sub.s32 $0, $0, 4;\n\
         st.global.v4.b32 [own], {{$1, $2, $3, $4}}; st.global.b32 [own+16], $1; st.shared.v4.b32 [p], {{$5, $6, $7, $8}};\n\
         fence.proxy.async; {copy} [m, {{$0, %index}}], [p]; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\n\
         ld.global.v4.b32 {{$d0, $d1, $d2, $d3}}, [own]; ld.global.b32 $d4, [own+16]; }}"
    );
    let kind = if data_type == FLOAT32 {
        Kind::F32
    } else {
        Kind::I32
    };
    let operands = [vec![Kind::I32], vec![kind; 8]].concat();
    let definition = move |v: &[u64]| {
        let mut row = [v[1], v[2], v[3], v[4], v[1]];
        for (element, &operand) in v[5..9].iter().enumerate() {
            let at = near_value(v[0]) + element as i64;
            if let Some(old) = usize::try_from(at).ok().and_then(|at| row.get_mut(at)) {
                *old = new(*old, operand);
            }
        }
        row.to_vec()
    };
    let row = Row {
        compare,
        ..several(text, &[kind; 5], &operands, definition)
    };
    row.set(Setting {
        prelude: tensor.prelude(false),
        ..Setting::default()
    })
}

#[test]
pub fn stores_and_reductions() {
    let store = "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group";
    let reduce = |op: &str| {
        format!("cp.reduce.async.bulk.tensor.2d.global.shared::cta.{op}.tile.bulk_group")
    };
    let integers: [(&str, u32, New); 11] = [
        ("add", U32, |a, b| {
            u64::from((a as u32).wrapping_add(b as u32))
        }),
        ("add", S32, |a, b| {
            u64::from((a as u32).wrapping_add(b as u32))
        }),
        ("min", U32, u64::min),
        ("max", U32, u64::max),
        ("min", S32, |a, b| (a as i32).min(b as i32) as u32 as u64),
        ("max", S32, |a, b| (a as i32).max(b as i32) as u32 as u64),
        ("inc", U32, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", U32, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("and", U32, |a, b| a & b),
        ("or", S32, |a, b| a | b),
        ("xor", U32, |a, b| a ^ b),
    ];
    let mut rows = vec![update(store, U32, Compare::Bits, |_, b| b)];
    let reductions = integers.map(|(op, ty, new)| update(&reduce(op), ty, Compare::Bits, new));
    rows.extend(reductions);
    rows.push(update(
        &reduce("add"),
        FLOAT32,
        Compare::Float(F32),
        |a, b| F32.flush(crate::atomic::sum(F32, F32.flush(a), F32.flush(b))),
    ));
    check(Arch::Sm90a, rows);
}

/// Hints, which leave everything as it is wherever the box lies.
#[test]
pub fn prefetches() {
    let copy = |rank: usize| {
        let coordinates = list("$", 0, rank);
        format!("cp.async.bulk.prefetch.tensor.{rank}d.L2.global.tile [m, {coordinates}];")
    };
    let of_map =
        "prefetch.tensormap [m]; prefetch.const.tensormap [map]; prefetch.param.tensormap [in];";
    let rows = shapes().map(|tensor| {
        let rank = tensor.dims.len();
        let text = format!("{{ {CELL} {} {of_map} mov.b32 $d0, $0; }}", copy(rank));
        several(text, &[Kind::I32], &vec![Kind::I32; rank], |v| vec![v[0]]).set(Setting {
            prelude: tensor.prelude(true),
            ..Setting::default()
        })
    });
    check(Arch::Sm90a, rows.into());
}

/// A warp makes a copy of the map with another width and loads with it.
#[test]
pub fn maps_changed_in_shared_memory() {
    let tensor = Tensor::new(&[5, 3], &[4, 1]);
    let prelude = format!(
        "{}.global .align 128 .b8 maps[262144];\n",
        tensor.prelude(true)
    );
    let text = format!(
        "{{ {CELL} .shared .align 128 .b8 own[512]; .reg .b32 s, w, width, lane; .reg .b64 to, word; .reg .pred first;\n\
         shr.u32 w, %thread, 5; and.b32 lane, %thread, 31; setp.eq.u32 first, lane, 0;\n\
         mov.u32 s, own; mad.lo.u32 s, w, 128, s; mad.lo.u32 w, %block, 4, w; mov.u64 to, maps; mad.wide.u32 to, w, 128, to;\n\
         rem.u32 width, $0, 8; add.u32 width, width, 1; .reg .b32 at; mad.lo.u32 at, lane, 4, s;\n\
         mad.wide.u32 word, lane, 4, m; ld.b32 w, [word]; st.shared.b32 [at], w; bar.warp.sync -1;\n\
         @first tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [s], 0, width; bar.warp.sync -1;\n\
         tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [to], [s], 128;\n\
         fence.proxy.tensormap::generic.acquire.gpu [to], 128; rem.u32 $1, $1, 13; sub.s32 $1, $1, 4;\n\
         mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 state, [bar], 16; fence.proxy.async;\n\
         cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [p], [to, {{$1, 1}}], [bar];\n\
         AGAIN: mbarrier.try_wait.shared.b64 done, [bar], state; @!done bra AGAIN; {} }}",
        words("ld", 4),
    );
    let row = warp_row(text, &[Kind::I32; 4], &[Kind::I32; 2], |warp| {
        let width = warp[0][0] % 8 + 1;
        let changed = Tensor::new(&[width, 3], &[4, 1]);
        let element = |index: Option<usize>| u64::from(index.map_or(0, value));
        let result = |v: &Vec<u64>| {
            changed
                .boxed(&[near_value(v[1]), 1])
                .into_iter()
                .map(element)
                .collect()
        };
        warp.iter().map(|v| Some(result(v))).collect()
    });
    check(
        Arch::Sm90a,
        vec![row.set(Setting {
            prelude,
            ..Setting::default()
        })],
    );
}
