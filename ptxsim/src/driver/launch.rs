//! Kernel launches.

use std::ffi::c_uint;
use std::sync::Arc;

use super::context::current;
use super::device::{MAX_BLOCK, MAX_GRID};
use super::ffi::{HostPointer, In, exports};
use super::function::{self, Function};
use super::handle::Handle;
use super::occupancy;
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};
use super::{report, settings, stream};
use crate::sim::{self, LaunchConfig, LaunchError};

/// Shape of a launch as its caller gives it.
pub struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    cluster: Option<[u32; 3]>,
    cooperative: bool,
}

impl Shape {
    /// A launch without clusters.
    pub fn new(grid: [u32; 3], block: [u32; 3], shared: u32) -> Shape {
        Shape {
            grid,
            block,
            shared,
            cluster: None,
            cooperative: false,
        }
    }

    /// Checks the shape against the device and the kernel's directives.
    fn config(&self, function: &Function) -> Result<LaunchConfig> {
        let within = |extents: [u32; 3], most: [u32; 3]| {
            extents
                .iter()
                .zip(most)
                .all(|(&extent, most)| (1..=most).contains(&extent))
        };
        let threads: u64 = self.block.iter().map(|&extent| u64::from(extent)).product();
        if !within(self.grid, MAX_GRID) || !within(self.block, MAX_BLOCK) || threads > 1024 {
            return Err(Status::INVALID_VALUE);
        }
        let directives = &function.kernel.info().directives;
        if directives
            .required_threads
            .is_some_and(|required| required != self.block)
        {
            return Err(Status::INVALID_VALUE);
        }
        if threads > u64::from(function.max_threads()) {
            return Err(Status::LAUNCH_OUT_OF_RESOURCES);
        }
        if self.shared > function.max_dynamic_shared() {
            return Err(Status::INVALID_VALUE);
        }
        let config = LaunchConfig {
            grid: self.grid,
            block: self.block,
            cluster: self.cluster(function)?,
            dynamic_shared: self.shared,
            cooperative: self.cooperative,
        };
        self.check_residency(function, threads as u32)?;
        Ok(config)
    }

    /// The cluster asked for, or the kernel's own; they must agree, and divide the grid.
    fn cluster(&self, function: &Function) -> Result<[u32; 3]> {
        let directives = &function.kernel.info().directives;
        let cluster = match (self.cluster, directives.cluster) {
            (None, None) if directives.explicit_cluster => return Err(Status::INVALID_VALUE),
            (None, None) => return Ok([1; 3]),
            (Some(asked), Some(own)) if asked != own => return Err(Status::INVALID_VALUE),
            (Some(cluster), _) | (None, Some(cluster)) => cluster,
        };
        let blocks = cluster
            .iter()
            .try_fold(1u32, |product, &extent| product.checked_mul(extent));
        let fits = blocks.is_some_and(|blocks| (1..=function.max_cluster()).contains(&blocks));
        let divides = || {
            self.grid
                .iter()
                .zip(cluster)
                .all(|(&grid, cluster)| grid % cluster == 0)
        };
        if fits && divides() {
            Ok(cluster)
        } else {
            Err(Status::INVALID_VALUE)
        }
    }

    /// A block must fit on a multiprocessor; a cooperative grid as a whole on the device.
    fn check_residency(&self, function: &Function, threads: u32) -> Result {
        let resident = occupancy::blocks_per_multiprocessor(function, threads, self.shared);
        if resident == 0 {
            return Err(Status::LAUNCH_OUT_OF_RESOURCES);
        }
        let blocks: u64 = self.grid.iter().map(|&extent| u64::from(extent)).product();
        let most = u64::from(resident) * u64::from(function.limits().multiprocessors);
        if self.cooperative && blocks > most {
            return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
        Ok(())
    }
}

/// Arguments as a caller gives them: pointers to the values, or a buffer of all.
pub struct KernelArguments {
    /// `kernelParams`.
    pub values: In<HostPointer>,
    /// `extra`.
    pub buffer: In<HostPointer>,
}

impl KernelArguments {
    const END: u64 = 0;
    const BUFFER: u64 = 1;
    const BUFFER_BYTES: u64 = 2;

    /// The parameter bytes, laid out as the kernel declares them.
    fn pack(&self, function: &Function) -> Result<Vec<u8>> {
        let info = function.kernel.info();
        let mut packed = vec![0; info.param_bytes as usize];
        match (self.values.is_null(), self.buffer.is_null()) {
            (false, false) => return Err(Status::INVALID_VALUE),
            (true, true) if info.params.is_empty() => {}
            (true, true) => return Err(Status::INVALID_VALUE),
            (false, true) => {
                let values = self.values.get_many(info.params.len())?;
                for (value, &(offset, bytes)) in values.into_iter().zip(&info.params) {
                    let (offset, bytes) = (offset as usize, bytes as usize);
                    let target = packed
                        .get_mut(offset..offset + bytes)
                        .ok_or(Status::INVALID_VALUE)?;
                    value.read(bytes, |value| {
                        target.copy_from_slice(value);
                        Ok(())
                    })?;
                }
            }
            (true, false) => self.unpack_buffer(&mut packed)?,
        }
        Ok(packed)
    }

