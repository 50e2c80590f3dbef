//! How the addresses of a warp's instruction become sectors and wavefronts.
//!
//! *Documented by NVIDIA*: a sector is an aligned 32-byte piece of global memory, the unit in which
//! caches move data; a request is one warp-level instruction and moves the distinct sectors that
//! its active lanes touch. Shared memory has 32 banks of 4 bytes; lanes that read the same word get
//! it in one pass, lanes that need different words of one bank are served one after the other.
//!
//! *Ours, to be calibrated on hardware*: a 64-bit access is served in two half-warps and a 128-bit
//! access in four quarter-warps, each a phase of its own with at least one pass, also where lanes
//! of two phases share words; a bulk copy passes once over each aligned piece of 128 bytes that it
//! touches, swizzled or not, and has no conflicts; `ldmatrix` and `stmatrix` have one phase for each 8 x 8 matrix; of
//! atomics on one word, each lane is a pass.

use super::{SharedTraffic, Traffic};

const LANES: usize = 32;
const BANKS: usize = 32;
/// Bytes of a bank's word.
const WORD: usize = 4;
/// log2 of the bytes of a sector.
const SECTOR_SHIFT: u32 = 5;

/// Passes of an instruction over the banks of shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passes {
    /// Passes needed.
    pub wavefronts: u32,
    /// Passes needed without a bank conflict: one for each phase that has an active lane.
    pub ideal: u32,
}

/// Whether all lanes are active and each is `size` bytes after the one before it.
#[inline]
fn is_contiguous(addresses: &[u64; LANES], mask: u32, size: usize) -> bool {
    let skew = |(lane, &address): (usize, &u64)| {
        address.wrapping_sub(addresses[0].wrapping_add((lane * size) as u64))
    };
    mask == u32::MAX
        && addresses
            .iter()
            .enumerate()
            .map(skew)
            .fold(0, |all, d| all | d)
            == 0
}

/// Distinct 32-byte sectors that the lanes of `mask` touch with `size` bytes each. `size` is at
/// most 32 and addresses are multiples of it, so that no lane touches two.
pub fn sectors(addresses: &[u64; LANES], mask: u32, size: usize) -> u32 {
    debug_assert!(size <= 32);
    if is_contiguous(addresses, mask, size) {
        let last = addresses[0] + (LANES * size) as u64 - 1;
        return ((last >> SECTOR_SHIFT) - (addresses[0] >> SECTOR_SHIFT) + 1) as u32;
    }
    let mut distinct = [0; LANES];
    let mut count = 0;
    let mut ascending = true;
    for lane in crate::memory::lanes(mask) {
        let sector = addresses[lane] >> SECTOR_SHIFT;
        if count > 0 && distinct[count - 1] == sector {
            continue;
        }
        ascending &= count == 0 || distinct[count - 1] < sector;
        distinct[count] = sector;
        count += 1;
    }
    if !ascending {
        let found = &mut distinct[..count];
        found.sort_unstable();
        return 1 + found.windows(2).filter(|pair| pair[0] != pair[1]).count() as u32;
    }
    count as u32
}

/// Passes of the lanes of `mask`, each of which needs the aligned unit of `1 << shift` bytes, one
/// bank or several, that its address is in: the largest number of distinct units on one place
/// among the banks.
fn phase(addresses: &[u32; LANES], mask: u32, shift: u32) -> u32 {
    let places = ((BANKS * WORD) >> shift) as u32;
    let (mut taken, mut unit_at) = (0u32, [0; BANKS]);
    for lane in crate::memory::lanes(mask) {
        let unit = addresses[lane] >> shift;
        let place = unit % places;
        if taken >> place & 1 == 0 {
            taken |= 1 << place;
            unit_at[place as usize] = unit;
        } else if unit_at[place as usize] != unit {
            return conflicting_phase(addresses, mask, shift, places);
        }
    }
    1
}

