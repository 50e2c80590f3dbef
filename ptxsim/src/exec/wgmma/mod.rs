//! `wgmma`: asynchronous matrix products of a warpgroup, on `sm_90a`.
//!
//! ```text
//! groups    fence, commit_group and wait_group
//! operands  matrices in shared memory, found through descriptors
//! tracked   registers of unfinished products that other instructions touch
//! ```
//!
//! A product is computed when it is issued, by each warp for its 16 rows. That it may finish later is
//! kept as a record: of its registers in [`tracked`], of its shared memory in the race detector.

pub mod groups;
pub mod operands;
pub mod tracked;

use super::mma::{check_operands, dests, sources};
use super::registers::{Dest, Predicate, Source};
use super::step::Step;
use super::warp::Warp;
use super::warpgroup::{Operands, WARPS};
use crate::checks::Agent;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand};
use crate::report::FindingKind;
use crate::sim::{Arch, LaunchError};
use crate::tensor::descriptor::Major;
use crate::tensor::format::Format;
use crate::tensor::model::{Accumulator, Model};
use crate::tensor::product::{Arithmetic, OperandA, Product, Row};
use std::cell::RefCell;
use std::sync::Arc;

/// The opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("wgmma.mma_async.sync.aligned", mma_async),
    ("wgmma.fence.sync.aligned", groups::fence),
    ("wgmma.commit_group.sync.aligned", groups::commit_group),
    ("wgmma.wait_group.sync.aligned", groups::wait_group),
];

thread_local! {
    /// A's fragment and the accumulators of the instruction at hand; kept to spare allocations.
    static REGISTERS: RefCell<(OperandA, Vec<Row>)> = RefCell::default();
}

/// A decoded `wgmma.mma_async`.
pub struct Wgmma {
    /// The share of one warp.
    product: Product,
    d: Vec<Dest<u32>>,
    a: MatrixA,
    b: Source<u64>,
    /// D is added to where it is true.
    add: Predicate,
    negate: [bool; 2],
    majors: [Major; 2],
}

enum MatrixA {
    Registers(Vec<Source<u32>>),
    Shared(Source<u64>),
}

fn require_sm90a(d: &Decoder<'_>) -> Result<(), Unsupported> {
    match d.arch {
        Arch::Sm90a => Ok(()),
        Arch::Sm80 => Err(Unsupported::new("wgmma needs sm_90a")),
    }
}

fn mma_async(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    require_sm90a(d)?;
    let modifiers = d.modifiers(i);
    let (columns, depth) = shape(&modifiers)?;
    let arithmetic = arithmetic(&modifiers, columns, depth)?;
    let product = Product {
        rows: 16,
        columns,
        depth,
        arithmetic,
    };
    let a = match d.operand(i, 1)? {
        registers @ Operand::Vector(_) => {
            MatrixA::Registers(sources(d, registers, product.a_registers())?)
        }
        descriptor => MatrixA::Shared(d.source64(descriptor)?),
    };
    let integers: Vec<i64> = i
        .operands
        .iter()
        .skip(4)
        .map(immediate)
        .collect::<Result<_, _>>()?;
    let in_registers = matches!(a, MatrixA::Registers(_));
    let (negate, majors) = scales_and_majors(arithmetic, in_registers, &integers)?;
    let instruction = Wgmma {
        product,
        d: dests(d, d.operand(i, 0)?, product.d_registers())?,
        a,
        b: d.source64(d.operand(i, 2)?)?,
        add: d.predicate(d.operand(i, 3)?)?,
        negate,
        majors,
    };
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        instruction.execute(warp, mask).map(|()| Step::Next).into()
    }))
}

/// n and k of `m64nNkK`.
fn shape(modifiers: &Modifiers<'_>) -> Result<(usize, usize), Unsupported> {
    let name = modifiers.next().unwrap_or_default();
    let sizes = name
        .strip_prefix("m64n")
        .and_then(|rest| rest.split_once('k'));
    let parsed = sizes.and_then(|(n, k)| Some((n.parse().ok()?, k.parse().ok()?)));
    let valid = |&(n, _): &(usize, usize)| n % 8 == 0 && (8..=256).contains(&n);
    parsed
        .filter(valid)
        .ok_or_else(|| Unsupported::new(format!("shape .{name}")))
}

