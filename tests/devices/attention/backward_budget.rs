//! What the backward kernels move, by the simulator's counters, and their bank conflicts.

use super::backward_run::run;
use super::problem::{Problem, dense, simulated};
use half::bf16;
use ocelli::Float;
use ptxsim::report::LaunchReport;

const HEADS: usize = 2;
const QUERIES: usize = 384;
const KEYS: usize = 256;
/// Bytes of a query's log-sum-exp and delta.
const STATISTICS: usize = 2 * 4;

/// Queries and keys that a block owns, of each kernel.
struct Tiles {
    /// Keys of a block of `keys`, `dk` and `dv`.
    keys: usize,
    /// Queries of a block of `queries`.
    queries: usize,
    /// Queries and keys of a block of `bias`.
    bias: [usize; 2],
}

/// Bytes that a launch must copy to shared memory, load and write, by its tiles.
fn floor<T: Float>(kernel: &str, head_dim: usize, tiles: &Tiles) -> [usize; 3] {
    let size = size_of::<T>();
    // Of a tensor, all heads.
    let row = HEADS * head_dim * size;
    let (queries, keys) = (QUERIES * row, KEYS * row);
    let statistics = HEADS * QUERIES * STATISTICS;
    // The kernels of 16-bit elements copy statistics, those of f32 load them.
    let read = |copies: usize, statistics: usize| match size {
        2 => [copies + statistics, 0],
        _ => [copies, statistics],
    };
    let ([copied, loaded], written) = if kernel.contains("_rows_") {
        ([0, 2 * queries + statistics / 2], statistics)
    } else if kernel.contains("_queries_") {
        let blocks = QUERIES / tiles.queries;
        let [copied, _] = [2 * queries + 2 * keys * blocks, 0];
        ([copied, statistics], queries)
    } else if kernel.contains("_bias_") {
        let [of_queries, of_keys] = [QUERIES / tiles.bias[0], KEYS / tiles.bias[1]];
        // Each head that shares the bias reads it.
        let bias = HEADS * QUERIES * KEYS * size;
        let copied = 2 * queries * of_keys + 2 * keys * of_queries;
        ([copied, bias + statistics * of_keys], QUERIES * KEYS * size)
    } else {
        let blocks = KEYS / tiles.keys;
        let outputs = if kernel.contains("_d256_") && size == 2 {
            1
        } else {
            2
        };
        (
            read(2 * keys + 2 * queries * blocks, statistics * blocks),
            outputs * keys,
        )
    };
    [copied, loaded, written]
}

/// Holds a launch to its floor: copies and writes to the byte, all memory to a twentieth more.
fn hold<T: Float>(report: &LaunchReport, head_dim: usize, tiles: &Tiles) {
    let (kernel, counters) = (&report.kernel, &report.counters);
    let [copied, loaded, written] = floor::<T>(kernel, head_dim, tiles);
    let bytes = |of: u64| of as usize;
    let copies = counters.async_copies.bytes + counters.bulk_loads.bytes;
    assert_eq!(bytes(copies), copied, "{kernel}");
    assert_eq!(bytes(counters.global_stores.bytes), written, "{kernel}");
    let moved = [
        counters.async_copies,
        counters.bulk_loads,
        counters.global_loads,
        counters.global_stores,
    ];
    let moved: u64 = moved.iter().map(|access| 32 * access.sectors).sum();
    let floor = copied + loaded + written;
    assert!(
        100 * bytes(moved) <= 105 * floor,
        "{kernel}: {moved} of {floor}, {counters:?}"
    );
    let conflicts = [
        counters.matrix_loads.conflicts,
        counters.shared_loads.conflicts,
        counters.shared_stores.conflicts,
    ];
    assert_eq!(conflicts, [0; 3], "{kernel}");
}

/// The launches with and without a bias: a bias is read by each kernel, and has its own.
fn hold_all<T: Float>(head_dim: usize, tiles: &Tiles) {
    let plain = dense(1, HEADS, QUERIES, KEYS, head_dim);
    let biased = Problem {
        bias: Some([1, 1]),
        ..plain.clone()
    };
    for device in simulated() {
        let (_, reports) = run::<T>(device, &plain, &plain.data());
        for report in &reports {
            hold::<T>(report, head_dim, tiles);
        }
        let (_, reports) = run::<T>(device, &biased, &biased.data());
        let bias = reports.last().unwrap();
        assert!(bias.kernel.contains("_bias_"), "{}", bias.kernel);
        hold::<T>(bias, head_dim, tiles);
    }
}

#[test]
fn each_kernel_of_16_bit_elements_moves_what_its_tiles_need() {
    for (head_dim, tile, bias) in [
        (64, 128, [64, 64]),
        (128, 128, [64, 64]),
        (256, 64, [64, 32]),
    ] {
        let tiles = Tiles {
            keys: tile,
            queries: tile,
            bias,
        };
        hold_all::<bf16>(head_dim, &tiles);
    }
}

#[test]
fn each_kernel_of_f32_moves_what_its_tiles_need() {
    for (head_dim, rows, columns) in [(64, 64, 32), (128, 64, 16), (256, 32, 8)] {
        let tiles = Tiles {
            keys: rows,
            queries: rows,
            bias: [rows, columns],
        };
        hold_all::<f32>(head_dim, &tiles);
    }
}
