//! The device: its attributes, name and sizes.

use std::ffi::{c_char, c_int, c_uint};

use super::ffi::{Out, Text, exports};
use super::state::driver;
use super::status::{Result, Status};
use crate::sim::Arch;

/// CUDA 13.0, in the driver's form.
pub const DRIVER_VERSION: c_int = 13000;

/// The limits of an architecture that launches and occupancy depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Multiprocessors, those of the A100 and the H100 SXM.
    pub multiprocessors: u32,
    /// Shared memory of a multiprocessor in bytes.
    pub shared_per_multiprocessor: u32,
    /// The most of it that a block may ask for.
    pub shared_per_block_optin: u32,
    /// The most that a block gets without asking.
    pub shared_per_block: u32,
    /// What the system takes from each block.
    pub shared_reserved: u32,
    /// Granularity of a block's shared memory.
    pub shared_unit: u32,
    /// 32-bit registers of a multiprocessor, and the most of a block.
    pub registers: u32,
    /// Granularity of a warp's registers.
    pub register_unit: u32,
    /// Resident warps of a multiprocessor.
    pub warps: u32,
    /// Resident blocks of a multiprocessor.
    pub blocks: u32,
    /// Multiprocessors of a GPU processing cluster, within which a cluster lives.
    pub cluster_span: u32,
    /// The largest portable cluster; 1 where there are none.
    pub cluster: u32,
}

/// Sources: CUDA C++ Programming Guide, "Compute Capabilities"; Hopper tuning guide.
pub const fn limits(arch: Arch) -> Limits {
    let ampere = Limits {
        multiprocessors: 108,
        shared_per_multiprocessor: 164 << 10,
        shared_per_block_optin: 163 << 10,
        shared_per_block: 48 << 10,
        shared_reserved: 1 << 10,
        shared_unit: 128,
        registers: 64 << 10,
        register_unit: 256,
        warps: 64,
        blocks: 32,
        cluster_span: 1,
        cluster: 1,
    };
    match arch {
        Arch::Sm80 => ampere,
        Arch::Sm90a => Limits {
            multiprocessors: 132,
            shared_per_multiprocessor: 228 << 10,
            shared_per_block_optin: 227 << 10,
            cluster_span: 16,
            cluster: 8,
            ..ampere
        },
    }
}

/// Threads of a block at most.
pub const MAX_THREADS: u32 = 1024;
/// Largest extents of a block.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Largest extents of a grid.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];

/// The last `CUdevice_attribute` of CUDA 13.
const LAST_ATTRIBUTE: c_uint = 149;

/// `INVALID_DEVICE` for all but the one device.
pub fn require_device(device: c_int) -> Result {
    driver()?;
    if device == 0 {
        Ok(())
    } else {
        Err(Status::INVALID_DEVICE)
    }
}

/// `(major, minor)`.
pub fn compute_capability(arch: Arch) -> (c_int, c_int) {
    match arch {
        Arch::Sm80 => (8, 0),
        Arch::Sm90a => (9, 0),
    }
}

