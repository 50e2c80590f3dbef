//! State of warpgroups: four consecutive warps that issue `wgmma` and `setmaxnreg` together.

use crate::tensor::product::{OperandA, OperandB};
use std::collections::VecDeque;
use std::sync::Arc;

/// Warps of a warpgroup.
pub const WARPS: u32 = 4;

/// What a warp keeps.
#[derive(Debug, Default)]
pub struct WarpPart {
    /// `wgmma.mma_async` instructions issued.
    pub issued: u64,
    /// Groups committed.
    pub committed: u32,
    /// Groups known to be complete: they and all before them.
    pub completed: u32,
    /// `wgmma.fence` instructions executed.
    pub fences: u32,
    /// Registers that `wgmma` uses, by the number that [`Tracked`](super::wgmma::tracked::Tracked)
    /// gave them.
    pub registers: Vec<RegisterUse>,
    /// `setmaxnreg` instructions executed.
    pub limit_changes: usize,
    /// Registers of a thread, once `setmaxnreg` has changed them.
    pub register_limit: Option<u32>,
}

/// Who uses a register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegisterUse {
    /// Last group of which it is an accumulator; 0 for none.
    pub accumulator_of: u32,
    /// n and k of that group's product.
    pub shape: (usize, usize),
    /// Last group that reads it as a fragment of A; 0 for none.
    pub fragment_of: u32,
    /// One more than the fences executed before its last ordinary access; 0 for no access.
    pub accessed: u32,
}

/// What the warps of a block share.
#[derive(Debug, Default)]
pub struct BlockPart {
    /// By number of the warpgroup; as many as were met.
    pub groups: Vec<Warpgroup>,
    /// Registers that `setmaxnreg.dec` has released and `.inc` may take.
    pub free_registers: u32,
}

/// What the four warps share.
#[derive(Debug, Default)]
pub struct Warpgroup {
    /// Operands of the instructions that some warp has issued and another has not.
    operands: VecDeque<Arc<Operands>>,
    /// Which warps have issued each of them.
    issued_by: VecDeque<u32>,
    /// Instructions issued by all warps.
    finished: u64,
    /// Groups committed by the warp that is ahead.
    pub committed: u32,
    /// Instruction index of each `setmaxnreg`, in the order of their execution.
    pub limit_changes: Vec<u32>,
}

/// Operands in shared memory of one `wgmma`, as the first warp to issue it found them. The four
/// warps issue it as one instruction: what the first one sees is what all compute with, even when
/// it is so far ahead that the memory is reused before the last one comes.
#[derive(Debug)]
pub struct Operands {
    /// Index of the instruction.
    pub pc: u32,
    /// Descriptors of A, 0 for registers, and of B.
    pub descriptors: [u64; 2],
    /// The four warps' rows of A, unless A is in registers.
    pub a: Option<[OperandA; 4]>,
    /// B.
    pub b: OperandB,
}

impl BlockPart {
    /// The warpgroup of a warp.
    pub fn group(&mut self, warp: u32) -> &mut Warpgroup {
        let index = (warp / WARPS) as usize;
        if self.groups.len() <= index {
            self.groups.resize_with(index + 1, Warpgroup::default);
        }
        &mut self.groups[index]
    }
}

impl Warpgroup {
    /// The operands of instruction number `number`, where a warp has issued it already.
    pub fn operands(&self, number: u64) -> Option<Arc<Operands>> {
        self.operands
            .get((number - self.finished) as usize)
            .cloned()
    }

    /// Adds the operands of the next instruction that none has issued.
    pub fn add(&mut self, operands: Arc<Operands>) {
        self.operands.push_back(operands);
        self.issued_by.push_back(0);
    }

    /// Notes that `warp` has issued instruction number `number`.
    pub fn issue(&mut self, warp: u32, number: u64) {
        self.issued_by[(number - self.finished) as usize] |= 1 << (warp % WARPS);
        while self.issued_by.front() == Some(&0b1111) {
            self.issued_by.pop_front();
            self.operands.pop_front();
            self.finished += 1;
        }
    }
}
