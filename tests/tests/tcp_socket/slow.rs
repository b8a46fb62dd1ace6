//! Silent and slow connections, and clients that do not read.

use std::sync::Arc;
use std::time::Duration;
use tests::{apply, test};

use futures::StreamExt;
use tcp_socket::protocol::frame::{FrameBuffer, kind};
use tcp_socket::protocol::handshake::Hello;
use tcp_socket::protocol::message::{Batch, ErrorCode};
use tcp_socket::server::store::Store;
use tcp_socket::{Client, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::support::{Raw, batch, batch_of, frame, reading, start, within};

#[apply(test!)]
async fn a_slow_reader_of_a_watch_learns_how_many_readings_it_missed() {
    let server = start(Limits::default()).await;
    let client = Client::connect(&server.addr).await.unwrap();
    client.record(&[reading("oslo-1", 0.0)]).await.unwrap();
    let mut watch = client.watch("oslo-1").await.unwrap();
    // At least 400 updates, more than the queue of the watch holds; nobody reads them yet.
    let batches = 400u64;
    for _ in 0..batches {
        client.record(&vec![reading("oslo-1", 1.0); 300]).await.unwrap();
    }
    let (mut seen, mut skipped) = (0, 0);
    // The next update for which there is room says how many were skipped.
    client.record(&[reading("oslo-1", 7.0)]).await.unwrap();
    let last = [reading("oslo-1", 8.0)];
    let mut done = false;
    while !done {
        tokio::select! {
            update = watch.next() => {
                let update = update.unwrap().unwrap();
                seen += update.readings.len() as u64;
                skipped += update.skipped;
                done = update.readings.last().is_some_and(|reading| reading.value == 8.0);
            }
            // Now the updates are read, so at least the last one of these arrives.
            recorded = client.record(&last), if seen > 0 => assert_eq!(recorded.unwrap(), 1),
        }
    }
    assert!(skipped > 0, "{seen} seen");
    assert!(seen + skipped > batches * 300, "{seen} seen, {skipped} skipped");
}

#[apply(test!)]
async fn a_silent_connection_is_closed_and_heartbeats_keep_one_open() {
    let limits = Limits { idle_timeout: Duration::from_secs(2), ..Limits::default() };
    let server = start(limits).await;
    let client = Client::connect(&server.addr).await.unwrap();
    client.record(&[reading("oslo-1", 0.0)]).await.unwrap();
    let mut watch = client.watch("oslo-1").await.unwrap();
    for _ in 0..2 {
        // One after the other, so together they take at least twice the idle timeout.
        let mut silent = Raw::open(&server.addr).await;
        assert_eq!(silent.last_error().await, ErrorCode::IdleTimeout);
    }
    let mut incomplete = Raw::open(&server.addr).await;
    // Most bytes of a frame, and then silence.
    for byte in &frame(kind::PING, 1, b"")[..15] {
        incomplete.write(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(incomplete.last_error().await, ErrorCode::IdleTimeout);
    // A watch ends with its connection, so this is still the first connection.
    client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
    assert_eq!(within(watch.next()).await.unwrap().unwrap().readings[0].value, 1.0);
}

fn slow_limits() -> Limits {
    Limits { frame_grace: Duration::from_secs(1), min_frame_rate: 2_000, ..Limits::default() }
}

#[apply(test!)]
async fn a_large_frame_may_take_longer_than_the_idle_timeout() {
    let server = start(Limits { idle_timeout: Duration::from_secs(1), ..slow_limits() }).await;
    let record = frame(kind::RECORD, 1, &batch_of(1, &vec![reading("oslo-1", 1.0); 2_000]));
    let pings = frame(kind::PING, 1, b"").repeat(2_000);
    let (kinds, expected) = ([record, pings], [kind::RECORDED, kind::PONG]);
    for (bytes, expected) in kinds.iter().zip(expected) {
        let mut raw = Raw::open(&server.addr).await;
        let started = tokio::time::Instant::now();
        for piece in bytes.chunks(bytes.len() / 30) {
            raw.write(piece).await;
            tokio::time::sleep(Duration::from_millis(70)).await;
        }
        assert!(started.elapsed() > Duration::from_secs(2), "the test was too fast");
        assert_eq!(raw.receive().await.kind, expected);
    }
}

#[apply(test!)]
async fn a_frame_that_arrives_too_slowly_is_refused_before_the_idle_timeout() {
    let server = start(slow_limits()).await;
    let record = frame(kind::RECORD, 1, &batch_of(1, &vec![reading("oslo-1", 1.0); 50]));
    let ping = frame(kind::PING, 1, b"");
    // It makes no difference if a whole frame comes first, or part of the slow one at once.
    let late = [&ping[..], &record].concat();
    let slow = [(&record, 0), (&record, 15), (&record, 300), (&ping, 3), (&late, 20)];
    let mut connections = Vec::new();
    for (bytes, at_once) in slow {
        let mut raw = Raw::open(&server.addr).await;
        connections.push(async move {
            raw.write(&bytes[..at_once]).await;
            // On most systems, the writer learns only later that nobody reads anymore.
            for byte in &bytes[at_once..bytes.len().min(at_once + 100)] {
                if bytes.len() - at_once > 20 && raw.stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if bytes.len() > record_length() {
                assert_eq!(raw.receive().await.kind, kind::PONG);
            }
            assert_eq!(raw.last_error().await, ErrorCode::FrameTooSlow, "{at_once} at once");
        });
    }
    futures::future::join_all(connections).await;
}

/// While the server waits to write, it reads nothing, so it must not blame the client for that time.
#[apply(test!)]
async fn a_frame_is_not_too_slow_because_the_server_was_busy_writing() {
    let grace = Duration::from_secs(3);
    let limits = Limits { frame_grace: grace, write_timeout: Duration::from_secs(60), ..Limits::default() };
    let server = start(limits).await;
    let mut recorder = Raw::open(&server.addr).await;
    recorder.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await;
    let mut watcher = Raw::open(&server.addr).await;
    watcher.ask(kind::WATCH, 1, b"oslo-1").await;
    let ping = frame(kind::PING, 2, b"");
    watcher.write(&ping[..1]).await;
    // 10 MB, more than the sockets hold.
    let batches = 60;
    for id in 2..2 + batches {
        recorder.ask(kind::RECORD, 1, &batch_of(id, &vec![reading("oslo-1", 1.0); 10_000])).await;
    }
    tokio::time::sleep(grace).await;
    let mut received = 0;
    while received < batches * 10_000 {
        let update = watcher.receive().await.update();
        received += update.readings.len() as u64 + update.skipped;
    }
    watcher.write(&ping[1..]).await;
    assert_eq!(watcher.receive().await.kind, kind::PONG);
}

fn record_length() -> usize {
    frame(kind::RECORD, 1, &batch_of(1, &vec![reading("oslo-1", 1.0); 50])).len()
}

#[apply(test!)]
async fn a_client_that_reads_slowly_is_not_cut_off() {
    let limits = Limits { write_timeout: Duration::from_secs(1), ..Limits::default() };
    let server = start(limits).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Small, so that the server soon notices how slowly this client reads.
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let stream = within(socket.connect(server.addr.parse().unwrap())).await.unwrap();
    let mut raw = Raw { stream, input: FrameBuffer::new(1024) };
    let hello = Hello { lowest: 1, highest: 1, client_id: [7; 16] };
    raw.write(&hello.encode()).await;
    raw.welcome().await;
    let (mut reader, mut writer) = raw.stream.into_split();
    let writing = tokio::spawn(async move {
        let pings = frame(kind::PING, 1, b"").repeat(10_000);
        while writer.write_all(&pings).await.is_ok() {}
    });
    let (mut piece, mut left) = (vec![0; 64 * 1024], 1_000_000);
    let started = tokio::time::Instant::now();
    while left > 0 {
        // Too little for the system to report the server's socket as writable in time.
        let count = within(reader.read(&mut piece)).await.unwrap();
        assert!(count > 0, "the server cut the connection with {left} bytes to go");
        left -= count.min(left);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(1), "the test was too fast");
    writing.abort();
}

#[apply(test!)]
async fn a_client_that_stops_reading_is_cut_off_and_cannot_fill_the_memory() {
    let limits = Limits { write_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = start(limits).await;
    let mut raw = Raw::open(&server.addr).await;
    let pings = frame(kind::PING, 1, b"").repeat(10_000);
    // The server stops reading when it cannot write, so this blocks until the server
    // cuts the connection.
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

#[apply(test!)]
#[alone]
async fn a_watcher_that_stops_reading_slows_nobody_down_and_learns_what_it_missed() {
    let limits = Limits { write_timeout: Duration::from_secs(60), ..Limits::default() };
    let server = start(limits).await;
    let mut recorder = Raw::open(&server.addr).await;
    recorder.ask(kind::RECORD, 1, &batch(1, "oslo-1", 0.0)).await;
    let mut watcher = Raw::open(&server.addr).await;
    watcher.ask(kind::WATCH, 2, b"oslo-1").await;
    let batches = 150;
    for id in 2..2 + batches {
        // 10,000 readings of 17 bytes each: together far more than the sockets hold.
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

#[apply(test!)]
async fn a_watch_continues_at_its_position_and_leaves_nothing_behind() {
    let store = Arc::new(Store::default());
    let record = |id, count| {
        let payload = batch_of(id, &vec![reading("oslo-1", 1.0); count]);
        store.record(&Batch::parse(&payload).unwrap()).unwrap();
    };
    let notify = Arc::new(Notify::new());
    assert!(store.watch("oslo-1", notify.clone()).is_none(), "the store knows a station without readings");
    record(1, 3);
    let mut watch = store.watch("oslo-1", notify.clone()).unwrap();
    let mut read = |most| {
        let mut count = 0;
        let skipped = watch.read_next(10, most, |_reading| count += 1);
        (skipped, count)
    };
    assert_eq!(read(5), (0, 0), "a watch begins with earlier readings");
    record(2, 7);
    assert_eq!((read(5), read(5), read(5)), ((0, 5), (0, 2), (0, 0)));
    record(3, 25);
    assert_eq!((read(8), read(8)), ((15, 8), (0, 2)), "the watch may lag only ten readings behind");
    // More than the 100,000 that the store keeps.
    (0..11).for_each(|_| record(4, 10_000));
    assert_eq!((read(20), read(20)), ((109_990, 10), (0, 0)));
    let mut patient = store.watch("oslo-1", notify.clone()).unwrap();
    (0..11).for_each(|_| record(5, 10_000));
    assert_eq!(patient.read_next(usize::MAX, 1, |_reading| {}), 10_000);
    drop(patient);
    notify.notified().await; // There has been a notification.
    drop(watch);
    assert_eq!(Arc::strong_count(&notify), 1, "the store still holds it");
}
