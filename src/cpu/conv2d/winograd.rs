//! Convolutions of 3 x 3 and stride 1 by Winograd's minimal filtering, F(4 x 4, 3 x 3): 36
//! multiplications for 16 outputs instead of 144.
//!
//! A tile of 6 x 6 inputs is transformed, multiplied with the transformed kernel place by place,
//! summed over channels (36 matrix products), and transformed back to 4 x 4 outputs. An output thus
//! depends on all of its tile: a value that is not finite reaches every output of its tile.
//!
//! Source: Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016, section 4.1.

use super::Images;
use crate::cpu::matmul::{Finish, PackedWeight, Scatter, products};
use crate::dtype::Float;
use rayon::prelude::*;

/// Rows and columns of a tile of outputs, and of one of inputs.
const OUT: usize = 4;
const IN: usize = 6;
const PLACES: usize = IN * IN;
/// Channels of one step of a transform: one AVX2 register.
const LANES: usize = 8;
/// Tiles of a task at most: with 256 channels its transformed inputs and products are 3.5 MiB, and
/// the transformed kernel, 9 MiB, is read once for 48 tiles.
const TASK_TILES: usize = 48;
/// Channels and outputs from which on the transforms cost less than they save, as measured.
const LEAST_CHANNELS: usize = 32;
/// Tiles below which reading the transformed kernel, four times the kernel, costs more than it
/// saves.
const LEAST_TILES: usize = 16;

/// The transformed kernel: a matrix `[outputs, channels]` for each place of a tile.
#[derive(Debug, Clone)]
pub(super) struct WinogradWeight {
    places: Vec<PackedWeight>,
    channels: usize,
    outputs: usize,
}

impl WinogradWeight {
    /// Whether a weight `[outputs, channels, height, width]` can be transformed with profit.
    pub(super) fn suits([outputs, channels, height, width]: [usize; 4]) -> bool {
        [height, width] == [3, 3]
            && channels.is_multiple_of(LANES)
            && channels.min(outputs) >= LEAST_CHANNELS
    }

    /// Whether an output of these images, rows and columns has tiles enough.
    pub(super) fn wins(&self, [images, height, width]: [usize; 3]) -> bool {
        images * height.div_ceil(OUT) * width.div_ceil(OUT) >= LEAST_TILES
    }

    /// Transforms a weight for which [`suits`](Self::suits) holds: `G g G^T`, in `f64`, as it is
    /// done once.
    pub(super) fn new<T: Float>(weight: &[T], [outputs, channels, ..]: [usize; 4]) -> Self {
        let places = (0..PLACES)
            .map(|place| {
                let (row, column) = (G[place / IN], G[place % IN]);
                PackedWeight::new(outputs, channels, |output, channel| {
                    let kernel = &weight[(output * channels + channel) * 9..][..9];
                    let mut sum = 0.0;
                    for (i, value) in kernel.iter().enumerate() {
                        sum += row[i / 3] * column[i % 3] * f64::from(value.to_f32());
                    }
                    sum as f32
                })
            })
            .collect();
        Self {
            places,
            channels,
            outputs,
        }
    }

    /// The convolution with `padding` zeros around the images; `extents` are the output's rows and
    /// columns.
    pub(super) fn convolve<T: Float>(
        &self,
        source: &Images<'_, T>,
        padding: usize,
        extents: [usize; 2],
        finish: &Finish<'_, T>,
        out: &mut [T],
    ) {
        let grid = extents.map(|extent| extent.div_ceil(OUT));
        let padded = grid.map(|tiles| tiles * OUT + IN - OUT);
        let inputs = source.padded(padding, padded);
        let layer = Layer {
            inputs: &inputs,
            padded,
            grid,
            extents,
        };
        let tiles = source.extents[0] * grid[0] * grid[1];
        // A whole number of tasks a thread; their size changes no bit.
        let tasks = tiles
            .div_ceil(TASK_TILES)
            .next_multiple_of(rayon::current_num_threads());
        let per_task = tiles.div_ceil(tasks).max(1);
        let out = Scatter::new(out, self.outputs);
        (0..tiles.div_ceil(per_task))
            .into_par_iter()
            .for_each(|task| {
                let first = task * per_task;
                self.task(&layer, first..tiles.min(first + per_task), finish, &out);
            });
    }

