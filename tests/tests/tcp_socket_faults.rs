//! The TCP chapter when things go wrong: proxies that cut and dribble, storms,
//! silence, slow readers, restarts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcp_socket::client::{Client, Error, MAX_IN_FLIGHT};
use tcp_socket::frame::kind;
use tcp_socket::frame_buffer::FrameBuffer;
use tcp_socket::handshake::{HELLO, Hello, VERSION, Welcome, random_id};
use tcp_socket::limits::Limits;
use tcp_socket::message::{ErrorCode, Refusal};
use tcp_socket_common::{Raw, Received, batch, batch_of, frame, reading, start, start_at, within};
use tests::{Pair, Server, pair, run, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

mod tcp_socket_common;

const PAIR: Pair = pair!("tcp_socket");

// --- proxies ---

/// What a proxy does to the connections that go through it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Forwards byte by byte, each in a write of its own.
    ByteByByte,
    /// Ends the connection when the server's first frame has arrived here.
    CutBeforeReply,
    /// Ends the connection when the client's first frame has arrived here.
    CutBeforeRequest,
}

/// A proxy on a port of its own; where it leads and what it does may change.
struct Proxy {
    addr: String,
    leads_to: watch::Sender<(String, Fault)>,
}

impl Proxy {
    async fn start(server: &str, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (leads_to, now) = watch::channel((server.to_owned(), fault));
        let cut = leads_to.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (server, fault) = now.borrow().clone();
                let cut = cut.clone();
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        forward(client, server, fault).await;
                        // One cut, then an ordinary connection.
                        if matches!(fault, Fault::CutBeforeReply | Fault::CutBeforeRequest) {
                            cut.send_modify(|(_, fault)| *fault = Fault::None);
                        }
                    }
                });
            }
        });
        Self { addr, leads_to }
    }
}

async fn forward(client: TcpStream, server: TcpStream, fault: Fault) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The handshake passes whole.
    let up = pump(from_client, to_server, fault, Fault::CutBeforeRequest, HELLO);
    let down = pump(from_server, to_client, fault, Fault::CutBeforeReply, tcp_socket::handshake::WELCOME);
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    fault: Fault,
    cuts_here: Fault,
    handshake: usize,
) {
    let mut passed = 0;
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if fault == cuts_here && passed + count > handshake {
            return;
        }
        passed += count;
        let size = if fault == Fault::ByteByByte { 1 } else { count };
        for piece in buffer[..count].chunks(size) {
            if to.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn everything_works_through_a_proxy_that_forwards_single_bytes() {
    let server = start(Limits::default()).await;
    let proxy = Proxy::start(&server.addr, Fault::ByteByByte).await;
    let client = within(Client::connect(&proxy.addr)).await.unwrap();
    assert_eq!(client.record(&[reading("oslo-1", 0.0)]).await.unwrap(), 1);
    let mut watch = client.watch("oslo-1").await.unwrap();
    let many: Vec<_> = (0..300).map(|n| reading("oslo-1", f64::from(n % 70))).collect();
    let (recorded, ping) = tokio::join!(client.record(&many), client.ping());
    assert_eq!(recorded.unwrap(), 300);
    ping.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let update = within(watch.next()).await.unwrap();
        assert_eq!(update.skipped, 0);
        seen.extend(update.readings.into_iter().map(|reading| reading.value));
    }
    assert_eq!(seen, many.iter().map(|reading| reading.value).collect::<Vec<_>>());
    drop(watch);
    client.close().await;
}

/// A server and one who watches station "oslo-1" on it.
async fn watched_server() -> (tcp_socket_common::Running, Raw) {
    let server = start(Limits::default()).await;
    let mut watcher = Raw::open(&server.addr).await;
    watcher.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await;
    watcher.ask(kind::WATCH, 2, b"oslo-1").await;
    (server, watcher)
}

/// The values that the watcher saw up to the one given, which is recorded now.
async fn seen_until(server: &str, watcher: &mut Raw, last: f64) -> Vec<f64> {
    let mut recorder = Raw::open(server).await;
    recorder.ask(kind::RECORD, 1, &batch(1, "oslo-1", last)).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let update = watcher.receive().await.update();
        assert_eq!(update.skipped, 0);
        seen.extend(update.readings.iter().map(|reading| reading.value));
    }
    seen
}

