//! The WebSocket chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Pair, assert_same, expected_output, pair, run, run_program, test};

const PAIR: Pair = pair!("websocket");

async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    let readme = "websocket/README.md";
    assert_same(&client.stdout, &expected_output(readme, "cargo run -p websocket --bin client"));
    let printed = server.stop().await;
    assert_same(&sorted(&printed), &sorted(&expected_output(readme, "cargo run -p websocket --bin server")));
}

/// The lines of a log without their times, sorted: connections that end at the
/// same time are logged in any order.
fn sorted(log: &str) -> String {
    let mut lines: Vec<&str> =
        log.lines().map(|line| line.split_once("Z  ").map_or(line, |(_at, rest)| rest)).collect();
    lines.sort_unstable();
    lines.join("\n")
}

async fn the_tour_can_be_taken_twice() {
    let server = PAIR.serve().await;
    for _ in 0..2 {
        let client = PAIR.client(&server, &[]).await;
        assert_eq!(client.code, Some(0), "{}{}", client.stdout, client.stderr);
    }
    server.stop().await;
}

async fn a_client_without_a_server_says_which_command_starts_one() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let chat = ["chat", "--name", "ana", "--url", &url];
    for args in [&["--url", &url][..], &["live", "--url", &url], &chat] {
        let client = run_program(PAIR.client, args).await;
        assert_eq!(client.code, Some(1));
        let expected =
            format!("error: no server at {url}; start one with: cargo run -p websocket --bin server\n");
        assert_eq!(client.stderr, expected);
    }
}

async fn a_second_server_says_how_to_pick_another_port() {
    let server = PAIR.serve().await;
    let second = run_program(PAIR.server, &["--addr", server.addr()]).await;
    assert_eq!(second.code, Some(1));
    let expected = format!("error: cannot listen on {}: Address already in use", server.addr());
    assert!(second.stderr.starts_with(&expected), "{}", second.stderr);
    assert!(second.stderr.ends_with("; --addr 127.0.0.1:0 picks a free port\n"), "{}", second.stderr);
    server.stop().await;
}

fn main() -> ExitCode {
    run([
        test!(the_pair_prints_what_the_readme_shows),
        test!(the_tour_can_be_taken_twice),
        test!(a_client_without_a_server_says_which_command_starts_one),
        test!(a_second_server_says_how_to_pick_another_port),
    ])
}
