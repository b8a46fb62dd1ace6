//! What the typed client does when a server or a connection fails.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::{apply, test};

use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use grpc::client::{Event, Missed};
use grpc::proto::watch_request::Start;
use grpc::proto::{Position, WatchResponse, watch_response};
use grpc::{Client, Error, Options};
use h2::Reason;
use http::HeaderValue;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use crate::calls::failure;
use crate::support::*;

/// Starts a server that handles its first `calls` calls with `bad`, and then responds
/// properly. Counts the calls.
pub async fn unreliable(
    calls: usize,
    bad: impl Fn(&mut h2::server::SendResponse<Bytes>) + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let (listener, url) = listen().await;
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
                let mut body = respond.send_response(response_headers(), false).unwrap();
                body.send_data(Bytes::from_static(b"\0\0\0\0\x02\x08\x01"), false).unwrap();
                body.send_trailers(status_trailers("0")).unwrap();
            }
        }
    });
    (url, seen)
}

fn status_only(code: &'static str) -> impl Fn(&mut h2::server::SendResponse<Bytes>) + Send + 'static {
    move |respond| {
        let mut response = response_headers();
        response.headers_mut().insert("grpc-status", HeaderValue::from_static(code));
        respond.send_response(response, true).unwrap();
    }
}

#[apply(test!)]
async fn a_call_is_retried_when_that_is_safe() {
    let batch = [reading("oslo-1", 1.0)];
    // The server says that it did nothing.
    let (url, calls) = unreliable(2, status_only("14")).await;
    assert_eq!(within(client(&url).record(&batch)).await.unwrap(), 1);
    assert_eq!(calls.load(SeqCst), 3);
    // It refuses the stream unprocessed.
    let (url, calls) = unreliable(2, |respond| respond.send_reset(Reason::REFUSED_STREAM)).await;
    assert_eq!(within(client(&url).record(&batch)).await.unwrap(), 1);
    assert_eq!(calls.load(SeqCst), 3);
    // The client does not retry forever.
    let (url, calls) = unreliable(100, status_only("14")).await;
    assert_eq!(failure(within(client(&url).record(&batch)).await).code, Code::Unavailable);
    assert_eq!(calls.load(SeqCst), 1 + grpc::limits::MAX_RETRIES);
    // After other codes, a retry would fail again.
    let (url, calls) = unreliable(100, status_only("8")).await;
    assert_eq!(failure(within(client(&url).record(&batch)).await).code, Code::ResourceExhausted);
    assert_eq!(calls.load(SeqCst), 1);
}

/// Starts a server that closes each connection when the first call arrives on it. Counts
/// the calls.
async fn cutting() -> (String, Arc<AtomicUsize>) {
    let (listener, url) = listen().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            if let Some(Ok(_call)) = connection.accept().await {
                count.fetch_add(1, SeqCst);
            } // Drops the connection.
        }
    });
    (url, seen)
}

#[apply(test!)]
async fn a_call_that_may_have_been_executed_is_not_retried() {
    let (url, seen) = cutting().await;
    let failed = within(client(&url).record(&[reading("oslo-1", 1.0)])).await;
    assert!(matches!(failed, Err(Error::Broken(_))), "{failed:?}");
    assert_eq!(seen.load(SeqCst), 1);
}

#[apply(test!)]
async fn an_error_says_whether_the_call_may_have_been_executed() {
    let batch = [reading("oslo-1", 1.0)];
    let record = async |url: &str| within(client(url).record(&batch)).await.unwrap_err();

    // The server's own status.
    for (code, may_have_been) in
        [("3", false), ("8", false), ("12", false), ("14", false), ("2", true), ("4", true), ("13", true)]
    {
        let (url, _) = unreliable(100, status_only(code)).await;
        assert_eq!(record(&url).await.may_have_been_executed(), may_have_been, "status {code}");
    }

    // The server never received the call, or said that it did not process it.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (refusing, _) = unreliable(100, |respond| respond.send_reset(Reason::REFUSED_STREAM)).await;
    let not_executed = [
        ("no server", record(&format!("http://{nobody}")).await),
        ("a stream that is refused", record(&refusing).await),
        ("no address", Client::new("oslo", &Options::default()).unwrap_err()),
    ];
    for (case, error) in not_executed {
        assert!(!error.may_have_been_executed(), "{case}: {error:?}");
        assert!(!error.to_string().contains("may have been executed"), "{case}: {error}");
    }

    // The client cannot know.
    let (gone, _) = unreliable(100, |respond| respond.send_reset(Reason::INTERNAL_ERROR)).await;
    let silent = silent_once(Bytes::new()).await;
    let hasty = Options { deadline: Duration::from_millis(100), ..Options::default() };
    let impatient = Client::new(&silent, &hasty).unwrap();
    let unknown = [
        ("a stream that is reset", record(&gone).await),
        ("a connection that is cut", record(&cutting().await.0).await),
        ("a deadline", within(impatient.record(&batch)).await.unwrap_err()),
    ];
    for (case, error) in unknown {
        assert!(error.may_have_been_executed(), "{case}: {error:?}");
    }
}