/// [`phase`] where two units meet on a place.
#[cold]
fn conflicting_phase(addresses: &[u32; LANES], mask: u32, shift: u32, places: u32) -> u32 {
    let mut units = [0; LANES];
    let mut count = 0;
    for lane in crate::memory::lanes(mask) {
        units[count] = addresses[lane] >> shift;
        count += 1;
    }
    let units = &mut units[..count];
    units.sort_unstable();
    let mut at_place = [0; BANKS];
    for (index, &unit) in units.iter().enumerate() {
        at_place[(unit % places) as usize] += u32::from(index == 0 || units[index - 1] != unit);
    }
    at_place.into_iter().max().unwrap_or(0)
}

/// Sums over phases of `lanes` lanes each that have an active lane; units as in [`phase`].
fn phases(addresses: &[u32; LANES], mask: u32, lanes: usize, shift: u32) -> Passes {
    let group = u32::MAX >> (LANES - lanes);
    let ideal = (0..LANES)
        .step_by(lanes)
        .filter(|start| mask >> start & group != 0)
        .count() as u32;
    // A common difference is free of conflicts when it is nothing or one unit.
    let first = addresses[0];
    let step = addresses[1].wrapping_sub(first);
    let skew = |(lane, &a): (usize, &u32)| {
        a.wrapping_sub(first.wrapping_add(step.wrapping_mul(lane as u32)))
    };
    if mask == u32::MAX
        && (step == 0 || step == 1 << shift)
        && addresses
            .iter()
            .enumerate()
            .map(skew)
            .fold(0, |all, d| all | d)
            == 0
    {
        return Passes {
            wavefronts: ideal,
            ideal,
        };
    }
    let active = (0..LANES)
        .step_by(lanes)
        .map(|start| mask & (group << start));
    let wavefronts = active
        .filter(|&m| m != 0)
        .map(|m| phase(addresses, m, shift))
        .sum();
    Passes { wavefronts, ideal }
}

/// Passes of a load or store of `size` bytes (1, 2, 4, 8 or 16) a lane at shared addresses that
/// are multiples of it.
pub fn wavefronts(addresses: &[u32; LANES], mask: u32, size: usize) -> Passes {
    match size {
        16 => phases(addresses, mask, 8, 4),
        8 => phases(addresses, mask, 16, 3),
        _ => phases(addresses, mask, 32, 2),
    }
}

/// Passes of `ldmatrix` or `stmatrix` with `matrices` (1, 2 or 4) matrices: lanes `8 i ..` give
/// the addresses of the eight 16-byte rows of matrix `i`.
pub fn matrix_wavefronts(addresses: &[u32; LANES], matrices: usize) -> Passes {
    let mask = u32::MAX >> (LANES - 8 * matrices.clamp(1, 4));
    phases(addresses, mask, 8, 4)
}

/// Passes of an atomic of `size` bytes a lane: the largest number of lanes that meet in a bank.
pub fn atomic_wavefronts(addresses: &[u32; LANES], mask: u32, size: usize) -> Passes {
    let words = size.div_ceil(WORD) as u32;
    let mut lanes_of_bank = [0u32; BANKS];
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let start = addresses[lane] / WORD as u32;
        (start..start + words).for_each(|word| lanes_of_bank[word as usize % BANKS] += 1);
    }
    let wavefronts = lanes_of_bank.into_iter().max().unwrap_or(0);
    let ideal = (mask.count_ones() * words).div_ceil(BANKS as u32);
    Passes { wavefronts, ideal }
}

impl Traffic {
    /// Counts an instruction of `size` bytes a lane. Nothing for an empty mask.
    pub fn record(&mut self, addresses: &[u64; LANES], mask: u32, size: usize) {
        if mask != 0 {
            self.requests += 1;
            self.bytes += u64::from(mask.count_ones()) * size as u64;
            self.sectors += u64::from(sectors(addresses, mask, size));
        }
    }

