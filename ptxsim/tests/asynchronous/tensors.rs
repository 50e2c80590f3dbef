//! Tensor copies: every rank, swizzle and edge, against the definition.

use crate::harness::{Argument, Device, assert_clean, assert_finds, int, pointer, shape};
use ptxsim::report::FindingKind::{Operand, OutOfBounds};
use ptxsim::sim::{LaunchConfig, LaunchError};
use ptxsim::tensor::swizzle::Swizzle;
use ptxsim::tensor::tensor_map::{TiledParams, encode_tiled};

const THREADS: u32 = 64;
const BF16: u32 = 9;
const U32: u32 = 2;
const SWIZZLES: [(u32, Swizzle); 4] = [
    (0, Swizzle::None),
    (1, Swizzle::B32),
    (2, Swizzle::B64),
    (3, Swizzle::B128),
];

fn with_shared(bytes: usize) -> LaunchConfig {
    LaunchConfig {
        dynamic_shared: bytes as u32,
        ..shape(1, THREADS, 1)
    }
}

/// A dense tensor of elements of `size` bytes.
struct Tensor {
    dims: Vec<u64>,
    size: usize,
    bytes: Vec<u8>,
}

impl Tensor {
    /// Bytes that tell where they are. The innermost row must fill whole units of 16 bytes.
    fn new(dims: &[u64], size: usize) -> Tensor {
        let count = dims.iter().product::<u64>() as usize * size;
        let bytes = (0..count).map(|i| (i * 131 % 251 + 1) as u8).collect();
        Tensor {
            dims: dims.to_vec(),
            size,
            bytes,
        }
    }

    fn map(
        &self,
        address: u64,
        data_type: u32,
        box_dims: &[u32],
        steps: &[u32],
        swizzle: u32,
    ) -> Argument {
        let mut strides = Vec::new();
        let mut stride = self.size as u64;
        for dim in &self.dims[..self.dims.len() - 1] {
            stride *= dim;
            strides.push(stride);
        }
        let params = TiledParams {
            data_type,
            address,
            dims: &self.dims,
            strides: &strides,
            box_dims,
            element_strides: steps,
            interleave: 0,
            swizzle,
            l2_promotion: 0,
            oob_fill: 0,
        };
        encode_tiled(&params).unwrap().to_vec()
    }

    /// The element at `at`, or zeros outside.
    fn element(&self, at: &[i64]) -> Vec<u8> {
        let mut index = 0;
        for (&c, &dim) in at.iter().zip(&self.dims).rev() {
            if c < 0 || c >= dim as i64 {
                return vec![0; self.size];
            }
            index = index * dim as usize + c as usize;
        }
        self.bytes[index * self.size..][..self.size].to_vec()
    }

    /// The box at `start` as it should lie in shared memory from an address of no swizzle offset.
    fn expected(
        &self,
        start: &[i32],
        box_dims: &[u32],
        steps: &[u32],
        swizzle: Swizzle,
    ) -> Vec<u8> {
        let counts: Vec<u32> = box_dims
            .iter()
            .zip(steps)
            .enumerate()
            .map(|(d, (b, s))| if d == 0 { *b } else { b.div_ceil(*s) })
            .collect();
        let total = counts.iter().product::<u32>();
        let mut out = vec![0; total as usize * self.size];
        for index in 0..total {
            let mut rest = index;
            let mut at = Vec::new();
            for d in 0..counts.len() {
                let step = if d == 0 { 1 } else { steps[d] };
                at.push(i64::from(start[d]) + i64::from(rest % counts[d] * step));
                rest /= counts[d];
            }
            for (byte, value) in self.element(&at).into_iter().enumerate() {
                let place = index * self.size as u32 + byte as u32;
                out[swizzle.apply(place) as usize] = value;
            }
        }
        out
    }
}

fn load_arguments(map: Argument, to: u64, bytes: usize, start: &[i32]) -> Vec<Argument> {
    let mut arguments = vec![map, pointer(to), int(bytes as i32), int(start.len() as i32)];
    arguments.extend((0..5).map(|d| int(start.get(d).copied().unwrap_or(0))));
    arguments
}

