//! The image reader on fatbins that nvcc wrote, and on damaged ones.

use ptxsim::image::{self, ImageError, Kind, ptx_for};
use ptxsim::sim::Arch;

/// `images.cu` for five architectures, with machine code for one, by compression mode.
const NONE: &[u8] = include_bytes!("fixtures/images_none.fatbin");
const LZ4: &[u8] = include_bytes!("fixtures/images_speed.fatbin");
const ZSTD: &[u8] = include_bytes!("fixtures/images_size.fatbin");
const TEXT: &str = include_str!("fixtures/surface_sm80.ptx");

/// The target of a text.
fn target(text: &str) -> String {
    ptxsim::ptx::parse(text).unwrap().target
}

/// A fatbin of PTX entries that are stored as `stored` says: (capability, flags, bytes, length).
fn fatbin(entries: &[(u32, u64, &[u8], u64)]) -> Vec<u8> {
    let mut body = Vec::new();
    for &(capability, flags, bytes, length) in entries {
        let mut header = [0u8; 64];
        header[0] = 1;
        header[4] = 64;
        header[8..16].copy_from_slice(&(bytes.len().next_multiple_of(8) as u64).to_le_bytes());
        header[16..20].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        header[28..32].copy_from_slice(&capability.to_le_bytes());
        header[40..48].copy_from_slice(&flags.to_le_bytes());
        header[56..64].copy_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&header);
        body.extend_from_slice(bytes);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    let mut image = 0xBA55_ED50u32.to_le_bytes().to_vec();
    image.extend_from_slice(&[1, 0, 16, 0]);
    image.extend_from_slice(&(body.len() as u64).to_le_bytes());
    image.extend_from_slice(&body);
    image
}

fn text_for(target: &str) -> String {
    format!("// made by hand\n.version 8.0\n.target {target}\n.address_size 64\n")
}

#[test]
fn picks_the_best_ptx_from_each_compression() {
    for image in [NONE, LZ4, ZSTD] {
        assert_eq!(target(&ptx_for(image, Arch::Sm80).unwrap()), "sm_80");
        assert_eq!(target(&ptx_for(image, Arch::Sm90a).unwrap()), "sm_90a");
        let header = image.first_chunk().unwrap();
        assert_eq!(image::container_bytes(header), Ok(image.len()));
        // What lies behind the container is not looked at.
        let longer = [image, &[0xFF; 100]].concat();
        assert_eq!(ptx_for(&longer, Arch::Sm80), ptx_for(image, Arch::Sm80));
    }
    assert_eq!(ptx_for(NONE, Arch::Sm80), ptx_for(ZSTD, Arch::Sm80));
    assert_eq!(ptx_for(NONE, Arch::Sm90a), ptx_for(ZSTD, Arch::Sm90a));
}

#[test]
fn rules_of_choice() {
    let pick = |targets: &[&str], arch| {
        let texts: Vec<String> = targets.iter().map(|target| text_for(target)).collect();
        let capability = |t: &str| {
            t[3..]
                .trim_end_matches(|c: char| c.is_alphabetic())
                .parse()
                .unwrap()
        };
        let entries: Vec<_> = targets
            .iter()
            .zip(&texts)
            .map(|(t, text)| (capability(t), 0x11, text.as_bytes(), 0))
            .collect();
        ptx_for(&fatbin(&entries), arch).map(|text| target(&text))
    };
    assert_eq!(
        pick(&["sm_75", "sm_80", "sm_86"], Arch::Sm80).unwrap(),
        "sm_80"
    );
    assert_eq!(pick(&["sm_75", "sm_86"], Arch::Sm80).unwrap(), "sm_75");
    assert_eq!(pick(&["sm_90", "sm_90a"], Arch::Sm90a).unwrap(), "sm_90a");
    assert_eq!(pick(&["sm_90a", "sm_90"], Arch::Sm90a).unwrap(), "sm_90a");
    assert_eq!(
        pick(&["sm_80", "sm_90", "sm_100"], Arch::Sm90a).unwrap(),
        "sm_90"
    );
    assert_eq!(pick(&["sm_80"], Arch::Sm90a).unwrap(), "sm_80");
    assert_eq!(pick(&["sm_90a", "sm_86"], Arch::Sm90a).unwrap(), "sm_90a");
    let none = pick(&["sm_90a", "sm_100f"], Arch::Sm80).unwrap_err();
    assert_eq!(
        none.to_string(),
        "image: no PTX for sm_80, found PTX for sm_90, PTX for sm_100"
    );
    assert_eq!(
        pick(&[], Arch::Sm80).unwrap_err().to_string(),
        "image: no PTX for sm_80, found nothing"
    );
}

