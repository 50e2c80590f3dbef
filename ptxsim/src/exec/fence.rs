//! `fence` and `membar`. Every access is performed at once, so fences only order for the checks.

use super::async_order;
use super::step::Step;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("fence", thread_fence),
    ("membar", thread_fence),
    ("fence.mbarrier_init", thread_fence),
    ("fence.proxy", proxy_fence),
    ("membar.proxy", proxy_fence),
];

fn thread_fence(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["sc", "acq_rel", "acquire", "release"]);
    m.ignore(&[
        "sync_restrict::shared::cta",
        "sync_restrict::shared::cluster",
    ]);
    m.ignore(&["cta", "cluster", "gpu", "sys", "gl"]);
    m.finish()?;
    Ok(Box::new(|warp, _| {
        async_order::fence(warp);
        Step::Next
    }))
}

fn proxy_fence(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let kinds = [
        ("async", true),
        ("async::generic", true),
        ("alias", false),
        ("tensormap::generic", false),
    ];
    let asynchronous = m.choose(&kinds).ok_or_else(|| Unsupported::new("proxy"))?;
    // The checks know the async proxy in shared memory only.
    let asynchronous = asynchronous && !m.take("global");
    m.ignore(&["shared::cta", "shared::cluster"]);
    m.ignore(&["acquire", "release", "cta", "cluster", "gpu", "sys"]);
    m.ignore(&[
        "sync_restrict::shared::cta",
        "sync_restrict::shared::cluster",
    ]);
    m.finish()?;
    if let Some(size) = i.operands.get(1)
        && *size != Operand::Int(128)
    {
        return Err(Unsupported::new("a size other than 128"));
    }
    Ok(Box::new(move |warp, _| {
        if asynchronous {
            async_order::proxy_fence(warp);
        }
        Step::Next
    }))
}
