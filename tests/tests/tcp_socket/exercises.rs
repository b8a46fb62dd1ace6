//! The exercises in the README. Each test passes once you have solved its exercise.

use std::sync::Arc;

use bytes::BytesMut;
use lab::wire::decode::Format;
use lab::wire::gate::Faults;
use lab::wire::proxy::Proxy;
use tcp_socket::protocol::frame::{FLAG_END, kind, put_frame};
use tcp_socket::protocol::message::ErrorCode;
use tcp_socket::{Limits, Reading};
use tests::exercises::root;
use tests::practice::{assert_predicted, python};
use tests::recorder::Recorder;
use tests::{apply, run_program, test};

use crate::support::{Raw, Received, batch_of, frame, reading, start};

const COUNT: u16 = 0x0006;
const COUNTED: u16 = 0x0106;
const HISTORY: u16 = 0x0007;

/// Checks that the table in section 5 of `PROTOCOL.md` has a row for this kind.
#[track_caller]
fn assert_described(number: &str, name: &str) {
    let document = include_str!("../../../tcp_socket/PROTOCOL.md");
    let row = format!("| `{number}` | `{name}` |");
    assert!(document.contains(&row), "still missing: PROTOCOL.md, section 5, has no row {row}");
}

#[track_caller]
fn assert_known(response: &Received, name: &str) {
    let unknown = response.kind == kind::ERROR && response.error() == ErrorCode::UnknownKind;
    assert!(!unknown, "still missing: the server responds to {name} with UNKNOWN_KIND");
}

#[apply(test!)]
#[exercise]
async fn exercise_count_returns_the_number_of_readings_of_a_station() {
    assert_described("0006", "COUNT");
    assert_described("0106", "COUNTED");
    let server = start(Limits::default()).await;
    let recorder = Recorder::start(Format::TcpSocket, &server.addr);
    let mut raw = Raw::open(&recorder.addr()).await;
    let three = [reading("oslo-1", 1.0), reading("oslo-2", 1.0), reading("oslo-1", 2.0)];
    assert_eq!(raw.ask(kind::RECORD, 1, &batch_of(1, &three)).await.accepted(), 3);
    for (id, station, count) in [(2, "oslo-1", 2u32), (3, "oslo-2", 1)] {
        let response = raw.ask(COUNT, id, station.as_bytes()).await;
        assert_known(&response, "COUNT");
        assert_eq!((response.kind, response.flags), (COUNTED, 0), "{response:?}");
        let count = count.to_be_bytes();
        assert_eq!(response.payload, count, "COUNTED holds the number of readings of {station} as a u32");
    }
    for (payload, expected) in [
        (&b"nowhere"[..], ErrorCode::UnknownStation),
        (b"", ErrorCode::BadPayload),
        (b"Oslo", ErrorCode::BadPayload),
        (&[b'a'; 33], ErrorCode::BadPayload),
    ] {
        let error = raw.ask(COUNT, 4, payload).await.error();
        assert_eq!(error, expected, "COUNT of {:?}", String::from_utf8_lossy(payload));
    }
    // Like any request, it may be in flight with others.
    let mut both = frame(COUNT, 5, b"oslo-1");
    both.extend(frame(kind::PING, 6, b""));
    raw.write(&both).await;
    let mut responses = [raw.receive().await, raw.receive().await];
    responses.sort_by_key(|response| response.id);
    assert_eq!(responses.map(|response| (response.id, response.kind)), [(5, COUNTED), (6, kind::PONG)]);
    // A request with an unknown critical flag is refused; COUNT is no exception.
    let mut flagged = BytesMut::new();
    put_frame(&mut flagged, COUNT, 0x8000, 7, |payload| payload.extend_from_slice(b"oslo-1"));
    raw.write(&flagged).await;
    assert_eq!(raw.receive().await.error(), ErrorCode::UnknownFlag);
    raw.assert_alive().await;
    server.stop().await;
}

