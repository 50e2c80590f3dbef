//! Moves a box between global and shared memory.

use crate::exec::reduction::Reduction;
use crate::memory::{AccessError, Hint, Span, View};
use crate::tensor::swizzle::Swizzle;
use crate::tensor::tensor_box::Row;
use crate::tensor::tensor_map::{ElementType, MAX_RANK, TensorMap};

/// Coordinates of a box's first element, innermost first; 0 beyond the rank.
pub type Coordinates = [i32; MAX_RANK];

/// A global access that is not allowed.
#[derive(Debug)]
pub struct Fault {
    /// First byte of the row.
    pub address: u64,
    /// What is wrong with it.
    pub error: AccessError,
}

/// Bytes that the box at `start` takes in shared memory, that of `start` included, when the swizzle
/// moves the last chunks of a box that does not fill its rows.
pub fn shared_extent(map: &TensorMap) -> u32 {
    map.box_bytes().next_multiple_of(map.swizzle.span())
}

/// Global bytes inside the tensor, and the 32-byte sectors that they lie in; a sector shared by
/// consecutive rows counts once.
pub fn traffic(map: &TensorMap, start: Coordinates) -> (u64, u64) {
    let (mut bytes, mut sectors, mut last) = (0, 0, None);
    for row in map.rows(start).filter(|row| row.inside > 0) {
        let first = row.global / 32;
        let end = (row.global + u64::from(row.inside) - 1) / 32;
        bytes += u64::from(row.inside);
        sectors += end - first + 1 - u64::from(last == Some(first));
        last = Some(end);
    }
    (bytes, sectors)
}

/// Copies the box at `start` to byte `offset` of each of the shared memories `targets`. Elements
/// outside the tensor become zero or NaN.
///
/// # Errors
/// The first row of which a byte inside the tensor is not in live memory.
pub fn load(
    map: &TensorMap,
    start: Coordinates,
    view: &View,
    targets: &[Span<'_>],
    offset: u32,
) -> Result<(), Fault> {
    let mut hint = Hint::default();
    for row in map.rows(start) {
        let source = resolve(view, &row, &mut hint)?;
        let inside = offset + row.offset + row.before;
        for target in targets {
            fill(map, target, offset + row.offset, row.before);
            if let Some(source) = &source {
                for_chunks(map.swizzle, inside, row.inside, |at, done, len| {
                    target.copy_from(at, source, done, len);
                    flush(map.element, target, at, len);
                });
            }
            fill(map, target, inside + row.inside, row.after);
        }
    }
    Ok(())
}

/// Copies the box at byte `offset` of shared memory to the tensor; elements outside stay behind.
///
/// # Errors
/// As [`load`].
pub fn store(
    map: &TensorMap,
    start: Coordinates,
    view: &View,
    source: &Span<'_>,
    offset: u32,
) -> Result<(), Fault> {
    let mut hint = Hint::default();
    for row in map.rows(start) {
        let Some(target) = resolve(view, &row, &mut hint)? else {
            continue;
        };
        for_chunks(
            map.swizzle,
            offset + row.offset + row.before,
            row.inside,
            |at, done, len| {
                target.copy_from(done, source, at, len);
                flush(map.element, &target, done, len);
            },
        );
    }
    Ok(())
}

/// Combines each element of the tensor with that of the box.
///
/// # Errors
/// As [`load`].
pub fn reduce(
    map: &TensorMap,
    start: Coordinates,
    view: &View,
    source: &Span<'_>,
    offset: u32,
    reduction: Reduction,
) -> Result<(), Fault> {
    let mut hint = Hint::default();
    for row in map.rows(start) {
        let Some(target) = resolve(view, &row, &mut hint)? else {
            continue;
        };
        let first = offset + row.offset + row.before;
        for_chunks(map.swizzle, first, row.inside, |at, done, len| {
            reduction.apply(&target.sub(done, len), &source.sub(at, len));
        });
    }
    Ok(())
}

/// The bytes of a row inside the tensor, if there are any.
fn resolve<'m>(view: &'m View, row: &Row, hint: &mut Hint) -> Result<Option<Span<'m>>, Fault> {
    if row.inside == 0 {
        return Ok(None);
    }
    let span = view.resolve(row.global, row.inside as usize, hint);
    span.map(Some).map_err(|error| Fault {
        address: row.global,
        error,
    })
}

/// Calls `f(address, offset, length)` for each run of `len` bytes from `first` that the swizzle keeps
/// together: chunks of 16 bytes, or all of them without a swizzle.
fn for_chunks(swizzle: Swizzle, first: u32, len: u32, mut f: impl FnMut(usize, usize, usize)) {
    let mut done = 0;
    while done < len {
        let at = first + done;
        let run = if swizzle == Swizzle::None {
            len
        } else {
            (16 - at % 16).min(len - done)
        };
        f(swizzle.apply(at) as usize, done as usize, run as usize);
        done += run;
    }
}

/// Fills `len` bytes, whole elements, at unswizzled address `first`.
fn fill(map: &TensorMap, target: &Span<'_>, first: u32, len: u32) {
    let size = map.element.size() as usize;
    let pattern = if map.fill_nan {
        map.element.fill_nan()
    } else {
        0
    }
    .to_le_bytes();
    for_chunks(map.swizzle, first, len, |at, _, len| {
        for element in (at..at + len).step_by(size) {
            target.write(element, &pattern[..size]);
        }
    });
}

/// Makes zeros of the subnormals among `len` bytes, for the element type that asks for it.
fn flush(element: ElementType, span: &Span<'_>, first: usize, len: usize) {
    if element != ElementType::F32Ftz {
        return;
    }
    for at in (first..first + len).step_by(4) {
        let bits = span.load::<u32>(at);
        if f32::from_bits(bits).is_subnormal() {
            span.store(at, bits & 0x8000_0000);
        }
    }
}

#[cfg(test)]
mod tests;