async fn a_batch_counts_once_when_the_connection_is_cut_after_its_commit() {
    let (server, mut watcher) = watched_server().await;
    let proxy = Proxy::start(&server.addr, Fault::CutBeforeReply).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    // The reply reached the proxy, so the server has recorded it. Then the client retries.
    assert_eq!(within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap(), 1);
    assert_eq!(proxy.leads_to.borrow().1, Fault::None, "nothing was cut");
    assert_eq!(within(client.record(&[reading("oslo-1", 2.0)])).await.unwrap(), 1);
    assert_eq!(seen_until(&server.addr, &mut watcher, 9.0).await, [1.0, 2.0, 9.0]);
}

async fn a_batch_counts_once_when_the_connection_is_cut_before_it_arrives() {
    let (server, mut watcher) = watched_server().await;
    let proxy = Proxy::start(&server.addr, Fault::CutBeforeRequest).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    assert_eq!(within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap(), 1);
    assert_eq!(proxy.leads_to.borrow().1, Fault::None, "nothing was cut");
    assert_eq!(seen_until(&server.addr, &mut watcher, 9.0).await, [1.0, 9.0]);
}

async fn many_calls_in_flight_all_count_once_across_a_cut() {
    let (server, mut watcher) = watched_server().await;
    let proxy = Proxy::start(&server.addr, Fault::CutBeforeReply).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..60 {
        for value in 1..=50 {
            let client = client.clone();
            calls.spawn(async move { client.record(&[reading("oslo-1", f64::from(value))]).await });
        }
    }
    while let Some(call) = within(calls.join_next()).await {
        assert_eq!(call.unwrap().unwrap(), 1);
    }
    let mut seen = seen_until(&server.addr, &mut watcher, 60.0).await;
    seen.sort_by(f64::total_cmp);
    let mut expected: Vec<_> = (0..60).flat_map(|_| (1..=50).map(f64::from)).chain([60.0]).collect();
    expected.sort_by(f64::total_cmp);
    assert_eq!(seen, expected);
}

async fn after_a_restart_the_client_says_that_the_outcome_is_unknown() {
    let first = start(Limits::default()).await;
    let second = start(Limits::default()).await;
    let proxy = Proxy::start(&first.addr, Fault::CutBeforeReply).await;
    let client = Client::connect(&proxy.addr).await.unwrap();
    // From the client's side: its server fell and came back, with another boot id.
    proxy.leads_to.send_modify(|(server, _)| server.clone_from(&second.addr));
    let error = within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)) && error.may_have_been_executed(), "{error}");
    assert_eq!(error.to_string(), "outcome unknown: the server was restarted and has forgotten");
    // What is asked for now goes to the new one.
    assert_eq!(within(client.record(&[reading("oslo-1", 2.0)])).await.unwrap(), 1);
}

async fn the_same_batch_at_once_on_many_connections_counts_once() {
    let (server, mut watcher) = watched_server().await;
    let client_id = random_id().unwrap();
    // Large, so that some arrive while the first is still being recorded, and not
    // so large that a watcher may skip of it.
    let payload = batch_of(7, &vec![reading("oslo-1", 1.0); 9_000]);
    let mut connections = JoinSet::new();
    for _ in 0..8 {
        let (addr, payload) = (server.addr.clone(), payload.clone());
        connections.spawn(async move {
            let mut raw = Raw::open_as(&addr, client_id).await;
            raw.ask(kind::RECORD, 1, &payload).await.accepted()
        });
    }
    while let Some(accepted) = connections.join_next().await {
        assert_eq!(accepted.unwrap(), 9_000);
    }
    assert_eq!(seen_until(&server.addr, &mut watcher, 9.0).await.len(), 9_001);
}

// --- the client's side ---

/// A server that shakes hands with one client and then does what the test says.
async fn fake_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

async fn welcome(listener: &TcpListener, idle_timeout: u32) -> Raw {
    let (stream, _) = within(listener.accept()).await.unwrap();
    let mut raw = Raw { stream, input: FrameBuffer::new(1024 * 1024) };
    let mut hello = [0; HELLO];
    raw.stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(Hello::decode(&hello).unwrap().highest, VERSION);
    let boot_id = *b"the same life...";
    let welcome =
        Welcome { version: 1, boot_id, max_payload: 1000, window: 1024, max_watches: 64, idle_timeout };
    raw.write(&welcome.encode()).await;
    raw
}

