//! Tests of the decoder for HTTP/2 and gRPC.

use std::time::Instant;
use tests::{apply, test};

use futures::future::join;
use futures::stream;
use grpc::proto::watch_request::Start;
use grpc::proto::{Metric, Reading, RecordRequest, RecordResponse};
use grpc::{Client, Config, Options};
use lab::wire::cursor::MAX_FIELDS;
use lab::wire::decode::http2::decoder;
use lab::wire::message::{Field, Message, Purpose, Role, Side};
use lab::wire::tape::{Event, What};
use lab::wire::trace::Trace;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::net::TcpListener;

use crate::streams::{Conversation, check, check_detail, decode, record, record_before, summaries};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

fn reading(station: &str, value: f64) -> Reading {
    let metric = Metric::Temperature.into();
    Reading { station: station.into(), metric, value, recorded_at: 1_767_225_600_000 }
}

fn client(address: &str, token: Option<&str>) -> Client {
    let options = Options { token: token.map(str::to_owned), ..Options::default() };
    Client::new(&format!("http://{address}"), &options).unwrap()
}

/// Returns the bytes of one frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns a header whose name and value are written out. `first` says what to do with it: 0x40 adds
/// it to the table.
fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[first, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// Returns the header block of a `Record`.
fn record_block() -> Vec<u8> {
    let path = literal(0, ":path", "/weather.v1.WeatherService/Record");
    [vec![0x83], path, literal(0, "content-type", "application/grpc")].concat()
}

/// Returns a message with its prefix.
fn prefixed(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
}

fn record_one() -> Vec<u8> {
    prefixed(&RecordRequest { readings: vec![reading("oslo-1", 21.5)] })
}

/// Returns what both sides sent, after what comes first on each connection.
fn exchange(client: &[Vec<u8>], server: &[Vec<u8>]) -> Conversation {
    let settings = frame(SETTINGS, 0, 0, &[]);
    let begin = [(Side::Server, settings.clone()), (Side::Client, [PREFACE, &settings].concat())];
    let client = client.iter().map(|bytes| (Side::Client, bytes.clone()));
    let server = server.iter().map(|bytes| (Side::Server, bytes.clone()));
    begin.into_iter().chain(client).chain(server).collect()
}

/// Returns the messages without those that come first.
fn checked(conversation: &Conversation) -> Vec<Message> {
    let mut messages = check(&decoder, conversation);
    messages.retain(|message| !["SETTINGS", "connection preface"].contains(&&*message.summary));
    messages
}

fn field<'a>(message: &'a Message, name: &str) -> &'a Field {
    let found = message.fields.iter().find(|field| field.name == name);
    found.unwrap_or_else(|| panic!("no field {name} in {message:?}"))
}

/// Returns the numbers of calls, in the order of their requests, and those of their responses.
fn calls(messages: &[Message]) -> [Vec<u64>; 2] {
    [Role::Request, Role::Response].map(|role| {
        messages
            .iter()
            .filter(|message| message.role == role)
            .flat_map(|message| message.calls.clone())
            .collect()
    })
}

