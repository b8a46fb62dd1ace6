//! Valid and invalid frames and messages.

use serde_json::json;
use tests::{apply, test};
use tokio::io::AsyncWriteExt;
use websocket::Limits;

use crate::local::{BINARY, CLOSE, Local, PING, PONG, Raw, TEXT, frame, limits};

#[apply(test!)]
async fn a_violation_of_the_protocol_gets_its_close_code() {
    let limits = Limits { max_message: 1000, ..limits() };
    let server = Local::start(limits).await;
    let mut unmasked = frame(TEXT, b"");
    unmasked[1] = 0;
    let code = |code: u16| code.to_be_bytes().to_vec();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no mask", unmasked, 1002),
        ("a reserved bit", frame(TEXT | 0x40, b"x"), 1002),
        ("an unknown opcode", frame(0x83, b"x"), 1002),
        ("an unknown control opcode", frame(0x8b, b""), 1002),
        ("a ping in fragments", frame(0x09, b"x"), 1002),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a text inside another text", [frame(0x01, b"a"), frame(TEXT, b"b")].concat(), 1002),
        ("half a close code", frame(CLOSE, &[3]), 1002),
        ("a reserved close code", frame(CLOSE, &code(1006)), 1002),
        ("a text that is not UTF-8", frame(TEXT, &[0xff]), 1007),
        ("a close reason that is not UTF-8", frame(CLOSE, &[code(1000), vec![0xc0]].concat()), 1007),
        ("a frame that is too long", frame(TEXT, &[b'x'; 1001]), 1009),
        ("a frame whose header says that it is too long", frame(TEXT, &[b'x'; 70_000])[..14].to_vec(), 1009),
        (
            "fragments that are too long together",
            [frame(0x01, &[b'x'; 600]), frame(0x80, &[b'x'; 401])].concat(),
            1009,
        ),
        ("the client's own close code", frame(CLOSE, &code(4321)), 4321),
        ("a close frame without a code", frame(CLOSE, b""), 1005),
    ];
    for (what, bytes, expected) in cases {
        let mut raw = Raw::open(server.addr, "/echo").await;
        raw.send(bytes).await;
        assert_eq!(raw.closed().await.0, expected, "{what}");
    }
    let mut chat = Raw::open(server.addr, "/chat").await;
    chat.send(frame(BINARY, b"{}")).await;
    assert_eq!(chat.closed().await.0, 1003);
    server.stop().await;
}

#[apply(test!)]
async fn the_close_frame_arrives_while_the_client_is_still_sending() {
    let server = Local::start(Limits { max_message: 1000, ..Limits::default() }).await;
    // Without lingering, about half of these connections see a reset instead.
    for _ in 0..20 {
        let mut raw = Raw::open(server.addr, "/chat").await;
        raw.send(frame(TEXT, &vec![b'x'; 2_000_000])).await;
        assert_eq!(raw.closed().await.0, 1009);
    }
    server.stop().await;
}

#[apply(test!)]
async fn frames_may_arrive_byte_by_byte_and_messages_in_fragments() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/echo").await;
    raw.stream.set_nodelay(true).unwrap();
    let fragments =
        [frame(0x01, "Gr".as_bytes()), frame(PING, b"?"), frame(0x00, &[0xc3]), frame(0x80, &[0xbc, b'n'])];
    for byte in fragments.concat() {
        raw.send([byte]).await;
    }
    assert_eq!(raw.frame().await.unwrap(), (PONG, b"?".to_vec()));
    assert_eq!(raw.frame().await.unwrap(), (TEXT, "Grün".as_bytes().to_vec()));
    server.stop().await;
}

