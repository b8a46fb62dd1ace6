//! The contracts, checked against the chapters' own servers and against the starters.

use std::path::Path;
use std::process::Command;

use tests::contract::{Contract, all, failures};
use tests::exercises::root;
use tests::{Output, Pair, apply, run_program, test};

const PAIRS: [Pair; 3] = [tests::pair!("tcp_socket"), tests::pair!("http_rest"), tests::pair!("websocket")];

#[apply(test!)]
async fn the_chapters_servers_pass_every_stage_of_their_contracts() {
    for contract in all() {
        let pair = PAIRS.iter().find(|pair| pair.chapter == contract.chapter).unwrap();
        let server = pair.serve().await;
        for stage in &contract.stages {
            let failed = failures(contract.format, stage, server.addr()).await;
            assert!(failed.is_empty(), "{}, {}: {failed:#?}", contract.chapter, stage.name);
        }
        server.stop().await;
    }
}

async fn check(chapter: &str, command: &str, more: &[&str]) -> Output {
    let args = [&[chapter, "--server", command], more].concat();
    run_program(env!("CARGO_BIN_EXE_check"), &args).await
}

/// Returns the folder of the starters.
fn starters() -> String {
    root().join("tests/exercises/starters").to_str().unwrap().to_owned()
}

pub fn python() -> Result<(), String> {
    match Command::new("python3").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no python3: install it with `apt-get install python3`".to_owned()),
    }
}

/// Checks that a starter is short and passes the first stage.
async fn passes_the_first_stage(contract: &Contract, source: &str, command: &str) {
    assert!(std::fs::read_to_string(source).unwrap().lines().count() <= 60, "{source}");
    let output = check(contract.chapter, command, &["--stage", "1"]).await;
    let (name, count) = (contract.stages[0].name, contract.stages[0].cases.len());
    let passed = format!("stage 1, {name}: {count} of {count}\n");
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), passed.as_str()), "{}", output.stderr);
}

#[apply(test!)]
#[needs(python())]
async fn the_python_starters_pass_the_first_stage() {
    for contract in all() {
        let script = format!("{}/{}.py", starters(), contract.chapter);
        passes_the_first_stage(&contract, &script, &format!("python3 {script} {{addr}}")).await;
    }
}

#[apply(test!)]
async fn the_rust_starter_passes_the_first_stage() {
    let source = format!("{}/tcp_socket.rs", starters());
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tcp_socket-starter");
    let program = program.to_str().unwrap();
    let output = run_program("rustc", &["--edition", "2024", "-o", program, &source]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    passes_the_first_stage(&all()[0], &source, &format!("{program} {{addr}}")).await;
}

#[apply(test!)]
#[needs(python())]
async fn a_report_shows_what_was_sent_wanted_and_received_and_ends_after_the_stage() {
    let output = check("http_rest", &format!("python3 {}/http_rest.py {{addr}}", starters()), &[]).await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    for part in [
        "stage 1, stations: 4 of 4\nstage 2, errors: 0 of 5\n",
        "\nnot yet: an error is a problem (RFC 9457)\n",
        "\n  client: GET /stations/check-",
        "\n  server: HTTP/1.1 404 Not Found\n",
        "\n  wanted: content-type: application/problem+json\n  got:    content-type: application/json\n",
        "\nnot yet: a second station with the same ID gets 409\n  wanted: 409\n  got:    status 201 {",
    ] {
        assert!(output.stdout.contains(part), "{part:?} is not in {}", output.stdout);
    }
    assert!(!output.stdout.contains("stage 3"), "{}", output.stdout);
}

#[apply(test!)]
async fn mistakes_in_the_command_get_a_message_that_helps() {
    for (command, expected) in [
        ("no-such-program {addr}", "cannot start \"no-such-program\""),
        ("false {addr}", "before it listened on 127.0.0.1:"),
        ("", "--server is empty"),
        ("'", "a quote is not closed"),
    ] {
        let output = check("tcp_socket", command, &[]).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{command}");
        assert!(
            output.stderr.starts_with("error: ") && output.stderr.contains(expected),
            "{}",
            output.stderr
        );
    }
    let output = check("tcp_socket", "false", &["--stage", "99"]).await;
    assert_eq!(output.stderr, "error: there are 8 stages, counted from 1\n");
}
