//! Tests of the decoder for WebSocket.

use futures::StreamExt;
use lab::wire::decode::websocket::decoder;
use lab::wire::message::{Message, Purpose, Role, Side};
use lab::wire::units::MAX_UNIT;
use tests::{apply, test};
use websocket::{Client, Metric, Reading};

use crate::hostile::{check_arbitrary_bytes, check_mutations};
use crate::streams::{check, check_detail, decode, record, summaries};

fn reading(value: f64) -> Reading {
    Reading { station: "oslo-1".into(), metric: Metric::Temperature, value, recorded_at: 1_767_225_600_000 }
}

async fn scene(address: String) {
    let client = Client::new(&format!("http://{address}"));
    let mut live = client.live(&["oslo-1"], &[]).await.unwrap();
    client.record(&[reading(-3.5), reading(21.5)]).await.unwrap();
    client.record(&[reading(130.0)]).await.unwrap_err();
    live.next().await.unwrap().unwrap();
    client.readings("oslo-1", 10).await.unwrap();
    let (chat, events) = client.chat("lobby", "ana").await.unwrap();
    chat.say("good morning").await.unwrap();
    drop(events);
    chat.leave().await;
    live.close().await;
    client.close().await;
}

/// Returns a frame; `first` is its first byte.
fn frame(from: Side, first: u8, payload: impl AsRef<[u8]>) -> (Side, Vec<u8>) {
    let (payload, mask) = (payload.as_ref(), [1, 2, 3, 4]);
    let masked = if from == Side::Client { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..126 => bytes.push(masked | length as u8),
        length @ ..0x1_0000 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    if from == Side::Client {
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend(payload);
    }
    (from, bytes)
}

const REQUEST: &str = "GET /live HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

/// Decodes frames after a handshake. Returns what follows the handshake.
fn after_handshake(frames: impl IntoIterator<Item = (Side, Vec<u8>)>) -> Vec<Message> {
    let mut conversation = vec![(Side::Client, REQUEST.into()), (Side::Server, RESPONSE.into())];
    conversation.extend(frames);
    let messages = check(&decoder, &conversation);
    let handshake = [("> GET /live", Role::Request), ("< 101 Switching Protocols", Role::Response)];
    for (message, (summary, role)) in messages.iter().zip(handshake) {
        assert_eq!((&*summaries(std::slice::from_ref(message))[0], message.role), (summary, role));
        assert_eq!(message.calls, [1]);
    }
    messages[2..].to_vec()
}

use Side::{Client as C, Server as S};

#[apply(test!)]
async fn every_byte_of_the_chapters_messages_has_a_name() {
    let connections = record("websocket", scene).await;
    let connections: Vec<_> = connections.iter().map(|connection| check(&decoder, connection)).collect();
    let messages = connections.concat();
    for messages in &connections {
        check_detail(messages);
        let asked = messages.iter().filter(|message| message.role == Role::Request);
        let answered = messages.iter().filter(|message| message.role == Role::Response);
        let sorted = |mut calls: Vec<u64>| {
            calls.sort_unstable();
            calls
        };
        assert_eq!(
            sorted(answered.flat_map(|message| message.calls.clone()).collect()),
            asked.flat_map(|message| message.calls.clone()).collect::<Vec<_>>(),
        );
    }
    let said = summaries(&messages);
    for expected in [
        "> record #0, 2 readings",
        "< recorded #0, accepted 2",
        "> record #1, 1 reading",
        "< error #1, code invalid",
        "> readings #2, station oslo-1",
        "< readings #2, 2 readings",
        "> join #0, room lobby, name ana",
        "< joined #0, room lobby, name ana, sequence 1",
        "> say #1, room lobby, text good morning",
        "< reading, station oslo-1, metric temperature, value -3.5, seq…",
        "> close 1000",
    ] {
        assert!(said.iter().any(|summary| summary == expected), "no {expected:?} in {said:#?}");
    }
    let refused = messages.iter().filter(|message| message.refused);
    assert_eq!(refused.map(|message| &*message.summary).collect::<Vec<_>>(), ["error #1, code invalid"]);
}

#[apply(test!)]
async fn a_masked_payload_is_named_at_its_place_in_the_stream() {
    let json = r#"{"type":"say","id":7,"text":"hello"}"#;
    let messages = after_handshake([frame(C, 0x81, json)]);
    let start = REQUEST.len() as u64 + 6;
    let text = messages[0].leaves().find(|leaf| leaf.name == "text").unwrap();
    let at = start + json.find("\"hello\"").unwrap() as u64;
    assert_eq!((&*text.value, text.span.clone()), ("\"hello\"", at..at + 7));
    assert_eq!(text.purpose, Purpose::Information);
    let fields: Vec<_> = messages[0].fields[..4].iter().map(|field| (&*field.name, &*field.value)).collect();
    let expected = [
        ("FIN, RSV, opcode", "FIN, text"),
        ("MASK, Payload len", "MASK, 36"),
        ("Masking-key", "01 02 03 04"),
        ("JSON", json),
    ];
    assert_eq!(fields, expected);
    assert_eq!(messages[0].summary, "say #7, text hello");
}

#[apply(test!)]
async fn lengths_of_seven_sixteen_and_sixty_four_bits_are_read() {
    for (length, extended) in
        [(125, None), (126, Some("126")), (65_535, Some("65535")), (65_536, Some("65536"))]
    {
        for from in [C, S] {
            let messages = after_handshake([frame(from, 0x82, vec![b'a'; length]), frame(from, 0x89, "")]);
            let field = messages[0].fields.iter().find(|field| field.name == "Extended payload length");
            assert_eq!(field.map(|field| &*field.value), extended);
            assert_eq!(messages[1].summary, "ping", "after {length} bytes");
        }
    }
}

#[apply(test!)]
async fn the_last_fragment_shows_the_whole_message() {
    let frames = [
        frame(C, 0x01, r#"{"type":"rec"#),
        frame(C, 0x89, "alive?"),
        frame(S, 0x01, r#"{"type":"heart"#),
        frame(C, 0x00, r#"ord","id":3,"readings":["#),
        frame(S, 0x80, r#"beat"}"#),
        frame(C, 0x80, r#"{},{}]}"#),
        frame(S, 0x81, r#"{"type":"recorded","id":3,"accepted":2}"#),
    ];
    let messages = after_handshake(frames);
    let said = [
        "> text, a fragment of 12 bytes",
        "> ping",
        "< text, a fragment of 14 bytes",
        "> continuation, a fragment of 24 bytes",
        "< heartbeat",
        "> record #3, 2 readings",
        "< recorded #3, accepted 2",
    ];
    assert_eq!(summaries(&messages), said);
    let fragments = [(messages[0].role, messages[3].role), (Role::Part, Role::Part)];
    assert_eq!(fragments[0], fragments[1]);
    let request = &messages[5];
    assert_eq!((request.role, &request.calls[..]), (Role::Request, &[2][..]));
    assert_eq!(request.begun, messages[0].span.start);
    assert_eq!((messages[6].role, &messages[6].calls), (Role::Response, &request.calls));
}

#[apply(test!)]
async fn a_response_has_the_id_of_its_request() {
    let of = |from, id: &str| frame(from, 0x81, format!(r#"{{"type":"t","id":{id}}}"#));
    let messages = after_handshake([
        of(C, "5"),
        of(C, "6"),
        of(S, "6"),
        of(S, "6"),
        of(S, "5"),
        of(S, "7"),
        of(C, "\"a\""),
        frame(S, 0x81, r#"{"type":"error","id":8}"#),
    ]);
    let roles: Vec<_> = messages.iter().map(|message| (message.role, message.calls.first())).collect();
    let (request, response) = (Role::Request, Role::Response);
    let nothing = (Role::Other, None);
    let expected = [
        (request, Some(&2)),
        (request, Some(&3)),
        (response, Some(&3)),
        nothing,
        (response, Some(&2)),
        nothing,
        nothing,
        nothing,
    ];
    assert_eq!(roles, expected);
    assert!(messages[7].refused && !messages[6].refused);
}

#[apply(test!)]
async fn messages_that_are_not_the_chapters_are_shown_as_they_are() {
    let messages = after_handshake([
        frame(C, 0x81, "Hello, Ben!"),
        frame(S, 0x81, r#"{"station":"oslo-1"}"#),
        frame(C, 0xc1, [0xff, 1]),
        frame(C, 0x82, [1, 2]),
        frame(S, 0x8a, "pong"),
        frame(S, 0x88, [&4001_u16.to_be_bytes()[..], b"taken over"].concat()),
        frame(C, 0x88, ""),
        frame(C, 0x88, "a"),
        frame(S, 0x88, 1000_u16.to_be_bytes()),
    ]);
    let said = [
        "> message \"Hello, Ben!\"",
        "< {\"station\":\"oslo-1\"}",
        "> message ff 01",
        "> message 01 02",
        "< pong",
        "< close 4001 taken over",
        "> close",
        "> close 97",
        "< close 1000",
    ];
    assert_eq!(summaries(&messages), said);
    assert_eq!(messages[2].fields[0].value, "FIN, RSV, text");
    assert!(messages[5].refused && !messages[8].refused);
    let close: Vec<_> = messages[5].leaves().skip(2).map(|leaf| (&*leaf.name, &*leaf.value)).collect();
    assert_eq!(close, [("status code", "4001"), ("reason", "\"taken over\"")]);
}

#[apply(test!)]
async fn bytes_that_are_not_websocket_are_refused_with_a_reason() {
    let longest = [0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
    for (bytes, reason) in [
        (&[0x83, 0][..], "a WebSocket frame with the unknown opcode 3"),
        (&[0x8b, 0], "a WebSocket frame with the unknown opcode 11"),
        (&longest, "a message is too long to decode"),
    ] {
        let messages = after_handshake([(S, bytes.to_vec())]);
        assert_eq!(messages[0].summary, format!("cannot read this: {reason}; it is still forwarded"));
    }
    let at_once = [(C, REQUEST.into()), (S, RESPONSE.into()), frame(S, 0x82, vec![0; MAX_UNIT])];
    let messages = decode(&mut *decoder(), &at_once);
    assert!(messages[2].summary.contains("too long to decode"), "as in pieces");
    let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
    let again = [
        (C, REQUEST.into()),
        (S, refused.into()),
        (C, REQUEST.into()),
        (S, RESPONSE.into()),
        frame(C, 0x89, ""),
    ];
    let messages = check(&decoder, &again);
    assert_eq!((messages[1].refused, &*messages[4].summary), (true, "ping"));
    let tls = check(&decoder, &[(C, vec![0x16, 3, 1, 0, 0])]);
    assert!(tls[0].summary.contains("encrypted with TLS"), "{tls:?}");
}

#[apply(test!)]
async fn arbitrary_bytes_in_place_of_frames_do_no_harm() {
    let words: [&[u8]; 7] = [
        b"\x81\x02{}",
        b"\x01\x01{",
        b"\x80\x81abcd\x1c",
        b"\x88\x02\x03\xe8",
        b"\x89\x00",
        b"\x82\x7f\0\0\0\0\0\0\0\x01a",
        b"\x81\x0b{\"id\":1234}",
    ];
    let handshake = [(C, REQUEST.into()), (S, RESPONSE.into())];
    check_arbitrary_bytes(&decoder, &handshake, &words);
    check_mutations(&decoder, record("websocket", scene).await);
}
