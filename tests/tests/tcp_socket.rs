//! The TCP chapter: the pair, its documents, and what it says in bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;
use std::time::Duration;

use bytes::BytesMut;
use tcp_socket::frame::{FLAG_END, Frame, kind, put_frame};
use tcp_socket::handshake::{Hello, Welcome, random_id};
use tcp_socket::limits::Limits;
use tcp_socket::message::{Batch, ErrorCode, Refusal, Update, parse_station};
use tcp_socket::model::Metric;
use tcp_socket::replies::{CLIENTS_REMEMBERED, Known, REPLIES_KEPT, Replies};
use tcp_socket_common::{Raw, batch, batch_of, frame, reading, start};
use tests::{Pair, assert_same, expected_output, pair, run, run_program, test};

mod tcp_socket_common;

const PAIR: Pair = pair!("tcp_socket");
const README: &str = "tcp_socket/README.md";

async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    assert_same(&client.stdout, &expected_output(README, "cargo run -p tcp_socket --bin client"));
    let printed = server.stop().await;
    assert_same(&printed, &expected_output(README, "cargo run -p tcp_socket --bin server"));
}

async fn the_classic_mistake_fails_as_the_readme_shows() {
    let output = run_program(env!("CARGO_BIN_EXE_tcp_socket-without_framing"), &[]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_same(
        &output.stdout,
        &expected_output(README, "cargo run -p tcp_socket --example without_framing"),
    );
}

async fn each_subcommand_does_its_one_thing() {
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

async fn a_watch_in_a_terminal_shows_what_another_records() {
    let server = PAIR.serve().await;
    PAIR.client(&server, &["record", "oslo-1", "wind", "1"]).await;
    let watch = PAIR.client(&server, &["watch", "oslo-1", "--count", "1"]);
    let record = async {
        // Nobody outside can see when the watch stands: record until it has seen one.
        loop {
            PAIR.client(&server, &["record", "oslo-1", "wind", "7.25"]).await;
        }
    };
    let watch = tokio::select! {
        watch = watch => watch,
        () = record => unreachable!(),
    };
    assert_eq!(watch.code, Some(0), "{}", watch.stderr);
    assert!(watch.stdout.starts_with("watching oslo-1\nwind 7.25 at "), "{}", watch.stdout);
    server.stop().await;
}

async fn who_finds_nobody_or_no_port_says_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for command in [&[][..], &["ping"]] {
        let url = format!("tcp://{free}");
        let output = run_program(PAIR.client, &[command, &["--url", &url]].concat()).await;
        assert_eq!(output.code, Some(1));
        assert_eq!(
            output.stderr,
            format!("error: no server at {url}; start one with: cargo run -p tcp_socket --bin server\n")
        );
        assert_eq!(output.stdout, "");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = run_program(PAIR.server, &["--addr", &addr]).await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.starts_with(&format!("error: cannot listen on {addr}: ")), "{}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
}

/// The blocks `hex NAME` of the document, as bytes.
fn examples() -> Vec<(String, Vec<u8>)> {
    let document = include_str!("../../tcp_socket/PROTOCOL.md");
    let blocks = document.split("```hex ").skip(1).map(|block| {
        let (name, rest) = block.split_once('\n').unwrap();
        let (lines, _) = rest.split_once("```").unwrap();
        let hex = lines.lines().flat_map(|line| line.split("  ").next().unwrap().split(' '));
        (name.to_owned(), hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect())
    });
    blocks.collect()
}

async fn the_examples_of_the_document_are_what_the_crate_speaks() {
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
            "ERROR" => {
                let text = "reading 0: humidity 130 is outside 0 to 100";
                assert_eq!(Refusal::parse(payload), Some(Refusal::new(ErrorCode::InvalidReading, text)));
                (kind::ERROR, 6)
            }
            other => panic!("an example of {other}, which this test does not know"),
        };
        assert_eq!((parsed.kind, parsed.request_id), (kind, id), "{name}");
        if parsed.flags == 0 {
            assert_eq!(frame(kind, id, payload), bytes, "{name}");
        }
    }
    let all = "HELLO WELCOME RECORD RECORDED WATCH READING CANCEL END PING PONG ERROR GOODBYE";
    assert_eq!(seen.join(" "), all);
}

