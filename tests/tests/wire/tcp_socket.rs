//! Tests of the decoder for this repository's TCP protocol, and of the dissector for Wireshark.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::StreamExt;
use lab::wire::decode::tcp_socket::decoder;
use lab::wire::message::Side::{Client as C, Server as S};
use lab::wire::message::{Message, Purpose, Role, Side};
use lab::wire::pcap::{Recording, write};
use lab::wire::tape::{Event, What};
use lab::wire::trace::Trace;
use tcp_socket::protocol::frame::{FLAG_END, kind, put_frame};
use tcp_socket::protocol::handshake::{Hello, Welcome};
use tcp_socket::protocol::message::{ErrorCode, Refusal, put_batch, put_measurement};
use tcp_socket::protocol::model::Measurement;
use tcp_socket::{Client, Metric, Reading};
use tests::{apply, test};

use crate::hostile::{check_arbitrary_bytes, check_mutations};
use crate::streams::{Conversation, check, check_detail, record, summaries};
use crate::tshark::{packets, tshark};

fn reading(value: f64) -> Reading {
    Reading { station: "oslo-1".into(), metric: Metric::Temperature, value, recorded_at: 1_767_225_600_000 }
}

async fn scene(address: String) {
    let client = Client::connect(&address).await.unwrap();
    client.record(&[reading(-3.5), reading(21.5)]).await.unwrap();
    client.record(&[reading(130.0)]).await.unwrap_err();
    let mut readings = client.watch("oslo-1").await.unwrap();
    client.record(&[reading(7.25)]).await.unwrap();
    readings.next().await.unwrap().unwrap();
    client.ping().await.unwrap();
    client.close().await;
}

fn hello() -> (Side, Vec<u8>) {
    (C, Hello { lowest: 1, highest: 1, client_id: [7; 16] }.encode().to_vec())
}

fn welcome(version: u16) -> (Side, Vec<u8>) {
    let welcome = Welcome {
        version,
        remembered: false,
        instance_id: [8; 16],
        max_payload: 524_288,
        window: 1024,
        max_watches: 64,
        idle_timeout: 60_000,
    };
    (S, welcome.encode().to_vec())
}

fn frame_with_flags(
    from: Side,
    kind: u16,
    flags: u16,
    id: u32,
    put: impl FnOnce(&mut BytesMut),
) -> (Side, Vec<u8>) {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, kind, flags, id, put);
    (from, bytes.to_vec())
}

fn frame(from: Side, kind: u16, id: u32, put: impl FnOnce(&mut BytesMut)) -> (Side, Vec<u8>) {
    frame_with_flags(from, kind, 0, id, put)
}

fn error(id: u32, code: ErrorCode) -> (Side, Vec<u8>) {
    frame(S, kind::ERROR, id, |payload| Refusal::new(code, "no").put(payload))
}

/// Returns a frame of each kind, and some that are not valid.
fn all_kinds() -> Conversation {
    let measurement = Measurement { metric: Metric::Wind, value: 7.25, recorded_at: 1_767_225_601_000 };
    let mut flipped = frame(C, kind::PING, 8, |_| {});
    flipped.1[7] ^= 0x40;
    vec![
        hello(),
        welcome(1),
        frame(C, kind::RECORD, 1, |payload| put_batch(payload, 1, &[reading(-3.5), reading(21.5)])),
        frame(S, kind::RECORDED, 1, |payload| payload.extend_from_slice(&[0, 0, 0, 2])),
        frame(C, kind::WATCH, 2, |payload| payload.extend_from_slice(b"oslo-1")),
        frame(S, kind::READING, 2, |payload| payload.extend_from_slice(&[0; 8])),
        frame(C, kind::PING, 3, |_| {}),
        frame(S, kind::READING, 2, |payload| {
            payload.extend_from_slice(&[0; 8]);
            put_measurement(payload, &measurement);
        }),
        frame(S, kind::PONG, 3, |_| {}),
        frame(C, kind::CANCEL, 2, |_| {}),
        frame_with_flags(S, kind::READING, FLAG_END, 2, |payload| payload.extend_from_slice(&[0; 8])),
        frame(C, 6, 4, |payload| payload.extend_from_slice(b"?")),
        error(4, ErrorCode::UnknownKind),
        frame(C, kind::RECORD, 5, |payload| payload.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 9])),
        error(5, ErrorCode::BadPayload),
        flipped,
        error(0, ErrorCode::BadChecksum),
        frame(C, kind::GOODBYE, 0, |_| {}),
        frame(S, kind::GOODBYE, 0, |_| {}),
    ]
}