#[apply(test!)]
async fn each_byte_of_every_kind_of_grpc_call_has_a_name() {
    let conversations = record("grpc_unary", async |address| {
        let client = client(&address, Some("open-sesame"));
        client.record(&[reading("oslo-1", 21.5), reading("oslo-1", 22.5)]).await.unwrap();
        client.record(&[reading("oslo-1", 2_100.5)]).await.unwrap_err();
        client.record(&vec![reading("oslo-1", 21.5); 2_000]).await.unwrap();
        client.upload(stream::iter(vec![reading("oslo-1", 21.5); 1_500]), None).await.unwrap();
        let mut watching = client.watch("oslo-1", Some(Start::Newest(1)), None).await.unwrap();
        watching.next_reading().await.unwrap();
    })
    .await;
    let messages = check(&decoder, &conversations[0]);
    check_detail(&messages);
    let [requests, responses] = calls(&messages);
    assert_eq!(requests, [1, 3, 5, 7, 9]);
    assert_eq!(responses, [1, 3, 5, 7], "Watch has no end");
    let refused: Vec<&Message> = messages.iter().filter(|message| message.refused).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    let expected = "HEADERS #3 200 grpc-status 3 grpc-message one%20field%20is%20invalid END_STREAM";
    assert_eq!((refused[0].summary.as_str(), refused[0].role), (expected, Role::Response));
    let said = summaries(&messages);
    for expected in [
        "> connection preface",
        "> HEADERS #1 POST /weather.v1.WeatherService/Record",
        r#"> DATA #1 RecordRequest {2 readings: {station: "oslo-1", metric: METRI…"#,
        "> DATA #1 END_STREAM",
        "< HEADERS #1 200",
        "< DATA #1 RecordResponse {accepted: 2}",
        "< HEADERS #1 grpc-status 0 END_STREAM",
        "> DATA #5 part of RecordRequest",
        r#"> DATA #5 RecordRequest {2000 readings: {station: "oslo-1", metric: ME…"#,
        "< DATA #7 UploadResponse {accepted: 1500}",
        r#"> DATA #9 WatchRequest {station: "oslo-1", newest: 1}"#,
    ] {
        assert!(said.iter().any(|summary| summary == expected), "{expected} is not in {said:#?}");
    }
    let request =
        messages.iter().find(|message| message.summary.starts_with("DATA #1 RecordRequest")).unwrap();
    assert_eq!(field(request, "station").value, r#""oslo-1""#);
    assert_eq!(field(request, "value").purpose, Purpose::Information);
    assert_eq!(field(request, "recorded_at").value, "1767225600000");
}

#[apply(test!)]
async fn a_request_begins_with_its_headers() {
    let last = frame(DATA, END_STREAM, 1, &record_one());
    let messages = checked(&exchange(&[frame(HEADERS, END_HEADERS, 1, &record_block()), last], &[]));
    assert_eq!([messages[0].role, messages[1].role], [Role::Part, Role::Request]);
    assert_eq!(messages[1].begun, messages[0].span.start);
}

#[apply(test!)]
async fn a_compressed_message_is_shown_uncompressed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(grpc::serve(
        listener,
        Config { gzip: true, ..Config::default() },
        std::future::pending(),
    ));
    let conversations = record_before(&server, async |address| {
        let options = Options { gzip: true, ..Options::default() };
        let client = Client::new(&format!("http://{address}"), &options).unwrap();
        client.record(&vec![reading("oslo-1", 21.5); 1_000]).await.unwrap();
        let varied = (0..3_000).map(|index| reading("oslo-1", f64::from(index).sin())).collect::<Vec<_>>();
        client.record(&varied).await.unwrap();
    })
    .await;
    task.abort();
    let messages = check(&decoder, &conversations[0]);
    check_detail(&messages);
    let said = summaries(&messages);
    for expected in
        ["> DATA #1 RecordRequest (gzip) {1000 readings:", "> DATA #3 RecordRequest (gzip) {3000 readings:"]
    {
        assert!(said.iter().any(|summary| summary.starts_with(expected)), "{expected} is not in {said:#?}");
    }
    assert!(said.contains(&"< DATA #1 RecordResponse (gzip) {accepted: 1000}".to_owned()), "{said:#?}");
}

#[apply(test!)]
async fn calls_at_the_same_time_each_find_their_response() {
    let conversations = record("grpc_unary", async |address| {
        let client = client(&address, None);
        let [large, small] = [2_000, 1].map(|count| vec![reading("oslo-1", 21.5); count]);
        let (large, small) = join(client.record(&large), client.record(&small)).await;
        assert_eq!((large.unwrap(), small.unwrap()), (2_000, 1));
    })
    .await;
    let messages = check(&decoder, &conversations[0]);
    for call in [1, 3] {
        let roles: Vec<Role> = messages
            .iter()
            .filter(|message| {
                message.calls == [call] && matches!(message.role, Role::Request | Role::Response)
            })
            .map(|message| message.role)
            .collect();
        assert_eq!(roles, [Role::Request, Role::Response], "call {call}");
    }
    let said = summaries(&messages).join("\n");
    assert!(said.contains("#1 RecordResponse {accepted: 2000}"), "{said}");
    assert!(said.contains("#3 RecordResponse {accepted: 1}"), "{said}");
}

