//! What a device reaches: the bandwidth of a copy, and the rate of a matrix product.

use crate::timing::{processor_time, time};
use ocelli::ops::{LinearWeight, linear};
use ocelli::params::Activation;
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Tensor};
use std::fmt;

/// Bytes of the copy: beyond every cache.
const COPY_BYTES: usize = 256 << 20;

/// A device and what it reached.
pub struct Measured {
    pub device: Device,
    pub name: String,
    /// Bytes read and written a second by a copy.
    pub bandwidth: f64,
    /// Operations a second of [`linear`](ocelli::ops::linear()) with square matrices: bf16 on a GPU, f32 on the CPU.
    pub operations: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            bandwidth,
            operations,
            ..
        } = self;
        write!(
            f,
            "{name}: a copy moves {:.1} GB/s, a matrix product does {:.3} TFLOP/s",
            bandwidth / 1e9,
            operations / 1e12
        )
    }
}

/// The CPU, all threads at work.
pub fn cpu(smoke: bool) -> Measured {
    let clock = match processor_time() {
        Some(_) => ", processor time",
        None => "",
    };
    let threads = rayon::current_num_threads();
    Measured {
        device: Device::Cpu,
        name: format!("cpu ({threads} threads{clock})"),
        bandwidth: copy_on_cpu(copy_bytes(smoke)),
        operations: products(&Device::Cpu, if smoke { 64 } else { 1024 }, DType::F32),
    }
}

fn copy_bytes(smoke: bool) -> usize {
    if smoke { 1 << 20 } else { COPY_BYTES }
}

/// Seconds of the best of ten calls.
fn best(device: &Device, call: &mut impl FnMut()) -> f64 {
    let seconds = |_| time(device, 1, call).as_secs_f64();
    (0..10).map(seconds).fold(f64::INFINITY, f64::min)
}

fn copy_on_cpu(bytes: usize) -> f64 {
    use rayon::prelude::*;
    let source = vec![1u8; bytes];
    let mut target = vec![0u8; bytes];
    let mut copy = || {
        let chunks = target
            .par_chunks_mut(1 << 20)
            .zip(source.par_chunks(1 << 20));
        chunks.for_each(|(target, source)| target.copy_from_slice(source));
    };
    2.0 * bytes as f64 / best(&Device::Cpu, &mut copy)
}

/// Operations a second of a product of matrices of `size` rows and columns.
fn products(device: &Device, size: usize, dtype: DType) -> f64 {
    let random = |seed: u64| {
        let values = Data::Spread(1.0).values(size * size, seed);
        let tensor = Tensor::from_vec(values, &[size, size], &Device::Cpu).expect("a matrix");
        tensor.to_dtype(dtype).expect("a cast")
    };
    let weight = LinearWeight::new(&random(1), device).expect("a weight");
    let x = random(2).to_device(device).expect("a copy");
    let mut call = || drop(linear(&x, &weight, None, None, Activation::None).expect("a product"));
    call();
    2.0 * (size as f64).powi(3) / best(device, &mut call)
}

/// The first GPU.
#[cfg(feature = "cuda")]
pub fn gpu(smoke: bool) -> Result<Measured, ocelli::Error> {
    let context = ocelli::cuda::Context::new(0)?;
    let device = Device::Cuda(context.clone());
    let bytes = copy_bytes(smoke);
    let stream = context.stream();
    let source = stream.alloc_zeros::<u8>(bytes).expect("room for a copy");
    let mut target = stream.alloc_zeros::<u8>(bytes).expect("room for a copy");
    let mut copy = || stream.memcpy_dtod(&source, &mut target).expect("a copy");
    Ok(Measured {
        name: format!("cuda ({})", context.properties().name),
        bandwidth: 2.0 * bytes as f64 / best(&device, &mut copy),
        operations: products(&device, if smoke { 64 } else { 8192 }, DType::BF16),
        device,
    })
}

#[cfg(not(feature = "cuda"))]
pub fn gpu(_: bool) -> Result<Measured, ocelli::Error> {
    Err(ocelli::Error::CudaFeatureOff)
}
