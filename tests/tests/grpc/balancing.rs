//! A client of several servers.

use futures::future::join_all;
use futures::stream;
use grpc::proto::Reading;
use grpc::{Client, Error, Options};
use tests::{Server, apply, run_program, test};

use crate::support::*;

fn balanced(urls: &[&str]) -> Client {
    Client::balanced(urls, &Options::default()).unwrap()
}

fn one() -> Reading {
    reading("oslo-1", 1.0)
}

/// Returns how many readings a server has recorded.
async fn recorded(url: &str) -> u64 {
    client(url).watch("oslo-1", None, None).await.map_or(0, |watching| watching.position().sequence)
}

#[apply(test!)]
async fn calls_are_spread_over_the_servers() {
    let (a, b) = (Local::start(|_| {}).await, Local::start(|_| {}).await);
    let client = balanced(&[&a.url(), &b.url()]);
    for _ in 0..200 {
        client.record(&[one()]).await.unwrap();
    }
    let (at_a, at_b) = (recorded(&a.url()).await, recorded(&b.url()).await);
    assert!(at_a + at_b == 200 && at_a.min(at_b) > 20, "a: {at_a}, b: {at_b}");
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[apply(test!)]
async fn no_call_fails_when_a_server_stops_in_good_order() {
    let (a, b) = (PAIR.serve().await, PAIR.serve().await);
    let client = balanced(&[a.url(), b.url()]);
    let callers = (0..8).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..300 {
                client.record(&[one()]).await.unwrap();
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    while recorded(b.url()).await < 100 {} // The calls are in progress, on both servers.
    b.stop().await;
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    assert!(recorded(a.url()).await > 1000);
    drop(client);
    a.stop().await;
}

/// The test makes calls that the client never retries, so only the health checks keep them from
/// the server that is gone.
#[apply(test!)]
async fn a_server_gets_no_calls_until_it_passes_its_health_check() {
    let (a, b) = (PAIR.serve().await, PAIR.serve().await);
    let b_addr = b.addr().to_owned();
    let client = balanced(&[a.url(), b.url()]);
    let call = async || client.upload(stream::iter([one()]), None).await;
    while recorded(b.url()).await == 0 {
        call().await.unwrap();
    }
    b.stop().await;
    within(async {
        let mut in_a_row = 0;
        while in_a_row < 100 {
            in_a_row = if call().await.is_ok() { in_a_row + 1 } else { 0 };
        }
    })
    .await;
    let b = Server::start(PAIR.server, &["--addr", &b_addr]).await;
    within(async {
        while recorded(b.url()).await == 0 {
            call().await.unwrap();
        }
    })
    .await;
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[apply(test!)]
async fn without_any_server_a_call_fails_at_once_and_names_all_addresses() {
    let (free, also_free) = (listen().await, listen().await);
    let (url, other) = (free.1, also_free.1);
    drop((free.0, also_free.0));
    let failed = within(balanced(&[&url, &other]).record(&[one()])).await;
    assert!(
        matches!(&failed, Err(Error::Unreachable { url: named, .. }) if *named == format!("{url} or {other}")),
        "{failed:?}"
    );
    let none: [&str; 0] = [];
    assert!(matches!(Client::balanced(&none, &Options::default()), Err(Error::Address { .. })));

    // In the program, the option may be repeated, and one option may hold several addresses.
    let server = PAIR.serve().await;
    let list = format!("{url},{other}");
    let record = ["record", "oslo-1", "wind", "7", "--url"];
    let refused = run_program(PAIR.client, &[&record[..], &[&list]].concat()).await;
    let hint =
        format!("error: no server at {url} or {other}; start one with: cargo run -p grpc --bin server\n");
    assert_eq!(refused.stderr, hint);
    for _ in 0..4 {
        let accepted =
            run_program(PAIR.client, &[&record[..], &[&list, "--url", server.url()]].concat()).await;
        assert_eq!(accepted.stdout, "accepted 1\n", "{}", accepted.stderr);
    }
    server.stop().await;
}

#[apply(test!)]
async fn the_example_shows_that_a_forwarder_does_not_balance_calls() {
    let printed = run_program(env!("CARGO_BIN_EXE_grpc-balancing"), &[]).await;
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let lines: Vec<_> = printed.stdout.lines().collect();
    assert_eq!((lines.len(), lines[1]), (8, "   server a: 1000 calls, server b: 0"), "{}", printed.stdout);
    assert_ne!(lines[3], "   server a: 1000 calls, server b: 0");
}
