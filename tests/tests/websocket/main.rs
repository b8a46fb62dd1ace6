//! The WebSocket chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod browser;
mod browser_client;
mod chat;
mod client;
mod exercises;
mod fake;
mod handshake;
mod lifecycle;
mod live;
mod load;
mod local;
mod names;
mod origins;
mod page;
mod page_chat;
mod protocol;
mod python;
mod reconnect;
mod slow;
mod terminal;

use std::process::ExitCode;

use tests::{Pair, apply, assert_same, expected_output, limit_fields, pair, run, run_program, test};
use websocket::Limits;

const PAIR: Pair = pair!("websocket");

#[apply(test!)]
async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    let readme = "websocket/README.md";
    assert_same(&client.stdout, &expected_output(readme, "cargo run -p websocket --bin client"));
    let printed = server.stop().await;
    assert_same(&sorted(&printed), &sorted(&expected_output(readme, "cargo run -p websocket --bin server")));
}

#[apply(test!)]
async fn the_minimal_example_prints_what_the_readme_shows() {
    let printed = run_program(env!("CARGO_BIN_EXE_websocket-minimal"), &[]).await;
    let shown = expected_output("websocket/README.md", "cargo run -p websocket --example minimal");
    assert_same(&printed.stdout, &shown);
}

/// The names of the fields come from the `Debug` output of `Limits`.
#[apply(test!)]
async fn every_limit_is_an_option_of_the_server() {
    let help = run_program(PAIR.server, &["--help"]).await.stdout;
    let limits = format!("{:?}", Limits::default());
    let fields = limit_fields(&limits);
    assert!(fields.len() >= 12, "{limits}");
    for (field, _) in fields {
        let option = format!("--{} <", field.replace('_', "-"));
        assert!(help.contains(&option), "{option} is not in {help}");
    }
    // The server refuses invalid values.
    for (option, value) in [
        ("--heartbeat", "0"),
        ("--dead-after", "1000000000000000000"),
        ("--drain-timeout", "-1"),
        ("--max-connections", "9999999999999999"),
        ("--max-message", "2MB"),
    ] {
        let refused = run_program(PAIR.server, &[option, value]).await;
        assert_eq!(refused.code, Some(2), "{option} {value}: {}", refused.stderr);
    }
}

/// Returns the lines of a log without their times, sorted. Connections that end at the same time
/// are logged in any order.
fn sorted(log: &str) -> String {
    let mut lines: Vec<&str> =
        log.lines().map(|line| line.split_once("Z  ").map_or(line, |(_at, rest)| rest)).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[apply(test!)]
async fn the_readme_lists_the_messages_of_the_code() {
    let read = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../websocket").join(path);
        std::fs::read_to_string(path).unwrap()
    };
    let rows = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.strip_prefix("//! ").unwrap_or(line));
        lines
            .filter(|line| line.starts_with("| `/") || line.starts_with("| both |"))
            .map(str::to_owned)
            .collect()
    };
    let (readme, code) = (rows(&read("README.md")), rows(&read("src/protocol/message.rs")));
    assert!(code.len() >= 14, "{code:?}"); // The exercises add rows.
    assert_eq!(readme, code);
}

#[apply(test!)]
async fn the_tour_can_run_twice() {
    let server = PAIR.serve().await;
    for _ in 0..2 {
        let client = PAIR.client(&server, &[]).await;
        assert_eq!(client.code, Some(0), "{}{}", client.stdout, client.stderr);
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_client_without_a_server_says_how_to_start_one() {
    PAIR.client_says_how_to_start_a_server("http", &[&[], &["live"], &["chat", "--name", "ana"]]).await;
}

#[apply(test!)]
async fn a_server_whose_port_is_taken_says_how_to_pick_another() {
    PAIR.server_says_how_to_pick_another_port().await;
}

#[apply(test!)]
async fn an_address_of_another_protocol_is_refused_by_the_client() {
    PAIR.client_refuses_another_protocol("http", &[&[], &["live"], &["chat", "--name", "ana"]]).await;
}

fn main() -> ExitCode {
    run()
}
