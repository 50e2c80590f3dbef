//! Layout of what belongs to a kernel: parameters, shared memory, frames of its functions.

use crate::ptx::ast::{Function, Module, Operand, Space, Variable};
use std::collections::{HashMap, HashSet};

/// Where the variables of a function lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// Offsets of the parameters: of a kernel in its parameter buffer, of a device function in
    /// its frame.
    pub params: Vec<u32>,
    /// Offsets of the return parameters in the frame.
    pub returns: Vec<u32>,
    /// Offsets of the variables: of `.shared` ones in the block's shared memory, of `.local` and
    /// `.param` ones in the frame.
    pub variables: Vec<u32>,
    /// Bytes of the frame.
    pub bytes: u32,
    /// Alignment of the frame, a power of two.
    pub align: u32,
}

/// Layout of a kernel and of the functions that it can call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelLayout {
    /// Indices into [`Module::functions`], the kernel first, each once.
    pub functions: Vec<u32>,
    /// Their frames, in the same order.
    pub frames: Vec<Frame>,
    /// Offset in shared memory by index into [`Module::variables`]. The `.extern` ones all lie at
    /// `dynamic_base`.
    pub module_shared: HashMap<u32, u32>,
    /// Bytes of shared memory before all variables that are the system's: [`RESERVED_SHARED`] where a
    /// function asks for them, else none, so that accesses before the first variable are seen.
    pub reserved_shared: u32,
    /// Bytes of static shared memory.
    pub static_shared: u32,
    /// Where dynamic shared memory begins.
    pub dynamic_base: u32,
    /// Bytes of the kernel's parameters.
    pub param_bytes: u32,
}

/// A kernel's variables need more than 2 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// Shared memory that the system keeps in each block of Ampere and newer GPUs.
pub const RESERVED_SHARED: u32 = 1024;

/// Where dynamic shared memory begins at least: at a multiple of this.
const DYNAMIC_ALIGN: u32 = 16;

/// Hands out aligned offsets.
#[derive(Debug, Default)]
struct Area {
    bytes: u32,
    /// Largest alignment of what was placed.
    max_align: u32,
}

impl Area {
    fn align(&mut self, align: u32) -> Result<u32, TooLarge> {
        let aligned = self
            .bytes
            .checked_next_multiple_of(align.max(1))
            .ok_or(TooLarge)?;
        self.bytes = aligned;
        Ok(aligned)
    }

    fn place(&mut self, variable: &Variable) -> Result<u32, TooLarge> {
        let offset = self.align(variable.align)?;
        self.max_align = self.max_align.max(variable.align);
        let size = u32::try_from(variable.size).map_err(|_| TooLarge)?;
        self.bytes = offset
            .checked_add(size)
            .filter(|&end| end <= i32::MAX as u32)
            .ok_or(TooLarge)?;
        Ok(offset)
    }
}

impl KernelLayout {
    /// Lays out [`Module::functions`]`[entry]`, in the order of declaration.
    ///
    /// # Errors
    ///
    /// Variables of more than 2 GiB.
    pub fn of(module: &Module, entry: u32) -> Result<KernelLayout, TooLarge> {
        let functions = reachable(module, entry);
        let mut layout = KernelLayout::default();
        let mut shared = Area::default();
        if functions
            .iter()
            .any(|&f| asks_for_reserved(&module.functions[f as usize]))
        {
            layout.reserved_shared = RESERVED_SHARED;
            shared.bytes = RESERVED_SHARED;
        }
        let mut dynamic_align = DYNAMIC_ALIGN;
        for (variable, index) in module.variables.iter().zip(0..) {
            if variable.space != Space::Shared {
                continue;
            }
            if variable.external {
                dynamic_align = dynamic_align.max(variable.align);
            } else if functions
                .iter()
                .any(|&f| mentions(&module.functions[f as usize], index))
            {
                layout.module_shared.insert(index, shared.place(variable)?);
            }
        }
        for &index in &functions {
            let function = &module.functions[index as usize];
            let mut params = Area::default();
            let frame = frame(function, &mut shared, &mut params)?;
            if index == entry {
                layout.param_bytes = params.bytes;
            }
            layout.frames.push(frame);
        }
        layout.static_shared = shared.bytes - layout.reserved_shared;
        layout.dynamic_base = shared.align(dynamic_align)?;
        for (variable, index) in module.variables.iter().zip(0..) {
            if variable.space == Space::Shared && variable.external {
                layout.module_shared.insert(index, layout.dynamic_base);
            }
        }
        layout.functions = functions;
        Ok(layout)
    }
}