#[apply(test!)]
#[exercise]
async fn exercise_a_history_of_any_length_arrives_in_frames_of_limited_size() {
    /// Far more than a watch may lag behind or the largest payload can hold.
    const READINGS: u64 = 50_000;
    /// The largest payload to a client: `PROTOCOL.md`, section 9.
    const LARGEST: usize = 65_536;

    assert_described("0007", "HISTORY");
    let server = start(Limits::default()).await;
    let recorder = Recorder::start(Format::TcpSocket, &server.addr);
    let mut raw = Raw::open(&recorder.addr()).await;
    for (batch_id, first) in (1..).zip((0..READINGS).step_by(10_000)) {
        let readings: Vec<_> =
            (first..first + 10_000).map(|at| Reading { recorded_at: at, ..reading("oslo-1", 1.0) }).collect();
        assert_eq!(raw.ask(kind::RECORD, 1, &batch_of(batch_id, &readings)).await.accepted(), 10_000);
    }

    // In one write, so that the server has both before it answers either.
    let mut both = frame(HISTORY, 2, b"oslo-1");
    both.extend(frame(kind::PING, 3, b""));
    raw.write(&both).await;
    let (mut next, mut pong) = (0, false);
    loop {
        let received = raw.receive().await;
        assert_known(&received, "HISTORY");
        if received.kind == kind::PONG {
            pong = true;
            continue;
        }
        assert_eq!(received.id, 2, "{received:?}");
        assert!(received.payload.len() <= LARGEST, "a READING of {} bytes", received.payload.len());
        let update = received.update();
        assert_eq!(update.skipped, 0, "a history must include every reading that the server still keeps");
        for reading in update.readings {
            assert_eq!(reading.recorded_at, next, "each reading must come once, the oldest first");
            next += 1;
        }
        if received.flags & FLAG_END != 0 {
            break;
        }
    }
    assert_eq!(next, READINGS, "END came before the last reading");
    assert!(pong, "the PING behind HISTORY had to wait until the whole history was written");

    // The history is over: readings recorded now are not part of it.
    assert_eq!(raw.ask(kind::RECORD, 2, &batch_of(9, &[reading("oslo-1", 1.0)])).await.accepted(), 1);
    assert_eq!(raw.ask(HISTORY, 4, b"nowhere").await.error(), ErrorCode::UnknownStation);
    assert_eq!(raw.ask(HISTORY, 5, b"").await.error(), ErrorCode::BadPayload);
    // A watch on the same connection still begins now, not in the past.
    assert!(raw.ask(kind::WATCH, 6, b"oslo-1").await.update().readings.is_empty());
    raw.assert_alive().await;
    server.stop().await;
}

#[apply(test!)]
#[exercise]
#[needs(python())]
async fn exercise_a_station_records_each_reading_once_although_a_response_is_lost() {
    let server = start(Limits::default()).await;
    let mut watch = Raw::open(&server.addr).await;
    watch.ask(kind::RECORD, 1, &batch_of(1, &[reading("oslo-1", 0.0)])).await;
    watch.ask(kind::WATCH, 2, b"oslo-1").await;
    // The handshake is the first request, so this loses the response to the second batch.
    let faults = Arc::new(Faults::new(Format::TcpSocket.decoder()));
    faults.arm("cut after request 3".parse().unwrap());
    let network = Proxy::listen("127.0.0.1:0", server.addr.clone(), None, Some(faults)).unwrap();
    let recorder = Recorder::start(Format::TcpSocket, &network.address());
    let script = root().join("tests/exercises/tcp_socket/station.py");
    let output = run_program("python3", &[script.to_str().unwrap(), &recorder.addr()]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
    assert!(output.stdout.contains("sending batch 2 again"), "it should meet a broken connection");

    let mut last = Raw::open(&server.addr).await;
    last.ask(kind::RECORD, 1, &batch_of(1, &[reading("oslo-1", 1.0)])).await;
    let mut values = Vec::new();
    while values.last() != Some(&1.0) {
        values.extend(watch.receive().await.update().readings.iter().map(|reading| reading.value));
    }
    assert_eq!(values, [-3.5, -3.0, -2.5, 1.0], "what the server recorded, and then a last reading");
    server.stop().await;
}

#[apply(test!)]
#[exercise]
async fn exercise_batches_under_one_id_are_predicted() {
    let server = start(Limits::default()).await;
    let (mut raw, mut other) = (Raw::open(&server.addr).await, Raw::open(&server.addr).await);
    let (one, two) = (reading("oslo-1", 1.0), reading("oslo-1", 2.0));
    assert_eq!(raw.ask(kind::RECORD, 1, &batch_of(1, &[one.clone(), two.clone()])).await.accepted(), 2);
    raw.ask(kind::WATCH, 9, b"oslo-1").await;
    let again = raw.ask(kind::RECORD, 2, &batch_of(1, std::slice::from_ref(&one))).await.accepted();
    let elsewhere = other.ask(kind::RECORD, 1, &batch_of(1, &[one.clone(), two])).await.accepted();
    let watched = raw.receive().await.update().readings.len();
    let error = raw.ask(kind::RECORD, 3, &batch_of(2, &[reading("oslo-1", 99.0)])).await.error();
    let corrected = raw.ask(kind::RECORD, 4, &batch_of(2, &[one])).await;
    let corrected = if corrected.kind == kind::RECORDED { corrected } else { raw.receive().await };
    assert_predicted(
        "tcp_socket/same_batch.txt",
        &[
            again.to_string(),
            elsewhere.to_string(),
            watched.to_string(),
            (error as u16).to_string(),
            corrected.accepted().to_string(),
        ],
    );
    server.stop().await;
}
