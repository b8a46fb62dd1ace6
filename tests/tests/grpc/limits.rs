//! Limits that are reached, peers that fall silent, and a server that stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;
use tests::{apply, test};

use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use grpc::proto::{MonitorRequest, UploadRequest, monitor_request};
use grpc::{Client, Error, Options};
use tokio::net::TcpStream;
use tonic::Code;

use crate::calls::failure;
use crate::support::*;

#[apply(test!)]
async fn an_oversized_message_gets_resource_exhausted() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    // The prefix alone is enough: the server does not wait for two megabytes.
    let prefix = Bytes::from_static(b"\0\0\x20\0\0abc");
    for path in [
        RECORD,
        WATCH,
        UPLOAD,
        MONITOR,
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        let (response, mut send) = open(&connection, path, &[]).await;
        send.send_data(prefix.clone(), false).unwrap();
        assert_eq!(whole_response(response).await.code(), "8", "{path}");
    }
    // A sender that sends the whole message anyway.
    let (response, mut send) = open(&connection, RECORD, &[]).await;
    let large = [&b"\0\0\x20\0\0"[..], &vec![0; 0x20_0000]].concat();
    let sending = tokio::spawn(async move { send_all(&mut send, large.into()).await });
    assert_eq!(whole_response(response).await.code(), "8");
    within(sending).await.unwrap();
    // The connection stays open.
    assert_eq!(unary(&connection, RECORD, &[], record_one()).await.code(), "0");
    server.stop().await;
}

#[apply(test!)]
async fn sigterm_ends_streams_and_lets_calls_finish() {
    let mut server = PAIR.serve().await;
    let client = client(server.url());
    client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let connection = connect(server.addr()).await;
    let watch = open_watch(&connection, 1, &[]).await;
    let (monitor, _send_monitor) = open(&connection, MONITOR, &[]).await;
    let monitor = within(monitor).await.unwrap().into_body();
    let (upload, mut send_upload) = open(&connection, UPLOAD, &[]).await;
    let one = prefixed(&UploadRequest { reading: Some(reading("oslo-1", 1.0)) });
    send_upload.send_data(one.clone(), false).unwrap();
    let (record, mut send_record) = open(&connection, RECORD, &[]).await;
    let mut request = record_one();
    send_record.send_data(request.split_to(10), false).unwrap();
    // After this round trip, the server has received all of that.
    assert_eq!(unary(&connection, RECORD, &[], record_one()).await.code(), "0");

    server.terminate();
    assert_eq!(rest(watch).await.1.unwrap()["grpc-status"], "14");
    assert_eq!(rest(monitor).await.1.unwrap()["grpc-status"], "14");
    // The listener is already closed, and the calls that can finish do so.
    assert!(TcpStream::connect(server.addr()).await.is_err());
    send_record.send_data(request, true).unwrap();
    assert_eq!(whole_response(record).await.code(), "0");
    send_upload.send_data(one, true).unwrap();
    let summary = whole_response(upload).await;
    assert_eq!((summary.code(), &summary.messages[..]), ("0", &b"\0\0\0\0\x02\x08\x02"[..]));
    server.wait().await;
    // The typed client, whose connection got a GOAWAY, finds no server.
    assert!(matches!(client.record(&[reading("oslo-1", 1.0)]).await, Err(Error::Unreachable { .. })));
}

#[apply(test!)]
async fn calls_that_outlast_the_drain_time_get_unavailable() {
    let mut local =
        Local::start(|config| config.limits.connections.drain_timeout = Duration::from_millis(100)).await;
    let connection = connect(&local.addr).await;
    let (upload, _send_upload) = open(&connection, UPLOAD, &[]).await;
    let (record, mut send_record) = open(&connection, RECORD, &[]).await;
    send_record.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
    assert_eq!(unary(&connection, RECORD, &[], record_one()).await.code(), "0");
    // A peer that does not react to the GOAWAY at all.
    let mut silent = Raw::connect(&local.addr).await;
    silent.next(SETTINGS).await.unwrap();
    // And one that accepts no data, so that not even a status can be sent.
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let stalled = connect_with(&local.addr, &builder).await;
    let _watch = open_watch(&stalled, 1, &[]).await;
    local.terminate();
    assert_eq!(whole_response(upload).await.code(), "14");
    assert_eq!(whole_response(record).await.code(), "14");
    local.stop().await;
    assert_eq!(goaway(&silent.read_to_end().await), Some(0));
}

