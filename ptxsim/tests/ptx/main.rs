//! The PTX parser on what nvcc writes and on hand-written corners of the grammar.

mod directives;

use ptxsim::ptx::ast::{AddressBase, Function, Module, Operand, RegId, Space, Type, VariableRef};
use ptxsim::ptx::parse;

const SM80: &str = include_str!("../fixtures/surface_sm80.ptx");
const SM90A: &str = include_str!("../fixtures/surface_sm90a.ptx");
const HEADER: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

fn module(text: &str) -> Module {
    parse(&format!("{HEADER}{text}")).unwrap()
}

/// The function `k` with this body.
fn body(text: &str) -> Function {
    module(&format!(".entry k(.param .u64 p) {{\n{text}\n}}"))
        .functions
        .remove(0)
}

/// What the parser says against a text, with the line counted from the first behind the header.
fn error(text: &str) -> String {
    let error = parse(&format!("{HEADER}{text}")).unwrap_err();
    format!("{}: {}", error.line - 3, error.message)
}

fn register(function: &Function, operand: &Operand) -> String {
    match operand {
        Operand::Register(RegId(id)) | Operand::NotRegister(RegId(id)) => {
            function.registers[*id as usize].name.clone()
        }
        other => panic!("{other:?} is no register"),
    }
}

#[test]
fn whole_modules_of_nvcc() {
    for (text, target) in [(SM80, "sm_80"), (SM90A, "sm_90a")] {
        let module = parse(text).unwrap();
        assert_eq!((module.version, module.target.as_str()), ((9, 0), target));
        let kernel = module
            .functions
            .iter()
            .find(|f| f.name == "surface")
            .unwrap();
        assert!(kernel.is_entry && kernel.has_body);
        assert_eq!(
            kernel.params.iter().map(|p| p.size).collect::<Vec<_>>(),
            [8, 8, 4]
        );
        assert_eq!(kernel.directives.max_threads, Some([256, 1, 1]));
        assert_eq!(kernel.directives.min_blocks, Some(2));
        let shared: Vec<_> = kernel
            .variables
            .iter()
            .filter(|v| v.space == Space::Shared)
            .collect();
        assert_eq!(
            shared.iter().map(|v| v.size).collect::<Vec<_>>(),
            [32 * 33 * 4]
        );
        assert!(
            kernel
                .labels
                .iter()
                .all(|label| label.target <= kernel.body.len())
        );
        let vprintf = module
            .functions
            .iter()
            .find(|f| f.name == "vprintf")
            .unwrap();
        assert!(!vprintf.has_body && vprintf.returns.len() == 1 && vprintf.params.len() == 2);
    }
}

#[test]
fn line_information_of_nvcc() {
    let module = parse(SM80).unwrap();
    assert_eq!(module.files[0], (1, "surface.cu".to_owned()));
    let kernel = module
        .functions
        .iter()
        .find(|f| f.name == "surface")
        .unwrap();
    let barrier = kernel
        .body
        .iter()
        .find(|i| i.opcode.starts_with("bar"))
        .unwrap();
    let (file, line, _) = barrier.source.unwrap();
    let source = include_str!("../fixtures/surface.cu")
        .lines()
        .nth(line as usize - 1)
        .unwrap();
    assert_eq!(file, 1);
    assert!(source.contains("__syncthreads"), "{source}");
    let text = SM80.lines().nth(barrier.line as usize - 1).unwrap();
    assert!(text.contains("bar"), "{text}");
}