    /// Counts a bulk copy's run of `len` bytes as one request.
    pub fn record_range(&mut self, address: u64, len: u64) {
        if len != 0 {
            self.requests += 1;
            self.bytes += len;
            self.sectors += ((address + len - 1) >> SECTOR_SHIFT) - (address >> SECTOR_SHIFT) + 1;
        }
    }

    /// Adds the figures of another part of the launch.
    pub fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
    }
}

impl SharedTraffic {
    /// Counts a load or store of `size` bytes a lane. Nothing for an empty mask.
    pub fn record(&mut self, addresses: &[u32; LANES], mask: u32, size: usize) {
        if mask != 0 {
            let bytes = mask.count_ones() as usize * size;
            self.record_passes(bytes, wavefronts(addresses, mask, size));
        }
    }

    /// Counts an atomic of `size` bytes a lane. Nothing for an empty mask.
    pub fn record_atomic(&mut self, addresses: &[u32; LANES], mask: u32, size: usize) {
        if mask != 0 {
            let bytes = mask.count_ones() as usize * size;
            self.record_passes(bytes, atomic_wavefronts(addresses, mask, size));
        }
    }

    /// Counts an `ldmatrix` or `stmatrix`.
    pub fn record_matrix(&mut self, addresses: &[u32; LANES], matrices: usize) {
        self.record_passes(128 * matrices, matrix_wavefronts(addresses, matrices));
    }

    /// Counts the shared side of a bulk copy of `len` bytes.
    pub fn record_range(&mut self, address: u32, len: u32) {
        if len != 0 {
            let row = (BANKS * WORD) as u32;
            let wavefronts = (address + len - 1) / row - address / row + 1;
            let ideal = wavefronts;
            self.record_passes(len as usize, Passes { wavefronts, ideal });
        }
    }

    fn record_passes(&mut self, bytes: usize, passes: Passes) {
        self.requests += 1;
        self.bytes += bytes as u64;
        self.wavefronts += u64::from(passes.wavefronts);
        self.conflicts += u64::from(passes.wavefronts.saturating_sub(passes.ideal));
    }

