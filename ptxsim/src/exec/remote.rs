//! `st.async` and `red.async`: stores and reductions into the shared memory of another block, whose
//! completion an mbarrier there tracks.

use super::access::Space;
use super::async_access::{SharedAddress, bits, rank_of};
use super::atomic;
use super::reduction::{self, Reduction};
use super::step::Step;
use super::warp::Warp;
use super::{async_order, mbarrier};
use crate::checks::Kind;
use crate::memory::Span;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::AnySource;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};
use crate::sim::LaunchError;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("st.async", store), ("red.async", reduce)];

struct Remote {
    to: SharedAddress,
    values: Vec<AnySource>,
    mbarrier: SharedAddress,
    /// Bytes of a value.
    size: u32,
    reduction: Option<Reduction>,
}

fn store(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["weak", "cluster", "v2", "v4"]);
    let space = take_space(&m)?;
    let ty = m.ty()?;
    m.finish()?;
    decode(d, i, space, ty, None)
}

fn reduce(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["relaxed", "cluster"]);
    let space = take_space(&m)?;
    let operation = atomic::operation(&m)?;
    let ty = m.ty()?;
    m.finish()?;
    let integer = !matches!(ty, Type::F16 | Type::BF16 | Type::F32 | Type::F64);
    let reduction = reduction::find(operation, ty).filter(|_| integer);
    let reduction =
        reduction.ok_or_else(|| Unsupported::new(format!("reduction {operation:?} of {ty:?}")))?;
    decode(d, i, space, ty, Some(reduction))
}

fn take_space(m: &Modifiers<'_>) -> Result<Space, Unsupported> {
    if !m.take("mbarrier::complete_tx::bytes") {
        return Err(Unsupported::new(
            "a completion mechanism other than an mbarrier",
        ));
    }
    Ok(if m.take("shared::cluster") {
        Space::Shared
    } else {
        Space::Generic
    })
}

fn decode(
    d: &Decoder<'_>,
    i: &Instruction,
    space: Space,
    ty: Type,
    reduction: Option<Reduction>,
) -> Result<Execute, Unsupported> {
    let values = d
        .elements(d.operand(i, 1)?)
        .iter()
        .map(|e| d.any_source(e, ty));
    let remote = Remote {
        to: SharedAddress {
            address: d.address(d.operand(i, 0)?)?,
            space,
        },
        values: values.collect::<Result<_, _>>()?,
        mbarrier: SharedAddress {
            address: d.address(d.operand(i, 2)?)?,
            space,
        },
        size: ty.size(),
        reduction,
    };
    Ok(Box::new(move |warp, mask| {
        execute(warp, mask, &remote).into()
    }))
}

fn execute(warp: &mut Warp<'_>, mask: u32, r: &Remote) -> Result<Step, LaunchError> {
    let to = warp.shared_addresses(&r.to, mask)?;
    let mbarriers = warp.shared_addresses(&r.mbarrier, mask)?;
    let bytes = r.size * r.values.len() as u32;
    let kind = if r.reduction.is_some() {
        Kind::AtomicUpdate
    } else {
        Kind::Write
    };
    for lane in bits(mask) {
        let (at, mbarrier) = (to[lane as usize], mbarriers[lane as usize]);
        if rank_of(at) != rank_of(mbarrier) {
            let message = "destination and mbarrier must be in one block".to_owned();
            return Err(warp.bad_operand(lane, message));
        }
        let span = warp.shared_span(lane, at, bytes, bytes)?;
        for (index, value) in r.values.iter().enumerate() {
            let element = span.sub(index * r.size as usize, r.size as usize);
            write(warp, lane, &element, *value, r.reduction);
        }
        async_order::remote_write(warp, lane, mbarrier, kind, at, bytes);
        mbarrier::complete_tx(warp, lane, mbarrier, bytes)?;
    }
    warp.launch.effects += 1;
    Ok(Step::Next)
}

fn write(
    warp: &Warp<'_>,
    lane: u32,
    element: &Span<'_>,
    value: AnySource,
    reduction: Option<Reduction>,
) {
    let (bits, defined) = match value {
        AnySource::Word(source) => (
            u64::from(warp.read(source)[lane as usize]),
            warp.defined(source),
        ),
        AnySource::Long(source) => (warp.read(source)[lane as usize], warp.defined(source)),
    };
    match reduction {
        None => element.write(0, &bits.to_le_bytes()[..element.len()]),
        Some(reduction) => reduction.apply_value(element, 0, bits),
    }
    if defined >> lane & 1 == 0 {
        element.set_valid(0, element.len(), false);
    }
}
