//! Stream capture: work goes into a graph instead of being done.

use std::cell::Cell;
use std::ffi::c_uint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::event::{Event, EventState};
use super::ffi::{HostPointer, Out, exports};
use super::graph::Graph;
use super::handle::Handle;
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};
use super::stream::{self, Stream};

/// Which unsafe calls a capture, or a thread, forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn from_number(number: c_uint) -> Result<Mode> {
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed]
            .get(number as usize)
            .copied()
            .ok_or(Status::INVALID_VALUE)
    }
}

thread_local! {
    /// `cuThreadExchangeStreamCaptureMode`.
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// A capture under way, or ended.
pub struct Capture {
    id: u64,
    mode: Mode,
    thread: ThreadId,
    origin: Handle,
    graph: Arc<Graph>,
    valid: AtomicBool,
    ended: AtomicBool,
}

impl Capture {
    /// Marks it as failed: its end will say so.
    pub fn invalidate(&self) {
        self.valid.store(false, Ordering::Release);
    }

    fn is_valid(&self) -> bool {
        self.valid.load(Ordering::Acquire)
    }
}

/// A stream's part in a capture.
pub struct Participation {
    /// The capture.
    pub capture: Arc<Capture>,
    /// Nodes that the stream's next node depends on.
    pub dependencies: Vec<usize>,
}

/// All captures under way.
#[derive(Default)]
pub struct Captures {
    active: Mutex<Vec<Arc<Capture>>>,
}

impl Captures {
    fn active(&self) -> MutexGuard<'_, Vec<Arc<Capture>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds `operation` to the graph that `stream` is captured into. Gives it back if there is
    /// none.
    pub fn add(&self, stream: &Stream, operation: Operation) -> Result<Option<Operation>> {
        let mut slot = lock(stream);
        let Some(participation) = &mut *slot else {
            drop(slot);
            self.refuse_implicit_dependency(stream)?;
            return Ok(Some(operation));
        };
        if !participation.capture.is_valid() {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        let dependencies = std::mem::take(&mut participation.dependencies);
        let node = participation.capture.graph.add(operation, dependencies)?;
        participation.dependencies = vec![node];
        Ok(None)
    }

    /// The legacy stream would wait for every blocking stream, and none of a capture can be.
    fn refuse_implicit_dependency(&self, stream: &Stream) -> Result {
        if !stream.is_legacy() || self.active().is_empty() {
            return Ok(());
        }
        for other in driver()?
            .streams
            .all()
            .iter()
            .filter(|other| other.is_blocking())
        {
            if let Some(participation) = &*lock(other) {
                participation.capture.invalidate();
                return Err(Status::STREAM_CAPTURE_IMPLICIT);
            }
        }
        Ok(())
    }

    /// Lets `event` stand for the latest nodes of `stream`. Returns whether it is captured.
    pub fn record(&self, stream: &Stream, event: &Event) -> Result<bool> {
        let slot = lock(stream);
        let Some(participation) = &*slot else {
            drop(slot);
            self.refuse_implicit_dependency(stream)?;
            return Ok(false);
        };
        if !participation.capture.is_valid() {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        *event.state() = EventState::Captured {
            capture: participation.capture.clone(),
            dependencies: participation.dependencies.clone(),
        };
        Ok(true)
    }

    /// Orders `stream` after `event` within a capture, which the stream joins if it is in none.
    /// Returns false where neither is captured.
    pub fn join(&self, stream: &Stream, event: &Event) -> Result<bool> {
        let mut slot = lock(stream);
        let state = event.state();
        match (&mut *slot, &*state) {
            (
                Some(participation),
                EventState::Captured {
                    capture,
                    dependencies,
                },
            ) => {
                if !Arc::ptr_eq(&participation.capture, capture) {
                    participation.capture.invalidate();
                    capture.invalidate();
                    return Err(Status::STREAM_CAPTURE_MERGE);
                }
                let known = &mut participation.dependencies;
                let new = dependencies.iter().filter(|node| !known.contains(node));
                let new: Vec<usize> = new.copied().collect();
                known.extend(new);
            }
            (
                None,
                EventState::Captured {
                    capture,
                    dependencies,
                },
            ) => {
                if capture.ended.load(Ordering::Acquire) {
                    return Err(Status::CAPTURED_EVENT);
                }
                if stream.is_legacy() {
                    capture.invalidate();
                    return Err(Status::STREAM_CAPTURE_IMPLICIT);
                }
                let (capture, dependencies) = (capture.clone(), dependencies.clone());
                *slot = Some(Participation {
                    capture,
                    dependencies,
                });
            }
            (Some(participation), EventState::Recorded { .. }) => {
                participation.capture.invalidate();
                return Err(Status::STREAM_CAPTURE_ISOLATION);
            }
            (Some(_), EventState::Unrecorded) => {}
            (None, _) => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses a call that is unsafe during capture, such as an allocation or a device-wide wait,
    /// by the rules of `cuThreadExchangeStreamCaptureMode`. The attempt invalidates the capture.
    pub fn refuse_unsafe_call(&self) -> Result {
        let thread = std::thread::current().id();
        let forbids = |capture: &&Arc<Capture>| match THREAD_MODE.get() {
            Mode::Relaxed => false,
            _ if capture.thread == thread => capture.mode != Mode::Relaxed,
            Mode::Global => capture.mode == Mode::Global,
            Mode::ThreadLocal => false,
        };
        match self.active().iter().find(forbids) {
            Some(capture) => {
                capture.invalidate();
                Err(Status::STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    fn begin(&self, stream: &Stream, mode: Mode) -> Result {
        if stream.is_legacy() {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let mut slot = lock(stream);
        if slot.is_some() {
            return Err(Status::ILLEGAL_STATE);
        }
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let capture = Arc::new(Capture {
            id: COUNT.fetch_add(1, Ordering::Relaxed),
            mode,
            thread: std::thread::current().id(),
            origin: stream.handle,
            graph: Graph::new(),
            valid: AtomicBool::new(true),
            ended: AtomicBool::new(false),
        });
        self.active().push(capture.clone());
        *slot = Some(Participation {
            capture,
            dependencies: Vec::new(),
        });
        Ok(())
    }

    fn end(&self, stream: &Stream) -> Result<Arc<Graph>> {
        let mut slot = lock(stream);
        let Participation {
            capture,
            dependencies,
        } = slot.as_ref().ok_or(Status::ILLEGAL_STATE)?;
        if capture.origin != stream.handle {
            capture.invalidate();
            return Err(Status::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
        }
        let (capture, joined) = (capture.clone(), capture.graph.has_leaves_only(dependencies));
        *slot = None;
        drop(slot);
        capture.ended.store(true, Ordering::Release);
        self.active().retain(|other| !Arc::ptr_eq(other, &capture));
        self.dismiss(&capture)?;
        match (capture.is_valid(), joined) {
            (false, _) => Err(Status::STREAM_CAPTURE_INVALIDATED),
            (true, false) => Err(Status::STREAM_CAPTURE_UNJOINED),
            (true, true) => Ok(capture.graph.clone()),
        }
    }

    /// Invalidates the capture of a stream that is destroyed, and ends it if it began there.
    pub fn abandon(&self, stream: &Stream) {
        if let Some(participation) = lock(stream).take() {
            let capture = participation.capture;
            capture.invalidate();
            if capture.origin == stream.handle {
                capture.ended.store(true, Ordering::Release);
                self.active().retain(|other| !Arc::ptr_eq(other, &capture));
            }
        }
    }

    /// Takes the forked streams out of a capture that has ended.
    fn dismiss(&self, capture: &Arc<Capture>) -> Result {
        let thread_stream = super::context::current().map(|context| context.thread_stream());
        for stream in driver()?.streams.all().into_iter().chain(thread_stream) {
            let mut slot = lock(&stream);
            if slot
                .as_ref()
                .is_some_and(|part| Arc::ptr_eq(&part.capture, capture))
            {
                *slot = None;
            }
        }
        Ok(())
    }
}

fn lock(stream: &Stream) -> MutexGuard<'_, Option<Participation>> {
    stream
        .capture
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// `CUstreamCaptureStatus`.
fn status(participation: &Option<Participation>) -> c_uint {
    match participation {
        None => 0,
        Some(participation) if participation.capture.is_valid() => 1,
        Some(_) => 2,
    }
}

/// What `cuStreamGetCaptureInfo` and its successors share.
fn info(stream: Handle, state: Out<c_uint>, id: Out<u64>, graph: Out<Handle>) -> Result {
    let stream = stream::find(stream)?;
    let slot = lock(&stream);
    state.set(status(&slot))?;
    if let Some(Participation { capture, .. }) = &*slot {
        id.set_if_wanted(capture.id);
        graph.set_if_wanted(capture.graph.publish()?);
    }
    Ok(())
}

exports! {
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) {
        let mode = Mode::from_number(mode)?;
        let stream = stream::find(stream)?;
        driver()?.captures.begin(&stream, mode)
    }

    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        graph.set(Handle::NULL)?;
        let stream = stream::find(stream)?;
        let captured = driver()?.captures.end(&stream)?;
        graph.set(captured.publish()?)
    }

    fn cuStreamIsCapturing(stream: Handle, state: Out<c_uint>) {
        let stream = stream::find(stream)?;
        if stream.is_legacy() {
            driver()?.captures.refuse_implicit_dependency(&stream)?;
        }
        state.set(status(&lock(&stream)))
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle, state: Out<c_uint>, id: Out<u64>, graph: Out<Handle>,
        dependencies: HostPointer, count: Out<usize>,
    ) {
        // Lists of nodes that the driver keeps for the caller are not supported; 0 would be wrong.
        if dependencies.address() != 0 || count.check().is_ok() {
            return Err(Status::NOT_SUPPORTED);
        }
        info(stream, state, id, graph)
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle, state: Out<c_uint>, id: Out<u64>, graph: Out<Handle>,
        dependencies: HostPointer, edges: HostPointer, count: Out<usize>,
    ) {
        if dependencies.address() != 0 || edges.address() != 0 || count.check().is_ok() {
            return Err(Status::NOT_SUPPORTED);
        }
        info(stream, state, id, graph)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) {
        driver()?;
        let new = Mode::from_number(mode.get()?)?;
        mode.set(THREAD_MODE.replace(new) as c_uint)
    }
}
