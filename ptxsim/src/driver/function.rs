//! Functions: attributes of kernels.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::device::{Limits, MAX_THREADS, compute_capability, limits, require_device};
use super::ffi::{Out, exports};
use super::handle::Handle;
use super::module::intern;
use super::state::driver;
use super::status::{Result, Status};
use crate::sim::{Arch, Kernel};

/// A kernel with what can be set about it.
pub struct Function {
    /// Its handle; also that of the `CUkernel`.
    pub handle: Handle,
    /// The module that it is from.
    pub module: Handle,
    /// The program.
    pub kernel: Arc<Kernel>,
    arch: Arch,
    dynamic_shared: AtomicU32,
    carveout: AtomicI32,
    non_portable_cluster: AtomicU32,
    cluster_policy: AtomicU32,
}

/// Numbers of `CUfunction_attribute` that can be set.
const MAX_DYNAMIC_SHARED: c_uint = 8;
const CARVEOUT: c_uint = 9;
const CLUSTER_EXTENTS: std::ops::RangeInclusive<c_uint> = 11..=13;
const NON_PORTABLE_CLUSTER: c_uint = 14;
const CLUSTER_POLICY: c_uint = 15;

impl Function {
    /// A kernel of `module` with its attributes at their defaults.
    pub fn new(module: Handle, kernel: Arc<Kernel>, arch: Arch) -> Arc<Function> {
        let default = limits(arch)
            .shared_per_block
            .saturating_sub(kernel.info().static_shared);
        Arc::new(Function {
            handle: Handle::fresh(),
            module,
            kernel,
            arch,
            dynamic_shared: AtomicU32::new(default),
            carveout: AtomicI32::new(-1),
            non_portable_cluster: AtomicU32::new(0),
            cluster_policy: AtomicU32::new(0),
        })
    }

    /// Limits of the device.
    pub fn limits(&self) -> Limits {
        limits(self.arch)
    }

    /// Registers of a thread, an estimate: the most that are live at once in the PTX, at least 16
    /// and in steps of 8 as the hardware allots them, at most what the launch bounds leave. What
    /// ptxas would take is not known here.
    pub fn registers(&self) -> u32 {
        let info = self.kernel.info();
        let bound = info.directives.max_registers.unwrap_or(255).min(255);
        let per_block = self.limits().registers / self.max_threads_declared().max(1) / 8 * 8;
        info.registers
            .max(16)
            .next_multiple_of(8)
            .min(per_block)
            .min(bound)
            .max(1)
    }

    fn max_threads_declared(&self) -> u32 {
        let directives = &self.kernel.info().directives;
        let declared = directives.required_threads.or(directives.max_threads);
        declared.map_or(MAX_THREADS, |extents| {
            extents.iter().product::<u32>().min(MAX_THREADS)
        })
    }

    /// Threads that a block of this kernel may have.
    pub fn max_threads(&self) -> u32 {
        let by_registers = self.limits().registers / (self.registers() * 32).max(1) * 32;
        self.max_threads_declared().min(by_registers)
    }

    /// Dynamic shared memory that a launch may ask for.
    pub fn max_dynamic_shared(&self) -> u32 {
        self.dynamic_shared.load(Ordering::Relaxed)
    }

    /// Blocks that a cluster may have.
    pub fn max_cluster(&self) -> u32 {
        match self.non_portable_cluster.load(Ordering::Relaxed) {
            0 => self.limits().cluster,
            _ => self.limits().cluster_span,
        }
    }

    fn attribute(&self, number: c_uint) -> Result<c_int> {
        let info = self.kernel.info();
        let capability = compute_capability(self.arch);
        Ok(match number {
            0 => self.max_threads() as c_int,
            1 => info.static_shared as c_int,
            2 => info.const_bytes as c_int,
            3 => info.local_bytes as c_int,
            4 => self.registers() as c_int,
            5 => info.ptx_version as c_int,
            6 => capability.0 * 10 + capability.1,
            7 => 0,
            MAX_DYNAMIC_SHARED => self.max_dynamic_shared() as c_int,
            CARVEOUT => self.carveout.load(Ordering::Relaxed),
            10 => {
                c_int::from(info.directives.explicit_cluster && info.directives.cluster.is_none())
            }
            11..=13 => info
                .directives
                .cluster
                .map_or(0, |extents| extents[number as usize - 11] as c_int),
            NON_PORTABLE_CLUSTER => self.non_portable_cluster.load(Ordering::Relaxed) as c_int,
            CLUSTER_POLICY => self.cluster_policy.load(Ordering::Relaxed) as c_int,
            _ => return Err(Status::INVALID_VALUE),
        })
    }

