//! Functions that the device runtime provides: `vprintf`, `__assertfail`, `malloc`, `free`.

mod heap;
mod printf;

pub use heap::Heap;

use super::access::Space;
use super::call::{Call, frame_offset};
use super::step::Step;
use super::warp::Warp;
use crate::memory::{LANES, lanes};
use crate::program::Execute;
use crate::program::decoder::{Decoder, Unsupported};
use crate::report::FindingKind;
use crate::sim::LaunchError;

/// The longest text that is read from a kernel's memory.
const MAX_TEXT: u64 = 4096;

/// A function of the runtime, for one lane: warp, lane, arguments.
type Function = fn(&mut Warp<'_>, usize, &[u64]) -> Result<u64, LaunchError>;

/// Decodes a call of the runtime's function `name`.
///
/// # Errors
/// When there is no such function.
pub fn decode(d: &Decoder<'_>, name: &str, call: &Call<'_>) -> Result<Execute, Unsupported> {
    let arguments: Vec<u32> = call
        .arguments
        .iter()
        .map(|o| frame_offset(d, o))
        .collect::<Result<_, _>>()?;
    let result = call
        .results
        .first()
        .map(|o| frame_offset(d, o))
        .transpose()?;
    let (function, count): (Function, usize) = match name {
        "vprintf" => (vprintf, 2),
        "__assertfail" => (assert_failed, 5),
        "malloc" => (malloc, 1),
        "free" => (free, 1),
        _ => {
            return Err(Unsupported::new(format!(
                "function {name}, which has no body"
            )));
        }
    };
    if arguments.len() != count {
        return Err(Unsupported::new(format!(
            "{name} with {} arguments",
            arguments.len()
        )));
    }
    // The line of __assertfail is its only argument of 4 bytes, vprintf's result the only such one.
    let is_line = move |index: usize| count == 5 && index == 2;
    let result_size = if count == 2 { 4 } else { 8 };
    let run = move |warp: &mut Warp<'_>, mask: u32| -> Result<Step, LaunchError> {
        for lane in lanes(mask) {
            let mut values = [0; 5];
            for (index, &offset) in arguments.iter().enumerate() {
                let at = warp.local_place(lane, offset);
                let span = warp.local.span();
                values[index] = match is_line(index) {
                    true => span.load::<u32>(at).into(),
                    false => span.load(at),
                };
            }
            let value = function(warp, lane, &values[..count])?;
            if let Some(offset) = result {
                let at = warp.local_place(lane, offset);
                warp.local
                    .span()
                    .write(at, &value.to_le_bytes()[..result_size]);
            }
        }
        warp.launch.effects += 1;
        Ok(Step::Next)
    };
    Ok(Box::new(move |warp, mask| run(warp, mask).into()))
}

impl Warp<'_> {
    /// Offset in the warp's local memory of an offset in the frame of `lane`.
    fn local_place(&self, lane: usize, offset: u32) -> usize {
        lane * self.launch.local_stride as usize + (self.state.local_base + offset) as usize
    }

    /// The scalar bytes of `lane` at a generic address.
    fn generic_bytes(
        &mut self,
        lane: usize,
        address: u64,
        len: u64,
    ) -> Result<Vec<u8>, LaunchError> {
        let mut bytes = Vec::new();
        for offset in 0..len {
            let addresses = [address + offset; LANES];
            let (home, mask, base) = self.home(Space::Generic, &addresses, 1 << lane);
            let row = self.row(home, base, &addresses, mask, 1)?;
            bytes.push(row.lane(lane).load(0));
        }
        Ok(bytes)
    }

    /// The text of `lane` at a generic address, up to its zero byte.
    fn generic_text(&mut self, lane: usize, address: u64) -> Result<String, LaunchError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < MAX_TEXT {
            match self.generic_bytes(lane, address + bytes.len() as u64, 1)?[0] {
                0 => break,
                byte => bytes.push(byte),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn vprintf(warp: &mut Warp<'_>, lane: usize, arguments: &[u64]) -> Result<u64, LaunchError> {
    let format = warp.generic_text(lane, arguments[0])?;
    let mut count = 0;
    let mut at = arguments[1];
    let mut fetch = |size: u64| {
        at = at.next_multiple_of(size);
        let bytes = warp.generic_bytes(lane, at, size)?;
        at += size;
        count += 1;
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(&bytes);
        Ok(u64::from_le_bytes(value))
    };
    let mut pieces = printf::expand(&format, &mut fetch)?;
    for piece in &mut pieces {
        if let printf::Piece::Address(address, pad) = piece {
            let text = warp.generic_text(lane, *address)?;
            *piece = printf::Piece::Text(pad.apply(text));
        }
    }
    let printed = pieces.iter().map(|piece| match piece {
        printf::Piece::Text(text) => text.as_str(),
        printf::Piece::Address(..) => "",
    });
    warp.launch.printed.extend(printed);
    Ok(count)
}

fn assert_failed(warp: &mut Warp<'_>, lane: usize, arguments: &[u64]) -> Result<u64, LaunchError> {
    let condition = warp.generic_text(lane, arguments[0])?;
    let file = warp.generic_text(lane, arguments[1])?;
    let function = warp.generic_text(lane, arguments[3])?;
    let line = arguments[2];
    let message = format!("{file}:{line}: {function}: assertion `{condition}` failed");
    warp.find(FindingKind::Trap, message, lane as u32, None);
    Err(LaunchError::Assert)
}

fn malloc(warp: &mut Warp<'_>, _lane: usize, arguments: &[u64]) -> Result<u64, LaunchError> {
    let heap = warp.launch.heap.clone();
    Ok(heap
        .and_then(|heap| heap.allocate(arguments[0]))
        .unwrap_or(0))
}

fn free(warp: &mut Warp<'_>, lane: usize, arguments: &[u64]) -> Result<u64, LaunchError> {
    let heap = warp.launch.heap.clone();
    let address = arguments[0];
    if address != 0 && !heap.is_some_and(|heap| heap.free(address)) {
        let message = format!("free of {address:#x}, which malloc did not return");
        warp.find(
            FindingKind::UseAfterFree,
            message,
            lane as u32,
            Some(address),
        );
        return Err(LaunchError::IllegalAddress);
    }
    Ok(0)
}