/// The document's tables name every code and limit of the crate.
async fn the_tables_of_the_document_hold_the_numbers_of_the_crate() {
    let document = include_str!("../../tcp_socket/PROTOCOL.md");
    for number in 0..=u16::MAX {
        if let Some(code) = ErrorCode::from_number(number) {
            // BadMagic as BAD_MAGIC
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
    assert_eq!((limits.max_payload, limits.max_connections, limits.max_watches), (524_288, 4096, 64));
    for row in [
        "| payload to the server | `WELCOME`: 524,288 bytes |",
        "| readings that a watch may lag behind | 10,000 |",
        "| watches of a connection | `WELCOME`: 64 |",
        "| connections | 4,096 |",
        "| time for `HELLO` | 5 s |",
        "| time without the client reading anything | 10 s |",
    ] {
        assert!(document.contains(row), "{row}");
    }
    assert_eq!(limits.watch_backlog, 10_000);
    assert_eq!(limits.handshake_timeout, Duration::from_secs(5));
    assert_eq!(limits.write_timeout, Duration::from_secs(10));
    assert_eq!(CLIENTS_REMEMBERED, 8192);
    assert!(document.contains("the last 8192 clients"));
}

async fn a_client_in_python_written_from_the_document_works() {
    let server = PAIR.serve().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tcp_socket/python/client.py");
    let output = run_program("python3", &[script, server.addr()]).await;
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

async fn what_is_no_handshake_is_told_so_and_never_ignored() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = start(limits).await;
    let hello = Hello { lowest: 1, highest: 1, client_id: random_id().unwrap() }.encode();
    let future = Hello { lowest: 2, highest: 9, client_id: random_id().unwrap() }.encode();
    let past = Hello { lowest: 0, highest: 0, client_id: random_id().unwrap() }.encode();
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], ErrorCode::BadMagic),
        (b"x", ErrorCode::BadMagic),
        (&future, ErrorCode::UnsupportedVersion),
        (&past, ErrorCode::UnsupportedVersion),
        (&hello[..23], ErrorCode::HandshakeTimeout),
        (b"", ErrorCode::HandshakeTimeout),
    ] {
        let mut raw = Raw::connect(&server.addr).await;
        raw.write(bytes).await;
        assert_eq!(raw.welcome().await.version, 0, "{bytes:?}");
        assert_eq!(raw.last_error().await, expected, "{bytes:?}");
    }
}

async fn the_highest_common_version_is_chosen() {
    let server = start(Limits::default()).await;
    let mut raw = Raw::connect(&server.addr).await;
    raw.write(&Hello { lowest: 0, highest: 9, client_id: random_id().unwrap() }.encode()).await;
    let welcome = raw.welcome().await;
    let told = (welcome.version, welcome.max_payload, welcome.window as usize, welcome.max_watches);
    assert_eq!(told, (1, 512 * 1024, REPLIES_KEPT, 64));
    assert_eq!(welcome.idle_timeout, 60_000);
    let other = start(Limits::default()).await;
    let mut raw = Raw::connect(&other.addr).await;
    raw.write(&Hello { lowest: 1, highest: 1, client_id: random_id().unwrap() }.encode()).await;
    assert_ne!(raw.welcome().await.boot_id, welcome.boot_id);
}

