//! What the driver holds: the device, its settings and the tables of live objects.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};

use super::capture::Captures;
use super::context::Context;
use super::event::Event;
use super::function::Function;
use super::graph::{Executable, Graph, NodeRef};
use super::handle::Table;
use super::memory::SharedMemory;
use super::module::LoadedModule;
use super::pool::{Pool, PoolUse};
use super::primary_context::PrimaryContext;
use super::settings;
use super::status::{Result, Status};
use super::stream::Stream;
use crate::memory::Memory;
use crate::sim::Arch;

/// The driver's state; there is one a process.
pub struct Driver {
    /// The simulated architecture, fixed at `cuInit`.
    pub arch: Arch,
    /// Memory of the only device.
    pub memory: Arc<Memory>,
    /// The device's primary context.
    pub primary: PrimaryContext,
    /// Live contexts.
    pub contexts: Table<Context>,
    /// Streams that were created.
    pub streams: Table<Stream>,
    /// Events.
    pub events: Table<Event>,
    /// Modules and libraries.
    pub modules: Table<LoadedModule>,
    /// Functions of live modules.
    pub functions: Table<Function>,
    /// Memory pools, the default one included.
    pub pools: Table<Pool>,
    /// The pool of allocations that name none.
    pub default_pool: Arc<Pool>,
    /// Which pool allocations came from.
    pub pool_use: PoolUse,
    /// Memory that host and device share.
    pub shared: SharedMemory,
    /// Graphs.
    pub graphs: Table<Graph>,
    /// Instantiated graphs.
    pub executables: Table<Executable>,
    /// Nodes of live graphs.
    pub nodes: Table<NodeRef>,
    /// Stream captures under way.
    pub captures: Captures,
}

/// Bytes of the simulated device. Backing is taken as it is touched; more than this is refused, so
/// that a size computed wrongly fails as it would on a GPU.
const DEVICE_MEMORY: u64 = 16 << 30;

static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// The architecture asked for by [`choose_arch`]: 0 none, 1 sm_80, 2 sm_90a.
static CHOSEN_ARCH: AtomicU8 = AtomicU8::new(0);

static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
    let (pools, default_pool) = (Table::default(), Pool::new());
    pools.insert(default_pool.handle, default_pool.clone());
    Driver {
        arch: arch_to_be(),
        memory: Arc::new(Memory::new(DEVICE_MEMORY)),
        primary: PrimaryContext::default(),
        contexts: Table::default(),
        streams: Table::default(),
        events: Table::default(),
        modules: Table::default(),
        functions: Table::default(),
        pools,
        default_pool,
        pool_use: PoolUse::default(),
        shared: SharedMemory::default(),
        graphs: Table::default(),
        executables: Table::default(),
        nodes: Table::default(),
        captures: Captures::default(),
    }
});

fn arch_to_be() -> Arch {
    match CHOSEN_ARCH.load(Ordering::Acquire) {
        1 => Arch::Sm80,
        2 => Arch::Sm90a,
        _ => settings::arch(),
    }
}

/// The architecture of the driver, or what it will be.
pub fn arch() -> Arch {
    if INITIALIZED.load(Ordering::Acquire) {
        DRIVER.arch
    } else {
        arch_to_be()
    }
}

/// The driver; `NOT_INITIALIZED` before `cuInit`.
pub fn driver() -> Result<&'static Driver> {
    if INITIALIZED.load(Ordering::Acquire) {
        Ok(&DRIVER)
    } else {
        Err(Status::NOT_INITIALIZED)
    }
}

/// `cuInit`.
pub fn initialize() {
    LazyLock::force(&DRIVER);
    if !INITIALIZED.swap(true, Ordering::AcqRel) {
        super::report::at_start();
    }
}

/// Sets the architecture instead of `PTXSIM_ARCH`. Returns whether the device has it: after
/// `cuInit` it can no longer change.
pub fn choose_arch(arch: Arch) -> bool {
    if !INITIALIZED.load(Ordering::Acquire) {
        let code = match arch {
            Arch::Sm80 => 1,
            Arch::Sm90a => 2,
        };
        CHOSEN_ARCH.store(code, Ordering::Release);
        return true;
    }
    DRIVER.arch == arch
}
