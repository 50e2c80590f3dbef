//! `cargo xtask demo`: the main job on real images and sentences with real weights.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::weights;
use crate::workspace::{Workspace, shown};

/// Pairs that belong together, in an order that shows it in the matrix.
const SENTENCES: [&str; 8] = [
    "A rocket stands on its launch pad.",
    "The spacecraft is ready for lift-off.",
    "A cat looks into the camera.",
    "The kitten watches us.",
    "She drinks a cup of coffee.",
    "An espresso stands on the table.",
    "The kernel reads each byte once.",
    "Memory bandwidth limits this GPU program.",
];

/// Runs every part that the checkout has what it needs for; `false` where one failed.
pub fn run(workspace: &Workspace) -> Result<bool> {
    let weights = weights::set_up(workspace)?;
    println!("building the program `ocelli`");
    let mut build = workspace.cargo(&["build", "--release", "--quiet", "--package=ocelli-cli"]);
    let status = build.status().with_context(|| shown(&build))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(&build));
    }
    let out = workspace.target.join("demo");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
    }
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let assets = workspace.root.join("assets");
    let demo = Demo {
        program: &workspace.target.join("release/ocelli"),
        weights: &weights,
        assets: &assets,
        out: &out,
    };
    let parts = [
        demo.digits("retinanet")?,
        demo.digits("cornernet")?,
        demo.saliency()?,
        demo.attention()?,
        demo.sentences()?,
    ];
    println!("\npictures are in {}", out.display());
    Ok(parts.into_iter().all(|succeeded| succeeded))
}

/// Where everything is.
struct Demo<'a> {
    program: &'a Path,
    weights: &'a Path,
    assets: &'a Path,
    out: &'a Path,
}

impl Demo<'_> {
    /// Handwritten digits in scenes.
    fn digits(&self, architecture: &str) -> Result<bool> {
        let weights = self
            .assets
            .join(format!("{architecture}_digits.safetensors"));
        let scenes = self.assets.join("digits");
        let mut command = self.command("detect", &weights);
        command.arg("--model").arg(architecture).arg(scenes);
        command.arg("--out").arg(self.out.join(architecture));
        self.run(command.args(["--repeat", "1"]))
    }

    fn saliency(&self) -> Result<bool> {
        let mut command = self.command("saliency", &self.weights.join("saliency.safetensors"));
        command.arg(self.assets.join("photos"));
        self.run(command.arg("--out").arg(self.out.join("saliency")))
    }

    /// What an eye, fur and the background of a portrait attend to.
    fn attention(&self) -> Result<bool> {
        let mut command = self.command("attend", &self.weights.join("saliency.safetensors"));
        command.arg(self.assets.join("photos/chelsea.jpg"));
        command.args(["--at", "0.4,0.36", "--at", "0.62,0.8", "--at", "0.93,0.3"]);
        self.run(command.arg("--out").arg(self.out.join("attention")))
    }

    fn sentences(&self) -> Result<bool> {
        let mut command = Command::new(self.program);
        command
            .arg("embed")
            .arg("--model")
            .arg(self.weights.join("minilm"));
        command.arg("--matrix").arg(self.out.join("similarity.png"));
        command.arg("--json").arg(self.out.join("embeddings.json"));
        self.run(command.args(SENTENCES))
    }

    fn command(&self, name: &str, weights: &Path) -> Command {
        let mut command = Command::new(self.program);
        command.arg(name).arg("--weights").arg(weights);
        command
    }

    /// Runs a command, which says on which device, and prints how long it took, loading included.
    fn run(&self, command: &mut Command) -> Result<bool> {
        println!("\n{}", shown(command));
        let start = Instant::now();
        let status = command.status().with_context(|| shown(command))?;
        println!("{:.1} s with loading", start.elapsed().as_secs_f64());
        if !status.success() {
            println!("failed: {status}");
        }
        Ok(status.success())
    }
}
