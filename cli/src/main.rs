//! The program `ocelli`: ops and models on files.

mod bert_config;
mod detect;
mod draw;
mod embed;
mod files;
mod images;
mod infer;
mod info;
mod op;
mod progress;
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
    /// Embed texts: one vector each, near to those of texts that mean the same.
    Embed(embed::Options),
    /// Find objects in image files.
    Detect(detect::Options),
    /// Run one forward pass of a model on the tensors of a safetensors file.
    Infer(infer::Options),
    /// Print the devices, the driver and how the kernels were built.
    Info,
    /// Run one op on the tensors of a safetensors file.
    Op(op::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Embed(options) => embed::run(&options),
        Command::Detect(options) => detect::run(&options),
        Command::Infer(options) => infer::run(&options),
        Command::Info => info::run(),
        Command::Op(options) => op::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
