//! How the server responds to valid and invalid bytes, beyond the
//! [contract](tests::contract) that every server of the protocol must keep.

use std::time::Duration;
use tests::{apply, test};

use bytes::BytesMut;
use tcp_socket::Limits;
use tcp_socket::limits::REPLIES_KEPT;
use tcp_socket::protocol::frame::{FLAG_END, kind, put_frame};
use tcp_socket::protocol::handshake::{Hello, random_id};
use tcp_socket::protocol::message::ErrorCode;

use crate::support::{Raw, batch, batch_of, flagged_frame, frame, reading, start};

#[apply(test!)]
async fn a_connection_without_a_valid_hello_is_refused_with_the_reason() {
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

#[apply(test!)]
async fn the_highest_common_version_is_chosen() {
    let server = start(Limits::default()).await;
    let mut raw = Raw::connect(&server.addr).await;
    let hello = Hello { lowest: 0, highest: 9, client_id: random_id().unwrap() }.encode();
    raw.write(&hello).await;
    let welcome = raw.welcome().await;
    assert!(!welcome.remembered);
    let mut again = Raw::connect(&server.addr).await;
    again.write(&hello).await;
    assert!(again.welcome().await.remembered);
    let limits = (welcome.max_payload, welcome.window as usize, welcome.max_watches);
    assert_eq!((welcome.version, limits), (1, (512 * 1024, REPLIES_KEPT, 64)));
    assert_eq!(welcome.idle_timeout, 60_000);
    let other = start(Limits::default()).await;
    let mut raw = Raw::connect(&other.addr).await;
    raw.write(&Hello { lowest: 1, highest: 1, client_id: random_id().unwrap() }.encode()).await;
    assert_ne!(raw.welcome().await.instance_id, welcome.instance_id);
}

#[apply(test!)]
async fn a_bad_frame_closes_only_its_own_connection_and_says_why() {
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
        // The valid frame before the bad one gets its response. A lot of input after it stays
        // unread, and must not destroy the error.
        raw.write(&[&ping[..], &bytes, &vec![0; 4 * 1024 * 1024]].concat()).await;
        assert_eq!(raw.receive().await.kind, kind::PONG);
        assert_eq!(raw.last_error().await, expected);
    }
    other.assert_alive().await;
}

#[apply(test!)]
async fn a_bad_request_is_refused_and_the_connection_stays_open() {
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
        (kind::RECORD, with(8, 0), BadPayload),    // ID length
        (kind::RECORD, with(8, 33), BadPayload),   // ID length
        (kind::RECORD, with(9, b'O'), BadPayload), // station ID
        (kind::RECORD, with(9, 0xff), BadPayload), // station ID
        (kind::RECORD, with(16, 0), BadPayload),   // readings in the run
        (kind::RECORD, with(16, 2), BadPayload),   // readings in the run
        (kind::RECORD, with(16, 0)[..17].to_vec(), BadPayload), // an empty run, with nothing after it
        (kind::RECORD, batch_of(1, &[reading(&"a".repeat(33), 1.0)]), BadPayload),
        (kind::WATCH, vec![b'a'; 33], BadPayload),
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
        let response = raw.ask(kind, 9, &payload).await;
        assert_eq!(response.error(), expected, "{kind:04x} {:?}", &payload[..payload.len().min(40)]);
    }
    raw.assert_alive().await;
    // None of these was recorded, and none used up the batch ID.
    assert_eq!(raw.ask(kind::WATCH, 10, b"s-0").await.error(), UnknownStation);
    assert_eq!(raw.ask(kind::WATCH, 10, b"oslo-1").await.error(), UnknownStation);
    assert_eq!(raw.ask(kind::RECORD, 10, &batch_of(1, &many)).await.accepted(), 10_000);

    assert_eq!(raw.ask(kind::WATCH, 11, b"oslo-1").await.kind, kind::READING);
    assert_eq!(raw.ask(kind::WATCH, 12, b"oslo-1").await.error(), TooManyWatches);
    raw.send(kind::WATCH, 11, b"oslo-1").await;
    assert_eq!(raw.last_error().await, ErrorCode::BadRequestId);
    let mut raw = Raw::open(&server.addr).await;
    assert_eq!(raw.ask(kind::WATCH, 11, b"oslo-1").await.kind, kind::READING);
    raw.send(kind::PING, 11, b"").await;
    assert_eq!(raw.last_error().await, ErrorCode::BadRequestId);
}

/// Sections 5, 6.7, and 8 of the document.
#[apply(test!)]
async fn a_goodbye_with_an_id_a_critical_flag_or_a_payload_is_refused() {
    let server = start(Limits::default()).await;
    for (flags, id, payload) in [
        (0, 0, &b"x"[..]),
        (0, 1, b""),
        (0, 2, b""), // the ID of the open watch
        (0, u32::MAX, b"bye"),
        (0x8000, 0, b""),
        (FLAG_END, 0, b""),
        (0x4000, 7, b"bye"),
    ] {
        let mut raw = Raw::open(&server.addr).await;
        raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await;
        raw.ask(kind::WATCH, 2, b"oslo-1").await;
        raw.write(&flagged_frame(kind::GOODBYE, flags, id, payload)).await;
        // The error ends everything: no END of the watch before it, and no GOODBYE after it.
        assert_eq!(raw.last_error().await, ErrorCode::BadGoodbye, "{flags:04x} {id} {payload:?}");
    }
    let mut raw = Raw::open(&server.addr).await;
    raw.write(&flagged_frame(kind::GOODBYE, 0x00ff, 0, b"")).await; // not critical: ignored
    assert_eq!(raw.receive().await.kind, kind::GOODBYE);
}

