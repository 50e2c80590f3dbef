//! `cp.async.bulk.tensor`, its reductions and prefetches: PTX ISA 9.0, 9.7.9.27.1. Tiled mode.

pub mod transfer;

use super::async_access::{SharedAddress, at_rank, bits, rank_of};
use super::atomic::{self, Operation};
use super::bulk::{self, Route};
use super::reduction::{self, Reduction};
use super::registers::Source;
use super::step::Step;
use super::tensor_map_access;
use super::warp::Warp;
use super::{async_order, mbarrier};
use crate::checks::Kind;
use crate::memory::{LANES, LaneError};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::Address;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand};
use crate::sim::LaunchError;
use crate::tensor::tensor_map::{MAX_RANK, TensorMap};
use transfer::Coordinates;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("cp.async.bulk.tensor", copy),
    ("cp.reduce.async.bulk.tensor", reduce),
    ("cp.async.bulk.prefetch.tensor", prefetch),
];

/// Alignment of the box in shared memory.
const BOX_ALIGN: u32 = 128;

/// A tensor operand: `[map, {c0, c1}]`.
struct Tensor {
    map: Address,
    coordinates: Vec<Source<u32>>,
}

struct Copy {
    route: Route,
    tensor: Tensor,
    shared: SharedAddress,
    mbarrier: Option<SharedAddress>,
    blocks: Option<Source<u32>>,
    op: Option<Operation>,
}

fn copy(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    decode(d, i, None)
}

fn reduce(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    decode(d, i, Some(atomic::operation(&d.modifiers(i))?))
}

fn decode(d: &Decoder<'_>, i: &Instruction, op: Option<Operation>) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    if op.is_some() {
        atomic::operation(&m)?;
    }
    let rank = take_rank(&m)?;
    let route = bulk::route(&m)?;
    m.ignore(&["tile", "L2::cache_hint"]);
    let shared = |index| -> Result<SharedAddress, Unsupported> {
        let address = d.address(d.operand(i, index)?)?;
        Ok(SharedAddress {
            address,
            space: super::access::Space::Shared,
        })
    };
    let copy = match route {
        Route::Load => Copy {
            route,
            tensor: tensor(d, d.operand(i, 1)?, rank)?,
            shared: shared(0)?,
            mbarrier: Some(shared(2)?),
            blocks: bulk::block_mask(d, i, &m, 3)?,
            op,
        },
        Route::Store => Copy {
            route,
            tensor: tensor(d, d.operand(i, 0)?, rank)?,
            shared: shared(1)?,
            mbarrier: None,
            blocks: None,
            op,
        },
        Route::Peer => return Err(Unsupported::new("state spaces")),
    };
    m.finish()?;
    if op.is_some() && route == Route::Load {
        return Err(Unsupported::new("a reduction into shared memory"));
    }
    Ok(Box::new(move |warp, mask| {
        execute(warp, mask, &copy).into()
    }))
}

