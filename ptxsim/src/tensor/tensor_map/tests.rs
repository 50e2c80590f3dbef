use super::element::REPLACE_ORDER;
use super::*;
use ElementType::{BF16, F32Ftz};

const DIMS: [u64; 3] = [64, 10, 6];
const STRIDES: [u64; 2] = [128, 1280];
const BOX: [u32; 3] = [32, 4, 2];
const ONES: [u32; 5] = [1; 5];

fn params() -> TiledParams<'static> {
    TiledParams {
        data_type: 9,
        address: 0x1000,
        dims: &DIMS,
        strides: &STRIDES,
        box_dims: &BOX,
        element_strides: &ONES[..3],
        interleave: 0,
        swizzle: 2,
        l2_promotion: 0,
        oob_fill: 1,
    }
}

#[test]
fn encoding_round_trips() {
    let bytes = encode_tiled(&params()).unwrap();
    let map = TensorMap::decode(&bytes).unwrap();
    assert_eq!(map.element, BF16);
    assert_eq!((map.rank, map.address), (3, 0x1000));
    assert_eq!(map.dims, [64, 10, 6, 1, 1]);
    assert_eq!(map.strides, [128, 1280, 0, 0]);
    assert_eq!(map.box_dims, [32, 4, 2, 1, 1]);
    assert_eq!(map.element_strides, [1; 5]);
    assert_eq!((map.swizzle, map.fill_nan), (Swizzle::B64, true));
    assert_eq!(map.encode(), bytes);
    assert_eq!(map.box_bytes(), 32 * 4 * 2 * 2);
}

#[test]
fn every_field_survives_at_its_limit() {
    let map = TensorMap {
        element: F32Ftz,
        rank: 5,
        address: 0xffff_ffff_ffff_fff0,
        dims: [MAX_DIM, 2, 3, 4, MAX_DIM],
        strides: [STRIDE_LIMIT - 16, 32, 48, 64],
        box_dims: [256, 255, 254, 253, 252],
        element_strides: [8, 7, 6, 5, 4],
        swizzle: Swizzle::B128,
        fill_nan: true,
    };
    assert_eq!(TensorMap::decode(&map.encode()).unwrap(), map);
}