#[track_caller]
fn check_load(
    tensor: &Tensor,
    box_dims: &[u32],
    steps: &[u32],
    swizzle: (u32, Swizzle),
    start: &[i32],
) {
    let device = Device::with_fixture("tensor_sm90a");
    let from = device.upload(&tensor.bytes);
    let expected = tensor.expected(start, box_dims, steps, swizzle.1);
    let to = device.alloc(expected.len());
    let map = tensor.map(from, BF16, box_dims, steps, swizzle.0);
    let arguments = load_arguments(map, to, expected.len(), start);
    let outcome = device.launch("load_box", with_shared(expected.len()), &arguments);
    assert_clean(&outcome);
    assert_eq!(
        device.download(to, expected.len()),
        expected,
        "{swizzle:?} {start:?}"
    );
}

#[test]
fn tiles_are_loaded_with_each_swizzle_inside_and_across_the_edges() {
    let tensor = Tensor::new(&[72, 20], 2);
    for (swizzle, width) in SWIZZLES.into_iter().zip([64, 16, 32, 64]) {
        for start in [[0, 0], [5, 3], [-3, -2], [60, 15], [72, 0], [0, -9]] {
            check_load(&tensor, &[width, 8], &[1, 1], swizzle, &start);
        }
    }
}

#[test]
fn every_rank_and_traversal_strides() {
    check_load(&Tensor::new(&[40], 2), &[16], &[1], SWIZZLES[0], &[33]);
    check_load(
        &Tensor::new(&[16, 9, 5], 2),
        &[16, 4, 3],
        &[1, 2, 1],
        SWIZZLES[1],
        &[4, 2, 3],
    );
    check_load(
        &Tensor::new(&[8, 5, 4, 3], 2),
        &[8, 4, 2, 2],
        &[1, 1, 1, 1],
        SWIZZLES[0],
        &[0, 3, -1, 2],
    );
    let tensor = Tensor::new(&[8, 3, 4, 3, 2], 2);
    check_load(
        &tensor,
        &[8, 4, 2, 2, 2],
        &[1, 1, 1, 2, 1],
        SWIZZLES[0],
        &[0, -1, 3, 1, 1],
    );
}

#[test]
fn stores_write_what_lies_inside() {
    let device = Device::with_fixture("tensor_sm90a");
    for (swizzle, width) in SWIZZLES.into_iter().zip([64, 16, 32, 64]) {
        for start in [[0, 0], [-3, -2], [60, 15]] {
            let (box_dims, steps) = ([width, 8], [1, 1]);
            let tensor = Tensor::new(&[72, 20], 2);
            let tile = tensor.expected(&start, &box_dims, &steps, swizzle.1);
            let target = device.upload(&vec![0; tensor.bytes.len()]);
            let map = tensor.map(target, BF16, &box_dims, &steps, swizzle.0);
            let arguments = [
                map,
                pointer(device.upload(&tile)),
                int(tile.len() as i32),
                int(0),
                int(start[0]),
                int(start[1]),
            ];
            assert_clean(&device.launch("store_box", with_shared(tile.len()), &arguments));
            let got = Tensor {
                bytes: device.download(target, tensor.bytes.len()),
                ..tensor
            };
            for y in 0..20 {
                for x in 0..72 {
                    let inside = |at: i64, from: i32, count: u32| {
                        at >= from.into() && at < i64::from(from) + i64::from(count)
                    };
                    let moved = inside(x, start[0], width) && inside(y, start[1], 8);
                    let expected = if moved {
                        Tensor::new(&[72, 20], 2).element(&[x, y])
                    } else {
                        vec![0; 2]
                    };
                    assert_eq!(got.element(&[x, y]), expected);
                }
            }
        }
    }
}

