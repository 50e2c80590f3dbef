use super::*;
use crate::exec::atomic::Operation;
use crate::exec::reduction;
use crate::memory::{Buffer, Memory};
use crate::ptx::ast::Type;
use crate::tensor::tensor_map::ElementType::{F32, F32Ftz, U16, U32};

const ROWS: u64 = 9;
const PITCH: u64 = 96;

/// A tensor of 20 x 9 elements of 2 or 4 bytes, rows `PITCH` bytes apart.
fn map(element: ElementType, address: u64, swizzle: Swizzle, box_dims: [u32; 2]) -> TensorMap {
    let map = TensorMap {
        element,
        rank: 2,
        address,
        dims: [20, ROWS, 1, 1, 1],
        strides: [PITCH, 0, 0, 0],
        box_dims: [box_dims[0], box_dims[1], 1, 1, 1],
        element_strides: [1; MAX_RANK],
        swizzle,
        fill_nan: false,
    };
    map.validate().unwrap();
    map
}

/// Memory in which byte `i` of the tensor is a hash of `i`.
fn memory() -> (Memory, u64, Vec<u8>) {
    let memory = Memory::new(1 << 20);
    let bytes: Vec<u8> = (0..ROWS * PITCH).map(|i| (i * 167 % 251) as u8).collect();
    let address = memory.alloc(ROWS * PITCH).unwrap();
    memory.copy_in(address, &bytes).unwrap();
    (memory, address, bytes)
}

/// Bytes of element (x, y), or zeros outside.
fn element(bytes: &[u8], size: usize, x: i64, y: i64) -> Vec<u8> {
    if !(0..20).contains(&x) || !(0..ROWS as i64).contains(&y) {
        return vec![0; size];
    }
    let at = y as usize * PITCH as usize + x as usize * size;
    bytes[at..at + size].to_vec()
}

const SHARED: usize = 4096;
const OFFSET: u32 = 1024;
const CASES: [(Swizzle, [u32; 2]); 5] = [
    (Swizzle::None, [24, 5]),
    (Swizzle::B32, [16, 9]),
    (Swizzle::B64, [32, 7]),
    (Swizzle::B64, [16, 6]),
    (Swizzle::B128, [64, 11]),
];
const STARTS: [[i64; 2]; 6] = [[0, 0], [3, 2], [-5, -2], [19, 8], [20, 0], [0, -40]];

#[test]
fn loads_agree_with_the_definition() {
    let (memory, address, bytes) = memory();
    for (swizzle, box_dims) in CASES {
        for [x, y] in STARTS {
            let map = map(U16, address, swizzle, box_dims);
            let shared = Buffer::new(SHARED, 0).unwrap();
            let start = [x as i32, y as i32, 0, 0, 0];
            load(&map, start, &memory.snapshot(), &[shared.span()], OFFSET).unwrap();
            for j in 0..box_dims[1] {
                for i in 0..box_dims[0] {
                    let place = swizzle.apply(OFFSET + (j * box_dims[0] + i) * 2) as usize;
                    let mut got = [0; 2];
                    shared.span().read(place, &mut got);
                    assert_eq!(
                        got.to_vec(),
                        element(&bytes, 2, x + i64::from(i), y + i64::from(j))
                    );
                    assert!(shared.span().is_valid(place, 2));
                }
            }
            let end = (OFFSET + shared_extent(&map)) as usize;
            assert!(!shared.span().is_valid(OFFSET as usize - 1, 1));
            assert!((end..SHARED).all(|i| !shared.span().is_valid(i, 1)));
        }
    }
}

#[test]
fn stores_bring_back_what_loads_took() {
    let (memory, address, bytes) = memory();
    for (swizzle, box_dims) in CASES {
        for [x, y] in STARTS {
            let shared = Buffer::new(SHARED, 0).unwrap();
            let start = [x as i32, y as i32, 0, 0, 0];
            let source = map(U16, address, swizzle, box_dims);
            load(&source, start, &memory.snapshot(), &[shared.span()], OFFSET).unwrap();
            let copy = memory.alloc(ROWS * PITCH).unwrap();
            memory
                .copy_in(copy, &vec![0xee; (ROWS * PITCH) as usize])
                .unwrap();
            let target = TensorMap {
                address: copy,
                ..source
            };
            store(&target, start, &memory.snapshot(), &shared.span(), OFFSET).unwrap();
            let mut got = vec![0; (ROWS * PITCH) as usize];
            memory.copy_out(copy, &mut got).unwrap();
            for row in 0..ROWS as i64 {
                for byte in 0..PITCH as i64 {
                    let covered =
                        |from: i64, count: u32, at: i64| at >= from && at < from + i64::from(count);
                    let moved = byte < 40
                        && covered(x, box_dims[0], byte / 2)
                        && covered(y, box_dims[1], row);
                    let at = (row * PITCH as i64 + byte) as usize;
                    assert_eq!(got[at], if moved { bytes[at] } else { 0xee });
                }
            }
        }
    }
}

