//! Runs one instruction over rows of operands, each lane with operands of its own, and compares
//! with a definition in Rust.

use crate::exact;
use crate::values::{Kind, operands};
use ptxsim::memory::Memory;
use ptxsim::sim::{self, Arch, Checks, LaunchConfig, Module};
use std::fmt::Write;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

/// Threads of a block: four warps.
const BLOCK: usize = 128;
/// Bytes of an operand or result in memory, whatever its type.
const SLOT: usize = 8;

/// When a result counts as right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compare {
    /// The same bits.
    Bits,
    /// The same bits, or NaN of any payload and sign on both sides.
    Float(exact::Format),
    /// The same for each half of 32 bits.
    Halves(exact::Format),
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
    }
}

/// Runs every row and reports all that fail, each with its first wrong lane.
pub fn check(arch: Arch, rows: Vec<Row>) {
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
    let text = kernel_text(arch, row);
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
        lanes.len().next_multiple_of(BLOCK),
        vec![0; row.operands.len()],
    );
    let results = launch(arch, &text, &lanes, row.results.len()).map_err(fail)?;
    let expected = match &row.definition {
        Definition::Lane(definition) => lanes
            .iter()
            .map(|lane| definition(lane))
            .collect::<Vec<_>>(),
        Definition::Warp(definition) => lanes.chunks(32).flat_map(definition).collect(),
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

/// A kernel that loads a lane's operands, runs the row's instructions and stores the results.
fn kernel_text(arch: Arch, row: &Row) -> String {
    let target = match arch {
        Arch::Sm80 => "sm_80",
        Arch::Sm90a => "sm_90a",
    };
    let mut text = format!(
        ".version 8.6\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .b64 %in, %out;\n.reg .b32 %index, %thread, %block;\n\
         ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\n\
         mov.u32 %thread, %tid.x;\nmov.u32 %block, %ctaid.x;\nmad.lo.u32 %index, %block, {BLOCK}, %thread;\n\
         mad.wide.u32 %in, %index, {}, %in;\nmad.wide.u32 %out, %index, {}, %out;\n",
        row.operands.len() * SLOT,
        row.results.len() * SLOT,
    );
    for (index, kind) in row.operands.iter().enumerate() {
        load(&mut text, *kind, index);
    }
    for (index, kind) in row.results.iter().enumerate() {
        let register = kind.register();
        writeln!(text, ".reg .{register} %d{index};").unwrap();
    }
    let mut instruction = row.text.clone();
    // From the highest, so that `$1` does not touch `$10`.
    for index in (0..row.results.len()).rev() {
        instruction = instruction.replace(&format!("$d{index}"), &format!("%d{index}"));
    }
    for index in (0..row.operands.len()).rev() {
        instruction = instruction.replace(&format!("${index}"), &format!("%a{index}"));
    }
    writeln!(text, "{instruction}").unwrap();
    for (index, kind) in row.results.iter().enumerate() {
        store(&mut text, *kind, index);
    }
    text.push_str("ret;\n}\n");
    text
}

fn load(text: &mut String, kind: Kind, index: usize) {
    let (register, offset) = (kind.register(), index * SLOT);
    writeln!(text, ".reg .{register} %a{index};").unwrap();
    if kind == Kind::Pred {
        writeln!(
            text,
            ".reg .b32 %p{index};\nld.global.b32 %p{index}, [%in+{offset}];"
        )
        .unwrap();
        writeln!(text, "setp.ne.u32 %a{index}, %p{index}, 0;").unwrap();
    } else {
        writeln!(text, "ld.global.{register} %a{index}, [%in+{offset}];").unwrap();
    }
}

fn store(text: &mut String, kind: Kind, index: usize) {
    let (register, offset) = (kind.register(), index * SLOT);
    if kind == Kind::Pred {
        writeln!(
            text,
            ".reg .b32 %q{index};\nselp.b32 %q{index}, 1, 0, %d{index};"
        )
        .unwrap();
        writeln!(text, "st.global.b32 [%out+{offset}], %q{index};").unwrap();
    } else {
        writeln!(text, "st.global.{register} [%out+{offset}], %d{index};").unwrap();
    }
}

/// Runs a kernel over rows of operands and returns `results` values a row.
fn launch(arch: Arch, text: &str, lanes: &[Vec<u64>], results: usize) -> Result<Vec<u64>, String> {
    let input: Vec<u8> = lanes
        .iter()
        .flatten()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let memory = Arc::new(Memory::new(1 << 30));
    let (from, to) = (
        memory.alloc(input.len() as u64),
        memory.alloc((lanes.len() * results * SLOT) as u64),
    );
    let (Some(from), Some(to)) = (from, to) else {
        return Err("no memory".into());
    };
    memory
        .copy_in(from, &input)
        .map_err(|error| error.message)?;
    let blocks = (lanes.len() / BLOCK) as u32;
    let params = [from.to_le_bytes(), to.to_le_bytes()].concat();
    run_kernel(
        arch,
        text,
        &memory,
        [blocks, 1, 1],
        [BLOCK as u32, 1, 1],
        0,
        &params,
    )?;
    let mut output = vec![0; lanes.len() * results * SLOT];
    memory
        .copy_out(to, &mut output)
        .map_err(|error| error.message)?;
    Ok(output
        .chunks_exact(SLOT)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        .collect())
}

/// Loads a text, runs its kernel `k` with all checks and expects no finding.
pub fn run_kernel(
    arch: Arch,
    text: &str,
    memory: &Arc<Memory>,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    params: &[u8],
) -> Result<(), String> {
    let module = Module::load(text, arch, memory).map_err(|error| error.to_string())?;
    let kernel = module.kernel("k").ok_or("no kernel `k`")?;
    let config = LaunchConfig {
        grid,
        block,
        cluster: [1; 3],
        dynamic_shared,
        cooperative: false,
    };
    let outcome = sim::launch(memory, &kernel, &config, params, Checks::All);
    match (outcome.result, outcome.report.findings.first()) {
        (Ok(()), None) => Ok(()),
        (result, finding) => Err(format!("{result:?}, {finding:?}")),
    }
}
