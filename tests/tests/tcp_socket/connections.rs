//! More connections than the server accepts, and thousands of connections in a row.

use std::time::Duration;

use tcp_socket::protocol::frame::kind;
use tcp_socket::protocol::handshake::{Hello, random_id};
use tcp_socket::protocol::message::ErrorCode;
use tcp_socket::{Client, Limits};
use tests::{Server, apply, test};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::PAIR;
use crate::support::{Raw, batch, frame, start, within};
use tcp_socket::base::limits::ConnectionLimits;

#[apply(test!)]
async fn a_connection_beyond_the_limit_is_refused_with_an_error_frame() {
    let server = start(Limits {
        connections: ConnectionLimits { max_connections: 2, ..Default::default() },
        ..Limits::default()
    })
    .await;
    let (mut first, second) = (Raw::open(&server.addr).await, Raw::open(&server.addr).await);
    let mut third = Raw::connect(&server.addr).await;
    assert_eq!(third.welcome().await.version, 0);
    assert_eq!(third.last_error().await, ErrorCode::TooManyConnections);
    let refused = Client::connect(&server.addr).await.err().unwrap();
    assert_eq!(refused.to_string(), "TooManyConnections (3): too many connections");
    first.assert_alive().await;
    drop(second);
    // There is room again once the server has noticed that the second one is closed.
    let client = within(async {
        loop {
            if let Ok(client) = Client::connect(&server.addr).await {
                break client;
            }
        }
    });
    client.await.ping().await.unwrap();
}

#[apply(test!)]
#[alone]
async fn many_refused_connections_do_not_disturb_the_open_ones() {
    let server = start(Limits {
        connections: ConnectionLimits { max_connections: 10, ..Default::default() },
        ..Limits::default()
    })
    .await;
    let mut inside = Vec::new();
    for _ in 0..10 {
        inside.push(Raw::open(&server.addr).await);
    }
    let mut storm = JoinSet::new();
    for _ in 0..200 {
        let addr = server.addr.clone();
        storm.spawn(async move {
            let mut raw = Raw::connect(&addr).await;
            // All of them send HELLO at once. It stays unread, and must not destroy the response.
            let hello = Hello { lowest: 1, highest: 1, client_id: random_id().unwrap() };
            let _ = raw.stream.write_all(&hello.encode()).await;
            assert_eq!(raw.welcome().await.version, 0);
            assert_eq!(raw.last_error().await, ErrorCode::TooManyConnections);
        });
    }
    for raw in &mut inside {
        raw.assert_alive().await;
    }
    while let Some(refused) = storm.join_next().await {
        refused.unwrap();
    }
    for raw in &mut inside {
        raw.assert_alive().await;
    }
}

#[apply(test!)]
async fn closed_connections_leave_no_tasks_behind() {
    let server = start(Limits::default()).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for _ in 0..20 {
        let mut ends = Vec::new();
        for way in 0..5 {
            let mut raw = Raw::open(&server.addr).await;
            raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await;
            raw.ask(kind::WATCH, 2, b"oslo-1").await;
            match way {
                0 => raw.send(kind::GOODBYE, 0, b"").await,
                1 => raw.write(&frame(kind::PING, 1, b"")[..9]).await,
                2 => raw.send(kind::PING, 0, b"").await,
                3 => raw.stream.set_zero_linger().unwrap(),
                _ => {}
            }
            ends.push(raw);
        }
        drop(ends);
    }
    let client = Client::connect(&server.addr).await.unwrap();
    client.ping().await.unwrap();
    drop(client);
    within(async {
        while metrics.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Returns the number of open descriptors of a server, and its resident memory in KiB.
fn resources(server: &Server) -> (usize, u64) {
    let process = format!("/proc/{}", server.pid());
    let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (descriptors, resident.trim().trim_end_matches(" kB").parse().unwrap())
}

async fn use_connections(addr: &str, count: usize) {
    const AT_A_TIME: usize = 50;
    let mut users = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let addr = addr.to_owned();
        users.spawn(async move {
            for number in 0..count / AT_A_TIME {
                let mut raw = Raw::open(&addr).await;
                assert_eq!(raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await.accepted(), 1);
                raw.ask(kind::WATCH, 2, b"oslo-1").await;
                if number % 2 == 0 {
                    raw.send(kind::GOODBYE, 0, b"").await;
                    while raw.next().await.is_some() {}
                }
            }
        });
    }
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
}

/// Waits until the server has closed its connections, so that `expected` descriptors are left.
async fn descriptors_fall_to(server: &Server, expected: usize) {
    within(async {
        while resources(server).0 > expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[apply(test!)]
#[alone]
async fn ten_thousand_connections_leak_no_descriptors_and_no_memory() {
    let server = PAIR.serve().await;
    let (descriptors, _) = resources(&server);
    use_connections(server.addr(), 1_000).await;
    descriptors_fall_to(&server, descriptors).await;
    let (_, warm) = resources(&server);
    use_connections(server.addr(), 10_000).await;
    descriptors_fall_to(&server, descriptors).await;
    let (_, after) = resources(&server);
    // The server is meant to keep 10,000 more readings, and the replies to up to 8,192 clients:
    // a few MiB. The input buffers of 10,000 leaked connections alone would take about 80 MiB.
    assert!(after < warm + 16 * 1024, "{warm} KiB before, {after} KiB after");
    server.stop().await;
}