/// The types of D, A and B, after the shape.
fn arithmetic(
    modifiers: &Modifiers<'_>,
    columns: usize,
    depth: usize,
) -> Result<Arithmetic, Unsupported> {
    let saturate = modifiers.take("satfinite");
    let types: Vec<&str> = std::iter::from_fn(|| modifiers.next()).collect();
    let unsupported = || {
        let types = types.join(".");
        Unsupported::new(format!(
            "types .{types} with the shape m64n{columns}k{depth}"
        ))
    };
    let [d, a, b] = types[..] else {
        return Err(unsupported());
    };
    let signed = |name| match name {
        "s8" => Some(true),
        "u8" => Some(false),
        _ => None,
    };
    if let (Some(a_signed), Some(b_signed), "s32", 32) = (signed(a), signed(b), d, depth) {
        let valid = columns <= 32 || columns.is_multiple_of(16);
        let integer = Arithmetic::Integer {
            a_signed,
            b_signed,
            saturate,
        };
        return if valid {
            Ok(integer)
        } else {
            Err(unsupported())
        };
    }
    let float = |name| match (name, depth) {
        ("f16", 16) => Some(Format::F16),
        ("bf16", 16) => Some(Format::Bf16),
        ("tf32", 8) => Some(Format::Tf32),
        ("e4m3", 32) => Some(Format::E4m3),
        ("e5m2", 32) => Some(Format::E5m2),
        _ => None,
    };
    let (Some(a), Some(b), false) = (float(a), float(b), saturate) else {
        return Err(unsupported());
    };
    let accumulator = match (d, a) {
        ("f32", _) => Accumulator::F32,
        ("f16", Format::F16 | Format::E4m3 | Format::E5m2) => Accumulator::F16,
        _ => return Err(unsupported()),
    };
    if a != b && a.bits() != 8 {
        return Err(unsupported());
    }
    let model = Model::wgmma(a, accumulator).ok_or_else(unsupported)?;
    Ok(Arithmetic::Float { a, b, model })
}

fn immediate(operand: &Operand) -> Result<i64, Unsupported> {
    match operand {
        Operand::Int(value) => Ok(*value),
        other => Err(Unsupported::new(format!(
            "operand {other:?} where an integer is expected"
        ))),
    }
}

/// `imm-scale-a`, `imm-scale-b` and, for 16-bit types, `imm-trans-a` (shared A only), `imm-trans-b`.
fn scales_and_majors(
    arithmetic: Arithmetic,
    a_in_registers: bool,
    integers: &[i64],
) -> Result<([bool; 2], [Major; 2]), Unsupported> {
    let scale = |value: i64| match value {
        1 => Ok(false),
        -1 => Ok(true),
        other => Err(Unsupported::new(format!(
            "scale {other}: 1 or -1 is expected"
        ))),
    };
    let major = |value: i64| match value {
        0 => Ok(Major::K),
        1 => Ok(Major::Mn),
        other => Err(Unsupported::new(format!(
            "transposition {other}: 0 or 1 is expected"
        ))),
    };
    let k_major = [Major::K; 2];
    let sixteen_bits = arithmetic.element_bits() == 16;
    match (arithmetic, integers, sixteen_bits, a_in_registers) {
        (Arithmetic::Integer { .. }, [], ..) => Ok(([false; 2], k_major)),
        (Arithmetic::Float { .. }, &[a, b], false, _) => Ok(([scale(a)?, scale(b)?], k_major)),
        (Arithmetic::Float { .. }, &[a, b, trans_b], true, true) => {
            Ok(([scale(a)?, scale(b)?], [Major::K, major(trans_b)?]))
        }
        (Arithmetic::Float { .. }, &[a, b, trans_a, trans_b], true, false) => {
            Ok(([scale(a)?, scale(b)?], [major(trans_a)?, major(trans_b)?]))
        }
        _ => Err(Unsupported::new(format!(
            "{} operands after scale-d",
            integers.len()
        ))),
    }
}

impl Wgmma {
    fn execute(&self, warp: &mut Warp<'_>, mask: u32) -> Result<(), LaunchError> {
        check_warpgroup(warp)?;
        if warp.state.warpgroup.fences == 0 {
            let message = "no wgmma.fence before the first wgmma.mma_async".to_owned();
            warp.find(FindingKind::AsyncRegister, message, 0, None);
        }
        let operands = self.operands(warp, mask)?;
        let add = self.adds(warp, mask);
        REGISTERS.with_borrow_mut(|(fragment, sums)| {
            sums.clear();
            for d in &self.d {
                sums.push(if add {
                    *warp.read(d.source())
                } else {
                    [0; LANES]
                });
            }
            if add {
                let accumulators: Vec<_> = self.d.iter().map(|d| d.source()).collect();
                check_operands(warp, mask, &accumulators, "D");
            }
            let a = match (&self.a, &operands.a) {
                (MatrixA::Registers(registers), _) => {
                    check_operands(warp, mask, registers, "A");
                    let rows = registers.iter().map(|&source| warp.read(source));
                    self.product.gather_a(fragment, rows);
                    self.product.prepare_a(fragment, self.negate[0]);
                    &*fragment
                }
                (_, Some(shared)) => &shared[(warp.state.index % WARPS) as usize],
                (_, None) => unreachable!("operands of the same instruction"),
            };
            self.product.multiply_add(a, &operands.b, sums);
            for (&d, sum) in self.d.iter().zip(&*sums) {
                warp.write(d, mask, u32::MAX, sum);
            }
        });
        warp.launch.counters.tensor_flops += self.product.flops();
        Ok(())
    }

