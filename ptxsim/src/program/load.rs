//! A kernel and the functions that it calls, decoded to a program.

use super::decoder::{Decoder, Pool, Symbols, Unsupported};
use super::flow::flow_of;
use super::layout::KernelLayout;
use super::module::{Globals, function_address};
use super::operands::Place;
use super::slots::Slots;
use super::{Decoded, Function, Program, Site, families};
use crate::exec::registers::Predicate;
use crate::exec::step::Step;
use crate::exec::wgmma::tracked::Tracked;
use crate::ptx::ast::{self, Instruction, Module, Space, VariableRef};
use crate::sim::Arch;
use std::fmt;
use std::sync::Arc;

/// An instruction that cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedInstruction {
    /// Opcode.
    pub opcode: String,
    /// Line in the PTX text.
    pub line: u32,
    /// Function that it is in.
    pub function: String,
    /// Kernel that was decoded.
    pub kernel: String,
    /// What about it is not supported.
    pub reason: String,
}

impl fmt::Display for UnsupportedInstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnsupportedInstruction {
            opcode,
            line,
            function,
            kernel,
            reason,
        } = self;
        write!(
            f,
            "kernel {kernel}: line {line} of the PTX: {opcode} is not supported: {reason}"
        )?;
        if function != kernel {
            write!(f, " (in function {function})")?;
        }
        Ok(())
    }
}

/// Addresses as one function of a kernel sees them.
struct KernelSymbols<'a> {
    module: &'a Module,
    layout: &'a KernelLayout,
    globals: &'a Globals,
    /// Position of the function in the layout.
    position: usize,
}

impl KernelSymbols<'_> {
    fn function(&self) -> &ast::Function {
        &self.module.functions[self.layout.functions[self.position] as usize]
    }
}

impl Symbols for KernelSymbols<'_> {
    fn place(&self, variable: VariableRef) -> Place {
        let frame = &self.layout.frames[self.position];
        match variable {
            VariableRef::Module(index) => match self.module.variables[index as usize].space {
                Space::Shared => {
                    let offset = self.layout.module_shared.get(&index).copied();
                    Place::Shared(offset.unwrap_or_default().into())
                }
                _ => Place::Global(self.globals.address(index).unwrap_or_default()),
            },
            VariableRef::Function(index) => {
                let offset = frame.variables[index as usize].into();
                match self.function().variables[index as usize].space {
                    Space::Shared => Place::Shared(offset),
                    _ => Place::Frame(offset),
                }
            }
            VariableRef::Param(index) => {
                let offset = frame.params[index as usize].into();
                if self.function().is_entry {
                    Place::Param(offset)
                } else {
                    Place::Frame(offset)
                }
            }
            VariableRef::Return(index) => Place::Frame(frame.returns[index as usize].into()),
        }
    }

    fn callee(&self, name: &str) -> Option<u32> {
        let functions = self.layout.functions.iter();
        let named = |&index: &u32| {
            let function = &self.module.functions[index as usize];
            function.name == name && function.has_body
        };
        functions
            .copied()
            .position(|index| named(&index))
            .map(|position| position as u32)
    }

    fn callee_frame(&self, callee: u32) -> (&[u32], &[u32]) {
        let frame = &self.layout.frames[callee as usize];
        (&frame.params, &frame.returns)
    }

    fn callee_source(&self, callee: u32) -> &ast::Function {
        &self.module.functions[self.layout.functions[callee as usize] as usize]
    }

    fn callees(&self) -> Vec<(u32, u32)> {
        self.layout
            .functions
            .iter()
            .copied()
            .zip(0..)
            .skip(1)
            .collect()
    }

    fn function_address(&self, name: &str) -> Option<u64> {
        let index = self.module.functions.iter().position(|f| f.name == name)?;
        Some(function_address(index as u32))
    }
}

/// Decodes the kernel that `layout` belongs to.
///
/// # Errors
/// The first instruction that is not supported.
pub fn load(
    module: &Module,
    layout: &KernelLayout,
    globals: &Globals,
    arch: Arch,
) -> Result<Program, UnsupportedInstruction> {
    let pool = Pool::default();
    let kernel = &module.functions[layout.functions[0] as usize].name;
    let mut program = Program {
        code: Vec::new(),
        sites: Vec::new(),
        functions: Vec::new(),
        results: Default::default(),
        files: module.files.clone(),
        words: Arc::default(),
        longs: Arc::default(),
    };
    let mut tracked_registers = 0;
    for (position, &source) in layout.functions.iter().enumerate() {
        let function = &module.functions[source as usize];
        let symbols = KernelSymbols {
            module,
            layout,
            globals,
            position,
        };
        let slots = Slots::assign(function);
        let entry = program.code.len() as u32;
        let mut decoder = Decoder {
            module,
            function,
            slots: &slots,
            symbols: &symbols,
            entry,
            pool: &pool,
            arch,
            key: "",
            results: Default::default(),
        };
        let tracked = Tracked::of(function, tracked_registers);
        tracked_registers += tracked.as_ref().map_or(0, Tracked::count);
        for (index, instruction) in function.body.iter().enumerate() {
            let mut decoded =
                decode(&mut decoder, instruction).map_err(|error| UnsupportedInstruction {
                    opcode: instruction.opcode.clone(),
                    line: instruction.line,
                    function: function.name.clone(),
                    kernel: kernel.clone(),
                    reason: error.to_string(),
                })?;
            if let Some(tracked) = &tracked {
                let flow = flow_of(function, index);
                decoded.execute =
                    tracked.guard(instruction, &flow.reads, &flow.writes, decoded.execute);
            }
            let results = decoder.results.take();
            for (callee, copies) in results {
                program
                    .results
                    .insert((program.code.len() as u32, callee), copies);
            }
            program.push(decoded, instruction);
        }
        program.end_function(function);
        program.functions.push(Function {
            name: function.name.clone(),
            entry,
            slots: slots.counts,
            local: layout.frames[position].bytes.next_multiple_of(16),
            source,
        });
    }
    program.words = Arc::new(pool.words.into_inner().into_rows());
    program.longs = Arc::new(pool.longs.into_inner().into_rows());
    Ok(program)
}

impl Program {
    fn push(&mut self, decoded: Decoded, instruction: &Instruction) {
        self.code.push(decoded);
        self.sites.push(Site {
            line: instruction.line,
            source: instruction.source.map(|(file, line, _)| (file, line)),
        });
    }

    /// Control that runs off the end of a function returns.
    fn end_function(&mut self, function: &ast::Function) {
        let last = function.body.last();
        self.code.push(Decoded {
            guard: None,
            execute: Box::new(|_, _| Step::Return),
        });
        self.sites.push(Site {
            line: last.map_or(0, |i| i.line),
            source: last
                .and_then(|i| i.source)
                .map(|(file, line, _)| (file, line)),
        });
    }
}

fn decode(decoder: &mut Decoder<'_>, instruction: &Instruction) -> Result<Decoded, Unsupported> {
    let entry =
        families::find(&instruction.opcode).ok_or_else(|| Unsupported::new("unknown opcode"))?;
    decoder.key = entry.key;
    let guard = instruction
        .guard
        .map(|g| Predicate::slot(decoder.slot(g.register), g.negated));
    Ok(Decoded {
        guard,
        execute: (entry.decode)(decoder, instruction)?,
    })
}
