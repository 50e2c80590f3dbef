//! Boxes, names and scores on pictures.

use font8x8::legacy::BASIC_LEGACY;
use image::{Rgb, RgbImage};

/// Rows and columns of a letter.
pub const LETTER: u32 = 8;
/// Pixels of an image's shorter side for which lines and letters grow by one.
const UNIT: u32 = 400;
/// Far apart from each other, and light enough for black letters.
const COLOURS: [Rgb<u8>; 10] = [
    Rgb([255, 95, 95]),
    Rgb([95, 205, 95]),
    Rgb([110, 160, 255]),
    Rgb([255, 190, 60]),
    Rgb([215, 120, 255]),
    Rgb([70, 220, 220]),
    Rgb([255, 130, 190]),
    Rgb([200, 220, 70]),
    Rgb([180, 180, 180]),
    Rgb([225, 165, 120]),
];

/// Draws a box with a label above its upper left corner, inside of it where there is no room. The colour is the class's.
pub fn detection(image: &mut RgbImage, corners: [f32; 4], class: usize, label: &str) {
    let colour = COLOURS[class % COLOURS.len()];
    let (width, height) = image.dimensions();
    let thickness = 1 + width.min(height) / UNIT;
    let corner = |i: usize| {
        let side = [width, height][i % 2];
        // The cast saturates, and takes NaN to 0.
        (corners[i].round() as u32).min(side)
    };
    let [x1, y1, x2, y2] = std::array::from_fn(corner);
    let (x2, y2) = (x2.max(x1 + 1), y2.max(y1 + 1));
    fill(image, [x1, y1, x2, y1 + thickness], colour);
    fill(image, [x1, y2.saturating_sub(thickness), x2, y2], colour);
    fill(image, [x1, y1, x1 + thickness, y2], colour);
    fill(image, [x2.saturating_sub(thickness), y1, x2, y2], colour);
    let (columns, rows) = (label.chars().count() as u32 * LETTER, LETTER + 2);
    let (columns, rows) = (columns * thickness, rows * thickness);
    let x = x1.min(width.saturating_sub(columns));
    let y = if y1 >= rows { y1 - rows } else { y1 };
    fill(image, [x, y, x + columns, y + rows], colour);
    text(image, [x, y + thickness], label, Rgb([0; 3]), thickness);
}

/// Fills the part of a rectangle that lies in the image.
pub fn fill(image: &mut RgbImage, [x1, y1, x2, y2]: [u32; 4], colour: Rgb<u8>) {
    let (width, height) = image.dimensions();
    for y in y1..y2.min(height) {
        for x in x1..x2.min(width) {
            image.put_pixel(x, y, colour);
        }
    }
}

/// Writes letters of `8 * scale` rows and columns from this upper left corner on, as far as they lie in the image; those
/// outside of ASCII become question marks.
pub fn text(image: &mut RgbImage, [x, y]: [u32; 2], text: &str, colour: Rgb<u8>, scale: u32) {
    for (place, letter) in text.chars().enumerate() {
        let rows = BASIC_LEGACY.get(letter as usize);
        let rows = rows.unwrap_or(&BASIC_LEGACY[usize::from(b'?')]);
        for (row, bits) in rows.iter().enumerate() {
            for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                let left = x + (place as u32 * LETTER + column) * scale;
                let top = y + row as u32 * scale;
                fill(image, [left, top, left + scale, top + scale], colour);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_has_lines_and_a_label() {
        let mut image = RgbImage::new(100, 60);
        detection(&mut image, [20.0, 30.0, 70.0, 50.0], 1, "one 0.9");
        let colour = COLOURS[1];
        for (x, y) in [(20, 30), (69, 30), (20, 49), (69, 49), (45, 30), (20, 20)] {
            assert_eq!(*image.get_pixel(x, y), colour, "{x}, {y}");
        }
        assert_eq!(*image.get_pixel(45, 40), Rgb([0; 3]));
        assert_eq!(*image.get_pixel(71, 50), Rgb([0; 3]));
    }

    #[test]
    fn no_box_leaves_the_image() {
        let mut image = RgbImage::new(9, 5);
        for corners in [
            [-5.0, -5.0, 100.0, 100.0],
            [8.9, 4.9, 9.0, 5.0],
            [f32::NAN, 0.0, f32::INFINITY, 1.0],
            [7.0, 3.0, 2.0, 1.0],
        ] {
            detection(&mut image, corners, 12, "\u{e9} a long label");
        }
    }
}