#[apply(test!)]
async fn messages_may_be_cut_anywhere_and_mixed_with_those_of_other_streams() {
    let whole = [record_one(), record_one()].concat();
    let headers = [1, 3].map(|stream| frame(HEADERS, END_HEADERS, stream, &record_block()));
    let expected = checked(&exchange(&[headers[0].clone(), frame(DATA, 0, 1, &record_one())], &[]));
    let expected = expected[1].summary.clone();
    assert!(expected.starts_with(r#"DATA #1 RecordRequest {readings: {station: "oslo-1""#), "{expected}");
    for cut in 1..whole.len() {
        let mut client = headers.to_vec();
        for (part, flags) in [(&whole[..cut], 0), (&whole[cut..], END_STREAM)] {
            client.extend([frame(DATA, flags, 1, part), frame(DATA, flags, 3, part)]);
        }
        let messages = checked(&exchange(&client, &[]));
        let of_first: Vec<&str> =
            messages.iter().filter(|message| message.calls == [1]).map(|message| &*message.summary).collect();
        let count = of_first.iter().filter(|summary| summary.starts_with(&expected)).count();
        let is_both = of_first[2].starts_with(&expected) && of_first[2].contains(" and 1 more");
        assert!(count == 2 || is_both, "cut at {cut}: {of_first:#?}");
        assert_eq!(calls(&messages)[0], [1, 3]);
    }
}

#[apply(test!)]
async fn a_header_that_is_cut_has_its_name_in_both_frames() {
    let block =
        [record_block(), literal(0x40, "x-first", "one"), literal(0x40, "authorization", "Bearer tiger")];
    let block = block.concat();
    for cut in 1..block.len() {
        let padded = [&[3], &block[..cut], &[0; 3]].concat();
        let client = [
            [frame(HEADERS, PADDED, 1, &padded), frame(CONTINUATION, END_HEADERS, 1, &block[cut..])].concat(),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0x83, 0xbf, 0xbe]), // both by their index
        ];
        let messages = checked(&exchange(&client, &[]));
        assert_eq!(messages[0].summary, "HEADERS #1 POST /weather.v1.WeatherService/Record");
        let names = |message: &Message| -> Vec<String> {
            let headers = message.leaves().filter(|leaf| leaf.purpose == Purpose::Header);
            headers.map(|leaf| leaf.name.clone().into_owned()).collect()
        };
        let mut all = names(&messages[0]);
        let count = all.len();
        all.dedup();
        assert_eq!(all, [":method", ":path", "content-type", "x-first", "authorization"]);
        assert!([6, 7].contains(&count), "a credential has two fields, and a cut adds at most one");
        assert_eq!(names(&messages[1]), [":method", "x-first", "authorization"]);
        assert_eq!(field(&messages[1], "x-first").value, "one (indexed)");
        assert_eq!(field(&messages[1], "authorization").value, "hidden (indexed)");
        assert!(!format!("{messages:?}").contains("tiger"));
    }
}

#[apply(test!)]
async fn credentials_are_hidden_and_the_header_block_stays_valid() {
    // "Bearer tiger" in Huffman code.
    let tiger: &[u8] = &[0x89, 0xba, 0x51, 0xd8, 0x5b, 0x14, 0x49, 0xa6, 0x2d, 0x9f];
    let huffman = [&[0x57], tiger].concat(); // name: index 23, authorization
    let plain = [literal(0x10, "cookie", "id=tiger"), literal(0x40, "x-last", "end")].concat();
    let client = [
        frame(HEADERS, END_HEADERS, 1, &[record_block(), huffman, plain].concat()),
        frame(HEADERS, END_HEADERS, 3, &[&record_block()[..], &[0xbf, 0xbe]].concat()),
    ];
    let conversation = exchange(&client, &[]);
    let events = conversation.iter().map(|(from, bytes)| Event {
        at: Instant::now(),
        connection: 0,
        from: *from,
        what: What::Data(bytes.clone()),
    });
    let trace = Trace::new(events.collect(), decoder);
    let shown: Conversation = trace
        .steps
        .iter()
        .filter_map(|step| match &step.event.what {
            What::Data(bytes) => Some((step.event.from, bytes.clone())),
            _ => None,
        })
        .collect();
    let all: Vec<u8> = shown.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    assert!(
        !all.windows(5).any(|bytes| bytes == b"tiger") && !all.windows(4).any(|bytes| bytes == &tiger[1..5])
    );
    assert!(
        all.windows(9).any(|bytes| bytes == [0xf9; 9]) && all.windows(8).any(|bytes| bytes == b"********")
    );
    for conversation in [&conversation, &shown] {
        let messages = checked(conversation);
        assert_eq!(field(&messages[0], "authorization").value, "hidden (literal, added to the table)");
        assert_eq!(field(&messages[1], "authorization").value, "hidden (indexed)");
        assert_eq!(field(&messages[1], "x-last").value, "end (indexed)");
        assert!(!format!("{messages:?}").contains("tiger"));
    }
}