async fn any_split_and_any_merge_of_the_stream_is_understood() {
    let server = start(Limits::default()).await;
    let hello = Hello { lowest: 1, highest: 1, client_id: random_id().unwrap() }.encode();
    let frames = [
        &hello[..],
        &frame(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)),
        &frame(kind::PING, 2, b""),
        &frame(kind::RECORD, 3, &batch(2, "oslo-1", 2.0)),
    ];
    let all = frames.concat();
    for size in [1, 7, 16, 24, 25, all.len()] {
        let mut raw = Raw::connect(&server.addr).await;
        for piece in all.chunks(size) {
            raw.write(piece).await;
            // Its arrival alone, not with the next, is likely; the property tests are sure.
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.welcome().await.version, 1);
        assert_eq!(raw.receive().await.accepted(), 1);
        let pong = raw.receive().await;
        assert_eq!((pong.kind, pong.id), (kind::PONG, 2));
        assert_eq!(raw.receive().await.accepted(), 1);
        raw.assert_alive().await;
    }
}

async fn a_bad_frame_ends_its_connection_with_the_reason_and_no_other() {
    let server = start(Limits::default()).await;
    let mut other = Raw::open(&server.addr).await;
    let ping = frame(kind::PING, 7, b"");
    let mut flipped = frame(kind::RECORD, 7, &batch(1, "oslo-1", 1.0));
    *flipped.last_mut().unwrap() ^= 1;
    let mut wrong_checksum = ping.clone();
    wrong_checksum[15] ^= 0x80;
    let mut huge = ping.clone();
    huge[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut just_too_large = ping.clone();
    just_too_large[8..12].copy_from_slice(&(512 * 1024 + 1u32).to_be_bytes());
    for (bytes, expected) in [
        (flipped, ErrorCode::BadChecksum),
        (wrong_checksum, ErrorCode::BadChecksum),
        (huge, ErrorCode::FrameTooLarge),
        (just_too_large, ErrorCode::FrameTooLarge),
        (frame(kind::PING, 0, b""), ErrorCode::BadRequestId),
    ] {
        let mut raw = Raw::open(&server.addr).await;
        // What was right before it is answered; much input behind it is unread,
        // and must not destroy the error.
        raw.write(&[&ping[..], &bytes, &vec![0; 4 * 1024 * 1024]].concat()).await;
        assert_eq!(raw.receive().await.kind, kind::PONG);
        assert_eq!(raw.last_error().await, expected);
    }
    other.assert_alive().await;
}

async fn a_bad_request_is_refused_and_the_connection_goes_on() {
    let server = start(Limits { max_watches: 1, ..Limits::default() }).await;
    let mut raw = Raw::open(&server.addr).await;
    let mut flagged = BytesMut::new();
    put_frame(&mut flagged, kind::PING, 0x8000, 5, |_payload| {});
    put_frame(&mut flagged, kind::PING, 0x0080, 6, |_payload| {});
    raw.write(&flagged).await;
    let (critical, ignored) = (raw.receive().await, raw.receive().await);
    assert_eq!((critical.id, critical.error()), (5, ErrorCode::UnknownFlag));
    assert_eq!((ignored.id, ignored.kind), (6, kind::PONG));

    let good = batch(1, "oslo-1", 1.0);
    let with = |at: usize, byte: u8| {
        let mut payload = good.clone();
        payload[at] = byte;
        payload
    };
    let mut nan = good.clone();
    nan[18..26].copy_from_slice(&f64::NAN.to_be_bytes());
    let (many, too_many) = (vec![reading("oslo-1", 1.0); 10_000], vec![reading("oslo-1", 1.0); 10_001]);
    let stations: Vec<_> = (0..1001).map(|n| reading(&format!("s-{n}"), 1.0)).collect();
    use ErrorCode::{BadPayload, InvalidReading, StoreFull, TooManyWatches, UnknownKind, UnknownStation};
    for (kind, payload, expected) in [
        (0x0077, vec![], UnknownKind),
        (kind::RECORDED, vec![0; 4], UnknownKind),
        (kind::PING, vec![1], BadPayload),
        (kind::RECORD, vec![], BadPayload),
        (kind::RECORD, good[..7].to_vec(), BadPayload),
        (kind::RECORD, good[..good.len() - 1].to_vec(), BadPayload),
        (kind::RECORD, [&good[..], &[0]].concat(), BadPayload),
        (kind::RECORD, with(8, 0), BadPayload),         // id length
        (kind::RECORD, with(8, 33), BadPayload),        // id length
        (kind::RECORD, with(9, b'O'), BadPayload),      // station id
        (kind::RECORD, with(9, 0xff), BadPayload),      // station id
        (kind::RECORD, with(16, 0), BadPayload),        // readings in the run
        (kind::RECORD, with(16, 2), BadPayload),        // readings in the run
        (kind::RECORD, with(17, 5), InvalidReading),    // metric
        (kind::RECORD, with(18, 0xff), InvalidReading), // value
        (kind::RECORD, nan, InvalidReading),
        (kind::RECORD, with(26, 1), InvalidReading),        // time
        (kind::RECORD, good[..8].to_vec(), InvalidReading), // no readings
        (kind::RECORD, batch_of(1, &too_many), InvalidReading),
        (kind::RECORD, batch_of(1, &stations), StoreFull),
        (kind::WATCH, b"nowhere".to_vec(), UnknownStation),
        (kind::WATCH, b"Nowhere".to_vec(), BadPayload),
        (kind::WATCH, vec![], BadPayload),
    ] {
        let answer = raw.ask(kind, 9, &payload).await;
        assert_eq!(answer.error(), expected, "{kind:04x} {:?}", &payload[..payload.len().min(40)]);
    }
    raw.assert_alive().await;
    // None of it was recorded, and none of it used up the batch id.
    assert_eq!(raw.ask(kind::WATCH, 10, b"s-0").await.error(), UnknownStation);
    assert_eq!(raw.ask(kind::WATCH, 10, b"oslo-1").await.error(), UnknownStation);
    assert_eq!(raw.ask(kind::RECORD, 10, &batch_of(1, &many)).await.accepted(), 10_000);

    assert_eq!(raw.ask(kind::WATCH, 11, b"oslo-1").await.kind, kind::READING);
    assert_eq!(raw.ask(kind::WATCH, 12, b"oslo-1").await.error(), TooManyWatches);
    raw.send(kind::WATCH, 11, b"oslo-1").await;
    assert_eq!(raw.last_error().await, ErrorCode::BadRequestId);
}

async fn a_batch_is_recorded_whole_or_not_at_all() {
    let server = start(Limits::default()).await;
    let mut raw = Raw::open(&server.addr).await;
    raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await;
    raw.ask(kind::WATCH, 2, b"oslo-1").await;
    let half_good = [reading("oslo-1", 1.0), reading("new-1", 1.0), reading("oslo-1", 71.0)];
    assert_eq!(raw.ask(kind::RECORD, 3, &batch_of(2, &half_good)).await.error(), ErrorCode::InvalidReading);
    assert_eq!(raw.ask(kind::WATCH, 3, b"new-1").await.error(), ErrorCode::UnknownStation);
    assert_eq!(raw.ask(kind::RECORD, 4, &batch(3, "oslo-1", 2.0)).await.accepted(), 1);
    let values: Vec<_> = raw.receive().await.update().readings.iter().map(|r| r.value).collect();
    assert_eq!(values, [2.0]);
}

async fn a_watch_sees_what_others_record_until_it_is_cancelled() {
    let server = start(Limits::default()).await;
    let mut recorder = Raw::open(&server.addr).await;
    recorder.ask(kind::RECORD, 1, &batch_of(1, &[reading("a", 0.0), reading("b", 0.0)])).await;
    let mut watcher = Raw::open(&server.addr).await;
    assert_eq!(watcher.ask(kind::WATCH, 7, b"a").await.update(), Update::default());
    // Runs of both stations, changing: each watch sees its own, in order.
    let mixed: Vec<_> = (1..=6).map(|n| reading(if n % 2 == 0 { "b" } else { "a" }, n.into())).collect();
    assert_eq!(recorder.ask(kind::RECORD, 2, &batch_of(2, &mixed)).await.accepted(), 6);
    let update = watcher.receive().await;
    assert_eq!((update.id, update.flags), (7, 0));
    let values: Vec<_> = update.update().readings.iter().map(|r| r.value).collect();
    assert_eq!(values, [1.0, 3.0, 5.0]);
    let end = watcher.ask(kind::CANCEL, 7, b"").await;
    assert_eq!((end.kind, end.flags), (kind::READING, FLAG_END));
    recorder.ask(kind::RECORD, 3, &batch(3, "a", 9.0)).await;
    watcher.send(kind::CANCEL, 7, b"").await; // of nothing: no answer
    watcher.assert_alive().await; // and the 9.0 did not come
    assert_eq!(watcher.ask(kind::WATCH, 7, b"a").await.update(), Update::default()); // the id is free again
}

async fn a_goodbye_comes_after_all_answers_and_the_end_of_watches() {
    let server = start(Limits::default()).await;
    // A client that closes its direction without a GOODBYE gets the same.
    for polite in [true, false] {
        let mut raw = Raw::open(&server.addr).await;
        raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await;
        raw.ask(kind::WATCH, 2, b"oslo-1").await;
        let ping = frame(kind::PING, 3, b"");
        raw.write(&if polite { [ping, frame(kind::GOODBYE, 0, b"")].concat() } else { ping }).await;
        if !polite {
            tokio::io::AsyncWriteExt::shutdown(&mut raw.stream).await.unwrap();
        }
        assert_eq!(raw.receive().await.kind, kind::PONG);
        let end = raw.receive().await;
        assert_eq!((end.kind, end.flags, end.id), (kind::READING, FLAG_END, 2));
        assert_eq!(raw.receive().await.kind, kind::GOODBYE);
        assert_eq!(raw.next().await, None);
    }
}

async fn the_window_answers_again_and_refuses_what_it_forgot() {
    let server = start(Limits::default()).await;
    let client_id = random_id().unwrap();
    let mut raw = Raw::open_as(&server.addr, client_id).await;
    assert_eq!(raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await.accepted(), 1);
    raw.ask(kind::WATCH, 2, b"oslo-1").await;
    let kept = REPLIES_KEPT as u64;

    // Batch 1 is the oldest in the window, batch 2 is still unknown.
    assert_eq!(raw.ask(kind::RECORD, 3, &batch(kept, "oslo-1", 1.0)).await.accepted(), 1);
    assert_eq!(raw.receive().await.update().readings.len(), 1);
    let other_content = batch_of(1, &[reading("oslo-1", 5.0), reading("oslo-1", 5.0)]);
    assert_eq!(raw.ask(kind::RECORD, 4, &other_content).await.accepted(), 1, "the first reply");
    assert_eq!(raw.ask(kind::RECORD, 5, &batch(2, "oslo-1", 2.0)).await.accepted(), 1);
    assert_eq!(raw.receive().await.update().readings[0].value, 2.0);

    // One more, and batch 1 is forgotten; batch 2 is not.
    assert_eq!(raw.ask(kind::RECORD, 6, &batch(kept + 1, "oslo-1", 3.0)).await.accepted(), 1);
    assert_eq!(raw.receive().await.update().readings[0].value, 3.0);
    for id in [0, 1] {
        let answer = raw.ask(kind::RECORD, 7, &batch(id, "oslo-1", 4.0)).await;
        assert_eq!(answer.error(), ErrorCode::UnknownOutcome);
    }
    assert_eq!(raw.ask(kind::RECORD, 8, &batch(2, "oslo-1", 4.0)).await.accepted(), 1);

    // The same on another connection of this client, but not of another client.
    let mut again = Raw::open_as(&server.addr, client_id).await;
    assert_eq!(again.ask(kind::RECORD, 1, &batch(2, "oslo-1", 4.0)).await.accepted(), 1);
    raw.assert_alive().await; // without a reading: none of the repetitions was recorded
    let mut other = Raw::open(&server.addr).await;
    assert_eq!(other.ask(kind::RECORD, 1, &batch(2, "oslo-1", 6.0)).await.accepted(), 1);
    assert_eq!(raw.receive().await.update().readings[0].value, 6.0);

    // A jump far ahead leaves nothing in the window.
    raw.ask(kind::RECORD, 9, &batch(u64::MAX, "oslo-1", 7.0)).await;
    assert_eq!(raw.receive().await.update().readings[0].value, 7.0);
    let answer = raw.ask(kind::RECORD, 10, &batch(kept + 1, "oslo-1", 8.0)).await;
    assert_eq!(answer.error(), ErrorCode::UnknownOutcome);
}

async fn a_client_with_a_connection_is_never_forgotten_and_the_oldest_other_is() {
    let id = |number: u64| -> [u8; 16] { u128::from(number).to_be_bytes() };
    let replies = Replies::new(1);
    let connected = replies.of(id(0));
    connected.lock().unwrap().remember(1, 5);
    replies.of(id(1)).lock().unwrap().remember(1, 5);
    let know = |number| replies.of(id(number)).lock().unwrap().look_up(1);
    for other in 2..CLIENTS_REMEMBERED as u64 {
        replies.of(id(other));
    }
    assert_eq!((know(0), know(1)), (Known::Recorded(5), Known::Recorded(5)), "there is room for all");
    for other in 10_000..10_000 + CLIENTS_REMEMBERED as u64 {
        replies.of(id(other));
    }
    assert_eq!((know(0), know(1)), (Known::Recorded(5), Known::No));
    drop(connected);
    for other in 20_000..20_000 + CLIENTS_REMEMBERED as u64 {
        replies.of(id(other));
    }
    assert_eq!(know(0), Known::No);
}

async fn an_address_of_another_protocol_is_refused_by_the_client() {
    let output = run_program(PAIR.client, &["ping", "--url", "http://127.0.0.1:8080"]).await;
    assert_eq!(output.code, Some(1));
    assert_eq!(
        output.stderr,
        "error: not sent: \"http://127.0.0.1:8080\" is not of the form tcp://127.0.0.1:7878\n"
    );
}

fn python() -> Result<(), String> {
    match std::process::Command::new("python3").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no python3: install it with `apt-get install python3`".to_owned()),
    }
}