#[apply(test!)]
async fn a_deadline_ends_calls_to_a_server_that_never_responds() {
    let (_listener, url) = listen().await;
    let options = Options { deadline: Duration::from_millis(100), ..Options::default() };
    // The kernel accepts the connection, but nobody ever reads from it.
    let client = Client::new(&url, &options).unwrap();
    assert_eq!(failure(within(client.record(&[reading("oslo-1", 1.0)])).await).code, Code::DeadlineExceeded);
    assert_eq!(failure(within(client.watch("oslo-1", None, None)).await).code, Code::DeadlineExceeded);
    assert_eq!(failure(within(client.monitor()).await).code, Code::DeadlineExceeded);
    let soon = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    let upload = client.upload(stream::pending(), soon);
    assert_eq!(failure(within(upload).await).code, Code::DeadlineExceeded);
}

/// At this address, not even the kernel responds: its queue of connections is full.
#[apply(test!)]
async fn a_client_gives_up_connecting_in_time() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(addr)).await {
        waiting.push(connected.unwrap());
    }
    let options = Options { connect_timeout: Duration::from_millis(100), ..Options::default() };
    let client = Client::new(&format!("http://{addr}"), &options).unwrap();
    let failed = within(client.upload(stream::empty(), None)).await;
    assert!(matches!(failed, Err(Error::Unreachable { .. })), "{failed:?}");
}

/// Starts a proxy that cuts each connection after this many bytes to the client. Returns
/// its URL, its target, which the test can change, and the number of cuts so far.
pub async fn proxy(bytes: u64, target: &str) -> (String, Arc<Mutex<String>>, Arc<AtomicUsize>) {
    let (listener, url) = listen().await;
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

/// The server is killed, and a new one has the same address. The position belongs to the
/// earlier run.
#[apply(test!)]
async fn a_watch_reports_a_restart_of_the_server() {
    let server = PAIR.serve().await;
    let again = PAIR.serve().await;
    for server in [&server, &again] {
        client(server.url()).record(&[reading("oslo-1", 1.0)]).await.unwrap();
    }
    let (url, target, _) = proxy(u64::MAX, server.addr()).await;
    let mut watching = client(&url).watch("oslo-1", Some(Start::Newest(1)), None).await.unwrap();
    within(watching.next_reading()).await.unwrap();
    again.addr().clone_into(&mut target.lock().unwrap());
    drop(server); // Killed.
    assert!(matches!(within(watching.try_next()).await.unwrap(), Some(Event::Disconnected(_))));
    assert_eq!(within(watching.try_next()).await.unwrap(), Some(Event::Reconnected(Missed::Restarted)));
    // It goes on with the restarted server's first reading.
    assert_eq!(within(watching.next_reading()).await.unwrap().unwrap().sequence, 1);
    again.stop().await;
}

/// If only the connection breaks, no reading is lost or seen twice.
#[apply(test!)]
async fn a_watch_goes_on_after_its_connection_breaks() {
    let server = PAIR.serve().await;
    let batch: Vec<_> = (0..3000).map(|_| reading("oslo-1", 1.0)).collect();
    client(server.url()).record(&batch).await.unwrap();
    let (url, _, cuts) = proxy(20_000, server.addr()).await;
    let mut watching = client(&url).watch("oslo-1", Some(Start::Newest(3000)), None).await.unwrap();
    for sequence in 1..=3000 {
        assert_eq!(within(watching.next_reading()).await.unwrap().unwrap().sequence, sequence);
    }
    assert!(cuts.load(SeqCst) > 2, "the proxy cut {} times", cuts.load(SeqCst));
    drop(watching);
    server.stop().await;
}

/// Starts a server that accepts only one connection. The first call on it ends with
/// UNAVAILABLE, the second never gets a response, and the others stay open.
async fn silent_once(first_message: Bytes) -> String {
    let (listener, url) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (mut calls, mut silent, mut open) = (0, Vec::new(), Vec::new());
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            calls += 1;
            if calls == 2 {
                silent.push(respond);
                continue;
            }
            let mut body = respond.send_response(response_headers(), false).unwrap();
            body.send_data(first_message.clone(), false).unwrap();
            if calls == 1 {
                body.send_trailers(status_trailers("14")).unwrap();
            } else {
                open.push(body);
            }
        }
    });
    url
}

#[apply(test!)]
async fn a_client_gives_up_an_attempt_to_reconnect_in_time() {
    let options = Options { deadline: Duration::from_millis(200), ..Options::default() };
    let position = Position { boot_id: 1, sequence: 0 };
    let started = WatchResponse { event: Some(watch_response::Event::Started(position)) };
    let client = Client::new(&silent_once(prefixed(&started)).await, &options).unwrap();
    let mut watching = within(client.watch("oslo-1", None, None)).await.unwrap();
    assert!(matches!(within(watching.try_next()).await.unwrap(), Some(Event::Disconnected(_))));
    assert_eq!(within(watching.try_next()).await.unwrap(), Some(Event::Reconnected(Missed::Nothing)));

    // The client does not wait for a server that ignores the deadline, either.
    let soon = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    let mut watching = within(client.watch("oslo-1", None, soon)).await.unwrap();
    assert_eq!(failure(within(watching.next_reading()).await).code, Code::DeadlineExceeded);

    let nothing = Bytes::from_static(&[0; 5]);
    let client = Client::new(&silent_once(nothing).await, &options).unwrap();
    let mut monitoring = within(client.monitor()).await.unwrap();
    assert_eq!(failure(within(monitoring.try_next()).await).code, Code::Unavailable);
    within(monitoring.reconnect()).await.unwrap();
}