#[apply(test!)]
async fn what_the_client_and_the_server_say_is_named() {
    let recorded = record("tcp_socket", scene).await;
    let [conversation] = &recorded[..] else { panic!("one connection") };
    let messages = check(&decoder, conversation);
    check_detail(&messages);
    let shown = summaries(&messages);
    for expected in [
        "> HELLO, versions 1 to 1",
        "< WELCOME, version 1",
        "> RECORD #1, 2 readings",
        "< RECORDED #1, accepted 2",
        "< ERROR #2 InvalidReading",
        "> WATCH #3 \"oslo-1\"",
        "< READING #3, 1 reading",
        "> GOODBYE",
        "< GOODBYE",
    ] {
        assert!(shown.iter().any(|summary| summary == expected), "{expected} is not in {shown:#?}");
    }
    let record = messages.iter().find(|message| message.summary.starts_with("RECORD #1")).unwrap();
    let information = record.leaves().filter(|leaf| leaf.purpose == Purpose::Information);
    let bytes: u64 = information.map(|leaf| leaf.span.end - leaf.span.start).sum();
    assert_eq!(bytes, 6 + 2 * 17, "the station's ID and two readings");
    check_mutations(&decoder, recorded);
}

#[apply(test!)]
async fn responses_find_their_requests() {
    let messages = check(&decoder, &all_kinds());
    let shown: Vec<_> = messages
        .iter()
        .map(|Message { summary, role, calls, refused, .. }| (&**summary, *role, calls[0], *refused))
        .collect();
    let handshake = 1 << 32;
    let expected = [
        ("HELLO, versions 1 to 1", Role::Request, handshake, false),
        ("WELCOME, version 1", Role::Response, handshake, false),
        ("RECORD #1, 2 readings", Role::Request, 1, false),
        ("RECORDED #1, accepted 2", Role::Response, 1, false),
        ("WATCH #2 \"oslo-1\"", Role::Request, 2, false),
        ("READING #2, 0 readings", Role::Other, 2, false),
        ("PING #3", Role::Request, 3, false),
        ("READING #2, 1 reading", Role::Other, 2, false),
        ("PONG #3", Role::Response, 3, false),
        ("CANCEL #2", Role::Other, 2, false),
        ("READING END #2, 0 readings", Role::Response, 2, false),
        ("unknown #4", Role::Other, 4, false),
        ("ERROR #4 UnknownKind", Role::Response, 4, true),
        ("RECORD #5, 0 readings", Role::Request, 5, false),
        ("ERROR #5 BadPayload", Role::Response, 5, true),
        ("PING #72, bad checksum", Role::Request, 72, true),
        ("ERROR BadChecksum", Role::Other, 0, true),
        ("GOODBYE", Role::Request, 0, false),
        ("GOODBYE", Role::Response, 0, false),
    ];
    assert_eq!(shown, expected);
    let stopping = [hello(), welcome(1), frame(S, kind::GOODBYE, 0, |_| {})];
    assert_eq!(check(&decoder, &stopping)[2].role, Role::Other, "the client did not say goodbye");
}

#[apply(test!)]
async fn a_refused_connection_is_shown() {
    let messages = check(&decoder, &[welcome(0), error(0, ErrorCode::TooManyConnections)]);
    assert_eq!(summaries(&messages), ["< WELCOME, version 0", "< ERROR TooManyConnections"]);
    assert!(messages.iter().all(|message| message.refused));
}

#[apply(test!)]
async fn other_protocols_and_endless_payloads_are_not_read() {
    let says = |bytes: &[u8], beginning: &[(Side, Vec<u8>)]| {
        let messages = check(&decoder, &[beginning, &[(C, bytes.to_vec())]].concat());
        messages[beginning.len()].summary.clone()
    };
    let http = says(b"GET / HTTP/1.1\r\n\r\n", &[]);
    assert_eq!(http, "cannot read this: not the protocol of the TCP chapter; it is still forwarded");
    assert!(says(&[22, 3, 1, 0, 0], &[]).contains("encrypted with TLS"));
    let mut header = frame(C, kind::RECORD, 1, |_| {}).1;
    header[8..12].copy_from_slice(&[0, 0x10, 0, 0]);
    assert_eq!(says(&header, &[hello()]), "the connection ended after 16 bytes of a message");
    header[11] = 1;
    let too_large = says(&header, &[hello()]);
    assert!(too_large.contains("a frame with 1048577 bytes of payload"), "{too_large}");
}

