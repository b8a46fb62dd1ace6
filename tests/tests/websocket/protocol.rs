//! What is really on the wire: the handshake, frames, and how connections end.

use std::time::Duration;
use tests::{apply, test};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use websocket::Limits;

use crate::local::{BINARY, CLOSE, KEY, Local, PING, PONG, Raw, TEXT, frame, handshake, limits, soon};
use tcp_socket::base::limits::ConnectionLimits;

#[apply(test!)]
async fn the_handshake_is_that_of_the_rfc() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::tcp(server.addr).await;
    raw.send(handshake("/echo", "Sec-WebSocket-Protocol: other, weather.v1.json\r\n")).await;
    let head = raw.head().await;
    let lines: Vec<&str> = head.lines().filter(|line| !line.starts_with("date: ")).collect();
    let expected = [
        "HTTP/1.1 101 Switching Protocols",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol: weather.v1.json",
        "",
    ];
    assert_eq!(lines, expected);
    // The frames that the README shows.
    raw.send([0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]).await;
    assert_eq!(raw.frame().await.unwrap(), (TEXT, b"Hello".to_vec()));
    raw.send([0x88, 0x82, 0x37, 0xfa, 0x21, 0x3d, 0x34, 0x12]).await;
    assert_eq!(raw.closed().await.0, 1000);
    server.stop().await;
}

#[apply(test!)]
async fn a_frame_glued_to_the_handshake_is_not_lost() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::tcp(server.addr).await;
    let whole = [handshake("/echo", "").into_bytes(), frame(TEXT, b"early"), frame(BINARY, &[0, 255])];
    raw.send(whole.concat()).await;
    raw.head().await;
    assert_eq!(raw.frame().await.unwrap(), (TEXT, b"early".to_vec()));
    assert_eq!(raw.frame().await.unwrap(), (BINARY, vec![0, 255]));
    server.stop().await;
}

/// The status that a request gets.
pub async fn status(server: &Local, request: String) -> (u16, String) {
    let mut raw = Raw::tcp(server.addr).await;
    raw.send(request).await;
    let head = raw.head().await;
    (head[9..12].parse().unwrap(), head)
}

