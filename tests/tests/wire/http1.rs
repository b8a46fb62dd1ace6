//! Tests of the decoder for HTTP/1.1.

use futures::StreamExt;
use http_rest::protocol::model::StationPatch;
use http_rest::{Client, Metric, Reading, Station};
use lab::wire::decode::http1::{MAX_HEAD, MAX_WAITING, decoder};
use lab::wire::message::{Message, Purpose, Role, Side};
use lab::wire::units::MAX_UNIT;
use tests::{apply, test};

use crate::hostile::{check_arbitrary_bytes, check_mutations};
use crate::streams::{Conversation, check, check_detail, decode, record, summaries};

fn reading(value: f64) -> Reading {
    Reading { station: "oslo-1".into(), metric: Metric::Temperature, value, recorded_at: 1_767_225_600_000 }
}

async fn scene(address: String) {
    let client = Client::new(&format!("http://{address}")).unwrap();
    let mut watch = client.watch(None).await.unwrap();
    let (id, name) = ("oslo-1".to_owned(), "Oslo".to_owned());
    let station = Station { id, name, latitude: Some(59.9), longitude: Some(10.7) };
    let created = client.create_station(&station).await.unwrap();
    client.station_if_changed("oslo-1", &created.etag).await.unwrap();
    let patch = StationPatch { name: Some("Blindern".into()), ..StationPatch::default() };
    let patched = client.patch_station("oslo-1", &patch, &created.etag).await.unwrap();
    client.record(&[reading(-3.5)]).await.unwrap();
    client.record(&[reading(130.0)]).await.unwrap_err();
    watch.next().await.unwrap().unwrap();
    client.delete_station("oslo-1", &patched.etag).await.unwrap();
}

fn client(bytes: impl Into<Vec<u8>>) -> (Side, Vec<u8>) {
    (Side::Client, bytes.into())
}

fn server(bytes: impl Into<Vec<u8>>) -> (Side, Vec<u8>) {
    (Side::Server, bytes.into())
}

/// Returns the value of the first field with this name.
fn value<'a>(messages: &'a [Message], name: &str) -> &'a str {
    let mut fields = messages.iter().flat_map(|message| &message.fields);
    &fields.find(|field| field.name == name).unwrap_or_else(|| panic!("no {name}")).value
}

/// Returns the role and the calls of each message of one side.
fn roles(messages: &[Message], from: Side) -> Vec<(Role, &[u64])> {
    let sent = messages.iter().filter(|message| message.from == from);
    sent.map(|message| (message.role, &message.calls[..])).collect()
}