#[test]
fn reductions_add_to_the_tensor() {
    let device = Device::with_fixture("tensor_sm90a");
    let target = device.upload(&7u32.to_le_bytes().repeat(16 * 8));
    let tensor = Tensor {
        dims: vec![16, 8],
        size: 4,
        bytes: vec![],
    };
    let map = tensor.map(target, U32, &[8, 4], &[1, 1], 1);
    let tile = device.upload(&5u32.to_le_bytes().repeat(8 * 4));
    for _ in 0..2 {
        let arguments = [
            map.clone(),
            pointer(tile),
            int(128),
            int(1),
            int(12),
            int(6),
        ];
        assert_clean(&device.launch("store_box", with_shared(128), &arguments));
    }
    for (i, value) in device.download_u32(target, 16 * 8).into_iter().enumerate() {
        let inside = i % 16 >= 12 && i / 16 >= 6;
        assert_eq!(value, if inside { 17 } else { 7 });
    }
}

#[test]
fn a_cluster_loads_a_box_together() {
    let device = Device::with_fixture("tensor_sm90a");
    let tensor = Tensor::new(&[64, 16], 2);
    let map = tensor.map(device.upload(&tensor.bytes), BF16, &[64, 8], &[1, 1], 3);
    let expected = tensor.expected(&[0, 0], &[64, 16], &[1, 1], Swizzle::B128);
    let to = device.alloc(2 * expected.len());
    let config = LaunchConfig {
        dynamic_shared: 2048,
        ..shape(2, THREADS, 2)
    };
    let arguments = [map, pointer(to), int(2048), int(16)];
    let outcome = device.launch("load_multicast", config, &arguments);
    assert_clean(&outcome);
    assert_eq!(device.download(to, 2 * expected.len()), expected.repeat(2));
    assert_eq!(outcome.report.counters.bulk_loads.bytes, 2048);
}

#[test]
fn a_map_can_be_changed_by_the_kernel() {
    let device = Device::with_fixture("tensor_sm90a");
    let tensor = Tensor::new(&[24, 6], 2);
    let first = device.upload(&vec![0xee; tensor.bytes.len()]);
    let map = tensor.map(first, BF16, &[32, 2], &[1, 1], 0);
    let second = device.upload(&tensor.bytes);
    let columns = 10;
    let to = device.alloc(32 * 4 * 2);
    let scratch = device.alloc(128);
    let arguments = [
        map,
        pointer(scratch),
        pointer(second),
        pointer(to),
        int(256),
        int(columns),
    ];
    let config = LaunchConfig {
        block: [32, 1, 1],
        ..with_shared(256)
    };
    assert_clean(&device.launch("replace_map", config, &arguments));
    let got = device.download(to, 256);
    for (i, pair) in got.chunks(2).enumerate() {
        let (x, y) = (i as i64 % 32, i as i64 / 32);
        let expected = if x < columns.into() {
            tensor.element(&[x, y])
        } else {
            vec![0; 2]
        };
        assert_eq!(pair, expected, "{x} {y}");
    }
}

#[test]
fn misuse_is_reported() {
    let device = Device::with_fixture("tensor_sm90a");
    let tensor = Tensor::new(&[64, 16], 2);
    let map = tensor.map(device.upload(&tensor.bytes), BF16, &[64, 8], &[1, 1], 0);
    let to = device.alloc(4096);
    let run = |map: Argument, rank: usize| {
        let arguments = load_arguments(map, to, 1024, &[0, 0, 0][..rank]);
        device.launch("load_box", with_shared(2048), &arguments)
    };
    let outcome = run(map.clone(), 3);
    assert_eq!(outcome.result, Err(LaunchError::LaunchFailed));
    assert_finds(&outcome, Operand, &[]);
    let outcome = run(vec![0; 128], 2);
    assert_finds(&outcome, Operand, &[]);
    let config = LaunchConfig {
        dynamic_shared: 512,
        ..shape(1, THREADS, 1)
    };
    let outcome = device.launch("load_box", config, &load_arguments(map, to, 1024, &[0, 0]));
    assert_eq!(outcome.result, Err(LaunchError::IllegalAddress));
    assert_finds(&outcome, OutOfBounds, &[]);
}
