//! `ocelli op`: one op on the tensors of a file.

mod anchor_decode;
mod anchors;
mod attention;
mod corner_decode;
mod corner_pool;
mod corner_pool_pair;
mod heatmap_focal_loss;
mod match_anchors;
mod nms;
mod sigmoid_focal_loss;
mod soft_nms;

use crate::settings::Settings;
use crate::target::{self, Choice, Target};
use anyhow::{Result, anyhow, bail};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

/// Named results.
type Outputs = BTreeMap<String, Tensor>;

/// An op of the command line.
struct Op {
    name: &'static str,
    /// What `--set` may set.
    keys: &'static [&'static str],
    run: fn(&Call) -> Result<Outputs>,
}

const OPS: &[Op] = &[
    anchor_decode::OP,
    attention::OP,
    corner_decode::OP,
    corner_pool::OP,
    corner_pool_pair::OP,
    heatmap_focal_loss::OP,
    match_anchors::OP,
    nms::OP,
    sigmoid_focal_loss::OP,
    soft_nms::OP,
];

/// Arguments of `ocelli op`.
#[derive(clap::Args)]
pub struct Options {
    /// The op; a wrong name lists all.
    op: String,
    /// Inputs, a safetensors file.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Outputs, a safetensors file; appears whole or not at all.
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
    /// Where to compute [default: the GPU where one can be used, else cpu].
    #[arg(long)]
    device: Option<Choice>,
    /// Type to cast float inputs to first [default: as stored].
    #[arg(long, value_parser = float_type)]
    dtype: Option<DType>,
    /// A scalar of the op.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Everything that an op is called with.
struct Call {
    inputs: TensorFile,
    settings: Settings,
    target: Target,
    dtype: Option<DType>,
}

/// Runs the op and writes its outputs.
pub fn run(options: &Options) -> Result<()> {
    let Some(op) = OPS.iter().find(|op| op.name == options.op) else {
        let names: Vec<_> = OPS.iter().map(|op| op.name).collect();
        bail!("unknown op `{}`; known: {}", options.op, names.join(", "));
    };
    let call = Call {
        settings: Settings::parse(&options.settings, op.keys)?,
        inputs: TensorFile::open(&options.input)?,
        target: target::open(options.device)?,
        dtype: options.dtype,
    };
    let outputs = (op.run)(&call)?;
    Ok(write_tensors(&options.output, &outputs)?)
}

/// A float type by name, for `--dtype`.
pub fn float_type(name: &str) -> Result<DType, String> {
    name.parse::<DType>()
        .ok()
        .filter(|dtype| dtype.is_float())
        .ok_or_else(|| "must be f32, f16 or bf16".to_owned())
}

impl Call {
    /// An input, cast to `--dtype` where it is a float, where the op computes.
    fn input(&self, name: &str) -> Result<Tensor> {
        self.place(self.rounded(name)?)
    }

    /// An input as it is stored, where the op computes: `--dtype` does not round it.
    fn exact_input(&self, name: &str) -> Result<Tensor> {
        self.place(self.inputs.tensor(name)?)
    }

    /// As [`input`](Self::input), for one that may be missing.
    fn optional_input(&self, name: &str) -> Result<Option<Tensor>> {
        let present = self.inputs.contains(name);
        present.then(|| self.input(name)).transpose()
    }

    /// An input of an op that computes in f32 alone: `--dtype` rounds it, and nothing else.
    fn f32_input(&self, name: &str) -> Result<Tensor> {
        let tensor = self.rounded(name)?;
        let float = tensor.dtype().is_float();
        self.place(if float {
            tensor.to_dtype(DType::F32)?
        } else {
            tensor
        })
    }

    /// An input on the host, cast to `--dtype` where it is a float.
    fn rounded(&self, name: &str) -> Result<Tensor> {
        let tensor = self.inputs.tensor(name)?;
        match self.dtype {
            Some(dtype) if tensor.dtype().is_float() => Ok(tensor.to_dtype(dtype)?),
            _ => Ok(tensor),
        }
    }

    fn place(&self, tensor: Tensor) -> Result<Tensor> {
        match &self.target {
            Target::Reference => Ok(tensor),
            Target::Device(device) => Ok(tensor.to_device(device)?),
        }
    }
}

/// A setting without a default.
fn required<T: FromStr<Err = String>>(settings: &Settings, key: &str) -> Result<T> {
    let Some(value) = settings.optional::<String>(key)? else {
        bail!("--set {key}=.. is missing");
    };
    let parsed = value.parse::<T>();
    parsed.map_err(|rule| anyhow!("--set {key}={value}: {rule}"))
}

/// The values of a float tensor on the CPU, as the reference takes them.
fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    let values = tensor.to_dtype(DType::F32)?.to_vec::<f32>()?;
    Ok(values.into_iter().map(f64::from).collect())
}

/// A result of the reference in the type that the backends give.
fn from_f64(values: &[f64], shape: &[usize], dtype: DType) -> Result<Tensor> {
    let values = values.iter().map(|&value| value as f32).collect();
    Ok(Tensor::from_vec::<f32>(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}
