//! Work on one image file after the other.

use crate::{images, progress};
use anyhow::{Context, Result, anyhow, bail};
use image::RgbImage;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The images of a run and the pictures to make of them.
pub struct Pictures {
    files: Vec<PathBuf>,
    out: Option<PathBuf>,
    /// One for each file where there is `out`.
    outputs: Vec<PathBuf>,
}

/// One image of a run.
pub struct Picture<'a> {
    /// From 0 on; images that cannot be read have one, too.
    pub index: usize,
    pub file: &'a Path,
    pub image: &'a RgbImage,
    /// Where the picture made of it goes.
    pub output: Option<&'a Path>,
}

/// How many images of a run could not be read.
#[must_use]
pub struct Unreadable {
    count: usize,
    images: usize,
}

impl Pictures {
    /// All images that the paths name. With `out`, an error where a picture in this folder would replace one of them.
    pub fn list(paths: &[PathBuf], out: Option<&Path>) -> Result<Self> {
        let files = images::list(paths)?;
        let outputs = out.map(|folder| images::output_paths(folder, &files));
        let outputs = outputs.unwrap_or_default();
        // A path that leads nowhere is no image, and nothing lies where it points to.
        let real = |path: &PathBuf| path.canonicalize().ok();
        let inputs: BTreeSet<_> = files.iter().filter_map(real).collect();
        let replaces = |path: &&PathBuf| real(path).is_some_and(|path| inputs.contains(&path));
        if let Some(path) = outputs.iter().find(replaces) {
            bail!(
                "{}: would overwrite an input; choose another --out",
                path.display()
            );
        }
        Ok(Self {
            files,
            out: out.map(Path::to_path_buf),
            outputs,
        })
    }

    /// Calls `work` with every image. Prints the file, the line that it returns and the time that it took.
    ///
    /// An image that cannot be read is reported and passed over.
    pub fn each(&self, mut work: impl FnMut(&Picture) -> Result<String>) -> Result<Unreadable> {
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let bar = progress::bar("images", self.files.len());
        let mut unreadable = 0;
        for (index, file) in self.files.iter().enumerate() {
            match images::read(file) {
                Ok(image) => {
                    let picture = Picture {
                        index,
                        file,
                        image: &image,
                        output: self.outputs.get(index).map(PathBuf::as_path),
                    };
                    let start = Instant::now();
                    let line = work(&picture).with_context(|| file.display().to_string())?;
                    let time = start.elapsed().as_secs_f64() * 1e3;
                    let line = format!("{}: {line} ({time:.0} ms)", file.display());
                    bar.suspend(|| writeln!(std::io::stdout(), "{line}"))?;
                }
                Err(error) => {
                    progress::say(&bar, &format!("error: {error:#}"));
                    unreadable += 1;
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Unreadable {
            count: unreadable,
            images: self.files.len(),
        })
    }
}

impl Unreadable {
    /// An error where there are any.
    pub fn none(self) -> Result<()> {
        let Self { count, images } = self;
        match count {
            0 => Ok(()),
            _ => Err(anyhow!("{count} of {images} images could not be read")),
        }
    }
}
