//! What an instruction reads and writes, and where it goes.

use super::liveness::Flow;
use crate::ptx::ast::{AddressBase, Function, Instruction, Operand, RegId};

/// Opcodes whose first operand, a register, is read.
const READERS: &[&str] = &["bar", "barrier", "brx", "nanosleep"];
/// Opcodes whose first operand is both read and written.
const UPDATERS: &[&str] = &["wgmma"];
/// Opcodes after which the lanes that executed them do not go on.
const ENDS: &[&str] = &["bra", "brx", "ret", "exit", "trap"];

/// What instruction `index` of `function` does to registers and to control flow.
pub fn flow_of(function: &Function, index: usize) -> Flow {
    let instruction = &function.body[index];
    let mut parts = instruction.opcode.split('.');
    let name = parts.next().unwrap_or_default();
    let is_reduction = parts.any(|part| part == "red");
    let guarded = instruction.guard.is_some();
    let mut flow = Flow {
        guarded,
        falls_through: guarded || !ENDS.contains(&name),
        ..Flow::default()
    };
    flow.reads
        .extend(instruction.guard.map(|guard| guard.register));
    for (position, operand) in instruction.operands.iter().enumerate() {
        let written = position == 0 && has_destination(name, is_reduction, instruction);
        if written {
            registers(operand, &mut flow.writes, &mut flow.reads);
        }
        if !written || UPDATERS.contains(&name) {
            let mut inner = Vec::new();
            registers(operand, &mut inner, &mut flow.reads);
            flow.reads.append(&mut inner);
        }
        targets(function, operand, &mut flow.targets);
    }
    flow
}

fn has_destination(name: &str, is_reduction: bool, instruction: &Instruction) -> bool {
    if name == "call" {
        return instruction.operands.len() > 1
            && matches!(instruction.operands[0], Operand::List(_));
    }
    !READERS.contains(&name) || (is_reduction && name != "brx")
}

/// Splits the registers of an operand into its own and those that addresses in it read.
fn registers(operand: &Operand, own: &mut Vec<RegId>, addressed: &mut Vec<RegId>) {
    match operand {
        Operand::Register(r) | Operand::NotRegister(r) => own.push(*r),
        Operand::Address {
            base: AddressBase::Register(r),
            ..
        } => addressed.push(*r),
        Operand::AddressList(address, rest) => {
            registers(address, own, addressed);
            let mut inner = Vec::new();
            rest.iter()
                .for_each(|o| registers(o, &mut inner, addressed));
            addressed.append(&mut inner);
        }
        Operand::Vector(all) | Operand::List(all) => {
            all.iter().for_each(|o| registers(o, own, addressed));
        }
        Operand::Pair(a, b) => {
            registers(a, own, addressed);
            registers(b, own, addressed);
        }
        _ => {}
    }
}

fn targets(function: &Function, operand: &Operand, out: &mut Vec<usize>) {
    let target = |label: &crate::ptx::ast::LabelId| function.labels[label.0 as usize].target;
    match operand {
        Operand::Label(label) => out.push(target(label)),
        Operand::BranchTable(table) => {
            out.extend(function.branch_tables[*table as usize].iter().map(target));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(body: &str) -> Vec<Flow> {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{ .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<5>; {body} }}"
        );
        let module = crate::ptx::parse(&text).unwrap();
        (0..module.functions[0].body.len())
            .map(|i| flow_of(&module.functions[0], i))
            .collect()
    }

    #[test]
    fn stores_barriers_and_addresses_only_read() {
        let flows = flows(
            "st.global.u32 [%rd1], %r1; bar.sync %r2, %r3; ld.global.u32 %r4, [%rd2]; bar.red.popc.u32 %r5, 0, %p1;",
        );
        assert!(flows[0].writes.is_empty() && flows[0].reads.len() == 2);
        assert!(flows[1].writes.is_empty() && flows[1].reads.len() == 2);
        assert_eq!((flows[2].writes.len(), flows[2].reads.len()), (1, 1));
        assert_eq!((flows[3].writes.len(), flows[3].reads.len()), (1, 1));
    }

    #[test]
    fn guarded_branches_fall_through() {
        let flows = flows("L: @%p1 bra L; bra L; ret;");
        assert!(flows[0].falls_through && flows[0].targets == [0] && flows[0].reads.len() == 1);
        assert!(!flows[1].falls_through && !flows[2].falls_through);
    }
}
