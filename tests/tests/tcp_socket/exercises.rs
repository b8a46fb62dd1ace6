//! The exercises of the README: each passes once the reader has solved it.

use bytes::BytesMut;
use tcp_socket::protocol::frame::{FLAG_END, kind, put_frame};
use tcp_socket::protocol::message::ErrorCode;
use tcp_socket::{Limits, Reading};
use tests::{apply, test};

use crate::support::{Raw, Received, batch_of, frame, reading, start};

const COUNT: u16 = 0x0006;
const COUNTED: u16 = 0x0106;
const HISTORY: u16 = 0x0007;

/// The row of a kind in the table of `PROTOCOL.md`, section 5.
#[track_caller]
fn assert_described(number: &str, name: &str) {
    let document = include_str!("../../../tcp_socket/PROTOCOL.md");
    let row = format!("| `{number}` | `{name}` |");
    assert!(document.contains(&row), "still missing: PROTOCOL.md, section 5, has no row {row}");
}

#[track_caller]
fn assert_known(answer: &Received, name: &str) {
    let unknown = answer.kind == kind::ERROR && answer.error() == ErrorCode::UnknownKind;
    assert!(!unknown, "still missing: the server answers {name} with UNKNOWN_KIND");
}

#[apply(test!)]
#[exercise]
async fn exercise_a_station_is_asked_how_many_readings_it_has() {
    assert_described("0006", "COUNT");
    assert_described("0106", "COUNTED");
    let server = start(Limits::default()).await;
    let mut raw = Raw::open(&server.addr).await;
    let three = [reading("oslo-1", 1.0), reading("oslo-2", 1.0), reading("oslo-1", 2.0)];
    assert_eq!(raw.ask(kind::RECORD, 1, &batch_of(1, &three)).await.accepted(), 3);
    for (id, station, count) in [(2, "oslo-1", 2u32), (3, "oslo-2", 1)] {
        let answer = raw.ask(COUNT, id, station.as_bytes()).await;
        assert_known(&answer, "COUNT");
        assert_eq!((answer.kind, answer.flags), (COUNTED, 0), "{answer:?}");
        assert_eq!(answer.payload, count.to_be_bytes(), "COUNTED is a u32: the readings of {station}");
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
    // In flight with others, like any request.
    let mut both = frame(COUNT, 5, b"oslo-1");
    both.extend(frame(kind::PING, 6, b""));
    raw.write(&both).await;
    let mut answers = [raw.receive().await, raw.receive().await];
    answers.sort_by_key(|answer| answer.id);
    assert_eq!(answers.map(|answer| (answer.id, answer.kind)), [(5, COUNTED), (6, kind::PONG)]);
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
async fn exercise_a_history_of_any_length_comes_in_frames_of_bounded_size() {
    /// Far more than a watch may lag behind, or than the largest payload holds.
    const READINGS: u64 = 50_000;
    /// The largest payload to a client: `PROTOCOL.md`, section 9.
    const LARGEST: usize = 65_536;

    assert_described("0007", "HISTORY");
    let server = start(Limits::default()).await;
    let mut raw = Raw::open(&server.addr).await;
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
        assert_eq!(update.skipped, 0, "a history leaves nothing out that the server still keeps");
        for reading in update.readings {
            assert_eq!(reading.recorded_at, next, "the oldest first, and each one once");
            next += 1;
        }
        if received.flags & FLAG_END != 0 {
            break;
        }
    }
    assert_eq!(next, READINGS, "END comes with or after the last reading");
    assert!(pong, "the PING behind HISTORY was held up until all of the history was written");

    // It ended: its ID is free, and readings recorded now are not part of it.
    assert_eq!(raw.ask(kind::RECORD, 2, &batch_of(9, &[reading("oslo-1", 1.0)])).await.accepted(), 1);
    assert_eq!(raw.ask(HISTORY, 4, b"nowhere").await.error(), ErrorCode::UnknownStation);
    assert_eq!(raw.ask(HISTORY, 5, b"").await.error(), ErrorCode::BadPayload);
    // A watch on the same connection still begins now, not in the past.
    assert!(raw.ask(kind::WATCH, 6, b"oslo-1").await.update().readings.is_empty());
    raw.assert_alive().await;
    server.stop().await;
}
