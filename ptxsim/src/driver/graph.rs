//! Graphs and their instances.

use std::collections::BTreeSet;
use std::ffi::{c_uint, c_ulonglong};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::context::current;
use super::ffi::{Out, exports};
use super::handle::Handle;
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};
use super::stream;

/// A graph under construction.
pub struct Graph {
    nodes: Mutex<Vec<Node>>,
    memory: Arc<GraphMemory>,
    handle: OnceLock<Handle>,
}

/// A node of a graph.
#[derive(Clone)]
pub struct Node {
    /// Its handle.
    pub handle: Handle,
    /// What it does.
    pub operation: Operation,
    /// Nodes that come first, by index.
    pub dependencies: Vec<usize>,
}

/// Where the node with some handle is.
pub struct NodeRef {
    /// Its graph.
    pub graph: Weak<Graph>,
    /// Its index there.
    pub index: usize,
}

/// Memory that nodes of a graph allocated. The address is fixed when the node is made, and freed
/// when the graph and its instances are gone.
#[derive(Default)]
struct GraphMemory(Mutex<Vec<u64>>);

impl GraphMemory {
    fn addresses(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        if let Ok(driver) = driver() {
            for &address in self.addresses().iter() {
                // The program may have freed it by itself, which is allowed.
                let _ = driver.memory.free(address);
            }
        }
    }
}

impl Graph {
    /// An empty graph that has no handle yet.
    pub fn new() -> Arc<Graph> {
        Arc::new(Graph {
            nodes: Mutex::default(),
            memory: Arc::default(),
            handle: OnceLock::new(),
        })
    }

    /// Its handle, made at the first call.
    pub fn publish(self: &Arc<Self>) -> Result<Handle> {
        let driver = driver()?;
        let mut nodes = self
            .nodes()
            .iter()
            .map(|node| node.handle)
            .enumerate()
            .collect::<Vec<_>>();
        for (index, handle) in nodes.drain(..) {
            let graph = Arc::downgrade(self);
            driver
                .nodes
                .insert(handle, Arc::new(NodeRef { graph, index }));
        }
        let handle = *self.handle.get_or_init(Handle::fresh);
        Ok(driver.graphs.insert(handle, self.clone()))
    }

    /// The nodes.
    pub fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a node and returns its index.
    pub fn add(&self, operation: Operation, dependencies: Vec<usize>) -> Result<usize> {
        let mut addresses = self.memory.addresses();
        let operation = match operation {
            Operation::Allocate(address) => {
                addresses.push(address);
                operation
            }
            // Memory of the graph stays for its next launch.
            Operation::Free(address) if addresses.contains(&address) => Operation::Empty,
            other => other,
        };
        let mut nodes = self.nodes();
        if dependencies.iter().any(|&index| index >= nodes.len()) {
            return Err(Status::INVALID_VALUE);
        }
        nodes.push(Node {
            handle: Handle::fresh(),
            operation,
            dependencies,
        });
        Ok(nodes.len() - 1)
    }

    /// Whether every node that no other depends on is among `ends`.
    pub fn has_leaves_only(&self, ends: &[usize]) -> bool {
        let nodes = self.nodes();
        let mut inner = vec![false; nodes.len()];
        nodes
            .iter()
            .flat_map(|node| &node.dependencies)
            .for_each(|&index| inner[index] = true);
        (0..nodes.len()).all(|index| inner[index] || ends.contains(&index))
    }

    /// A copy with handles of its own.
    fn duplicate(&self) -> Arc<Graph> {
        let mut nodes = self.nodes().clone();
        nodes
            .iter_mut()
            .for_each(|node| node.handle = Handle::fresh());
        let nodes = Mutex::new(nodes);
        Arc::new(Graph {
            nodes,
            memory: self.memory.clone(),
            handle: OnceLock::new(),
        })
    }

