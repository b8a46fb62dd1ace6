//! What happens when a client fails: it vanishes, is killed, or stops reading.

use bytes::BytesMut;
use futures::future::join_all;
use grpc::Error;
use grpc::proto::watch_request::Start;
use grpc::proto::watch_response::Event;
use grpc::proto::{MonitorRequest, UploadRequest, monitor_request};
use h2::Reason;
use tests::{Server, apply, test};
use tokio::io::AsyncReadExt;
use tonic::Code;

use crate::support::*;

/// Starts a server that also logs when a handler's work has ended.
async fn verbose_server() -> Server {
    let args = ["RUST_LOG=info,grpc=debug", PAIR.server, "--addr", "127.0.0.1:0"];
    Server::start("env", &args).await
}

/// The client resets the stream, or it closes its socket, as the kernel does when a
/// process dies.
#[apply(test!)]
async fn a_client_that_vanishes_ends_the_handlers_work() {
    for vanish in ["reset the stream", "lose the connection"] {
        let server = verbose_server().await;
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
            (UPLOAD, upload, "no longer uploading; readings received: 1"),
            (MONITOR, monitor, "no longer monitoring; stations with thresholds: 1"),
        ] {
            let mut raw = Raw::connect(server.addr()).await;
            raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(path))).await;
            // A Watch has only one request message; the other calls could send more.
            let end = if path == WATCH { END_STREAM } else { 0 };
            raw.send(&frame(DATA, end, 1, &body)).await;
            if path == UPLOAD {
                // There is no response yet, but the second reading in the store is the
                // uploaded one.
                let mut watching =
                    client(server.url()).watch("oslo-1", Some(Start::Newest(2)), None).await.unwrap();
                within(watching.next_reading()).await.unwrap();
                within(watching.next_reading()).await.unwrap();
            } else {
                raw.next(DATA).await.expect("the server should send a response");
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

#[apply(test!)]
async fn a_client_process_that_is_killed_is_noticed() {
    let server = verbose_server().await;
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

/// Returns the resident memory of a process in KiB.
pub fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Each slow reader costs the server one chunk, and its call ends with an error. Nobody
/// else waits for it.
#[apply(test!)]
#[alone]
async fn a_slow_reader_gets_an_error_and_delays_nobody() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let batch = vec![reading("oslo-1", 1.0); 10_000];
    client.record(&batch).await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..20 {
        let connection = connect(server.addr()).await;
        let mut body = open_watch(&connection, 10_000, &[]).await;
        let first = within(body.data()).await.unwrap().unwrap();
        slow.push((connection, body, first)); // Nothing is released, so at most 64 KiB arrive.
    }
    let mut other = client.watch("oslo-1", None, None).await.unwrap();
    // Fill all 100,000 places, so that later readings do not make the store grow.
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
        // This reader continues only now. It either receives everything or gets the same
        // error.
        match within(other.next_reading()).await {
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
        assert!(numbers.len() < 10_000, "{} readings were buffered somewhere", numbers.len());
        assert!(
            numbers.iter().copied().eq(1..=numbers.len() as u64),
            "a reading is missing before the status"
        );
    }
    server.stop().await;
}

/// Even if a client opens its windows wide and then does not read from its socket, the
/// server's buffer for the call stays bounded.
#[apply(test!)]
#[alone]
async fn an_open_window_cannot_fill_the_servers_memory() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    let batch = vec![reading("oslo-1", 1.0); 10_000];
    client.record(&batch).await.unwrap();
    let mut raw = Raw::tcp(server.addr()).await;
    let window = 0x7fff_ffffu32.to_be_bytes();
    let settings = frame(SETTINGS, 0, 0, &[&[0, 4], &window[..]].concat());
    let update = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
    let headers = frame(HEADERS, END_HEADERS, 1, &call_headers(WATCH));
    let request = frame(DATA, END_STREAM, 1, &watch_request(10_000));
    raw.send(&[PREFACE, &settings, &update, &headers, &request].concat()).await;
    raw.next(DATA).await.unwrap();
    for _ in 0..40 {
        client.record(&batch).await.unwrap();
    }
    // All buffers between the two sides fill up, including the kernel's. Then the stream
    // falls behind: far fewer than 400,000 readings of 40 bytes or more arrive.
    let mut bytes = 0;
    loop {
        let frame = raw.frame().await.unwrap();
        match frame.kind {
            DATA => {
                bytes += frame.payload.len();
                assert!(bytes < 14_000_000, "{bytes} bytes were buffered somewhere");
            }
            HEADERS if frame.flags & END_STREAM != 0 => break,
            _ => {}
        }
    }
    server.stop().await;
}

/// Nothing can be sent, not even the status, so the stream is reset.
#[apply(test!)]
async fn a_deadline_ends_a_stream_that_nobody_reads() {
    let server = verbose_server().await;
    client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let connection = connect_with(server.addr(), &builder).await;
    let mut body = open_watch(&connection, 1, &[("grpc-timeout", "100m")]).await;
    let reset = within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::CANCEL));
    server.has_printed("no longer watching oslo-1").await;
    server.stop().await;
}

#[apply(test!)]
#[alone]
async fn a_thousand_streams_share_one_connection() {
    let server = PAIR.serve().await;
    let client = client(server.url());
    client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
    let watch = client.watch("oslo-1", None, None);
    let mut streams = vec![within(watch).await.unwrap()];
    let more = join_all((1..1000).map(|_| client.watch("oslo-1", None, None)));
    streams.extend(within(more).await.into_iter().map(Result::unwrap));
    // A unary call still works beside them.
    assert_eq!(within(client.record(&[reading("oslo-1", 2.0)])).await.unwrap(), 1);
    for recorded in within(join_all(streams.iter_mut().map(|stream| stream.next_reading()))).await {
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
