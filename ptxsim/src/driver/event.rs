//! Events.

use std::ffi::c_uint;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::capture::Capture;
use super::context::current;
use super::ffi::{Out, exports};
use super::handle::Handle;
use super::host_work::HostWork;
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};
use super::stream::{self, Stream};

const DISABLE_TIMING: c_uint = 2;
const INTERPROCESS: c_uint = 4;
/// Of `cuEventRecordWithFlags`: in a capture, a node that records instead of a dependency.
const RECORD_EXTERNAL: c_uint = 1;

/// What an event was last used for.
pub enum EventState {
    /// Never recorded: counts as complete.
    Unrecorded,
    /// Complete once `after` is.
    Recorded {
        /// When it was recorded.
        at: Instant,
        /// Host functions before it.
        after: Vec<Arc<HostWork>>,
    },
    /// Recorded in a capturing stream: stands for these nodes of the graph.
    Captured {
        /// The capture.
        capture: Arc<Capture>,
        /// Nodes by their index.
        dependencies: Vec<usize>,
    },
}

/// An event.
pub struct Event {
    timing: bool,
    state: Mutex<EventState>,
}

impl Event {
    /// What it was last used for.
    pub fn state(&self) -> MutexGuard<'_, EventState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records it now, after `after`.
    pub fn record(&self, after: Vec<Arc<HostWork>>) {
        *self.state() = EventState::Recorded {
            at: Instant::now(),
            after,
        };
    }

    /// Host functions that must finish before it is complete.
    pub fn unfinished(&self) -> Vec<Arc<HostWork>> {
        match &*self.state() {
            EventState::Recorded { after, .. } => after
                .iter()
                .filter(|work| work.finished().is_none())
                .cloned()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Refuses events of a capture, which the attempt invalidates.
    fn refuse_captured(&self) -> Result {
        if let EventState::Captured { capture, .. } = &*self.state() {
            capture.invalidate();
            return Err(Status::CAPTURED_EVENT);
        }
        Ok(())
    }

    /// When it completed: `INVALID_HANDLE` without timing or record, `NOT_READY` if it has not.
    fn completed_at(&self) -> Result<Instant> {
        match &*self.state() {
            EventState::Recorded { at, after } if self.timing => after
                .iter()
                .try_fold(*at, |latest, work| Some(latest.max(work.finished()?)))
                .ok_or(Status::NOT_READY),
            _ => Err(Status::INVALID_HANDLE),
        }
    }
}

fn record(event: Handle, stream: Handle, flags: c_uint) -> Result {
    if flags & !RECORD_EXTERNAL != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let driver = driver()?;
    let stream: Arc<Stream> = stream::find(stream)?;
    let event = driver.events.get(event)?;
    if flags & RECORD_EXTERNAL != 0 {
        return stream.submit(Operation::Record(event));
    }
    if !driver.captures.record(&stream, &event)? {
        event.record(stream.unfinished());
    }
    Ok(())
}

/// Milliseconds, at the resolution of the host's monotonic clock.
fn elapsed(out: Out<f32>, start: Handle, end: Handle) -> Result {
    let events = &driver()?.events;
    let (start, end) = (events.get(start)?, events.get(end)?);
    out.check()?;
    start.refuse_captured()?;
    end.refuse_captured()?;
    let (start, end) = (start.completed_at()?, end.completed_at()?);
    let milliseconds = match end.checked_duration_since(start) {
        Some(forward) => forward.as_secs_f64() * 1e3,
        None => -(start - end).as_secs_f64() * 1e3,
    };
    out.set(milliseconds as f32)
}

exports! {
    fn cuEventCreate(event: Out<Handle>, flags: c_uint) {
        current()?;
        event.check()?;
        // An interprocess event cannot time; between processes it cannot be shared here.
        if flags > 7 || (flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0) {
            return Err(Status::INVALID_VALUE);
        }
        let timing = flags & DISABLE_TIMING == 0;
        let object = Arc::new(Event { timing, state: Mutex::new(EventState::Unrecorded) });
        event.set(driver()?.events.insert(Handle::fresh(), object))
    }

    fn cuEventDestroy_v2(event: Handle) {
        driver()?.events.remove(event).map(|_| ())
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) {
        record(event, stream, flags)
    }

    fn cuEventQuery(event: Handle) {
        let event = driver()?.events.get(event)?;
        event.refuse_captured()?;
        current()?.synchronize()?;
        if event.unfinished().is_empty() { Ok(()) } else { Err(Status::NOT_READY) }
    }

    fn cuEventSynchronize(event: Handle) {
        let event = driver()?.events.get(event)?;
        event.refuse_captured()?;
        for work in event.unfinished() {
            work.wait();
        }
        current()?.synchronize()
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}