#[test]
fn texts_with_and_without_a_nul() {
    assert_eq!(ptx_for(TEXT.as_bytes(), Arch::Sm80).unwrap(), TEXT);
    let c_string = [TEXT.as_bytes(), b"\0garbage"].concat();
    assert_eq!(ptx_for(&c_string, Arch::Sm90a).unwrap(), TEXT);
    let newer = text_for("sm_90a");
    let error = ptx_for(newer.as_bytes(), Arch::Sm80).unwrap_err();
    assert_eq!(
        error.to_string(),
        "image: no PTX for sm_80, found PTX for sm_90a"
    );
}

#[test]
fn kinds() {
    assert_eq!(image::kind(NONE), Kind::Fatbin);
    assert_eq!(image::kind(b"\x7fELF\x02\x01"), Kind::Cubin);
    assert_eq!(image::kind(&0x4662_43B1u32.to_le_bytes()), Kind::Wrapper);
    assert_eq!(image::kind(b""), Kind::Text);
    assert!(matches!(
        ptx_for(b"\x7fELF\x02\x01", Arch::Sm80),
        Err(ImageError::NoPtx { .. })
    ));
    assert!(matches!(
        ptx_for(&0x4662_43B1u32.to_le_bytes(), Arch::Sm80),
        Err(ImageError::Malformed(_))
    ));
}

#[test]
fn lz4_and_its_limits() {
    let text = text_for("sm_80").repeat(20);
    let block = lz4_flex::block::compress(text.as_bytes());
    let of =
        |length: u64, block: &[u8]| ptx_for(&fatbin(&[(80, 0x2011, block, length)]), Arch::Sm80);
    assert_eq!(of(text.len() as u64, &block).unwrap(), text);
    for length in [0, 10, u64::MAX, 1 << 40, 200 << 20] {
        assert!(
            matches!(of(length, &block), Err(ImageError::Malformed(_))),
            "length {length}"
        );
    }
    assert!(matches!(
        of(text.len() as u64, &block[..block.len() / 2]),
        Err(ImageError::Malformed(_))
    ));
}

#[test]
fn zstd_that_is_longer_or_shorter_than_its_entry_says() {
    // The decompressed length of the first entry lies at byte 56 of its header.
    let at = 16 + 56;
    for change in [-1i64, 1, 1 << 20] {
        let mut image = ZSTD.to_vec();
        let length = u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        image[at..at + 8].copy_from_slice(&length.wrapping_add_signed(change).to_le_bytes());
        // The first entry is sm_75: only a search that gets there sees the damage.
        assert!(ptx_for(&image, Arch::Sm80).is_ok());
        let mut alone = image.clone();
        let entry_end = 16 + 80 + u64::from_le_bytes(image[24..32].try_into().unwrap()) as usize;
        alone.truncate(entry_end);
        alone[8..16].copy_from_slice(&((entry_end - 16) as u64).to_le_bytes());
        assert!(
            matches!(ptx_for(&alone, Arch::Sm80), Err(ImageError::Malformed(_))),
            "change {change}"
        );
    }
}

#[test]
fn cut_and_contradictory_containers() {
    for length in 4..NONE.len() {
        assert!(
            matches!(
                ptx_for(&NONE[..length], Arch::Sm80),
                Err(ImageError::Malformed(_))
            ),
            "{length} bytes"
        );
    }
    // Entry header of 0 bytes, payload beyond the end, sizes that overflow.
    for (at, value) in [
        (20, 0u64),
        (24, u64::MAX),
        (24, 1 << 62),
        (8, u64::MAX),
        (8, 1 << 63),
    ] {
        let mut image = NONE.to_vec();
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        assert!(
            matches!(ptx_for(&image, Arch::Sm80), Err(ImageError::Malformed(_))),
            "{value} at {at}"
        );
    }
}
