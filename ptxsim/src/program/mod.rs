//! The decoded program: each instruction is a closure over register slots.
//!
//! ```text
//! module     addresses and initial values of the module's variables
//! layout     parameters, shared memory and frames of a kernel
//! flow       what an instruction reads and writes, and where it goes
//! liveness   registers that are never live together share a slot
//! slots      virtual registers to register slots
//! modifiers  the dot-separated parts of an opcode
//! constants  immediate operands, spread over the lanes
//! operands   syntax operands to slots, constants and addresses
//! decoder    what a family needs to turn an instruction into a closure
//! families   which module decodes which opcode
//! load       a kernel and the functions it calls to a program
//! ```

pub mod constants;
pub mod decoder;
pub mod families;
pub mod flow;
pub mod layout;
pub mod liveness;
pub mod load;
pub mod modifiers;
pub mod module;
pub mod operands;
pub mod slots;

use crate::exec::registers::{FrameBase, Predicate, Row};
use crate::exec::step::Step;
use crate::exec::warp::Warp;
use crate::ptx::ast::Instruction;
use decoder::{Decoder, Unsupported};
use std::collections::HashMap;
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
}

/// A function's code.
#[derive(Debug, Clone)]
pub struct Function {
    /// Symbol.
    pub name: String,
    /// First instruction.
    pub entry: u32,
    /// Register slots that a call of it takes.
    pub slots: FrameBase,
    /// Bytes of local memory that a call of it takes in each lane.
    pub local: u32,
    /// Index in the module's functions.
    pub source: u32,
}

/// Bytes to copy between the frames of a caller and of the function called.
#[derive(Debug, Clone, Copy)]
pub struct FrameCopy {
    /// Offset in the frame read.
    pub from: u32,
    /// Offset in the frame written.
    pub to: u32,
    /// Bytes.
    pub bytes: u32,
}

/// The code of a kernel and of the functions that it calls.
pub struct Program {
    /// Instructions of all functions, the kernel's first.
    pub code: Vec<Decoded>,
    /// Where each comes from.
    pub sites: Vec<Site>,
    /// Functions, the kernel first.
    pub functions: Vec<Function>,
    /// What a call copies back when its function returns, by the index of the call instruction and
    /// of the function.
    pub results: HashMap<(u32, u32), Vec<FrameCopy>>,
    /// `.file` names by their number.
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
}