#[apply(test!)]
async fn a_bad_handshake_gets_its_status() {
    let server = Local::start(limits()).await;
    let good = handshake("/chat", "");
    assert_eq!(status(&server, good.clone()).await.0, 101);
    let cases = [
        (good.replace("GET", "POST"), 405, "allow: GET"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 400, ""),
        (good.replace("Upgrade: websocket", "Upgrade: h2c"), 426, "upgrade: websocket"),
        (good.replace("Connection: Upgrade", "Connection: keep-alive"), 426, "upgrade: websocket"),
        (good.replace("Version: 13", "Version: 8"), 426, "sec-websocket-version: 13"),
        (good.replace("Sec-WebSocket-Version: 13\r\n", ""), 426, "sec-websocket-version: 13"),
        (good.replace(KEY, "c2hvcnQ="), 400, ""),
        (good.replace(KEY, "c2hvcnQ=="), 400, ""),
        (good.replace(KEY, "dGhlIHNhbXBsZSBub25jZXM=="), 400, ""),
        (good.replace(KEY, "dGhlIHNhbXBsZSBub25j!!=="), 400, ""),
        (good.replace("Sec-WebSocket-Key", "X-Key"), 400, ""),
        (handshake("/chat", &format!("Sec-WebSocket-Key: {KEY}\r\n")), 400, ""),
        (handshake("/chat", "Content-Length: 5\r\n"), 400, ""),
        (handshake("/chat", "Transfer-Encoding: chunked\r\n"), 400, ""),
        (handshake("/nowhere", ""), 404, ""),
        ("GET /chat HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426, "upgrade: websocket"),
    ];
    for (request, expected, header) in cases {
        let (status, head) = status(&server, request.clone()).await;
        assert_eq!(status, expected, "{request}");
        assert!(head.contains(header), "{request}{head}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn header_names_and_tokens_may_be_written_in_any_case() {
    let server = Local::start(limits()).await;
    let request = handshake("/chat", "")
        .replace("Upgrade: websocket", "UPGRADE: WebSocket")
        .replace("Connection: Upgrade", "connection: keep-alive, UPGRADE");
    assert_eq!(status(&server, request).await.0, 101);
    server.stop().await;
}

#[apply(test!)]
async fn of_the_subprotocols_only_ours_is_spoken() {
    let server = Local::start(limits()).await;
    let offer = |lines: &str| handshake("/live", lines);
    let ours = "sec-websocket-protocol: weather.v1.json\r\n";
    let (code, head) = status(&server, offer("")).await;
    assert!(code == 101 && !head.contains("sec-websocket-protocol"), "{head}");
    let (code, head) =
        status(&server, offer("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b,weather.v1.json\r\n"))
            .await;
    assert!(code == 101 && head.contains(ours), "{head}");
    for unknown in ["weather.v2.json", "WEATHER.V1.JSON", ""] {
        let (code, head) = status(&server, offer(&format!("Sec-WebSocket-Protocol: {unknown}\r\n"))).await;
        assert_eq!(code, 400, "{unknown} {head}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn pages_from_elsewhere_may_not_connect() {
    let allowed_origins = vec!["https://weather.example".parse().unwrap()];
    let server = Local::allowing(allowed_origins, limits()).await;
    let port = server.addr.port();
    let from = |origin: &str| handshake("/chat", &format!("Origin: {origin}\r\n"));
    for own in [
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        "https://weather.example".to_owned(),
    ] {
        assert_eq!(status(&server, from(&own)).await.0, 101, "{own}");
    }
    for foreign in [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        "http://127.0.0.1".to_owned(),
        format!("https://127.0.0.1:{port}"),
        "https://weather.example.evil.example".to_owned(),
    ] {
        assert_eq!(status(&server, from(&foreign)).await.0, 403, "{foreign}");
    }
    // A name that was made to resolve to this machine is a foreign page's, too.
    let rebound = from(&format!("http://evil.example:{port}"))
        .replace("Host: 127.0.0.1", &format!("Host: evil.example:{port}"));
    assert_eq!(status(&server, rebound).await.0, 403);
    let twice = from("https://weather.example").replace("Origin:", "Origin: https://evil.example\r\nOrigin:");
    assert_eq!(status(&server, twice).await.0, 403);
    server.stop().await;
}

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
        ("a text inside of a text", [frame(0x01, b"a"), frame(TEXT, b"b")].concat(), 1002),
        ("half a close code", frame(CLOSE, &[3]), 1002),
        ("a reserved close code", frame(CLOSE, &code(1006)), 1002),
        ("a text that is not UTF-8", frame(TEXT, &[0xff]), 1007),
        ("a close reason that is not UTF-8", frame(CLOSE, &[code(1000), vec![0xc0]].concat()), 1007),
        ("a frame that is too long", frame(TEXT, &[b'x'; 1001]), 1009),
        ("a frame that says it is", frame(TEXT, &[b'x'; 70_000])[..14].to_vec(), 1009),
        ("fragments that are", [frame(0x01, &[b'x'; 600]), frame(0x80, &[b'x'; 401])].concat(), 1009),
        ("the client's own", frame(CLOSE, &code(4321)), 4321),
        ("none", frame(CLOSE, b""), 1005),
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
async fn the_close_frame_arrives_although_its_cause_is_still_being_sent() {
    let server = Local::start(Limits { max_message: 1000, ..Limits::default() }).await;
    // Without lingering about half of these see a reset instead.
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
async fn an_invalid_message_gets_a_reason_and_the_connection_lives() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/live").await;
    for (text, id, reason) in [
        ("nonsense", json!(null), "expected ident at line 1 column 2"),
        ("[]", json!(null), "invalid"),
        ("{}", json!(null), "missing field `type`"),
        (
            r#"{"type":"say","id":7}"#,
            json!(7),
            r#"type "say" is none of record, readings, subscribe, unsubscribe"#,
        ),
        (r#"{"type":"record","id":8}"#, json!(8), "missing field `readings`"),
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
        let answer = raw.json().await;
        assert_eq!(answer["type"], "error", "{text}: {answer}");
        assert_eq!(answer["code"], "invalid", "{text}: {answer}");
        assert_eq!(answer["id"], id, "{text}: {answer}");
        assert!(answer["reason"].as_str().unwrap().contains(reason), "{text}: {answer}");
    }
    let answer = raw.ask(json!({"type": "readings", "id": 1, "station": "a", "limit": 1})).await;
    assert_eq!(answer["readings"], json!([]));
    // Who sends nothing but nonsense is broken.
    raw.send(frame(TEXT, b"nonsense").repeat(101)).await;
    assert_eq!(raw.closed().await, (1008, "too many invalid messages".to_owned()));
    server.stop().await;
}

/// Arrays in place of objects, unknown fields, and fields of another type: each is
/// refused, and the reason names the field.
#[apply(test!)]
async fn a_request_of_another_shape_is_refused() {
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
        let answer = raw.json().await;
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!("invalid")),
            "{text}: {answer}"
        );
        assert!(answer["reason"].as_str().unwrap().contains(reason), "{text}: {answer}");
    }
    // Nothing was recorded, nothing is subscribed to, and nobody is in the room.
    let readings = live.ask(json!({"type": "readings", "id": 1, "station": "a", "limit": 1})).await;
    assert_eq!(readings["readings"], json!([]));
    let joined = chat.ask(json!({"type": "join", "id": 1, "room": "r", "name": "ana"})).await;
    assert_eq!(joined["present"], json!(["ana"]));
    server.stop().await;
}

/// In JSON Schema, `1.0` and `1e3` are integers.
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
        let (_text, answer) = raw.frame().await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(expected), "{text}: {answer}");
    }
    server.stop().await;
}

