//! The contracts, checked against the chapters' own servers and against the starters.

use std::path::Path;
use std::process::Command;

use tests::contract::{all, failures};
use tests::exercises::root;
use tests::{Output, Pair, apply, run_program, test};

const PAIRS: [Pair; 2] = [tests::pair!("tcp_socket"), tests::pair!("http_rest")];

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

/// Checks that a starter passes the first stage, and gets a useful report of the second one.
async fn passes_only_the_first_stage(chapter: &str, command: &str) {
    let contract = all().into_iter().find(|contract| contract.chapter == chapter).unwrap();
    let output = check(chapter, command, &[]).await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    let [first, second, ..] = &contract.stages[..] else { panic!("two stages") };
    let count = first.cases.len();
    let passed = format!("stage 1, {}: {count} of {count}\n", first.name);
    assert!(output.stdout.starts_with(&passed), "{command}: {}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains(&format!("\nstage 2, {}: ", second.name)), "{}", output.stdout);
    for part in ["\nnot yet: ", "What traveled last:\n\n", "\n  wanted: ", "\n  got:    ", contract.document]
    {
        assert!(output.stdout.contains(part), "{part:?} is not in {}", output.stdout);
    }
    assert!(!output.stdout.contains("stage 3"), "{}", output.stdout);
}

#[apply(test!)]
#[needs(python())]
async fn the_python_starters_pass_the_first_stage() {
    for contract in all() {
        let script = format!("{}/{}.py", starters(), contract.chapter);
        assert!(std::fs::read_to_string(&script).unwrap().lines().count() <= 60, "{script}");
        passes_only_the_first_stage(contract.chapter, &format!("python3 {script} {{addr}}")).await;
    }
}

#[apply(test!)]
async fn the_rust_starter_passes_the_first_stage() {
    let source = format!("{}/tcp_socket.rs", starters());
    assert!(std::fs::read_to_string(&source).unwrap().lines().count() <= 60, "{source}");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tcp_socket-starter");
    let program = program.to_str().unwrap();
    let output = run_program("rustc", &["--edition", "2024", "-o", program, &source]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    passes_only_the_first_stage("tcp_socket", &format!("{program} {{addr}}")).await;
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