fn take_rank(m: &Modifiers<'_>) -> Result<usize, Unsupported> {
    let ranks = [("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];
    m.choose(&ranks).ok_or_else(|| Unsupported::new("rank"))
}

fn tensor(d: &Decoder<'_>, operand: &Operand, rank: usize) -> Result<Tensor, Unsupported> {
    let Operand::AddressList(map, rest) = operand else {
        return Err(Unsupported::new(format!("tensor operand {operand:?}")));
    };
    let [vector] = rest.as_slice() else {
        return Err(Unsupported::new("tensor coordinates"));
    };
    let elements = d.elements(vector);
    if elements.len() != rank {
        return Err(Unsupported::new(format!(
            "{} coordinates of rank {rank}",
            elements.len()
        )));
    }
    let coordinates = elements
        .iter()
        .map(|e| d.source32(e))
        .collect::<Result<_, _>>()?;
    Ok(Tensor {
        map: d.address(map)?,
        coordinates,
    })
}

fn execute(warp: &mut Warp<'_>, mask: u32, c: &Copy) -> Result<Step, LaunchError> {
    let maps = warp.addresses(&c.tensor.map, mask);
    let shared = warp.shared_addresses(&c.shared, mask)?;
    let mbarriers = match &c.mbarrier {
        Some(operand) => warp.shared_addresses(operand, mask)?,
        None => [0; LANES],
    };
    for lane in bits(mask) {
        let l = lane as usize;
        let start = coordinates(warp, lane, &c.tensor);
        let map = usable_map(warp, lane, maps[l], c.tensor.coordinates.len())?;
        if c.route == Route::Load {
            let ranks = bulk::destinations(warp, lane, shared[l], c.blocks)?;
            load(warp, lane, &map, start, shared[l], mbarriers[l], &ranks)?;
        } else {
            store(warp, lane, &map, start, shared[l], c.op)?;
        }
    }
    warp.launch.effects += 1;
    Ok(Step::Next)
}

fn coordinates(warp: &mut Warp<'_>, lane: u32, tensor: &Tensor) -> Coordinates {
    let mut start = [0; MAX_RANK];
    for (value, &source) in start.iter_mut().zip(&tensor.coordinates) {
        warp.check_defined(source, 1 << lane, "a tensor coordinate");
        *value = warp.read(source)[lane as usize] as i32;
    }
    start
}

fn usable_map(
    warp: &mut Warp<'_>,
    lane: u32,
    address: u64,
    rank: usize,
) -> Result<TensorMap, LaunchError> {
    let map = tensor_map_access::read(warp, lane, address)?;
    if let Err(error) = map.validate() {
        return Err(warp.bad_operand(lane, error.to_string()));
    }
    if map.rank != rank {
        let message = format!(
            "tensor copy: {rank} coordinates for a tensor of rank {}",
            map.rank
        );
        return Err(warp.bad_operand(lane, message));
    }
    Ok(map)
}

fn load(
    warp: &mut Warp<'_>,
    lane: u32,
    map: &TensorMap,
    start: Coordinates,
    to: u32,
    mbarrier: u32,
    ranks: &[u32],
) -> Result<(), LaunchError> {
    let extent = transfer::shared_extent(map);
    let mut targets = Vec::with_capacity(ranks.len());
    for &rank in ranks {
        warp.shared_span(lane, at_rank(to, rank), extent, BOX_ALIGN)?;
        targets.push(warp.shared[rank as usize].span());
    }
    let moved = transfer::load(map, start, warp.view, &targets, at_rank(to, 0));
    moved.map_err(|fault| fault_of(warp, lane, fault))?;
    let (bytes, sectors) = transfer::traffic(map, start);
    count(&mut warp.launch.counters.bulk_loads, bytes, sectors);
    global_rows(warp, lane, map, start, Kind::Read);
    for &rank in ranks {
        warp.launch
            .counters
            .bulk_shared_stores
            .record_range(to, map.box_bytes());
        let mbarrier = if ranks.len() == 1 {
            mbarrier
        } else {
            at_rank(mbarrier, rank)
        };
        async_order::bulk_tracked(warp, lane, mbarrier, Kind::Write, at_rank(to, rank), extent);
        mbarrier::complete_tx(warp, lane, mbarrier, map.box_bytes())?;
    }
    Ok(())
}

fn store(
    warp: &mut Warp<'_>,
    lane: u32,
    map: &TensorMap,
    start: Coordinates,
    from: u32,
    op: Option<Operation>,
) -> Result<(), LaunchError> {
    let extent = transfer::shared_extent(map);
    warp.shared_span(lane, from, extent, BOX_ALIGN)?;
    let source = warp.shared[rank_of(from)].span();
    let offset = at_rank(from, 0);
    let (moved, kind) = match op {
        None => (
            transfer::store(map, start, warp.view, &source, offset),
            Kind::Write,
        ),
        Some(op) => {
            let reduction = reduction_of(warp, lane, op, map)?;
            let moved = transfer::reduce(map, start, warp.view, &source, offset, reduction);
            (moved, Kind::AtomicUpdate)
        }
    };
    moved.map_err(|fault| fault_of(warp, lane, fault))?;
    let (bytes, sectors) = transfer::traffic(map, start);
    count(&mut warp.launch.counters.bulk_stores, bytes, sectors);
    warp.launch
        .counters
        .bulk_shared_loads
        .record_range(from, map.box_bytes());
    async_order::bulk_read(warp, lane, from, extent);
    global_rows(warp, lane, map, start, kind);
    Ok(())
}

fn reduction_of(
    warp: &mut Warp<'_>,
    lane: u32,
    op: Operation,
    map: &TensorMap,
) -> Result<Reduction, LaunchError> {
    reduction::of_elements(op, map.element).ok_or_else(|| {
        warp.bad_operand(
            lane,
            format!("tensor copy: no reduction {op:?} of {:?}", map.element),
        )
    })
}

fn fault_of(warp: &mut Warp<'_>, lane: u32, fault: transfer::Fault) -> LaunchError {
    warp.access_error(&LaneError {
        lane,
        address: fault.address,
        error: fault.error,
    })
}

fn count(traffic: &mut crate::report::Traffic, bytes: u64, sectors: u64) {
    traffic.requests += 1;
    traffic.bytes += bytes;
    traffic.sectors += sectors;
}

fn global_rows(warp: &mut Warp<'_>, lane: u32, map: &TensorMap, start: Coordinates, kind: Kind) {
    if warp.launch.global_races.is_some() {
        for row in map.rows(start).filter(|row| row.inside > 0) {
            async_order::global_range(warp, lane, kind, row.global, row.inside);
        }
    }
}

/// A hint: only its operands are checked.
fn prefetch(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let rank = take_rank(&m)?;
    m.ignore(&["L2", "global", "tile", "L2::cache_hint"]);
    m.finish()?;
    let tensor = tensor(d, d.operand(i, 0)?, rank)?;
    Ok(Box::new(move |warp, mask| {
        let maps = warp.addresses(&tensor.map, mask);
        let run = bits(mask).try_for_each(|lane| {
            coordinates(warp, lane, &tensor);
            usable_map(warp, lane, maps[lane as usize], tensor.coordinates.len()).map(drop)
        });
        run.map(|()| Step::Next).into()
    }))
}
