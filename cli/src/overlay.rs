//! Maps as colours over pictures.

use image::{Rgb, RgbImage};

/// From dark to light, as matplotlib's `inferno` at quarters (CC0).
const RAMP: [[f32; 3]; 5] = [
    [0.0, 0.0, 4.0],
    [87.0, 16.0, 110.0],
    [188.0, 55.0, 84.0],
    [249.0, 142.0, 9.0],
    [252.0, 255.0, 164.0],
];

/// How much of the colour covers the image.
const COVER: f32 = 0.6;

/// The image under the colours of a map of as many pixels, row by row, from 0 to 1.
pub fn overlay(image: &RgbImage, map: &[f32]) -> RgbImage {
    let mut picture = image.clone();
    for (pixel, &value) in picture.pixels_mut().zip(map) {
        let Rgb(colour) = colour(value);
        for (channel, colour) in pixel.0.iter_mut().zip(colour) {
            let mixed = f32::from(*channel) * (1.0 - COVER) + f32::from(colour) * COVER;
            *channel = mixed.round() as u8;
        }
    }
    picture
}

/// The colour of a value; NaN and what lies below 0 are dark, what lies above 1 light.
fn colour(value: f32) -> Rgb<u8> {
    let value = if value.is_nan() {
        0.0
    } else {
        value.clamp(0.0, 1.0)
    };
    let place = value * (RAMP.len() - 1) as f32;
    let below = (place as usize).min(RAMP.len() - 2);
    let part = place - below as f32;
    let mixed = |channel: usize| {
        let [from, to] = [RAMP[below][channel], RAMP[below + 1][channel]];
        (from + (to - from) * part).round() as u8
    };
    Rgb([mixed(0), mixed(1), mixed(2)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_run_from_dark_to_light() {
        for (value, expected) in [
            (0.0, [0, 0, 4]),
            (0.5, [188, 55, 84]),
            (1.0, [252, 255, 164]),
            (7.0, [252, 255, 164]),
            (-1.0, [0, 0, 4]),
            (f32::NAN, [0, 0, 4]),
        ] {
            assert_eq!(colour(value), Rgb(expected), "{value}");
        }
    }

    #[test]
    fn the_image_shows_through() {
        let image = RgbImage::from_pixel(2, 1, Rgb([100, 100, 100]));
        let picture = overlay(&image, &[0.0, 1.0]);
        assert_eq!(*picture.get_pixel(0, 0), Rgb([40, 40, 42]));
        assert_eq!(*picture.get_pixel(1, 0), Rgb([191, 193, 138]));
    }
}
