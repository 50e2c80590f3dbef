//! `ocelli infer`: one forward pass of a model on the tensors of a file.

mod bert;
mod cornernet;
mod retinanet;
mod saliency;
mod transformer;
mod vit;

use crate::op::float_type;
use crate::settings::Settings;
use crate::target::{self, Backend};
use anyhow::{Result, bail};
use ocelli::io::{TensorFile, Weights, write_tensors};
use ocelli::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Named results.
type Outputs = BTreeMap<String, Tensor>;

/// A model of the command line.
struct Model {
    name: &'static str,
    /// What `--set` may set.
    keys: &'static [&'static str],
    run: fn(&Call) -> Result<Outputs>,
}

const MODELS: &[Model] = &[
    bert::MODEL,
    cornernet::MODEL,
    retinanet::V1,
    retinanet::V2,
    saliency::MODEL,
    transformer::MODEL,
    vit::MODEL,
];

/// Arguments of `ocelli infer`.
#[derive(clap::Args)]
pub struct Options {
    /// The model; a wrong name lists all.
    model: String,
    /// The model's weights, a safetensors file.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Inputs, a safetensors file.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Outputs, a safetensors file; appears whole or not at all.
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
    /// Where to compute [default: the GPU where one can be used, else cpu].
    #[arg(long)]
    device: Option<Backend>,
    /// Type to compute in [default: that of the float inputs, else f32].
    #[arg(long, value_parser = float_type)]
    dtype: Option<DType>,
    /// A scalar of the model.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Everything that a model is called with.
struct Call {
    weights: PathBuf,
    inputs: TensorFile,
    settings: Settings,
    device: Device,
    /// In which the model computes.
    dtype: DType,
}

/// Runs the model and writes its outputs.
pub fn run(options: &Options) -> Result<()> {
    let Some(model) = MODELS.iter().find(|model| model.name == options.model) else {
        let names: Vec<_> = MODELS.iter().map(|model| model.name).collect();
        let (name, names) = (&options.model, names.join(", "));
        bail!("unknown model `{name}`; known: {names}");
    };
    let settings = Settings::parse(&options.settings, model.keys)?;
    let inputs = TensorFile::open(&options.input)?;
    let call = Call {
        weights: options.weights.clone(),
        settings,
        dtype: options.dtype.unwrap_or_else(|| stored_type(&inputs)),
        inputs,
        device: target::open_backend(options.device)?,
    };
    let outputs = (model.run)(&call)?;
    Ok(write_tensors(&options.output, &outputs)?)
}

/// The type of the first float tensor by name; f32 where there is none.
fn stored_type(inputs: &TensorFile) -> DType {
    let names = inputs.names();
    // A tensor that cannot be read is an error where the model asks for it.
    let mut types = names
        .iter()
        .filter_map(|name| Some(inputs.tensor(name).ok()?.dtype()));
    types.find(|dtype| dtype.is_float()).unwrap_or(DType::F32)
}

impl Call {
    /// The model's weights, for its device and in its type.
    fn weights(&self) -> Result<Weights> {
        Ok(Weights::open(&self.weights, &self.device, self.dtype)?)
    }

    /// An input on the model's device, of its type where it is a float.
    fn input(&self, name: &str) -> Result<Tensor> {
        let tensor = self.host_input(name)?;
        Ok(tensor.to_device(&self.device)?)
    }

    /// An input on the host, of the model's type where it is a float.
    fn host_input(&self, name: &str) -> Result<Tensor> {
        let tensor = self.inputs.tensor(name)?;
        let float = tensor.dtype().is_float();
        Ok(if float {
            tensor.to_dtype(self.dtype)?
        } else {
            tensor
        })
    }
}