#[test]
fn initial_values_of_nvcc() {
    let module = parse(SM80).unwrap();
    let variable = |name: &str| module.variables.iter().find(|v| v.name == name).unwrap();
    assert_eq!(variable("counters").init, [1, 0, 0, 0, 2, 0, 0, 0, 3]);
    assert_eq!(variable("counters").size, 16);
    assert_eq!(variable("scale").init, 1.5f32.to_le_bytes());
    let middle = &variable("middle").init_symbols[0];
    assert_eq!(
        (middle.symbol.as_str(), middle.addend, middle.generic),
        ("counters", 8, true)
    );
    let stages = &variable("stages").init_symbols;
    assert_eq!(
        stages.iter().map(|s| s.offset).collect::<Vec<_>>(),
        [0, 16, 24, 40]
    );
    assert!(!stages[1].generic && stages[1].symbol.contains("increment"));
    let packed = &variable("packed").init_symbols;
    assert_eq!(
        packed
            .iter()
            .map(|s| (s.offset, s.size, s.shift))
            .collect::<Vec<_>>()[..2],
        [(1, 1, 0), (2, 1, 8)]
    );
    assert_eq!(packed.len(), 8);
    let dynamic = variable("dynamic");
    assert!(dynamic.external && dynamic.space == Space::Shared);
    assert_eq!((dynamic.size, dynamic.align), (0, 128));
}

