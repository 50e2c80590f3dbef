//! Work on one image file after the other.

use crate::{images, progress};
use anyhow::{Context, Result, anyhow};
use image::RgbImage;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Calls `work` with every image that the paths name, and the path of the picture to make of it in `out` where that is
/// given. Prints the file, the line that it returns and the time that it took.
///
/// An image that cannot be read is reported and passed over, and makes the whole an error.
pub fn each(
    paths: &[PathBuf],
    out: Option<&Path>,
    mut work: impl FnMut(&RgbImage, Option<&Path>) -> Result<String>,
) -> Result<()> {
    let files = images::list(paths)?;
    if let Some(folder) = out {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let pictures = out.map(|folder| images::output_paths(folder, &files));
    let bar = progress::bar("images", files.len());
    let mut unreadable = 0;
    for (index, file) in files.iter().enumerate() {
        match images::read(file) {
            Ok(image) => {
                let picture = pictures.as_ref().map(|paths| paths[index].as_path());
                let start = Instant::now();
                let line = work(&image, picture).with_context(|| file.display().to_string())?;
                let time = start.elapsed().as_secs_f64() * 1e3;
                bar.suspend(|| println!("{}: {line} ({time:.0} ms)", file.display()));
            }
            Err(error) => {
                progress::say(&bar, &format!("error: {error:#}"));
                unreadable += 1;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    match unreadable {
        0 => Ok(()),
        _ => Err(anyhow!(
            "{unreadable} of {} images could not be read",
            files.len()
        )),
    }
}
