//! What happens when something breaks: peers that vanish, stall or break off,
//! limits that are reached, a server that stops.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use futures::stream;
use grpc::client::{Client, Error, Options};
use grpc::proto::watch_request::Start;
use grpc::proto::watch_response::Event;
use grpc::proto::{MonitorRequest, RecordRequest, UploadRequest, WatchRequest, monitor_request};
use grpc::status::SERVER_RESTARTED;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};
use tests::Server;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use crate::calls::{failure, messages, send_all};
use crate::support::*;

/// The server, telling also when a handler's work has ended.
async fn talkative() -> Server {
    let args = ["RUST_LOG=info,grpc=debug", PAIR.server, "--addr", "127.0.0.1:0"];
    Server::start("env", &args).await
}

pub fn watch_request(newest: u32) -> Bytes {
    prefixed(&WatchRequest { station: "oslo-1".into(), start: Some(Start::Newest(newest)) })
}

/// The client resets the stream, and then, for each kind, its process dies: the
/// socket is closed with a reset, as the kernel does for a dead process with
/// unread input.
pub async fn a_client_that_vanishes_ends_the_handlers_work() {
    for vanish in ["reset the stream", "lose the connection"] {
        let server = talkative().await;
        client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
        let upload = prefixed(&UploadRequest { reading: Some(reading("oslo-1", 1.0)) });
        let add = grpc::proto::Threshold {
            id: "x".into(),
            station: "oslo-1".into(),
            metric: 1,
            bound: Some(grpc::proto::threshold::Bound::Above(99.0)),
        };
        let monitor = prefixed(&MonitorRequest { action: Some(monitor_request::Action::Add(add)) });
        for (path, body, ended) in [
            (WATCH, watch_request(1), "no longer watching oslo-1"),
            (UPLOAD, upload, "no longer uploading, after 1 readings"),
            (MONITOR, monitor, "no longer monitoring 1 stations"),
        ] {
            let mut raw = Raw::connect(server.addr()).await;
            raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(path))).await;
            // One message is all of a Watch's request; the others could go on.
            let end = if path == WATCH { END_STREAM } else { 0 };
            raw.send(&frame(DATA, end, 1, &body)).await;
            if path == UPLOAD {
                // Nothing comes back; that it was taken shows in the watchers' number.
                let mut watching =
                    client(server.url()).watch("oslo-1", Some(Start::Newest(2)), None).await.unwrap();
                within(watching.next()).await.unwrap();
                within(watching.next()).await.unwrap();
            } else {
                raw.next(DATA).await.expect("a response");
            }
            if vanish == "reset the stream" {
                raw.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await;
            } else {
                drop(raw);
            }
            server.has_printed(ended).await;
            server.has_printed(&format!("{path} CANCELLED")).await;
        }
        server.stop().await;
    }
}

