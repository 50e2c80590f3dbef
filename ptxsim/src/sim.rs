//! The facade: what the driver needs of the simulator.

use crate::checks::{Findings, GlobalRaces, Sources};
use crate::exec::grid::Grid;
use crate::exec::launch::Launch;
use crate::exec::runtime::Heap;
use crate::memory::{Buffer, Memory};
use crate::program::Program;
use crate::program::layout::KernelLayout;
use crate::program::load::load;
use crate::program::module::{Globals, LinkError};
use crate::ptx;
use crate::ptx::ast::{Directives, Space};
use crate::report::{Counters, LaunchReport};
use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

/// A simulated architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arch {
    /// Compute capability 8.0.
    #[default]
    Sm80,
    /// Compute capability 9.0 with its architecture-specific instructions.
    Sm90a,
}

/// Which checks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Checks {
    /// None but the bounds without which execution would be unsafe.
    Off,
    /// Bounds, alignment, lifetime, initialisation.
    Memory,
    /// All.
    #[default]
    All,
}

/// Shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; all ones without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// All blocks are resident together.
    pub cooperative: bool,
}

/// Why a launch failed, as the driver reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchError {
    /// Bad shape or parameter.
    InvalidValue,
    /// More threads, registers or shared memory than a block may have.
    OutOfResources,
    /// Access outside live memory.
    IllegalAddress,
    /// Misaligned access.
    MisalignedAddress,
    /// `trap` and other failures of the kernel.
    LaunchFailed,
    /// Failed device assertion.
    Assert,
    /// Deadlock.
    Timeout,
}

/// Result of a launch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Counters and findings, also where the launch failed.
    pub report: LaunchReport,
    /// What the driver returns.
    pub result: Result<(), LaunchError>,
}

/// A module cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// The text is not PTX.
    Syntax(String),
    /// An instruction or directive is not supported.
    Unsupported(String),
    /// A symbol is declared and not defined.
    Unresolved(String),
    /// No device memory for the module's variables.
    OutOfMemory(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Syntax(text)
            | LoadError::Unsupported(text)
            | LoadError::Unresolved(text)
            | LoadError::OutOfMemory(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for LoadError {}

/// What is known of a kernel before its launch.
#[derive(Debug, Clone)]
pub struct KernelInfo {
    /// Symbol.
    pub name: String,
    /// Offset and size in bytes of each parameter.
    pub params: Vec<(u32, u32)>,
    /// Bytes of all parameters.
    pub param_bytes: u32,
    /// Static shared memory in bytes.
    pub static_shared: u32,
    /// Local memory of a thread in bytes.
    pub local_bytes: u32,
    /// Constant memory of the module in bytes.
    pub const_bytes: u32,
    /// Register slots of 32 bits that a thread takes: an estimate of what ptxas would allocate.
    pub registers: u32,
    /// Launch bounds and cluster directives.
    pub directives: Directives,
    /// PTX version times ten.
    pub ptx_version: u32,
    /// The simulated architecture.
    pub arch: Arch,
}

/// A kernel, ready to launch.
pub struct Kernel {
    info: KernelInfo,
    program: Program,
    /// Bytes of shared memory that are the system's.
    reserved_shared: u32,
    /// Offset of dynamic shared memory.
    dynamic_base: u32,
    /// Bytes of local memory for each thread, calls included.
    local_stride: u32,
    /// CUDA source lines of PTX lines.
    sources: Sources,
    heap: Option<Arc<Heap>>,
}

impl Kernel {
    /// What is known of it before its launch.
    pub fn info(&self) -> &KernelInfo {
        &self.info
    }
}

/// A loaded module. Dropping it frees its variables.
pub struct Module {
    globals: Globals,
    kernels: Vec<Arc<Kernel>>,
}

impl Module {
    /// Parses, links and decodes PTX text.
    ///
    /// # Errors
    /// When the text is malformed, or has an instruction that is not supported.
    pub fn load(text: &str, arch: Arch, memory: &Arc<Memory>) -> Result<Module, LoadError> {
        let ast = ptx::parse(text).map_err(|e| LoadError::Syntax(e.to_string()))?;
        let globals = Globals::allocate(&ast, memory.clone()).map_err(|e| match e {
            LinkError::Unresolved(_) => LoadError::Unresolved(e.to_string()),
            LinkError::OutOfMemory { .. } => LoadError::OutOfMemory(e.to_string()),
            LinkError::Unsupported(_) => LoadError::Unsupported(e.to_string()),
        })?;
        let entries = ast
            .functions
            .iter()
            .zip(0..)
            .filter(|(f, _)| f.is_entry && f.has_body);
        let allocates = ast
            .functions
            .iter()
            .any(|f| f.name == "malloc" && !f.has_body);
        let heap = allocates.then(|| Heap::new(memory)).flatten().map(Arc::new);
        let kernels = entries.map(|(_, index)| load_kernel(&ast, index, &globals, arch, &heap));
        Ok(Module {
            kernels: kernels.collect::<Result<_, _>>()?,
            globals,
        })
    }

    /// A kernel by its symbol.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels
            .iter()
            .find(|kernel| kernel.info.name == name)
            .cloned()
    }

    /// Symbols of all kernels, in the order of the text.
    pub fn kernel_names(&self) -> Vec<&str> {
        self.kernels
            .iter()
            .map(|kernel| kernel.info.name.as_str())
            .collect()
    }

    /// Address and size in bytes of a variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.find(name)
    }
}

