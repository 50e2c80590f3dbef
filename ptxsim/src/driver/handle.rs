//! Handles: numbers that stand for driver objects.
//!
//! A handle is looked up, never dereferenced: a stale one, or one of another kind, is an error.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::status::{Result, Status};

/// An opaque handle as C sees it. Null is no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Handle(pub usize);

impl Handle {
    /// No object, or the default one.
    pub const NULL: Handle = Handle(0);

    /// A handle that no other object of any kind has had.
    pub fn fresh() -> Handle {
        // Far from the small numbers that stand for default streams; spaced like pointers.
        static NEXT: AtomicUsize = AtomicUsize::new(0x1000);
        Handle(NEXT.fetch_add(16, Ordering::Relaxed))
    }
}

/// Live objects of one kind.
pub struct Table<T>(RwLock<HashMap<Handle, Arc<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> Table<T> {
    /// Adds an object under the handle that it knows itself by.
    pub fn insert(&self, handle: Handle, object: Arc<T>) -> Handle {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(handle, object);
        handle
    }

    /// The object, or `INVALID_HANDLE`.
    pub fn get(&self, handle: Handle) -> Result<Arc<T>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&handle).cloned().ok_or(Status::INVALID_HANDLE)
    }

    /// Takes the object out, or `INVALID_HANDLE`.
    pub fn remove(&self, handle: Handle) -> Result<Arc<T>> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&handle).ok_or(Status::INVALID_HANDLE)
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}
