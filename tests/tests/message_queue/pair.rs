//! The output of the programs.

use message_queue::brokers::Kind;
use tests::{Server, apply, assert_same, expected_output, run_program, test};

use crate::PAIR;
use crate::support::{BOTH, CONSUMER, Folder, PRODUCER, Program, broker_test, name, prefix, url};

const README: &str = "message_queue/README.md";

/// The README's commands use the standard broker and names. Here they use the tests' broker and
/// other names, which this test replaces in the output.
#[apply(broker_test!)]
async fn the_programs_print_what_the_readme_shows() {
    let (url, prefix, results) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let ours = ["--url", &url, "--prefix", &prefix];
    let as_shown = |text: &str| text.replace(&prefix, "weather").replace(results.path(), "results");

    let server = Server::start(PAIR.server, &ours).await;
    let client = run_program(PAIR.client, &ours).await;
    assert_eq!((client.code, client.stderr.as_str()), (Some(0), ""));
    let shown = expected_output(README, "cargo run -p message_queue --bin client");
    assert_same(&as_shown(&client.stdout), &shown);
    let printed = server.stop().await;
    assert_same(&as_shown(&printed), &expected_output(README, "cargo run -p message_queue --bin server"));

    let arguments = ["--batch", "demo", "--count", "3", "--poison", "1"];
    let producer = run_program(PRODUCER, &[&ours, &arguments[..]].concat()).await;
    assert_eq!((producer.code, producer.stderr.as_str()), (Some(0), ""));
    let command = "cargo run -p message_queue --bin producer -- --batch demo --count 3 --poison 1";
    assert_same(&as_shown(&producer.stdout), &expected_output(README, command));

    let mut consumer = Program::worker(Kind::RabbitMq, &url, &prefix, &results, &[]);
    consumer.shows("moved to the dead letters", 1).await;
    let printed = consumer.stop().await;
    assert_same(&as_shown(&printed), &expected_output(README, "cargo run -p message_queue --bin consumer"));

    let letters = run_program(CONSUMER, &[&ours, &["dead-letters"][..]].concat()).await;
    let command = "cargo run -p message_queue --bin consumer -- dead-letters";
    assert_same(&as_shown(&letters.stdout), &expected_output(README, command));
}

#[apply(broker_test!)]
async fn the_minimal_examples_print_what_the_readme_shows() {
    for (kind, variable, program, example) in [
        (
            Kind::RabbitMq,
            "RABBITMQ_URL",
            env!("CARGO_BIN_EXE_message_queue-minimal_rabbitmq"),
            "minimal_rabbitmq",
        ),
        (Kind::Redis, "REDIS_URL", env!("CARGO_BIN_EXE_message_queue-minimal_redis"), "minimal_redis"),
    ] {
        let output = run_program("env", &[&format!("{variable}={}", url(kind)), program]).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        let command = format!("cargo run -p message_queue --example {example}");
        assert_same(&output.stdout, &expected_output(README, &command));
    }
}

#[apply(broker_test!)]
async fn the_tour_is_the_same_on_redis() {
    let (url, prefix) = (url(Kind::Redis), prefix());
    let ours = ["--broker", "redis", "--url", &url, "--prefix", &prefix];
    let server = Server::start(PAIR.server, &ours).await;
    let client = run_program(PAIR.client, &ours).await;
    assert_eq!((client.code, client.stderr.as_str()), (Some(0), ""));
    let shown = expected_output(README, "cargo run -p message_queue --bin client");
    assert_same(&client.stdout.replace(&prefix, "weather"), &shown);
    server.stop().await;
}

#[apply(test!)]
async fn a_program_without_a_broker_says_how_to_start_one() {
    for program in [PAIR.server, PAIR.client, PRODUCER, CONSUMER] {
        for (kind, url) in [("rabbitmq", "amqp://127.0.0.1:1"), ("redis", "redis://127.0.0.1:1")] {
            let output = run_program(program, &["--broker", kind, "--url", url]).await;
            assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{program}");
            assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
            assert!(output.stderr.starts_with(&format!("error: no broker at {url} (")), "{}", output.stderr);
            let command = "cargo run -p message_queue --bin brokers, or: docker compose up -d --wait\n";
            assert!(output.stderr.ends_with(command), "{}", output.stderr);
        }
    }
}

#[apply(broker_test!)]
async fn a_client_without_a_server_says_how_to_start_one() {
    for kind in BOTH {
        let (url, prefix) = (url(kind), prefix());
        let ours = ["--broker", name(kind), "--url", &url, "--prefix", &prefix];
        for command in [&[][..], &["record", "oslo-1", "wind", "3"]] {
            let output = run_program(PAIR.client, &[&ours, command].concat()).await;
            assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
            let start = "cargo run -p message_queue --bin server";
            let option = if kind == Kind::Redis { " -- --broker redis" } else { "" };
            let expected = format!("error: no server at {url}; start one with: {start}{option}\n");
            assert_eq!(output.stderr, expected);
        }
    }
}
