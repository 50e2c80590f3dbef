//! Hostile input: whatever the bytes, the parser and the image reader return, in time and memory
//! that the length of the input bounds.

use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use ptxsim::image::ptx_for;
use ptxsim::ptx::parse;
use ptxsim::sim::Arch;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One test at a time: the peak is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes of memory a byte of input may cost. An instruction of two letters and an operand of one
/// digit become about 250 bytes of syntax tree, held twice while a vector grows.
const MEMORY_PER_BYTE: usize = 200;
/// What is spent whatever the input: tables of a decompressor, messages.
const MEMORY_BASE: usize = 4 << 20;
/// No input here is longer than 64 KiB.
const TIME: Duration = Duration::from_secs(2);

const TEXTS: [&str; 2] = [
    include_str!("fixtures/surface_sm80.ptx"),
    include_str!("fixtures/surface_sm90a.ptx"),
];
const IMAGES: [&[u8]; 3] = [
    include_bytes!("fixtures/images_none.fatbin"),
    include_bytes!("fixtures/images_speed.fatbin"),
    include_bytes!("fixtures/images_size.fatbin"),
];

/// Runs `f` within the limits for an input of `length` bytes.
fn bounded<T>(length: usize, f: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let start = Instant::now();
    let result = f();
    let used = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(
        start.elapsed() < TIME,
        "{length} bytes took {:?}",
        start.elapsed()
    );
    let limit = MEMORY_BASE + MEMORY_PER_BYTE * length;
    assert!(
        used <= limit,
        "{length} bytes of input took {used} bytes of memory"
    );
    result
}

fn check_text(text: &str) {
    let _ = bounded(text.len(), || parse(text));
}

fn check_image(image: &[u8]) {
    for arch in [Arch::Sm80, Arch::Sm90a] {
        // A zstd frame of a few bytes may hold any length: the limit is the promised one.
        let _ = bounded(image.len(), || ptx_for(image, arch));
    }
}

/// Pieces from which texts are put together that get deep into the grammar.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "(",
            ")",
            "[",
            "]",
            "<",
            ">",
            ";",
            ",",
            ":",
            "@",
            "!",
            "|",
            "+",
            "-",
            "=",
            "?",
            ".reg ",
            ".b32 ",
            ".pred ",
            "%r<10>",
            "%r1",
            "%p1",
            "%tid.x",
            "_",
            "x",
            "L",
            "L:",
            ".shared ",
            ".param ",
            ".global ",
            ".local ",
            ".align ",
            ".entry k",
            ".func f",
            ".v4",
            "ret",
            "bra ",
            "call ",
            "mov.u32 ",
            ".branchtargets ",
            ".loc 1 2 3",
            ".file 1 \"a\"",
            ".section .x {",
            ".alias ",
            ".extern ",
            "generic(",
            "0xFF(",
            "WARP_SZ",
            "0f3F800000",
            "1.5",
            "18446744073709551615",
            ".pragma \"x\"",
            "//",
            "/*",
            "*/",
            "\"",
            "\n",
            " ",
            ".b8 y[3] = {1,2,3}",
            ".noreturn ",
            ".maxntid 1,2",
            "[99999999999]",
        ])
        .prop_map(str::to_owned),
        any::<u64>().prop_map(|number| number.to_string()),
        ".{0,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_texts(fragments in vec(fragment(), 0..200)) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let text = fragments.concat();
        check_text(&text);
        check_text(&format!(".version 9.0 .target sm_90a .entry k() {{ {text}"));
        check_text(&format!(".version 9.0 .target sm_90a .global .b32 x[4] = {{ {text}"));
    }

    #[test]
    fn mutated_texts(
        which in 0usize..2,
        cut in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), fragment()), 0..6),
    ) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut bytes = TEXTS[which].as_bytes().to_vec();
        for (at, insert) in changes {
            let at = at.index(bytes.len());
            let end = (at + insert.len() / 2).min(bytes.len());
            bytes.splice(at..end, insert.bytes());
        }
        check_text(&String::from_utf8_lossy(&bytes));
        bytes.truncate(cut.index(bytes.len() + 1));
        check_text(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn arbitrary_images(mut image in vec(any::<u8>(), 0..2000), magic in any::<bool>()) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if magic && image.len() >= 16 {
            let body = image.len() as u64 - 16;
            image[..8].copy_from_slice(&[0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0]);
            image[8..16].copy_from_slice(&body.to_le_bytes());
        }
        check_image(&image);
    }

    #[test]
    fn mutated_images(
        which in 0usize..3,
        cut in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut image = IMAGES[which].to_vec();
        for (at, byte) in changes {
            let at = at.index(image.len());
            image[at] = byte;
        }
        check_image(&image);
        check_image(&image[..cut.index(image.len() + 1)]);
    }
}

/// A zstd frame whose one block repeats a byte `length` times, 3 bytes for 128 KiB.
fn zstd_bomb(length: usize) -> Vec<u8> {
    // Magic; no checksum, no content size, window descriptor for 128 KiB.
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 7 << 3];
    let blocks = length / (128 << 10);
    for block in 0..blocks {
        let header = ((128u32 << 10) << 3) | (1 << 1) | u32::from(block + 1 == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(b' ');
    }
    frame
}

#[test]
fn a_decompression_bomb_stops_at_the_promised_length() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let frame = zstd_bomb(1 << 30);
    let mut image = IMAGES[2][..16].to_vec();
    let mut header = IMAGES[2][16..16 + 64].to_vec();
    header[4..8].copy_from_slice(&64u32.to_le_bytes());
    header[8..16].copy_from_slice(&(frame.len() as u64).to_le_bytes());
    header[16..20].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    header[56..64].copy_from_slice(&1000u64.to_le_bytes());
    image[8..16].copy_from_slice(&(64 + frame.len() as u64).to_le_bytes());
    image.extend_from_slice(&header);
    image.extend_from_slice(&frame);
    let error = bounded(image.len(), || ptx_for(&image, Arch::Sm80)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1001 bytes or more where the entry says 1000"),
        "{error}"
    );
}

#[test]
fn nested_and_repeated_constructs_stay_linear() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let head = ".version 9.0 .target sm_90a .entry k() { .reg .b32 r; ";
    for (open, count) in [
        ("{", 60_000),
        ("x {", 20_000),
        ("x (", 20_000),
        ("x [r, {", 8_000),
        ("x -(", 15_000),
        ("x 1?", 15_000),
        ("x; ", 20_000),
        ("x 1; ", 12_000),
        ("x r,r,r,r; ", 6_000),
        ("L: ", 1),
        ("bra a; ", 9_000),
        (".reg .b32 %q<4294967295>; {", 250),
        (".shared .b8 s[9999999999]; {", 250),
        ("t: .branchtargets a, a, a, a, a, a; {", 250),
    ] {
        check_text(&format!("{head}{}", open.repeat(count)));
    }
    for array in [
        "x[2][9223372036854775807] = {{1},{1}}",
        "x[2][1000000] = {{1},{1}}",
        "x[9][9][9] = {{{{1}}}}",
    ] {
        check_text(&format!(
            ".version 9.0 .target sm_90a .global .b64 {array};"
        ));
    }
}