#[apply(test!)]
async fn arbitrary_bytes_in_place_of_frames_do_no_harm() {
    let words: [&[u8]; 6] = [
        b"WSTN\0\x01\0\x01",
        b"\0\x01\0\0\0\0\0\x01\0\0\0\x0d\0\0\0\0\0\0\0\0\0\0\0\x01\x01a\xff\xff\x01",
        b"\x01\x02\x01\0\0\0\0\x01\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x03\x04",
        b"\x01\xff\0\0\0\0\0\x01\0\0\0\x04\0\0\0\0\0\x06\xff\xfe",
        b"\0\x02\0\0\0\0\0\x01\0\0\0\x02\0\0\0\0\x1b[",
        b"\0\x05\0\0\0\0\0\0\0\0\0\0\xea\x0e\x70\x7a",
    ];
    check_arbitrary_bytes(&decoder, &[hello(), welcome(1)], &words);
}

/// Writes a capture of a connection to this port, in segments of `size` bytes, and has tshark read it.
/// Returns what the packet list shows for each message, and what tshark notices.
async fn dissected(conversation: Conversation, port: u16, size: usize) -> (Vec<String>, Vec<String>) {
    let name = format!("wstn-{}-{port}-{size}-{}.pcapng", conversation.len(), std::process::id());
    let mut at = Instant::now();
    let opened = Event { at, connection: 0, from: C, what: What::Open { client: 50_000, server: port } };
    let mut events = vec![opened];
    for (from, bytes) in conversation {
        for piece in bytes.chunks(size) {
            at += Duration::from_micros(100);
            events.push(Event { at, connection: 0, from, what: What::Data(piece.to_vec()) });
        }
    }
    let trace = Trace::new(events, decoder);
    let mut bytes = Vec::new();
    write(&mut bytes, &[Recording { trace: &trace, client: "client", server: "server", port }]).unwrap();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, bytes).unwrap();
    let packets = packets(&file).await;
    std::fs::remove_file(file).unwrap();
    let ours = packets.iter().filter(|packet| packet.protocol == "WSTN");
    let shown = ours.flat_map(|packet| packet.info.trim_end().split("  ")).map(str::to_owned).collect();
    (shown, packets.into_iter().flat_map(|packet| packet.expert).collect())
}

#[apply(test!)]
#[needs(tshark())]
async fn wireshark_names_each_message_on_any_port_and_however_it_is_cut() {
    let messages = [
        "HELLO",
        "WELCOME",
        "RECORD #1, readings: 2",
        "RECORDED #1, accepted: 2",
        "WATCH #2 oslo-1",
        "READING #2, readings: 0",
        "PING #3",
        "READING #2, readings: 1",
        "PONG #3",
        "CANCEL #2",
        "READING END #2, readings: 0",
        "unknown #4",
        "ERROR #4 UNKNOWN_KIND",
        "RECORD #5",
        "ERROR #5 BAD_PAYLOAD",
        "PING #72",
        "ERROR BAD_CHECKSUM",
        "GOODBYE",
        "GOODBYE",
    ];
    let noticed = [
        "Unknown kind",
        "Refused: UNKNOWN_KIND, no",
        "The payload does not have the form of its kind",
        "Refused: BAD_PAYLOAD, no",
        "The checksum does not match",
        "Refused: BAD_CHECKSUM, no",
    ];
    for (port, size) in [(7878, 1460), (7878, 20), (7878, 7), (40_001, 1460), (40_001, 24)] {
        let (shown, expert) = dissected(all_kinds(), port, size).await;
        assert_eq!(shown, messages, "port {port}, segments of {size} bytes");
        assert_eq!(expert, noticed, "port {port}, segments of {size} bytes");
    }
}

#[apply(test!)]
#[needs(tshark())]
async fn wireshark_shows_why_a_server_refuses_a_connection() {
    let refusal = [welcome(0), error(0, ErrorCode::TooManyConnections)];
    for port in [7878, 40_002] {
        for conversation in [refusal.to_vec(), [&[hello()], &refusal[..]].concat()] {
            let (shown, expert) = dissected(conversation, port, 1460).await;
            assert_eq!(shown[shown.len() - 2..], ["WELCOME", "ERROR TOO_MANY_CONNECTIONS"], "port {port}");
            assert_eq!(expert, ["Refused", "Refused: TOO_MANY_CONNECTIONS, no"], "port {port}");
        }
    }
}
