//! The build script, on made-up trees with a made-up nvcc: where it searches, what it compiles
//! again, and what it leaves behind.

// The build script uses what this file does not.
#[allow(dead_code)]
#[path = "../build/mod.rs"]
mod kernel_build;

#[path = "build_script/package.rs"]
mod package;
#[path = "build_script/tree.rs"]
mod tree;

use std::path::{Path, PathBuf};

use kernel_build::sources::{self, Archs, Family};
use kernel_build::toolkit::{self, Places, Search, Version};
use kernel_build::{cache, compile};
use tree::Tree;

const BANNER: &str = "nvcc: NVIDIA (R) Cuda compiler driver
Copyright (c) 2005-2025 NVIDIA Corporation
Cuda compilation tools, release 13.0, V13.0.88
Build cuda_13.0.r13.0/compiler.36424714_0
";

fn places(tree: &Tree) -> Places {
    Places {
        explicit: Vec::new(),
        path: vec![tree.path("path")],
        roots: vec![tree.path("system"), tree.path("target/cuda")],
        install_to: tree.path("target/cuda"),
    }
}

fn found(places: &Places) -> PathBuf {
    match toolkit::find(places) {
        Ok(Search::Found(toolkit)) => toolkit.nvcc,
        other => panic!("no toolkit: {other:?}"),
    }
}

#[test]
fn version_is_read_from_nvcc_and_ordered() {
    assert_eq!(Version::parse(BANNER), Some(Version([13, 0, 88])));
    assert_eq!(
        Version::parse("release 12.8, V12.8.93\nmore"),
        Some(Version([12, 8, 93]))
    );
    for text in [
        "",
        "release 13.0",
        "release 13.0, V13.0",
        "release 13.0, V13.0.x",
        "V13.0.88",
    ] {
        assert_eq!(Version::parse(text), None, "{text:?}");
    }
    assert!(Version([13, 0, 2]) > Version([12, 9, 86]));
    assert_eq!(Version([13, 0, 88]).to_string(), "13.0.88");
}

#[test]
fn later_places_give_way_to_earlier_ones() {
    let tree = Tree::new("later_places_give_way_to_earlier_ones");
    let mut places = places(&tree);
    // From the last place to the first, so that each new one must win.
    for nvcc in [
        "target/cuda/nvidia/cu13/bin/nvcc",
        "system/bin/nvcc",
        "path/nvcc",
    ] {
        tree.nvcc(nvcc, "13.0.88");
        assert_eq!(found(&places), tree.path(nvcc));
    }
    for (variable, value, nvcc) in [
        ("CUDA_PATH", "cuda_path", "cuda_path/bin/nvcc"),
        ("CUDA_HOME", "cuda_home", "cuda_home/nvidia/cu13/bin/nvcc"),
        ("OCELLI_NVCC", "own/nvcc-13", "own/nvcc-13"),
    ] {
        tree.nvcc(nvcc, "13.0.88");
        places.explicit.insert(0, (variable, tree.path(value)));
        assert_eq!(found(&places), tree.path(nvcc));
    }
}