async fn answers_are_matched_by_request_id_in_whatever_order_they_come() {
    let (listener, addr) = fake_server().await;
    let server = tokio::spawn(async move {
        let mut raw = welcome(&listener, 60_000).await;
        let mut requests: Vec<Received> = Vec::new();
        while requests.len() < 50 {
            requests.push(raw.receive().await);
        }
        // The last comes first. Each is told its batch id as the count.
        let mut answers = frame(0x01aa, 1, b"of a kind that this client does not know");
        for request in requests.iter().rev() {
            assert_eq!(request.kind, kind::RECORD);
            answers.extend(frame(kind::RECORDED, request.id, &request.payload[4..8]));
        }
        raw.write(&answers).await;
        raw
    });
    let client = Client::connect(&addr).await.unwrap();
    let mut calls = JoinSet::new();
    for value in 1..=50u32 {
        let client = client.clone();
        // Batch ids are given in the order in which the calls begin.
        let reading = [reading("oslo-1", value.into())];
        let mut call = Box::pin(async move { (value, client.record(&reading).await) });
        assert!(futures::poll!(&mut call).is_pending());
        calls.spawn(call);
    }
    while let Some(call) = within(calls.join_next()).await {
        let (value, count) = call.unwrap();
        assert_eq!(count.unwrap(), value);
    }
    let _still_open = server.await.unwrap();
}

async fn a_call_without_an_answer_ends_and_says_what_that_means() {
    let (listener, addr) = fake_server().await;
    let client = Client::connect(&addr);
    let (client, mut raw) = tokio::join!(client, welcome(&listener, 60_000));
    let client = client.unwrap().with_timeout(Duration::from_millis(100));
    let error = within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)) && error.may_have_been_executed(), "{error}");
    assert_eq!(raw.receive().await.kind, kind::RECORD, "it was sent");

    // Larger than this server takes: not sent at all.
    let error = within(client.record(&vec![reading("oslo-1", 1.0); 100])).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && !error.may_have_been_executed(), "{error}");

    // No server, and not sent since.
    drop(listener);
    drop(raw);
    let client = client.with_timeout(Duration::from_millis(300));
    loop {
        let error = within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap_err();
        if !error.may_have_been_executed() {
            assert!(matches!(error, Error::NotExecuted(_)), "{error}");
            break; // Until the client noticed, its calls were sent.
        }
    }
    client.close().await;
}

async fn calls_that_were_given_up_keep_their_place_so_that_nothing_grows() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap().with_timeout(Duration::from_millis(300));
    let mut calls = JoinSet::new();
    for _ in 0..MAX_IN_FLIGHT + 50 {
        let client = client.clone();
        calls.spawn(async move { client.record(&[reading("oslo-1", 1.0)]).await.unwrap_err() });
    }
    let errors = within(calls.join_all()).await;
    let sent = errors.iter().filter(|error| error.may_have_been_executed()).count();
    assert_eq!(sent, MAX_IN_FLIGHT);
    // Their answers, late as they are, make room again.
    let mut first = None;
    for _ in 0..MAX_IN_FLIGHT {
        let request = raw.receive().await;
        raw.send(kind::RECORDED, request.id, &1u32.to_be_bytes()).await;
        first.get_or_insert(request.id);
    }
    let client = client.with_timeout(Duration::from_secs(60));
    let answer = async {
        let request = raw.receive().await;
        raw.send(kind::RECORDED, request.id, &1u32.to_be_bytes()).await;
    };
    let record = [reading("oslo-1", 1.0)];
    let (recorded, ()) = tokio::join!(client.record(&record), answer);
    assert_eq!(recorded.unwrap(), 1);
}

async fn a_goodbye_is_a_promise_that_the_rest_was_not_executed() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap().with_timeout(Duration::from_secs(2));
    let record = [reading("oslo-1", 1.0)];
    let server = async {
        assert_eq!(raw.receive().await.kind, kind::RECORD);
        raw.send(kind::GOODBYE, 0, b"").await;
        drop(listener); // and nobody is there when the client comes again
    };
    let (error, ()) = tokio::join!(client.record(&record), server);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::NotExecuted(_)) && !error.may_have_been_executed(), "{error}");
}

