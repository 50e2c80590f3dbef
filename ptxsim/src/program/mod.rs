//! The decoded program: each instruction is a closure over register slots.
//!
//! ```text
//! modifiers  the dot-separated parts of an opcode
//! constants  immediate operands, spread over the lanes
//! operands   syntax operands to slots, constants and addresses
//! decoder    what a family needs to turn an instruction into a closure
//! families   which module decodes which opcode
//! slots      virtual registers to register slots
//! liveness   which registers may share a slot
//! layout     parameters, shared memory and frames of a kernel
//! module     addresses and initial values of module variables
//! ```

pub mod constants;
pub mod decoder;
pub mod families;
pub mod layout;
pub mod liveness;
pub mod modifiers;
pub mod module;
pub mod operands;
pub mod slots;

use crate::exec::registers::{Predicate, Row};
use crate::exec::step::Step;
use crate::exec::warp::Warp;
use crate::ptx::ast::{Directives, Instruction};
use decoder::{Decoder, Unsupported};
use std::sync::Arc;

/// Executes an instruction in the lanes of a mask, which is never 0.
pub type Execute = Box<dyn Fn(&mut Warp<'_>, u32) -> Step + Send + Sync>;

/// Decodes an instruction of a family.
pub type Decode = fn(&Decoder<'_>, &Instruction) -> Result<Execute, Unsupported>;

/// A decoded instruction.
pub struct Decoded {
    /// `@p` or `@!p`.
    pub guard: Option<Predicate>,
    /// What it does.
    pub execute: Execute,
}

/// Where an instruction comes from.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// Line in the PTX text.
    pub line: u32,
    /// File number and line in the CUDA source.
    pub source: Option<(u32, u32)>,
    /// Index of its function.
    pub function: u32,
}

/// Register slots and local memory that a call of a function takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Frame {
    /// Slots of up to 32 bits.
    pub words: u32,
    /// 64-bit slots.
    pub longs: u32,
    /// Predicate slots.
    pub predicates: u32,
    /// Bytes of local memory for each lane.
    pub local: u32,
}

/// A function's code.
#[derive(Debug, Clone)]
pub struct Function {
    /// Symbol.
    pub name: String,
    /// First instruction.
    pub entry: u32,
    /// What a call of it takes.
    pub frame: Frame,
    /// Offset and size in the frame of its parameters.
    pub params: Vec<(u32, u32)>,
    /// Offset and size in the frame of its return values.
    pub returns: Vec<(u32, u32)>,
}

/// The code of a module.
pub struct Program {
    /// Instructions of all functions, one function after the other.
    pub code: Vec<Decoded>,
    /// Where each comes from.
    pub sites: Vec<Site>,
    /// Functions with a body.
    pub functions: Vec<Function>,
    /// `.file` names.
    pub files: Vec<(u32, String)>,
    /// Constants of up to 32 bits, in all lanes.
    pub words: Arc<Vec<Row<u32>>>,
    /// 64-bit constants, in all lanes.
    pub longs: Arc<Vec<Row<u64>>>,
}

impl Program {
    /// Where the instruction with index `pc` comes from.
    pub fn site(&self, pc: u32) -> Site {
        self.sites[pc as usize]
    }

    /// Name of a source file by its number.
    pub fn file(&self, number: u32) -> String {
        let known = self.files.iter().find(|(n, _)| *n == number);
        known.map_or_else(|| format!("file {number}"), |(_, name)| name.clone())
    }
}

/// A kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Symbol.
    pub name: String,
    /// Index in [`Program::functions`].
    pub function: u32,
    /// Offset and size of each parameter.
    pub params: Vec<(u32, u32)>,
    /// Bytes of all parameters.
    pub param_bytes: u32,
    /// Static shared memory in bytes.
    pub static_shared: u32,
    /// Local memory of a thread in bytes, calls left out.
    pub local_bytes: u32,
    /// Launch bounds and cluster directives.
    pub directives: Directives,
}