pub async fn a_client_process_that_is_killed_is_noticed() {
    let server = talkative().await;
    client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let mut process = tokio::process::Command::new(PAIR.client)
        .args(["--url", server.url(), "watch", "oslo-1", "--newest", "1"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = [0; 1];
    within(process.stdout.as_mut().unwrap().read_exact(&mut line)).await.unwrap();
    process.kill().await.unwrap();
    server.has_printed("no longer watching oslo-1").await;
    server.stop().await;
}

/// Memory of a process in KiB, as the kernel counts it.
pub fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// It costs the server one chunk, is told when it comes back, and nobody else waits for it.
pub async fn a_slow_reader_is_told_and_disturbs_nobody() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let batch = vec![reading("oslo-1", 1.0); 10_000];
    client.record(&batch).await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..20 {
        let connection = connect(server.addr()).await;
        let (response, mut send) = open(&connection, WATCH, &[]).await;
        send.send_data(watch_request(10_000), true).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        let first = within(body.data()).await.unwrap().unwrap();
        slow.push((connection, body, first)); // Nothing is released: 64 KiB and no more.
    }
    let mut other = client.watch("oslo-1", None, None).await.unwrap();
    // All 100,000 places are taken once, so that what follows adds nothing to the store.
    for _ in 0..9 {
        client.record(&batch).await.unwrap();
    }
    let before = memory(server.pid());
    for _ in 0..11 {
        client.record(&batch).await.unwrap();
    }
    let grown = memory(server.pid()).saturating_sub(before);
    assert!(grown < 20 * 1024, "20 slow readers made the server grow by {grown} KiB");
    for sequence in 10_001..=210_000 {
        // The brisk one is read to the end only now, and is behind by as much; all
        // that is asserted is that it is told in the same way, or has everything.
        match within(other.next()).await {
            Ok(recorded) => assert_eq!(recorded.unwrap().sequence, sequence),
            Err(Error::Status(failure)) => {
                assert_eq!(failure.code, Code::ResourceExhausted);
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    for (_connection, mut body, first) in slow {
        body.flow_control().release_capacity(first.len()).unwrap();
        let (bytes, trailers) = rest(body).await;
        assert_eq!(trailers.unwrap()["grpc-status"], "8");
        let mut all = BytesMut::from(&first[..]);
        all.extend_from_slice(&bytes);
        let numbers: Vec<u64> = messages(all.freeze())
            .into_iter()
            .filter_map(|message| match message.event {
                Some(Event::Recorded(recorded)) => Some(recorded.sequence),
                _ => None,
            })
            .collect();
        assert!(numbers.len() < 10_000, "{} readings were waiting somewhere", numbers.len());
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "without gaps up to the status");
    }
    server.stop().await;
}

/// Nothing can be sent, not even the status: the stream is reset.
pub async fn a_deadline_ends_a_stream_that_nobody_reads() {
    let server = talkative().await;
    client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let connection = connect_with(server.addr(), &builder).await;
    let (response, mut send) = open(&connection, WATCH, &[("grpc-timeout", "100m")]).await;
    send.send_data(watch_request(1), true).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    let reset = within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::CANCEL));
    server.has_printed("no longer watching oslo-1").await;
    server.stop().await;
}

pub async fn a_thousand_streams_share_one_connection() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let watch = client.watch("oslo-1", None, None);
    let mut streams = vec![within(watch).await.unwrap()];
    let more = join_all((1..1000).map(|_| client.watch("oslo-1", None, None)));
    streams.extend(within(more).await.into_iter().map(Result::unwrap));
    // A unary call goes through between them.
    assert_eq!(within(client.record(&[reading("oslo-1", 2.0)])).await.unwrap(), 1);
    for recorded in within(join_all(streams.iter_mut().map(|stream| stream.next()))).await {
        assert_eq!(recorded.unwrap().unwrap().sequence, 2);
    }
    let pid = server.pid();
    let sockets = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| {
        std::fs::read_link(entry.unwrap().path())
            .ok()
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
    });
    // The listener, the connection, and what the signal handlers use.
    assert!(sockets.count() < 10);
    drop(streams);
    server.stop().await;
}

pub async fn an_oversized_message_is_resource_exhausted() {
    let server = PAIR.serve().await;
    let connection = connect(server.addr()).await;
    // The prefix alone is enough: the server does not wait for two megabytes.
    let prefix = Bytes::from_static(b"\0\0\x20\0\0abc");
    for path in [RECORD, WATCH, UPLOAD, MONITOR] {
        let (response, mut send) = open(&connection, path, &[]).await;
        send.send_data(prefix.clone(), false).unwrap();
        assert_eq!(answer(response).await.code(), "8", "{path}");
    }
    // One that the sender insists on.
    let (response, mut send) = open(&connection, RECORD, &[]).await;
    let large = [&b"\0\0\x20\0\0"[..], &vec![0; 0x20_0000]].concat();
    let sending = tokio::spawn(async move { send_all(&mut send, large.into()).await });
    assert_eq!(answer(response).await.code(), "8");
    within(sending).await.unwrap();
    // The connection goes on.
    let request = prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0)] });
    assert_eq!(unary(&connection, RECORD, &[], request).await.code(), "0");
    server.stop().await;
}

pub async fn sigterm_ends_streams_and_lets_calls_finish() {
    let mut server = PAIR.serve().await;
    let client = client(server.url());
    client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let connection = connect(server.addr()).await;
    let (watch, mut send_watch) = open(&connection, WATCH, &[]).await;
    send_watch.send_data(watch_request(1), true).unwrap();
    let watch = within(watch).await.unwrap().into_body();
    let (monitor, _send_monitor) = open(&connection, MONITOR, &[]).await;
    let monitor = within(monitor).await.unwrap().into_body();
    let (upload, mut send_upload) = open(&connection, UPLOAD, &[]).await;
    let one = prefixed(&UploadRequest { reading: Some(reading("oslo-1", 1.0)) });
    send_upload.send_data(one.clone(), false).unwrap();
    let (record, mut send_record) = open(&connection, RECORD, &[]).await;
    let mut request = prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0)] });
    send_record.send_data(request.split_to(10), false).unwrap();
    // A round trip after all of that: the server has it.
    let marker = prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0)] });
    assert_eq!(unary(&connection, RECORD, &[], marker).await.code(), "0");

    server.terminate();
    assert_eq!(rest(watch).await.1.unwrap()["grpc-status"], "14");
    assert_eq!(rest(monitor).await.1.unwrap()["grpc-status"], "14");
    // The listener is closed already; the calls that can finish do.
    assert!(TcpStream::connect(server.addr()).await.is_err());
    send_record.send_data(request, true).unwrap();
    assert_eq!(answer(record).await.code(), "0");
    send_upload.send_data(one, true).unwrap();
    let summary = answer(upload).await;
    assert_eq!((summary.code(), &summary.messages[..]), ("0", &b"\0\0\0\0\x02\x08\x02"[..]));
    server.wait().await;
    // The typed client, whose connection was told to go away, finds nobody.
    assert!(matches!(client.record(&[reading("oslo-1", 1.0)]).await, Err(Error::Unreachable { .. })));
}

