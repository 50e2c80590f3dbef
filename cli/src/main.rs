//! The program `ocelli`: ops and models on files.

mod attend;
mod bert_config;
mod classify;
mod detect;
mod draw;
mod embed;
mod images;
mod infer;
mod info;
mod op;
mod overlay;
mod pictures;
mod progress;
mod saliency;
mod settings;
mod similarity;
mod target;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Detection and attention kernels on files")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw what chosen places of image files attend to in a Vision Transformer.
    Attend(attend::Options),
    /// Name what image files show, by a Vision Transformer with a head.
    Classify(classify::Options),
    /// Find objects in image files.
    Detect(detect::Options),
    /// Embed texts: one vector each, near to those of texts that mean the same.
    Embed(embed::Options),
    /// Run one forward pass of a model on the tensors of a safetensors file.
    Infer(infer::Options),
    /// Print the devices, the driver and how the kernels were built.
    Info,
    /// Run one op on the tensors of a safetensors file.
    Op(op::Options),
    /// Find where people look in image files.
    Saliency(saliency::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Attend(options) => attend::run(&options),
        Command::Classify(options) => classify::run(&options),
        Command::Detect(options) => detect::run(&options),
        Command::Embed(options) => embed::run(&options),
        Command::Infer(options) => infer::run(&options),
        Command::Info => info::run(),
        Command::Op(options) => op::run(&options),
        Command::Saliency(options) => saliency::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
