//! `call` of functions of the module, directly and through pointers.

use super::runtime;
use super::step::Step;
use super::warp::Warp;
use crate::memory::{LANES, lanes};
use crate::program::decoder::{Decoder, Unsupported, unfit};
use crate::program::module::function_at;
use crate::program::operands::Place;
use crate::program::{Decode, Execute, FrameCopy};
use crate::ptx::ast::{Instruction, Operand, Variable};
use crate::report::FindingKind;
use crate::sim::LaunchError;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("call", call)];

/// The operands of a call.
pub struct Call<'i> {
    /// Where results go.
    pub results: &'i [Operand],
    /// What is called.
    pub target: &'i Operand,
    /// Arguments.
    pub arguments: &'i [Operand],
}

fn call(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["uni"]);
    m.finish()?;
    let call = operands(&i.operands)?;
    match call.target {
        Operand::Function(name) => match d.symbols.callee(name) {
            Some(callee) => {
                let arguments = enter(d, &call, callee)?;
                Ok(Box::new(move |warp, mask| {
                    direct(warp, mask, callee, &arguments)
                }))
            }
            None => runtime::decode(d, name, &call),
        },
        Operand::Register(_) => indirect(d, &call),
        other => Err(unfit(other, "a function")),
    }
}

fn operands(all: &[Operand]) -> Result<Call<'_>, Unsupported> {
    let (results, rest) = match all {
        [Operand::List(results), rest @ ..] => (results.as_slice(), rest),
        _ => (&[][..], all),
    };
    let [target, rest @ ..] = rest else {
        return Err(Unsupported::new("no function"));
    };
    let arguments = match rest {
        [Operand::List(arguments), ..] => arguments.as_slice(),
        _ => &[],
    };
    Ok(Call {
        results,
        target,
        arguments,
    })
}

/// Offset in the frame of an argument or result, which has to be a `.param` variable.
pub fn frame_offset(d: &Decoder<'_>, operand: &Operand) -> Result<u32, Unsupported> {
    if let Operand::Variable(variable, offset) = operand
        && let Place::Frame(place) = d.symbols.place(*variable)
    {
        return Ok((place as i64 + offset) as u32);
    }
    Err(unfit(operand, "a .param variable"))
}

fn copies(
    d: &Decoder<'_>,
    operands: &[Operand],
    formal: &[Variable],
    offsets: &[u32],
) -> Result<Vec<FrameCopy>, Unsupported> {
    if operands.len() != formal.len() {
        return Err(Unsupported::new(
            "call with another number of parameters than declared",
        ));
    }
    let copy = |((operand, formal), &offset): ((&Operand, &Variable), &u32)| {
        Ok(FrameCopy {
            from: frame_offset(d, operand)?,
            to: offset,
            bytes: formal.size as u32,
        })
    };
    operands.iter().zip(formal).zip(offsets).map(copy).collect()
}

/// What is copied when `callee` is called; notes what is copied when it returns.
fn enter(d: &Decoder<'_>, call: &Call<'_>, callee: u32) -> Result<Vec<FrameCopy>, Unsupported> {
    let source = d.symbols.callee_source(callee);
    let (params, returns) = d.symbols.callee_frame(callee);
    let results = copies(d, call.results, &source.returns, returns)?;
    let back = |copy: FrameCopy| FrameCopy {
        from: copy.to,
        to: copy.from,
        ..copy
    };
    let results = results.into_iter().map(back).collect();
    d.results.borrow_mut().push((callee, results));
    copies(d, call.arguments, &source.params, params)
}

/// Calls `callee` for the lanes of `mask`.
fn direct(warp: &mut Warp<'_>, mask: u32, callee: u32, arguments: &[FrameCopy]) -> Step {
    let own = warp.program.functions[warp.state.function as usize].local;
    let (base, frame) = (
        warp.state.local_base,
        warp.program.functions[callee as usize].local,
    );
    let top = base + own;
    if top + frame > warp.launch.local_stride {
        let text = format!(
            "calls need more than the {} bytes of a thread's stack",
            warp.launch.local_stride
        );
        warp.find(FindingKind::OutOfBounds, text, mask.trailing_zeros(), None);
        return Step::Trap(LaunchError::IllegalAddress);
    }
    warp.clear_local(mask, top, frame);
    for copy in arguments {
        warp.copy_local(mask, base + copy.from, top + copy.to, copy.bytes);
    }
    warp.state.callers = mask;
    Step::Call(callee)
}

/// A call through a pointer: lanes with the pointer of the first one go, the others come back.
fn indirect(d: &Decoder<'_>, call: &Call<'_>) -> Result<Execute, Unsupported> {
    let pointer = d.source64(call.target)?;
    // Functions that the call's operands do not fit cannot be meant.
    let callees: Vec<_> = d
        .symbols
        .callees()
        .into_iter()
        .filter_map(|(index, callee)| Some((index, (callee, enter(d, call, callee).ok()?))))
        .collect();
    Ok(Box::new(move |warp, mask| {
        warp.check_defined(pointer, mask, "a function pointer");
        let pointers = *warp.read(pointer);
        let first = pointers[mask.trailing_zeros() as usize % LANES];
        let same = lanes(mask)
            .filter(|&l| pointers[l] == first)
            .fold(0, |m, l| m | 1 << l);
        let index = function_at(first);
        match callees.iter().find(|(known, _)| Some(*known) == index) {
            Some((_, (callee, arguments))) => direct(warp, same, *callee, arguments),
            None => {
                let text = format!("call of {first:#x}, which is no function of this type");
                warp.find(
                    FindingKind::Operand,
                    text,
                    mask.trailing_zeros(),
                    Some(first),
                );
                Step::Trap(LaunchError::LaunchFailed)
            }
        }
    }))
}