async fn a_client_notices_a_server_that_has_fallen_silent() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 300));
    let client = client.unwrap();
    // It asks for a sign of life, gets none, and connects again, though nothing was closed.
    assert_eq!(raw.receive().await.kind, kind::PING);
    let mut second = welcome(&listener, 60_000).await;
    let answer = async {
        let request = second.receive().await;
        second.send(kind::PONG, request.id, b"").await;
    };
    let (ping, ()) = within(async { tokio::join!(client.ping(), answer) }).await;
    ping.unwrap();
}

async fn a_refused_client_is_told_why() {
    let (listener, addr) = fake_server().await;
    let refuse = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let welcome = Welcome {
            version: 0,
            boot_id: [0; 16],
            max_payload: 0,
            window: 0,
            max_watches: 0,
            idle_timeout: 0,
        };
        let mut why = BytesMut::new();
        Refusal { code: 3, text: "come back tomorrow".into() }.put(&mut why);
        stream.write_all(&[&welcome.encode()[..], &frame(kind::ERROR, 0, &why)].concat()).await.unwrap();
        stream
    };
    let (client, _stream) = tokio::join!(Client::connect(&addr), refuse);
    assert_eq!(client.err().unwrap().to_string(), "TooManyConnections (3): come back tomorrow");
    let not_ours = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP ready, and some more text\r\n").await.unwrap();
        stream
    };
    let (client, _stream) = tokio::join!(Client::connect(&addr), not_ours);
    assert!(matches!(client.err().unwrap(), Error::Protocol(_)));
}

async fn a_dropped_watch_is_cancelled_and_a_closed_client_says_goodbye() {
    let (listener, addr) = fake_server().await;
    let client = async {
        let client = Client::connect(&addr).await.unwrap();
        let watch = client.watch("oslo-1").await.unwrap();
        drop(watch);
        client.clone().close().await;
        client.record(&[reading("oslo-1", 1.0)]).await.unwrap_err()
    };
    let server = async {
        let mut raw = welcome(&listener, 60_000).await;
        let request = raw.receive().await;
        assert_eq!((request.kind, request.payload.as_slice()), (kind::WATCH, &b"oslo-1"[..]));
        raw.send(kind::READING, request.id, &[0; 8]).await;
        let cancel = raw.receive().await;
        assert_eq!((cancel.kind, cancel.id), (kind::CANCEL, request.id));
        assert_eq!(raw.receive().await.kind, kind::GOODBYE);
        raw.send(kind::GOODBYE, 0, b"").await;
    };
    let (error, ()) = within(async { tokio::join!(client, server) }).await;
    assert!(matches!(error, Error::NotExecuted("the client is closed")), "{error}");
}

async fn a_slow_reader_of_a_client_watch_is_told_how_many_it_skipped() {
    let server = start(Limits::default()).await;
    let client = Client::connect(&server.addr).await.unwrap();
    client.record(&[reading("oslo-1", 0.0)]).await.unwrap();
    let mut watch = client.watch("oslo-1").await.unwrap();
    // 400 updates at least, more than the queue of the watch holds; nobody reads them yet.
    let batches = 400u64;
    for _ in 0..batches {
        client.record(&vec![reading("oslo-1", 1.0); 300]).await.unwrap();
    }
    let (mut seen, mut skipped) = (0, 0);
    // The count of the skipped comes with the next update that finds room.
    client.record(&[reading("oslo-1", 7.0)]).await.unwrap();
    let last = [reading("oslo-1", 8.0)];
    let mut done = false;
    while !done {
        tokio::select! {
            update = watch.next() => {
                let update = update.unwrap();
                seen += update.readings.len() as u64;
                skipped += update.skipped;
                done = update.readings.last().is_some_and(|reading| reading.value == 8.0);
            }
            // Now with a reader: these come through, the last one for sure.
            recorded = client.record(&last), if seen > 0 => assert_eq!(recorded.unwrap(), 1),
        }
    }
    assert!(skipped > 0, "{seen} seen");
    assert!(seen + skipped > batches * 300, "{seen} seen, {skipped} skipped");
}