#[apply(test!)]
async fn bytes_that_are_not_valid_hpack_are_hidden() {
    for bad in [
        &[0x3f][..],
        &[0x80],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x3f, 0xe1, 0xff, 0x7f],
        &[0x41, 0x85, 0xff],
    ] {
        let block = [bad, &literal(0, "authorization", "Bearer tiger")].concat();
        let client = [
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &literal(0, "authorization", "Bearer tiger")),
        ];
        let messages = checked(&exchange(&client, &[]));
        for message in messages {
            assert_eq!(field(&message, "not valid HPACK").value, "hidden", "{bad:?}");
            assert!(!format!("{message:?}").contains("tiger"));
        }
    }
}

#[apply(test!)]
async fn errors_of_http_and_http2_are_refusals() {
    let headers = [1, 3, 5].map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &record_block()));
    let not_found = [literal(0, ":status", "404"), literal(0, "content-type", "text/plain")].concat();
    let server = [
        frame(HEADERS, END_HEADERS, 1, &not_found),
        frame(DATA, END_STREAM, 1, b"no such page"),
        frame(RST_STREAM, 0, 3, &[0, 0, 0, 7]),
        frame(HEADERS, END_HEADERS | END_STREAM, 5, &[0x88]),
        frame(RST_STREAM, 0, 5, &[0; 4]),
        frame(GOAWAY, 0, 0, &[&[0, 0, 0, 5, 0, 0, 0, 11], &b"too many pings"[..]].concat()),
    ];
    let messages = checked(&exchange(&headers, &server));
    let seen: Vec<_> =
        messages[3..].iter().map(|message| (&*message.summary, message.role, message.refused)).collect();
    let expected = [
        ("HEADERS #1 404", Role::Other, true),
        ("DATA #1 12 bytes END_STREAM", Role::Response, true),
        ("RST_STREAM #3 REFUSED_STREAM", Role::Response, true),
        ("HEADERS #5 200 END_STREAM", Role::Response, false),
        ("RST_STREAM #5 NO_ERROR", Role::Other, false),
        ("GOAWAY ENHANCE_YOUR_CALM, last stream #5", Role::Other, true),
    ];
    assert_eq!(seen, expected);
}

#[apply(test!)]
async fn a_client_that_cancels_a_call_is_not_refused() {
    let reset = |code| frame(RST_STREAM, 0, 1, &[0, 0, 0, code]);
    let begin = frame(HEADERS, END_HEADERS | END_STREAM, 1, &record_block());
    let late = [
        frame(HEADERS, END_HEADERS, 1, &[0x88]),
        frame(DATA, 0, 1, &prefixed(&RecordResponse { accepted: 3 })),
        reset(8),
    ];
    let messages = checked(&exchange(&[begin, reset(8), reset(2)], &late));
    let seen: Vec<_> =
        messages[1..].iter().map(|message| (&*message.summary, message.role, message.refused)).collect();
    let expected = [
        ("RST_STREAM #1 CANCEL", Role::Other, false),
        ("RST_STREAM #1 INTERNAL_ERROR", Role::Other, true),
        ("HEADERS #1 200", Role::Other, false),
        ("DATA #1 RecordResponse {accepted: 3}", Role::Other, false),
        ("RST_STREAM #1 CANCEL", Role::Response, true),
    ];
    assert_eq!(seen, expected);
}

