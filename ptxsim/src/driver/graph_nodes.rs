//! Graphs that are built node by node.

use std::ffi::c_uint;
use std::sync::Arc;

use super::copy::Memcpy3d;
use super::event::Event;
use super::ffi::{HostFunction, HostPointer, In, Out, exports};
use super::fill::Fill;
use super::graph::{Graph, Node};
use super::handle::Handle;
use super::launch::{KernelArguments, KernelLaunch, Shape};
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};

/// `CUDA_KERNEL_NODE_PARAMS_v1`, with which `_v2` begins.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNodeParams {
    function: Handle,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    arguments: In<HostPointer>,
    extra: In<HostPointer>,
}

impl KernelNodeParams {
    fn operation(&self) -> Result<Operation> {
        let shape = Shape::new(self.grid, self.block, self.shared);
        let arguments = KernelArguments {
            values: self.arguments,
            buffer: self.extra,
        };
        Ok(Operation::Kernel(Arc::new(KernelLaunch::new(
            self.function,
            &shape,
            arguments,
        )?)))
    }
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemsetNodeParams {
    address: u64,
    pitch: usize,
    value: c_uint,
    element_size: c_uint,
    width: usize,
    height: usize,
}

impl MemsetNodeParams {
    fn operation(&self) -> Result<Operation> {
        let value = self.value.to_le_bytes();
        let pattern = match self.element_size {
            1 | 2 | 4 => &value[..self.element_size as usize],
            _ => return Err(Status::INVALID_VALUE),
        };
        let fill = Fill::new(self.address, pattern, self.width, self.pitch, self.height)?;
        Ok(Operation::Fill(fill))
    }
}

fn add(
    out: Out<Handle>,
    graph: Handle,
    after: In<Handle>,
    count: usize,
    operation: Operation,
) -> Result {
    out.check()?;
    let graph = driver()?.graphs.get(graph)?;
    let dependencies = indices(&graph, &after.get_many(count)?)?;
    let index = graph.add(operation, dependencies)?;
    graph.publish()?;
    let handle = graph.nodes()[index].handle;
    out.set(handle)
}

/// Places of `handles` in `graph`; `INVALID_VALUE` if one is not of it.
fn indices(graph: &Graph, handles: &[Handle]) -> Result<Vec<usize>> {
    let nodes = graph.nodes();
    let place = |handle: &Handle| nodes.iter().position(|node| node.handle == *handle);
    handles
        .iter()
        .map(|handle| place(handle).ok_or(Status::INVALID_VALUE))
        .collect()
}

/// Calls `body` with the node behind `handle`.
fn with_node<R>(handle: Handle, body: impl FnOnce(&mut Node) -> R) -> Result<R> {
    let place = driver()?.nodes.get(handle)?;
    let graph = place.graph.upgrade().ok_or(Status::INVALID_HANDLE)?;
    let mut nodes = graph.nodes();
    Ok(body(
        nodes.get_mut(place.index).ok_or(Status::INVALID_HANDLE)?,
    ))
}

/// Writes handles in the manner of `cuGraphGetNodes`: only their number where there is no room.
fn list(out: Out<Handle>, count: Out<usize>, handles: &[Handle]) -> Result {
    if out.check().is_err() {
        return count.set(handles.len());
    }
    let room = count.get()?;
    out.set_many(handles.iter().copied(), room)?;
    count.set(handles.len().min(room))
}

fn event(handle: Handle) -> Result<Arc<Event>> {
    driver()?.events.get(handle)
}

exports! {
    fn cuGraphAddKernelNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        params: In<KernelNodeParams>,
    ) {
        add(node, graph, after, count, params.get()?.operation()?)
    }

    fn cuGraphAddKernelNode_v2(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        params: In<KernelNodeParams>,
    ) {
        add(node, graph, after, count, params.get()?.operation()?)
    }

    fn cuGraphAddMemcpyNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<Memcpy3d>,
        context: Handle,
    ) {
        super::context::find_or_current(context)?;
        add(node, graph, after, count, Operation::Copy(params.get()?.copy()?))
    }

    fn cuGraphAddMemsetNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        params: In<MemsetNodeParams>, context: Handle,
    ) {
        super::context::find_or_current(context)?;
        add(node, graph, after, count, params.get()?.operation()?)
    }

    fn cuGraphAddHostNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<HostFunction>,
    ) {
        let function = params.get()?;
        if function.function.is_none() {
            return Err(Status::INVALID_VALUE);
        }
        add(node, graph, after, count, Operation::Host(function))
    }

    fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) {
        add(node, graph, after, count, Operation::Empty)
    }

    fn cuGraphAddChildGraphNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, child: Handle,
    ) {
        let child = driver()?.graphs.get(child)?.instantiate(0)?;
        add(node, graph, after, count, Operation::Graph(child))
    }

    fn cuGraphAddEventRecordNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, recorded: Handle,
    ) {
        add(node, graph, after, count, Operation::Record(event(recorded)?))
    }

    fn cuGraphAddEventWaitNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, awaited: Handle,
    ) {
        add(node, graph, after, count, Operation::Wait(event(awaited)?))
    }

    fn cuGraphAddDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        let graph = driver()?.graphs.get(graph)?;
        let from = indices(&graph, &from.get_many(count)?)?;
        let to = indices(&graph, &to.get_many(count)?)?;
        let mut nodes = graph.nodes();
        for (from, to) in from.into_iter().zip(to) {
            if from == to || nodes[to].dependencies.contains(&from) {
                return Err(Status::INVALID_VALUE);
            }
            nodes[to].dependencies.push(from);
        }
        Ok(())
    }

    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let graph = driver()?.graphs.get(graph)?;
        let handles: Vec<_> = graph.nodes().iter().map(|node| node.handle).collect();
        list(nodes, count, &handles)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let graph = driver()?.graphs.get(graph)?;
        let all = graph.nodes();
        let roots = all.iter().filter(|node| node.dependencies.is_empty());
        let handles: Vec<_> = roots.map(|node| node.handle).collect();
        list(nodes, count, &handles)
    }

    fn cuGraphNodeGetDependencies(node: Handle, dependencies: Out<Handle>, count: Out<usize>) {
        let place = driver()?.nodes.get(node)?;
        let graph = place.graph.upgrade().ok_or(Status::INVALID_HANDLE)?;
        let nodes = graph.nodes();
        let needed = &nodes.get(place.index).ok_or(Status::INVALID_HANDLE)?.dependencies;
        let handles: Vec<_> = needed.iter().map(|&index| nodes[index].handle).collect();
        list(dependencies, count, &handles)
    }

    fn cuGraphNodeGetType(node: Handle, kind: Out<c_uint>) {
        kind.set(with_node(node, |node| node.operation.node_type())?)
    }

    fn cuGraphKernelNodeSetParams(node: Handle, params: In<KernelNodeParams>) {
        set_kernel(node, params)
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelNodeParams>) {
        set_kernel(node, params)
    }

    fn cuGraphExecKernelNodeSetParams(
        executable: Handle, node: Handle, params: In<KernelNodeParams>,
    ) {
        let operation = params.get()?.operation()?;
        driver()?.executables.get(executable)?.replace(node, operation)
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        executable: Handle, node: Handle, params: In<KernelNodeParams>,
    ) {
        let operation = params.get()?.operation()?;
        driver()?.executables.get(executable)?.replace(node, operation)
    }

    fn cuGraphExecMemsetNodeSetParams(
        executable: Handle, node: Handle, params: In<MemsetNodeParams>, context: Handle,
    ) {
        super::context::find_or_current(context)?;
        let operation = params.get()?.operation()?;
        driver()?.executables.get(executable)?.replace(node, operation)
    }

    fn cuGraphExecMemcpyNodeSetParams(
        executable: Handle, node: Handle, params: In<Memcpy3d>, context: Handle,
    ) {
        super::context::find_or_current(context)?;
        let operation = Operation::Copy(params.get()?.copy()?);
        driver()?.executables.get(executable)?.replace(node, operation)
    }
}

fn set_kernel(node: Handle, params: In<KernelNodeParams>) -> Result {
    let operation = params.get()?.operation()?;
    with_node(node, |node| match node.operation {
        Operation::Kernel(_) => {
            node.operation = operation;
            Ok(())
        }
        _ => Err(Status::INVALID_VALUE),
    })?
}
