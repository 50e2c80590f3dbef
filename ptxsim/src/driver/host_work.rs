//! Host functions that streams call, the only work that outlives the call that enqueues it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::ffi::HostFunction;
use super::status::{Result, Status};

/// Host functions not yet finished, of all streams.
static UNFINISHED: AtomicUsize = AtomicUsize::new(0);

/// Whether any host function is pending: when none is, streams need not be searched for them.
pub fn any_pending() -> bool {
    UNFINISHED.load(Ordering::Acquire) > 0
}

/// A host function that runs on a thread of its own, as the driver has it: it may wait for
/// something that the enqueuing thread does later.
#[derive(Default)]
pub struct HostWork {
    finished: Mutex<Option<Instant>>,
    signal: Condvar,
}

impl HostWork {
    /// Calls `function` once `before` is finished.
    pub fn start(function: HostFunction, before: Vec<Arc<HostWork>>) -> Result<Arc<HostWork>> {
        let work = Arc::new(HostWork::default());
        let finish = Finish(work.clone());
        UNFINISHED.fetch_add(1, Ordering::AcqRel);
        let body = move || {
            for earlier in before {
                earlier.wait();
            }
            function.call();
            drop(finish);
        };
        let thread = std::thread::Builder::new()
            .name("ptxsim host function".into())
            .spawn(body);
        thread.map(|_| work).map_err(|_| Status::OUT_OF_MEMORY)
    }

    /// When it finished, if it has.
    pub fn finished(&self) -> Option<Instant> {
        *self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for it and returns when it finished.
    pub fn wait(&self) -> Instant {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *finished {
                Some(at) => return at,
                None => {
                    finished = self
                        .signal
                        .wait(finished)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

/// Marks work as finished when dropped, also where its thread could not start.
struct Finish(Arc<HostWork>);

impl Drop for Finish {
    fn drop(&mut self) {
        *self
            .0
            .finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        UNFINISHED.fetch_sub(1, Ordering::AcqRel);
        self.0.signal.notify_all();
    }
}
