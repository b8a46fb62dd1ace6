//! What clients see when a server drains its connections, restarts, or is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tcp_socket::protocol::frame::{FLAG_END, kind};
use tcp_socket::protocol::message::ErrorCode;
use tcp_socket::{Client, Error, Limits};
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, test};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::PAIR;
use crate::support::{Raw, batch, frame, reading, start, start_at, within};

#[apply(test!)]
async fn a_draining_server_ends_its_watches_and_says_goodbye() {
    let server = start(Limits::default()).await;
    let addr = server.addr.clone();
    let mut silent = Raw::connect(&addr).await;
    let mut raw = Raw::open(&addr).await;
    assert_eq!(raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await.accepted(), 1);
    raw.ask(kind::WATCH, 2, b"oslo-1").await;
    // Half a frame cannot be executed, and must not delay the shutdown.
    raw.write(&frame(kind::RECORD, 3, &batch(2, "oslo-1", 2.0))[..30]).await;
    let stopped = server.ask_to_stop();
    assert_eq!(raw.receive().await.flags, FLAG_END);
    assert_eq!(raw.receive().await.kind, kind::GOODBYE);
    assert_eq!(raw.next().await, None);
    assert_eq!(silent.welcome().await.version, 0);
    assert_eq!(silent.last_error().await, ErrorCode::ShuttingDown);
    drop((raw, silent));
    within(stopped).await.unwrap().unwrap();
    TcpStream::connect(&addr).await.expect_err("the port is still open");
}

#[apply(test!)]
async fn every_call_succeeds_across_a_graceful_restart() {
    let first = start(Limits::default()).await;
    let addr = first.addr.clone();
    let client = Client::connect(&addr).await.unwrap().with_timeout(Duration::from_secs(60));
    client.record(&[reading("oslo-1", 0.0)]).await.unwrap();
    let done = Arc::new(AtomicU32::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let (client, done) = (client.clone(), done.clone());
        callers.spawn(async move {
            for _ in 0..300 {
                client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while done.load(Ordering::Relaxed) < 500 {
        tokio::task::yield_now().await;
    }
    within(first.ask_to_stop()).await.unwrap().unwrap();
    let before = done.load(Ordering::Relaxed);
    assert!(before < 16 * 300, "all calls were done before the restart");
    let second = start_at(&addr, Limits::default()).await;
    // Every call succeeds: from GOODBYE, the client knows which requests were not executed.
    while let Some(caller) = within(callers.join_next()).await {
        caller.unwrap();
    }
    drop(client);
    second.stop().await;
}

#[apply(test!)]
async fn calls_do_not_hang_when_the_server_is_killed() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let client = Client::connect(&addr).await.unwrap().with_timeout(Duration::from_secs(2));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        callers.spawn(async move {
            loop {
                if let Err(error) = client.record(&[reading("oslo-1", 1.0)]).await {
                    return error;
                }
            }
        });
    }
    client.ping().await.unwrap();
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    while let Some(error) = within(callers.join_next()).await {
        let error = error.unwrap();
        assert!(matches!(error, Error::OutcomeUnknown(_) | Error::NotExecuted(_)), "{error}");
    }
    // The port is free once the process has ended, even if it is still a zombie.
    let stat = format!("/proc/{}/stat", server.pid());
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::task::yield_now().await;
    }
    let restarted = Server::start(PAIR.server, &["--addr", &addr]).await;
    let client = client.with_timeout(Duration::from_secs(30));
    assert_eq!(client.record(&[reading("oslo-1", 1.0)]).await.unwrap(), 1);
    client.close().await;
    restarted.stop().await;
}