fn main() -> ExitCode {
    run([
        test!(the_pair_prints_what_the_readme_shows),
        test!(the_classic_mistake_fails_as_the_readme_shows),
        test!(each_subcommand_does_its_one_thing),
        test!(a_watch_in_a_terminal_shows_what_another_records),
        test!(who_finds_nobody_or_no_port_says_what_to_do),
        test!(the_examples_of_the_document_are_what_the_crate_speaks),
        test!(the_tables_of_the_document_hold_the_numbers_of_the_crate),
        test!(a_client_in_python_written_from_the_document_works).needs(python()),
        test!(what_is_no_handshake_is_told_so_and_never_ignored),
        test!(the_highest_common_version_is_chosen),
        test!(any_split_and_any_merge_of_the_stream_is_understood),
        test!(a_bad_frame_ends_its_connection_with_the_reason_and_no_other),
        test!(a_bad_request_is_refused_and_the_connection_goes_on),
        test!(a_batch_is_recorded_whole_or_not_at_all),
        test!(a_watch_sees_what_others_record_until_it_is_cancelled),
        test!(a_goodbye_comes_after_all_answers_and_the_end_of_watches),
        test!(the_window_answers_again_and_refuses_what_it_forgot),
        test!(a_client_with_a_connection_is_never_forgotten_and_the_oldest_other_is),
        test!(an_address_of_another_protocol_is_refused_by_the_client),
    ])
}
