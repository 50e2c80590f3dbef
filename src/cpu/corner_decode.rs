//! Corner decoding: strips of rows in parallel, each with the best peaks so far, then one list of pairs an image.

use super::math::exp_of_minus_f64;
use super::order::{keep_best, key_score, sort_key};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::CornerDecode;
use rayon::prelude::*;

const OP: &str = "corner_decode";
/// Rows of one task: the best peaks of the first rows leave little to do for the rest.
const STRIP: usize = 32;
/// Logits looked at together: where none is among the best so far, no window is looked at.
const LANES: usize = 32;

/// What a network says of one kind of corner, `B` images.
#[derive(Debug, Clone, Copy)]
pub struct CornerMaps<'a, T> {
    /// `[B, H, W, K]` logits.
    pub heat: &'a [T],
    /// `[B, H, W]`.
    pub embedding: &'a [T],
    /// `[B, H, W, 2]`.
    pub offset: &'a [T],
}

/// `B`, `H`, `W` and `K`.
#[derive(Debug, Clone, Copy)]
pub struct Extents {
    /// `B`.
    pub images: usize,
    /// `H`.
    pub height: usize,
    /// `W`.
    pub width: usize,
    /// `K`.
    pub classes: usize,
}

/// The boxes of a batch, `num_dets` places an image.
#[derive(Debug, Clone, PartialEq)]
pub struct CornerBoxes {
    /// `[B, num_dets, 4]` in cells of the maps, best first, then 0.
    pub boxes: Vec<f32>,
    /// `[B, num_dets]`, 0 behind the last box.
    pub scores: Vec<f32>,
    /// `[B, num_dets]`, -1 behind the last box.
    pub classes: Vec<i32>,
    /// `[B]`.
    pub counts: Vec<i32>,
}

impl Extents {
    fn cells(&self) -> usize {
        self.height * self.width
    }

    /// Elements of a row of logits.
    fn row(&self) -> usize {
        self.width * self.classes
    }
}

/// Boxes from the corners of each image. See [`ops::corner_decode`](crate::ops::corner_decode).
///
/// # Errors
/// When lengths do not fit the extents, a scalar is out of its range, or an image has 2^31 logits or more.
pub fn corner_decode<T: Float>(
    extents: Extents,
    top_left: CornerMaps<'_, T>,
    bottom_right: CornerMaps<'_, T>,
    params: &CornerDecode,
) -> Result<CornerBoxes> {
    params.check()?;
    check(extents, ["tl_heat", "tl_embed", "tl_offset"], &top_left)?;
    check(extents, ["br_heat", "br_embed", "br_offset"], &bottom_right)?;
    let n = params.num_dets;
    let mut result = CornerBoxes {
        boxes: vec![0.0; 4 * n * extents.images],
        scores: vec![0.0; n * extents.images],
        classes: vec![-1; n * extents.images],
        counts: vec![0; extents.images],
    };
    let rows = result.boxes.par_chunks_mut(4 * n);
    let rows = rows.zip(result.scores.par_chunks_mut(n));
    let rows = rows.zip(result.classes.par_chunks_mut(n));
    let rows = rows.zip(&mut result.counts).enumerate();
    rows.for_each(|(image, (((boxes, scores), classes), count))| {
        let corners = |maps| best_corners(extents, image, maps, params);
        let (a, b) = rayon::join(|| corners(&top_left), || corners(&bottom_right));
        let pairs = best_pairs(&a, &b, params);
        for (place, &pair) in pairs.iter().enumerate() {
            let (a, b) = (
                &a[pair as u32 as usize / b.len()],
                &b[pair as u32 as usize % b.len()],
            );
            boxes[4 * place..4 * place + 4].copy_from_slice(&[a.x, a.y, b.x, b.y]);
            scores[place] = mean(a.score, b.score);
            classes[place] = a.class as i32;
        }
        *count = pairs.len() as i32;
    });
    Ok(result)
}

