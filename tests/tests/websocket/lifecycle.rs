//! How long a connection lives, and how it ends.

use std::time::Duration;

use serde_json::json;
use tcp_socket::base::limits::ConnectionLimits;
use tests::{apply, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use websocket::Limits;

use crate::handshake::status;
use crate::local::{BINARY, CLOSE, Local, PING, PONG, Raw, TEXT, frame, handshake, limits, soon};

/// Starts a server with this heartbeat. Its other limits are the defaults.
async fn with_heartbeat(heartbeat: u64, dead_after: u64) -> Local {
    let [heartbeat, dead_after] = [heartbeat, dead_after].map(Duration::from_millis);
    Local::start(Limits { heartbeat, dead_after, ..limits() }).await
}

#[apply(test!)]
async fn the_server_pings_and_sends_heartbeats() {
    let server = with_heartbeat(50, 600_000).await;
    for path in ["/chat", "/live"] {
        let mut raw = Raw::open(server.addr, path).await;
        for _ in 0..3 {
            assert_eq!(raw.frame().await.unwrap().0, PING);
            let (first, text) = raw.frame().await.unwrap();
            assert_eq!(first, TEXT);
            let heartbeat: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(heartbeat, json!({"type": "heartbeat", "next_within_ms": 50}));
        }
    }
    server.stop().await;
}

/// A peer that responds to pings stays connected for longer than a silent one.
#[apply(test!)]
async fn silent_connections_are_closed_and_responsive_ones_are_not() {
    let server = with_heartbeat(400, 2500).await;
    let mut alive = Raw::open(server.addr, "/echo").await;
    let mut silent = Raw::open(server.addr, "/echo").await;
    for _ in 0..9 {
        assert_eq!(alive.frame().await.unwrap().0, PING);
        alive.send(frame(PONG, b"")).await;
    }
    assert_eq!(silent.closed().await, (1008, "keepalive timeout".to_owned()));
    server.stop().await;
}

#[apply(test!)]
async fn connections_over_the_limit_get_503_before_the_upgrade() {
    let server = Local::start(Limits {
        connections: ConnectionLimits { max_connections: 2, ..Default::default() },
        ..Limits::default()
    })
    .await;
    let mut first = Raw::open(server.addr, "/chat").await;
    let second = Raw::open(server.addr, "/live").await;
    let (code, head) = status(&server, handshake("/chat", "")).await;
    assert_eq!(code, 503, "{head}");
    first.send(frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(first.closed().await.0, 1000);
    drop(first);
    // Its place becomes free once the server notices that it is gone.
    let again = async {
        while status(&server, handshake("/chat", "")).await.0 == 503 {
            tokio::task::yield_now().await;
        }
    };
    soon("a free place", again).await;
    drop(second);
    server.stop().await;
}

/// The number of connections that the server refuses with 503 at once is limited, too.
#[apply(test!)]
async fn connections_over_the_limit_on_refusals_get_no_response() {
    let limits = Limits {
        connections: ConnectionLimits { max_connections: 0, max_refusals: 1, ..Default::default() },
        ..Limits::default()
    };
    let server = Local::start(limits).await;
    let mut refused = Raw::tcp(server.addr).await;
    assert!(refused.head().await.starts_with("HTTP/1.1 503 "));
    let mut closed = Raw::tcp(server.addr).await;
    let mut response = Vec::new();
    let _ = soon("the end", closed.stream.read_to_end(&mut response)).await; // Or it sees a reset.
    assert!(response.is_empty(), "{}", String::from_utf8_lossy(&response));
    server.stop().await;
}

/// After the close frame, one peer keeps the connection open, and another one keeps sending.
#[apply(test!)]
async fn the_server_does_not_linger_forever() {
    let forever = Duration::from_secs(600);
    let violation = frame(0x83, b"x");
    let limits = |linger_time, linger_bytes| Limits {
        connections: ConnectionLimits {
            linger_time,
            linger_bytes,
            drain_timeout: forever,
            ..Default::default()
        },
        ..Limits::default()
    };
    let server = Local::start(limits(Duration::from_millis(50), usize::MAX)).await;
    let mut holds_on = Raw::open(server.addr, "/chat").await;
    holds_on.send(&violation).await;
    assert_eq!(holds_on.closed().await.0, 1002);
    server.stop().await; // This waits until the connections have ended.

    let server = Local::start(limits(forever, 1_000_000)).await;
    let mut sends_on = Raw::open(server.addr, "/chat").await;
    sends_on.send(&violation).await;
    let sent = async { while sends_on.stream.write_all(&[0; 10_000]).await.is_ok() {} };
    soon("the end", sent).await;
    server.stop().await;
}

#[apply(test!)]
async fn on_shutdown_every_connection_is_closed_with_1001() {
    let server = Local::start(Limits::default()).await;
    let addr = server.addr;
    let mut open = Vec::new();
    for path in ["/chat", "/live", "/echo"] {
        open.push(Raw::open(addr, path).await);
    }
    // A request that was sent earlier gets its response first.
    open[2].send(frame(TEXT, b"last words")).await;
    assert_eq!(open[2].frame().await.unwrap(), (TEXT, b"last words".to_vec()));
    let mut stopping = server.terminate();
    for raw in &mut open {
        assert_eq!(raw.closed().await, (1001, "the server is stopping".to_owned()));
    }
    // The server waits for the connections, which are still open on the client's side.
    let waited = timeout(Duration::from_millis(300), &mut stopping).await;
    assert!(waited.is_err(), "the server must wait for upgraded connections");
    drop(open);
    soon("the end", stopping).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[apply(test!)]
async fn shutdown_cuts_connections_that_stay_open() {
    let limits = Limits {
        connections: ConnectionLimits {
            linger_time: Duration::from_secs(600),
            drain_timeout: Duration::from_millis(200),
            ..Default::default()
        },
        ..limits()
    };
    let server = Local::start(limits).await;
    let _holds_on = Raw::open(server.addr, "/chat").await;
    server.stop().await;
}

#[apply(test!)]
async fn a_client_that_reads_nothing_is_disconnected() {
    let limits = Limits {
        heartbeat: Duration::from_secs(600),
        write_timeout: Duration::from_millis(200),
        max_message: 16 << 20,
        ..limits()
    };
    let server = Local::start(limits).await;
    let mut raw = Raw::open(server.addr, "/echo").await;
    let big = frame(BINARY, &vec![0; 16 << 20]);
    let sent = async {
        // Nobody reads the echo of the first message, which is more than the kernel's buffers hold.
        loop {
            if raw.stream.write_all(&big).await.is_err() {
                break;
            }
        }
    };
    soon("a reset", sent).await;
    server.stop().await;
}

/// This is what `printf … | nc` does, for example.
#[apply(test!)]
async fn a_client_that_closes_its_sending_side_still_gets_its_response() {
    let server = Local::start(limits()).await;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut response = String::new();
        soon("the response", stream.read_to_string(&mut response)).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    }
    server.stop().await;
}
