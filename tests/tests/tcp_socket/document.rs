//! Tests of `PROTOCOL.md`. They parse its examples, compare its tables with the code, and run a
//! client that was written from this document alone.

use std::time::Duration;

use tcp_socket::limits::{CLIENTS_REMEMBERED, MAX_BATCH_JUMP, MAX_FIRST_BATCH};
use tcp_socket::protocol::frame::{FLAG_END, Frame, kind};
use tcp_socket::protocol::handshake::{Hello, Welcome};
use tcp_socket::protocol::message::{Batch, ErrorCode, Refusal, Update, parse_station};
use tcp_socket::{Limits, Metric};
use tests::{Server, apply, run_program, test};

use crate::PAIR;
use crate::support::frame;

/// Returns the names and bytes of the document's code blocks that begin with `hex NAME`.
fn examples() -> Vec<(String, Vec<u8>)> {
    let document = include_str!("../../../tcp_socket/PROTOCOL.md");
    let blocks = document.split("```hex ").skip(1).map(|block| {
        let (name, rest) = block.split_once('\n').unwrap();
        let (lines, _) = rest.split_once("```").unwrap();
        let hex = lines.lines().flat_map(|line| line.split("  ").next().unwrap().split(' '));
        (name.to_owned(), hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect())
    });
    blocks.collect()
}

#[apply(test!)]
async fn the_examples_in_the_document_match_the_code() {
    let mut seen = Vec::new();
    for (name, bytes) in examples() {
        seen.push(name.clone());
        if name == "HELLO" {
            let hello = Hello::decode(bytes.as_slice().try_into().unwrap()).unwrap();
            assert_eq!((hello.lowest, hello.highest, hello.client_id[15]), (1, 1, 0x0f));
            assert_eq!(hello.encode().as_slice(), bytes);
            continue;
        }
        if name == "WELCOME" {
            let welcome = Welcome::decode(bytes.as_slice().try_into().unwrap()).unwrap();
            assert_eq!((welcome.version, welcome.max_payload, welcome.window), (1, 524_288, 1024));
            assert_eq!((welcome.max_watches, welcome.idle_timeout), (64, 60_000));
            assert_eq!(welcome.encode().as_slice(), bytes);
            continue;
        }
        let parsed = Frame::parse(&bytes, 1024).unwrap().unwrap();
        assert_eq!(parsed.wire_len(), bytes.len(), "{name}");
        let payload = parsed.payload;
        let (kind, id) = match name.as_str() {
            "RECORD" => {
                let batch = Batch::parse(payload).unwrap();
                assert_eq!((batch.id(), batch.count()), (1, 2));
                let runs: Vec<_> = batch.runs().collect();
                assert_eq!((runs.len(), runs[0].station), (1, "oslo-1"));
                let readings: Vec<_> = runs[0].readings().collect();
                assert_eq!((readings[0].metric, readings[0].value), (Metric::Temperature, -3.5));
                assert_eq!((readings[1].metric, readings[1].value), (Metric::Wind, 7.25));
                assert_eq!(readings[1].recorded_at, 1_767_225_601_000);
                (kind::RECORD, 1)
            }
            "RECORDED" => {
                assert_eq!(payload, 2u32.to_be_bytes());
                (kind::RECORDED, 1)
            }
            "WATCH" => {
                assert_eq!(parse_station(payload), Ok("oslo-1"));
                (kind::WATCH, 3)
            }
            "READING" => {
                let update = Update::parse(payload).unwrap();
                assert_eq!((update.skipped, update.readings[0].value), (0, 7.25));
                (kind::READING, 3)
            }
            "END" => {
                assert_eq!(parsed.flags, FLAG_END);
                assert_eq!(Update::parse(payload), Some(Update::default()));
                (kind::READING, 3)
            }
            "CANCEL" => (kind::CANCEL, 3),
            "PING" => (kind::PING, 5),
            "PONG" => (kind::PONG, 5),
            "GOODBYE" => (kind::GOODBYE, 0),
            "TOKEN" => (kind::TOKEN, 1),
            "CALLER" => (kind::CALLER, 1),
            "ERROR" => {
                let text = "reading 0: humidity 130 is outside 0 to 100";
                assert_eq!(Refusal::parse(payload), Some(Refusal::new(ErrorCode::InvalidReading, text)));
                (kind::ERROR, 6)
            }
            other => panic!("this test does not know the example {other}"),
        };
        assert_eq!((parsed.kind, parsed.request_id), (kind, id), "{name}");
        if parsed.flags == 0 {
            assert_eq!(frame(kind, id, payload), bytes, "{name}");
        }
    }
    let all = "HELLO WELCOME RECORD RECORDED WATCH READING CANCEL END PING PONG TOKEN CALLER ERROR GOODBYE";
    assert_eq!(seen.join(" "), all);
}