fn frame(function: &Function, shared: &mut Area, params: &mut Area) -> Result<Frame, TooLarge> {
    let mut area = Area::default();
    let mut frame = Frame::default();
    for variable in &function.params {
        let home = if function.is_entry {
            &mut *params
        } else {
            &mut area
        };
        frame.params.push(home.place(variable)?);
    }
    for variable in &function.returns {
        frame.returns.push(area.place(variable)?);
    }
    for variable in &function.variables {
        let home = if variable.space == Space::Shared {
            &mut *shared
        } else {
            &mut area
        };
        frame.variables.push(home.place(variable)?);
    }
    frame.bytes = area.bytes;
    frame.align = area.max_align.max(1);
    Ok(frame)
}

/// The functions that `entry` can reach, itself first. Where a call goes through a pointer, that
/// is every function whose address is taken anywhere.
fn reachable(module: &Module, entry: u32) -> Vec<u32> {
    let by_name: HashMap<&str, u32> = module
        .functions
        .iter()
        .zip(0..)
        .map(|(function, index)| (function.name.as_str(), index))
        .collect();
    let mut seen = HashSet::from([entry]);
    let mut order = vec![entry];
    let mut indirect = false;
    let mut next = 0;
    while next < order.len() {
        let function = &module.functions[order[next] as usize];
        next += 1;
        let mut found: Vec<&str> = names(function).collect();
        if !indirect && function.body.iter().any(is_indirect_call) {
            indirect = true;
            found.extend(module.functions.iter().flat_map(names));
            found.extend(
                module
                    .variables
                    .iter()
                    .flat_map(|v| &v.init_symbols)
                    .map(|init| init.symbol.as_str()),
            );
        }
        let indices = found.iter().filter_map(|name| by_name.get(name).copied());
        order.extend(indices.filter(|&index| seen.insert(index)));
    }
    order
}

/// Names of functions among the operands.
fn names(function: &Function) -> impl Iterator<Item = &str> {
    function
        .body
        .iter()
        .flat_map(|instruction| &instruction.operands)
        .filter_map(|operand| match operand {
            Operand::Function(name) => Some(name.as_str()),
            _ => None,
        })
}

fn is_indirect_call(instruction: &crate::ptx::ast::Instruction) -> bool {
    let is_call = instruction.opcode == "call" || instruction.opcode.starts_with("call.");
    is_call
        && instruction
            .operands
            .iter()
            .any(|operand| matches!(operand, Operand::Register(_)))
}

/// Whether the function reads where the system's shared memory lies, as cooperative groups do.
fn asks_for_reserved(function: &Function) -> bool {
    let mut operands = function
        .body
        .iter()
        .flat_map(|instruction| &instruction.operands);
    operands.any(|operand| {
        matches!(operand, Operand::Special(name) if name.trim_start_matches('%').starts_with("reserved_smem"))
    })
}