#[test]
fn a_wrong_setting_is_an_error_that_names_it() {
    let tree = Tree::new("a_wrong_setting_is_an_error_that_names_it");
    tree.nvcc("path/nvcc", "13.0.88");
    tree.nvcc("old/bin/nvcc", "11.8.89");
    tree.program("broken/bin/nvcc", "exit 3");
    tree.program("mute/bin/nvcc", "echo hello");
    for (variable, value, why) in [
        ("OCELLI_NVCC", "nowhere/nvcc", "no such file"),
        ("OCELLI_NVCC", "old", "no such file"),
        ("CUDA_HOME", "nowhere", "no bin/nvcc"),
        ("CUDA_HOME", "old", "nvcc 11.8.89 is older than 12.4.0"),
        ("CUDA_PATH", "broken", "exit status: 3"),
        ("CUDA_PATH", "mute", "prints no version"),
    ] {
        let mut places = places(&tree);
        places.explicit.push((variable, tree.path(value)));
        let error = toolkit::find(&places).expect_err(value);
        assert!(
            error.starts_with(&format!("{variable}={}", tree.path(value).display())),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn absence_names_every_place_and_the_pip_command() {
    let tree = Tree::new("absence_names_every_place_and_the_pip_command");
    tree.nvcc("path/nvcc", "11.8.89");
    let Ok(Search::Absent(reason)) = toolkit::find(&places(&tree)) else {
        panic!("an nvcc that is too old was taken");
    };
    for part in [
        "OCELLI_NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        &format!(
            "{}: nvcc 11.8.89 is older",
            tree.path("path/nvcc").display()
        ),
        &tree.path("system").display().to_string(),
        &format!(
            "pip install --no-deps --target {}",
            tree.path("target/cuda").display()
        ),
        "nvidia-cuda-cccl==13.0.85",
        "g++",
    ] {
        assert!(reason.contains(part), "{part} is not in: {reason}");
    }
    assert!(!reason.contains('\n'), "cargo shows one line of a warning");
}

#[test]
fn target_dir_is_found_with_and_without_a_triple() {
    for (out, target) in [
        ("/w/target/debug/build/ocelli-0a1b/out", "/w/target"),
        (
            "/w/target/x86_64-unknown-linux-gnu/release/build/ocelli-0a1b/out",
            "/w/target",
        ),
        ("/build/target/debug/build/ocelli-0a1b/out", "/build/target"),
        ("/w/t/debug/build/ocelli/0a1b/out", "/w/t"),
        ("/elsewhere/out", "/elsewhere/out"),
    ] {
        let found = cache::target_dir(Path::new(out), "x86_64-unknown-linux-gnu");
        assert_eq!(found, Path::new(target), "{out}");
    }
}

#[test]
fn sources_have_names_families_and_their_includes() {
    let tree = Tree::new("sources_have_names_families_and_their_includes");
    tree.file(
        "common/vec.cuh",
        "#pragma once\n# include \"numeric.cuh\"\n",
    );
    tree.file("common/numeric.cuh", "#include <cuda_fp16.h>\n");
    tree.file("common/lonely.cu", "not compiled");
    tree.file(
        "nms.cu",
        "// NMS.\n// archs: sm_80\n#include \"common/vec.cuh\"\n",
    );
    tree.file("attention/tile.cuh", "#include \"../common/numeric.cuh\"\n");
    tree.file(
        "attention/forward.cu",
        "// archs: sm_90a\n#include \"tile.cuh\"\n",
    );
    tree.file("plain.cu", "int x;\n//archs: sm_90a\n");
    let kernels = sources::scan(tree.root()).expect("a good tree");
    let summary: Vec<_> = kernels
        .iter()
        .map(|kernel| {
            let files: Vec<_> = kernel
                .files
                .keys()
                .map(|path| path.to_str().unwrap_or("?"))
                .collect();
            (kernel.name.as_str(), kernel.family, files.join(" "))
        })
        .collect();
    assert_eq!(
        summary,
        [
            (
                "attention/forward",
                Family::Sm90a,
                "attention/forward.cu attention/tile.cuh common/numeric.cuh".to_owned()
            ),
            (
                "nms",
                Family::Sm80,
                "common/numeric.cuh common/vec.cuh nms.cu".to_owned()
            ),
            ("plain", Family::Sm80, "plain.cu".to_owned()),
        ]
    );
}

#[test]
fn a_wrong_header_or_include_is_an_error_that_names_the_file() {
    for (text, why) in [
        (
            "// archs: sm_75\n",
            "`archs` must be sm_80 or sm_90a, got `sm_75`",
        ),
        ("// archs: sm_80\n// archs: sm_90a\n", "more than one line"),
        ("#include \"gone.cuh\"\n", "\"gone.cuh\" is neither"),
    ] {
        let tree = Tree::new("a_wrong_header_or_include");
        tree.file("op.cu", text);
        let error = sources::scan(tree.root()).expect_err(text);
        assert!(
            error.contains("kernels/op.cu") && error.contains(why),
            "{error}"
        );
    }
}

#[test]
fn architectures_follow_the_setting() {
    let gencode = |setting, family| Archs::from_setting(setting).expect("good").gencode(family);
    let default = "arch=compute_80,code=[compute_80,sm_80,sm_90]";
    for setting in [
        None,
        Some(""),
        Some("sm_80,sm_90,sm_90a"),
        Some("90; 90a 80, sm_80"),
    ] {
        assert_eq!(
            gencode(setting, Family::Sm80).as_deref(),
            Some(default),
            "{setting:?}"
        );
        let hopper = gencode(setting, Family::Sm90a);
        assert_eq!(
            hopper.as_deref(),
            Some("arch=compute_90a,code=[compute_90a,sm_90a]")
        );
    }
    let one = gencode(Some("sm_86"), Family::Sm80);
    assert_eq!(
        one.as_deref(),
        Some("arch=compute_86,code=[compute_86,sm_86]")
    );
    assert_eq!(gencode(Some("sm_86"), Family::Sm90a), None);
    for wrong in ["sm_75", "sm_90a", "native", "sm_80,x"] {
        let error = Archs::from_setting(Some(wrong)).expect_err(wrong);
        assert!(
            error.starts_with(&format!("OCELLI_CUDA_ARCHS={wrong}: ")),
            "{error}"
        );
    }
    let text = Archs::from_setting(None)
        .expect("the default is good")
        .to_string();
    assert_eq!(text, "sm_80 (code, PTX), sm_90 (code), sm_90a (code, PTX)");
}

#[test]
fn compiling_keeps_reports_and_leaves_nothing_half_written() {
    let tree = Tree::new("compiling_keeps_reports_and_leaves_nothing_half_written");
    tree.nvcc("cuda/bin/nvcc", "13.0.88");
    tree.file("kernels/good.cu", "");
    tree.file("kernels/bad.cu", "");
    tree.file("kernels/worse.cu", "");
    let toolkit = toolkit::in_root(&tree.path("cuda")).expect("a made-up toolkit");
    let kernels = sources::scan(&tree.path("kernels")).expect("good sources");
    let archs = Archs::from_setting(None).expect("the default is good");
    let cache = tree.path("cache");
    let jobs = compile::jobs(tree.root(), &cache, &toolkit, &kernels, &archs).expect("jobs");

    let error = compile::all(&jobs, 2, &toolkit).expect_err("two files do not compile");
    assert!(
        error.contains("kernels/bad.cu") && error.contains("kernels/worse.cu"),
        "{error}"
    );
    assert!(error.contains("error: made up"), "{error}");

    let images = compile::all(&jobs[1..2], 2, &toolkit).expect("one compiles");
    assert_eq!(images[0].name, "good");
    assert_eq!(
        images[0].warnings().collect::<Vec<_>>(),
        ["kernels/good.cu: warning: made up"]
    );
    let names: Vec<_> = tree
        .list("cache")
        .iter()
        .map(|name| name.rsplit_once('.').map(|(_, e)| e.to_owned()))
        .collect();
    assert_eq!(names, [Some("fatbin".to_owned()), Some("txt".to_owned())]);
}