/// A server of which only the heartbeat is as given.
async fn beating(heartbeat: u64, dead_after: u64) -> Local {
    let [heartbeat, dead_after] = [heartbeat, dead_after].map(Duration::from_millis);
    Local::start(Limits { heartbeat, dead_after, ..limits() }).await
}

#[apply(test!)]
async fn the_server_pings_and_sends_heartbeats() {
    let server = beating(50, 600_000).await;
    for path in ["/chat", "/live"] {
        let mut raw = Raw::open(server.addr, path).await;
        for _ in 0..3 {
            assert_eq!(raw.frame().await.unwrap().0, PING);
            let (first, text) = raw.frame().await.unwrap();
            assert_eq!(first, TEXT);
            let heartbeat: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(heartbeat, json!({"type": "heartbeat", "next_within_ms": 50}));
        }
    }
    server.stop().await;
}

/// One that answers is kept for longer than one that is silent.
#[apply(test!)]
async fn the_dead_are_closed_and_the_living_are_not() {
    let server = beating(400, 2500).await;
    let mut alive = Raw::open(server.addr, "/echo").await;
    let mut silent = Raw::open(server.addr, "/echo").await;
    for _ in 0..9 {
        assert_eq!(alive.frame().await.unwrap().0, PING);
        alive.send(frame(PONG, b"")).await;
    }
    assert_eq!(silent.closed().await, (1008, "no sign of life".to_owned()));
    server.stop().await;
}

#[apply(test!)]
async fn a_handshake_that_does_not_come_ends_the_connection() {
    let handshake_timeout = Duration::from_millis(100);
    let server = Local::start(Limits { handshake_timeout, ..limits() }).await;
    for start in ["", "GET /chat HTTP/1.1\r\nHo"] {
        let mut raw = Raw::tcp(server.addr).await;
        raw.send(start).await;
        let mut rest = Vec::new();
        soon("the end", raw.stream.read_to_end(&mut rest)).await.unwrap();
    }
    server.stop().await;
}

#[apply(test!)]
async fn beyond_the_connection_cap_the_answer_is_503_before_the_upgrade() {
    let server = Local::start(Limits {
        connections: ConnectionLimits { max_connections: 2, ..Default::default() },
        ..Limits::default()
    })
    .await;
    let mut first = Raw::open(server.addr, "/chat").await;
    let second = Raw::open(server.addr, "/live").await;
    let (code, head) = status(&server, handshake("/chat", "")).await;
    assert_eq!(code, 503, "{head}");
    first.send(frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(first.closed().await.0, 1000);
    drop(first);
    // Its place is free as soon as the server has seen it go.
    let again = async {
        while status(&server, handshake("/chat", "")).await.0 == 503 {
            tokio::task::yield_now().await;
        }
    };
    soon("a free place", again).await;
    drop(second);
    server.stop().await;
}

/// The connections that are refused with 503 are bounded in number too.
#[apply(test!)]
async fn beyond_the_refusals_connections_are_closed_without_a_word() {
    let limits = Limits {
        connections: ConnectionLimits { max_connections: 0, max_refusals: 1, ..Default::default() },
        ..Limits::default()
    };
    let server = Local::start(limits).await;
    let mut told = Raw::tcp(server.addr).await;
    assert!(told.head().await.starts_with("HTTP/1.1 503 "));
    let mut not_told = Raw::tcp(server.addr).await;
    let mut answer = Vec::new();
    let _ = soon("the end", not_told.stream.read_to_end(&mut answer)).await; // Or a reset.
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    server.stop().await;
}

/// After the close frame, one peer keeps the connection open, and another goes on sending.
#[apply(test!)]
async fn lingering_has_an_end() {
    let forever = Duration::from_secs(600);
    let violation = frame(0x83, b"x");
    let limits = |linger_time, linger_bytes| Limits {
        connections: ConnectionLimits {
            linger_time,
            linger_bytes,
            drain_timeout: forever,
            ..Default::default()
        },
        ..Limits::default()
    };
    let server = Local::start(limits(Duration::from_millis(50), usize::MAX)).await;
    let mut holds_on = Raw::open(server.addr, "/chat").await;
    holds_on.send(&violation).await;
    assert_eq!(holds_on.closed().await.0, 1002);
    server.stop().await; // It waits for its connections.

    let server = Local::start(limits(forever, 1_000_000)).await;
    let mut sends_on = Raw::open(server.addr, "/chat").await;
    sends_on.send(&violation).await;
    let sent = async { while sends_on.stream.write_all(&[0; 10_000]).await.is_ok() {} };
    soon("the end", sent).await;
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
        let answer = raw.ask(request).await;
        let reason = answer["reason"].as_str().unwrap();
        assert!(reason.len() < 400, "{} bytes: {}", reason.len(), &reason[..300]);
    }
    let mut chat = Raw::open(server.addr, "/chat").await;
    for (room, name) in [(&*long, "a"), ("r", &*long)] {
        let answer = chat.ask(json!({"type": "join", "id": 1, "room": room, "name": name})).await;
        assert!(answer["reason"].as_str().unwrap().len() < 400);
        let answer = chat.ask(json!({"type": "leave", "id": 1, "room": room})).await;
        assert!(answer["reason"].as_str().unwrap().len() < 400);
    }
    server.stop().await;
}

