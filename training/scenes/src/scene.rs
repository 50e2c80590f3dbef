//! Composition of one scene: a photograph, distractors, digits on top, then the camera's noise.

use crate::canvas::{Box4, Canvas, Colour};
use crate::digits::{Digits, Glyph};
use crate::photos::Photos;
use image::RgbImage;
use rand::Rng;

/// Most digits of a scene.
const MOST_DIGITS: usize = 8;
/// Most distractors of a scene.
const MOST_DISTRACTORS: usize = 6;
/// Heights of an upright digit in pixels.
const HEIGHTS: (f32, f32) = (18.0, 84.0);
/// A digit may cover so much of the smaller of two boxes.
const MOST_OVERLAP: f32 = 0.3;
/// Tries to place a digit before it is left out.
const TRIES: usize = 20;
/// Cover from which a pixel counts as part of a digit, for its box.
const VISIBLE: f32 = 0.3;
/// Least distance of ink from the mean colour under it, of 441 for black on white.
const LEAST_CONTRAST: f32 = 90.0;

/// A digit in a scene.
pub struct Object {
    pub class: u8,
    pub bounds: Box4,
}

pub struct Scene {
    pub image: RgbImage,
    pub objects: Vec<Object>,
}

pub fn compose(rng: &mut impl Rng, digits: &Digits, photos: &Photos, size: u32) -> Scene {
    let mut canvas = Canvas::over(&photos.pick(rng, size));
    for _ in 0..rng.random_range(0..=MOST_DISTRACTORS) {
        distract(rng, &mut canvas);
    }
    let mut objects: Vec<Object> = Vec::new();
    for _ in 0..rng.random_range(1..=MOST_DIGITS) {
        let glyph = digits.pick(rng);
        objects.extend(place(rng, &mut canvas, glyph, &objects));
    }
    expose(rng, &mut canvas);
    Scene {
        image: canvas.to_image(),
        objects,
    }
}

/// Draws a digit where it covers little of those before it.
fn place(
    rng: &mut impl Rng,
    canvas: &mut Canvas,
    glyph: &Glyph,
    others: &[Object],
) -> Option<Object> {
    // Uniform in the logarithm: as many small as large ones.
    let height = HEIGHTS.0 * (HEIGHTS.1 / HEIGHTS.0).powf(rng.random());
    let scale_y = height / glyph.height as f32;
    let scale_x = scale_y * rng.random_range(0.8..1.25);
    let (sin, cos) = rng.random_range(-0.22f32..0.22).sin_cos();
    let slant = rng.random_range(-0.15..0.15);
    let half = [
        0.5 * glyph.width as f32 * scale_x,
        0.5 * glyph.height as f32 * scale_y,
    ];
    let reach_x = half[0] * cos + half[1] * (sin.abs() + f32::abs(slant)) + 1.0;
    let reach_y = half[1] * cos + half[0] * sin.abs() + 1.0;
    let size = canvas.size as f32;
    if 2.0 * reach_x >= size || 2.0 * reach_y >= size {
        return None;
    }
    for _ in 0..TRIES {
        let x = rng.random_range(reach_x..size - reach_x);
        let y = rng.random_range(reach_y..size - reach_y);
        let area = [x - reach_x, y - reach_y, x + reach_x, y + reach_y];
        if others
            .iter()
            .any(|other| overlap(area, other.bounds) > MOST_OVERLAP)
        {
            continue;
        }
        let ink = contrasting(rng, canvas.mean(area));
        let opacity = rng.random_range(0.75..1.0);
        let bounds = canvas.paint(area, ink, VISIBLE, |px, py| {
            let (dx, dy) = (px - x, py - y);
            let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
            let u = u + slant * v;
            let gx = u / scale_x + 0.5 * glyph.width as f32;
            opacity * glyph.sample(gx, v / scale_y + 0.5 * glyph.height as f32)
        })?;
        return Some(Object {
            class: glyph.class,
            bounds,
        });
    }
    None
}

/// Intersection over the smaller area.
fn overlap(a: Box4, b: Box4) -> f32 {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    let area = |b: Box4| (b[2] - b[0]) * (b[3] - b[1]);
    width.max(0.0) * height.max(0.0) / area(a).min(area(b))
}

/// A colour that can be seen on `ground`.
fn contrasting(rng: &mut impl Rng, ground: Colour) -> Colour {
    loop {
        let ink: Colour = std::array::from_fn(|_| rng.random_range(0.0..255.0));
        let distance = ink.iter().zip(ground).map(|(i, g)| (i - g) * (i - g));
        if distance.sum::<f32>().sqrt() >= LEAST_CONTRAST {
            return ink;
        }
    }
}

/// Draws a stroke or a ring: written, but no digit.
fn distract(rng: &mut impl Rng, canvas: &mut Canvas) {
    let size = canvas.size as f32;
    let colour: Colour = std::array::from_fn(|_| rng.random_range(0.0..255.0));
    let opacity = rng.random_range(0.5..1.0);
    let thick = rng.random_range(1.0f32..4.0);
    let soft = move |distance: f32| opacity * (thick - distance + 0.5).clamp(0.0, 1.0);
    let from: [f32; 2] = std::array::from_fn(|_| rng.random_range(0.0..size));
    if rng.random() {
        // Longer than any one.
        let (sin, cos) = rng.random_range(0.0..std::f32::consts::TAU).sin_cos();
        let length = rng.random_range(1.1 * HEIGHTS.1..2.2 * HEIGHTS.1);
        let to = [from[0] + length * cos, from[1] + length * sin];
        let area = [
            from[0].min(to[0]) - thick,
            from[1].min(to[1]) - thick,
            from[0].max(to[0]) + thick,
            from[1].max(to[1]) + thick,
        ];
        canvas.paint(area, colour, 1.0, |x, y| soft(to_segment([x, y], from, to)));
    } else {
        // Wider than a zero could be, or a speck.
        let radius = if rng.random() {
            rng.random_range(0.3..0.5) * size
        } else {
            rng.random_range(1.0..5.0)
        };
        let reach = radius + thick;
        let area = [
            from[0] - reach,
            from[1] - reach,
            from[0] + reach,
            from[1] + reach,
        ];
        canvas.paint(area, colour, 1.0, |x, y| {
            soft(((x - from[0]).hypot(y - from[1]) - radius).abs())
        });
    }
}

fn to_segment(p: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let length = along[0] * along[0] + along[1] * along[1];
    let t = ((p[0] - a[0]) * along[0] + (p[1] - a[1]) * along[1]) / length.max(1e-6);
    let t = t.clamp(0.0, 1.0);
    (p[0] - a[0] - t * along[0]).hypot(p[1] - a[1] - t * along[1])
}

/// Gain, offset and noise.
fn expose(rng: &mut impl Rng, canvas: &mut Canvas) {
    let gain = rng.random_range(0.75..1.25f32);
    let offset = rng.random_range(-25.0..25.0);
    let noise = rng.random_range(0.0..8.0f32);
    canvas.map(|channel| {
        let grain = noise * (rng.random::<f32>() + rng.random::<f32>() - 1.0);
        (channel - 128.0) * gain + 128.0 + offset + grain
    });
}
