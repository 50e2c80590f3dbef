//! Contexts: the current one of each thread, the primary one of the device, limits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use super::device::require_device;
use super::ffi::{HostPointer, In, Out, exports};
use super::handle::Handle;
use super::state::{driver, initialize};
use super::status::{Result, Status};
use super::stream::{DefaultStream, Stream};

/// Values of `CUlimit` that the device has: stack size, printf buffer, malloc heap, launch depth,
/// pending launches, L2 fetch granularity, persisting L2 size. Only stored.
const DEFAULT_LIMITS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];

/// A context.
pub struct Context {
    /// Its handle.
    pub handle: Handle,
    /// Counts contexts from 1, for `cuCtxGetId`.
    id: u64,
    flags: AtomicU32,
    cache_config: AtomicU32,
    limits: [AtomicUsize; DEFAULT_LIMITS.len()],
    legacy_stream: Arc<Stream>,
    thread_streams: Mutex<HashMap<ThreadId, Arc<Stream>>>,
    /// The error of a kernel, where such errors are deferred; 0 none.
    failure: AtomicU32,
    /// Whether a call that synchronises has met the error: from then on every call returns it.
    failure_is_known: AtomicBool,
}

impl Context {
    pub(super) fn new(flags: u32) -> Arc<Context> {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let handle = Handle::fresh();
        Arc::new(Context {
            handle,
            id: COUNT.fetch_add(1, Ordering::Relaxed) as u64,
            flags: AtomicU32::new(flags),
            cache_config: AtomicU32::new(0),
            limits: DEFAULT_LIMITS.map(AtomicUsize::new),
            legacy_stream: Stream::default_of(handle, DefaultStream::Legacy),
            thread_streams: Mutex::default(),
            failure: AtomicU32::new(0),
            failure_is_known: AtomicBool::new(false),
        })
    }

    /// The stream that all threads share by default.
    pub fn legacy_stream(&self) -> Arc<Stream> {
        self.legacy_stream.clone()
    }

    /// The calling thread's own default stream.
    pub fn thread_stream(&self) -> Arc<Stream> {
        let mut streams = self
            .thread_streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let stream = streams
            .entry(std::thread::current().id())
            .or_insert_with(|| Stream::default_of(self.handle, DefaultStream::PerThread));
        stream.clone()
    }