#[apply(test!)]
async fn calls_and_streams_are_capped() {
    let local = Local::start(|config| {
        config.limits.max_calls = 3;
        config.limits.max_streams = 2;
    })
    .await;
    let mut first = Raw::connect(&local.addr).await;
    let settings = first.next(SETTINGS).await.unwrap();
    assert!(
        settings.payload.chunks(6).any(|entry| entry == b"\0\x03\0\0\0\x02"),
        "MAX_CONCURRENT_STREAMS should be 2"
    );
    first.send(&frame(SETTINGS, ACK, 0, &[])).await;
    for stream in [1, 3, 5] {
        first.send(&frame(HEADERS, END_HEADERS, stream, &call_headers(MONITOR))).await;
    }
    let mut responses = Vec::new();
    while responses.len() < 3 {
        let response = first.frame().await.unwrap();
        if matches!(response.kind, HEADERS | RST_STREAM) {
            responses.push(response);
        }
    }
    responses.sort_by_key(|response| response.stream);
    let kinds: Vec<_> = responses.iter().map(|response| (response.stream, response.kind)).collect();
    assert_eq!(kinds, [(1, HEADERS), (3, HEADERS), (5, RST_STREAM)]);
    assert_eq!(responses[2].payload, 7u32.to_be_bytes(), "the code should be REFUSED_STREAM");

    let second = connect(&local.addr).await;
    let (monitor, send) = open(&second, MONITOR, &[]).await;
    let monitor = within(monitor).await.unwrap().into_body();
    assert_eq!(
        unary(&second, RECORD, &[], Bytes::new()).await.code(),
        "8",
        "the fourth call should be refused"
    );
    drop((monitor, send));
    drop(first);
    // The permits become free once the server has noticed.
    within(async { while unary(&second, RECORD, &[], record_one()).await.code() != "0" {} }).await;
    drop(second);
    local.stop().await;
}

#[apply(test!)]
async fn connections_are_capped() {
    let local = Local::start(|config| config.limits.connections.max_connections = 2).await;
    let (mut first, second) = (Raw::connect(&local.addr).await, connect(&local.addr).await);
    first.next(SETTINGS).await.unwrap();
    assert_eq!(unary(&second, RECORD, &[], record_one()).await.code(), "0");
    let mut third = Raw::connect(&local.addr).await;
    let refused = third.read_to_end().await;
    assert_eq!(goaway(&refused), Some(11), "the GOAWAY should say ENHANCE_YOUR_CALM");
    assert!(refused.last().unwrap().payload.ends_with(b"too many connections"));
    let refused = async {
        loop {
            match client(&local.url()).record(&[reading("oslo-1", 1.0)]).await {
                // The connection may be closed before the request has been sent.
                Err(grpc::Error::Broken(_)) => {}
                other => break failure(other),
            }
        }
    };
    assert_eq!(within(refused).await.code, Code::ResourceExhausted);
    assert_eq!(unary(&second, RECORD, &[], record_one()).await.code(), "0");
    drop(first);
    // Its permit becomes free once the server has noticed.
    within(async { while client(&local.url()).record(&[reading("oslo-1", 1.0)]).await.is_err() {} }).await;
    drop(second);
    local.stop().await;
}

