//! Tests of the server and the client as you run them in two terminals.

use tests::{apply, assert_same, expected_output, run_program, test};

use crate::PAIR;

const README: &str = "tcp_socket/README.md";

#[apply(test!)]
async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(&client.stdout, include_str!("tour.txt"));
    // The README shows parts of this output; `...` stands for the lines between them.
    assert_same(&client.stdout, &expected_output(README, "cargo run -p tcp_socket --bin client"));
    let printed = server.stop().await;
    assert_same(&printed, &expected_output(README, "cargo run -p tcp_socket --bin server"));
}

#[apply(test!)]
async fn the_minimal_example_prints_what_the_readme_shows() {
    let output = run_program(env!("CARGO_BIN_EXE_tcp_socket-minimal"), &[]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_same(&output.stdout, &expected_output(README, "cargo run -p tcp_socket --example minimal"));
}

#[apply(test!)]
async fn the_example_without_framing_prints_what_the_readme_shows() {
    let output = run_program(env!("CARGO_BIN_EXE_tcp_socket-without_framing"), &[]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_same(
        &output.stdout,
        &expected_output(README, "cargo run -p tcp_socket --example without_framing"),
    );
}

#[apply(test!)]
async fn the_subcommands_work() {
    let server = PAIR.serve().await;
    let unknown = PAIR.client(&server, &["watch", "oslo-1"]).await;
    assert_eq!(unknown.code, Some(1));
    assert_eq!(unknown.stderr, "error: UnknownStation (21): no station \"oslo-1\"\n");
    let record = PAIR.client(&server, &["record", "oslo-1", "temperature", "-3.5"]).await;
    assert_eq!((record.code, record.stdout.as_str()), (Some(0), "accepted 1\n"));
    let invalid = PAIR.client(&server, &["record", "oslo-1", "humidity", "130"]).await;
    assert_eq!(
        (invalid.code, invalid.stderr.as_str()),
        (Some(1), "error: InvalidReading (19): reading 0: humidity 130 is outside 0 to 100\n")
    );
    let ping = PAIR.client(&server, &["ping", "--count", "2"]).await;
    assert_eq!(ping.stdout.matches("answered in ").count(), 2, "{}", ping.stdout);
    let flood =
        PAIR.client(&server, &["flood", "--requests", "500", "--in-flight", "7", "--batch", "3"]).await;
    assert!(flood.stdout.starts_with("1500 readings in 500 requests, 7 at a time: "), "{}", flood.stdout);
    server.stop().await;
}

#[apply(test!)]
async fn a_watch_in_one_terminal_shows_what_another_one_records() {
    let server = PAIR.serve().await;
    PAIR.client(&server, &["record", "oslo-1", "wind", "1"]).await;
    let watch = PAIR.client(&server, &["watch", "oslo-1", "--count", "1"]);
    let record = async {
        // This test can't see when the watch begins, so it records until the watch shows a reading.
        loop {
            PAIR.client(&server, &["record", "oslo-1", "wind", "7.25"]).await;
        }
    };
    let watch = tokio::select! {
        watch = watch => watch,
        () = record => unreachable!(),
    };
    assert_eq!(watch.code, Some(0), "{}", watch.stderr);
    assert!(watch.stdout.starts_with("wind 7.25 at "), "{}", watch.stdout);
    assert_eq!(watch.stderr, "watching oslo-1\n");
    server.stop().await;
}

#[apply(test!)]
async fn a_client_without_a_server_says_how_to_start_one() {
    PAIR.client_says_how_to_start_a_server("tcp", &[&[], &["ping"]]).await;
}

#[apply(test!)]
async fn a_server_whose_port_is_taken_says_how_to_pick_another() {
    PAIR.server_says_how_to_pick_another_port().await;
}

#[apply(test!)]
async fn an_address_of_another_protocol_is_refused_by_the_client() {
    PAIR.client_refuses_another_protocol("tcp", &[&[], &["ping"]]).await;
}
