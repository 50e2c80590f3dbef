//! Targets of corner heatmaps on the CPU.

use super::math::exp_of_minus;
use crate::error::{Error, Result};
use crate::params::CornerTargets;
use rayon::prelude::*;

const OP: &str = "corner_targets";
/// Elements of a heatmap that one task renders.
const TASK: usize = 1 << 14;

/// The bump of one corner of one box. A bump without a class is left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bump {
    cell: [usize; 2],
    radius: usize,
    class: Option<usize>,
}

/// What [`corner_targets`] makes of the top-left or of the bottom-right corners.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetMaps {
    /// `[B, H, W, K]`.
    pub heat: Vec<f32>,
    /// `[B, M, 2]`.
    pub offsets: Vec<f32>,
    /// `[B, M]`.
    pub indices: Vec<i32>,
}

/// Targets of both corners. See [`ops::corner_targets`](crate::ops::corner_targets()).
///
/// # Errors
/// When the lengths do not fit each other.
pub fn corner_targets(
    boxes: &[f32],
    classes: &[i32],
    shape: [usize; 4],
    params: &CornerTargets,
) -> Result<[TargetMaps; 2]> {
    let places = places(boxes, classes, shape, params)?;
    let [batch, height, width, kinds] = shape;
    let per_image = height * width * kinds;
    let maps = [0, 1].map(|corner| {
        let bumps = bumps(&places, corner);
        let mut heat = vec![0f32; batch * per_image];
        let of_image = classes.len() / batch.max(1);
        let tasks: Vec<_> = heat
            .chunks_mut(per_image.max(1))
            .enumerate()
            .flat_map(|(image, heat)| {
                let parts = heat.chunks_mut(TASK).enumerate();
                parts.map(move |(part, heat)| (image, part * TASK, heat))
            })
            .collect();
        tasks.into_par_iter().for_each(|(image, first, heat)| {
            let bumps = &bumps[image * of_image..][..of_image];
            render(bumps, shape, first, heat);
        });
        let corners = places.iter().map(|place| place.corners[corner]);
        TargetMaps {
            heat,
            offsets: corners.clone().flat_map(|point| point.offset).collect(),
            indices: corners.map(|point| point.index).collect(),
        }
    });
    Ok(maps)
}

/// The bumps of the top-left (0) or of the bottom-right (1) corners, `[B, M]`.
///
/// # Errors
/// When the lengths do not fit each other.
pub fn bumps_of(
    boxes: &[f32],
    classes: &[i32],
    shape: [usize; 4],
    params: &CornerTargets,
    corner: usize,
) -> Result<Vec<Bump>> {
    Ok(bumps(&places(boxes, classes, shape, params)?, corner))
}

/// Raises `heat`, elements from `first` on of the image that the bumps are of, to the bumps.
pub(super) fn render(bumps: &[Bump], shape: [usize; 4], first: usize, heat: &mut [f32]) {
    let [_, height, width, kinds] = shape;
    let row = (width * kinds).max(1);
    let end = first + heat.len();
    for bump in bumps {
        let Some(class) = bump.class else { continue };
        let ([y, x], radius) = (bump.cell, bump.radius);
        let diameter = (2 * radius + 1) as f32;
        // 1 / (2 sigma^2), sigma being a sixth of the diameter.
        let sharpness = 18.0 / (diameter * diameter);
        let rows = y.saturating_sub(radius).max(first / row)..(y + radius + 1).min(height);
        for row in rows.take_while(|row| row * width * kinds < end) {
            for column in x.saturating_sub(radius)..(x + radius + 1).min(width) {
                let at = (row * width + column) * kinds + class;
                if !(first..end).contains(&at) {
                    continue;
                }
                let (dy, dx) = (row.abs_diff(y), column.abs_diff(x));
                let value = exp_of_minus((dy * dy + dx * dx) as f32 * sharpness);
                let slot = &mut heat[at - first];
                *slot = slot.max(value);
            }
        }
    }
}

/// Where one corner lies.
#[derive(Debug, Clone, Copy)]
struct Point {
    cell: [usize; 2],
    offset: [f32; 2],
    index: i32,
}

/// Where the two corners of a box lie, and what bumps they make.
#[derive(Debug, Clone, Copy)]
struct Place {
    corners: [Point; 2],
    radius: usize,
    class: Option<usize>,
}

fn bumps(places: &[Place], corner: usize) -> Vec<Bump> {
    let bump = |place: &Place| Bump {
        cell: place.corners[corner].cell,
        radius: place.radius,
        class: place.class,
    };
    places.iter().map(bump).collect()
}

fn places(
    boxes: &[f32],
    classes: &[i32],
    shape: [usize; 4],
    params: &CornerTargets,
) -> Result<Vec<Place>> {
    if boxes.len() != 4 * classes.len() {
        let rule = format!("{} numbers", 4 * classes.len());
        return Err(Error::input(OP, "boxes", rule, boxes.len()));
    }
    if !classes.len().is_multiple_of(shape[0].max(1)) {
        let rule = format!("a multiple of {} long", shape[0]);
        return Err(Error::input(OP, "classes", rule, classes.len()));
    }
    let all = boxes.chunks(4).zip(classes);
    Ok(all
        .map(|(corners, &class)| place(corners, class, shape, params))
        .collect())
}

fn place(corners: &[f32], class: i32, shape: [usize; 4], params: &CornerTargets) -> Place {
    const NOWHERE: Point = Point {
        cell: [0, 0],
        offset: [0.0, 0.0],
        index: -1,
    };
    let [_, height, width, kinds] = shape;
    let [ratio_y, ratio_x] = params.ratios([height, width]);
    let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|side| f64::from(corners[side]));
    let points = [[y1 * ratio_y, x1 * ratio_x], [y2 * ratio_y, x2 * ratio_x]];
    let inside = |point: &[f64; 2]| {
        // False for NaN.
        point[0] >= 0.0 && point[0] < height as f64 && point[1] >= 0.0 && point[1] < width as f64
    };
    let class = usize::try_from(class).ok().filter(|&class| class < kinds);
    if class.is_none() || x1 > x2 || y1 > y2 || !points.iter().all(inside) {
        return Place {
            corners: [NOWHERE; 2],
            radius: 0,
            class: None,
        };
    }
    let extents = [((y2 - y1) * ratio_y).ceil(), ((x2 - x1) * ratio_x).ceil()];
    Place {
        corners: points.map(|[y, x]| {
            let cell = [y as usize, x as usize];
            Point {
                cell,
                offset: [(x - x.floor()) as f32, (y - y.floor()) as f32],
                index: (cell[0] * width + cell[1]) as i32,
            }
        }),
        radius: radius(extents, params.gaussian_iou),
        class,
    }
}

/// The radius of a bump, rounded down. In the order of operations of the original, whose f64 it shares,
/// so that no radius is one off.
fn radius([height, width]: [f64; 2], iou: f64) -> usize {
    let root = |a: f64, b: f64, c: f64| (b * b - 4.0 * a * c).max(0.0).sqrt();
    let sides = height + width;
    let first = (sides - root(1.0, sides, width * height * (1.0 - iou) / (1.0 + iou))) / 2.0;
    let second = (2.0 * sides - root(4.0, 2.0 * sides, (1.0 - iou) * width * height)) / 8.0;
    let (a, b) = (4.0 * iou, -2.0 * iou * sides);
    let third = (b + root(a, b, (iou - 1.0) * width * height)) / (2.0 * a);
    first.min(second).min(third).max(0.0) as usize
}