    /// Remembers the first error of a kernel.
    pub fn fail(&self, status: Status) {
        let success = Status::SUCCESS.0;
        // Losing the race means that an earlier error stays, which is what is wanted.
        let _ =
            self.failure
                .compare_exchange(success, status.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What a call that synchronises returns: the error that a kernel left, if any.
    pub fn synchronize(&self) -> Result {
        match self.failure.load(Ordering::Acquire) {
            0 => Ok(()),
            code => {
                self.failure_is_known.store(true, Ordering::Release);
                Err(Status(code))
            }
        }
    }

    fn check(&self) -> Result {
        if self.failure_is_known.load(Ordering::Acquire) {
            self.synchronize()
        } else {
            Ok(())
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// The current context; `INVALID_CONTEXT` if this thread has none, or the error that a kernel of it
/// left where such errors are deferred and one call has returned it.
pub fn current() -> Result<Arc<Context>> {
    let driver = driver()?;
    let handle = top().ok_or(Status::INVALID_CONTEXT)?;
    let context = driver
        .contexts
        .get(handle)
        .map_err(|_| Status::CONTEXT_IS_DESTROYED)?;
    context.check()?;
    Ok(context)
}

fn top() -> Option<Handle> {
    CURRENT.with_borrow(|stack| stack.last().copied())
}

fn set_current(handle: Handle) -> Result {
    if handle != Handle::NULL {
        find(handle)?;
    }
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if handle != Handle::NULL {
            stack.push(handle);
        }
    });
    Ok(())
}

fn find(handle: Handle) -> Result<Arc<Context>> {
    driver()?
        .contexts
        .get(handle)
        .map_err(|_| Status::INVALID_CONTEXT)
}

/// The context `handle`, or the current one for null.
pub fn find_or_current(handle: Handle) -> Result<Arc<Context>> {
    if handle == Handle::NULL {
        current()
    } else {
        find(handle)
    }
}

/// Bits of `CUctx_flags` that `cuda.h` defines: scheduling, host mapping, and so on.
const CONTEXT_FLAGS: u32 = 0xff;

fn create(out: Out<Handle>, flags: u32, device: c_int) -> Result {
    let driver = driver()?;
    require_device(device)?;
    out.check()?;
    if flags & !CONTEXT_FLAGS != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let context = Context::new(flags);
    driver.contexts.insert(context.handle, context.clone());
    CURRENT.with_borrow_mut(|stack| stack.push(context.handle));
    out.set(context.handle)
}

/// `CUctxCreateParams`: execution affinity, and sharing the GPU with graphics.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CreateParams {
    affinity: HostPointer,
    affinity_count: c_int,
    graphics: HostPointer,
}

impl CreateParams {
    /// Whether nothing is asked for.
    fn is_empty(&self) -> bool {
        self.affinity.address() == 0 && self.affinity_count == 0 && self.graphics.address() == 0
    }
}

exports! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        initialize();
        Ok(())
    }

    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) {
        require_device(device)?;
        context.check()?;
        context.set(driver()?.primary.retain()?)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        require_device(device)?;
        driver()?.primary.release()
    }

    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        // As with the last release: objects stay.
        require_device(device)
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) {
        require_device(device)?;
        let primary = &driver()?.primary;
        flags.set(primary.flags.load(Ordering::Relaxed))?;
        active.set(c_int::from(*primary.retained() > 0))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) {
        require_device(device)?;
        if flags & !CONTEXT_FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        driver()?.primary.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxCreate_v2(context: Out<Handle>, flags: c_uint, device: c_int) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(
        context: Out<Handle>, affinity: In<c_void>, count: c_int, flags: c_uint, device: c_int,
    ) {
        if count != 0 || !affinity.is_null() {
            return Err(Status::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(
        context: Out<Handle>, params: In<CreateParams>, flags: c_uint, device: c_int,
    ) {
        if !params.is_null() && !params.get()?.is_empty() {
            return Err(Status::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let driver = driver()?;
        if driver.primary.is(context) {
            return Err(Status::INVALID_CONTEXT);
        }
        driver.contexts.remove(context).map_err(|_| Status::INVALID_CONTEXT)?;
        CURRENT.with_borrow_mut(|stack| if stack.last() == Some(&context) { stack.pop(); });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        driver()?;
        context.set(top().unwrap_or(Handle::NULL))
    }

    fn cuCtxSetCurrent(context: Handle) {
        set_current(context)
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        find(context)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        driver()?;
        let popped = CURRENT.with_borrow_mut(Vec::pop).ok_or(Status::INVALID_CONTEXT)?;
        context.set_if_wanted(popped);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<c_int>) {
        current()?;
        device.set(0)
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        id.set(find_or_current(context)?.id)
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<c_uint>) {
        find_or_current(context)?;
        version.set(super::device::DRIVER_VERSION as c_uint)
    }

    fn cuCtxGetFlags(flags: Out<c_uint>) {
        flags.set(current()?.flags.load(Ordering::Relaxed))
    }

    fn cuCtxSetFlags(flags: c_uint) {
        if flags & !CONTEXT_FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        current()?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) {
        let context = current()?;
        let stored = context.limits.get(limit as usize).ok_or(Status::UNSUPPORTED_LIMIT)?;
        value.set(stored.load(Ordering::Relaxed))
    }

    fn cuCtxSetLimit(limit: c_uint, value: usize) {
        let context = current()?;
        let stored = context.limits.get(limit as usize).ok_or(Status::UNSUPPORTED_LIMIT)?;
        stored.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<c_uint>) {
        config.set(current()?.cache_config.load(Ordering::Relaxed))
    }

    fn cuCtxSetCacheConfig(config: c_uint) {
        // CU_FUNC_CACHE_PREFER_EQUAL is the largest.
        if config > 3 {
            return Err(Status::INVALID_VALUE);
        }
        current()?.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<c_uint>) {
        current()?;
        // CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE, the only one since Maxwell.
        config.set(1)
    }

    fn cuCtxSetSharedMemConfig(config: c_uint) {
        current()?;
        if config > 2 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        current()?;
        least.set_if_wanted(super::stream::LEAST_PRIORITY);
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxSynchronize() {
        let context = current()?;
        driver()?.captures.refuse_unsafe_call()?;
        let created = driver()?.streams.all().into_iter();
        for stream in created.chain([context.legacy_stream(), context.thread_stream()]) {
            stream.settle();
        }
        context.synchronize()
    }

    fn cuProfilerStart() {
        current().map(|_| ())
    }

    fn cuProfilerStop() {
        current().map(|_| ())
    }
}
