//! Runs one instruction over rows of operands, each lane with operands of its own, and compares
//! with a definition in Rust.

use crate::exact;
use crate::kernel::{kernel_text, launch};
use crate::values::{Kind, operands};
use ptxsim::sim::Arch;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// Threads of a block: four warps.
pub const BLOCK: usize = 128;

/// When a result counts as right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compare {
    /// The same bits.
    Bits,
    /// The same bits, or NaN of any payload and sign on both sides.
    Float(exact::Format),
    /// The same for each half of 32 bits.
    Halves(exact::Format),
    /// As `Float`, with zeros of either sign.
    UnsignedZero(exact::Format),
    /// As `Halves`, with zeros of either sign.
    UnsignedZeros(exact::Format),
    /// The same for each of two bytes.
    Bytes(exact::Format),
    /// f32 within this many units in the last place of the definition; NaN, infinities and zeros as
    /// the definition has them.
    Ulp(f64),
    /// f64 within this part of the definition; NaN, infinities and zeros as the definition has them.
    Relative64(f64),
    /// f32 within this distance, for functions whose error PTX states absolutely.
    Absolute(f64),
}

/// An instruction and its definition.
pub struct Row {
    /// PTX with `$d0`.. for results and `$0`.. for operands. Several instructions are allowed.
    pub text: String,
    /// Results.
    pub results: Vec<Kind>,
    /// Operands.
    pub operands: Vec<Kind>,
    /// Comparison of every result.
    pub compare: Compare,
    /// Results of one lane from its operands, in the low bits; `None` where PTX leaves it open.
    pub definition: Definition,
    /// What surrounds the instruction.
    pub setting: Setting,
}

/// What surrounds a row's instruction, where it needs more than a kernel of independent blocks.
#[derive(Default)]
pub struct Setting {
    /// PTX before the kernel: functions and variables.
    pub prelude: String,
    /// Performance directives of the kernel.
    pub directives: &'static str,
    /// Blocks of a cluster beyond the first.
    pub peers: u32,
}

impl Row {
    /// The row in another setting.
    pub fn set(self, setting: Setting) -> Row {
        Row { setting, ..self }
    }
}

/// The results of a lane from its operands; `None` where PTX leaves them open.
type LaneDefinition = dyn Fn(&[u64]) -> Option<Vec<u64>>;
/// The results of each lane from the operands of all lanes.
type WarpDefinition = dyn Fn(&[Vec<u64>]) -> Vec<Option<Vec<u64>>>;

/// How a result is defined.
pub enum Definition {
    /// Lane by lane.
    Lane(Box<LaneDefinition>),
    /// From the operands of a whole warp; the result has one entry for each lane.
    Warp(Box<WarpDefinition>),
    /// As `Warp`, of a cluster of blocks, or of one block.
    Cluster(Box<WarpDefinition>),
}

/// A row with one result, defined lane by lane.
pub fn row(
    text: impl Into<String>,
    result: Kind,
    operands: &[Kind],
    compare: Compare,
    definition: impl Fn(&[u64]) -> u64 + 'static,
) -> Row {
    Row {
        text: text.into(),
        results: vec![result],
        operands: operands.to_vec(),
        compare,
        definition: Definition::Lane(Box::new(move |lane| Some(vec![definition(lane)]))),
        setting: Setting::default(),
    }
}

/// A row with several results, defined lane by lane.
pub fn several(
    text: impl Into<String>,
    results: &[Kind],
    operands: &[Kind],
    definition: impl Fn(&[u64]) -> Vec<u64> + 'static,
) -> Row {
    Row {
        results: results.to_vec(),
        definition: Definition::Lane(Box::new(move |lane| Some(definition(lane)))),
        ..row(text, results[0], operands, Compare::Bits, |_| 0)
    }
}

/// A row that is defined for the threads of a block, or of a cluster, together.
pub fn cluster_row(
    text: impl Into<String>,
    results: &[Kind],
    operands: &[Kind],
    compare: Compare,
    definition: impl Fn(&[Vec<u64>]) -> Vec<Option<Vec<u64>>> + 'static,
) -> Row {
    Row {
        results: results.to_vec(),
        definition: Definition::Cluster(Box::new(definition)),
        ..row(text, results[0], operands, compare, |_| 0)
    }
}

/// A row whose result PTX leaves open for some operands.
pub fn partial(
    text: impl Into<String>,
    result: Kind,
    operands: &[Kind],
    compare: Compare,
    definition: impl Fn(&[u64]) -> Option<u64> + 'static,
) -> Row {
    Row {
        definition: Definition::Lane(Box::new(move |lane| {
            definition(lane).map(|result| vec![result])
        })),
        ..row(text, result, operands, compare, |_| 0)
    }
}

/// A row that is defined for the 32 lanes of a warp together.
pub fn warp_row(
    text: impl Into<String>,
    results: &[Kind],
    operands: &[Kind],
    definition: impl Fn(&[Vec<u64>]) -> Vec<Option<Vec<u64>>> + 'static,
) -> Row {
    Row {
        text: text.into(),
        results: results.to_vec(),
        operands: operands.to_vec(),
        compare: Compare::Bits,
        definition: Definition::Warp(Box::new(definition)),
        setting: Setting::default(),
    }
}

thread_local! {
    /// Opcodes of the rows, while they are listed instead of run.
    static LISTED: RefCell<Option<BTreeSet<String>>> = const { RefCell::new(None) };
}