pub async fn what_does_not_finish_is_unavailable_when_the_drain_time_is_over() {
    let mut local = Local::start(|config| config.limits.drain_timeout = Duration::from_millis(100)).await;
    let connection = connect(&local.addr).await;
    let (upload, _send_upload) = open(&connection, UPLOAD, &[]).await;
    let (record, mut send_record) = open(&connection, RECORD, &[]).await;
    send_record.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
    let marker = prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0)] });
    assert_eq!(unary(&connection, RECORD, &[], marker).await.code(), "0");
    // A peer that does not take part in the goodbye at all.
    let mut silent = Raw::connect(&local.addr).await;
    silent.next(SETTINGS).await.unwrap();
    local.terminate();
    assert_eq!(answer(upload).await.code(), "14");
    assert_eq!(answer(record).await.code(), "14");
    local.stop().await;
    assert_eq!(goaway(&silent.read_to_end().await), Some(0));
}

pub async fn calls_and_streams_are_capped() {
    let local = Local::start(|config| {
        config.limits.max_calls = 3;
        config.limits.max_streams = 2;
    })
    .await;
    let mut first = Raw::connect(&local.addr).await;
    let settings = first.next(SETTINGS).await.unwrap();
    assert!(settings.payload.chunks(6).any(|entry| entry == b"\0\x03\0\0\0\x02"), "MAX_CONCURRENT_STREAMS");
    first.send(&frame(SETTINGS, ACK, 0, &[])).await;
    for stream in [1, 3, 5] {
        first.send(&frame(HEADERS, END_HEADERS, stream, &call_headers(MONITOR))).await;
    }
    let reset = first.next(RST_STREAM).await.unwrap();
    assert_eq!((reset.stream, &reset.payload[..]), (5, &7u32.to_be_bytes()[..]), "REFUSED_STREAM");

    let second = connect(&local.addr).await;
    let (monitor, send) = open(&second, MONITOR, &[]).await;
    let monitor = within(monitor).await.unwrap().into_body();
    assert_eq!(unary(&second, RECORD, &[], Bytes::new()).await.code(), "8", "a fourth call");
    drop((monitor, send));
    drop(first);
    // Places become free when the server has noticed.
    let request = || prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0)] });
    within(async { while unary(&second, RECORD, &[], request()).await.code() != "0" {} }).await;
    drop(second);
    local.stop().await;
}

pub async fn connections_are_capped() {
    let local = Local::start(|config| config.limits.max_connections = 2).await;
    let (mut first, second) = (Raw::connect(&local.addr).await, connect(&local.addr).await);
    first.next(SETTINGS).await.unwrap();
    let request = || prefixed(&RecordRequest { readings: vec![reading("oslo-1", 1.0)] });
    assert_eq!(unary(&second, RECORD, &[], request()).await.code(), "0");
    let mut third = Raw::connect(&local.addr).await;
    let refused = third.read_to_end().await;
    assert_eq!(goaway(&refused), Some(11), "ENHANCE_YOUR_CALM");
    assert!(refused.last().unwrap().payload.ends_with(b"too many connections"));
    let failed = failure(client(&local.url()).record(&[reading("oslo-1", 1.0)]).await);
    assert_eq!(failed.code, Code::ResourceExhausted);
    assert_eq!(unary(&second, RECORD, &[], request()).await.code(), "0");
    drop(first);
    // Its place becomes free when the server has noticed.
    within(async { while client(&local.url()).record(&[reading("oslo-1", 1.0)]).await.is_err() {} }).await;
    drop(second);
    local.stop().await;
}