#[apply(test!)]
async fn every_type_of_frame_is_named_field_by_field() {
    let prioritized = [&[2, 0x80, 0, 0, 5, 15], &[0x82][..], &[0, 0]].concat();
    let server = [
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9, 0, 99, 0, 0, 0, 1, 0]),
        frame(SETTINGS, 1, 0, &[]),
        frame(PING, 1, 0, b"12345678"),
        frame(2, 0, 1, &[0, 0, 0, 3, 0]),
        frame(8, 0, 1, &[0x80, 0, 0, 100]),
        frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 2, &prioritized),
        frame(16, 0, 0, b"u=1"),
        frame(DATA, PADDED, 2, &[200, 1]), // more padding than there is
        frame(GOAWAY, 0, 0, &[0]),         // too short
    ];
    let messages = checked(&exchange(&[], &server));
    let names: Vec<String> = messages
        .iter()
        .map(|message| {
            let after_head = message.leaves().skip(4).map(|leaf| format!("{} {}", leaf.name, leaf.value));
            format!("{}: {}", message.summary, after_head.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let expected = [
        "SETTINGS MAX_CONCURRENT_STREAMS 9, setting 99 1, setting 0 0: Identifier MAX_CONCURRENT_STREAMS, Value 9, \
         Identifier setting 99, Value 1, Identifier setting 0",
        "SETTINGS ACK: ",
        r#"PING ACK: Opaque Data "12345678""#,
        "PRIORITY #1: Payload 00 00 00 03 00",
        "WINDOW_UPDATE #1 +100: Window Size Increment 100",
        "HEADERS #2 GET: Pad Length 2, Stream Dependency and Weight 80 00 00 05 0f, :method GET (indexed), Padding 00 00",
        r#"frame type 16: Payload "u=1""#,
        "DATA #2 0 bytes: Pad Length 200, Padding 01",
        "GOAWAY NO_ERROR, last stream #0: Last-Stream-ID 0",
    ];
    assert_eq!(names, expected);
    assert_eq!(field(&messages[5], "Flags").value, "END_HEADERS, PADDED, PRIORITY");
}

#[apply(test!)]
async fn bytes_that_are_not_http2_end_in_one_line() {
    let server = frame(SETTINGS, 0, 0, &[]);
    let endless = [PREFACE, &frame(HEADERS, 0, 1, &[0x82])].concat();
    let flood = [endless.clone(), frame(CONTINUATION, 0, 1, &[]).repeat(8_000)].concat();
    let block = [PREFACE, &frame(HEADERS, END_HEADERS, 1, &[0x82; 70_000])].concat();
    let pushed = [&server[..], &frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])].concat();
    let cases: [(Side, &[u8], &str); 11] = [
        (Side::Client, &block, "a header block of more than 65536 bytes"),
        (Side::Client, b"GET / HTTP/1.1\r\n\r\n", "a client sends the connection preface first"),
        (Side::Client, b"\x16\x03\x01\x02\x00\x01\x00", "encrypted with TLS"),
        (Side::Client, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "a client sends the connection preface first"),
        (Side::Client, b"\x00\x00\x00\x04\x00", "a client sends the connection preface first"),
        (Side::Client, &flood, "a header block of more than 65536 bytes"),
        (Side::Client, &[&endless[..], &server].concat(), "a header block with another frame in it"),
        (Side::Server, b"HTTP/1.1 400 Bad Request\r\n\r\n", "a server sends SETTINGS first"),
        (Side::Server, &pushed, "a PUSH_PROMISE frame, which is not decoded"),
        (Side::Server, b"*1\r\n$4\r\nPING\r\n", "a server sends SETTINGS first"),
        (Side::Server, &[&server[..], b"\xff\xff\xff\0\0\0\0\0\0"].concat(), "a frame of 16777215 bytes"),
    ];
    for (from, bytes, why) in cases {
        // The whole flood in single bytes would take too long here.
        let conversation = vec![(from, bytes.to_vec())];
        let messages = if bytes.len() > 1_000 {
            decode(&mut *decoder(), &conversation)
        } else {
            check(&decoder, &conversation)
        };
        let unreadable: Vec<&Message> =
            messages.iter().filter(|message| message.summary.contains("cannot read this")).collect();
        assert_eq!(unreadable.len(), 1, "{messages:?}");
        assert!(unreadable[0].summary.contains(why) && unreadable[0].refused, "{why}: {unreadable:?}");
    }
}

