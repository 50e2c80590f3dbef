//! `ldmatrix`, `stmatrix` and `movmatrix`: 8x8 matrices of 16-bit elements.
//!
//! Matrix `j` has its eight rows of 16 bytes at the addresses of lanes `8 j .. 8 j + 8` and its
//! fragment in register `j` of all lanes.

use super::access::{Home, Space};
use super::mma::{check_operands, dests, sources};
use super::step::Step;
use super::warp::Warp;
use crate::checks;
use crate::memory::{LANES, Row, SHARED_RANK_SHIFT};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::Address;
use crate::program::{Decode, Execute};
use crate::ptx::ast::Instruction;
use crate::report::FindingKind;
use crate::sim::LaunchError;
use crate::tensor::fragment::m8n8_position;

/// The opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("ldmatrix.sync.aligned.m8n8", ldmatrix),
    ("stmatrix.sync.aligned.m8n8", stmatrix),
    ("movmatrix.sync.aligned.m8n8.trans.b16", movmatrix),
];

/// Bytes of a matrix row.
const ROW_BYTES: usize = 16;
/// 32-bit words of a matrix row.
const WORDS: usize = ROW_BYTES / 4;

/// Words of the matrices' rows: word `w` of the row that lane `l` points at is `[w][l]`.
type Words = [[u32; LANES]; WORDS];

/// Number of matrices, `.trans`, and the space of the address.
fn form(modifiers: &Modifiers<'_>) -> Result<(usize, bool, Space), Unsupported> {
    let count = modifiers.choose(&[("x1", 1), ("x2", 2), ("x4", 4)]);
    let count = count.ok_or_else(|| Unsupported::new("number of matrices"))?;
    let transposed = modifiers.take("trans");
    let shared = [("shared", Space::Shared), ("shared::cta", Space::Shared)];
    let space = modifiers.choose(&shared).unwrap_or(Space::Generic);
    if !modifiers.take("b16") {
        return Err(Unsupported::new("element type: .b16 is expected"));
    }
    modifiers.finish()?;
    Ok((count, transposed, space))
}

fn ldmatrix(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let (count, transposed, space) = form(&d.modifiers(i))?;
    let dest = dests(d, d.operand(i, 0)?, count)?;
    let address = d.address(d.operand(i, 1)?)?;
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        let rows = match matrix_rows(warp, &address, space, count, Access::Load) {
            Ok(rows) => rows,
            Err(error) => return Step::Trap(error),
        };
        let mut words: Words = [[0; LANES]; WORDS];
        let mut defined = [0; WORDS];
        for (word, (values, defined)) in words.iter_mut().zip(&mut defined).enumerate() {
            rows.load(4 * word, values);
            *defined = rows.defined(4 * word, 4);
        }
        for (matrix, &dest) in dest.iter().enumerate() {
            let mut fragment = [0; LANES];
            let mut lanes = 0;
            for (lane, value) in fragment.iter_mut().enumerate() {
                let mut whole = true;
                for element in 0..2 {
                    let (row, column) = m8n8_position(lane, element, transposed);
                    let (word, row) = (column / 2, 8 * matrix + row);
                    let half = words[word][row] >> (16 * (column % 2)) & 0xffff;
                    *value |= half << (16 * element);
                    whole &= defined[word] >> row & 1 != 0;
                }
                lanes |= u32::from(whole) << lane;
            }
            warp.write(dest, mask, lanes, &fragment);
        }
        Step::Next
    }))
}

fn stmatrix(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let (count, transposed, space) = form(&d.modifiers(i))?;
    let address = d.address(d.operand(i, 0)?)?;
    let source = sources(d, d.operand(i, 1)?, count)?;
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        let rows = match matrix_rows(warp, &address, space, count, Access::Store) {
            Ok(rows) => rows,
            Err(error) => return Step::Trap(error),
        };
        let mut words: Words = [[0; LANES]; WORDS];
        let mut defined = [u32::MAX; WORDS];
        for (matrix, &source) in source.iter().enumerate() {
            let lanes = warp.defined(source);
            for (lane, value) in warp.read(source).iter().enumerate() {
                for element in 0..2 {
                    let (row, column) = m8n8_position(lane, element, transposed);
                    let (word, row) = (column / 2, 8 * matrix + row);
                    let half = value >> (16 * element) & 0xffff;
                    words[word][row] |= half << (16 * (column % 2));
                    if lanes >> lane & 1 == 0 {
                        defined[word] &= !(1 << row);
                    }
                }
            }
        }
        for (word, (values, defined)) in words.iter().zip(defined).enumerate() {
            rows.store(4 * word, values);
            rows.set_defined(4 * word, 4, defined);
        }
        Step::Next
    }))
}

fn movmatrix(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    let dest = d.dest::<u32>(d.operand(i, 0)?)?;
    let source = d.source32(d.operand(i, 1)?)?;
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        check_operands(warp, mask, &[source], "a");
        let matrix = warp.read(source);
        let transposed: [u32; LANES] = std::array::from_fn(|lane| {
            (0..2).fold(0, |value, element| {
                let (row, column) = m8n8_position(lane, element, true);
                let half = matrix[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
                value | half << (16 * element)
            })
        });
        warp.write(dest, mask, u32::MAX, &transposed);
        Step::Next
    }))
}

/// What an instruction does to the rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Load,
    Store,
}

/// The checked and counted rows of `count` matrices.
fn matrix_rows<'a>(
    warp: &mut Warp<'a>,
    address: &Address,
    space: Space,
    count: usize,
    access: Access,
) -> Result<Row<'a>, LaunchError> {
    let lanes = u32::MAX >> (LANES - 8 * count);
    let addresses = warp.addresses(address, lanes);
    let (home, same, base) = warp.home(space, &addresses, lanes);
    if !matches!(home, Home::Shared(_)) || same != lanes {
        let lane = if same == lanes {
            0
        } else {
            (lanes & !same).trailing_zeros()
        };
        let at = addresses[lane as usize];
        let message = format!("the matrix row at {at:#x} is not in shared memory");
        warp.find(FindingKind::OutOfBounds, message, lane, Some(at));
        return Err(LaunchError::IllegalAddress);
    }
    let rows = warp.row(home, base, &addresses, lanes, ROW_BYTES)?;
    observe(
        warp,
        access,
        home,
        addresses.map(|address| address.wrapping_sub(base)),
        count,
    );
    Ok(rows)
}

/// Counts an access to rows at `offsets` in their block and hands it to the checks.
fn observe(warp: &mut Warp<'_>, access: Access, home: Home, offsets: [u64; LANES], count: usize) {
    let Home::Shared(rank) = home else { return };
    let offsets = offsets.map(|offset| offset as u32);
    let kind = match access {
        Access::Load => {
            warp.launch
                .counters
                .matrix_loads
                .record_matrix(&offsets, count);
            checks::Kind::Read
        }
        Access::Store => {
            warp.launch
                .counters
                .matrix_stores
                .record_matrix(&offsets, count);
            warp.launch.effects += 1;
            checks::Kind::Write
        }
    };
    let checked = checks::Access::matrix(warp.agent(), kind, warp.line());
    let Some(races) = &mut warp.cluster.races else {
        return;
    };
    let in_cluster = offsets.map(|offset| offset.wrapping_add(rank << SHARED_RANK_SHIFT));
    let lanes = u32::MAX >> (LANES - 8 * count);
    if let Some(conflict) = races.access(&checked, &in_cluster, lanes, ROW_BYTES) {
        warp.find_conflict(&conflict, conflict.lane, Some(conflict.address));
    }
}
