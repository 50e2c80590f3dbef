//! Streams.
//!
//! Execution is eager: work is done when the call that enqueues it returns, on the calling thread.
//! That satisfies every ordering that streams and events promise. The exception are host functions,
//! which run on threads of their own; later work in the stream waits for them.

use std::ffi::{c_int, c_uint};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::capture::Participation;
use super::context::{current, find_or_current};
use super::event::Event;
use super::ffi::{HostFunction, HostPointer, Out, exports};
use super::handle::Handle;
use super::host_work::{HostWork, any_pending};
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};

/// `cuCtxGetStreamPriorityRange`.
pub const LEAST_PRIORITY: c_int = 0;
/// See [`LEAST_PRIORITY`]: smaller is more urgent.
pub const GREATEST_PRIORITY: c_int = -5;

const NON_BLOCKING: c_uint = 1;

/// The streams that exist without creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultStream {
    /// Shared by all threads; blocking streams order themselves with it.
    Legacy,
    /// One a thread.
    PerThread,
}

/// A stream.
pub struct Stream {
    /// Its own handle, also for default streams, which C knows by 0, 1 and 2.
    pub handle: Handle,
    context: Handle,
    flags: u32,
    priority: c_int,
    default: Option<DefaultStream>,
    /// The capture that it takes part in.
    pub capture: Mutex<Option<Participation>>,
    pending: Mutex<Vec<Arc<HostWork>>>,
}

impl Stream {
    /// A default stream of a context.
    pub fn default_of(context: Handle, kind: DefaultStream) -> Arc<Stream> {
        Arc::new(Stream {
            default: Some(kind),
            ..Stream::new(context, 0, LEAST_PRIORITY)
        })
    }

    fn new(context: Handle, flags: u32, priority: c_int) -> Stream {
        Stream {
            handle: Handle::fresh(),
            context,
            flags,
            priority,
            default: None,
            capture: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// Whether this is the legacy default stream.
    pub fn is_legacy(&self) -> bool {
        self.default == Some(DefaultStream::Legacy)
    }

    /// Whether it orders itself with the legacy default stream.
    pub fn is_blocking(&self) -> bool {
        !self.is_legacy() && self.flags & NON_BLOCKING == 0
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Arc<HostWork>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Host functions that later work must wait for.
    pub fn unfinished(&self) -> Vec<Arc<HostWork>> {
        let mut pending = self.pending();
        pending.retain(|work| work.finished().is_none());
        pending.clone()
    }

    /// Makes later work wait for `work` too.
    pub fn wait_for(&self, work: impl IntoIterator<Item = Arc<HostWork>>) {
        self.pending().extend(work);
    }

    /// Waits until all work of this stream is finished.
    pub fn settle(&self) {
        // The lock is not held while waiting: a host function may ask about its stream.
        let pending = std::mem::take(&mut *self.pending());
        for work in pending {
            work.wait();
        }
    }

    /// Waits for what must come before new work in this stream.
    fn settle_before_work(&self) -> Result {
        if !any_pending() {
            return Ok(());
        }
        self.settle();
        if self.is_legacy() {
            driver()?
                .streams
                .all()
                .iter()
                .filter(|other| other.is_blocking())
                .for_each(|other| other.settle());
        } else if self.is_blocking() {
            find_or_current(self.context)?.legacy_stream().settle();
        }
        Ok(())
    }

    /// Does `operation`, or adds it to the graph that this stream is captured into.
    pub fn submit(&self, operation: Operation) -> Result {
        match driver()?.captures.add(self, operation)? {
            None => Ok(()),
            Some(operation) => {
                self.settle_before_work()?;
                operation.run()
            }
        }
    }

    /// Enqueues a host function.
    fn call(&self, function: HostFunction) -> Result {
        if function.function.is_none() {
            return Err(Status::INVALID_VALUE);
        }
        if driver()?
            .captures
            .add(self, Operation::Host(function))?
            .is_some()
        {
            let work = HostWork::start(function, self.unfinished())?;
            self.wait_for([work]);
        }
        Ok(())
    }

    /// Orders later work of this stream after `event`.
    fn wait_event(&self, event: &Event) -> Result {
        if driver()?.captures.join(self, event)? {
            return Ok(());
        }
        self.wait_for(event.unfinished());
        Ok(())
    }

    /// Refuses while the stream is capturing, which the attempt invalidates.
    fn refuse_capture(&self) -> Result {
        match &*self.capture.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(participation) => {
                participation.capture.invalidate();
                Err(Status::STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }
}

/// The stream behind a handle: 0 and 1 are the legacy default stream, 2 the thread's own.
pub fn find(handle: Handle) -> Result<Arc<Stream>> {
    let context = current()?;
    match handle.0 {
        0 | 1 => Ok(context.legacy_stream()),
        2 => Ok(context.thread_stream()),
        _ => driver()?.streams.get(handle),
    }
}

fn create(out: Out<Handle>, flags: u32, priority: c_int) -> Result {
    let context = current()?;
    out.check()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    let stream = Arc::new(Stream::new(context.handle, flags, priority));
    out.set(driver()?.streams.insert(stream.handle, stream))
}

exports! {
    fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) {
        create(stream, flags, LEAST_PRIORITY)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, priority: c_int) {
        create(stream, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let driver = driver()?;
        let stream = driver.streams.remove(stream)?;
        driver.captures.abandon(&stream);
        Ok(())
    }

    fn cuStreamSynchronize(stream: Handle) {
        let stream = find(stream)?;
        stream.refuse_capture()?;
        stream.settle_before_work()?;
        stream.settle();
        current()?.synchronize()
    }

    fn cuStreamQuery(stream: Handle) {
        let stream = find(stream)?;
        stream.refuse_capture()?;
        current()?.synchronize()?;
        if stream.unfinished().is_empty() { Ok(()) } else { Err(Status::NOT_READY) }
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) {
        // CU_EVENT_WAIT_EXTERNAL is 1.
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        let event = driver()?.events.get(event)?;
        find(stream)?.wait_event(&event)
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) {
        flags.set(find(stream)?.flags)
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) {
        priority.set(find(stream)?.priority)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        context.set(find(stream)?.context)
    }

    fn cuStreamGetId(stream: Handle, id: Out<u64>) {
        id.set(find(stream)?.handle.0 as u64)
    }

    fn cuStreamGetDevice(stream: Handle, device: Out<c_int>) {
        find(stream)?;
        device.set(0)
    }

    fn cuLaunchHostFunc(
        stream: Handle, function: Option<unsafe extern "C" fn(*mut std::ffi::c_void)>,
        data: HostPointer,
    ) {
        find(stream)?.call(HostFunction { function, data })
    }

    fn cuStreamAttachMemAsync(stream: Handle, address: u64, _length: usize, flags: c_uint) {
        find(stream)?;
        // Global, host and single are 1, 2 and 4. Managed memory is always coherent here.
        if !matches!(flags, 1 | 2 | 4) || driver()?.memory.find(address).is_none() {
            return Err(Status::INVALID_VALUE);
        }
        Ok(())
    }
}
