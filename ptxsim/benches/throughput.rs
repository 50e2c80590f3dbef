//! Warp instructions a second on one core, by kind of kernel and checks.
//!
//! `cargo bench -p ptxsim --bench throughput`; criterion's `elem/s` are warp instructions.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ptxsim::memory::Memory;
use ptxsim::sim::{self, Arch, Checks, Kernel, LaunchConfig, Module, Outcome};
use std::sync::Arc;

const BLOCKS: u32 = 4;
const THREADS: u32 = 256;
const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A kernel whose threads each work on a slot of their own, with `body` repeated 256 times.
fn looped(prologue: &str, body: &str, epilogue: &str) -> String {
    format!(
        "{HEADER}.visible .entry k(.param .u64 data) {{
            .reg .b64 %data, %slot; .reg .b32 %t, %b, %n; .reg .pred %more;
            ld.param.u64 %data, [data];
            mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mad.lo.u32 %t, %b, {THREADS}, %t;
            mad.wide.u32 %slot, %t, 16, %data; mov.u32 %n, 0;
            {prologue}
            LOOP:
            {body}
            add.u32 %n, %n, 1; setp.lt.u32 %more, %n, 256; @%more bra LOOP;
            {epilogue}
            ret;
        }}"
    )
}

fn kernels() -> [(&'static str, String); 4] {
    let repeat = |text: &str| text.repeat(8);
    [
        (
            "arithmetic",
            looped(
                ".reg .f32 %x, %y; .reg .b32 %i; cvt.rn.f32.u32 %x, %t; mov.f32 %y, 0f3F000000; mov.u32 %i, %t;",
                &repeat("fma.rn.f32 %x, %x, %y, %y; mad.lo.u32 %i, %i, %t, 12345; xor.b32 %i, %i, %t; mul.f32 %y, %y, %x;"),
                "st.global.f32 [%slot], %x; st.global.u32 [%slot+4], %i;",
            ),
        ),
        (
            "global memory",
            looped(
                ".reg .f32 %a<4>;",
                &repeat(
                    "ld.global.v4.f32 {%a0, %a1, %a2, %a3}, [%slot]; add.f32 %a0, %a0, %a1; add.f32 %a2, %a2, %a3;\n\
                     st.global.v2.f32 [%slot], {%a0, %a2};",
                ),
                "",
            ),
        ),
        (
            "shared memory",
            looped(
                ".shared .align 16 .b8 tile[4096]; .reg .b32 %p, %q; .reg .f32 %a<3>;
                 mov.u32 %q, %tid.x; mov.u32 %p, tile; mad.lo.u32 %p, %q, 4, %p; xor.b32 %q, %p, 128; cvt.rn.f32.u32 %a0, %t;",
                &repeat("st.shared.f32 [%p], %a0; bar.sync 0; ld.shared.f32 %a1, [%q]; add.f32 %a0, %a0, %a1; bar.sync 0;"),
                "st.global.f32 [%slot], %a0;",
            ),
        ),
        (
            "mma",
            looped(
                ".reg .b32 %a<4>, %b<2>; .reg .f32 %c<4>;
                 mov.b32 %a0, 0x3F803F80; mov.b32 %a1, %a0; mov.b32 %a2, %a0; mov.b32 %a3, %a0; mov.b32 %b0, 0x3F803F80; mov.b32 %b1, %b0;
                 mov.f32 %c0, 0f00000000; mov.f32 %c1, %c0; mov.f32 %c2, %c0; mov.f32 %c3, %c0;",
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};",
                "st.global.v4.f32 [%slot], {%c0, %c1, %c2, %c3};",
            ),
        ),
    ]
}

fn launch(memory: &Memory, kernel: &Kernel, params: &[u8], checks: Checks) -> Outcome {
    let config = LaunchConfig {
        grid: [BLOCKS, 1, 1],
        block: [THREADS, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
        cooperative: false,
    };
    sim::launch(memory, kernel, &config, params, checks)
}

fn throughput(criterion: &mut Criterion) {
    for (name, text) in kernels() {
        let memory = Arc::new(Memory::new(1 << 30));
        let bytes = u64::from(BLOCKS * THREADS) * 16;
        let data = memory.alloc(bytes).expect("device memory");
        memory.fill(data, &[0], bytes as usize).expect("fill");
        let module = Module::load(&text, Arch::Sm80, &memory).expect("module");
        let kernel = module.kernel("k").expect("kernel");
        let params = data.to_le_bytes();
        let mut group = criterion.benchmark_group(name);
        for checks in [Checks::Off, Checks::Memory, Checks::All] {
            let outcome = launch(&memory, &kernel, &params, checks);
            assert!(
                outcome.result.is_ok() && outcome.report.findings.is_empty(),
                "{outcome:?}"
            );
            group.throughput(Throughput::Elements(
                outcome.report.counters.warp_instructions,
            ));
            group.bench_function(
                BenchmarkId::from_parameter(format!("{checks:?}")),
                |bencher| {
                    bencher.iter(|| launch(&memory, &kernel, &params, checks));
                },
            );
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(std::time::Duration::from_secs(3));
    targets = throughput
}
criterion_main!(benches);