/// After its last frame, the server still reads input, but only up to a limit.
#[apply(test!)]
async fn a_peer_that_keeps_sending_after_a_goaway_is_cut_off() {
    for (bytes, time) in [(100_000, Duration::from_secs(3600)), (usize::MAX, Duration::from_millis(200))] {
        let local = Local::start(|config| {
            config.limits.connections.linger_bytes = bytes;
            config.limits.connections.linger_time = time;
        })
        .await;
        let mut raw = Raw::connect(&local.addr).await;
        raw.send(&frame(DATA, 0, 0, b"x")).await; // An error, which ends the connection.
        assert_eq!(goaway(&raw.read_to_end().await), Some(1));
        // Once the socket is closed, sending to it fails with a reset.
        within(async {
            while raw.try_send(&frame(DATA, 0, 1, &[0; 10_000])).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        local.stop().await;
    }
}

/// Refused connections stay open while the server lingers over them. Their number has a
/// limit, too.
#[apply(test!)]
async fn refusals_are_capped() {
    let local = Local::start(|config| {
        config.limits.connections.max_connections = 1;
        config.limits.connections.max_refusals = 1;
        config.limits.connections.linger_time = Duration::from_secs(60);
    })
    .await;
    let mut first = Raw::connect(&local.addr).await;
    first.next(SETTINGS).await.unwrap();
    let mut refused = Raw::tcp(&local.addr).await;
    assert_eq!(goaway(&[refused.next(GOAWAY).await.unwrap()]), Some(11));
    for _ in 0..3 {
        assert_eq!(Raw::tcp(&local.addr).await.read_to_end().await, [], "the server sent something");
    }
    // When the refused connection is gone, the next one gets a `GOAWAY` again.
    drop(refused);
    within(async { while Raw::tcp(&local.addr).await.read_to_end().await.is_empty() {} }).await;
    drop(first);
    local.stop().await;
}

#[apply(test!)]
async fn a_peer_that_does_not_acknowledge_pings_is_dropped() {
    // The server drops a client…
    let local = Local::start(|config| {
        config.limits.keepalive_interval = Duration::from_millis(50);
        config.limits.keepalive_timeout = Duration::from_millis(100);
    })
    .await;
    let mut dead = Raw::connect(&local.addr).await;
    let alive = connect(&local.addr).await;
    let frames = dead.read_to_end().await;
    assert!(frames.iter().any(|frame| frame.kind == PING && frame.flags == 0));
    assert_eq!(unary(&alive, RECORD, &[], Bytes::new()).await.code(), "13", "an empty body is not a message");
    drop(alive);
    local.stop().await;

    // …and a client drops its server.
    let (listener, url) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let _body = respond.send_response(response_headers(), false).unwrap();
        // Polls the connection once, so that the response is sent, and never again.
        std::future::poll_fn(|cx| Poll::Ready(connection.poll_accept(cx).is_ready())).await;
        std::future::pending::<()>().await;
    });
    let options = Options {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let mut monitoring = within(Client::new(&url, &options).unwrap().monitor()).await.unwrap();
    assert!(matches!(within(monitoring.try_next()).await, Err(Error::Broken(_))));
}

#[apply(test!)]
async fn idle_connections_and_uploads_are_ended() {
    let local = Local::start(|config| {
        config.limits.keepalive_interval = Duration::from_secs(3600); // A missed PING would end it, too.
        config.limits.idle_timeout = Duration::from_millis(100);
        config.limits.upload_idle_timeout = Duration::from_millis(100);
        config.limits.request_timeout = Duration::from_millis(100);
    })
    .await;
    let mut idle = Raw::connect(&local.addr).await;
    assert_eq!(goaway(&[idle.next(GOAWAY).await.unwrap()]), Some(0));
    assert!(idle.next(HEADERS).await.is_none(), "the server did not close the idle connection");
    let connection = connect(&local.addr).await;
    let (upload, _send) = open(&connection, UPLOAD, &[]).await;
    assert_eq!(whole_response(upload).await.code(), "4");
    let (record, mut send) = open(&connection, RECORD, &[]).await;
    send.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
    assert_eq!(whole_response(record).await.code(), "4");
    // A connection with a call on it is not idle, however quiet.
    client(&local.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let watching = connect(&local.addr).await;
    let mut body = open_watch(&watching, 1, &[]).await;
    within(body.data()).await.unwrap().unwrap();
    let mut more = Raw::connect(&local.addr).await;
    assert!(more.next(GOAWAY).await.is_some());
    client(&local.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    within(body.data()).await.unwrap().unwrap();
    drop((connection, watching, body));
    local.stop().await;
}

/// `request_timeout` does not apply to an `Upload`, which has its own limit.
#[apply(test!)]
async fn an_upload_may_take_longer_than_other_calls() {
    let local = Local::start(|config| config.limits.request_timeout = Duration::from_millis(100)).await;
    let connection = connect(&local.addr).await;
    let (upload, mut send_upload) = open(&connection, UPLOAD, &[]).await;
    // A `Record` that began later is too slow, and ends first.
    let (record, mut send_record) = open(&connection, RECORD, &[]).await;
    send_record.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
    assert_eq!(whole_response(record).await.code(), "4");
    let one = prefixed(&UploadRequest { reading: Some(reading("oslo-1", 1.0)) });
    send_upload.send_data(one, true).unwrap();
    assert_eq!(whole_response(upload).await.code(), "0");
    drop(connection);
    local.stop().await;
}

/// While its responses are not read, the server reads no further requests, and the
/// sender's window fills up.
#[apply(test!)]
#[long]
async fn backpressure_reaches_the_sender() {
    let server = PAIR.serve().await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0); // The server cannot send any message.
    let connection = connect_with(server.addr(), &builder).await;
    let (_response, mut send) = open(&connection, MONITOR, &[]).await;
    let remove = MonitorRequest { action: Some(monitor_request::Action::Remove("x".repeat(30_000))) };
    let message = prefixed(&remove);
    let mut sent = 0;
    loop {
        send.reserve_capacity(message.len());
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx));
        match tokio::time::timeout(Duration::from_millis(500), room).await {
            Ok(Some(Ok(_))) if send.capacity() >= message.len() => {
                send.send_data(message.clone(), false).unwrap();
                sent += message.len();
                assert!(sent < 8_000_000, "the server did not stop reading");
            }
            Ok(Some(Ok(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_elapsed) => break, // The window is shut.
        }
    }
    assert!(sent > 0);
    server.stop().await;
}

/// The same for the typed client's upload: it takes no more readings from its caller than
/// the server lets it send.
#[apply(test!)]
async fn an_upload_takes_readings_no_faster_than_the_server_reads() {
    let (listener, url) = listen().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let endless = stream::repeat_with(move || {
        counter.fetch_add(1, SeqCst);
        reading("oslo-1", 1.0)
    });
    let uploading = tokio::spawn(async move { client(&url).upload(endless, None).await });
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = within(connection.accept()).await.unwrap().unwrap();
    let serving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let mut body = request.into_body();
    let mut read = 0;
    while read < 65_535 {
        read += within(body.data()).await.unwrap().unwrap().len(); // Nothing is released.
    }
    // The window is shut. Let every task run many times.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let readings = taken.load(SeqCst);
    assert!(readings * 28 < 200_000, "{readings} readings were taken for a window of 64 KiB");
    body.flow_control().release_capacity(read).unwrap();
    while read < 2 * 65_535 {
        read += within(body.data()).await.unwrap().unwrap().len();
    }
    assert!(taken.load(SeqCst) > readings, "the upload did not go on when the window opened");
    respond.send_response(response_headers(), false).unwrap().send_trailers(status_trailers("14")).unwrap();
    assert_eq!(failure(within(uploading).await.unwrap()).code, Code::Unavailable);
    serving.abort();
}