#[apply(test!)]
async fn on_shutdown_everybody_is_closed_with_1001() {
    let server = Local::start(Limits::default()).await;
    let addr = server.addr;
    let mut open = Vec::new();
    for path in ["/chat", "/live", "/echo"] {
        open.push(Raw::open(addr, path).await);
    }
    // What was asked before is answered before the end.
    open[2].send(frame(TEXT, b"last words")).await;
    assert_eq!(open[2].frame().await.unwrap(), (TEXT, b"last words".to_vec()));
    let mut stopping = server.terminate();
    for raw in &mut open {
        assert_eq!(raw.closed().await, (1001, "the server is stopping".to_owned()));
    }
    // It waits for the connections, which are still open on our side.
    let waited = timeout(Duration::from_millis(300), &mut stopping).await;
    assert!(waited.is_err(), "it did not wait for upgraded connections");
    drop(open);
    soon("the end", stopping).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[apply(test!)]
async fn shutdown_cuts_who_does_not_let_go() {
    let limits = Limits {
        connections: ConnectionLimits {
            linger_time: Duration::from_secs(600),
            drain_timeout: Duration::from_millis(200),
            ..Default::default()
        },
        ..limits()
    };
    let server = Local::start(limits).await;
    let _holds_on = Raw::open(server.addr, "/chat").await;
    server.stop().await;
}

#[apply(test!)]
async fn who_reads_nothing_is_cut() {
    let limits = Limits {
        heartbeat: Duration::from_secs(600),
        write_timeout: Duration::from_millis(200),
        max_message: 16 << 20,
        ..limits()
    };
    let server = Local::start(limits).await;
    let mut raw = Raw::open(server.addr, "/echo").await;
    let big = frame(BINARY, &vec![0; 16 << 20]);
    let sent = async {
        // More than the kernels' buffers take: the echo of the first is never read.
        loop {
            if raw.stream.write_all(&big).await.is_err() {
                break;
            }
        }
    };
    soon("a reset", sent).await;
    server.stop().await;
}

#[apply(test!)]
async fn garbage_harms_nobody() {
    let server = Local::start(limits()).await;
    // A generator that is the same in each run.
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
        // The server may well have closed in the middle of it.
        let _ = raw.stream.write_all(&garbage).await;
    }
    let mut raw = Raw::open(server.addr, "/echo").await;
    raw.send(frame(TEXT, b"still there?")).await;
    assert_eq!(raw.frame().await.unwrap(), (TEXT, b"still there?".to_vec()));
    server.stop().await;
}

/// As `printf … | nc` does.
#[apply(test!)]
async fn a_client_that_has_said_everything_gets_its_answer() {
    let server = Local::start(limits()).await;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn the_page_and_the_health_route_are_plain_http() {
    let server = Local::start(limits()).await;
    let page = reqwest::get(server.url()).await.unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let nonce = policy.split_once("script-src 'nonce-").unwrap().1.split_once('\'').unwrap().0;
    let html = page.text().await.unwrap();
    assert!(html.contains(&format!("<script nonce=\"{nonce}\">")) && !html.contains("NONCE"));
    assert!(!html.contains("http://") || !html.contains("src=\"http"), "nothing is loaded from elsewhere");
    let health = reqwest::get(format!("{}/healthz", server.url())).await.unwrap();
    assert_eq!((health.status().as_u16(), health.text().await.unwrap().as_str()), (200, "ok\n"));
    server.stop().await;
}