#[apply(test!)]
async fn an_invalid_message_gets_a_reason_and_the_connection_stays_open() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/live").await;
    for (text, id, reason) in [
        ("nonsense", json!(null), "expected ident at line 1 column 2"),
        ("[]", json!(null), "invalid"),
        ("{}", json!(null), "missing field `type`"),
        (
            r#"{"type":"say","id":7}"#,
            json!(7),
            r#"unknown type "say": use record, readings, subscribe, or unsubscribe"#,
        ),
        (r#"{"type":"record","id":8}"#, json!(8), "missing field `readings`"),
        (r#"{"type":"record","id":8,"readings":["#, json!(8), "EOF while parsing a list"),
        (r#"{"type":"record","id":9,"readings":[]}"#, json!(9), "a batch holds 1 to 10000 readings, not 0"),
        (
            r#"{"type":"record","id":10,"readings":[{"station":"Oslo","metric":"wind","value":1,"recorded_at":0}]}"#,
            json!(10),
            "readings[0].station",
        ),
        (
            r#"{"type":"record","id":11,"readings":[{"station":"a","metric":"rain","value":1,"recorded_at":0}]}"#,
            json!(11),
            "unknown variant `rain`",
        ),
        (
            r#"{"type":"record","id":12,"readings":[{"station":"a","metric":"wind","value":121,"recorded_at":0}]}"#,
            json!(12),
            "readings[0].value: 121 is outside 0 to 120",
        ),
        (
            r#"{"type":"record","id":12,"readings":[{"station":"a","metric":"wind","value":1,"recorded_at":253402300800000}]}"#,
            json!(12),
            "readings[0].recorded_at: 253402300800000 is outside 0 to 253402300799999 ms",
        ),
        (r#"{"type":"readings","id":13,"station":"a","limit":501}"#, json!(13), "501 is outside 1 to 500"),
        (r#"{"type":"subscribe","id":14,"stations":["A"]}"#, json!(14), "stations: \"A\""),
    ] {
        raw.send(frame(TEXT, text.as_bytes())).await;
        let response = raw.json().await;
        assert_eq!(response["type"], "error", "{text}: {response}");
        assert_eq!(response["code"], "invalid", "{text}: {response}");
        assert_eq!(response["id"], id, "{text}: {response}");
        assert!(response["reason"].as_str().unwrap().contains(reason), "{text}: {response}");
    }
    let response = raw.ask(json!({"type": "readings", "id": 1, "station": "a", "limit": 1})).await;
    assert_eq!(response["readings"], json!([]));
    // The largest values are accepted.
    let latest = json!({"station": "a".repeat(32), "metric": "wind", "value": 120, "recorded_at": 253_402_300_799_999_u64});
    let response = raw.ask(json!({"type": "record", "id": 1, "readings": [latest]})).await;
    assert_eq!(response["accepted"], 1, "{response}");
    // A client that sends nothing but nonsense is broken.
    raw.send(frame(TEXT, b"nonsense").repeat(101)).await;
    assert_eq!(raw.closed().await, (1008, "too many invalid messages".to_owned()));
    server.stop().await;
}

/// The server refuses an array in place of an object, an unknown field, and a field of the wrong
/// type. The reason names the field.
#[apply(test!)]
async fn a_request_with_wrong_fields_or_types_is_refused() {
    let server = Local::start(limits()).await;
    let mut live = Raw::open(server.addr, "/live").await;
    let mut chat = Raw::open(server.addr, "/chat").await;
    let good = json!({"station": "a", "metric": "wind", "value": 1.0, "recorded_at": 0});
    let with = |field: &str, value: serde_json::Value| {
        let mut reading = good.clone();
        reading[field] = value;
        json!({"type": "record", "id": 5, "readings": [good, reading]}).to_string()
    };
    let live_cases = [
        (r#"["record", 5]"#.to_owned(), "invalid type: sequence, expected an object"),
        (r#"["record", 5, [["a","wind",1,0]]]"#.to_owned(), "invalid type: sequence, expected an object"),
        (r#"{"type":"record","id":5,"readings":[["a","wind",1,0]]}"#.to_owned(), "readings[0]: invalid type"),
        (r#"{"type":"record","id":5,"readings":{"station":"a"}}"#.to_owned(), "readings: invalid type"),
        (r#"{"type":"record","id":5,"readings":[null]}"#.to_owned(), "readings[0]: invalid type"),
        (r#"{"type":"subscribe","id":5,"station":["a"]}"#.to_owned(), "unknown field `station`"),
        (r#"{"type":"unsubscribe","id":5,"metric":["wind"]}"#.to_owned(), "unknown field `metric`"),
        (r#"{"type":"readings","id":5,"station":"a","limit":1,"limt":2}"#.to_owned(), "unknown field `limt`"),
        (r#"{"type":"record","id":5,"readings":[],"more":1}"#.to_owned(), "unknown field `more`"),
        (with("unit", json!("m/s")), "readings[1].unit: unknown field `unit`"),
        (with("value", json!("hot")), "readings[1].value: invalid type: string \"hot\""),
        (with("value", json!(null)), "readings[1].value: invalid type: null"),
        (with("value", json!(0.5)).replace("0.5", "1e400"), "readings[1].value: number out of range"),
        (with("station", json!(7)), "readings[1].station: invalid type"),
        (with("metric", json!({"wind": null})), "readings[1].metric: invalid type: map"),
        (with("recorded_at", json!("now")), "readings[1].recorded_at: invalid type"),
        (with("recorded_at", json!(0.5)), "readings[1].recorded_at: invalid"),
        (with("recorded_at", json!(-1)), "readings[1].recorded_at: invalid value: integer `-1`"),
        (
            r#"{"type":"subscribe","id":5,"metrics":["wind","rain"]}"#.to_owned(),
            "metrics[1]: unknown variant `rain`",
        ),
        (r#"{"type":"subscribe","id":5,"stations":"a"}"#.to_owned(), "stations: invalid type"),
        (r#"{"type":"readings","id":5,"station":"a","limit":"many"}"#.to_owned(), "limit: invalid type"),
        (r#"{"type":"readings","id":"5","station":"a","limit":1}"#.to_owned(), "id: invalid type"),
        (r#"{"type":"readings","id":5.5,"station":"a","limit":1}"#.to_owned(), "id: invalid"),
        (r#"{"type":"readings","id":-5,"station":"a","limit":1}"#.to_owned(), "id: invalid value"),
        (r#"{"type":"readings","id":5,"id":6,"station":"a","limit":1}"#.to_owned(), "duplicate field `id`"),
        (
            r#"{"type":"readings","type":"readings","id":5,"station":"a","limit":1}"#.to_owned(),
            "duplicate field `type`",
        ),
        (
            r#"{"type":"readings","id":5,"type":"record","station":"a","limit":1}"#.to_owned(),
            "duplicate field `type`",
        ),
        (r#"{"type":7,"id":5}"#.to_owned(), "type: invalid type"),
    ];
    let chat_cases = [
        (r#"["join", 5, "r", "ana"]"#.to_owned(), "invalid type: sequence, expected an object"),
        (r#"{"type":"join","id":5,"room":"r","name":"ana","tokn":"x"}"#.to_owned(), "unknown field `tokn`"),
        (r#"{"type":"join","id":5,"room":"r","name":["ana"]}"#.to_owned(), "name: invalid type"),
        (r#"{"type":"join","id":5,"room":"r","name":"ana","after":"x"}"#.to_owned(), "after: invalid type"),
        (r#"{"type":"leave","id":5,"rom":"r","room":"r"}"#.to_owned(), "unknown field `rom`"),
        (r#"{"type":"say","id":5,"room":"r","message_id":"m","text":1}"#.to_owned(), "text: invalid type"),
    ];
    let live_cases = live_cases.into_iter().map(|case| (true, case));
    for (is_live, (text, reason)) in live_cases.chain(chat_cases.into_iter().map(|case| (false, case))) {
        let raw = if is_live { &mut live } else { &mut chat };
        raw.send(frame(TEXT, text.as_bytes())).await;
        let response = raw.json().await;
        assert_eq!(
            (&response["type"], &response["code"]),
            (&json!("error"), &json!("invalid")),
            "{text}: {response}"
        );
        assert!(response["reason"].as_str().unwrap().contains(reason), "{text}: {response}");
    }
    // Nothing was recorded, there is no subscription, and nobody is in the room.
    let readings = live.ask(json!({"type": "readings", "id": 1, "station": "a", "limit": 1})).await;
    assert_eq!(readings["readings"], json!([]));
    let joined = chat.ask(json!({"type": "join", "id": 1, "room": "r", "name": "ana"})).await;
    assert_eq!(joined["present"], json!(["ana"]));
    server.stop().await;
}

/// As in JSON Schema, `1.0` and `1e3` are integers.
#[apply(test!)]
async fn an_integer_may_have_a_decimal_point_or_an_exponent() {
    let server = Local::start(limits()).await;
    let mut live = Raw::open(server.addr, "/live").await;
    let mut chat = Raw::open(server.addr, "/chat").await;
    for (path, text, expected) in [
        (
            "/live",
            r#"{"type":"record","id":1.0,"readings":[{"station":"a","metric":"wind","value":1,"recorded_at":1.7e12}]}"#,
            r#"{"type":"recorded","id":1,"accepted":1}"#,
        ),
        (
            "/live",
            r#"{"type":"readings","id":2e0,"station":"a","limit":1e2}"#,
            r#"{"type":"readings","id":2,"readings":[{"sequence":1,"station":"a","metric":"wind","value":1.0,"recorded_at":1700000000000}]}"#,
        ),
        (
            "/live",
            r#"{"station":"b","limit":5.0,"id":18446744073709551615,"type":"readings"}"#,
            r#"{"type":"readings","id":18446744073709551615,"readings":[]}"#,
        ),
        ("/chat", r#"{"type":"leave","id":3.0,"room":"r"}"#, r#""id":3,"#),
        ("/chat", r#"{"type":"join","id":4.0,"room":"r","name":"ana","after":0.0}"#, r#""id":4,"#),
    ] {
        let raw = if path == "/live" { &mut live } else { &mut chat };
        raw.send(frame(TEXT, text.as_bytes())).await;
        let (_text, response) = raw.frame().await.unwrap();
        let response = String::from_utf8(response).unwrap();
        assert!(response.contains(expected), "{text}: {response}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn only_invalid_messages_in_a_row_are_counted() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/chat").await;
    let say = json!({"type": "say", "id": 1, "room": "r", "message_id": "m", "text": "x"});
    let refused_for_another_reason = frame(TEXT, say.to_string().as_bytes());
    for valid in
        [&refused_for_another_reason, &frame(TEXT, br#"{"type":"join","id":1,"room":"r","name":"ana"}"#)]
    {
        raw.send(frame(TEXT, b"nonsense").repeat(100)).await;
        for _ in 0..100 {
            assert_eq!(raw.json().await["code"], "invalid");
        }
        raw.send(valid).await;
        assert_ne!(raw.json().await["code"], "invalid");
    }
    raw.send(frame(TEXT, b"nonsense").repeat(100)).await;
    for _ in 0..100 {
        assert_eq!(raw.json().await["code"], "invalid");
    }
    raw.send(frame(TEXT, b"nonsense")).await;
    assert_eq!(raw.closed().await, (1008, "too many invalid messages".to_owned()));
    server.stop().await;
}

/// The reason quotes only the beginning of the invalid text.
#[apply(test!)]
async fn a_refusal_is_short_however_long_the_request_is() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/live").await;
    let long = "x".repeat(100_000);
    for request in [
        json!({"type": long, "id": 1}),
        json!({"type": "subscribe", "id": 1, "stations": [long]}),
        json!({"type": "subscribe", "id": 1, "metrics": [long]}),
        json!({"type": "subscribe", "id": 1, long.clone(): 1}),
        json!({"type": "readings", "id": 1, "station": "a", "limit": long}),
        json!({"type": "record", "id": 1, "readings": [{"station": long, "metric": "wind", "value": 1, "recorded_at": 0}]}),
    ] {
        let response = raw.ask(request).await;
        let reason = response["reason"].as_str().unwrap();
        assert!(reason.len() < 400, "{} bytes: {}", reason.len(), &reason[..300]);
    }
    let mut chat = Raw::open(server.addr, "/chat").await;
    for (room, name) in [(&*long, "a"), ("r", &*long)] {
        let response = chat.ask(json!({"type": "join", "id": 1, "room": room, "name": name})).await;
        assert!(response["reason"].as_str().unwrap().len() < 400);
        let response = chat.ask(json!({"type": "leave", "id": 1, "room": room})).await;
        assert!(response["reason"].as_str().unwrap().len() < 400);
    }
    server.stop().await;
}

#[apply(test!)]
async fn garbage_does_not_harm_the_server() {
    let server = Local::start(limits()).await;
    // This generator returns the same numbers in each run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let garbage: Vec<u8> = (0..random() % 300).map(|_| random() as u8).collect();
        let mut raw = if round % 3 == 0 {
            Raw::tcp(server.addr).await
        } else {
            Raw::open(server.addr, ["/chat", "/live"][round % 2]).await
        };
        // This may fail if the server has already closed the connection.
        let _ = raw.stream.write_all(&garbage).await;
    }
    let mut raw = Raw::open(server.addr, "/echo").await;
    raw.send(frame(TEXT, b"still there?")).await;
    assert_eq!(raw.frame().await.unwrap(), (TEXT, b"still there?".to_vec()));
    server.stop().await;
}
