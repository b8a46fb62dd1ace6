//! The contracts, checked against the chapters' own servers and against the starters.

use std::path::Path;

use lab::wire::decode::Format;
use message_queue::brokers::{Broker, Kind, Options};
use tests::contract::{Contract, Tested, all, failures};
use tests::exercises::root;
use tests::practice::{environment, python};
use tests::{Output, Pair, apply, run_program, test};

pub const PAIRS: [Pair; 4] =
    [tests::pair!("tcp_socket"), tests::pair!("http_rest"), tests::pair!("grpc"), tests::pair!("websocket")];

/// The programs of the queue chapter, and the names of their contracts.
const PROGRAMS: [(&str, &str); 2] = [
    (
        "message_queue-worker",
        concat!(
            env!("CARGO_BIN_EXE_message_queue-consumer"),
            " --broker redis --url {url} --prefix {prefix} --results {results}"
        ),
    ),
    (
        "message_queue-client",
        concat!(env!("CARGO_BIN_EXE_message_queue-client"), " --broker redis --url {url} --prefix {prefix}"),
    ),
];

async fn assert_passes(contract: &Contract, tested: &Tested) {
    for stage in &contract.stages {
        let failed = failures(contract.format, stage, tested).await;
        assert!(failed.is_empty(), "{}, {}: {failed:#?}", contract.name, stage.name);
    }
}

#[apply(test!)]
async fn the_chapters_servers_pass_every_stage_of_their_contracts() {
    for contract in all() {
        let Some(pair) = PAIRS.iter().find(|pair| pair.chapter == contract.name) else { continue };
        let server = pair.serve().await;
        let tested = Tested { addr: server.addr().to_owned(), command: String::new() };
        assert_passes(&contract, &tested).await;
        server.stop().await;
    }
}

#[apply(test!)]
#[needs(message_queue::brokers::available())]
async fn the_programs_of_the_queue_chapter_pass_every_stage_of_their_contracts() {
    let redis = Broker::start(Kind::Redis, Options::default()).unwrap();
    for (name, command) in PROGRAMS {
        let contract = all().into_iter().find(|contract| contract.name == name).unwrap();
        let tested = Tested { addr: redis.url().replace("redis://", ""), command: command.to_owned() };
        assert_passes(&contract, &tested).await;
    }
}

async fn check(contract: &str, command: &str, more: &[&str]) -> Output {
    let args = [&[contract, "--server", command], more].concat();
    run_program(env!("CARGO_BIN_EXE_check"), &args).await
}

/// Returns the folder of the starters.
fn starters() -> String {
    root().join("tests/exercises/starters").to_str().unwrap().to_owned()
}

/// Returns what a starter has to know, as arguments.
fn places(contract: &Contract) -> &'static str {
    match contract.name {
        "message_queue-worker" => "{url} {prefix} {results}",
        "message_queue-client" => "{url} {prefix}",
        _ => "{addr}",
    }
}

/// Checks that a starter is short and passes the first stage.
async fn passes_the_first_stage(contract: &Contract, source: &str, command: &str) {
    assert!(std::fs::read_to_string(source).unwrap().lines().count() <= 60, "{source}");
    let output = check(contract.name, command, &["--stage", "1"]).await;
    let (name, count) = (contract.stages[0].name, contract.stages[0].cases.len());
    let passed = format!("stage 1, {name}: {count} of {count}\n");
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), passed.as_str()), "{}", output.stderr);
}

/// Checks the starter in Python. That of the gRPC chapter uses the environment of its client.
async fn python_starter_passes(contract: &Contract) {
    // Python would take a `grpc.py` for the package.
    let (python, file) = match contract.name {
        "grpc" => (root().join("grpc/python/.venv/bin/python"), "grpc-server"),
        name => ("python3".into(), name),
    };
    let (python, script) = (python.display(), format!("{}/{file}.py", starters()));
    let command = format!("{python} -B {script} {}", places(contract));
    passes_the_first_stage(contract, &script, &command).await;
}

#[apply(test!)]
#[needs(python())]
async fn the_python_starters_pass_the_first_stage() {
    let others = |contract: &Contract| contract.name != "grpc" && contract.format != Format::Redis;
    for contract in all().into_iter().filter(others) {
        python_starter_passes(&contract).await;
    }
}

#[apply(test!)]
#[needs(environment("grpc"))]
async fn the_python_starter_of_the_grpc_chapter_passes_the_first_stage() {
    python_starter_passes(&all()[2]).await;
}

#[apply(test!)]
#[needs(python())]
#[needs(message_queue::brokers::available())]
async fn the_python_starters_of_the_queue_chapter_pass_the_first_stage() {
    for contract in all().into_iter().filter(|contract| contract.format == Format::Redis) {
        python_starter_passes(&contract).await;
    }
}

#[apply(test!)]
#[needs(message_queue::brokers::available())]
async fn the_rust_starters_pass_the_first_stage() {
    let tcp_socket = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tcp_socket-starter");
    let source = format!("{}/tcp_socket.rs", starters());
    let args = ["--edition", "2024", "-o", tcp_socket.to_str().unwrap(), &source];
    let output = run_program("rustc", &args).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    for (contract, program) in all().iter().zip([
        tcp_socket.to_str().unwrap(),
        env!("CARGO_BIN_EXE_starter-http_rest"),
        env!("CARGO_BIN_EXE_starter-grpc"),
        env!("CARGO_BIN_EXE_starter-websocket"),
        env!("CARGO_BIN_EXE_starter-message_queue-worker"),
        env!("CARGO_BIN_EXE_starter-message_queue-client"),
    ]) {
        let source = format!("{}/{}.rs", starters(), contract.name);
        passes_the_first_stage(contract, &source, &format!("{program} {}", places(contract))).await;
    }
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
        ("", "the command is empty"),
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
    let nobody = run_program(env!("CARGO_BIN_EXE_check"), &["tcp_socket", "--addr", "127.0.0.1:1"]).await;
    assert!(
        nobody.stderr.starts_with("error: no server listens on 127.0.0.1:1: start it first"),
        "{nobody:?}"
    );
    let output = check("tcp_socket", "false", &["--stage", "99"]).await;
    assert_eq!(output.stderr, "error: there are 8 stages, counted from 1\n");
}
