//! Slow links and slow peers. Bytes show that a peer is alive, and a second limit says how slowly
//! a message may arrive. These tests use short limits. They sleep between two pieces of a message,
//! because slow sending is what they test.

use std::time::Duration;
use tests::{apply, test};

use futures::SinkExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};
use websocket::Limits;
use websocket::Metric;
use websocket::client::{Client, Error};
use websocket::limits::Timeouts;

use crate::fake::{Fake, request};
use crate::live::reading;
use crate::local::{BINARY, CLOSE, Local, PING, PONG, Raw, TEXT, frame, handshake, limits, soon};

/// Pause between two pieces: a small fraction of `DEAD_AFTER`.
const PAUSE: Duration = Duration::from_millis(20);

const DEAD_AFTER: Duration = Duration::from_millis(500);

async fn server(min_rate: u64) -> Local {
    let heartbeat = Duration::from_millis(100);
    Local::start(Limits { heartbeat, dead_after: DEAD_AFTER, min_rate, ..limits() }).await
}

/// Returns `text` as one frame, as fragments of one byte each, and as such fragments with a ping
/// after each.
fn ways_to_send(text: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let fragment = |(index, byte): (usize, &u8)| {
        let first = if index == 0 { 0x01 } else { 0x00 };
        let end = if index + 1 == text.len() { 0x80 } else { 0 };
        frame(first | end, &[*byte])
    };
    let fragments: Vec<_> = text.iter().enumerate().map(fragment).collect();
    let with_pings: Vec<_> = fragments.iter().flat_map(|bytes| [bytes.clone(), frame(PING, b"?")]).collect();
    [
        ("one frame", frame(TEXT, text)),
        ("fragments", fragments.concat()),
        ("fragments and pings", with_pings.concat()),
    ]
}

/// Sends the bytes piece by piece. This takes about twice as long as a peer may stay silent.
async fn send_slowly(stream: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    let pieces = 2 * DEAD_AFTER.as_millis() / PAUSE.as_millis();
    for piece in bytes.chunks(bytes.len().div_ceil(pieces as usize)) {
        stream.write_all(piece).await.unwrap();
        sleep(PAUSE).await;
    }
}

#[apply(test!)]
async fn a_message_may_arrive_slowly_while_its_bytes_keep_coming() {
    let server = server(100).await;
    let text = "slow".repeat(200);
    for (way, bytes) in ways_to_send(text.as_bytes()) {
        let mut raw = Raw::open(server.addr, "/echo").await;
        let started = Instant::now();
        send_slowly(&mut raw.stream, &bytes).await;
        assert!(started.elapsed() > DEAD_AFTER, "the transfer must take longer than the limit");
        loop {
            let (first, payload) = raw.frame().await.unwrap();
            if first != PING && first != PONG {
                assert_eq!((first, payload.as_slice()), (TEXT, text.as_bytes()), "{way}");
                break;
            }
        }
    }
    server.stop().await;
}

/// A client can't hold a half-sent message open by sending a byte now and then.
#[apply(test!)]
async fn a_message_that_arrives_too_slowly_ends_the_connection() {
    let server = server(1_000_000).await;
    for (way, bytes) in ways_to_send(&[b'x'; 20_000]) {
        let raw = Raw::open(server.addr, "/echo").await;
        let (reading, mut writing) = raw.stream.into_split();
        // This sends for much longer than the server allows. Once the server has closed the
        // connection, a write fails.
        let trickle = tokio::spawn(async move {
            for piece in bytes.chunks(10) {
                if writing.write_all(piece).await.is_err() {
                    break;
                }
                sleep(PAUSE).await;
            }
        });
        let mut reading = tokio::io::BufReader::new(reading);
        let (code, reason) = soon("a close frame", async {
            loop {
                let first = reading.read_u8().await.unwrap();
                let mut payload = vec![0; reading.read_u8().await.unwrap().into()];
                reading.read_exact(&mut payload).await.unwrap();
                if first == CLOSE {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    break (code, String::from_utf8(payload[2..].to_vec()).unwrap());
                }
            }
        })
        .await;
        assert_eq!((code, reason.as_str()), (1008, "the message arrives too slowly"), "{way}");
        trickle.abort();
    }
    server.stop().await;
}

/// A peer that sends only control frames is idle, not slow.
#[apply(test!)]
async fn control_frames_are_never_too_slow() {
    let server = server(1_000_000).await;
    let mut raw = Raw::open(server.addr, "/echo").await;
    send_slowly(&mut raw.stream, &frame(PONG, b"piece by piece").repeat(4)).await;
    raw.send(frame(TEXT, b"still there?")).await;
    let response = async {
        loop {
            let (first, payload) = raw.frame().await.unwrap();
            if first != PING {
                return (first, payload);
            }
        }
    };
    assert_eq!(response.await, (TEXT, b"still there?".to_vec()));
    server.stop().await;
}