#[test]
fn blocks_have_their_own_registers_and_labels() {
    let spin = "{ .reg .pred P; L: setp.ne.s32 P, 0, 1; @P bra D; bra L; D: }";
    let function = body(&format!(".reg .pred P; {spin} {spin} @!P bra D; D: ret;"));
    assert_eq!(function.registers.len(), 3);
    let branch = |index: usize| match function.body[index].operands[0] {
        Operand::Label(id) => function.labels[id.0 as usize].target,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(
        [branch(1), branch(2), branch(4), branch(5), branch(6)],
        [3, 0, 6, 3, 7]
    );
    assert!(function.body[6].guard.unwrap().negated);
}

#[test]
fn labels_reach_into_enclosing_blocks_and_to_the_end() {
    let function = body(".reg .pred %p<2>; top: { @%p1 bra top; bra end; } end:");
    let targets: Vec<_> = function.labels.iter().map(|label| label.target).collect();
    assert_eq!(targets, [0, 2]);
    assert_eq!(
        error(".entry k() {\n { inner: }\n bra inner;\n }"),
        "3: undeclared name `inner`"
    );
    assert_eq!(error(".entry k() { a: a: }"), "1: label `a` stands twice");
}

#[test]
fn operands() {
    let function = body(
        ".reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<4>; .reg .v2 .f32 v;
         .local .b8 depot[16];
         mma.x {%r1, %r2}, {%r3, _}, 0f3F800000, 0d3FF0000000000000, -1.5;
         setp.y %p1|%p2, !%p3, %tid.x, WARP_SZ;
         elect.sync _|%p1, -1;
         ld.z %r1, [%rd1+-8], [depot+4], [%rd1 - 4], [64], [p];
         cp.a [%r1], [%rd1, {%r2, %r3}], [%r4];
         mov.b64 %rd2, depot+12;
         mov.f32 v.y, v.x; st.v2.f32 [%rd1], v;",
    );
    use Operand::{
        Address, AddressList, Discard, F32, F64, Int, NotRegister, Pair, Special, Variable, Vector,
    };
    let operands = |index: usize| function.body[index].operands.as_slice();
    let [Vector(d), Vector(a), F32(0x3F80_0000), F64(one), F64(minus)] = operands(0) else {
        panic!()
    };
    assert_eq!(
        (d.len(), &a[1], *one, *minus),
        (2, &Discard, 1f64.to_bits(), (-1.5f64).to_bits())
    );
    let [Pair(p, q), NotRegister(_), Special(tid), Int(32)] = operands(1) else {
        panic!()
    };
    assert_eq!(
        (register(&function, p), register(&function, q)),
        ("%p1".into(), "%p2".into())
    );
    assert_eq!(tid, "%tid.x");
    let [Pair(p, q), Int(-1)] = operands(2) else {
        panic!()
    };
    assert_eq!((&**p, register(&function, q)), (&Discard, "%p1".into()));
    let offsets: Vec<_> = operands(3)[1..]
        .iter()
        .map(|operand| match operand {
            Address { base, offset } => (*base, *offset),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(offsets[0].1, -8);
    assert_eq!(
        offsets[1],
        (AddressBase::Variable(VariableRef::Function(0)), 4)
    );
    assert_eq!(offsets[2].1, -4);
    assert_eq!(offsets[3], (AddressBase::Absolute, 64));
    assert_eq!(
        offsets[4],
        (AddressBase::Variable(VariableRef::Param(0)), 0)
    );
    let [Address { .. }, AddressList(_, rest), Address { .. }] = operands(4) else {
        panic!()
    };
    assert!(matches!(rest.as_slice(), [Vector(coordinates)] if coordinates.len() == 2));
    assert_eq!(operands(5)[1], Variable(VariableRef::Function(0), 12));
    assert_eq!(
        (
            register(&function, &operands(6)[0]),
            operands(7)[1] == Vector(vec![operands(6)[1].clone(), operands(6)[0].clone()])
        ),
        ("v".into(), true)
    );
}

#[test]
fn calls_over_several_lines_and_through_pointers() {
    let module = module(
        ".extern .func (.param .b32 r) f (.param .b64 a, .param .align 8 .b8 b[16]);
         .entry k() { .reg .b64 %rd<3>;
           { .param .b32 r; .param .b64 a;
             call.uni (r),\n f,\n (\n a, a\n );
           }
           proto: .callprototype (.param .b32 _) _ (.param .b64 _);
           call (%rd1), %rd2, (%rd1), proto;
           call.uni f; }",
    );
    let body = &module.functions[1].body;
    assert_eq!(body[0].opcode, "call.uni");
    let [
        Operand::List(returns),
        Operand::Function(name),
        Operand::List(arguments),
    ] = &body[0].operands[..]
    else {
        panic!("{:?}", body[0]);
    };
    assert_eq!((returns.len(), name.as_str(), arguments.len()), (1, "f", 2));
    assert!(matches!(
        &body[1].operands[..],
        [
            Operand::List(_),
            Operand::Register(_),
            Operand::List(_),
            Operand::Prototype
        ]
    ));
    assert_eq!(body[2].operands, [Operand::Function("f".into())]);
}

#[test]
fn jump_tables_and_aliases() {
    let module = module(
        ".func real() { ret; } .func other();
         .alias other, real;
         .entry k() { .reg .b32 %r<2>;
           table: .branchtargets one, two, one;
           brx.idx %r1, table; one: call other; two: ret; }",
    );
    let kernel = &module.functions[2];
    let targets: Vec<_> = kernel.branch_tables[0]
        .iter()
        .map(|id| kernel.labels[id.0 as usize].target)
        .collect();
    assert_eq!(targets, [1, 2, 1]);
    assert_eq!(kernel.body[0].operands[1], Operand::BranchTable(0));
    assert_eq!(kernel.body[1].operands, [Operand::Function("real".into())]);
}

#[test]
fn constant_expressions() {
    let value = |text: &str| match body(&format!("x {text};")).body[0].operands[0] {
        Operand::Int(value) => value,
        ref other => panic!("{text}: {other:?}"),
    };
    for (text, expected) in [
        ("0x10 + 010 + 0b11", 27),
        ("1 + 2 * 3 << 1", 14),
        ("-7 / 2", -3),
        ("-7 % 4", -3),
        ("0xFFFFFFFFFFFFFFFF / 2", i64::MAX),
        ("(.s64)0xFFFFFFFFFFFFFFFE >> 1", -1),
        ("-1 >> 70", -1),
        ("1 << 64", 0),
        ("1 < 2 ? 3 : 4", 3),
        ("~0 & 0xF0 | 1 ^ 3", 242),
        ("!0 + !5", 1),
        ("1 && 0 || 2 >= 2", 1),
        ("WARP_SZ - 1", 31),
        ("-1U > 0", 1),
        ("-9223372036854775808", i64::MIN),
        ("0U", 0),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
    assert_eq!(
        error(".entry k() { x 1 / 0; }"),
        "1: division by zero in a constant"
    );
    assert!(
        error(&format!(".entry k() {{ x {}1; }}", "-".repeat(1000))).contains("nested too deeply")
    );
    assert!(
        error(&format!(".entry k() {{ x {}1; }}", "(".repeat(1000))).contains("nested too deeply")
    );
}
