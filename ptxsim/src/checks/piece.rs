//! The granules of 16 bytes that an access touches.

use super::access::LANES;

/// Bytes of a granule.
pub const GRANULE: usize = 16;
/// No lane touches this word.
pub(super) const NO_LANE: u8 = 0xff;
/// More than one lane touches this word, and which does what is known to matter.
pub(super) const SEVERAL: u8 = 0xfe;
/// Lanes share this word in a way that is not recorded: no conclusion is drawn.
pub(super) const UNKNOWN: u8 = 0xfd;

/// What a warp's access does to one granule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Number of the granule: address / 16.
    pub granule: u64,
    /// One bit a byte.
    pub bytes: u16,
    /// Lane that touches each of the four words, or one of the codes above.
    pub(super) lanes: [u8; 4],
    /// The first lane of the piece.
    pub first_lane: u8,
}

/// Calls `each` with the granules that the lanes of `mask` touch with `size` bytes (1 to 16, a power
/// of two, addresses aligned to it). Neighbouring lanes in one granule make one piece; a granule
/// that the lanes come back to later makes another.
#[inline]
pub fn granules<A: Copy + Into<u64>>(
    addresses: &[A; LANES],
    mask: u32,
    size: usize,
    reads: bool,
    mut each: impl FnMut(Piece),
) {
    if size == GRANULE {
        for lane in crate::memory::lanes(mask) {
            let granule = addresses[lane].into() / GRANULE as u64;
            let lane = lane as u8;
            each(Piece {
                granule,
                bytes: u16::MAX,
                lanes: [lane; 4],
                first_lane: lane,
            });
        }
        return;
    }
    if mask == u32::MAX && size >= 4 && (addresses[0].into() as usize).is_multiple_of(GRANULE) {
        let first = addresses[0].into();
        let steps = addresses.iter().enumerate();
        let skew = steps.fold(0, |d, (i, &a)| {
            d | a.into().wrapping_sub(first.wrapping_add((i * size) as u64))
        });
        if skew == 0 {
            return contiguous(first / GRANULE as u64, size, each);
        }
    }
    let shared_word = if reads && size >= 4 { SEVERAL } else { UNKNOWN };
    let lane_bytes = (1u16 << size) - 1;
    let mut piece = Piece {
        granule: u64::MAX,
        bytes: 0,
        lanes: [NO_LANE; 4],
        first_lane: 0,
    };
    for lane in crate::memory::lanes(mask) {
        let address: u64 = addresses[lane].into();
        let granule = address / GRANULE as u64;
        if granule != piece.granule {
            if piece.bytes != 0 {
                each(piece);
            }
            piece = Piece {
                granule,
                bytes: 0,
                lanes: [NO_LANE; 4],
                first_lane: lane as u8,
            };
        }
        let offset = (address % GRANULE as u64) as usize;
        piece.bytes |= lane_bytes << offset;
        let words = offset / 4..(offset + size).div_ceil(4);
        for word in &mut piece.lanes[words] {
            *word = if *word == NO_LANE {
                lane as u8
            } else {
                shared_word
            };
        }
    }
    if piece.bytes != 0 {
        each(piece);
    }
}

/// [`granules`] for lanes of 4 or 8 bytes, one after the other from the start of `granule` on.
#[inline]
fn contiguous(granule: u64, size: usize, mut each: impl FnMut(Piece)) {
    let lanes_of_granule = GRANULE / size;
    for index in 0..LANES / lanes_of_granule {
        let first = (index * lanes_of_granule) as u8;
        let lanes = if size == 4 {
            [first, first + 1, first + 2, first + 3]
        } else {
            [first, first, first + 1, first + 1]
        };
        each(Piece {
            granule: granule + index as u64,
            bytes: u16::MAX,
            lanes,
            first_lane: first,
        });
    }
}

/// Calls `each` with the granules of the `len` bytes at `start`, of which no lane is known.
pub fn range_granules(start: u64, len: u64, mut each: impl FnMut(Piece)) {
    let end = start + len;
    let mut at = start;
    while at < end {
        let granule = at / GRANULE as u64;
        let stop = end.min((granule + 1) * GRANULE as u64);
        let (from, to) = (at % GRANULE as u64, stop - granule * GRANULE as u64);
        let bytes = (u16::MAX >> (GRANULE as u64 - (to - from))) << from;
        each(Piece {
            granule,
            bytes,
            lanes: [UNKNOWN; 4],
            first_lane: 0,
        });
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(addresses: [u32; 32], mask: u32, size: usize) -> Vec<Piece> {
        let mut all = Vec::new();
        granules(&addresses, mask, size, true, |piece| all.push(piece));
        all
    }

    #[test]
    fn contiguous_words_share_granules() {
        let all = pieces(std::array::from_fn(|i| 4 * i as u32), !0, 4);
        assert_eq!(all.len(), 8);
        let second = Piece {
            granule: 1,
            bytes: !0,
            lanes: [4, 5, 6, 7],
            first_lane: 4,
        };
        assert_eq!(all[1], second);
    }

    #[test]
    fn broadcast_is_one_piece_of_several_lanes() {
        let all = pieces([20; 32], !0, 4);
        let lanes = [NO_LANE, SEVERAL, NO_LANE, NO_LANE];
        assert_eq!(
            all,
            [Piece {
                granule: 1,
                bytes: 0xf0,
                lanes,
                first_lane: 0
            }]
        );
    }

    #[test]
    fn halves_of_a_word_have_unknown_lanes() {
        let all = pieces(std::array::from_fn(|i| 2 * i as u32), 0b11, 2);
        assert_eq!((all[0].bytes, all[0].lanes[0]), (0xf, UNKNOWN));
    }

    #[test]
    fn doubles_cover_two_words() {
        let all = pieces(std::array::from_fn(|i| 8 * i as u32), 0b110, 8);
        assert_eq!(all[0].lanes, [NO_LANE, NO_LANE, 1, 1]);
        assert_eq!(all[1].lanes, [2, 2, NO_LANE, NO_LANE]);
    }

    #[test]
    fn ranges_cover_exactly_their_bytes() {
        let mut bytes = Vec::new();
        range_granules(10, 27, |piece| bytes.push((piece.granule, piece.bytes)));
        assert_eq!(bytes, [(0, 0xfc00), (1, 0xffff), (2, 0x1f)]);
        range_granules(10, 0, |_| panic!("empty"));
    }
}
