//! Where scenes go.

use crate::scene::Scene;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Writes raw records, little-endian: width, height and number of digits (u32 each), the pixels
/// (RGB bytes by row), then for each digit its box (4 f32) and class (i32). Ends quietly when the
/// reader has gone.
pub fn stream(scenes: impl Iterator<Item = Scene>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for scene in scenes {
        let mut record = Vec::new();
        let head = [
            scene.image.width(),
            scene.image.height(),
            scene.objects.len() as u32,
        ];
        record.extend(head.iter().flat_map(|v| v.to_le_bytes()));
        record.extend_from_slice(scene.image.as_raw());
        for object in &scene.objects {
            record.extend(object.bounds.iter().flat_map(|v| v.to_le_bytes()));
            record.extend(i32::from(object.class).to_le_bytes());
        }
        match out.write_all(&record) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
    Ok(out.flush()?)
}

/// Writes `00000.png`.. and `annotations.json` in COCO's form, the whole folder or nothing.
pub fn write_folder(folder: &Path, scenes: impl Iterator<Item = Scene>) -> Result<()> {
    ensure!(!folder.exists(), "{} exists", folder.display());
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let partial = tempfile::tempdir_in(parent).with_context(|| parent.display().to_string())?;
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for (id, scene) in scenes.enumerate() {
        let name = format!("{id:05}.png");
        scene.image.save(partial.path().join(&name))?;
        let (width, height) = scene.image.dimensions();
        images.push(json!({"id": id, "file_name": name, "width": width, "height": height}));
        for object in &scene.objects {
            let [x1, y1, x2, y2] = object.bounds;
            let (width, height) = (x2 - x1, y2 - y1);
            annotations.push(json!({
                "id": annotations.len() + 1, "image_id": id, "category_id": object.class,
                "bbox": [x1, y1, width, height], "area": width * height, "iscrowd": 0,
            }));
        }
    }
    let categories: Vec<_> = (0..10)
        .map(|d| json!({"id": d, "name": d.to_string()}))
        .collect();
    let all = json!({"images": images, "annotations": annotations, "categories": categories});
    std::fs::write(partial.path().join("annotations.json"), all.to_string())?;
    std::fs::rename(partial.path(), folder).with_context(|| folder.display().to_string())?;
    // It has its final name: there is nothing left to remove.
    let _ = partial.keep();
    Ok(())
}
