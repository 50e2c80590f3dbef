//! What the backward kernels move, by the simulator's counters, and their bank conflicts.

use super::backward_run::run;
use super::forward_hopper::is_hopper;
use super::problem::{Problem, dense, simulated};
use half::bf16;
use ocelli::{DType, Float};
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

/// Bytes that a launch moves by its tiles.
struct Floor {
    /// To shared memory.
    copied: usize,
    /// By loads of all lanes, most of which ask L1 for what others have read.
    loaded: usize,
    written: usize,
    /// Sectors of the pieces that rows are written in.
    piece: usize,
}

fn floor<T: Float>(kernel: &str, head_dim: usize, tiles: &Tiles) -> Floor {
    let size = size_of::<T>();
    let is_f32 = size == 4;
    // Of one tensor, all heads.
    let row = HEADS * head_dim * size;
    let (queries, keys) = (QUERIES * row, KEYS * row);
    let statistics = HEADS * QUERIES * STATISTICS;
    let pairs = HEADS * QUERIES * KEYS;
    // In f32 a lane asks for the statistics of each of its pairs; else four lanes hold a row.
    let loaded = |blocks: usize| match is_f32 {
        true => pairs * STATISTICS,
        false => 4 * statistics * blocks,
    };
    let [copied, loaded, written] = if kernel.contains("_rows_") {
        [0, 2 * queries + statistics / 2, statistics]
    } else if kernel.contains("_queries_") {
        let blocks = QUERIES / tiles.queries;
        [2 * queries + 2 * keys * blocks, loaded(1), queries]
    } else if kernel.contains("_bias_") {
        let [of_queries, of_keys] = [QUERIES / tiles.bias[0], KEYS / tiles.bias[1]];
        let copied = 2 * queries * of_keys + 2 * keys * of_queries;
        // Each head that shares the bias reads it.
        let bias = pairs * size;
        [copied, bias + loaded(of_keys), QUERIES * KEYS * size]
    } else {
        let blocks = KEYS / tiles.keys;
        let copied = 2 * keys + 2 * queries * blocks;
        let outputs = if kernel.contains("_dk_") || kernel.contains("_dv_") {
            1
        } else {
            2
        };
        // Those of 16-bit elements copy the statistics, too.
        match is_f32 {
            true => [copied, loaded(blocks), outputs * keys],
            false => [copied + statistics * blocks, 0, outputs * keys],
        }
    };
    let piece = if kernel.contains("_bias_d256_f32") {
        1
    } else {
        2
    };
    Floor {
        copied,
        loaded,
        written,
        piece,
    }
}

/// Holds a launch to its floor: to the byte, and in sectors to a twentieth more. Hopper's own kernels load
/// statistics elsewhere.
fn hold<T: Float>(report: &LaunchReport, head_dim: usize, tiles: &Tiles, on_hopper: bool) {
    let (kernel, counters) = (&report.kernel, &report.counters);
    let floor = floor::<T>(kernel, head_dim, tiles);
    let (threads, engine) = (counters.async_copies, counters.bulk_loads);
    let stores = counters.global_stores;
    let bytes = [threads.bytes + engine.bytes, stores.bytes];
    let expected = [floor.copied, floor.written].map(|bytes| bytes as u64);
    assert_eq!(bytes, expected, "{kernel}");
    if !on_hopper {
        assert_eq!(counters.global_loads.bytes, floor.loaded as u64, "{kernel}");
    }
    let (mut moved, mut least) = (
        threads.sectors + engine.sectors + stores.sectors,
        floor.copied + floor.written,
    );
    if kernel.contains("_bias_") {
        // The guard displaces the bias by an element, and each piece of its rows touches a sector more.
        least += floor.written / floor.piece;
    }
    if kernel.contains("_rows_") {
        // No two lanes ask for the same here.
        moved += counters.global_loads.sectors;
        least += floor.loaded;
    }
    let moved = 32 * moved as usize;
    assert!(100 * moved <= 105 * least, "{kernel}: {moved} of {least}");
    // The kernels on tensor cores swizzle their tiles; those of f32 have padded rows, which do not spare every access.
    if T::DTYPE != DType::F32 {
        let conflicts = [
            counters.matrix_loads.conflicts,
            counters.shared_loads.conflicts,
            counters.shared_stores.conflicts,
        ];
        assert_eq!(conflicts, [0; 3], "{kernel}");
    }
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
            hold::<T>(report, head_dim, tiles, is_hopper(device));
        }
        let (_, reports) = run::<T>(device, &biased, &biased.data());
        let mut of_bias = reports
            .iter()
            .filter(|report| report.kernel.contains("_bias_"));
        let bias = of_bias.next().expect("a kernel of the bias");
        hold::<T>(bias, head_dim, tiles, is_hopper(device));
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
