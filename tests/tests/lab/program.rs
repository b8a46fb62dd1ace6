//! Tests the command line with a debug build, which refuses to measure.

use std::fs;

use lab::report::predictions;
use tests::{apply, run_program, test};

const LAB: &str = env!("CARGO_BIN_EXE_lab-under-test");

#[apply(test!)]
async fn the_exit_code_says_whether_two_runs_differ() {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance_comparison.json");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/sample.json");
    for (old, new, code) in [(kept, kept, 0), (kept, sample, 1), (kept, "no-such-file", 2)] {
        assert_eq!(run_program(LAB, &["diff", old, new]).await.code, Some(code), "{old} and {new}");
    }
}

#[apply(test!)]
async fn a_debug_build_refuses_to_measure_and_names_the_right_command() {
    if !cfg!(debug_assertions) {
        return; // A release build would start measuring.
    }
    let output = run_program(LAB, &[]).await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("cargo run --release"), "{}", output.stderr);
    assert_eq!(output.stdout, "");
}

/// The answers are kept, and a wrong one is asked again.
#[apply(test!)]
async fn predictions_are_asked_one_by_one_and_kept() {
    let mut asked = Vec::new();
    let answers = predictions::ask(&b"y\nperhaps\nno\n\n"[..], &mut asked).unwrap();
    assert_eq!(answers, [Some(true), Some(false), None]);
    let asked = String::from_utf8(asked).unwrap();
    assert!(
        asked.contains("Answer y or n, not \"perhaps\"") && asked.contains("4. HTTP/REST sends"),
        "{asked}"
    );

    let folder = std::env::temp_dir().join(format!("lab-predictions-{}", std::process::id()));
    let out = folder.to_str().unwrap();
    let output = run_program(LAB, &["--out", out, "predict"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(fs::read_to_string(folder.join(predictions::FILE)).unwrap(), "[]\n");
    fs::remove_dir_all(folder).unwrap();
}

#[apply(test!)]
async fn an_unknown_protocol_is_refused_with_the_list_of_known_ones() {
    let output = run_program(LAB, &["--protocols", "http_rest,gopher"]).await;
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("gopher") && output.stderr.contains("tokio_echo"), "{}", output.stderr);
}