/// Changes one argument; the message must name it.
fn rejected(change: impl Fn(&mut TiledParams<'static>), message: &str) {
    let mut changed = params();
    change(&mut changed);
    let error = encode_tiled(&changed).unwrap_err().to_string();
    assert!(
        error.contains(message),
        "{error:?} does not say {message:?}"
    );
}

#[test]
fn each_rule_is_checked() {
    rejected(
        |p| p.address = 0x1008,
        "address must be a multiple of 16, got 0x1008",
    );
    rejected(|p| p.dims = &[], "rank must be 1 to 5");
    rejected(|p| p.dims = &[1; 6], "rank must be 1 to 5");
    rejected(|p| p.strides = &[128], "rank - 1 strides");
    rejected(|p| p.box_dims = &[32, 4], "rank box dimensions");
    rejected(
        |p| p.dims = &[64, 0, 6],
        "dimension 1 must be 1 to 2^32, got 0",
    );
    rejected(
        |p| p.dims = &[64, 10, MAX_DIM + 1],
        "dimension 2 must be 1 to 2^32",
    );
    rejected(
        |p| p.strides = &[136, 1280],
        "stride 0 must be a multiple of 16",
    );
    rejected(
        |p| p.strides = &[128, 1 << 40],
        "stride 1 must be a multiple of 16 below 2^40",
    );
    rejected(
        |p| p.box_dims = &[32, 0, 2],
        "box dimension 1 must be 1 to 256, got 0",
    );
    rejected(
        |p| p.box_dims = &[32, 4, 257],
        "box dimension 2 must be 1 to 256, got 257",
    );
    rejected(|p| p.box_dims = &[4, 4, 2], "multiple of 16 bytes, got 8");
    rejected(
        |p| p.box_dims = &[40, 4, 2],
        "at most the swizzle's 64 bytes, got 80",
    );
    rejected(
        |p| p.element_strides = &[1, 9, 1],
        "element stride 1 must be 1 to 8, got 9",
    );
    rejected(
        |p| p.element_strides = &[1, 0, 1],
        "element stride 1 must be 1 to 8, got 0",
    );
    rejected(
        |p| p.data_type = 16,
        "data type must be an enumerator, got 16",
    );
    rejected(
        |p| (p.data_type, p.oob_fill) = (1, 1),
        "NaN fill needs a floating-point type",
    );
    rejected(|p| p.oob_fill = 2, "fill must be 0 or 1, got 2");
    rejected(|p| p.swizzle = 7, "swizzle must be 0 to 6, got 7");
    rejected(|p| p.interleave = 3, "interleave must be 0 to 2, got 3");
    rejected(|p| p.l2_promotion = 4, "l2Promotion must be 0 to 3, got 4");
}

#[test]
fn what_is_not_simulated_says_so() {
    let cases: [fn(&mut TiledParams<'static>); 4] = [
        |p| p.data_type = 11,
        |p| p.data_type = 13,
        |p| p.interleave = 1,
        |p| p.swizzle = 4,
    ];
    for change in cases {
        let mut changed = params();
        change(&mut changed);
        assert!(matches!(
            encode_tiled(&changed),
            Err(TensorMapError::Unsupported(_))
        ));
    }
    assert_eq!(im2col().to_string(), "tensor map: im2col is not supported");
}

#[test]
fn foreign_bytes_are_refused() {
    assert!(TensorMap::decode(&[0; ENCODED_BYTES]).is_err());
    assert!(replace_address(&mut [0xff; ENCODED_BYTES], 0).is_err());
}

#[test]
fn replacing_the_address_keeps_the_rest() {
    let mut bytes = encode_tiled(&params()).unwrap();
    let before = TensorMap::decode(&bytes).unwrap();
    replace_address(&mut bytes, 0x2000).unwrap();
    assert_eq!(
        TensorMap::decode(&bytes).unwrap(),
        TensorMap {
            address: 0x2000,
            ..before
        }
    );
    assert!(replace_address(&mut bytes, 0x2001).is_err());
}

#[test]
fn replace_uses_the_codes_of_table_33() {
    let mut map = TensorMap::decode(&encode_tiled(&params()).unwrap()).unwrap();
    for (code, element) in REPLACE_ORDER.into_iter().enumerate() {
        map.replace(Field::ElementType, code as u64).unwrap();
        assert_eq!(map.element, element);
    }
    map.replace(Field::Rank, 1).unwrap();
    map.replace(Field::GlobalDim(1), 7).unwrap();
    map.replace(Field::GlobalStride(0), 256).unwrap();
    map.replace(Field::BoxDim(0), 16).unwrap();
    map.replace(Field::ElementStride(1), 2).unwrap();
    map.replace(Field::SwizzleMode, 1).unwrap();
    map.replace(Field::FillMode, 0).unwrap();
    assert_eq!((map.rank, map.dims[1], map.strides[0]), (2, 7, 256));
    assert_eq!((map.box_dims[0], map.element_strides[1]), (16, 2));
    assert_eq!((map.swizzle, map.fill_nan), (Swizzle::B32, false));
    assert!(map.replace(Field::GlobalStride(4), 16).is_err());
    assert!(map.replace(Field::InterleaveLayout, 1).is_err());
    assert!(map.replace(Field::SwizzleMode, 4).is_err());
}

#[test]
fn a_replaced_map_is_checked_at_its_use() {
    let mut map = TensorMap::decode(&encode_tiled(&params()).unwrap()).unwrap();
    map.replace(Field::BoxDim(1), 300).unwrap();
    let reread = TensorMap::decode(&map.encode()).unwrap();
    assert!(reread.validate().is_err());
}