    fn unpack_buffer(&self, packed: &mut [u8]) -> Result {
        let (mut buffer, mut bytes) = (None, 0);
        for pair in (0..).step_by(2) {
            match self.buffer.at(pair)?.address() {
                Self::END => break,
                Self::BUFFER => buffer = Some(self.buffer.at(pair + 1)?),
                Self::BUFFER_BYTES => {
                    let size = HostPointer::from_address(self.buffer.at(pair + 1)?.address());
                    size.read(8, |value| {
                        bytes = value
                            .iter()
                            .rev()
                            .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
                        Ok(())
                    })?;
                }
                _ => return Err(Status::INVALID_VALUE),
            }
        }
        if bytes < packed.len() {
            return Err(Status::INVALID_VALUE);
        }
        let buffer = buffer.ok_or(Status::INVALID_VALUE)?;
        buffer.read(packed.len(), |value| {
            packed.copy_from_slice(value);
            Ok(())
        })
    }
}

/// A launch that has been checked and holds its arguments.
pub struct KernelLaunch {
    function: Arc<Function>,
    config: LaunchConfig,
    arguments: Vec<u8>,
}

impl KernelLaunch {
    /// Checks a launch and copies its arguments.
    pub fn new(
        function: Handle,
        shape: &Shape,
        arguments: KernelArguments,
    ) -> Result<KernelLaunch> {
        let function = function::find(function)?;
        let config = shape.config(&function)?;
        let arguments = arguments.pack(&function)?;
        Ok(KernelLaunch {
            function,
            config,
            arguments,
        })
    }

    /// Runs the kernel to its end on this thread.
    pub fn run(&self) -> Result {
        let checks = settings::checks();
        let memory = &driver()?.memory;
        let outcome = sim::launch(
            memory,
            &self.function.kernel,
            &self.config,
            &self.arguments,
            checks,
        );
        report::publish(outcome.report);
        let status = match outcome.result {
            Ok(()) => return Ok(()),
            Err(LaunchError::InvalidValue) => Status::INVALID_VALUE,
            Err(LaunchError::OutOfResources) => Status::LAUNCH_OUT_OF_RESOURCES,
            Err(LaunchError::IllegalAddress) => Status::ILLEGAL_ADDRESS,
            Err(LaunchError::MisalignedAddress) => Status::MISALIGNED_ADDRESS,
            Err(LaunchError::LaunchFailed) => Status::LAUNCH_FAILED,
            Err(LaunchError::Assert) => Status::ASSERT,
            Err(LaunchError::Timeout) => Status::LAUNCH_TIMEOUT,
        };
        if settings::deferred_errors() {
            current()?.fail(status);
            return Ok(());
        }
        Err(status)
    }
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ExtendedConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: Handle,
    attributes: In<Attribute>,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Attribute {
    id: c_uint,
    padding: u32,
    value: [u32; 16],
}

impl ExtendedConfig {
    /// The shape and the stream, for launches and for occupancy queries.
    pub fn shape(&self) -> Result<Shape> {
        /// More than CUDA 13 has kinds of attributes.
        const MOST_ATTRIBUTES: usize = 64;
        let mut shape = Shape::new(self.grid, self.block, self.shared);
        let count = self.count as usize;
        if count > MOST_ATTRIBUTES {
            return Err(Status::INVALID_VALUE);
        }
        for attribute in self.attributes.get_many(count)? {
            let [x, y, z, ..] = attribute.value;
            match attribute.id {
                2 => shape.cooperative = x != 0,
                4 => shape.cluster = Some([x, y, z]),
                // Hints, and programmatic dependent launch, which eager streams satisfy: ignore,
                // access window, synchronisation and cluster policies, serialisation, priority,
                // memory domains, preferred cluster, carve-out.
                0 | 1 | 3 | 5 | 6 | 8 | 9 | 10 | 11 | 14 => {}
                // Events within a launch, device-updatable nodes, and what is newer.
                _ => return Err(Status::NOT_SUPPORTED),
            }
        }
        Ok(shape)
    }

    /// Threads of a block, dynamic shared memory and the blocks of a cluster, for occupancy.
    pub fn cluster_shape(&self) -> Result<(u32, u32, [u32; 3])> {
        let shape = self.shape()?;
        let threads = shape
            .block
            .iter()
            .try_fold(1u32, |product, &extent| product.checked_mul(extent));
        let threads = threads.ok_or(Status::INVALID_VALUE)?;
        Ok((threads, shape.shared, shape.cluster.unwrap_or([1; 3])))
    }
}

fn launch(function: Handle, shape: Shape, stream: Handle, arguments: KernelArguments) -> Result {
    let stream = stream::find(stream)?;
    let launch = KernelLaunch::new(function, &shape, arguments)?;
    stream.submit(Operation::Kernel(Arc::new(launch)))
}

exports! {
    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: Handle, values: In<HostPointer>, buffer: In<HostPointer>,
    ) {
        let shape = Shape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared);
        launch(function, shape, stream, KernelArguments { values, buffer })
    }

    fn cuLaunchCooperativeKernel(
        function: Handle,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: Handle, values: In<HostPointer>,
    ) {
        let shape = Shape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared);
        let shape = Shape { cooperative: true, ..shape };
        launch(function, shape, stream, KernelArguments { values, buffer: In::NULL })
    }

    fn cuLaunchKernelEx(
        config: In<ExtendedConfig>, function: Handle, values: In<HostPointer>,
        buffer: In<HostPointer>,
    ) {
        let config = config.get()?;
        launch(function, config.shape()?, config.stream, KernelArguments { values, buffer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_cuda_h() {
        assert_eq!(size_of::<Attribute>(), 72);
        assert_eq!(size_of::<ExtendedConfig>(), 56);
    }
}
