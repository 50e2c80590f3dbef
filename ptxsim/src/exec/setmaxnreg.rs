//! `setmaxnreg`: moving registers between the warps of a block (PTX ISA 9.7.19.5).
//!
//! Registers are not limited here. What is checked is what makes the instruction hang or do nothing
//! on a GPU: the pool of the block, the order of sizes, the four warps of a warpgroup.

use super::step::{Reason, Step};
use super::warp::Warp;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Directives, Instruction, Operand};
use crate::report::FindingKind;
use crate::sim::Arch;

/// The opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("setmaxnreg", setmaxnreg)];

/// Registers of a multiprocessor.
const REGISTER_FILE: u32 = 65_536;
/// Registers are given to threads in multiples of this.
const GRANULE: u32 = 8;
/// Most registers of a thread.
const MOST: u32 = 255;

fn setmaxnreg(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    if d.arch != Arch::Sm90a {
        return Err(Unsupported::new("setmaxnreg needs sm_90a"));
    }
    let modifiers = d.modifiers(i);
    let increase = modifiers.choose(&[("inc", true), ("dec", false)]);
    let increase = increase.ok_or_else(|| Unsupported::new("neither .inc nor .dec"))?;
    if !(modifiers.take("sync") && modifiers.take("aligned") && modifiers.take("u32")) {
        return Err(Unsupported::new("without .sync.aligned.u32"));
    }
    modifiers.finish()?;
    let Operand::Int(count @ 24..=256) = d.operand(i, 0)? else {
        return Err(Unsupported::new("register count: 24 to 256 is expected"));
    };
    let count = *count as u32;
    if !count.is_multiple_of(GRANULE) {
        return Err(Unsupported::new(format!(
            "register count {count}: not a multiple of 8"
        )));
    }
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        change(warp, increase, count)
    }))
}

fn change(warp: &mut Warp<'_>, increase: bool, count: u32) -> Step {
    let Some(limit) = current_limit(warp) else {
        let message = "without .maxnreg or .maxntid the instruction has no effect".to_owned();
        warp.find(FindingKind::Operand, message, 0, None);
        return Step::Next;
    };
    let wrong_way = if increase {
        count < limit
    } else {
        count > limit
    };
    if wrong_way {
        let action = if increase { "inc" } else { "dec" };
        let message = format!("setmaxnreg.{action} to {count} from {limit} registers a thread");
        warp.find(FindingKind::Operand, message, 0, None);
        return Step::Next;
    }
    let moved = count.abs_diff(limit) * LANES as u32;
    let pool = &mut warp.block().warpgroups.free_registers;
    if increase && *pool < moved {
        return warp.wait(Reason::Other("registers that setmaxnreg.inc asks for"), 0);
    }
    *pool = if increase {
        *pool - moved
    } else {
        *pool + moved
    };
    warp.state.warpgroup.register_limit = Some(count);
    warp.launch.effects += 1;
    check_order(warp);
    Step::Next
}

/// Registers of a thread now; `None` where the kernel has no limit.
fn current_limit(warp: &Warp<'_>) -> Option<u32> {
    let directives = &warp.launch.directives;
    warp.state
        .warpgroup
        .register_limit
        .or_else(|| limit_at_entry(directives))
}

/// Registers of a thread at the start: `.maxnreg`, or what the launch bounds leave to each thread.
fn limit_at_entry(directives: &Directives) -> Option<u32> {
    let threads = directives.required_threads.or(directives.max_threads);
    let bound = threads.map(|[x, y, z]| {
        let warps = (x * y * z).max(1).next_multiple_of(LANES as u32);
        let resident = warps * directives.min_blocks.unwrap_or(1).max(1);
        (REGISTER_FILE / resident).min(MOST) / GRANULE * GRANULE
    });
    match (directives.max_registers, bound) {
        (Some(explicit), Some(bound)) => Some(explicit.min(bound)),
        (explicit, bound) => explicit.or(bound),
    }
}

/// The n-th `setmaxnreg` of each warp of a warpgroup must be the same instruction.
fn check_order(warp: &mut Warp<'_>) {
    let (index, pc) = (warp.state.index, warp.state.pc);
    let number = warp.state.warpgroup.limit_changes;
    warp.state.warpgroup.limit_changes += 1;
    let changes = &mut warp.block().warpgroups.group(index).limit_changes;
    match changes.get(number) {
        None => changes.push(pc),
        Some(&first) if first == pc => {}
        Some(_) => {
            let message = "the warps of the warpgroup execute different setmaxnreg".to_owned();
            warp.find(FindingKind::WarpSync, message, 0, None);
        }
    }
}
