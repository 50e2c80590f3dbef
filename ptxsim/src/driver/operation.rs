//! Work that a stream does or a graph holds.

use std::ffi::c_uint;
use std::sync::Arc;

use super::copy::Copy;
use super::event::Event;
use super::ffi::HostFunction;
use super::fill::Fill;
use super::graph::Executable;
use super::launch::KernelLaunch;
use super::state::driver;
use super::status::Result;

/// One piece of work.
#[derive(Clone)]
pub enum Operation {
    /// A kernel launch.
    Kernel(Arc<KernelLaunch>),
    /// A copy.
    Copy(Copy),
    /// A memset.
    Fill(Fill),
    /// Recording of an event.
    Record(Arc<Event>),
    /// Waiting for an event.
    Wait(Arc<Event>),
    /// A host function.
    Host(HostFunction),
    /// A graph within a graph.
    Graph(Arc<Executable>),
    /// Memory that a graph allocated when it was captured.
    Allocate(u64),
    /// Freeing of memory.
    Free(u64),
    /// Nothing: a point for dependencies to meet.
    Empty,
}

impl Operation {
    /// Does it, on this thread, and returns when it is done.
    pub fn run(&self) -> Result {
        match self {
            Operation::Kernel(launch) => launch.run(),
            Operation::Copy(copy) => copy.run(),
            Operation::Fill(fill) => fill.run(),
            Operation::Record(event) => {
                event.record(Vec::new());
                Ok(())
            }
            Operation::Wait(event) => {
                for work in event.unfinished() {
                    work.wait();
                }
                Ok(())
            }
            Operation::Host(function) => {
                function.call();
                Ok(())
            }
            Operation::Graph(graph) => graph.run(),
            Operation::Free(address) => super::memory::free(driver()?, *address),
            Operation::Allocate(_) | Operation::Empty => Ok(()),
        }
    }

    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> c_uint {
        match self {
            Operation::Kernel(_) => 0,
            Operation::Copy(_) => 1,
            Operation::Fill(_) => 2,
            Operation::Host(_) => 3,
            Operation::Graph(_) => 4,
            Operation::Empty => 5,
            Operation::Wait(_) => 6,
            Operation::Record(_) => 7,
            Operation::Allocate(_) => 10,
            Operation::Free(_) => 11,
        }
    }
}