    /// Adds the figures of another part of the launch.
    pub fn add(&mut self, other: &SharedTraffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.wavefronts += other.wavefronts;
        self.conflicts += other.conflicts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = u32::MAX;

    fn global(f: impl Fn(u64) -> u64) -> [u64; 32] {
        std::array::from_fn(|lane| f(lane as u64))
    }

    fn shared(f: impl Fn(u32) -> u32) -> [u32; 32] {
        std::array::from_fn(|lane| f(lane as u32))
    }

    fn passes(wavefronts: u32, ideal: u32) -> Passes {
        Passes { wavefronts, ideal }
    }

    #[test]
    fn sectors_of_known_patterns() {
        assert_eq!(sectors(&global(|i| 4 * i), ALL, 4), 4);
        assert_eq!(sectors(&global(|i| 4 * i + 16), ALL, 4), 5);
        assert_eq!(sectors(&global(|i| 16 * i), ALL, 16), 16);
        assert_eq!(sectors(&global(|i| 128 * i), ALL, 4), 32);
        assert_eq!(sectors(&global(|_| 64), ALL, 4), 1);
        assert_eq!(sectors(&global(|i| 4 * (31 - i)), ALL, 4), 4);
        assert_eq!(sectors(&global(|i| 32 * (i % 2)), ALL, 4), 2);
        assert_eq!(sectors(&global(|i| 4 * i), 1 << 9, 4), 1);
        assert_eq!(sectors(&global(|i| i), ALL, 1), 1);
        assert_eq!(sectors(&global(|i| i), 0, 1), 0);
    }

    #[test]
    fn sectors_equal_a_set_of_sectors() {
        let mut state = 1u64;
        for _ in 0..200 {
            let addresses = global(|_| 0).map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (state >> 40) % 512 * 4
            });
            let mask = (state >> 13) as u32;
            let set: std::collections::HashSet<u64> = (0..32)
                .filter(|i| mask >> i & 1 != 0)
                .map(|i| addresses[i] / 32)
                .collect();
            assert_eq!(sectors(&addresses, mask, 4), set.len() as u32);
        }
    }

    #[test]
    fn wavefronts_of_32_bit_accesses() {
        assert_eq!(wavefronts(&shared(|i| 4 * i), ALL, 4), passes(1, 1));
        assert_eq!(wavefronts(&shared(|_| 40), ALL, 4), passes(1, 1));
        assert_eq!(wavefronts(&shared(|i| 8 * i), ALL, 4), passes(2, 1));
        assert_eq!(wavefronts(&shared(|i| 128 * i), ALL, 4), passes(32, 1));
        assert_eq!(wavefronts(&shared(|i| 132 * i), ALL, 4), passes(1, 1));
        assert_eq!(
            wavefronts(&shared(|i| 128 * (i / 16)), ALL, 4),
            passes(2, 1)
        );
        assert_eq!(wavefronts(&shared(|i| 2 * i), ALL, 2), passes(1, 1));
        assert_eq!(wavefronts(&shared(|i| 128 * i), 0, 4), passes(0, 0));
    }

    #[test]
    fn wavefronts_of_wide_accesses() {
        assert_eq!(wavefronts(&shared(|i| 8 * i), ALL, 8), passes(2, 2));
        assert_eq!(wavefronts(&shared(|i| 16 * i), ALL, 16), passes(4, 4));
        assert_eq!(wavefronts(&shared(|i| 128 * i), ALL, 16), passes(32, 4));
        assert_eq!(wavefronts(&shared(|i| 16 * i), 0xff, 16), passes(1, 1));
        assert_eq!(wavefronts(&shared(|i| 256 * i), 0xffff, 8), passes(16, 1));
    }

    #[test]
    fn wavefronts_of_matrices() {
        // Rows of 64 bf16: every row starts at bank 0, unless swizzled.
        assert_eq!(matrix_wavefronts(&shared(|i| 128 * i), 4), passes(32, 4));
        assert_eq!(
            matrix_wavefronts(&shared(|i| 128 * i + 16 * (i % 8)), 4),
            passes(4, 4)
        );
        assert_eq!(matrix_wavefronts(&shared(|i| 144 * i), 2), passes(2, 2));
        assert_eq!(matrix_wavefronts(&shared(|i| 16 * i), 1), passes(1, 1));
    }

    #[test]
    fn wavefronts_of_atomics() {
        assert_eq!(atomic_wavefronts(&shared(|i| 4 * i), ALL, 4), passes(1, 1));
        assert_eq!(atomic_wavefronts(&shared(|_| 0), ALL, 4), passes(32, 1));
        assert_eq!(
            atomic_wavefronts(&shared(|i| 4 * (i / 2)), ALL, 4),
            passes(2, 1)
        );
        assert_eq!(atomic_wavefronts(&shared(|i| 8 * i), ALL, 8), passes(2, 2));
    }

    #[test]
    fn traffic_adds_up() {
        let mut traffic = Traffic::default();
        traffic.record(&global(|i| 4 * i), 0xffff, 4);
        traffic.record(&global(|i| 4 * i), 0, 4);
        traffic.record_range(16, 32);
        assert_eq!(
            traffic,
            Traffic {
                requests: 2,
                bytes: 96,
                sectors: 4
            }
        );
        let mut shared_traffic = SharedTraffic::default();
        shared_traffic.record(&shared(|i| 8 * i), ALL, 4);
        shared_traffic.record_matrix(&shared(|i| 16 * i), 4);
        shared_traffic.record_range(112, 32);
        shared_traffic.record_range(112, 0);
        let expected = SharedTraffic {
            requests: 3,
            bytes: 672,
            wavefronts: 8,
            conflicts: 1,
        };
        assert_eq!(shared_traffic, expected);
    }
}