    fn set_attribute(&self, number: c_uint, value: c_int) -> Result {
        match number {
            MAX_DYNAMIC_SHARED => {
                let most = self
                    .limits()
                    .shared_per_block_optin
                    .saturating_sub(self.kernel.info().static_shared);
                let bytes = u32::try_from(value).ok().filter(|&bytes| bytes <= most);
                self.dynamic_shared
                    .store(bytes.ok_or(Status::INVALID_VALUE)?, Ordering::Relaxed);
            }
            CARVEOUT if (-1..=100).contains(&value) => {
                self.carveout.store(value, Ordering::Relaxed)
            }
            NON_PORTABLE_CLUSTER if matches!(value, 0 | 1) => {
                self.non_portable_cluster
                    .store(value as u32, Ordering::Relaxed);
            }
            CLUSTER_POLICY if (0..=2).contains(&value) => {
                self.cluster_policy.store(value as u32, Ordering::Relaxed);
            }
            number if CLUSTER_EXTENTS.contains(&number) => return Err(Status::NOT_SUPPORTED),
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }
}

/// The function behind a handle.
pub fn find(handle: Handle) -> Result<Arc<Function>> {
    driver()?.functions.get(handle)
}

fn parameter(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) -> Result {
    let function = find(function)?;
    let &(start, len) = function
        .kernel
        .info()
        .params
        .get(index)
        .ok_or(Status::INVALID_VALUE)?;
    offset.set(start as usize)?;
    bytes.set_if_wanted(len as usize);
    Ok(())
}

fn name(out: Out<*const c_char>, function: Handle) -> Result {
    out.set(intern(&find(function)?.kernel.info().name))
}

exports! {
    fn cuFuncGetAttribute(value: Out<c_int>, number: c_uint, function: Handle) {
        value.set(find(function)?.attribute(number)?)
    }

    fn cuFuncSetAttribute(function: Handle, number: c_uint, value: c_int) {
        find(function)?.set_attribute(number, value)
    }

    fn cuFuncSetCacheConfig(function: Handle, config: c_uint) {
        find(function)?;
        if config > 3 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: c_uint) {
        find(function)?;
        if config > 2 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        module.set(find(function)?.module)
    }

    fn cuFuncGetName(text: Out<*const c_char>, function: Handle) {
        name(text, function)
    }

    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        parameter(function, index, offset, bytes)
    }

    fn cuFuncGetParamCount(function: Handle, count: Out<usize>) {
        count.set(find(function)?.kernel.info().params.len())
    }

    fn cuFuncIsLoaded(state: Out<c_uint>, function: Handle) {
        find(function)?;
        // CU_FUNCTION_LOADING_STATE_LOADED.
        state.set(1)
    }

    fn cuFuncLoad(function: Handle) {
        find(function).map(|_| ())
    }

    fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) {
        function.set(find(kernel)?.handle)
    }

    fn cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) {
        library.set(find(kernel)?.module)
    }

    fn cuKernelGetName(text: Out<*const c_char>, kernel: Handle) {
        name(text, kernel)
    }

    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        parameter(kernel, index, offset, bytes)
    }

    fn cuKernelGetAttribute(value: Out<c_int>, number: c_uint, kernel: Handle, device: c_int) {
        require_device(device)?;
        value.set(find(kernel)?.attribute(number)?)
    }

    fn cuKernelSetAttribute(number: c_uint, value: c_int, kernel: Handle, device: c_int) {
        require_device(device)?;
        find(kernel)?.set_attribute(number, value)
    }
}
