//! Registers of unfinished `wgmma`s that other instructions touch (PTX ISA 9.7.15.7).
//!
//! - Between an ordinary access to a register and a `wgmma` that uses it stands a `wgmma.fence`.
//! - An accumulator is left alone, and a fragment of A is not written, until `wgmma.wait_group` has
//!   waited for its group. Products of the same shape may follow each other on the same
//!   accumulators.
//!
//! A `mov` from register to register is no access but a new name: nvcc writes many between the
//! products of a chain, where an accumulator is input and output of inline assembly.
//!
//! Only functions with `wgmma`, and in them only the instructions that name such a register, pay.

use crate::exec::step::Step;
use crate::exec::warp::Warp;
use crate::exec::warpgroup::{RegisterUse, WarpPart};
use crate::program::Execute;
use crate::ptx::ast::{Function, Instruction, Operand, RegId};
use crate::report::FindingKind;
use crate::sim::Checks;
use std::collections::HashMap;

/// Numbers of the registers of a function that `wgmma` uses, directly or through `mov`.
#[derive(Debug)]
pub struct Tracked {
    numbers: HashMap<RegId, usize>,
}

impl Tracked {
    /// The tracked registers of a function, numbered from `base`; `None` where it has no `wgmma`.
    pub fn of(function: &Function, base: usize) -> Option<Tracked> {
        let mut numbers = HashMap::new();
        for instruction in function.body.iter().filter(|i| is_wgmma(i)) {
            let operands = instruction.operands.iter().take(2);
            for register in operands.flat_map(vector_registers) {
                let next = base + numbers.len();
                numbers.entry(register).or_insert(next);
            }
        }
        let moves: Vec<[RegId; 2]> = function.body.iter().filter_map(renaming).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for &[to, from] in &moves {
                if numbers.contains_key(&to) != numbers.contains_key(&from) {
                    let next = base + numbers.len();
                    numbers.entry(to).or_insert(next);
                    numbers.entry(from).or_insert(next);
                    changed = true;
                }
            }
        }
        (!numbers.is_empty()).then_some(Tracked { numbers })
    }

    /// Registers tracked.
    pub fn count(&self) -> usize {
        self.numbers.len()
    }

    /// Wraps a decoded instruction that reads and writes these registers in its checks.
    pub fn guard(
        &self,
        instruction: &Instruction,
        reads: &[RegId],
        writes: &[RegId],
        execute: Execute,
    ) -> Execute {
        let numbers = |registers: &[RegId]| -> Vec<usize> {
            registers
                .iter()
                .filter_map(|register| self.numbers.get(register).copied())
                .collect()
        };
        if is_wgmma(instruction) {
            let registers = |index: usize| -> Vec<RegId> {
                instruction
                    .operands
                    .get(index)
                    .map(vector_registers)
                    .unwrap_or_default()
            };
            return product(
                numbers(&registers(0)),
                numbers(&registers(1)),
                shape(&instruction.opcode),
                execute,
            );
        }
        if let Some(pair) = renaming(instruction) {
            return match numbers(&pair)[..] {
                [to, from] => renamed(to, from, execute),
                _ => execute,
            };
        }
        let constant_move = instruction.opcode.starts_with("mov.") && reads.is_empty();
        let (reads, writes) = (numbers(reads), numbers(writes));
        match (reads.is_empty() && writes.is_empty(), constant_move) {
            (true, _) => execute,
            (_, true) => defined_anew(writes, execute),
            _ => accessed(reads, writes, execute),
        }
    }
}

fn is_wgmma(instruction: &Instruction) -> bool {
    instruction.opcode.starts_with("wgmma.mma_async")
}

/// n and k of the opcode's shape.
fn shape(opcode: &str) -> (usize, usize) {
    let sizes = opcode
        .split('.')
        .find_map(|part| part.strip_prefix("m64n")?.split_once('k'));
    let number = |text: &str| text.parse().unwrap_or(0);
    sizes.map_or((0, 0), |(n, k)| (number(n), number(k)))
}

