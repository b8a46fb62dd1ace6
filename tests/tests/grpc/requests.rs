//! Which requests are calls, how large headers may become on both sides, and messages that
//! are compressed or malformed.

use bytes::Bytes;
use grpc::limits::MAX_RESPONSE_HEADERS;
use grpc::proto::{
    MonitorRequest, Reading, RecordRequest, Threshold, UploadRequest, UploadResponse, monitor_request,
};
use grpc::{Client, Options};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use prost::Message;
use tests::{apply, run_program, test};
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::calls::failure;
use crate::retries::unreliable;
use crate::support::*;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Makes a call with only the given headers.
async fn call_with(
    connection: &SendRequest<Bytes>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> WholeResponse {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut ready = within(connection.clone().ready()).await.unwrap();
    let (response, mut send) = ready.send_request(request.body(()).unwrap(), false).unwrap();
    let _ = send.send_data(body, true); // Fails if the server has already responded.
    whole_response(response).await
}

#[apply(test!)]
async fn only_a_post_request_is_a_call() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    for path in [RECORD, WATCH, UPLOAD, MONITOR, HEALTH, REFLECTION, "/x"] {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "post"] {
            let headers = [("content-type", "application/grpc")];
            let response = call_with(&connection, method, path, &headers, record_one()).await;
            assert_eq!((response.http_status, response.code()), (405, "2"), "{method} {path}");
            assert_eq!(response.headers["allow"], "POST");
        }
    }
    let nothing = client(server.url()).watch("oslo-1", None, None).await;
    assert_eq!(failure(nothing).code, Code::NotFound, "something was recorded");
    server.stop().await;
}

#[apply(test!)]
async fn other_content_types_are_refused() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    let refused = [
        "application/grpcx",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc+json",
        "application/grpc+",
        "application/grpc+protobuf",
        "application/grpc proto",
        "application/grpc, application/grpc",
        "application/json",
        "text/application/grpc",
        "",
    ];
    let accepted = [
        "application/grpc",
        "application/grpc+proto",
        "Application/gRPC+Proto",
        "application/grpc;charset=utf-8",
        "application/grpc ; a=b; c=\"d\"",
        "application/grpc+proto;a=b",
    ];
    for (path, body) in [(RECORD, record_one()), (HEALTH, prefixed(&())), (REFLECTION, Bytes::new())] {
        for content_type in refused {
            let headers = [("content-type", content_type)];
            let response = call_with(&connection, "POST", path, &headers, body.clone()).await;
            assert_eq!((response.http_status, response.code()), (415, "2"), "{content_type:?} {path}");
        }
        let twice = [("content-type", "application/grpc"); 2];
        for headers in [&twice[..], &[]] {
            let response = call_with(&connection, "POST", path, headers, body.clone()).await;
            assert_eq!(response.http_status, 415, "{headers:?} {path}");
        }
        for content_type in accepted {
            let headers = [("content-type", content_type)];
            let response = call_with(&connection, "POST", path, &headers, body.clone()).await;
            assert_eq!((response.http_status, response.code()), (200, "0"), "{content_type:?} {path}");
        }
    }
    server.stop().await;
}

#[apply(test!)]
async fn the_authorization_header_is_parsed_as_the_rfcs_say() {
    let server =
        tests::Server::start(PAIR.server, &["--addr", "127.0.0.1:0", "--token", "open-sesame"]).await;
    let connection = connect(server.addr()).await;
    for (values, code) in [
        (&["Bearer open-sesame"][..], "0"),
        (&["bearer open-sesame"], "0"),
        (&["BEARER open-sesame"], "0"),
        (&["bEaReR   open-sesame"], "0"),
        (&[], "16"),
        (&[""], "16"),
        (&["Bearer"], "16"),
        (&["Bearer "], "16"),
        (&["Beareropen-sesame"], "16"),
        (&["Bearer\topen-sesame"], "16"),
        (&["Bearer \topen-sesame"], "16"),
        (&["Bearer=open-sesame"], "16"),
        (&["Basic open-sesame"], "16"),
        (&["Digest open-sesame"], "16"),
        (&["Bearer Open-Sesame"], "16"),
        (&["Bearer open-sesame open-sesame"], "16"),
        (&["Bearer open-sesame, Bearer open-sesame"], "16"),
        (&["Bearer open-sesam"], "16"),
        (&["Bearer open-sesame!"], "16"),
        (&["open-sesame"], "16"),
        (&["Bearer open-sesame", "Bearer open-sesame"], "16"),
        (&["Bearer open-sesame", "Bearer wrong"], "16"),
        (&["Bearer wrong", "Bearer open-sesame"], "16"),
    ] {
        let metadata: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        let response = unary(&connection, RECORD, &metadata, record_one()).await;
        assert_eq!(response.code(), code, "{values:?}");
    }
    server.stop().await;
    // The server's command line and the client library refuse a token that is empty or
    // contains anything but visible ASCII characters.
    for token in ["", " x", "x y", "x\ty", "ø"] {
        let server = run_program(PAIR.server, &["--addr", "127.0.0.1:0", "--token", token]).await;
        assert_eq!(server.code, Some(2), "{token:?}");
        let options = Options { token: Some(token.to_owned()), ..Options::default() };
        let refused = Client::new("http://127.0.0.1:1", &options).unwrap_err();
        assert!(matches!(refused, grpc::Error::Token), "{token:?}");
    }
}