pub async fn a_peer_that_does_not_answer_pings_is_dropped() {
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
    assert_eq!(unary(&alive, RECORD, &[], Bytes::new()).await.code(), "13", "an empty body is no message");
    drop(alive);
    local.stop().await;

    // …and a client its server.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut response = Response::new(());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let _body = respond.send_response(response, false).unwrap();
        // Once around, so that this is sent; then never again.
        std::future::poll_fn(|cx| Poll::Ready(connection.poll_accept(cx).is_ready())).await;
        std::future::pending::<()>().await;
    });
    let options = Options {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let mut monitoring = within(Client::new(&url, &options).unwrap().monitor()).await.unwrap();
    assert!(matches!(within(monitoring.next()).await, Err(Error::Broken(_))));
}

pub async fn idle_connections_and_uploads_are_ended() {
    let local = Local::start(|config| {
        config.limits.connection_idle = Duration::from_millis(100);
        config.limits.upload_idle = Duration::from_millis(100);
        config.limits.request_timeout = Duration::from_millis(100);
    })
    .await;
    let mut idle = Raw::connect(&local.addr).await;
    assert_eq!(goaway(&[idle.next(GOAWAY).await.unwrap()]), Some(0));
    let connection = connect(&local.addr).await;
    let (upload, _send) = open(&connection, UPLOAD, &[]).await;
    assert_eq!(answer(upload).await.code(), "4");
    let (record, mut send) = open(&connection, RECORD, &[]).await;
    send.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
    assert_eq!(answer(record).await.code(), "4");
    // A connection with a call on it is not idle, however quiet.
    client(&local.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let watching = connect(&local.addr).await;
    let (response, mut send) = open(&watching, WATCH, &[]).await;
    send.send_data(watch_request(1), true).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    within(body.data()).await.unwrap().unwrap();
    let mut more = Raw::connect(&local.addr).await;
    assert!(more.next(GOAWAY).await.is_some());
    client(&local.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    within(body.data()).await.unwrap().unwrap();
    drop((connection, watching, body));
    local.stop().await;
}

/// The server does not read requests whose responses are not taken: the sender's
/// window stays shut.
pub async fn back_pressure_reaches_the_sender() {
    let server = PAIR.serve().await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0); // Responses may not be sent at all.
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
                assert!(sent < 8_000_000, "the server goes on reading");
            }
            Ok(Some(Ok(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_elapsed) => break, // Shut.
        }
    }
    assert!(sent > 0);
    server.stop().await;
}

/// The same for the typed client's upload: it takes no more from its caller than
/// the server lets it send.
pub async fn an_upload_takes_readings_as_fast_as_they_are_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
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
        read += within(body.data()).await.unwrap().unwrap().len(); // And nothing released.
    }
    // The window is shut. Everything that runs has had its turn a hundred times over.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let readings = taken.load(SeqCst);
    assert!(readings * 28 < 200_000, "{readings} readings for a window of 64 KiB");
    body.flow_control().release_capacity(read).unwrap();
    while read < 2 * 65_535 {
        read += within(body.data()).await.unwrap().unwrap().len();
    }
    assert!(taken.load(SeqCst) > readings, "and goes on when it opens");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    respond.send_response(response, false).unwrap().send_trailers(trailers).unwrap();
    assert_eq!(failure(within(uploading).await.unwrap()).code, Code::Unavailable);
    serving.abort();
}

/// A server that does this with its first calls, then answers properly. Counts
/// the calls.
async fn unreliable(
    calls: usize,
    bad: impl Fn(&mut h2::server::SendResponse<Bytes>) + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                if count.fetch_add(1, SeqCst) < calls {
                    bad(&mut respond);
                    continue;
                }
                let mut response = Response::new(());
                response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                let mut body = respond.send_response(response, false).unwrap();
                body.send_data(Bytes::from_static(b"\0\0\0\0\x02\x08\x01"), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                body.send_trailers(trailers).unwrap();
            }
        }
    });
    (url, seen)
}

