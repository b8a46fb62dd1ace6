//! A batch counts once, whatever happens to the connection.

use futures::StreamExt;
use tcp_socket::limits::CLIENTS_REMEMBERED;
use tcp_socket::protocol::frame::kind;
use tcp_socket::protocol::handshake::random_id;
use tcp_socket::server::dedup::{Lookup, Replies};
use tcp_socket::{Client, Error, Limits};
use tests::{apply, test};
use tokio::task::JoinSet;

use crate::proxy::{Fault, Proxy};
use crate::support::{Raw, Running, batch, batch_of, reading, start, within};

#[apply(test!)]
async fn only_clients_without_a_connection_are_forgotten_oldest_first() {
    let id = |number: u64| -> [u8; 16] { u128::from(number).to_be_bytes() };
    let replies = Replies::new(1);
    let (connected, remembered) = replies.of(id(0));
    assert!(!remembered);
    connected.lock().unwrap().remember(1, 5);
    replies.of(id(1)).0.lock().unwrap().remember(1, 5);
    let know = |number| {
        let (window, remembered) = replies.of(id(number));
        let known = window.lock().unwrap().look_up(1);
        assert_eq!(remembered, known != Lookup::New);
        known
    };
    for other in 2..CLIENTS_REMEMBERED as u64 {
        replies.of(id(other));
    }
    assert_eq!(
        (know(0), know(1)),
        (Lookup::Recorded(5), Lookup::Recorded(5)),
        "a client was forgotten although there was room for all"
    );
    for other in 10_000..10_000 + CLIENTS_REMEMBERED as u64 {
        replies.of(id(other));
    }
    assert_eq!((know(0), know(1)), (Lookup::Recorded(5), Lookup::New));
    drop(connected);
    for other in 20_000..20_000 + CLIENTS_REMEMBERED as u64 {
        replies.of(id(other));
    }
    assert_eq!(know(0), Lookup::New);
}

#[apply(test!)]
async fn everything_works_through_a_proxy_that_forwards_single_bytes() {
    let server = start(Limits::default()).await;
    let proxy = Proxy::start(&server.addr, Fault::ByteByByte).await;
    let client = within(Client::connect(&proxy.addr)).await.unwrap();
    assert_eq!(client.record(&[reading("oslo-1", 0.0)]).await.unwrap(), 1);
    let mut watch = client.watch("oslo-1").await.unwrap();
    let many: Vec<_> = (0..300).map(|n| reading("oslo-1", f64::from(n % 70))).collect();
    let (recorded, ping) = tokio::join!(client.record(&many), client.ping());
    assert_eq!(recorded.unwrap(), 300);
    ping.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let update = within(watch.next()).await.unwrap().unwrap();
        assert_eq!(update.skipped, 0);
        seen.extend(update.readings.into_iter().map(|reading| reading.value));
    }
    assert_eq!(seen, many.iter().map(|reading| reading.value).collect::<Vec<_>>());
    drop(watch);
    client.close().await;
}

/// Starts a server, and a connection that watches its station "oslo-1".
async fn watched_server() -> (Running, Raw) {
    let server = start(Limits::default()).await;
    let mut watcher = Raw::open(&server.addr).await;
    watcher.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await;
    watcher.ask(kind::WATCH, 2, b"oslo-1").await;
    (server, watcher)
}

/// Records `last`, and returns the values that the watcher sees up to it.
async fn seen_until(server: &str, watcher: &mut Raw, last: f64) -> Vec<f64> {
    let mut recorder = Raw::open(server).await;
    recorder.ask(kind::RECORD, 1, &batch(1, "oslo-1", last)).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let update = watcher.receive().await.update();
        assert_eq!(update.skipped, 0);
        seen.extend(update.readings.iter().map(|reading| reading.value));
    }
    seen
}

#[apply(test!)]
async fn a_batch_counts_once_when_the_connection_is_cut_after_its_commit() {
    let (server, mut watcher) = watched_server().await;
    let proxy = Proxy::start(&server.addr, Fault::CutBeforeReply).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    // The reply reaches the proxy, so the server has recorded the batch when the client resends it.
    assert_eq!(within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap(), 1);
    assert_eq!(proxy.leads_to.borrow().1, Fault::None, "nothing was cut");
    assert_eq!(within(client.record(&[reading("oslo-1", 2.0)])).await.unwrap(), 1);
    assert_eq!(seen_until(&server.addr, &mut watcher, 9.0).await, [1.0, 2.0, 9.0]);
}

#[apply(test!)]
async fn a_batch_counts_once_when_the_connection_is_cut_before_it_arrives() {
    let (server, mut watcher) = watched_server().await;
    let proxy = Proxy::start(&server.addr, Fault::CutBeforeRequest).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    assert_eq!(within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap(), 1);
    assert_eq!(proxy.leads_to.borrow().1, Fault::None, "nothing was cut");
    assert_eq!(seen_until(&server.addr, &mut watcher, 9.0).await, [1.0, 9.0]);
}

#[apply(test!)]
async fn many_calls_in_flight_count_once_when_the_connection_is_cut() {
    let (server, mut watcher) = watched_server().await;
    let proxy = Proxy::start(&server.addr, Fault::CutBeforeReply).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..60 {
        for value in 1..=50 {
            let client = client.clone();
            calls.spawn(async move { client.record(&[reading("oslo-1", f64::from(value))]).await });
        }
    }
    while let Some(call) = within(calls.join_next()).await {
        assert_eq!(call.unwrap().unwrap(), 1);
    }
    let mut seen = seen_until(&server.addr, &mut watcher, 60.0).await;
    seen.sort_by(f64::total_cmp);
    let mut expected: Vec<_> = (0..60).flat_map(|_| (1..=50).map(f64::from)).chain([60.0]).collect();
    expected.sort_by(f64::total_cmp);
    assert_eq!(seen, expected);
}

#[apply(test!)]
async fn after_a_restart_the_client_says_that_the_outcome_is_unknown() {
    let first = start(Limits::default()).await;
    let second = start(Limits::default()).await;
    let proxy = Proxy::start(&first.addr, Fault::CutBeforeReply).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    // To the client, the server seems to have restarted, as its instance ID is different.
    proxy.leads_to.send_modify(|(server, _)| server.clone_from(&second.addr));
    let error = within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)) && error.may_have_been_executed(), "{error}");
    assert_eq!(error.to_string(), "outcome unknown: the server was restarted, or has forgotten this client");
    // New requests go to the new server.
    assert_eq!(within(client.record(&[reading("oslo-1", 2.0)])).await.unwrap(), 1);
}

#[apply(test!)]
async fn the_same_batch_on_many_connections_at_once_counts_once() {
    let (server, mut watcher) = watched_server().await;
    let client_id = random_id().unwrap();
    // Large, so that some copies arrive while the first is being recorded, but not so large
    // that a watcher may skip readings.
    let payload = batch_of(7, &vec![reading("oslo-1", 1.0); 9_000]);
    let mut connections = JoinSet::new();
    for _ in 0..8 {
        let (addr, payload) = (server.addr.clone(), payload.clone());
        connections.spawn(async move {
            let mut raw = Raw::open_as(&addr, client_id).await;
            raw.ask(kind::RECORD, 1, &payload).await.accepted()
        });
    }
    while let Some(accepted) = connections.join_next().await {
        assert_eq!(accepted.unwrap(), 9_000);
    }
    assert_eq!(seen_until(&server.addr, &mut watcher, 9.0).await.len(), 9_001);
}