#[apply(test!)]
async fn metadata_over_the_limit_gets_resource_exhausted() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    let large = "x".repeat(8_000);
    let names: Vec<String> = (0..200).map(|i| format!("x-{i}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "short")).collect();
    for path in [RECORD, WATCH, UPLOAD, MONITOR, HEALTH, REFLECTION] {
        for metadata in [&[("x-large", large.as_str())][..], &[("x-larger-bin", large.as_str())], &many] {
            let response = unary(&connection, path, metadata, record_one()).await;
            assert_eq!((response.http_status, response.code()), (200, "8"), "{path} {}", metadata.len());
        }
    }
    let path = format!("/{large}");
    assert_eq!(unary(&connection, &path, &[], Bytes::new()).await.code(), "8", "a long path");
    // RFC 9113, section 6.5.2: each field counts with its name, its value, and 32 bytes.
    let others = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", RECORD),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let size: usize = others.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    let longest = 8 * 1024 - size - "x-large".len() - 32;
    for (length, code) in [(longest, "0"), (longest + 1, "8")] {
        let value = "x".repeat(length);
        let response = unary(&connection, RECORD, &[("x-large", &value)], record_one()).await;
        assert_eq!(response.code(), code, "{length}");
    }
    // Beyond 16 KiB, the library responds with 431, which the typed client also
    // understands.
    for length in [8_000, 12_000, 17_000] {
        let options = Options { token: Some("x".repeat(length)), ..Options::default() };
        let refused = Client::new(server.url(), &options).unwrap().record(&[reading("a", 1.0)]).await;
        assert_eq!(failure(refused).code, Code::ResourceExhausted, "{length}");
    }
    server.stop().await;
    let (url, _) = unreliable(100, |respond| {
        let response = http::Response::builder().status(431).body(()).unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await;
    let refused = failure(within(client(&url).record(&[reading("a", 1.0)])).await);
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert_eq!(refused.message, "the metadata is larger than the server accepts");
}

/// Returns the size of a response's header list and trailers, counted as in RFC 9113,
/// section 6.5.2, including the pseudo-header field `:status`.
fn header_bytes(response: &WholeResponse) -> usize {
    let list = |headers: &HeaderMap| -> usize {
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    };
    list(&response.headers) + response.trailers.as_ref().map_or(0, list) + ":status".len() + 3 + 32
}

#[apply(test!)]
async fn response_headers_stay_within_what_clients_accept() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    let batch = |count: usize, station: &str| {
        let wrong = Reading { station: station.into(), metric: 77, value: 1.0, recorded_at: u64::MAX };
        prefixed(&RecordRequest { readings: vec![wrong; count] })
    };
    let long = "駅".repeat(5_000);
    let escaped = "\u{202e}\u{10ffff}\0\"\\".repeat(100);
    let monitor = |station: &str| {
        let add = Threshold { id: station.into(), station: station.into(), ..Threshold::default() };
        prefixed(&MonitorRequest { action: Some(monitor_request::Action::Add(add)) })
    };
    let symbol = |name: &str| {
        let request = MessageRequest::FileContainingSymbol(name.into());
        let host = String::new();
        prefixed(&ServerReflectionRequest { host, message_request: Some(request) })
    };
    let encoding = "x%".repeat(3_500);
    let mut bodies = Vec::new();
    for text in [&*long, &*escaped, &"\u{1}".repeat(60), "駅", "\u{1f600}", "OSLO", &"a".repeat(100_000)] {
        bodies.extend([
            (RECORD, vec![], batch(1, text)),
            (RECORD, vec![], batch(50, text)),
            (RECORD, vec![], prefixed(&RecordRequest { readings: vec![reading(text, 1.0); 50] })),
            (WATCH, vec![], prefixed(&watch_of(text, None))),
            (UPLOAD, vec![], prefixed(&UploadRequest { reading: Some(reading(text, 1.0)) })),
            (MONITOR, vec![], monitor(text)),
            (REFLECTION, vec![], symbol(text)),
        ]);
    }
    bodies.push((RECORD, vec![("grpc-encoding", &*encoding)], record_one()));
    bodies.push((REFLECTION, vec![("grpc-encoding", &*encoding)], symbol("x")));
    bodies.push((RECORD, vec![("grpc-timeout", &*encoding)], record_one()));
    for (index, (path, metadata, body)) in bodies.into_iter().enumerate() {
        let (response, mut send) = open(&connection, path, &metadata).await;
        send_all(&mut send, body).await;
        let response = whole_response(response).await;
        let bytes = header_bytes(&response);
        assert!(bytes < MAX_RESPONSE_HEADERS, "{bytes} bytes for {index}, {path}");
    }
    // The message says how much was left out, and no character is cut in two.
    let quoted = unary(&connection, RECORD, &[("grpc-encoding", &encoding)], record_one()).await;
    let status = tonic::Status::from_header_map(&quoted.headers).unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().ends_with(" more bytes)"), "{}", status.message());
    server.stop().await;
}

#[apply(test!)]
async fn a_status_says_how_many_violations_it_leaves_out() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    for station in ["\u{1}".repeat(60), "\u{202e}".repeat(60), "\u{10ffff}".repeat(60)] {
        let failed = failure(client.record(&vec![reading(&station, 1.0); 60]).await);
        let listed = failed.violations.len();
        assert_eq!(failed.code, Code::InvalidArgument);
        assert!((10..50).contains(&listed), "{listed} for {station:?}");
        let left_out = 60 - listed;
        let expected =
            format!("60 fields are invalid; the first {listed} are listed, and {left_out} are left out");
        assert_eq!(failed.message, expected);
    }
    // An Upload's summary is a message, not a header, but its quotations are shortened, too.
    let connection = connect(server.addr()).await;
    let wrong = prefixed(&UploadRequest { reading: Some(reading(&"駅".repeat(5_000), 1.0)) });
    let summary = unary(&connection, UPLOAD, &[], wrong).await;
    let summary = UploadResponse::decode(&summary.messages[5..]).unwrap();
    assert!(summary.rejections[0].description.contains("(14961 more bytes)"), "{summary:?}");
    server.stop().await;
}

