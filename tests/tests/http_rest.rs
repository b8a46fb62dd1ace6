//! The HTTP/REST chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Pair, assert_same, expected_output, pair, run, test};

const PAIR: Pair = pair!("http_rest");

async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(
        &client.stdout,
        &expected_output("http_rest/README.md", "cargo run -p http_rest --bin client"),
    );
    let printed = server.stop().await;
    assert_same(&printed, &expected_output("http_rest/README.md", "cargo run -p http_rest --bin server"));
}

fn main() -> ExitCode {
    run([test!(the_pair_prints_what_the_readme_shows)])
}