/// The registers of `{a, b}`.
fn vector_registers(operand: &Operand) -> Vec<RegId> {
    let Operand::Vector(elements) = operand else {
        return Vec::new();
    };
    let register = |element: &Operand| match element {
        Operand::Register(register) => Some(*register),
        _ => None,
    };
    elements.iter().filter_map(register).collect()
}

/// Destination and source of a `mov` between two registers.
fn renaming(instruction: &Instruction) -> Option<[RegId; 2]> {
    match instruction.operands[..] {
        [Operand::Register(to), Operand::Register(from)]
            if instruction.opcode.starts_with("mov.") && instruction.guard.is_none() =>
        {
            Some([to, from])
        }
        _ => None,
    }
}

fn is_checked(warp: &Warp<'_>) -> bool {
    warp.launch.checks == Checks::All
}

fn state(part: &mut WarpPart, number: usize) -> &mut RegisterUse {
    if part.registers.len() <= number {
        part.registers.resize(number + 1, RegisterUse::default());
    }
    &mut part.registers[number]
}

fn report(warp: &mut Warp<'_>, message: &str) {
    warp.find(FindingKind::AsyncRegister, message.to_owned(), 0, None);
}

/// Checks a product's registers and notes that it uses them.
fn product(d: Vec<usize>, a: Vec<usize>, shape: (usize, usize), execute: Execute) -> Execute {
    Box::new(move |warp, mask| {
        let step = execute(warp, mask);
        if step != Step::Next || !is_checked(warp) {
            return step;
        }
        let part = &mut warp.state.warpgroup;
        let (completed, group, now) = (part.completed, part.committed + 1, part.fences + 1);
        let mut problem = None;
        for &number in &d {
            let register = state(part, number);
            if register.fragment_of > completed {
                problem = Some("an accumulator is a fragment of A of an unfinished wgmma");
            } else if register.accumulator_of > completed && register.shape != shape {
                problem = Some("an accumulator belongs to an unfinished wgmma of another shape");
            } else if register.accessed == now {
                problem = Some("an accumulator was accessed after the last wgmma.fence");
            }
            *register = RegisterUse {
                accumulator_of: group,
                shape,
                ..*register
            };
        }
        for &number in &a {
            let register = state(part, number);
            if register.accumulator_of > completed {
                problem = Some("a fragment of A is an accumulator of an unfinished wgmma");
            } else if register.accessed == now {
                problem = Some("a fragment of A was accessed after the last wgmma.fence");
            }
            register.fragment_of = group;
        }
        if let Some(problem) = problem {
            report(warp, problem);
        }
        step
    })
}

/// A `mov`: the destination stands for what the source stood for.
fn renamed(to: usize, from: usize, execute: Execute) -> Execute {
    Box::new(move |warp, mask| {
        let part = &mut warp.state.warpgroup;
        let register = *state(part, from);
        *state(part, to) = register;
        execute(warp, mask)
    })
}

/// A `mov` of a constant: nothing of what was remains.
fn defined_anew(writes: Vec<usize>, execute: Execute) -> Execute {
    Box::new(move |warp, mask| {
        for &number in &writes {
            *state(&mut warp.state.warpgroup, number) = RegisterUse::default();
        }
        execute(warp, mask)
    })
}

/// Any other instruction.
fn accessed(reads: Vec<usize>, writes: Vec<usize>, execute: Execute) -> Execute {
    Box::new(move |warp, mask| {
        if is_checked(warp) {
            let part = &mut warp.state.warpgroup;
            let (completed, now) = (part.completed, part.fences + 1);
            let mut problem = None;
            for &number in &reads {
                let register = state(part, number);
                if register.accumulator_of > completed {
                    problem = Some("an accumulator of an unfinished wgmma is read");
                }
                register.accessed = now;
            }
            for &number in &writes {
                let register = state(part, number);
                if register.accumulator_of > completed {
                    problem = Some("an accumulator of an unfinished wgmma is written");
                } else if register.fragment_of > completed {
                    problem = Some("a fragment of A of an unfinished wgmma is written");
                }
                *register = RegisterUse {
                    accessed: now,
                    ..RegisterUse::default()
                };
            }
            if let Some(problem) = problem {
                report(warp, problem);
            }
        }
        execute(warp, mask)
    })
}