#[apply(test!)]
async fn compression_is_opt_in_and_bounded() {
    let options = Options { gzip: true, ..Options::default() };
    let plain = PAIR.serve().await;
    let compressing = Client::new(plain.url(), &options).unwrap();
    assert_eq!(failure(compressing.record(&[reading("oslo-1", 1.0)]).await).code, Code::Unimplemented);
    plain.stop().await;

    let server = tests::Server::start(PAIR.server, &["--addr", "127.0.0.1:0", "--gzip"]).await;
    let compressing = Client::new(server.url(), &options).unwrap();
    assert_eq!(compressing.record(&vec![reading("oslo-1", 1.0); 5000]).await.unwrap(), 5000);
    assert_eq!(client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap(), 1);
    let connection = connect(server.addr()).await;
    let metadata = [("grpc-accept-encoding", "gzip"), ("grpc-timeout", "100m")];
    let response = unary(&connection, WATCH, &metadata, watch_request(1)).await;
    assert_eq!(response.headers["grpc-encoding"], "gzip");
    assert_eq!(response.messages[0], 1, "the first byte of a message says that it is compressed");

    // 20 kB of gzip that become 20 MB.
    let zeros = run_program("sh", &["-c", "head -c 20000000 /dev/zero | gzip -9 | od -An -v -tx1"]).await;
    let bomb: Vec<u8> =
        zeros.stdout.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let request = framed(true, &bomb);
    let response = unary(&connection, RECORD, &[("grpc-encoding", "gzip")], request).await;
    assert_eq!(response.code(), "8");
    server.stop().await;
}

#[apply(test!)]
async fn a_malformed_message_does_not_crash_the_server() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    let badly_framed = Bytes::from_static(b"\x07\0\0\0\x01\0");
    let not_protobuf = Bytes::from_static(b"\0\0\0\0\x03\xff\xff\xff");
    let cut_off = Bytes::from_static(b"\0\0\0\0\x30\x0a");
    for body in [badly_framed, not_protobuf, cut_off] {
        assert_eq!(unary(&connection, RECORD, &[], body).await.code(), "13");
    }
    let newer = Bytes::from_static(b"\0\0\0\0\x02\x78\x01");
    assert_eq!(unary(&connection, RECORD, &[], newer).await.code(), "3", "an unknown field is skipped");
    // A message whose decoded form would be far larger than its bytes cannot get around
    // the limit.
    let request = framed(false, &b"\x0a\0".repeat(500_000));
    let (response, mut send) = open(&connection, RECORD, &[]).await;
    send_all(&mut send, request).await;
    assert_eq!(whole_response(response).await.code(), "3");
    server.stop().await;
}