/// A control frame that is read together with the end of a message must be counted only once.
#[apply(test!)]
async fn a_pong_right_after_a_message_is_harmless() {
    let server = server(1_000_000).await;
    let mut raw = Raw::open(server.addr, "/echo").await;
    let mut pings = 0;
    while pings < 8 {
        let (first, _payload) = raw.frame().await.unwrap();
        if first == PING {
            pings += 1;
            raw.send([frame(TEXT, b"x"), frame(PONG, b"12345678")].concat()).await;
        }
    }
    raw.send(frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(raw.closed().await.0, 1000);
    server.stop().await;
}

/// In the other direction, the peer must keep reading, but may take longer than the time limit.
#[apply(test!)]
async fn a_peer_that_reads_slowly_is_not_disconnected() {
    const SIZE: usize = 12 << 20;
    // Long enough for even a busy machine to read something.
    const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
    let limits = Limits {
        heartbeat: Duration::from_secs(600),
        write_timeout: WRITE_TIMEOUT,
        max_message: SIZE,
        ..limits()
    };
    let server = Local::start(limits).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap(); // Otherwise the kernel would buffer all of it.
    let mut raw = Raw { stream: socket.connect(server.addr).await.unwrap() };
    raw.send(handshake("/echo", "")).await;
    raw.head().await;
    raw.send(frame(BINARY, &vec![7; SIZE])).await;
    let (started, mut left) = (Instant::now(), SIZE + 10);
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let count = soon("more", raw.stream.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "cut with {left} bytes left");
        left -= count;
        sleep(Duration::from_millis(10)).await;
    }
    assert!(started.elapsed() > WRITE_TIMEOUT, "the transfer must take longer than the limit");
    server.stop().await;
}

#[apply(test!)]
async fn the_client_accepts_a_slow_response_but_not_one_that_is_too_slow() {
    let timeouts = |min_rate| Timeouts {
        heartbeat: Duration::from_millis(50),
        dead_after: DEAD_AFTER,
        min_rate,
        ..Timeouts::default()
    };
    for (min_rate, accepted) in [(100, true), (1_000_000, false)] {
        let (fake, url) = Fake::start().await;
        let client = Client::with_timeouts(&url, timeouts(min_rate));
        let serve = async {
            let mut socket = fake.accept().await;
            let id = request(&mut socket).await["id"].clone();
            let readings = vec![
                json!({"sequence": 1, "station": "a", "metric": "wind", "value": 1.0, "recorded_at": 0});
                20
            ];
            let response = json!({"type": "readings", "id": id, "readings": readings}).to_string();
            let length = u16::try_from(response.len()).unwrap().to_be_bytes();
            let bytes = [&[TEXT, 126][..], &length[..], response.as_bytes()].concat();
            let stream = socket.get_mut();
            if accepted {
                send_slowly(stream, &bytes).await;
            } else {
                // Send until the client closes the connection.
                for byte in bytes.chunks(1) {
                    if stream.write_all(byte).await.is_err() {
                        break;
                    }
                    sleep(PAUSE).await;
                }
            }
            socket
        };
        let calls = async {
            let response = soon("a response", client.readings("a", 20)).await;
            match accepted {
                true => assert_eq!(response.unwrap().len(), 20),
                false => assert!(matches!(response, Err(Error::TooSlow)), "{response:?}"),
            }
            drop(client);
        };
        // The socket stays open until the client is done. If it were closed while pings are unread,
        // a reset could destroy what was sent.
        let (_socket, ()) = tokio::join!(serve, calls);
    }
}

/// A call also waits for the time that its bytes need at the minimum rate.
#[apply(test!)]
async fn a_large_call_is_given_more_time() {
    let response = Duration::from_millis(50);
    let (fake, url) = Fake::start().await;
    let client = Client::with_timeouts(&url, Timeouts { response, min_rate: 100, ..Timeouts::default() });
    let serve = async {
        let mut socket = fake.accept().await;
        for _ in 0..2 {
            let request = request(&mut socket).await;
            sleep(4 * response).await;
            let response = json!({"type": "recorded", "id": request["id"], "accepted": 1});
            let _ = socket.send(tokio_tungstenite::tungstenite::Message::text(response.to_string())).await;
        }
    };
    let calls = async {
        // At the minimum rate, these 330 bytes or so need another 3 s.
        let large = vec![reading("a", Metric::Wind, 1.0); 4];
        assert_eq!(soon("a response", client.record(&large)).await.unwrap(), 1);
        // This request has fewer than 100 bytes.
        let small = client.readings("a", 0).await;
        assert!(matches!(small, Err(Error::TimedOut(limit)) if limit == response), "{small:?}");
    };
    tokio::join!(serve, calls);
}
