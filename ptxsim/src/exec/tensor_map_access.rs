//! Tensor maps in memory: `tensormap.replace`, `tensormap.cp_fenceproxy`, `prefetch.tensormap`.

use super::access::Space;
use super::async_access::{SharedAddress, bits, shared_space};
use super::async_order;
use super::registers::Source;
use super::step::Step;
use super::warp::Warp;
use crate::checks::Kind;
use crate::memory::{PARAM_WINDOW, Span, Window, window_of};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::{Address, AnySource};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::report::FindingKind;
use crate::sim::LaunchError;
use crate::tensor::tensor_map::{ENCODED_BYTES, Field, TensorMap};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("tensormap.replace", replace),
    ("tensormap.cp_fenceproxy", copy_fence),
    ("prefetch.tensormap", prefetch),
    ("prefetch.param.tensormap", prefetch),
    ("prefetch.const.tensormap", prefetch),
];

/// Alignment of a map in memory.
const ALIGN: u32 = 64;
const BYTES: u32 = ENCODED_BYTES as u32;

/// Reads the map at a generic address in parameters, constants or global memory.
///
/// # Errors
/// The address is not allowed, or there is no map; reported.
pub fn read(warp: &mut Warp<'_>, lane: u32, address: u64) -> Result<TensorMap, LaunchError> {
    let span = match window_of(address) {
        Window::Param => param_span(warp, lane, address)?,
        _ => {
            async_order::global_range(warp, lane, Kind::Read, address, BYTES);
            warp.global_span(lane, address, BYTES, ALIGN)?
        }
    };
    decode(warp, lane, &span)
}

fn param_span<'a>(warp: &mut Warp<'a>, lane: u32, address: u64) -> Result<Span<'a>, LaunchError> {
    let offset = (address - PARAM_WINDOW) as usize;
    let params: &'a crate::memory::Buffer = warp.params;
    if !offset.is_multiple_of(ALIGN as usize) || offset + ENCODED_BYTES > params.len() {
        let message = format!("a tensor map at offset {offset:#x} of the parameters");
        return Err(warp.fault(lane, address, FindingKind::OutOfBounds, message));
    }
    Ok(params.span().sub(offset, ENCODED_BYTES))
}

fn decode(warp: &mut Warp<'_>, lane: u32, span: &Span<'_>) -> Result<TensorMap, LaunchError> {
    if !span.is_valid(0, ENCODED_BYTES) {
        warp.find_undefined(1 << lane, "a tensor map");
    }
    let mut bytes = [0; ENCODED_BYTES];
    span.read(0, &mut bytes);
    TensorMap::decode(&bytes).map_err(|error| warp.bad_operand(lane, error.to_string()))
}

fn take_field(m: &Modifiers<'_>, ordinal: usize) -> Result<(Field, bool), Unsupported> {
    let field = m.choose(&[
        ("global_address", (Field::GlobalAddress, false)),
        ("rank", (Field::Rank, false)),
        ("box_dim", (Field::BoxDim(ordinal), true)),
        ("global_dim", (Field::GlobalDim(ordinal), true)),
        ("global_stride", (Field::GlobalStride(ordinal), true)),
        ("element_stride", (Field::ElementStride(ordinal), true)),
        ("elemtype", (Field::ElementType, false)),
        ("interleave_layout", (Field::InterleaveLayout, false)),
        ("swizzle_mode", (Field::SwizzleMode, false)),
        ("fill_mode", (Field::FillMode, false)),
    ]);
    field.ok_or_else(|| Unsupported::new("field of a tensor map"))
}