fn check<T>(extents: Extents, names: [&str; 3], maps: &CornerMaps<'_, T>) -> Result<()> {
    let image = extents.cells().checked_mul(extents.classes);
    if image.is_none_or(|logits| logits >= 1 << 31) {
        let is = format!("{} x {}", extents.cells(), extents.classes);
        return Err(Error::input(
            OP,
            names[0],
            "less than 2^31 logits an image",
            is,
        ));
    }
    let cells = extents.images * extents.cells();
    let lengths = [
        (maps.heat.len(), cells * extents.classes),
        (maps.embedding.len(), cells),
        (maps.offset.len(), 2 * cells),
    ];
    for (argument, (is, expected)) in names.into_iter().zip(lengths) {
        if is != expected {
            return Err(Error::input(
                OP,
                argument,
                format!("{expected} elements"),
                is,
            ));
        }
    }
    Ok(())
}

struct Corner {
    score: f32,
    class: usize,
    x: f32,
    y: f32,
    embedding: f32,
}

fn mean(a: f32, b: f32) -> f32 {
    (a + b) * 0.5
}

/// The best corners of one kind in one image: peaks by descending logit, then places that are none, ties by
/// (class, y, x).
fn best_corners<T: Float>(
    extents: Extents,
    image: usize,
    maps: &CornerMaps<'_, T>,
    params: &CornerDecode,
) -> Vec<Corner> {
    let (cells, classes) = (extents.cells(), extents.classes);
    let limit = params.topk.min(cells * classes);
    let heat = &maps.heat[image * cells * classes..][..cells * classes];
    let mut best: Vec<u64> = (0..extents.height.div_ceil(STRIP))
        .into_par_iter()
        .flat_map_iter(|strip| {
            let rows = strip * STRIP..((strip + 1) * STRIP).min(extents.height);
            Peaks::new(extents, params, limit).of_rows(heat, rows)
        })
        .collect();
    best.sort_unstable();
    best.truncate(limit);
    let first_cell = image * cells;
    let corner = |place: usize, score: f32| {
        let (class, cell) = (place / cells, place % cells);
        let [x, y] = [0, 1].map(|side| maps.offset[2 * (first_cell + cell) + side].to_f32());
        Corner {
            score,
            class,
            x: (cell % extents.width) as f32 + x,
            y: (cell / extents.width) as f32 + y,
            embedding: maps.embedding[first_cell + cell].to_f32(),
        }
    };
    let peaks = best
        .iter()
        .map(|&key| corner(key as u32 as usize, sigmoid(key_score(key))));
    let mut corners: Vec<Corner> = peaks.collect();
    if corners.len() < limit {
        // As many places as are wanted in all hold enough that are no peaks.
        let mut taken: Vec<u32> = best.iter().map(|&key| key as u32).collect();
        taken.sort_unstable();
        let others = (0..limit).filter(|&place| taken.binary_search(&(place as u32)).is_err());
        corners.extend(
            others
                .take(limit - taken.len())
                .map(|place| corner(place, 0.0)),
        );
    }
    corners
}

/// In double precision and the order of `kernels/common/exact_double.cuh`, rounded to f32 once.
fn sigmoid(logit: f32) -> f32 {
    let t = exp_of_minus_f64(f64::from(logit).abs());
    (if logit < 0.0 {
        t / (1.0 + t)
    } else {
        1.0 / (1.0 + t)
    }) as f32
}

/// Collects the best peaks of some rows of one image.
struct Peaks {
    extents: Extents,
    radius: usize,
    limit: usize,
    keys: Vec<u64>,
    /// Logits below this are not among the best.
    floor: f32,
}

impl Peaks {
    fn new(extents: Extents, params: &CornerDecode, limit: usize) -> Self {
        Self {
            extents,
            radius: params.radius(),
            limit,
            keys: Vec::new(),
            floor: f32::NEG_INFINITY,
        }
    }