#[apply(test!)]
async fn the_tables_in_the_document_match_the_code() {
    let document = include_str!("../../../tcp_socket/PROTOCOL.md");
    for number in 0..=u16::MAX {
        if let Some(code) = ErrorCode::from_number(number) {
            // BadMagic becomes BAD_MAGIC.
            let name: String = format!("{code:?}")
                .chars()
                .enumerate()
                .flat_map(|(i, c)| {
                    let gap = (i > 0 && c.is_uppercase()).then_some('_');
                    gap.into_iter().chain([c.to_ascii_uppercase()])
                })
                .collect();
            assert!(document.contains(&format!("| {number} | `{name}` |")), "{number} {name}");
        }
    }
    let limits = Limits::default();
    assert_eq!(
        (limits.max_payload, limits.connections.max_connections, limits.max_watches),
        (524_288, 4096, 64)
    );
    for row in [
        "| payload to the server | `WELCOME`: 524,288 bytes |",
        "| readings that a watch may lag behind | 10,000 |",
        "| watches of a connection | `WELCOME`: 64 |",
        "| connections | 4,096 |",
        "| time for `HELLO` | 5 s |",
        "| time without a byte from the client | `WELCOME`: 60 s |",
        "| time for a frame that has begun | 10 s, plus 1 s for each 4,000 bytes |",
        "| time in which the client reads nothing | 10 s |",
    ] {
        assert!(document.contains(row), "{row}");
    }
    assert_eq!((limits.frame_grace, limits.min_frame_rate), (Duration::from_secs(10), 4_000));
    assert_eq!((MAX_FIRST_BATCH, MAX_BATCH_JUMP), (1 << 63, 1 << 32));
    assert!(document.contains("over 2^63") && document.contains("more than 2^32 above"));
    assert_eq!(limits.watch_backlog, 10_000);
    assert_eq!(limits.handshake_timeout, Duration::from_secs(5));
    assert_eq!(limits.write_timeout, Duration::from_secs(10));
    assert_eq!(CLIENTS_REMEMBERED, 8192);
    assert!(document.contains("the last 8192 clients"));
}

#[apply(test!)]
#[needs(python())]
async fn the_python_client_written_from_the_document_works() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tcp_socket/python/client.py");
    for (listens, host) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "tcp://localhost"), ("[::1]", "[::1]")]
    {
        if std::net::TcpListener::bind((listens.trim_matches(['[', ']']), 0)).is_err() {
            continue; // This machine has no IPv6.
        }
        let server = Server::start(PAIR.server, &["--addr", &format!("{listens}:0")]).await;
        let (_, port) = server.addr().rsplit_once(':').unwrap();
        let output = run_program("python3", &[script, &format!("{host}:{port}")]).await;
        assert_eq!(
            output.stdout,
            "accepted 2\naccepted 2\nwatched 2 81.0 1767225602000 skipped 0\naccepted 1\n\
             error 19 reading 0: humidity 130 is outside 0 to 100\ngoodbye\n",
            "{}",
            output.stderr
        );
        assert_eq!(output.code, Some(0));
        server.stop().await;
    }
    for url in ["http://host:1", "host:x", "[::1", "a:b:1", ""] {
        let output = run_program("python3", &[script, url]).await;
        assert_eq!(output.code, Some(1), "{url}");
        assert!(output.stderr.ends_with("is not of the form tcp://host:port\n"), "{}", output.stderr);
    }
}

pub fn python() -> Result<(), String> {
    match std::process::Command::new("python3").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no python3: install it with `apt-get install python3`".to_owned()),
    }
}