    /// An instance; `INVALID_VALUE` if the dependencies form a cycle.
    pub fn instantiate(&self, flags: u64) -> Result<Arc<Executable>> {
        let nodes = self.nodes();
        let mut waiting: Vec<usize> = nodes.iter().map(|node| node.dependencies.len()).collect();
        let mut dependents = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            node.dependencies
                .iter()
                .for_each(|&needed| dependents[needed].push(index));
        }
        // In order of creation where the dependencies allow it, so that runs are reproducible.
        let mut ready: BTreeSet<usize> = (0..nodes.len())
            .filter(|&index| waiting[index] == 0)
            .collect();
        let mut operations = Vec::with_capacity(nodes.len());
        while let Some(index) = ready.pop_first() {
            operations.push((nodes[index].handle, nodes[index].operation.clone()));
            for &dependent in &dependents[index] {
                waiting[dependent] -= 1;
                if waiting[dependent] == 0 {
                    ready.insert(dependent);
                }
            }
        }
        if operations.len() < nodes.len() {
            return Err(Status::INVALID_VALUE);
        }
        let operations = Mutex::new(operations);
        Ok(Arc::new(Executable {
            flags,
            operations,
            _memory: self.memory.clone(),
        }))
    }
}

/// An instance of a graph.
pub struct Executable {
    flags: u64,
    operations: Mutex<Vec<(Handle, Operation)>>,
    _memory: Arc<GraphMemory>,
}

impl Executable {
    /// Does all its work in an order that satisfies the dependencies.
    pub fn run(&self) -> Result {
        // Cloned, since a node may run for long and its kernel may change the graph.
        let operations = self.operations().clone();
        operations
            .iter()
            .try_for_each(|(_, operation)| operation.run())
    }

    fn operations(&self) -> MutexGuard<'_, Vec<(Handle, Operation)>> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the node with this handle does by something of the same type.
    pub fn replace(&self, node: Handle, operation: Operation) -> Result {
        let mut operations = self.operations();
        let found = operations.iter_mut().find(|(handle, _)| *handle == node);
        let (_, old) = found.ok_or(Status::INVALID_VALUE)?;
        if old.node_type() != operation.node_type() {
            return Err(Status::INVALID_VALUE);
        }
        *old = operation;
        Ok(())
    }
}

/// Of `CUgraphInstantiate_flags`: launch from the device, which no other goes with and which is not
/// simulated.
const DEVICE_LAUNCH: u64 = 4;
/// All of them: free on launch, upload, device launch, node priority.
const FLAGS: u64 = 15;

fn instantiate(out: Out<Handle>, graph: Handle, flags: u64) -> Result {
    current()?;
    out.check()?;
    if flags & !FLAGS != 0 || (flags & DEVICE_LAUNCH != 0 && flags != DEVICE_LAUNCH) {
        return Err(Status::INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Status::NOT_SUPPORTED);
    }
    let driver = driver()?;
    let executable = driver.graphs.get(graph)?.instantiate(flags)?;
    out.set(driver.executables.insert(Handle::fresh(), executable))
}

exports! {
    fn cuGraphCreate(graph: Out<Handle>, flags: c_uint) {
        driver()?;
        graph.check()?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        graph.set(Graph::new().publish()?)
    }

    fn cuGraphClone(clone: Out<Handle>, original: Handle) {
        clone.check()?;
        clone.set(driver()?.graphs.get(original)?.duplicate().publish()?)
    }

    fn cuGraphDestroy(graph: Handle) {
        let driver = driver()?;
        let graph = driver.graphs.remove(graph)?;
        for node in graph.nodes().iter() {
            // A node that was added since the graph's last publication has no entry.
            let _ = driver.nodes.remove(node.handle);
        }
        Ok(())
    }

    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: c_ulonglong) {
        instantiate(executable, graph, flags)
    }

    fn cuGraphInstantiate_v2(
        executable: Out<Handle>, graph: Handle, node: Out<Handle>, log: Out<u8>, room: usize,
    ) {
        node.set_if_wanted(Handle::NULL);
        if room > 0 {
            log.set_if_wanted(0);
        }
        instantiate(executable, graph, 0)
    }

    fn cuGraphExecGetFlags(executable: Handle, flags: Out<c_ulonglong>) {
        flags.set(driver()?.executables.get(executable)?.flags)
    }

    fn cuGraphUpload(executable: Handle, stream: Handle) {
        stream::find(stream)?;
        driver()?.executables.get(executable).map(|_| ())
    }

    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        let stream = stream::find(stream)?;
        let executable = driver()?.executables.get(executable)?;
        stream.submit(Operation::Graph(executable))
    }

    fn cuGraphExecDestroy(executable: Handle) {
        driver()?.executables.remove(executable).map(|_| ())
    }
}