/// Value of the `CUdevice_attribute` with this number; `None` if CUDA 13.0 has no such one.
///
/// Clocks and widths are those of the A100 80 GB and the H100 SXM: a figure derived from them is
/// no measurement.
fn attribute(arch: Arch, attribute: c_uint) -> Option<c_int> {
    if attribute == 0 {
        return None;
    }
    let limits = limits(arch);
    let hopper = arch == Arch::Sm90a;
    let pick = |ampere: c_int, hopper_value: c_int| if hopper { hopper_value } else { ampere };
    let capability = compute_capability(arch);
    let value = match attribute {
        1 => MAX_THREADS as c_int,
        2..=4 => MAX_BLOCK[attribute as usize - 2] as c_int,
        5..=7 => MAX_GRID[attribute as usize - 5] as c_int,
        8 => limits.shared_per_block as c_int,
        9 => 64 << 10,                        // constant memory
        10 => 32,                             // warp size
        11 => c_int::MAX,                     // pitch
        12 | 82 => limits.registers as c_int, // of a block, of a multiprocessor
        13 => pick(1_410_000, 1_980_000),     // clock in kHz
        14 | 30 => 512,                       // texture and surface alignment
        16 => limits.multiprocessors as c_int,
        33 => 1,                          // PCI bus
        36 => pick(1_593_000, 2_619_000), // memory clock in kHz
        37 => 5120,                       // bus width in bits
        38 => pick(40 << 20, 50 << 20),   // L2 in bytes
        39 => (limits.warps * 32) as c_int,
        40 => 3,  // copy engines
        51 => 32, // texture pitch alignment
        75 => capability.0,
        76 => capability.1,
        81 => limits.shared_per_multiprocessor as c_int,
        87 => 2, // single to double precision
        97 => limits.shared_per_block_optin as c_int,
        106 => limits.blocks as c_int,
        108 => pick(30 << 20, 32 << 20), // persisting L2
        109 => 128 << 20,                // access policy window
        111 => limits.shared_reserved as c_int,
        120 | 127 => c_int::from(hopper), // clusters, tensor maps
        126 => pick(1, 4),                // memory synchronisation domains
        // Overlap, mapped host memory, concurrent kernels, unified addressing, stream priorities,
        // L1 for global and local, managed memory and its concurrent use, preemption, host pointers
        // of registered memory, cooperative launch, host registration, memory pools.
        15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 91 | 95 | 99 | 115 => 1,
        // Everything else that exists is absent here: textures, virtual memory management, ECC,
        // peers, interprocess handles.
        number if number <= LAST_ATTRIBUTE => 0,
        _ => return None,
    };
    Some(value)
}

/// The device's name.
fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::Sm80 => "ptxsim sm_80",
        Arch::Sm90a => "ptxsim sm_90a",
    }
}

fn uuid() -> [u8; 16] {
    *b"ptxsim-device-00"
}

exports! {
    fn cuDriverGetVersion(version: Out<c_int>) {
        version.set(DRIVER_VERSION)
    }

    fn cuDeviceGetCount(count: Out<c_int>) {
        driver()?;
        count.set(1)
    }

    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) {
        require_device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, number: c_uint, device: c_int) {
        require_device(device)?;
        value.set(attribute(driver()?.arch, number).ok_or(Status::INVALID_VALUE)?)
    }

    fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) {
        require_device(device)?;
        let capability = compute_capability(driver()?.arch);
        major.set(capability.0)?;
        minor.set(capability.1)
    }

    fn cuDeviceGetName(text: Out<c_char>, room: c_int, device: c_int) {
        require_device(device)?;
        let room = usize::try_from(room).ok().filter(|&room| room > 0);
        let room = room.ok_or(Status::INVALID_VALUE)?;
        let name = name(driver()?.arch).bytes();
        let cut = name.take(room - 1).chain([0]);
        text.set_many(cut.map(|byte| byte as c_char), room)
    }

    fn cuDeviceGetUuid(value: Out<[u8; 16]>, device: c_int) {
        require_device(device)?;
        value.set(uuid())
    }

    fn cuDeviceGetUuid_v2(value: Out<[u8; 16]>, device: c_int) {
        require_device(device)?;
        value.set(uuid())
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) {
        require_device(device)?;
        bytes.set(driver()?.memory.capacity() as usize)
    }

    fn cuDeviceGetPCIBusId(text: Out<c_char>, room: c_int, device: c_int) {
        require_device(device)?;
        let id = "0000:01:00.0\0";
        if usize::try_from(room).map_or(true, |room| room < id.len()) {
            return Err(Status::INVALID_VALUE);
        }
        text.set_many(id.bytes().map(|byte| byte as c_char), id.len())
    }

    fn cuDeviceGetByPCIBusId(device: Out<c_int>, id: Text) {
        driver()?;
        device.check()?;
        match id.get()?.as_str() {
            "0000:01:00.0" | "01:00.0" | "01:00" => device.set(0),
            _ => Err(Status::INVALID_DEVICE),
        }
    }

    fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) {
        require_device(device)?;
        require_device(peer)?;
        can.set(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_exist_up_to_the_last_of_cuda_13() {
        assert_eq!(attribute(Arch::Sm80, 0), None);
        assert_eq!(attribute(Arch::Sm80, 97), Some(166_912));
        assert_eq!(attribute(Arch::Sm90a, 97), Some(232_448));
        assert_eq!(attribute(Arch::Sm80, 149), Some(0));
        assert_eq!(attribute(Arch::Sm80, 150), None);
    }
}
