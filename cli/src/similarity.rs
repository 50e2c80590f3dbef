//! A picture of how near texts are to each other.

use crate::draw::{LETTER, fill, text};
use crate::images;
use anyhow::{Result, bail};
use image::{Rgb, RgbImage};
use std::path::Path;

/// Pixels for each pixel of a letter.
const SCALE: u32 = 2;
/// Rows and columns of a letter.
const CELL: u32 = LETTER * SCALE;
/// Side of a field of the matrix: room for `-0.12` and its margin.
const FIELD: u32 = 6 * CELL;
/// Characters of a text beside its row.
const LABEL: usize = 44;
const MARGIN: u32 = CELL;
const WHITE: Rgb<u8> = Rgb([255; 3]);
const BLACK: Rgb<u8> = Rgb([0; 3]);
/// Most texts: beyond it the picture grows past what viewers open.
const MOST: usize = 64;

/// An error where there are more texts than [`write`] should be given.
pub fn check(texts: &[String]) -> Result<()> {
    if texts.len() > MOST {
        bail!(
            "--matrix: must be of at most {MOST} texts, got {}",
            texts.len()
        );
    }
    Ok(())
}

/// Writes a PNG of the cosine similarities of normalised `embeddings`: a row and a column for each text, in their order.
pub fn write(path: &Path, texts: &[String], embeddings: &[Vec<f32>]) -> Result<()> {
    images::write(&picture(texts, embeddings), path)
}

fn picture(texts: &[String], embeddings: &[Vec<f32>]) -> RgbImage {
    let count = texts.len() as u32;
    let (left, top) = (MARGIN + LABEL as u32 * CELL + MARGIN, MARGIN + FIELD);
    let [width, height] = [left, top].map(|start| start + count * FIELD + MARGIN);
    let mut image = RgbImage::from_pixel(width, height, WHITE);
    for (row, words) in texts.iter().enumerate() {
        let number = (row + 1).to_string();
        let label = format!("{number} {}", words.replace(char::is_control, " "));
        let label = shortened(&label, LABEL);
        let start = row as u32 * FIELD;
        let before = left - MARGIN - width_of(&label);
        text(
            &mut image,
            [before, centred(top + start, CELL)],
            &label,
            BLACK,
            SCALE,
        );
        let above = [
            centred(left + start, width_of(&number)),
            centred(MARGIN, CELL),
        ];
        text(&mut image, above, &number, BLACK, SCALE);
        for column in 0..texts.len() {
            let similarity = cosine(&embeddings[row], &embeddings[column]);
            let (back, ink) = colours(similarity);
            let (x, y) = (left + column as u32 * FIELD, top + start);
            fill(&mut image, [x, y, x + FIELD - 1, y + FIELD - 1], back);
            let value = format!("{similarity:.2}");
            let at = [centred(x, width_of(&value)), centred(y, CELL)];
            text(&mut image, at, &value, ink, SCALE);
        }
    }
    image
}

fn width_of(text: &str) -> u32 {
    text.chars().count() as u32 * CELL
}

/// Where something begins that lies in the middle of a field.
fn centred(field: u32, extent: u32) -> u32 {
    field + FIELD.saturating_sub(extent) / 2
}

/// At most `most` characters; the last of a longer text are dots.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most - 2).collect();
    format!("{kept}..")
}

/// Of two vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum::<f64>() as f32
}

/// A field's colour, from white at 0 to dark blue at 1 (to dark red at -1), and one that is read on it.
fn colours(similarity: f32) -> (Rgb<u8>, Rgb<u8>) {
    let strength = similarity.abs().min(1.0);
    let towards = if similarity < 0.0 {
        [140.0, 20.0, 30.0]
    } else {
        [20.0, 50.0, 120.0]
    };
    let mixed = towards.map(|full: f32| (255.0 + strength * (full - 255.0)).round() as u8);
    (Rgb(mixed), if strength > 0.5 { WHITE } else { BLACK })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_dark_and_unlike_ones_white() {
        let texts = [
            "one",
            "two\n",
            "a text that is far too long to be written beside its row",
        ];
        let texts = texts.map(String::from);
        let embeddings = [vec![1.0, 0.0], vec![0.0, 1.0], vec![-1.0, 0.0]];
        let image = picture(&texts, &embeddings);
        let (left, top) = (2 * MARGIN + LABEL as u32 * CELL, MARGIN + FIELD);
        // The corner of a field, where no text is.
        let field =
            |row: u32, column: u32| *image.get_pixel(left + column * FIELD, top + row * FIELD);
        assert_eq!(field(0, 0), Rgb([20, 50, 120]));
        assert_eq!((field(0, 1), field(1, 0)), (WHITE, WHITE));
        assert_eq!(field(0, 2), Rgb([140, 20, 30]));
        assert_eq!(image.width(), left + 3 * FIELD + MARGIN);
    }

    #[test]
    fn long_texts_end_in_dots() {
        assert_eq!(shortened("äbcdef", 5), "äbc..");
        assert_eq!(shortened("abcde", 5), "abcde");
    }
}