/// Section 6.5: an `ERROR` with the ID of a watch means that the watch is over.
#[apply(test!)]
async fn a_malformed_cancel_ends_its_watch_and_is_ignored_without_one() {
    let server = start(Limits::default()).await;
    let mut recorder = Raw::open(&server.addr).await;
    recorder.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await;
    use ErrorCode::{BadPayload, UnknownFlag};
    for (batch_id, (flags, payload, expected)) in (2..).zip([
        (0, &b"x"[..], BadPayload),
        (0x8000, b"", UnknownFlag),
        (FLAG_END, b"", UnknownFlag),
        (0x8000, b"oslo-1", UnknownFlag),
    ]) {
        let mut raw = Raw::open(&server.addr).await;
        let cancel = flagged_frame(kind::CANCEL, flags, 7, payload);
        raw.write(&cancel).await;
        raw.assert_alive().await; // No response comes without such a watch.
        raw.ask(kind::WATCH, 7, b"oslo-1").await;
        raw.write(&cancel).await;
        let response = raw.receive().await;
        assert_eq!((response.id, response.error()), (7, expected), "{flags:04x} {payload:?}");
        // The watch is over: it gets no more readings, and its ID is free.
        recorder.ask(kind::RECORD, 1, &batch(batch_id, "oslo-1", 1.0)).await;
        assert_eq!(raw.ask(kind::PING, 7, b"").await.kind, kind::PONG);
        raw.write(&cancel).await;
        raw.assert_alive().await;
    }
}

/// Section 5: no other frame may have the ID of an open watch.
#[apply(test!)]
async fn the_id_of_an_open_watch_is_refused_before_the_rest_of_the_frame_is_checked() {
    let server = start(Limits::default()).await;
    let good = batch(1, "oslo-1", 1.0);
    for (kind, flags, payload) in [
        (kind::RECORD, 0, &good[..]),
        (kind::RECORD, 0x8000, &good),
        (kind::RECORD, 0, b"nonsense"),
        (kind::WATCH, 0, b"nowhere"),
        (kind::WATCH, 0x8000, b"oslo-1"),
        (kind::PING, 0x0100, b""),
        (kind::PING, 0, b"x"),
        (kind::READING, FLAG_END, b""),
        (0x0077, 0, b""),
        (0x0077, 0xff00, b""),
    ] {
        let mut raw = Raw::open(&server.addr).await;
        raw.ask(kind::RECORD, 1, &good).await;
        raw.ask(kind::WATCH, 7, b"oslo-1").await;
        raw.write(&flagged_frame(kind, flags, 7, payload)).await;
        assert_eq!(raw.last_error().await, ErrorCode::BadRequestId, "{kind:04x} {flags:04x} {payload:?}");
    }
    for (kind, flags) in [(kind::RECORD, 0), (kind::CANCEL, 0), (kind::PING, 0x8000), (0x0077, 0x8000)] {
        let mut raw = Raw::open(&server.addr).await;
        raw.write(&flagged_frame(kind, flags, 0, b"")).await;
        assert_eq!(raw.last_error().await, ErrorCode::BadRequestId, "{kind:04x} {flags:04x}");
    }
}

/// Section 6.1 says which fault of a batch is reported if it has several.
#[apply(test!)]
async fn the_first_fault_of_a_batch_is_reported() {
    let server = start(Limits::default()).await;
    let mut raw = Raw::open(&server.addr).await;
    raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await;
    let hot = [reading("oslo-1", 71.0)];
    let bad_station = [reading("Oslo", 1.0)];
    let join = |id, runs: &[&[u8]]| [&u64::to_be_bytes(id)[..], &runs.concat()].concat();
    let run = |readings: &[_]| batch_of(2, readings).split_off(8);
    let (good, hot, bad_station) = (run(&[reading("oslo-1", 1.0)]), run(&hot), run(&bad_station));
    let many = run(&vec![reading("oslo-1", 1.0); 10_000]);
    use ErrorCode::{BadBatchId, BadPayload, InvalidReading};
    for (case, payload, expected) in [
        ("a value, before the form of a later run", join(2, &[&hot, &bad_station]), InvalidReading),
        ("the form of an earlier run", join(2, &[&bad_station, &hot]), BadPayload),
        ("the form of a run before its own values", join(2, &[&hot[..hot.len() - 1]]), BadPayload),
        ("a byte too many", join(2, &[&good, b"\x06"]), BadPayload),
        ("a value, and too many readings", join(2, &[&many, &hot]), InvalidReading),
        ("the form, after too many readings", join(2, &[&many, &good, b"\x06"]), BadPayload),
        ("too many readings in good runs", join(2, &[&many, &good]), InvalidReading),
        ("no run", join(2, &[]), InvalidReading),
        ("no run, and batch ID 0", join(0, &[]), InvalidReading),
        ("the form, and batch ID 0", join(0, &[&bad_station]), BadPayload),
        ("a value, and a batch ID that was recorded", join(1, &[&hot]), InvalidReading),
        ("batch ID 0 alone", join(0, &[&good]), BadBatchId),
    ] {
        assert_eq!(raw.ask(kind::RECORD, 9, &payload).await.error(), expected, "{case}");
    }
    assert_eq!(
        raw.ask(kind::RECORD, 9, &join(2, &[&good, &good])).await.accepted(),
        2,
        "two runs of the same station were refused"
    );
}