fn load_kernel(
    ast: &ptx::ast::Module,
    entry: u32,
    globals: &Globals,
    arch: Arch,
    heap: &Option<Arc<Heap>>,
) -> Result<Arc<Kernel>, LoadError> {
    let function = &ast.functions[entry as usize];
    let too_large = |_| {
        LoadError::Unsupported(format!(
            "kernel {}: its variables are too large",
            function.name
        ))
    };
    let layout = KernelLayout::of(ast, entry).map_err(too_large)?;
    let program =
        load(ast, &layout, globals, arch).map_err(|e| LoadError::Unsupported(e.to_string()))?;
    let params = function.params.iter().zip(&layout.frames[0].params);
    let constants = ast.variables.iter().filter(|v| v.space == Space::Const);
    let slots = program.functions[0].slots;
    let info = KernelInfo {
        name: function.name.clone(),
        params: params
            .map(|(param, &offset)| (offset, param.size as u32))
            .collect(),
        param_bytes: layout.param_bytes,
        static_shared: layout.static_shared,
        local_bytes: layout.frames[0].bytes,
        const_bytes: constants
            .map(|v| v.size as u32)
            .fold(0, u32::saturating_add),
        registers: (slots.words + 2 * slots.longs).clamp(1, 255),
        directives: function.directives.clone(),
        ptx_version: ast.version.0 * 10 + ast.version.1,
        arch,
    };
    Ok(Arc::new(Kernel {
        info,
        reserved_shared: layout.reserved_shared,
        dynamic_base: layout.dynamic_base,
        local_stride: local_stride(&program),
        sources: sources(&program),
        heap: heap.clone(),
        program,
    }))
}

/// Where the PTX lines of a program come from.
fn sources(program: &Program) -> Sources {
    let known = program
        .sites
        .iter()
        .filter_map(|site| Some((site.line, site.source?)));
    let lines: HashMap<u32, (u32, u32)> = known.collect();
    let files: HashMap<u32, String> = program.files.iter().cloned().collect();
    Arc::new(move |ptx_line| {
        let (file, line) = lines.get(&ptx_line)?;
        Some((files.get(file)?.clone(), *line))
    })
}

/// Local memory that calls may need beyond one frame of each function, in bytes.
const RECURSION_BYTES: u32 = 8192;
/// Bytes of what a cooperative grid synchronises through. Cooperative groups use the first 8: a
/// size and a counter.
const GRID_WORKSPACE_BYTES: u64 = 64;

/// Local memory of a thread: a frame of each function, and some more where functions are called,
/// since calls may be recursive.
fn local_stride(program: &Program) -> u32 {
    let frames = program
        .functions
        .iter()
        .map(|f| f.local)
        .fold(0, u32::saturating_add);
    let recursion = if program.functions.len() > 1 {
        RECURSION_BYTES
    } else {
        0
    };
    frames.saturating_add(recursion)
}

/// Executes a kernel. `params` holds its parameters at their offsets. The shape is taken to fit
/// the device.
pub fn launch(
    memory: &Memory,
    kernel: &Kernel,
    config: &LaunchConfig,
    params: &[u8],
    checks: Checks,
) -> Outcome {
    let workspace = config
        .cooperative
        .then(|| memory.register_module_memory("the grid's workspace", GRID_WORKSPACE_BYTES, &[]));
    let workspace = workspace.flatten();
    let view = memory.snapshot();
    let shared_bytes = match config.dynamic_shared {
        0 => kernel.reserved_shared + kernel.info.static_shared,
        dynamic => kernel.dynamic_base.saturating_add(dynamic),
    };
    let mut launch = Launch {
        kernel: kernel.info.name.clone(),
        config: *config,
        checks,
        local_stride: kernel.local_stride,
        shared_bytes,
        reserved_shared: kernel.reserved_shared,
        counters: Counters {
            shared_bytes_per_block: (shared_bytes - kernel.reserved_shared).into(),
            ..Counters::default()
        },
        findings: Findings::new(&kernel.info.name, kernel.sources.clone()),
        global_races: (checks == Checks::All && config.grid != [1; 3]).then(GlobalRaces::new),
        directives: kernel.info.directives.clone(),
        printed: String::new(),
        heap: kernel.heap.clone(),
        grid_workspace: workspace.unwrap_or(0),
        effects: 0,
    };
    let result = match Buffer::untracked(kernel.info.param_bytes as usize, 0) {
        Some(buffer) if params.len() == buffer.len() => {
            buffer.span().write(0, params);
            Grid {
                program: &kernel.program,
                view: &view,
                params: &buffer,
            }
            .run(&mut launch)
        }
        Some(_) => Err(LaunchError::InvalidValue),
        None => Err(LaunchError::OutOfResources),
    };
    if let Some(workspace) = workspace {
        // It is live: nobody else knows its address.
        let _ = memory.free(workspace);
    }
    // As on a device, nobody learns when standard output is closed.
    let _ = std::io::stdout().write_all(launch.printed.as_bytes());
    let report = LaunchReport {
        kernel: launch.kernel,
        grid: config.grid,
        block: config.block,
        counters: launch.counters,
        findings: launch.findings.into_list(),
    };
    Outcome { report, result }
}