    /// Whether D is added to. All lanes must agree.
    fn adds(&self, warp: &mut Warp<'_>, mask: u32) -> bool {
        let undefined = mask & !warp.registers.predicates.defined(self.add);
        if undefined != 0 {
            warp.find_undefined(undefined, "scale-d");
        }
        let lanes = warp.registers.predicates.read(self.add) & mask;
        if lanes != 0 && lanes != mask {
            let message = "scale-d differs between the lanes of the warp".to_owned();
            warp.find(FindingKind::Operand, message, lanes.trailing_zeros(), None);
        }
        lanes != 0
    }

    /// The operands in shared memory, read by the first of the four warps.
    fn operands(&self, warp: &mut Warp<'_>, mask: u32) -> Result<Arc<Operands>, LaunchError> {
        let a_descriptor = match self.a {
            MatrixA::Registers(_) => 0,
            MatrixA::Shared(source) => uniform(warp, source, mask, "A"),
        };
        let descriptors = [a_descriptor, uniform(warp, self.b, mask, "B")];
        let (index, pc) = (warp.state.index, warp.state.pc);
        let number = warp.state.warpgroup.issued;
        warp.state.warpgroup.issued += 1;
        let operands = match warp.block().warpgroups.group(index).operands(number) {
            Some(operands) if (operands.pc, operands.descriptors) == (pc, descriptors) => operands,
            Some(other) => {
                let message = match other.pc == pc {
                    true => "the descriptors differ between the warps of the warpgroup",
                    false => "the warps of the warpgroup issue different wgmma instructions",
                };
                warp.find(FindingKind::Operand, message.to_owned(), 0, None);
                Arc::new(self.read(warp, pc, descriptors)?)
            }
            None => {
                let operands = Arc::new(self.read(warp, pc, descriptors)?);
                warp.block().warpgroups.group(index).add(operands.clone());
                warp.launch.counters.wgmma_instructions += 1;
                operands
            }
        };
        warp.block().warpgroups.group(index).issue(index, number);
        Ok(operands)
    }

    fn read(
        &self,
        warp: &mut Warp<'_>,
        pc: u32,
        descriptors: [u64; 2],
    ) -> Result<Operands, LaunchError> {
        let a = match self.a {
            MatrixA::Registers(_) => None,
            MatrixA::Shared(_) => {
                let mut parts =
                    operands::read_a(warp, &self.product, descriptors[0], self.majors[0])?;
                for part in &mut parts {
                    self.product.prepare_a(part, self.negate[0]);
                }
                Some(parts)
            }
        };
        let mut b = operands::read_b(warp, &self.product, descriptors[1], self.majors[1])?;
        self.product.prepare_b(&mut b, self.negate[1]);
        Ok(Operands {
            pc,
            descriptors,
            a,
            b,
        })
    }
}

/// The value that a descriptor has in all lanes.
fn uniform(warp: &mut Warp<'_>, source: Source<u64>, mask: u32, name: &str) -> u64 {
    warp.check_defined(source, mask, "a matrix descriptor");
    let values = *warp.read(source);
    if let Some(lane) = values.iter().position(|value| *value != values[0]) {
        let message = format!("the descriptor of {name} differs between the lanes of the warp");
        warp.find(FindingKind::Operand, message, lane as u32, None);
    }
    values[0]
}

/// The products of the warpgroup, as the race detector knows them: the four warps issue them as one.
fn agent(warp: &Warp<'_>) -> Agent {
    Agent::wgmma(warp.rank as u32, warp.state.index / WARPS * WARPS)
}

/// The instruction needs four whole warps.
fn check_warpgroup(warp: &mut Warp<'_>) -> Result<(), LaunchError> {
    let [x, y, z] = warp.launch.config.block;
    if (warp.state.index / WARPS + 1) * WARPS * LANES as u32 <= x * y * z {
        return Ok(());
    }
    let message = format!(
        "a warpgroup of 128 threads is needed, the block has {}",
        x * y * z
    );
    warp.find(FindingKind::WarpSync, message, 0, None);
    Err(LaunchError::LaunchFailed)
}
