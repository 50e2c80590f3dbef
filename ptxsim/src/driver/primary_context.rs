//! The device's primary context.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::context::Context;
use super::handle::Handle;
use super::state::driver;
use super::status::{Result, Status};

/// The primary context. It is made at the first retain; its handle stays the same for the life of
/// the process, as with NVIDIA's driver: programs compare it.
#[derive(Default)]
pub struct PrimaryContext {
    retained: Mutex<u32>,
    pub(super) flags: AtomicU32,
    context: OnceLock<Arc<Context>>,
}

impl PrimaryContext {
    pub(super) fn retained(&self) -> MutexGuard<'_, u32> {
        self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn retain(&self) -> Result<Handle> {
        let driver = driver()?;
        *self.retained() += 1;
        let make = || Context::new(self.flags.load(Ordering::Relaxed));
        let context = self.context.get_or_init(make);
        Ok(driver.contexts.insert(context.handle, context.clone()))
    }

    /// Objects of the context survive its last release: destroying them under the feet of other
    /// threads would only turn leaks into crashes.
    pub(super) fn release(&self) -> Result {
        let mut retained = self.retained();
        *retained = retained.checked_sub(1).ok_or(Status::INVALID_CONTEXT)?;
        Ok(())
    }

    pub(super) fn is(&self, handle: Handle) -> bool {
        self.context
            .get()
            .is_some_and(|context| context.handle == handle)
    }
}
