use super::*;
use crate::memory::Buffer;
use crate::report::FindingKind;

fn row<'m>(buffer: &'m Buffer, addresses: &[u64; 32], mask: u32, size: usize) -> Row<'m> {
    Row::in_span(buffer.span(), 0x1000, addresses, mask, size, outside).unwrap()
}

fn outside(_: u64) -> AccessError {
    AccessError {
        kind: FindingKind::OutOfBounds,
        message: "outside".into(),
    }
}

fn strided(stride: u64) -> [u64; 32] {
    std::array::from_fn(|i| 0x1000 + i as u64 * stride)
}

#[test]
fn contiguous_and_scattered_agree() {
    let buffer = Buffer::new(1024, 0).unwrap();
    let values: [u32; 32] = std::array::from_fn(|i| i as u32 * 3);
    row(&buffer, &strided(4), !0, 4).store(0, &values);
    let mut reversed = strided(4);
    reversed.reverse();
    let mut out = [0u32; 32];
    row(&buffer, &reversed, !0, 4).load(0, &mut out);
    assert!((0..32).all(|i| out[i] == values[31 - i]));
}

#[test]
fn inactive_lanes_keep_their_values_and_are_not_checked() {
    let buffer = Buffer::new(128, 0).unwrap();
    let mut addresses = strided(4);
    addresses[5] = 3;
    let mut out = [7u32; 32];
    row(&buffer, &addresses, !(1 << 5), 4).load(0, &mut out);
    assert_eq!((out[4], out[5]), (0, 7));
}

#[test]
fn bounds_are_exact() {
    let buffer = Buffer::new(128, 0).unwrap();
    let make = |last: u64, size| {
        let mut addresses = [0x1000; 32];
        addresses[31] = last;
        Row::in_span(buffer.span(), 0x1000, &addresses, !0, size, outside).err()
    };
    assert_eq!(make(0x1000 + 124, 4), None);
    assert_eq!(make(0x1000 + 128, 4).unwrap().lane, 31);
    assert_eq!(make(0x1000 + 127, 1), None);
    assert_eq!(make(0xffc, 4).unwrap().address, 0xffc);
    assert_eq!(make(u64::MAX - 3, 4).unwrap().lane, 31);
}

#[test]
fn access_larger_than_the_span_is_outside() {
    let buffer = Buffer::new(8, 0).unwrap();
    let row = Row::in_span(buffer.span(), 0x1000, &[0x1000; 32], 1, 16, outside);
    assert_eq!(row.unwrap_err().error.kind, FindingKind::OutOfBounds);
}

#[test]
fn misaligned_lane_is_named() {
    let buffer = Buffer::new(1024, 0).unwrap();
    let mut addresses = strided(8);
    addresses[9] += 4;
    let error = Row::in_span(buffer.span(), 0x1000, &addresses, !0, 8, outside).unwrap_err();
    assert_eq!((error.lane, error.error.kind), (9, FindingKind::Misaligned));
}

#[test]
fn validity_by_lane() {
    let buffer = Buffer::new(1024, 0).unwrap();
    let all = row(&buffer, &strided(4), !0, 4);
    assert_eq!(all.defined(0, 4), 0);
    all.set_defined(0, 4, !0);
    assert_eq!(all.defined(0, 4), !0);
    all.set_defined(0, 4, !(1 << 3));
    assert_eq!(all.defined(0, 4), !(1 << 3));
    let vectors = row(&buffer, &strided(16), 0xff, 16);
    vectors.set_defined(4, 8, 0xff);
    assert_eq!(
        (vectors.defined(4, 8), vectors.defined(0, 16)),
        (0xff, 0xfe)
    );
}

#[test]
fn several_allocations() {
    let (a, b) = (
        Buffer::new(64, 0).unwrap(),
        Buffer::untracked(64, 1).unwrap(),
    );
    let mut spans = [None; 32];
    spans[0] = Some(a.span().sub(8, 4));
    spans[1] = Some(b.span().sub(0, 4));
    let row = Row::from_lanes(&spans, 0b11, 4);
    row.store(0, &[5u32; 32]);
    assert_eq!((a.span().load::<u32>(8), b.span().load::<u32>(0)), (5, 5));
    assert_eq!(row.defined(0, 4), 0b10);
    row.set_defined(0, 4, !0);
    assert_eq!(row.defined(0, 4), 0b11);
}
