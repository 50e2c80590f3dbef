//! What PyTorch computed, and how far from it a result may lie.

use crate::device::{Target, targets};
use ocelli::io::{TensorFile, Weights};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::within;
use ocelli::{DType, Tensor};
use safetensors::SafeTensors;

/// A golden file of a model, written by `tests/golden/models/<model>.py` with `golden.save`.
///
/// | tensor | holds |
/// |---|---|
/// | `weights.<name>` | f32, under the names of the architecture's own files |
/// | `in.<name>` | inputs: f32, or i32 |
/// | `out.<name>` | what the model gives in double precision: f64 |
/// | `error.<dtype>.<name>` | f64 `[1]`: the largest error of PyTorch's own result in `f32`, `f16` or `bf16` |
pub struct Golden {
    bytes: &'static [u8],
}

impl Golden {
    pub fn new(bytes: &'static [u8]) -> Self {
        Self { bytes }
    }

    fn file(&self) -> TensorFile {
        TensorFile::from_bytes("golden".into(), self.bytes.to_vec()).unwrap()
    }

    /// The model's weights under their own names.
    pub fn weights(&self, target: &Target, dtype: DType) -> Weights {
        let mut weights = Weights::new(self.file(), &target.device(), dtype);
        let own = |name: &str| name.strip_prefix("weights.").map(str::to_string);
        weights.rename(own).unwrap();
        weights
    }

    /// An input; floats become `dtype`.
    pub fn input(&self, name: &str, target: &Target, dtype: DType) -> Tensor {
        let tensor = self.file().tensor(&format!("in.{name}")).unwrap();
        let tensor = match tensor.dtype() {
            DType::I32 => tensor,
            _ => tensor.to_dtype(dtype).unwrap(),
        };
        tensor.to_device(&target.device()).unwrap()
    }

    /// A tensor that has no part in the rule: neither weight nor input nor result.
    pub fn stored(&self, name: &str) -> Tensor {
        self.file().tensor(name).unwrap()
    }

    /// Shape and elements of a tensor of f64.
    pub fn doubles(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(self.bytes).unwrap();
        let view = file
            .tensor(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let chunks = view.data().chunks_exact(8);
        let values = chunks.map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
        (view.shape().to_vec(), values.collect())
    }

    /// The budget rule of [`Budget::of_sums`], with PyTorch's largest error in the same type as the naive one of every
    /// element, and the largest element as what the terms of each add up to, which nobody knows.
    pub fn check(&self, name: &str, actual: &Tensor, target: &Target) {
        let dtype = actual.dtype();
        let (shape, exact) = self.doubles(&format!("out.{name}"));
        let (_, error) = self.doubles(&format!("error.{}.{name}", dtype.name()));
        assert_eq!(actual.shape(), shape, "{name}");
        let largest = exact
            .iter()
            .fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let naive: Vec<f64> = exact.iter().map(|x| x + error[0]).collect();
        let budget = Budget::of_sums(&exact, &vec![largest; exact.len()], &naive, dtype);
        let actual = actual
            .to_dtype(DType::F32)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        let actual: Vec<f64> = actual.into_iter().map(f64::from).collect();
        if let Err(mismatch) = within(&actual, &exact, &budget) {
            panic!("{name} in {dtype} on {}: {mismatch}", target.device());
        }
    }
}

/// Runs `check` on every device in f32, and on CUDA in f16 and bf16, too. No launch may leave a finding.
pub fn everywhere(check: impl Fn(&Target, DType)) {
    for target in targets() {
        check(target, DType::F32);
        #[cfg(feature = "cuda")]
        if let Target::Cuda(cuda) = target {
            check(target, DType::F16);
            check(target, DType::BF16);
            cuda.launches();
        }
    }
}