    fn task<T: Float>(
        &self,
        layer: &Layer<'_>,
        tiles: std::ops::Range<usize>,
        finish: &Finish<'_, T>,
        out: &Scatter<'_, T>,
    ) {
        let (count, width) = (tiles.len(), self.outputs.next_multiple_of(16));
        let mut transformed = vec![0.0; PLACES * count * self.channels];
        for (i, tile) in tiles.clone().enumerate() {
            let target = &mut transformed[i * self.channels..];
            layer.transform_inputs(tile, self.channels, count * self.channels, target);
        }
        let mut sums = vec![0.0; PLACES * count * width];
        let inputs = transformed.chunks_exact(count * self.channels);
        let outputs = sums.chunks_exact_mut(count * width);
        for ((weight, inputs), outputs) in self.places.iter().zip(inputs).zip(outputs) {
            products(inputs, weight, outputs);
        }
        for (i, tile) in tiles.enumerate() {
            let source = &sums[i * width..];
            for first in (0..self.outputs).step_by(16) {
                let mut block = [[0.0; 16]; OUT * OUT];
                for half in [0, LANES] {
                    transform_outputs(&source[first + half..], count * width, half, &mut block);
                }
                layer.write(tile, first, &block, finish, out);
            }
        }
    }
}

/// Images and how their outputs are cut into tiles.
struct Layer<'a> {
    inputs: &'a [f32],
    /// Rows and columns of the padded images.
    padded: [usize; 2],
    /// Tiles in rows and columns.
    grid: [usize; 2],
    /// Rows and columns of the output.
    extents: [usize; 2],
}

impl Layer<'_> {
    /// Image, first row and first column of a tile of outputs.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [rows, columns] = self.grid;
        let (image, in_image) = (tile / (rows * columns), tile % (rows * columns));
        [image, in_image / columns * OUT, in_image % columns * OUT]
    }

    /// Writes `B^T d B` of a tile: place `i` at `i * stride`, all channels.
    fn transform_inputs(&self, tile: usize, channels: usize, stride: usize, target: &mut [f32]) {
        let [image, y, x] = self.place(tile);
        let pitch = self.padded[1] * channels;
        let first = (image * self.padded[0] + y) * pitch + x * channels;
        let source = &self.inputs[first..];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just found to have AVX2, which is all that is asked for.
            return unsafe { input_tile_avx2(source, pitch, channels, stride, target) };
        }
        input_tile(source, pitch, channels, stride, target);
    }

    /// Finishes 16 outputs of each pixel of a tile, from output `first` on.
    fn write<T: Float>(
        &self,
        tile: usize,
        first: usize,
        block: &[[f32; 16]; OUT * OUT],
        finish: &Finish<'_, T>,
        out: &Scatter<'_, T>,
    ) {
        let [image, y, x] = self.place(tile);
        for (place, sums) in block.iter().enumerate() {
            let (y, x) = (y + place / OUT, x + place % OUT);
            if y < self.extents[0] && x < self.extents[1] {
                let pixel = (image * self.extents[0] + y) * self.extents[1] + x;
                // SAFETY: tasks have different tiles, and tiles have no pixel in common.
                unsafe { out.write(pixel, first, sums, finish) };
            }
        }
    }
}

/// The kernel's transform.
const G: [[f64; 3]; IN] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// Eight neighbouring channels.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(std::array::from_fn(|lane| from[lane]))
    }

    /// `self + factor * other`.
    #[inline(always)]
    fn plus(self, factor: f32, other: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane] + factor * other.0[lane]
        }))
    }
}

/// `B^T` times a column.
#[inline(always)]
fn input_column(d: [Lanes; IN]) -> [Lanes; IN] {
    let even = d[4].plus(-4.0, d[2]);
    let odd = d[3].plus(-4.0, d[1]);
    let (near, far) = (d[4].plus(-1.0, d[2]), d[3].plus(-1.0, d[1]));
    [
        d[4].plus(-5.0, d[2]).plus(4.0, d[0]),
        even.plus(1.0, odd),
        even.plus(-1.0, odd),
        near.plus(2.0, far),
        near.plus(-2.0, far),
        d[5].plus(-5.0, d[3]).plus(4.0, d[1]),
    ]
}

