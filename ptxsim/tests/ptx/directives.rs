//! Directives, and what is refused.

use super::*;

#[test]
fn arrays_and_their_initial_values() {
    let module = module(
        ".global .u16 a[] = {1, 2, -1};
         .global .s32 b[2][2] = {{1}, {3, 4}};
         .global .align 16 .v4 .f32 c;
         .const .f64 d = 1.0;
         .global .f32 e[2] = {1.0, 0f40000000}, f = 2e-1;
         .global .b64 g[2] = {-1, 0xFFFFFFFFFFFFFFFF};",
    );
    let [a, b, c, d, e, f, g] = &module.variables[..] else {
        panic!()
    };
    assert_eq!(
        (a.size, a.align, a.init.as_slice()),
        (6, 2, &[1, 0, 2, 0, 255, 255][..])
    );
    assert_eq!((b.size, b.init[8], b.init[12]), (16, 3, 4));
    assert_eq!((c.size, c.align, c.ty), (16, 16, Type::F32));
    assert_eq!(
        (d.space, d.init.as_slice()),
        (Space::Const, &1f64.to_le_bytes()[..])
    );
    assert_eq!(e.init, [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
    assert_eq!(f.init, 0.2f32.to_le_bytes());
    assert_eq!(g.init, [0xFF; 16]);
    assert_eq!(
        error(".global .u8 a[2] = {1, 2, 3};"),
        "1: more initial values than elements"
    );
}

#[test]
fn headers_directives_and_debug_sections() {
    let module = module(
        "# 1 \"x.cu\"
         .section .debug_str { info_string0: .b8 67, 85, 0 }
         .visible .entry k(.param .align 64 .b8 map[128], .param .u64 .ptr .global .align 16 out)
         .maxntid 128, 2 .reqnctapercluster 4 .explicitcluster .maxnreg 168 .pragma \"x\";
         { .pragma \"nounroll\";
           .loc 3 7 1, function_name info_string0 + 4, inlined_at 3 9 2
           ret; }
         .func noret() .noreturn;",
    );
    let kernel = &module.functions[0];
    let directives = &kernel.directives;
    assert_eq!(directives.max_threads, Some([128, 2, 1]));
    assert_eq!(directives.cluster, Some([4, 1, 1]));
    assert!(directives.explicit_cluster);
    assert_eq!(directives.max_registers, Some(168));
    assert_eq!((kernel.params[0].align, kernel.params[0].size), (64, 128));
    assert_eq!(kernel.body[0].source, Some((3, 7, 1)));
}

#[test]
fn what_is_refused_and_where() {
    for (text, expected) in [
        (
            ".entry k() {\n add.s32 %r1, %r2, 3;\n}",
            "2: undeclared register `%r1`",
        ),
        (
            ".entry k() {\n .reg .b32 %r<2>;\n mov.u32 %r2, 3;\n}",
            "3: undeclared register `%r2`",
        ),
        (
            ".entry k() { .reg .b32 a; .reg .f32 a; }",
            "1: `a` is declared twice",
        ),
        (".entry k() { ret }", "1: expected a constant, found `}`"),
        (
            ".entry k() {\n",
            "2: expected an instruction, found the end of the text",
        ),
        (
            ".global .texref t;",
            "1: expected a fundamental type, found `.texref`",
        ),
        (
            ".global .attribute(.managed) .u32 x;",
            "1: managed variables are not supported",
        ),
        (
            ".func f(.reg .u32 x);",
            "1: register parameters are not supported",
        ),
        (
            ".global .align 3 .u32 x;",
            "1: alignment 3 is not a power of two up to 65536",
        ),
        (
            ".global .u32 x; .global .u32 x;",
            "1: `x` is declared twice",
        ),
        (".entry k() { bra 08; }", "1: bad number `08`"),
        (".entry k() { /* ", "1: comment without an end"),
        (".pragma \"", "1: string without an end"),
        ("é", "1: unexpected character 'é'"),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    assert!(parse("").unwrap_err().message.contains(".version"));
    assert!(
        parse(".version 9.9\n.target sm_80")
            .unwrap_err()
            .message
            .contains("newer than 9.0")
    );
    assert!(
        parse(".version 8.0\n.target sm_80\n.address_size 32")
            .unwrap_err()
            .message
            .contains("32 bits")
    );
}

#[test]
fn register_ranges_cost_only_what_is_used() {
    let function = body(".reg .b32 %r<4294967295>; mov.u32 %r4294967294, %r0;");
    assert_eq!(function.registers.len(), 2);
}
