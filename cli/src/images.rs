//! Image files.

use anyhow::{Context, Result, bail};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use ocelli::{Device, Tensor};
use std::path::{Path, PathBuf};

/// Ends of the names that are taken from a folder.
const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Reads a PNG or JPEG as RGB, 8 bits a channel, turned upright as its EXIF orientation says. Grey is repeated, alpha left
/// out, 16 bits are rounded to 8.
pub fn read(path: &Path) -> Result<RgbImage> {
    let decode = || -> Result<RgbImage> {
        let reader = ImageReader::open(path)?.with_guessed_format()?;
        let mut decoder = reader.into_decoder()?;
        // Broken metadata do not make an image unreadable.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        // `from_decoder` allocates whatever the header asks for.
        Limits::default().reserve(decoder.total_bytes())?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(image.into_rgb8())
    };
    decode().with_context(|| format!("{}: cannot be read as an image", path.display()))
}

/// The images that these paths name: files as they are, folders as the PNG and JPEG files in them, sorted by name.
pub fn list(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for path in paths {
        if !path.is_dir() {
            images.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
        let files = entries.map(|entry| entry.map(|entry| entry.path()));
        let files = files.collect::<std::io::Result<Vec<_>>>();
        let files = files.with_context(|| path.display().to_string())?;
        let mut files: Vec<_> = files.into_iter().filter(|file| is_image(file)).collect();
        if files.is_empty() {
            bail!("{}: no PNG or JPEG file in this folder", path.display());
        }
        files.sort();
        images.append(&mut files);
    }
    Ok(images)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        let known = EXTENSIONS.iter();
        known
            .into_iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    }) && path.is_file()
}

/// The pixels as f32 `[H, W, 3]` in 0..1, on the CPU.
pub fn tensor(image: &RgbImage) -> Result<Tensor> {
    let values = image.as_raw().iter().map(|&byte| f32::from(byte) / 255.0);
    let (width, height) = image.dimensions();
    let shape = [height as usize, width as usize, 3];
    Ok(Tensor::from_vec(values.collect(), &shape, &Device::Cpu)?)
}

/// Writes a PNG; it appears whole or not at all.
pub fn write(image: &RgbImage, path: &Path) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(ocelli::io::write_whole(path, bytes.get_ref())?)
}

/// Paths in `folder` of the pictures made of these images: their names with the end `.png`. Of images with the same name
/// the second is called `name-2.png`, and so on.
pub fn output_paths(folder: &Path, images: &[PathBuf]) -> Vec<PathBuf> {
    let mut taken = std::collections::BTreeSet::new();
    let path = |image: &PathBuf| {
        let stem = image
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let mut name = format!("{stem}.png");
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{stem}-{number}.png");
            number += 1;
        }
        folder.join(name)
    };
    images.iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};

    /// What is read of an image that is written as a PNG.
    fn through_png<P: image::PixelWithColorType<Subpixel: image::Primitive>>(
        name: &str,
        image: &ImageBuffer<P, Vec<P::Subpixel>>,
    ) -> RgbImage
    where
        [P::Subpixel]: image::EncodableLayout,
    {
        let name = format!("ocelli-images-{name}-{}.png", std::process::id());
        let path = std::env::temp_dir().join(name);
        image.save(&path).unwrap();
        let read = read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        read
    }

    #[test]
    fn all_kinds_of_pixels_become_rgb() {
        let grey = ImageBuffer::from_pixel(3, 2, Luma([7u8]));
        assert_eq!(*through_png("grey", &grey).get_pixel(2, 1), Rgb([7; 3]));
        let deep = ImageBuffer::from_pixel(1, 1, Luma([0x1234u16]));
        assert_eq!(*through_png("deep", &deep).get_pixel(0, 0), Rgb([0x12; 3]));
        let clear = ImageBuffer::from_pixel(2, 2, Rgba([9u8, 8, 7, 0]));
        assert_eq!(
            *through_png("clear", &clear).get_pixel(1, 1),
            Rgb([9, 8, 7])
        );
        let both: GrayAlphaImage = ImageBuffer::from_pixel(2, 2, LumaA([5u8, 100]));
        assert_eq!(*through_png("both", &both).get_pixel(0, 1), Rgb([5; 3]));
    }

    #[test]
    fn an_image_is_turned_upright() {
        // Red on the left, blue on the right.
        let colour = |x, _| {
            if x < 8 {
                Rgb([255, 0, 0])
            } else {
                Rgb([0, 0, 255])
            }
        };
        let mut jpeg = std::io::Cursor::new(Vec::new());
        let stored = RgbImage::from_fn(16, 8, colour);
        stored
            .write_to(&mut jpeg, image::ImageFormat::Jpeg)
            .unwrap();
        let mut bytes = jpeg.into_inner();
        // EXIF with one entry: orientation (0x0112), a short, 6: to be turned clockwise by a quarter.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut segment = vec![0xff, 0xe1, 0, exif.len() as u8 + 2];
        segment.extend(exif);
        bytes.splice(2..2, segment);
        let name = format!("ocelli-images-turned-{}.jpg", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        let upright = read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(upright.dimensions(), (8, 16));
        let [top, bottom] = [2, 13].map(|y| upright.get_pixel(4, y).0);
        assert!(top[0] > 200 && top[2] < 50, "{top:?}");
        assert!(bottom[0] < 50 && bottom[2] > 200, "{bottom:?}");
        let values = tensor(&upright).unwrap();
        assert_eq!(values.shape(), [16, 8, 3]);
        assert_eq!(
            values.to_vec::<f32>().unwrap()[0],
            f32::from(upright.as_raw()[0]) / 255.0
        );
    }

    #[test]
    fn pictures_of_one_name_are_kept_apart() {
        let images = ["a/x.jpg", "b/x.png", "x-2.png", "y.jpeg"].map(PathBuf::from);
        let paths = output_paths(Path::new("out"), &images);
        let expected = ["out/x.png", "out/x-2.png", "out/x-2-2.png", "out/y.png"];
        assert_eq!(paths, expected.map(PathBuf::from));
    }

    #[test]
    fn names_of_images_are_known_in_any_case() {
        let folder = std::env::temp_dir().join(format!("ocelli-images-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("c.png")).unwrap();
        for name in ["b.JPG", "a.png", "notes.txt"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let found = list(std::slice::from_ref(&folder)).unwrap();
        assert_eq!(found, [folder.join("a.png"), folder.join("b.JPG")]);
        let error = read(&found[0]).unwrap_err().to_string();
        assert!(
            error.ends_with("a.png: cannot be read as an image"),
            "{error}"
        );
        let error = list(&[folder.join("c.png")]).unwrap_err().to_string();
        assert!(
            error.ends_with("no PNG or JPEG file in this folder"),
            "{error}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