/// `A^T` times a column.
#[inline(always)]
fn output_column(m: [Lanes; IN]) -> [Lanes; OUT] {
    let (near, far) = (m[1].plus(1.0, m[2]), m[3].plus(1.0, m[4]));
    let (slope, steep) = (m[1].plus(-1.0, m[2]), m[3].plus(-1.0, m[4]));
    [
        m[0].plus(1.0, near).plus(1.0, far),
        slope.plus(2.0, steep),
        near.plus(4.0, far),
        slope.plus(8.0, steep).plus(1.0, m[5]),
    ]
}

#[inline(always)]
fn input_tile(source: &[f32], pitch: usize, channels: usize, stride: usize, target: &mut [f32]) {
    for channel in (0..channels).step_by(LANES) {
        let mut rows = [[Lanes([0.0; LANES]); IN]; IN];
        for (y, row) in rows.iter_mut().enumerate() {
            let pixels = &source[y * pitch + channel..];
            *row = input_column(std::array::from_fn(|x| {
                Lanes::load(&pixels[x * channels..])
            }));
        }
        let columns: [[Lanes; IN]; IN] =
            std::array::from_fn(|x| input_column(std::array::from_fn(|y| rows[y][x])));
        for (x, column) in columns.iter().enumerate() {
            for (y, value) in column.iter().enumerate() {
                let at = (y * IN + x) * stride + channel;
                target[at..at + LANES].copy_from_slice(&value.0);
            }
        }
    }
}

/// The same arithmetic in registers twice as wide.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn input_tile_avx2(
    source: &[f32],
    pitch: usize,
    channels: usize,
    stride: usize,
    target: &mut [f32],
) {
    input_tile(source, pitch, channels, stride, target);
}

/// `A^T m A` of eight outputs, place `i` of `m` at `i * stride`, into lanes `first..` of `block`.
fn transform_outputs(
    sums: &[f32],
    stride: usize,
    first: usize,
    block: &mut [[f32; 16]; OUT * OUT],
) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just found to have AVX2, which is all that is asked for.
        return unsafe { output_tile_avx2(sums, stride, first, block) };
    }
    output_tile(sums, stride, first, block);
}

#[inline(always)]
fn output_tile(sums: &[f32], stride: usize, first: usize, block: &mut [[f32; 16]; OUT * OUT]) {
    let rows: [[Lanes; OUT]; IN] = std::array::from_fn(|y| {
        output_column(std::array::from_fn(|x| {
            Lanes::load(&sums[(y * IN + x) * stride..])
        }))
    });
    for x in 0..OUT {
        let column = output_column(std::array::from_fn(|y| rows[y][x]));
        for (y, value) in column.iter().enumerate() {
            block[y * OUT + x][first..first + LANES].copy_from_slice(&value.0);
        }
    }
}

/// The same arithmetic in registers twice as wide.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn output_tile_avx2(sums: &[f32], stride: usize, first: usize, block: &mut [[f32; 16]; OUT * OUT]) {
    output_tile(sums, stride, first, block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_the_convolution_of_its_inputs() {
        let wave = |i: usize| (i as f32 * 0.61).sin();
        let inputs: Vec<f32> = (0..IN * IN * LANES).map(wave).collect();
        let kernel: Vec<f32> = (0..9).map(|i| wave(i + 3)).collect();
        let mut transformed = vec![0.0; PLACES * LANES];
        input_tile(&inputs, IN * LANES, LANES, LANES, &mut transformed);
        for (place, values) in transformed.chunks_mut(LANES).enumerate() {
            let (row, column) = (G[place / IN], G[place % IN]);
            let factor: f64 = (0..9)
                .map(|i| row[i / 3] * column[i % 3] * f64::from(kernel[i]))
                .sum();
            values.iter_mut().for_each(|value| *value *= factor as f32);
        }
        let mut block = [[0.0; 16]; OUT * OUT];
        output_tile(&transformed, LANES, 0, &mut block);
        for (place, lanes) in block.iter().enumerate() {
            for (lane, actual) in lanes[..LANES].iter().enumerate() {
                let tap = |i: usize| {
                    let (y, x) = (place / OUT + i / 3, place % OUT + i % 3);
                    f64::from(kernel[i]) * f64::from(inputs[(y * IN + x) * LANES + lane])
                };
                let exact: f64 = (0..9).map(tap).sum();
                assert!(
                    (f64::from(*actual) - exact).abs() < 2e-5,
                    "{place}: {actual} for {exact}"
                );
            }
        }
    }
}
