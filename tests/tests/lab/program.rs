//! Tests the command line with a debug build, which refuses to measure.

use tests::{apply, run_program, test};

const LAB: &str = env!("CARGO_BIN_EXE_lab-under-test");

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

#[apply(test!)]
async fn an_unknown_protocol_is_refused_with_the_list_of_known_ones() {
    let output = run_program(LAB, &["--protocols", "http_rest,gopher"]).await;
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("gopher") && output.stderr.contains("tokio_echo"), "{}", output.stderr);
}
