//! Clients that are slow, send too much, or disconnect, and a server that has to stop.

use std::time::Duration;
use tests::{apply, test};

use http_rest::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::PAIR;
use crate::raw::{JSON, Local, Response, SOON, batch, half_sent, head, request, rest, until};
use tcp_socket::base::limits::ConnectionLimits;
use tcp_socket::base::tls::trust_nobody;

#[apply(test!)]
#[alone]
async fn oversized_uploads_all_see_413() {
    let server = Local::start(Limits::default()).await;
    let body = bytes::Bytes::from(vec![b' '; 8 * 1024 * 1024]);
    let http =
        reqwest::Client::builder().no_proxy().tls_backend_preconfigured(trust_nobody()).build().unwrap();
    let mut uploads = JoinSet::new();
    let mut outcomes = Vec::new();
    for _ in 0..200 {
        if uploads.len() == 20 {
            outcomes.push(uploads.join_next().await.unwrap().unwrap());
        }
        let upload =
            http.post(format!("{}/readings", server.url())).header("content-type", "application/json");
        let upload = upload.body(body.clone()).send();
        uploads.spawn(async {
            upload.await.map(|response| response.status().as_u16()).map_err(|e| format!("{e:?}"))
        });
    }
    outcomes.extend(uploads.join_all().await);
    assert_eq!(outcomes, vec![Ok(413); 200]);
    server.stop().await;
}

#[apply(test!)]
#[alone]
async fn a_thousand_slow_lorises_do_not_block_other_clients() {
    assert!(
        Limits::default().connections.max_connections > 1000,
        "the default limit must exceed the number of lorises"
    );
    let server = Local::start(Limits::default()).await;
    let mut lorises = Vec::new();
    for _ in 0..1000 {
        let mut loris = TcpStream::connect(server.addr).await.unwrap();
        loris.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\nx-slow: ").await.unwrap();
        lorises.push(loris);
    }
    assert_eq!(request(server.addr, "POST", "/readings", &[JSON], &batch("a", 1)).await.status, 200);
    for loris in &mut lorises {
        loris.write_all(b"y").await.unwrap(); // They are still connected.
    }
    drop(lorises);
    server.stop().await;
}

/// `printf … | nc` half-closes its connection in this way.
#[apply(test!)]
async fn a_client_that_half_closes_gets_its_responses() {
    let server = Local::start(Limits::default()).await;
    let two = "GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n".repeat(2);
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(two.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let responses = String::from_utf8(rest(&mut stream).await).unwrap();
        assert_eq!(responses.matches("HTTP/1.1 200 OK").count(), 2, "{responses}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_silent_connection_is_closed() {
    let server =
        Local::start(Limits { header_timeout: Duration::from_millis(50), ..Limits::default() }).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(rest(&mut silent).await, b"");
    let mut loris = TcpStream::connect(server.addr).await.unwrap();
    loris.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await.unwrap();
    assert_eq!(rest(&mut loris).await, b"");
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    assert_eq!(Response::parse(&rest(&mut idle).await).body, "ok\n");
    server.stop().await;
}

#[apply(test!)]
async fn a_refused_client_cannot_hold_its_connection() {
    let ever = Duration::from_secs(3600);
    for (linger_bytes, linger_time) in [(1000, ever), (usize::MAX, Duration::from_millis(50))] {
        let limits = Limits {
            connections: ConnectionLimits {
                max_connections: 0,
                linger_bytes,
                linger_time,
                ..Default::default()
            },
            ..Limits::default()
        };
        let server = Local::start(limits).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        until(&mut stream, "too many connections\"}").await;
        timeout(SOON, async { while stream.write_all(&[b' '; 1000]).await.is_ok() {} })
            .await
            .expect("the server closes");
        server.stop().await;
    }
    // Beyond the limit on refusals, connections are closed without a response.
    let limits = Limits {
        connections: ConnectionLimits {
            max_connections: 0,
            max_refusals: 1,
            linger_time: ever,
            ..Default::default()
        },
        ..Limits::default()
    };
    let server = Local::start(limits).await;
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    until(&mut first, "too many connections\"}").await;
    for _ in 0..3 {
        let mut later = TcpStream::connect(server.addr).await.unwrap();
        assert_eq!(later.read_buf(&mut Vec::new()).await.unwrap_or(0), 0, "closed without a response");
    }
    drop(first);
    server.stop().await;
}

#[apply(test!)]
async fn a_body_is_refused_before_it_is_read() {
    let server = Local::start(Limits { max_body: 1000, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(head("POST", "/readings", &[JSON], 1001, "").as_bytes()).await.unwrap();
    until(&mut stream, "HTTP/1.1 413 ").await;

    // The headers alone are enough to refuse these, so the body is not read either.
    request(server.addr, "POST", "/stations", &[JSON], r#"{"id":"a","name":"A"}"#).await;
    for (headers, status) in [(vec![], 415), (vec![JSON], 428), (vec![JSON, ("if-match", "\"x\"")], 412)] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(head("PUT", "/stations/a", &headers, 100, "").as_bytes()).await.unwrap();
        until(&mut stream, &format!("HTTP/1.1 {status} ")).await;
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_client_that_does_not_read_is_cut_off() {
    let short = Duration::from_millis(50);
    let server = Local::start(Limits {
        connections: ConnectionLimits { linger_time: short, ..Default::default() },
        write_timeout: short,
        ..Limits::default()
    })
    .await;
    request(server.addr, "POST", "/readings", &[JSON], &batch("a", 500)).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = b"GET /readings?station=a&limit=500 HTTP/1.1\r\nhost: test\r\n\r\n";
    // Send until a write fails, which happens only when the server closes the connection.
    timeout(SOON, async { while stream.write_all(request).await.is_ok() {} })
        .await
        .expect("the server closes the connection");
    server.stop().await;
}

#[apply(test!)]
#[alone]
async fn sigterm_lets_a_hundred_requests_in_flight_finish() {
    let mut server = PAIR.serve().await;
    let addr = server.addr().parse().unwrap();
    let body = batch("a", 1);
    let mut in_flight = Vec::new();
    for _ in 0..100 {
        in_flight.push(half_sent(addr, &[], &body).await);
    }
    server.terminate();
    // Once it refuses connections, it has received the signal.
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for stream in &mut in_flight {
        stream.write_all(&body.as_bytes()[body.len() / 2..]).await.unwrap();
    }
    for mut stream in in_flight {
        let response = Response::parse(&rest(&mut stream).await);
        assert_eq!((response.status, response.json()["accepted"].as_u64()), (200, Some(1)));
    }
    server.wait().await; // It panics unless the exit code is 0.
}

#[apply(test!)]
async fn an_unfinished_request_does_not_delay_the_shutdown() {
    let server = Local::start(Limits {
        connections: ConnectionLimits { drain_timeout: Duration::from_millis(50), ..Default::default() },
        ..Limits::default()
    })
    .await;
    let mut stream = half_sent(server.addr, &[], &batch("a", 1)).await;
    server.stop().await;
    assert!(rest(&mut stream).await.is_empty(), "disconnected without a response");
}