fn replace(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["tile"]);
    let ordinal = match i.operands.get(1) {
        Some(Operand::Int(ordinal)) => *ordinal as usize,
        _ => 0,
    };
    let (field, ordered) = take_field(&m, ordinal)?;
    let space = if m.take("global") {
        Space::Global
    } else {
        shared_space(&m)
    };
    m.ignore(&["b1024"]);
    let ty = m.ty()?;
    m.finish()?;
    let place = d.address(d.operand(i, 0)?)?;
    let value = new_value(d, d.operand(i, if ordered { 2 } else { 1 })?, ty)?;
    Ok(Box::new(move |warp, mask| {
        let run = bits(mask).try_for_each(|lane| {
            let value = match value {
                AnySource::Word(source) => u64::from(lane_value(warp, source, lane)),
                AnySource::Long(source) => lane_value(warp, source, lane),
            };
            replace_at(warp, lane, &place, space, field, value)
        });
        run.map(|()| Step::Next).into()
    }))
}

fn new_value(d: &Decoder<'_>, operand: &Operand, ty: Type) -> Result<AnySource, Unsupported> {
    d.any_source(operand, ty)
}

fn lane_value<W: super::value::Word>(warp: &mut Warp<'_>, source: Source<W>, lane: u32) -> W {
    warp.check_defined(source, 1 << lane, "a field of a tensor map");
    warp.read(source)[lane as usize]
}

fn replace_at(
    warp: &mut Warp<'_>,
    lane: u32,
    place: &Address,
    space: Space,
    field: Field,
    value: u64,
) -> Result<(), LaunchError> {
    let address = warp.addresses(place, 1 << lane)[lane as usize];
    let in_shared = match space {
        Space::Generic => window_of(address) == Window::Shared,
        other => other == Space::Shared,
    };
    let span = if in_shared {
        let shared = address as u32;
        async_order::plain_write(warp, lane, shared, BYTES);
        warp.shared_span(lane, shared, BYTES, ALIGN)?
    } else {
        async_order::global_range(warp, lane, Kind::Write, address, BYTES);
        warp.global_span(lane, address, BYTES, ALIGN)?
    };
    let mut map = decode(warp, lane, &span)?;
    if let Err(error) = map.replace(field, value) {
        return Err(warp.bad_operand(lane, error.to_string()));
    }
    span.write(0, &map.encode());
    warp.launch.effects += 1;
    Ok(())
}

/// Copies a map from shared to global memory; its proxy fence needs no action.
fn copy_fence(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let taken = [
        "global",
        "shared::cta",
        "tensormap::generic",
        "release",
        "sync",
        "aligned",
    ];
    if !taken.iter().all(|name| m.take(name)) {
        return Err(Unsupported::new("modifiers"));
    }
    m.ignore(&["cta", "cluster", "gpu", "sys"]);
    m.finish()?;
    if *d.operand(i, 2)? != Operand::Int(128) {
        return Err(Unsupported::new("a size other than 128"));
    }
    let to = d.address(d.operand(i, 0)?)?;
    let from = SharedAddress {
        address: d.address(d.operand(i, 1)?)?,
        space: Space::Shared,
    };
    Ok(Box::new(move |warp, mask| {
        if let Some(wait) = warp.converge(mask, warp.live()) {
            return wait;
        }
        copy_map(warp, mask, &to, &from).into()
    }))
}

/// The instruction acts once for the warp, with the operands of its first lane.
fn copy_map(
    warp: &mut Warp<'_>,
    mask: u32,
    to: &Address,
    from: &SharedAddress,
) -> Result<Step, LaunchError> {
    let lane = mask.trailing_zeros();
    let to = warp.addresses(to, mask)[lane as usize];
    let from = warp.shared_addresses(from, mask)?[lane as usize];
    let target = warp.global_span(lane, to, BYTES, ALIGN)?;
    let source = warp.shared_span(lane, from, BYTES, ALIGN)?;
    target.copy_from(0, &source, 0, ENCODED_BYTES);
    async_order::plain_read(warp, lane, from, BYTES);
    async_order::global_range(warp, lane, Kind::Write, to, BYTES);
    warp.launch.effects += 1;
    Ok(Step::Next)
}

/// A hint: only its operand is checked.
fn prefetch(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    let place = d.address(d.operand(i, 0)?)?;
    Ok(Box::new(move |warp, mask| {
        warp.addresses(&place, mask);
        Step::Next
    }))
}
