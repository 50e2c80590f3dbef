//! `bra`, `brx.idx`, `ret`, `exit`, `trap`, `nanosleep` and instructions without an effect here.

use super::step::Step;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported, unfit};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand};
use crate::report::FindingKind;
use crate::sim::LaunchError;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("bra", bra),
    ("brx.idx", brx),
    ("ret", ret),
    ("exit", exit),
    ("trap", trap),
    ("brkpt", trap),
    ("nanosleep", nanosleep),
    ("prefetch", nothing),
    ("prefetchu", nothing),
    ("discard", nothing),
    ("applypriority", nothing),
    ("pmevent", nothing),
    ("createpolicy", createpolicy),
];

fn bra(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["uni"]);
    m.finish()?;
    let Operand::Label(label) = d.operand(i, 0)? else {
        return Err(unfit(d.operand(i, 0)?, "a label"));
    };
    let target = d.target(*label);
    Ok(Box::new(move |_, _| Step::Jump(target)))
}

fn brx(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["uni"]);
    m.finish()?;
    let index = d.source32(d.operand(i, 0)?)?;
    let Operand::BranchTable(table) = d.operand(i, 1)? else {
        return Err(unfit(d.operand(i, 1)?, "a list of targets"));
    };
    let labels = &d.function.branch_tables[*table as usize];
    let targets: Vec<u32> = labels.iter().map(|&label| d.target(label)).collect();
    Ok(Box::new(move |warp, mask| {
        warp.check_defined(index, mask, "the index of a branch");
        let indices = *warp.read(index);
        let bad = (0..LANES).find(|&l| mask >> l & 1 != 0 && indices[l] as usize >= targets.len());
        if let Some(lane) = bad {
            let text = format!("branch {} of {} targets", indices[lane], targets.len());
            warp.find(FindingKind::Operand, text, lane as u32, None);
            return Step::Trap(LaunchError::LaunchFailed);
        }
        let target = |lane: usize| {
            targets
                .get(indices[lane] as usize)
                .copied()
                .unwrap_or_default()
        };
        warp.state.targets = std::array::from_fn(target);
        Step::Scatter
    }))
}

fn ret(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["uni"]);
    m.finish()?;
    Ok(Box::new(|_, _| Step::Return))
}

fn exit(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    Ok(Box::new(|_, _| Step::Exit))
}

fn trap(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    Ok(Box::new(|warp, mask| {
        warp.find(
            FindingKind::Trap,
            "the kernel trapped".into(),
            mask.trailing_zeros(),
            None,
        );
        Step::Trap(LaunchError::LaunchFailed)
    }))
}

/// Time does not pass, but others get their turn.
fn nanosleep(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ty()?;
    m.finish()?;
    Ok(Box::new(|_, _| Step::Yield))
}

/// Hints to caches and profilers.
fn nothing(_: &Decoder<'_>, _: &Instruction) -> Result<Execute, Unsupported> {
    Ok(Box::new(|_, _| Step::Next))
}

/// Cache policies are opaque and without an effect; 0 stands for each.
fn createpolicy(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let dest = d.dest::<u64>(d.operand(i, 0)?)?;
    Ok(Box::new(move |warp, mask| {
        warp.write(dest, mask, u32::MAX, &[0; LANES]);
        Step::Next
    }))
}
