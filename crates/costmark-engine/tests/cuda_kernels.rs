//! The CUDA kernels without a GPU: run on the CPU thread by thread against plain loops in f64,
//! and compiled for the GPUs they are meant for. Each part is left out, and says so, where its
//! compiler is missing.
//!
//! Lives outside the feature `cuda`: the sources are text, and a change that breaks them should
//! show in the default suite.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use costmark_kernels::math;

/// `HEAD_DIM`, `KV_BF16`, `ACT`: every way a head is cut up, both cache types and all three
/// activations.
const KINDS: [(u32, u32, u32); 5] = [(16, 1, 0), (64, 0, 0), (80, 1, 2), (96, 0, 1), (256, 0, 2)];

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/cuda/kernels")
}

fn defines((head_dim, kv_bf16, act): (u32, u32, u32)) -> [String; 3] {
    [
        format!("-DHEAD_DIM={head_dim}"),
        format!("-DKV_BF16={kv_bf16}"),
        format!("-DACT={act}"),
    ]
}

/// The first of `programs` that can be started.
fn find(programs: &[String]) -> Option<&String> {
    programs.iter().find(|program| {
        Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn emulated_kernels_agree_with_plain_loops() {
    let mut compilers = ["c++", "g++", "clang++"].map(String::from).to_vec();
    compilers.splice(0..0, std::env::var("CXX"));
    let Some(compiler) = find(&compilers) else {
        eprintln!("skipped: no C++ compiler to run the CUDA kernels with");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let program = folder.path().join(format!("check-{}", kind.0));
        run(Command::new(compiler)
            .args(["-std=c++17", "-O1", "-w"])
            .args(defines(kind))
            .arg("-o")
            .arg(&program)
            .arg(kernels().join("check.cpp")));
        let told = run(Command::new(&program).arg("3"));
        assert!(
            told.lines().count() == 8 && told.contains("attend_decode: 3 random cases agree"),
            "{kind:?}: {told}"
        );
        // So a row's weights are the same wherever a token is drawn from it.
        for line in run(Command::new(&program).arg("exp")).lines() {
            let (x, y) = line.split_once(' ').unwrap();
            let [x, y] = [x, y].map(|bits| f32::from_bits(bits.parse().unwrap()));
            assert_eq!(y.to_bits(), math::exp(x).to_bits(), "e^{x}: {y}");
        }
    }
}

#[test]
fn kernels_compile_for_the_gpus_they_are_meant_for() {
    let Some(nvcc) = find(&["nvcc".into()]).cloned() else {
        eprintln!("skipped: no nvcc; `scripts/cuda-toolkit cargo test …` brings one");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // As the engine joins them at run time: no header, one text.
    let source = ["numbers.cuh", "attention.cu", "steps.cu", "sample.cu"]
        .map(|file| std::fs::read_to_string(kernels().join(file)).unwrap())
        .concat();
    let path = folder.path().join("kernels.cu");
    std::fs::write(&path, source).unwrap();
    for gpu in ["sm_80", "sm_90"] {
        for kind in KINDS {
            let output = folder.path().join("kernels.cubin");
            run(Command::new(&nvcc)
                .args(["-cubin", "-Werror", "all-warnings", "-arch", gpu])
                .args(defines(kind))
                .arg("-o")
                .arg(&output)
                .arg(&path));
            assert!(std::fs::metadata(&output).unwrap().len() > 10_000);
        }
    }
}