#[apply(test!)]
async fn every_byte_of_the_chapters_requests_has_a_name() {
    let connections = record("http_rest", scene).await;
    let mut connections: Vec<_> = connections.iter().map(|connection| check(&decoder, connection)).collect();
    for messages in &connections {
        check_detail(messages);
        let calls = |from, wanted| {
            let all = roles(messages, from).into_iter().filter(move |(role, _)| *role == wanted);
            all.flat_map(|(_, calls)| calls).collect::<Vec<_>>()
        };
        assert_eq!(calls(Side::Client, Role::Request), calls(Side::Server, Role::Response));
    }
    let is_stream = |messages: &Vec<Message>| messages[0].summary == "GET /readings/live";
    let stream = &connections.remove(connections.iter().position(is_stream).unwrap());
    let requests = &connections.concat(); // The client uses one connection, or a second one.

    let said = summaries(requests);
    let heads = said.iter().filter(|summary| !summary[2..].starts_with("body"));
    let expected = [
        "> POST /stations",
        "< 201 Created",
        "> GET /stations/oslo-1",
        "< 304 Not Modified",
        "> PATCH /stations/oslo-1",
        "< 200 OK",
        "> POST /readings",
        "< 200 OK",
        "> POST /readings",
        "< 422 Unprocessable Entity",
        "> DELETE /stations/oslo-1",
        "< 204 No Content",
    ];
    assert_eq!(heads.collect::<Vec<_>>(), expected);
    assert!(said.contains(&r#"> body {"name":"Blindern"}"#.into()), "{said:#?}");
    assert!(said.contains(&r#"< body {"accepted":1}"#.into()), "{said:#?}");
    assert_eq!(value(requests, "detail"), r#""one field is invalid""#, "the media type of problems is JSON");
    let refused: Vec<_> = requests.iter().filter(|message| message.refused).collect();
    assert_eq!(refused.len(), 2, "the head and the body of one response: {refused:?}");

    let said = summaries(stream);
    assert_eq!(said[..3], ["> GET /readings/live", "< 200 OK", "< event without data"]);
    assert!(said[3].starts_with(r#"< event reading {"station":"oslo-1""#), "{said:#?}");
    assert_eq!(value(stream, "event"), "reading");
    assert_eq!(value(stream, "value"), "-3.5");
    assert_eq!(stream[1].role, Role::Response, "an endless stream needs no end to be a response");
}

#[apply(test!)]
async fn a_response_without_a_body_ends_with_its_head() {
    let messages = check(
        &decoder,
        &[
            client(
                "HEAD /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\nPUT /d HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
            ),
            server(
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
            ),
            server("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"),
            client("ok"),
            server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ],
    );
    let one_each = |role| [(role, &[1][..]), (role, &[2]), (role, &[3])];
    let mut expected = one_each(Role::Request).to_vec();
    expected.extend([(Role::Part, &[4][..]), (Role::Request, &[4])]);
    assert_eq!(roles(&messages, Side::Client), expected);
    let mut expected = one_each(Role::Response).to_vec();
    expected.extend([(Role::Other, &[4][..]), (Role::Response, &[4])]);
    assert_eq!(roles(&messages, Side::Server), expected);
    let put = messages.iter().rfind(|message| message.from == Side::Client).unwrap();
    assert_eq!(put.begun, 58, "the head begins the request");
}

#[apply(test!)]
async fn chunks_and_trailers_are_named() {
    let messages = check(
        &decoder,
        &[
            client(
                "POST /a HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3\r\n\r\n5;note=1\r\nhello\r\n0\r\nDigest: x\r\nCookie: sweet\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
            ),
            server(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: application/problem+json; charset=utf-8\r\n\r\n7\r\n{\"a\":1,\r\n6\r\n\"b\":2}\r\n0\r\n\r\n",
            ),
        ],
    );
    let said = [
        "> POST /a",
        "> chunk \"hello\"",
        "> last chunk",
        "> GET /b",
        "< 200 OK",
        "< chunk {\"a\":1,",
        "< chunk \"b\":2}",
        "< last chunk",
    ];
    assert_eq!(summaries(&messages), said);
    assert_eq!((value(&messages, "a"), value(&messages, "b")), ("1", "2"), "JSON goes on in the next chunk");
    assert_eq!(value(&messages, "digest"), "x");
    assert_eq!(value(&messages, "cookie"), "hidden");
    assert_eq!((messages[3].calls[0], messages[7].calls[0]), (2, 1));
    assert_eq!((messages[1].role, messages[2].role, messages[2].begun), (Role::Part, Role::Request, 0));
}

#[apply(test!)]
async fn a_body_may_end_with_the_connection() {
    let messages = check(
        &decoder,
        &[client("GET / HTTP/1.0\n\n"), server("HTTP/1.0 200 OK\n\nhello, "), server("world")],
    );
    assert_eq!(summaries(&messages)[1..], ["< 200 OK", "< body \"hello, world\""]);
    assert_eq!((messages[2].role, &messages[2].calls[..]), (Role::Response, &[1][..]));

    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let messages = check(&decoder, &[server(head), server("data: a\n\ndata: b\n"), server("\ndata: c")]);
    assert_eq!(summaries(&messages), ["< 200 OK", "< a", "< b", "< c"]);
}

#[apply(test!)]
async fn each_field_of_an_event_has_a_name() {
    let events = "event: reading\r\nid: 7\r\ndata: {\"value\":-3.5}\r\n\r\n:alive\n\nretry: 10\nnonsense\ndata:[1]\ndata\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let messages = check(
        &decoder,
        &[server(head), server(chunk(events)), server(chunk("id: 8\n\n")), server("0\r\n\r\n")],
    );
    let fields: Vec<_> = messages[1].leaves().map(|leaf| (&*leaf.name, &*leaf.value)).collect();
    let named =
        |name| fields.iter().filter(|(found, _)| *found == name).map(|(_, value)| *value).collect::<Vec<_>>();
    assert_eq!(named("event"), ["reading"]);
    assert_eq!(named("id"), ["7"]);
    assert_eq!(
        (named("value"), named("comment"), named("retry")),
        (vec!["-3.5", "1"], vec!["alive"], vec!["10"])
    );
    assert_eq!(named("end of event").len(), 2);
    assert_eq!(named("unknown field").len(), 2);
    let said = summaries(&messages);
    assert_eq!(
        said[1..3],
        ["< event reading {\"value\":-3.5} comment alive retry 10 [1]", "< event without data"]
    );
    let information = messages[1].leaves().filter(|leaf| leaf.purpose == Purpose::Information);
    assert_eq!(information.count(), 2, "{:?}", messages[1]);
}

#[apply(test!)]
async fn a_body_that_is_too_long_for_one_message_is_given_up_with_a_reason() {
    let size = MAX_UNIT + 5;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n");
    let until_end = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
    for start in [head, chunked, until_end] {
        let conversation = [client("GET / HTTP/1.1\r\n\r\n"), server(start), server(vec![b'a'; size])];
        let messages = decode(&mut *decoder(), &conversation);
        assert!(messages[2].summary.contains("too long to decode"), "{:?}", summaries(&messages));
        let pieces: Conversation = conversation
            .iter()
            .flat_map(|(side, bytes)| bytes.chunks(64 * 1024).map(|piece| (*side, piece.to_vec())))
            .collect();
        assert!(decode(&mut *decoder(), &pieces) == messages, "another result in pieces");
    }
}

#[apply(test!)]
async fn credentials_are_hidden() {
    let request = "GET /a HTTP/1.1\r\nAuthorization: Basic c2VjcmV0\r\nPROXY-Authorization :c2VjcmV0\r\ncookie:\ta=c2VjcmV0 \r\n  c2VjcmV0\r\nAccept: b\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nSet-Cookie: c2VjcmV0\r\nset-cookie:\r\ncontent-length: 0\r\n\r\n";
    let half = &request[..50]; // in the middle of the first secret
    for conversation in [vec![client(request), server(response)], vec![client(half)]] {
        let messages = check(&decoder, &conversation);
        assert!(!format!("{messages:?}").contains("c2Vj"), "{messages:#?}");
        for (side, bytes) in &conversation {
            let mut bytes = bytes.clone();
            for leaf in messages.iter().filter(|message| message.from == *side).flat_map(Message::leaves) {
                if let Some(filler) = leaf.filler {
                    bytes[leaf.span.start as usize..leaf.span.end as usize].fill(filler);
                }
            }
            let blanked = String::from_utf8(bytes).unwrap();
            assert!(!blanked.contains("c2Vj"), "{blanked}");
            assert!(
                blanked.to_lowercase().contains("cookie:") || blanked.trim_matches('*').is_empty(),
                "{blanked}"
            );
        }
    }
}

#[apply(test!)]
async fn bytes_that_are_not_http_are_refused_with_a_reason() {
    let too_long = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(MAX_HEAD));
    let requests = "GET / HTTP/1.1\r\n\r\n".repeat(MAX_WAITING + 1);
    for (bytes, reason) in [
        (b"\x16\x03\x01\x02\x00\x01".to_vec(), "encrypted with TLS"),
        (b"nonsense\r\n\r\n".to_vec(), "not HTTP/1.1"),
        (b"GET /\r\n\r\n".to_vec(), "not HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "not HTTP/1.1"),
        (b"\0\x01".to_vec(), "not HTTP/1.1"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n+5\r\nhello".to_vec(), "not a chunk"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx".repeat(99), "not a chunk"),
        (too_long.clone().into(), "longer than 65536 bytes"),
        ((too_long + "\r\n\r\n").into(), "longer than 65536 bytes"),
        (requests.into(), "more than 10000 requests"),
    ] {
        let messages = decode(&mut *decoder(), &[client(bytes.clone())]);
        let refused: Vec<_> = messages.iter().filter(|message| message.refused).collect();
        assert!(refused[0].summary.contains(reason), "{refused:?}");
        assert!(messages.last().unwrap().summary.ends_with("could not be read"), "{refused:?}");
        if bytes.len() < MAX_HEAD {
            check(&decoder, &[client(bytes)]);
        }
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
    let said = summaries(&check(&decoder, &[client("GET / HTTP/1.1\r\n\r\n"), server(switch), server("ab")]));
    let reason = "the connection has switched to another protocol";
    assert_eq!(said[2], format!("< cannot read this: {reason}; it is still forwarded"));
}

#[apply(test!)]
async fn a_response_that_nobody_asked_for_has_no_call() {
    let early = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
    let messages = check(&decoder, &[client("GET /"), server(early)]);
    let said = ["< 408 Request Timeout", "> the connection ended after 5 bytes of a message"];
    assert_eq!(summaries(&messages), said);
    assert!(messages[0].calls.is_empty() && messages[0].refused && messages[1].refused);
}

#[apply(test!)]
async fn arbitrary_bytes_in_place_of_http_do_no_harm() {
    let words = [
        "GET / HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "\r\n",
        "transfer-encoding: chunked\r\n",
        "4\r\n",
        "0\r\n",
        "content-length: 5\r\n",
        "content-type: text/event-stream\r\n",
        "data: ",
        "{}",
    ];
    check_arbitrary_bytes(&decoder, &[], &words.map(str::as_bytes));
    check_mutations(&decoder, record("http_rest", scene).await);
}
