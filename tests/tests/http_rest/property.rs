//! Whatever a client sends, it never causes a 5xx, a panic, or an error in the wrong form.

use std::net::SocketAddr;
use std::time::Duration;
use tests::{apply, test};

use http_rest::Limits;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raw::{JSON, Local, Response, SOON, request};
use tcp_socket::base::limits::ConnectionLimits;

const CASES: u32 = 3000;

fn method() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT"]).prop_map(str::to_owned),
        1 => "[A-Z!#$%&'*+.^_`|~-]{1,10}",
    ]
}

fn path() -> impl Strategy<Value = String> {
    let known =
        ["/readings", "/stations", "/stations/a", "/readings/live", "/openapi.json", "/healthz", "*", "/"];
    let query = "(\\?(station|limit|cursor|metric|from|to|x)=[!-~]{0,12}(&limit=[0-9]{1,20})?)?";
    prop_oneof![
        6 => (prop::sample::select(known.to_vec()), query).prop_map(|(path, query)| format!("{path}{query}")),
        2 => "/stations/[!-~]{0,40}",
        1 => "/[ -~]{0,60}",
        1 => "http://[a-z@:%/]{0,12}",
    ]
}

fn headers() -> impl Strategy<Value = String> {
    let names = [
        "content-type",
        "if-match",
        "if-none-match",
        "idempotency-key",
        "x-request-id",
        "last-event-id",
        "accept",
        "content-length",
        "transfer-encoding",
        "expect",
        "connection",
        "host",
        "upgrade",
        "range",
    ];
    let values = prop_oneof![
        "[ -~]{0,30}",
        prop::sample::select(vec![
            "application/json",
            "application/merge-patch+json",
            "*",
            "\"\"",
            "W/\"x\"",
            "chunked",
            "100-continue",
            "5",
            "0",
            "close",
            "websocket"
        ])
        .prop_map(str::to_owned),
    ];
    let header = (prop::sample::select(names.to_vec()), values)
        .prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    prop::collection::vec(header, 0..4).prop_map(|headers| headers.concat())
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let json = prop_oneof![
        Just(r#"{"readings":[{"station":"a","metric":"wind","value":1,"recorded_at":0}]}"#.to_owned()),
        Just(r#"{"id":"a","name":"A"}"#.to_owned()),
        "\\{\"(readings|id|name|latitude)\":(\\[\\{\"station\":\"a\",\"metric\":)?(\"[a-z]{0,3}\"|[0-9eE.-]{1,8}|null|\\[\\]|\\{\\})(\\}\\])?\\}",
        "(\\{|\\[|\"[a-z]{0,8}\"|:|,|[0-9eE.-]{1,8}|null|true|\\}|\\]){0,12}",
        (0usize..400).prop_map(|depth| "[".repeat(depth)),
    ];
    prop_oneof![3 => json.prop_map(String::into_bytes), 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// A valid method, path, and header, so that the server examines the body.
fn plausible() -> impl Strategy<Value = (String, String, String)> {
    let json = "content-type: application/json\r\n";
    let known = [
        ("POST", "/readings", json.to_owned()),
        ("POST", "/stations", json.to_owned()),
        ("PUT", "/stations/a", format!("{json}if-match: *\r\n")),
        ("PATCH", "/stations/a", "content-type: application/merge-patch+json\r\nif-match: *\r\n".to_owned()),
    ];
    prop::sample::select(known.to_vec())
        .prop_map(|(method, path, headers)| (method.into(), path.into(), headers))
}

/// Usually an almost well-formed request, sometimes random bytes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![plausible(), (method(), path(), headers())];
    let request = (head, body()).prop_map(|((method, path, headers), body)| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    });
    prop_oneof![9 => request, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

/// Returns the first response, or the part of it that arrived before the server closed.
async fn first_response(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut received = Vec::new();
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if received.starts_with(b"HTTP/1.1 100") {
                received.drain(..end + 4);
                continue;
            }
            if bytes.starts_with(b"HEAD ") || received.len() >= end + 4 + length {
                return received;
            }
        }
        match stream.read_buf(&mut received).await {
            Ok(0) | Err(_) => return received,
            Ok(_) => {}
        }
    }
}

fn check(bytes: &[u8], received: &[u8]) -> Result<(), TestCaseError> {
    if received.is_empty() {
        return Ok(()); // The header was incomplete, so the server closed without a response.
    }
    let response = Response::parse(received);
    prop_assert!(response.status < 500, "{response:?}");
    if response.status < 400 {
        return Ok(());
    }
    let by_the_parser =
        matches!(response.status, 400 | 414 | 431) && response.header("content-type").is_none();
    if by_the_parser {
        prop_assert!(response.body.is_empty(), "{response:?}");
    } else if bytes.starts_with(b"HEAD ") {
        prop_assert_eq!(response.header("content-type"), Some("application/problem+json"));
    } else {
        response.problem();
    }
    Ok(())
}

#[apply(test!)]
#[alone]
async fn generated_requests_get_proper_responses() {
    let short = Duration::from_millis(20);
    let limits = Limits {
        connections: ConnectionLimits { linger_time: short, ..Default::default() },
        header_timeout: short,
        request_timeout: short,
        ..Limits::default()
    };
    let server = Local::start(limits).await;
    let addr = server.addr;
    request(addr, "POST", "/stations", &[JSON], r#"{"id":"a","name":"A"}"#).await;
    let here = tokio::runtime::Handle::current();
    let run = move || {
        // The same cases each time: one that fails here fails on every machine.
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
        TestRunner::new_with_rng(config, rng).run(&bytes(), |bytes| {
            let received = here.block_on(async { timeout(SOON, first_response(addr, &bytes)).await });
            let received =
                received.map_err(|_| TestCaseError::fail("no response, and the connection stayed open"))?;
            check(&bytes, &received)
        })
    };
    tokio::task::spawn_blocking(run).await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(request(addr, "GET", "/healthz", &[], "").await.status, 200);
    server.stop().await;
}
