//! Findings with the place of the executing instruction.

use super::warp::Warp;
use crate::report::{Finding, FindingKind};

/// A finding at the executing instruction in `lane`.
pub fn at(
    warp: &Warp<'_>,
    kind: FindingKind,
    message: String,
    lane: u32,
    address: Option<u64>,
) -> Finding {
    let launch = &*warp.launch;
    let site = launch.program.site(warp.state.pc);
    let [x, y, _] = launch.config.block;
    let linear = warp.state.index * 32 + lane;
    Finding {
        kind,
        message,
        kernel: launch.kernel.name.clone(),
        source: site
            .source
            .map(|(file, line)| (launch.program.file(file), line)),
        ptx_line: site.line,
        block: warp.cluster.blocks[warp.rank].index,
        thread: [linear % x, linear / x % y, linear / (x * y)],
        address,
        allocation: address.and_then(|a| launch.view.describe(a)),
        count: 1,
    }
}

/// Adds a finding, or counts it where one of its kind is known at its instruction.
pub fn record(findings: &mut Vec<Finding>, new: Finding) {
    let same = |f: &&mut Finding| f.kind == new.kind && f.ptx_line == new.ptx_line;
    match findings.iter_mut().find(same) {
        Some(known) => known.count += 1,
        None => findings.push(new),
    }
}