/// The opcodes of the rows that `tables` would run.
pub fn opcodes(tables: &[fn()]) -> BTreeSet<String> {
    LISTED.set(Some(BTreeSet::new()));
    tables.iter().for_each(|table| table());
    LISTED.take().expect("set above")
}

/// Opcodes of a row's own instructions.
fn own_opcodes(arch: Arch, row: &Row) -> BTreeSet<String> {
    let opcodes = |text: &str| -> Vec<String> {
        let module = ptxsim::ptx::parse(text).unwrap_or_else(|e| panic!("{}: {e}", row.text));
        let bodies = module.functions.iter().flat_map(|f| &f.body);
        bodies
            .map(|instruction| instruction.opcode.clone())
            .collect()
    };
    let mut own = opcodes(&kernel_text(arch, row, &row.text, &row.setting.prelude));
    for opcode in opcodes(&kernel_text(arch, row, "", "")) {
        let index = own.iter().position(|other| *other == opcode);
        own.swap_remove(index.expect("part of every kernel"));
    }
    own.into_iter().collect()
}

/// Runs every row and reports all that fail, each with its first wrong lane.
pub fn check(arch: Arch, rows: Vec<Row>) {
    let listed = LISTED.with_borrow_mut(|listed| {
        let Some(listed) = listed else { return false };
        listed.extend(rows.iter().flat_map(|row| own_opcodes(arch, row)));
        true
    });
    if listed {
        return;
    }
    let failures: Vec<String> = rows.iter().filter_map(|row| run(arch, row).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} rows fail:\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
}

fn run(arch: Arch, row: &Row) -> Result<(), String> {
    let fail = |message: String| format!("  {}: {message}", row.text);
    let text = kernel_text(arch, row, &row.text, &row.setting.prelude);
    if let Ok(folder) = std::env::var("PTXSIM_TEST_DUMP") {
        // File systems allow 255 bytes; the hash tells rows with one beginning apart.
        let name: String = row
            .text
            .chars()
            .take(150)
            .map(|c| if c.is_alphanumeric() { c } else { '_' })
            .collect();
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&text);
        std::fs::write(format!("{folder}/{name}_{hash:016x}.ptx"), &text).unwrap();
    }
    let mut lanes = operands(&row.operands);
    lanes.resize(
        lanes
            .len()
            .next_multiple_of(BLOCK * (1 + row.setting.peers as usize)),
        vec![0; row.operands.len()],
    );
    let results = launch(arch, &text, &lanes, row).map_err(fail)?;
    let expected = match &row.definition {
        Definition::Lane(definition) => lanes
            .iter()
            .map(|lane| definition(lane))
            .collect::<Vec<_>>(),
        Definition::Warp(definition) => lanes.chunks(32).flat_map(definition).collect(),
        Definition::Cluster(definition) => {
            let threads = BLOCK * (1 + row.setting.peers as usize);
            lanes.chunks(threads).flat_map(definition).collect()
        }
    };
    for (index, (lane, expected)) in lanes.iter().zip(expected).enumerate() {
        let Some(expected) = expected else { continue };
        for (at, &expected) in expected.iter().enumerate() {
            let kind = row.results[at];
            let actual = results[index * row.results.len() + at] & kind.mask();
            let expected = expected & kind.mask();
            if !agrees(row.compare, actual, expected) {
                return Err(fail(format!(
                    "lane {index}, operands {lane:#x?}, result {at}: {actual:#x}, defined as {expected:#x}"
                )));
            }
        }
    }
    Ok(())
}

fn agrees(compare: Compare, actual: u64, expected: u64) -> bool {
    if actual == expected {
        return true;
    }
    let (a, e) = (
        f64::from(f32::from_bits(actual as u32)),
        f64::from(f32::from_bits(expected as u32)),
    );
    match compare {
        Compare::Bits => false,
        Compare::Float(format) => format.is_nan(actual) && format.is_nan(expected),
        Compare::Halves(format) => parts_agree(format, 16, actual, expected),
        Compare::UnsignedZero(format) => {
            format.is_nan(actual) && format.is_nan(expected)
                || (actual | expected) & !format.sign_bit() == 0
        }
        Compare::UnsignedZeros(format) => [0, 16].into_iter().all(|shift| {
            let half = |value: u64| value >> shift & 0xFFFF;
            agrees(Compare::UnsignedZero(format), half(actual), half(expected))
        }),
        Compare::Bytes(format) => parts_agree(format, 8, actual, expected),
        Compare::Ulp(limit) => {
            let ulp = f64::from(f32::from_bits(expected as u32 & 0x7F80_0000)) * 2f64.powi(-23);
            // Below the normal range the unit stays that of the smallest normal number.
            let ulp = ulp.max(2f64.powi(-149));
            a.is_nan() && e.is_nan() || e.is_finite() && (a - e).abs() <= limit * ulp
        }
        Compare::Relative64(limit) => {
            let (a, e) = (f64::from_bits(actual), f64::from_bits(expected));
            a.is_nan() && e.is_nan() || e.is_finite() && (a - e).abs() <= limit * e.abs()
        }
        Compare::Absolute(limit) => a.is_nan() && e.is_nan() || (a - e).abs() <= limit,
    }
}

/// Both parts of `bits` bits are the same, or NaN on both sides.
fn parts_agree(format: exact::Format, bits: u32, actual: u64, expected: u64) -> bool {
    [0, bits].iter().all(|&shift| {
        let part = |value: u64| value >> shift & ((1 << bits) - 1);
        let (actual, expected) = (part(actual), part(expected));
        actual == expected || format.is_nan(actual) && format.is_nan(expected)
    })
}
