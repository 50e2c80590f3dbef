//! Image files.

use crate::files;
use anyhow::{Context, Result, bail};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
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
    files::write_whole(path, bytes.get_ref())
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
