//! The copy functions of the driver API.
//!
//! All are complete when they return, the asynchronous ones too: programs rely on it for pageable
//! memory, and eager streams make it so for the rest.

use super::context::current;
use super::copy::{Copy, End, Memcpy2d, Memcpy3d, Side};
use super::ffi::{HostPointer, In, exports};
use super::handle::Handle;
use super::operation::Operation;
use super::state::driver;
use super::status::Result;
use super::stream;

/// A copy without a stream: in the legacy default stream, and refused during captures.
fn now(copy: Copy) -> Result {
    driver()?.captures.refuse_unsafe_call()?;
    let context = current()?;
    context.legacy_stream().submit(Operation::Copy(copy))?;
    context.synchronize()
}

fn later(copy: Copy, stream: Handle) -> Result {
    stream::find(stream)?.submit(Operation::Copy(copy))
}

fn to_device(to: u64, from: HostPointer, len: usize) -> Copy {
    Copy::row(
        End::row(Side::Device, to),
        End::row(Side::Host, from.address()),
        len,
    )
}

fn to_host(to: HostPointer, from: u64, len: usize) -> Copy {
    Copy::row(
        End::row(Side::Host, to.address()),
        End::row(Side::Device, from),
        len,
    )
}

fn within_device(to: u64, from: u64, len: usize) -> Copy {
    Copy::row(
        End::row(Side::Device, to),
        End::row(Side::Device, from),
        len,
    )
}

/// The addresses say which memory is meant.
fn unified(to: u64, from: u64, len: usize) -> Copy {
    Copy::row(End::row(Side::Host, to), End::row(Side::Host, from), len)
}

exports! {
    fn cuMemcpyHtoD_v2(to: u64, from: HostPointer, len: usize) {
        now(to_device(to, from, len))
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: HostPointer, len: usize, stream: Handle) {
        later(to_device(to, from, len), stream)
    }

    fn cuMemcpyDtoH_v2(to: HostPointer, from: u64, len: usize) {
        now(to_host(to, from, len))
    }

    fn cuMemcpyDtoHAsync_v2(to: HostPointer, from: u64, len: usize, stream: Handle) {
        later(to_host(to, from, len), stream)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, len: usize) {
        now(within_device(to, from, len))
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: Handle) {
        later(within_device(to, from, len), stream)
    }

    fn cuMemcpy(to: u64, from: u64, len: usize) {
        now(unified(to, from, len))
    }

    fn cuMemcpyAsync(to: u64, from: u64, len: usize, stream: Handle) {
        later(unified(to, from, len), stream)
    }

    fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, len: usize) {
        super::context::find_or_current(to_context)?;
        super::context::find_or_current(from_context)?;
        now(unified(to, from, len))
    }

    fn cuMemcpyPeerAsync(
        to: u64, to_context: Handle, from: u64, from_context: Handle, len: usize, stream: Handle,
    ) {
        super::context::find_or_current(to_context)?;
        super::context::find_or_current(from_context)?;
        later(unified(to, from, len), stream)
    }

    fn cuMemcpy2D_v2(params: In<Memcpy2d>) {
        now(params.get()?.copy()?)
    }

    fn cuMemcpy2DUnaligned_v2(params: In<Memcpy2d>) {
        now(params.get()?.copy()?)
    }

    fn cuMemcpy2DAsync_v2(params: In<Memcpy2d>, stream: Handle) {
        later(params.get()?.copy()?, stream)
    }

    fn cuMemcpy3D_v2(params: In<Memcpy3d>) {
        now(params.get()?.copy()?)
    }

    fn cuMemcpy3DAsync_v2(params: In<Memcpy3d>, stream: Handle) {
        later(params.get()?.copy()?, stream)
    }
}
