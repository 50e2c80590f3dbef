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
    let site = warp.program.site(warp.state.pc);
    Finding {
        kind,
        message,
        kernel: launch.kernel.clone(),
        source: site
            .source
            .map(|(file, line)| (warp.program.file(file), line)),
        ptx_line: site.line,
        block: warp.cluster.blocks[warp.rank].index,
        thread: launch.thread_index(warp.state.index * 32 + lane),
        address,
        allocation: address.and_then(|a| warp.view.describe(a)),
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
