//! Order between `wgmma` and the rest of the program: `fence`, `commit_group`, `wait_group`.

use super::{agent, immediate, require_sm90a};
use crate::exec::step::Step;
use crate::program::Execute;
use crate::program::decoder::{Decoder, Unsupported};
use crate::ptx::ast::Instruction;

/// `wgmma.fence`.
pub(super) fn fence(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    require_sm90a(d)?;
    d.modifiers(i).finish()?;
    Ok(Box::new(|warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        warp.state.warpgroup.fences += 1;
        Step::Next
    }))
}

/// `wgmma.commit_group`: the products so far become a group.
pub(super) fn commit_group(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    require_sm90a(d)?;
    d.modifiers(i).finish()?;
    Ok(Box::new(|warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        warp.state.warpgroup.committed += 1;
        let (index, committed) = (warp.state.index, warp.state.warpgroup.committed);
        let agent = agent(warp);
        let group = warp.block().warpgroups.group(index);
        if committed > group.committed {
            group.committed = committed;
            warp.races(|races, _| {
                races.commit(agent);
            });
        }
        Step::Next
    }))
}

/// `wgmma.wait_group`: all but the latest groups are complete.
pub(super) fn wait_group(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    require_sm90a(d)?;
    d.modifiers(i).finish()?;
    let pending = u32::try_from(immediate(d.operand(i, 0)?)?)
        .map_err(|_| Unsupported::new("a negative number of groups"))?;
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        let state = &mut warp.state.warpgroup;
        state.completed = state.completed.max(state.committed.saturating_sub(pending));
        let (group, agent) = (state.completed, agent(warp));
        warp.races(|races, waiter| races.wait(waiter, agent, group));
        Step::Next
    }))
}