#[apply(test!)]
async fn fields_that_the_proto_does_not_have_are_numbered() {
    // 9: varint, 10: fixed64, 11: bytes, 12: fixed32, 1: a reading that claims more bytes than there are
    let unknown = [
        &[0x48, 5][..],
        &[0x51, 1, 0, 0, 0, 0, 0, 0, 0],
        &[0x5a, 2, b'h', b'i'],
        &[0x65, 2, 0, 0, 0],
        &[0x0a, 9, 0x0a, 1, b'x'],
    ];
    let unknown = unknown.concat();
    let prefix = [&[0, 0, 0, 0], &[u8::try_from(unknown.len()).unwrap()][..]].concat();
    let client = [
        frame(HEADERS, END_HEADERS, 1, &record_block()),
        frame(DATA, 0, 1, &[prefix, unknown].concat()),
        frame(DATA, 0, 1, b"\0\0\0\0\x03\x0b\x08\x01"), // a group
        frame(
            HEADERS,
            END_HEADERS,
            3,
            &[literal(0, ":path", "/a.B/C"), literal(0, "content-type", "application/grpc")].concat(),
        ),
        frame(DATA, 0, 3, &prefixed(&RecordResponse { accepted: 3 })),
    ];
    let messages = checked(&exchange(&client, &[]));
    let expected = r#"{field 9: 5, field 10: 1, field 11: "hi", field 12: 2, readi…"#;
    assert_eq!(field(&messages[1], "RecordRequest").value, expected);
    assert_eq!(field(&messages[1], "readings").value, r#"{station: "x"}"#);
    assert_eq!(messages[2].summary, "DATA #1 RecordRequest {readings: SGROUP}");
    assert_eq!(messages[4].summary, "DATA #3 message {field 1: 3}");
}

#[apply(test!)]
async fn a_message_with_too_many_fields_says_so() {
    let many = [0x0a, 0].repeat(20_000); // readings without content
    let prefix = [&[0], &u32::try_from(many.len()).unwrap().to_be_bytes()[..]].concat();
    let data = frame(DATA, END_STREAM, 1, &[prefix, many].concat());
    let conversation = exchange(&[frame(HEADERS, END_HEADERS, 1, &record_block()), data], &[]);
    let messages = decode(&mut *decoder(), &conversation);
    let last = messages.last().unwrap();
    assert_eq!(last.summary, "DATA #1 RecordRequest {16665+ readings: {}} END_STREAM");
    assert!(last.fields.len() <= MAX_FIELDS + 4, "{}", last.fields.len());
    assert_eq!(last.fields.last().unwrap().name, "not decoded");
}

fn pieces() -> impl Strategy<Value = Conversation> {
    let side = prop_oneof![Just(Side::Client), Just(Side::Server)];
    vec((side, vec(any::<u8>(), 0..200)), 0..8)
}

#[apply(test!)]
async fn no_bytes_make_the_decoder_panic() {
    proptest!(ProptestConfig::with_cases(100), |(pieces in pieces())| {
        check(&decoder, &pieces);
        // The same after what each side sends first, so that it is read as frames.
        check(&decoder, &[exchange(&[], &[]), pieces].concat());
    });
    let frames = vec((0..11_u8, any::<u8>(), 0..4_u32, vec(any::<u8>(), 0..60), any::<bool>()), 0..20);
    proptest!(ProptestConfig::with_cases(200), |(frames in frames)| {
        let sides: Conversation = frames.iter().map(|(kind, flags, stream, payload, is_client)| {
            let from = if *is_client { Side::Client } else { Side::Server };
            (from, frame(*kind, *flags, *stream, payload))
        }).collect();
        check(&decoder, &[exchange(&[], &[]), sides].concat());
    });
}

#[apply(test!)]
async fn no_change_to_a_real_conversation_makes_the_decoder_panic() {
    let conversations = record("grpc_stream", async |address| {
        let client = client(&address, Some("open-sesame"));
        client.upload(stream::iter(vec![reading("oslo-1", 21.5); 20]), None).await.unwrap();
        client.record(&[reading("oslo-1", 2_100.5)]).await.unwrap_err();
    })
    .await;
    let real = &conversations[0];
    let changes = vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6);
    proptest!(ProptestConfig::with_cases(40), |(changes in changes)| {
        let mut changed = real.clone();
        for (piece, at, byte) in changes {
            let bytes = &mut piece.get_mut(&mut changed).1;
            if !bytes.is_empty() {
                *at.get_mut(bytes) = byte;
            }
        }
        check(&decoder, &changed);
    });
}