// --- time, and readers that do not read ---

async fn a_silent_connection_is_closed_and_heartbeats_keep_one_open() {
    let limits = Limits { idle_timeout: Duration::from_secs(2), ..Limits::default() };
    let server = start(limits).await;
    let client = Client::connect(&server.addr).await.unwrap();
    client.record(&[reading("oslo-1", 0.0)]).await.unwrap();
    let mut watch = client.watch("oslo-1").await.unwrap();
    for _ in 0..2 {
        // One after the other: at least twice the idle timeout.
        let mut silent = Raw::open(&server.addr).await;
        assert_eq!(silent.last_error().await, ErrorCode::IdleTimeout);
    }
    let mut dribbling = Raw::open(&server.addr).await;
    let ping = frame(kind::PING, 1, b"");
    let dribble = async {
        // Bytes, but no whole frame: 15 of 16 over more than the timeout.
        for byte in &ping[..15] {
            dribbling.write(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        dribbling.last_error().await
    };
    assert_eq!(dribble.await, ErrorCode::IdleTimeout);
    // A watch does not survive its connection: it is still the first one.
    client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
    assert_eq!(within(watch.next()).await.unwrap().readings[0].value, 1.0);
}

async fn who_does_not_read_is_cut_off_and_cannot_fill_the_memory() {
    let limits = Limits { write_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = start(limits).await;
    let mut raw = Raw::open(&server.addr).await;
    let pings = frame(kind::PING, 1, b"").repeat(10_000);
    // The server stops to read when it cannot write, so this blocks, until the cut.
    let error = within(async {
        loop {
            if let Err(error) = raw.stream.write_all(&pings).await {
                break error;
            }
        }
    });
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    assert!(matches!(error.await.kind(), ConnectionReset | BrokenPipe));
    Raw::open(&server.addr).await.assert_alive().await;
}

async fn a_watcher_that_stopped_reading_slows_nobody_and_is_told_what_it_missed() {
    let limits = Limits { write_timeout: Duration::from_secs(60), ..Limits::default() };
    let server = start(limits).await;
    let mut recorder = Raw::open(&server.addr).await;
    recorder.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await;
    let mut watcher = Raw::open(&server.addr).await;
    watcher.ask(kind::WATCH, 2, b"oslo-1").await;
    let batches = 150;
    for id in 2..2 + batches {
        // 10,000 readings of 17 bytes each: far more in all than the sockets hold.
        let payload = batch_of(id, &vec![reading("oslo-1", 1.0); 10_000]);
        assert_eq!(recorder.ask(kind::RECORD, 2, &payload).await.accepted(), 10_000);
    }
    let (mut seen, mut skipped) = (0, 0);
    while seen + skipped < batches * 10_000 {
        let update = watcher.receive().await.update();
        seen += update.readings.len() as u64;
        skipped += update.skipped;
    }
    assert_eq!(seen + skipped, batches * 10_000);
    assert!(skipped > 0, "{seen} seen");
}

// --- connections: too many, many, and the end ---

async fn over_the_cap_a_connection_is_refused_in_the_protocols_own_way() {
    let server = start(Limits { max_connections: 2, ..Limits::default() }).await;
    let (mut first, second) = (Raw::open(&server.addr).await, Raw::open(&server.addr).await);
    let mut third = Raw::connect(&server.addr).await;
    assert_eq!(third.welcome().await.version, 0);
    assert_eq!(third.last_error().await, ErrorCode::TooManyConnections);
    let refused = Client::connect(&server.addr).await.err().unwrap();
    assert_eq!(refused.to_string(), "TooManyConnections (3): at most 2 connections");
    first.assert_alive().await;
    drop(second);
    // The place is free when the server has noticed.
    let client = within(async {
        loop {
            if let Ok(client) = Client::connect(&server.addr).await {
                break client;
            }
        }
    });
    client.await.ping().await.unwrap();
}

async fn a_storm_above_the_cap_is_told_so_and_leaves_those_inside_alone() {
    let server = start(Limits { max_connections: 10, ..Limits::default() }).await;
    let mut inside = Vec::new();
    for _ in 0..10 {
        inside.push(Raw::open(&server.addr).await);
    }
    let mut storm = JoinSet::new();
    for _ in 0..200 {
        let addr = server.addr.clone();
        storm.spawn(async move {
            let mut raw = Raw::connect(&addr).await;
            // All say HELLO at once: unread input, which must not destroy the answer.
            let hello = Hello { lowest: 1, highest: 1, client_id: random_id().unwrap() };
            let _ = raw.stream.write_all(&hello.encode()).await;
            assert_eq!(raw.welcome().await.version, 0);
            assert_eq!(raw.last_error().await, ErrorCode::TooManyConnections);
        });
    }
    for raw in &mut inside {
        raw.assert_alive().await;
    }
    while let Some(refused) = storm.join_next().await {
        refused.unwrap();
    }
    for raw in &mut inside {
        raw.assert_alive().await;
    }
}

async fn connections_leave_no_task_behind() {
    let server = start(Limits::default()).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for _ in 0..20 {
        let mut ends = Vec::new();
        for way in 0..5 {
            let mut raw = Raw::open(&server.addr).await;
            raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await;
            raw.ask(kind::WATCH, 2, b"oslo-1").await;
            match way {
                0 => raw.send(kind::GOODBYE, 0, b"").await,
                1 => raw.write(&frame(kind::PING, 1, b"")[..9]).await,
                2 => raw.send(kind::PING, 0, b"").await,
                3 => raw.stream.set_zero_linger().unwrap(),
                _ => {}
            }
            ends.push(raw);
        }
        drop(ends);
    }
    let client = Client::connect(&server.addr).await.unwrap();
    client.ping().await.unwrap();
    drop(client);
    within(async {
        while metrics.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Open descriptors and resident memory in KiB of a process.
fn holds(server: &Server) -> (usize, u64) {
    let process = format!("/proc/{}", server.pid());
    let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (descriptors, resident.trim().trim_end_matches(" kB").parse().unwrap())
}

async fn use_connections(addr: &str, count: usize) {
    const AT_A_TIME: usize = 50;
    let mut users = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let addr = addr.to_owned();
        users.spawn(async move {
            for number in 0..count / AT_A_TIME {
                let mut raw = Raw::open(&addr).await;
                assert_eq!(raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await.accepted(), 1);
                raw.ask(kind::WATCH, 2, b"oslo-1").await;
                if number % 2 == 0 {
                    raw.send(kind::GOODBYE, 0, b"").await;
                    while raw.next().await.is_some() {}
                }
            }
        });
    }
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
}

/// Waits until the server has closed all connections but `open`.
async fn descriptors_fall_to(server: &Server, expected: usize) {
    within(async {
        while holds(server).0 > expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn ten_thousand_connections_leave_no_descriptor_and_no_memory_behind() {
    let server = PAIR.serve().await;
    let (descriptors, _) = holds(&server);
    use_connections(server.addr(), 1_000).await;
    descriptors_fall_to(&server, descriptors).await;
    let (_, warm) = holds(&server);
    use_connections(server.addr(), 10_000).await;
    descriptors_fall_to(&server, descriptors).await;
    let (_, after) = holds(&server);
    // What is meant to be kept: the windows of 8,192 clients and 20,000 readings, some
    // 3 MiB. The input buffer alone of 10,000 connections that leak would be 80 MiB.
    assert!(after < warm + 16 * 1024, "{warm} KiB before, {after} KiB after");
    server.stop().await;
}

async fn a_draining_server_answers_what_it_has_taken_up_and_says_goodbye() {
    let server = start(Limits::default()).await;
    let addr = server.addr.clone();
    let mut silent = Raw::connect(&addr).await;
    let mut raw = Raw::open(&addr).await;
    assert_eq!(raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await.accepted(), 1);
    raw.ask(kind::WATCH, 2, b"oslo-1").await;
    // Half a frame: it cannot be executed, and must not hold up the end.
    raw.write(&frame(kind::RECORD, 3, &batch(2, "oslo-1", 2.0))[..30]).await;
    let stopped = server.ask_to_stop();
    assert_eq!(raw.receive().await.flags, tcp_socket::frame::FLAG_END);
    assert_eq!(raw.receive().await.kind, kind::GOODBYE);
    assert_eq!(raw.next().await, None);
    assert_eq!(silent.welcome().await.version, 0);
    assert_eq!(silent.last_error().await, ErrorCode::ShuttingDown);
    drop((raw, silent));
    within(stopped).await.unwrap().unwrap();
    TcpStream::connect(&addr).await.expect_err("nobody listens any more");
}

async fn a_restart_with_a_drain_loses_nothing_and_repeats_nothing() {
    let first = start(Limits::default()).await;
    let addr = first.addr.clone();
    let client = Client::connect(&addr).await.unwrap().with_timeout(Duration::from_secs(60));
    client.record(&[reading("oslo-1", 0.0)]).await.unwrap();
    let done = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let (client, done) = (client.clone(), done.clone());
        callers.spawn(async move {
            for _ in 0..300 {
                client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
                done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    while done.load(std::sync::atomic::Ordering::Relaxed) < 500 {
        tokio::task::yield_now().await;
    }
    within(first.ask_to_stop()).await.unwrap().unwrap();
    let before = done.load(std::sync::atomic::Ordering::Relaxed);
    assert!(before < 16 * 300, "all was done before the restart");
    let second = start_at(&addr, Limits::default()).await;
    // Every call succeeds: GOODBYE told the client what was not executed.
    while let Some(caller) = within(callers.join_next()).await {
        caller.unwrap();
    }
    drop(client);
    second.stop().await;
}

async fn a_killed_server_leaves_no_call_waiting() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let client = Client::connect(&addr).await.unwrap().with_timeout(Duration::from_secs(2));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        callers.spawn(async move {
            loop {
                if let Err(error) = client.record(&[reading("oslo-1", 1.0)]).await {
                    return error;
                }
            }
        });
    }
    client.ping().await.unwrap();
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    while let Some(error) = within(callers.join_next()).await {
        let error = error.unwrap();
        assert!(matches!(error, Error::OutcomeUnknown(_) | Error::NotExecuted(_)), "{error}");
    }
    // Its port is free when it has ended: a zombie holds nothing.
    let stat = format!("/proc/{}/stat", server.pid());
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::task::yield_now().await;
    }
    let restarted = Server::start(PAIR.server, &["--addr", &addr]).await;
    let client = client.with_timeout(Duration::from_secs(30));
    assert_eq!(client.record(&[reading("oslo-1", 1.0)]).await.unwrap(), 1);
    client.close().await;
    restarted.stop().await;
}

fn main() -> ExitCode {
    run([
        test!(everything_works_through_a_proxy_that_forwards_single_bytes),
        test!(a_batch_counts_once_when_the_connection_is_cut_after_its_commit),
        test!(a_batch_counts_once_when_the_connection_is_cut_before_it_arrives),
        test!(many_calls_in_flight_all_count_once_across_a_cut),
        test!(after_a_restart_the_client_says_that_the_outcome_is_unknown),
        test!(the_same_batch_at_once_on_many_connections_counts_once),
        test!(answers_are_matched_by_request_id_in_whatever_order_they_come),
        test!(a_call_without_an_answer_ends_and_says_what_that_means),
        test!(calls_that_were_given_up_keep_their_place_so_that_nothing_grows),
        test!(a_goodbye_is_a_promise_that_the_rest_was_not_executed),
        test!(a_client_notices_a_server_that_has_fallen_silent),
        test!(a_refused_client_is_told_why),
        test!(a_dropped_watch_is_cancelled_and_a_closed_client_says_goodbye),
        test!(a_slow_reader_of_a_client_watch_is_told_how_many_it_skipped),
        test!(a_silent_connection_is_closed_and_heartbeats_keep_one_open),
        test!(who_does_not_read_is_cut_off_and_cannot_fill_the_memory),
        test!(a_watcher_that_stopped_reading_slows_nobody_and_is_told_what_it_missed).alone(),
        test!(over_the_cap_a_connection_is_refused_in_the_protocols_own_way),
        test!(a_storm_above_the_cap_is_told_so_and_leaves_those_inside_alone).alone(),
        test!(connections_leave_no_task_behind),
        test!(ten_thousand_connections_leave_no_descriptor_and_no_memory_behind).alone(),
        test!(a_draining_server_answers_what_it_has_taken_up_and_says_goodbye),
        test!(a_restart_with_a_drain_loses_nothing_and_repeats_nothing),
        test!(a_killed_server_leaves_no_call_waiting),
    ])
}