    fn of_rows<T: Float>(mut self, heat: &[T], rows: std::ops::Range<usize>) -> Vec<u64> {
        let (row, reach) = (self.extents.row(), self.radius * self.extents.classes);
        let padded = row + 2 * reach;
        let window = 2 * self.radius + 1;
        // Row y lies at y % window, between margins that no logit exceeds.
        let mut ring = vec![f32::NEG_INFINITY; window * padded];
        let load = |ring: &mut [f32], y: usize| {
            T::widen(
                &heat[y * row..(y + 1) * row],
                &mut ring[y % window * padded + reach..][..row],
            );
        };
        let first = rows.start.saturating_sub(self.radius);
        let last = self.extents.height - 1;
        (first..(rows.start + self.radius).min(last + 1)).for_each(|y| load(&mut ring, y));
        for y in rows {
            if y + self.radius <= last {
                load(&mut ring, y + self.radius);
            }
            let near = y.saturating_sub(self.radius)..=(y + self.radius).min(last);
            let near: Vec<&[f32]> = near
                .map(|v| &ring[v % window * padded..][..padded])
                .collect();
            self.of_row(y, &near, &ring[y % window * padded + reach..][..row]);
        }
        self.settle();
        self.keys
    }

    /// Peaks of row `y`, which is `centre`, among the padded rows `near`.
    fn of_row(&mut self, y: usize, near: &[&[f32]], centre: &[f32]) {
        let Extents { width, classes, .. } = self.extents;
        let mut highest = [0f32; LANES];
        for (chunk, values) in centre.chunks(LANES).enumerate() {
            let mut any = false;
            values.iter().for_each(|&value| any |= value >= self.floor);
            if !any {
                continue;
            }
            let first = chunk * LANES;
            let highest = &mut highest[..values.len()];
            highest.fill(f32::NEG_INFINITY);
            for row in near {
                for shift in 0..=2 * self.radius {
                    let row = &row[first + shift * classes..][..values.len()];
                    // A NaN is not greater.
                    for (highest, &other) in highest.iter_mut().zip(row) {
                        *highest = if other > *highest { other } else { *highest };
                    }
                }
            }
            for (i, (&value, &highest)) in values.iter().zip(&*highest).enumerate() {
                if value == highest && value >= self.floor {
                    let (x, class) = ((first + i) / classes, (first + i) % classes);
                    self.keys.push(sort_key(
                        value,
                        (class * self.extents.height + y) * width + x,
                    ));
                }
            }
        }
        if self.keys.len() > 4 * self.limit {
            self.settle();
        }
    }

    /// Leaves the best alone.
    fn settle(&mut self) {
        keep_best(&mut self.keys, self.limit);
        if let (true, Some(&worst)) = (self.keys.len() == self.limit, self.keys.iter().max()) {
            self.floor = key_score(worst);
        }
    }
}

/// Keys of the best pairs, whose places are `rank in a * b.len() + rank in b`.
fn best_pairs(a: &[Corner], b: &[Corner], params: &CornerDecode) -> Vec<u64> {
    let finite = |corner: &Corner| corner.x.is_finite() && corner.y.is_finite();
    let fit = |a: &Corner, b: &Corner| {
        a.class == b.class
            && (a.embedding - b.embedding).abs() <= params.ae_threshold
            && b.x >= a.x
            && b.y >= a.y
            && finite(a)
            && finite(b)
    };
    let mut keys = Vec::new();
    for (i, a) in a.iter().enumerate() {
        for (j, other) in b.iter().enumerate() {
            if fit(a, other) {
                keys.push(sort_key(mean(a.score, other.score), i * b.len() + j));
            }
        }
    }
    keys.sort_unstable();
    keys.truncate(params.num_dets);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let extents = Extents {
            images: 2,
            height: 70,
            width: 9,
            classes: 5,
        };
        let cells = 2 * 70 * 9;
        let values = |n: usize, scale: f32| -> Vec<f32> {
            (0..n).map(|i| (i as f32 * 0.71).sin() * scale).collect()
        };
        let (heat, other) = (values(cells * 5, 3.0), values(cells * 5, 2.0));
        let (embedding, offset) = (values(cells, 1.0), values(2 * cells, 0.5));
        let run = |threads| {
            let maps = |heat| CornerMaps {
                heat,
                embedding: &embedding,
                offset: &offset,
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let params = CornerDecode::default();
            let decode = || corner_decode(extents, maps(&heat[..]), maps(&other[..]), &params);
            pool.unwrap().install(|| decode().unwrap())
        };
        let result = run(1);
        assert!(result.counts.iter().all(|&count| count > 10));
        assert_eq!(result, run(5));
    }
}