fn status_only(code: &'static str) -> impl Fn(&mut h2::server::SendResponse<Bytes>) + Send + 'static {
    move |respond| {
        let mut response = Response::new(());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-status", HeaderValue::from_static(code));
        respond.send_response(response, true).unwrap();
    }
}

pub async fn a_call_is_tried_again_where_that_is_safe() {
    let batch = [reading("oslo-1", 1.0)];
    // The server says that it did nothing.
    let (url, calls) = unreliable(2, status_only("14")).await;
    assert_eq!(within(client(&url).record(&batch)).await.unwrap(), 1);
    assert_eq!(calls.load(SeqCst), 3);
    // It refuses the stream unprocessed.
    let (url, calls) = unreliable(2, |respond| respond.send_reset(Reason::REFUSED_STREAM)).await;
    assert_eq!(within(client(&url).record(&batch)).await.unwrap(), 1);
    assert_eq!(calls.load(SeqCst), 3);
    // Not for ever.
    let (url, calls) = unreliable(100, status_only("14")).await;
    assert_eq!(failure(within(client(&url).record(&batch)).await).code, Code::Unavailable);
    assert_eq!(calls.load(SeqCst), 1 + grpc::retry::RETRIES);
    // Other codes would come again.
    let (url, calls) = unreliable(100, status_only("8")).await;
    assert_eq!(failure(within(client(&url).record(&batch)).await).code, Code::ResourceExhausted);
    assert_eq!(calls.load(SeqCst), 1);
}

pub async fn a_call_that_may_have_had_effect_is_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            if let Some(Ok(_call)) = connection.accept().await {
                count.fetch_add(1, SeqCst);
            } // And the connection is gone.
        }
    });
    let failed = within(client(&url).record(&[reading("oslo-1", 1.0)])).await;
    assert!(matches!(failed, Err(Error::Broken(_))), "{failed:?}");
    assert_eq!(seen.load(SeqCst), 1);
}

pub async fn a_deadline_passes_also_where_nobody_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let options = Options { deadline: Duration::from_millis(100), ..Options::default() };
    // The kernel accepts the connection; nobody ever reads from it.
    let client = Client::new(&url, &options).unwrap();
    assert_eq!(failure(within(client.record(&[reading("oslo-1", 1.0)])).await).code, Code::DeadlineExceeded);
    assert_eq!(failure(within(client.watch("oslo-1", None, None)).await).code, Code::DeadlineExceeded);
    assert_eq!(failure(within(client.monitor()).await).code, Code::DeadlineExceeded);
    let soon = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    let upload = client.upload(stream::pending(), soon);
    assert_eq!(failure(within(upload).await).code, Code::DeadlineExceeded);
    // Another deadline for one call, on the same connection.
    let patient = Client::new(&url, &Options::default()).unwrap();
    let hasty = patient.with_deadline(Duration::from_millis(100));
    assert_eq!(failure(within(hasty.record(&[reading("oslo-1", 1.0)])).await).code, Code::DeadlineExceeded);
}

/// A proxy that cuts each connection after so many bytes to the client, and
/// counts them. The address behind it can change.
async fn proxy(bytes: u64, target: &str) -> (String, Arc<Mutex<String>>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = Arc::new(Mutex::new(target.to_owned()));
    let cuts = Arc::new(AtomicUsize::new(0));
    let (current, counter) = (target.clone(), cuts.clone());
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let addr = current.lock().unwrap().clone();
            let Ok(far) = TcpStream::connect(addr).await else { continue };
            let (mut near_read, mut near_write) = near.into_split();
            let (far_read, mut far_write) = far.into_split();
            let up = tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
            let mut limited = far_read.take(bytes);
            let _ = tokio::io::copy(&mut limited, &mut near_write).await;
            up.abort();
            counter.fetch_add(1, SeqCst);
        }
    });
    (url, target, cuts)
}

/// Kill -9, and a new server at the same address: the position belongs to another life.
pub async fn a_watch_over_a_restart_is_told_of_it() {
    let server = PAIR.serve().await;
    let again = PAIR.serve().await;
    for server in [&server, &again] {
        client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    }
    let (url, target, _) = proxy(u64::MAX, server.addr()).await;
    let mut watching = client(&url).watch("oslo-1", Some(Start::Newest(1)), None).await.unwrap();
    within(watching.next()).await.unwrap();
    again.addr().clone_into(&mut target.lock().unwrap());
    drop(server); // Killed.
    let failed = failure(within(watching.next()).await);
    assert_eq!((failed.code, failed.reason.as_deref()), (Code::FailedPrecondition, Some(SERVER_RESTARTED)));
    again.stop().await;
}

/// A break of the connection alone is bridged: no reading is lost or seen twice.
pub async fn a_watch_goes_on_after_its_connection_broke() {
    let server = PAIR.serve().await;
    let batch: Vec<_> = (0..3000).map(|_| reading("oslo-1", 1.0)).collect();
    client(server.url()).record(&batch).await.unwrap();
    let (url, _, cuts) = proxy(20_000, server.addr()).await;
    let mut watching = client(&url).watch("oslo-1", Some(Start::Newest(3000)), None).await.unwrap();
    for sequence in 1..=3000 {
        assert_eq!(within(watching.next()).await.unwrap().unwrap().sequence, sequence);
    }
    assert!(cuts.load(SeqCst) > 2, "the proxy cut {} times", cuts.load(SeqCst));
    drop(watching);
    server.stop().await;
}