/// Whether an operand of the function names module variable `index`.
fn mentions(function: &Function, index: u32) -> bool {
    use crate::ptx::ast::{AddressBase, VariableRef};
    fn operand(operand_: &Operand, wanted: VariableRef) -> bool {
        match operand_ {
            Operand::Variable(variable, _) => *variable == wanted,
            Operand::Address { base, .. } => *base == AddressBase::Variable(wanted),
            Operand::AddressList(address, rest) => {
                operand(address, wanted) || rest.iter().any(|inner| operand(inner, wanted))
            }
            Operand::Vector(inner) | Operand::List(inner) => {
                inner.iter().any(|inner| operand(inner, wanted))
            }
            _ => false,
        }
    }
    let wanted = VariableRef::Module(index);
    function
        .body
        .iter()
        .flat_map(|instruction| &instruction.operands)
        .any(|o| operand(o, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(text: &str, entry: &str) -> (Module, Result<KernelLayout, TooLarge>) {
        let module = crate::ptx::parse(&format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n{text}"
        ))
        .unwrap();
        let index = module
            .functions
            .iter()
            .position(|f| f.name == entry)
            .unwrap() as u32;
        let layout = KernelLayout::of(&module, index);
        (module, layout)
    }

    #[test]
    fn offsets_follow_declaration_order_and_alignment() {
        let (_, layout) = layout(
            ".extern .shared .align 128 .b8 dynamic[];
             .shared .align 8 .b8 used[12];
             .shared .b8 unused[1000];
             .entry k(.param .u32 a, .param .align 64 .b8 map[128], .param .u8 c) {
                 .reg .b32 %r<3>;
                 .shared .align 16 .b8 own[4];
                 .local .align 8 .b8 depot[20];
                 mov.u32 %r1, used;
                 mov.u32 %r2, dynamic;
             }",
            "k",
        );
        let layout = layout.unwrap();
        assert_eq!(layout.frames[0].params, [0, 64, 192]);
        assert_eq!(layout.param_bytes, 193);
        assert_eq!(layout.frames[0].variables, [16, 0]);
        assert_eq!((layout.frames[0].bytes, layout.frames[0].align), (20, 8));
        assert_eq!((layout.static_shared, layout.dynamic_base), (20, 128));
        assert_eq!(layout.module_shared, HashMap::from([(0, 128), (1, 0)]));
    }

    #[test]
    fn reserved_memory_comes_first_where_it_is_asked_for() {
        let text =
            ".entry k() { .shared .b8 own[8]; .reg .b32 %r; mov.u32 %r, %reserved_smem_offset_1; }";
        let layout = layout(text, "k").1.unwrap();
        assert_eq!((layout.reserved_shared, layout.static_shared), (1024, 8));
        assert_eq!(
            (&layout.frames[0].variables[..], layout.dynamic_base),
            (&[1024][..], 1040)
        );
    }

    #[test]
    fn calls_reach_functions_directly_and_by_pointer() {
        let text = ".func a() { ret; }
             .func b() { call a, (); ret; }
             .func c() { ret; }
             .global .u64 table = c;
             .entry direct() { call b, (); ret; }
             .entry indirect() { .reg .b64 %f; ld.global.u64 %f, [table]; p: .callprototype _ (); call %f, (), p; ret; }";
        let names = |entry| {
            let (module, layout) = layout(text, entry);
            let functions = layout.unwrap().functions;
            functions
                .iter()
                .map(|&f| module.functions[f as usize].name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("direct"), ["direct", "b", "a"]);
        let mut indirect = names("indirect");
        indirect.sort();
        assert_eq!(indirect, ["a", "b", "c", "indirect"]);
    }

    #[test]
    fn device_functions_keep_parameters_in_their_frame() {
        let (_, layout) = layout(
            ".func (.param .b32 out) f(.param .b64 x) { .param .b32 arg; ret; }
             .entry k() { .param .b32 r; .param .b64 x; call (r), f, (x); ret; }",
            "k",
        );
        let frames = layout.unwrap().frames;
        assert_eq!(
            frames[0],
            Frame {
                variables: vec![0, 8],
                bytes: 16,
                align: 8,
                ..Frame::default()
            }
        );
        assert_eq!(
            frames[1],
            Frame {
                params: vec![0],
                returns: vec![8],
                variables: vec![12],
                bytes: 16,
                align: 8
            }
        );
    }

    #[test]
    fn enormous_variables_are_refused() {
        let (_, layout) = layout(".entry k() { .local .b8 x[4294967296]; ret; }", "k");
        assert_eq!(layout, Err(TooLarge));
    }
}