#[test]
fn reductions_combine_each_element_once() {
    let (memory, address, bytes) = memory();
    let map = map(U32, address, Swizzle::B64, [16, 4]);
    let shared = Buffer::new(SHARED, 0).unwrap();
    for at in (0..SHARED).step_by(4) {
        shared.span().write(at, &1u32.to_le_bytes());
    }
    let add = reduction::find(Operation::Add, Type::U32).unwrap();
    reduce(
        &map,
        [10, 7, 0, 0, 0],
        &memory.snapshot(),
        &shared.span(),
        OFFSET,
        add,
    )
    .unwrap();
    let mut got = vec![0; bytes.len()];
    memory.copy_out(address, &mut got).unwrap();
    for (at, (new, old)) in got.chunks(4).zip(bytes.chunks(4)).enumerate() {
        let (row, column) = (at / 24, at % 24);
        let inside = row >= 7 && (10..20).contains(&column);
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        assert_eq!(word(new), word(old).wrapping_add(u32::from(inside)));
    }
}

#[test]
fn subnormals_are_flushed_where_the_type_says_so() {
    let (memory, address, _) = memory();
    for (bits, flushed) in [
        (1u32, 0),
        (0x8000_0001, 0x8000_0000),
        (0x0080_0000, 0x0080_0000),
    ] {
        memory.copy_in(address, &bits.to_le_bytes()).unwrap();
        for (element, expected) in [(F32, bits), (F32Ftz, flushed)] {
            let map = map(element, address, Swizzle::None, [4, 1]);
            let shared = Buffer::new(SHARED, 0).unwrap();
            load(&map, [0; MAX_RANK], &memory.snapshot(), &[shared.span()], 0).unwrap();
            assert_eq!(shared.span().load::<u32>(0), expected);
        }
    }
}

#[test]
fn out_of_bounds_elements_can_be_nan() {
    let (memory, address, _) = memory();
    let map = TensorMap {
        fill_nan: true,
        ..map(F32, address, Swizzle::None, [4, 1])
    };
    let shared = Buffer::new(SHARED, 0).unwrap();
    load(
        &map,
        [18, 0, 0, 0, 0],
        &memory.snapshot(),
        &[shared.span()],
        0,
    )
    .unwrap();
    assert!(f32::from_bits(shared.span().load::<u32>(8)).is_nan());
    assert!(f32::from_bits(shared.span().load::<u32>(12)).is_nan());
}

#[test]
fn undefined_bytes_stay_undefined() {
    let memory = Memory::new(1 << 20);
    let address = memory.alloc(ROWS * PITCH).unwrap();
    let map = map(U16, address, Swizzle::B32, [16, 1]);
    let shared = Buffer::new(SHARED, 0).unwrap();
    load(
        &map,
        [12, 0, 0, 0, 0],
        &memory.snapshot(),
        &[shared.span()],
        0,
    )
    .unwrap();
    assert!(!shared.span().is_valid(0, 1));
    // Beyond column 20: filled, hence defined.
    assert!(shared.span().is_valid(16, 16));
}

#[test]
fn a_tensor_beyond_its_allocation_is_a_fault() {
    let (memory, address, _) = memory();
    let map = map(U16, address + PITCH, Swizzle::None, [24, 5]);
    let shared = Buffer::new(SHARED, 0).unwrap();
    let fault = load(
        &map,
        [0, 4, 0, 0, 0],
        &memory.snapshot(),
        &[shared.span()],
        0,
    )
    .unwrap_err();
    assert_eq!(fault.address, address + ROWS * PITCH);
}

#[test]
fn sectors_count_once_where_rows_meet() {
    let (_, address, _) = memory();
    let map = map(U16, address, Swizzle::None, [16, 2]);
    assert_eq!(traffic(&map, [0; MAX_RANK]), (64, 2));
    assert_eq!(traffic(&map, [8, 0, 0, 0, 0]), (2 * 24, 4));
    let dense = TensorMap {
        dims: [8, 4, 1, 1, 1],
        strides: [16, 0, 0, 0],
        box_dims: [8, 4, 1, 1, 1],
        ..map
    };
    assert_eq!(traffic(&dense, [0; MAX_RANK]), (64, 2));
}
