//! The kernel of a row, and its launch.

use crate::harness::{BLOCK, Row};
use crate::values::Kind;
use ptxsim::memory::Memory;
use ptxsim::report::FindingKind;
use ptxsim::sim::{self, Arch, Checks, LaunchConfig, LaunchError, Module};
use std::fmt::Write;
use std::sync::Arc;

/// Bytes of an operand or result in memory, whatever its type.
const SLOT: usize = 8;

/// A kernel that loads a lane's operands, runs the row's instructions and stores the results.
pub fn kernel_text(arch: Arch, row: &Row, instructions: &str, prelude: &str) -> String {
    let target = match arch {
        Arch::Sm80 => "sm_80",
        Arch::Sm90a => "sm_90a",
    };
    let mut text = format!(
        ".version 8.6\n.target {target}\n.address_size 64\n\
         {}\n.visible .entry k(.param .u64 in, .param .u64 out) {}\n{{\n\
         .reg .b64 %in, %out;\n.reg .b32 %index, %thread, %block;\n\
         ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\n\
         mov.u32 %thread, %tid.x;\nmov.u32 %block, %ctaid.x;\nmad.lo.u32 %index, %block, {BLOCK}, %thread;\n\
         mad.wide.u32 %in, %index, {}, %in;\nmad.wide.u32 %out, %index, {}, %out;\n",
        prelude,
        row.setting.directives,
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
    let mut instruction = instructions.to_owned();
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

/// Runs a kernel over rows of operands and returns the results of all lanes.
pub fn launch(arch: Arch, text: &str, lanes: &[Vec<u64>], row: &Row) -> Result<Vec<u64>, String> {
    let results = row.results.len();
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
    let config = LaunchConfig {
        grid: [blocks, 1, 1],
        block: [BLOCK as u32, 1, 1],
        cluster: [1 + row.setting.peers, 1, 1],
        dynamic_shared: 0,
        cooperative: false,
    };
    run_kernel(arch, text, &memory, &config, &params)?;
    let mut output = vec![0; lanes.len() * results * SLOT];
    memory
        .copy_out(to, &mut output)
        .map_err(|error| error.message)?;
    Ok(output
        .chunks_exact(SLOT)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        .collect())
}

/// Runs instructions in a warp, and gives how the launch ends and what is found.
pub fn launch_once(arch: Arch, instructions: &str) -> (Result<(), LaunchError>, Vec<FindingKind>) {
    let text = format!(
        ".version 8.6\n.target sm_80\n.address_size 64\n.visible .entry k() {{ {instructions} ret; }}"
    );
    let memory = Arc::new(Memory::new(1 << 20));
    let module = Module::load(&text, arch, &memory).unwrap_or_else(|error| panic!("{error}"));
    let config = LaunchConfig {
        grid: [1; 3],
        block: [32, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
        cooperative: false,
    };
    let kernel = module.kernel("k").expect("the kernel");
    let outcome = sim::launch(&memory, &kernel, &config, &[], Checks::All);
    let kinds = outcome.report.findings.iter().map(|finding| finding.kind);
    (outcome.result, kinds.collect())
}

/// Loads a text, runs its kernel `k` with all checks and expects no finding.
fn run_kernel(
    arch: Arch,
    text: &str,
    memory: &Arc<Memory>,
    config: &LaunchConfig,
    params: &[u8],
) -> Result<(), String> {
    let module = Module::load(text, arch, memory).map_err(|error| error.to_string())?;
    let kernel = module.kernel("k").ok_or("no kernel `k`")?;
    let outcome = sim::launch(memory, &kernel, config, params, Checks::All);
    match (outcome.result, outcome.report.findings.first()) {
        (Ok(()), None) => Ok(()),
        (result, finding) => Err(format!("{result:?}, {finding:?}")),
    }
}
