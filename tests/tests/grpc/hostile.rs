//! Hostile peers that build their own frames. Most attacks run against the real server:
//! its memory and CPU time are measured, and another client must not notice the attack.

use std::fs;
use std::time::Duration;

use tests::{Server, apply, test};

use crate::faults::memory;
use crate::support::*;

/// A server, a client that must keep working, and the server's memory and CPU time at the
/// start.
struct Watchdog {
    server: Server,
    client: grpc::Client,
    memory: u64,
    cpu: Duration,
}

impl Watchdog {
    async fn start() -> Self {
        let server = PAIR.serve().await;
        let client = client(server.url());
        client.record(&[reading("oslo-1", 1.0)]).await.unwrap();
        let (memory, cpu) = (memory(server.pid()), cpu(server.pid()));
        Self { server, client, memory, cpu }
    }

    fn addr(&self) -> &str {
        self.server.addr()
    }

    /// Asserts that the client still works and that the attack cost at most this much.
    async fn end(self, max_memory_mib: u64, max_cpu: Duration) {
        within(self.client.record(&[reading("oslo-1", 1.0)])).await.unwrap();
        let grown = memory(self.server.pid()).saturating_sub(self.memory) / 1024;
        assert!(grown <= max_memory_mib, "the server grew by {grown} MiB");
        let used = cpu(self.server.pid()) - self.cpu;
        assert!(used <= max_cpu, "the server used {used:?} of CPU time");
        self.server.stop().await;
    }
}

/// Returns the CPU time of a process, as the scheduler counts it.
fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = tasks.filter_map(|task| {
        let schedstat = fs::read_to_string(task.unwrap().path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// RFC 9113, section 3.4: each endpoint is required to send a preface. One that does not
/// would otherwise hold its connection forever.
#[apply(test!)]
async fn a_connection_without_a_complete_preface_is_closed() {
    let local = Local::start(|config| config.limits.handshake_timeout = Duration::from_millis(200)).await;
    let other = connect(&local.addr).await;
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for sent in [0, 1, 12, 24, 30] {
        let mut raw = Raw::tcp(&local.addr).await;
        raw.send(&hello[..sent]).await;
        assert!(raw.next(HEADERS).await.is_none(), "still open after {sent} bytes");
    }
    // Sending one byte at a time does not help.
    let mut slow = Raw::tcp(&local.addr).await;
    for byte in &hello[..32] {
        if !slow.try_send(&[*byte]).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(slow.next(HEADERS).await.is_none());
    // A connection that sent its preface in time stays open.
    assert_eq!(unary(&other, RECORD, &[], record_one()).await.code(), "0");
    drop(other);
    local.stop().await;
}

#[apply(test!)]
async fn a_connection_that_sends_garbage_is_closed() {
    let watchdog = Watchdog::start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello, more or less, and then some",
        &[0xff; 100_000],
    ] {
        let mut raw = Raw::tcp(watchdog.addr()).await;
        raw.try_send(garbage).await;
        raw.read_to_end().await;
    }
    // A valid start, then invalid frames (RFC 9113, sections 4.2, 5.1, 6.1, 6.5, 6.9,
    // 6.10).
    for nonsense in [
        frame(DATA, 0, 0, b"x"),
        frame(DATA, 0, 7, b"x"),
        frame(SETTINGS, 0, 0, b"12345"),
        frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(CONTINUATION, 0, 1, b""),
        frame(HEADERS, END_HEADERS, 2, &call_headers(RECORD)),
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
        b"\xff\xff\xff\0\0\0\0\0\x01".to_vec(),
    ] {
        let mut raw = Raw::connect(watchdog.addr()).await;
        raw.send(&nonsense).await;
        let frames = raw.read_to_end().await;
        assert!(goaway(&frames).is_some_and(|code| code != 0), "{nonsense:?}: {frames:?}");
    }
    watchdog.end(20, Duration::from_secs(5)).await;
}

/// The GOAWAY arrives even if the peer keeps sending.
#[apply(test!)]
async fn a_goaway_is_not_lost_in_unread_input() {
    let watchdog = Watchdog::start().await;
    for _ in 0..50 {
        let mut raw = Raw::connect(watchdog.addr()).await;
        raw.try_send(&frame(DATA, 0, 0, b"x")).await;
        for _ in 0..100 {
            // Many clients that fail to send never look for a response.
            assert!(raw.try_send(&frame(DATA, 0, 1, &[0; 10_000])).await, "the connection was reset");
        }
        assert_eq!(goaway(&raw.read_to_end().await), Some(1));
    }
    watchdog.end(20, Duration::from_secs(5)).await;
}

#[apply(test!)]
async fn a_connection_that_stops_inside_a_frame_is_closed() {
    let local = Local::start(|config| {
        config.limits.keepalive_interval = Duration::from_millis(100);
        config.limits.keepalive_timeout = Duration::from_millis(100);
    })
    .await;
    let whole = frame(HEADERS, END_HEADERS, 1, &call_headers(RECORD));
    for sent in [5, 9, 20] {
        let mut raw = Raw::connect(&local.addr).await;
        raw.send(&whole[..sent]).await;
        raw.read_to_end().await;
    }
    local.stop().await;
}

#[apply(test!)]
async fn oversized_header_lists_are_refused() {
    let watchdog = Watchdog::start().await;
    // A list a little over the limit: the response is a 431.
    let mut raw = Raw::connect(watchdog.addr()).await;
    let mut large = call_headers(RECORD);
    large.extend(hpack(&[("x-large", &"a".repeat(16_000)), ("x-more", &"b".repeat(1_000))]));
    raw.send(&frame(HEADERS, 0, 1, &large[..16_000])).await;
    raw.send(&frame(CONTINUATION, END_HEADERS, 1, &large[16_000..])).await;
    let refused = raw.next(HEADERS).await.unwrap();
    assert_eq!(refused.stream, 1);
    // ":status" by its index, and "431" in the Huffman code of RFC 7541, appendix B.
    assert!(refused.payload.starts_with(&[0x48, 0x83, 0x69, 0x90, 0xff]), "{:02x?}", refused.payload);
    // The connection stays open.
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &call_headers(RECORD))).await;
    assert_eq!(raw.next(HEADERS).await.unwrap().stream, 3);

    // Endless CONTINUATION frames (CVE-2024-27316): the connection is closed.
    raw = Raw::connect(watchdog.addr()).await;
    raw.send(&frame(HEADERS, 0, 1, &call_headers(RECORD))).await;
    let more = frame(CONTINUATION, 0, 1, &hpack(&[("x-large", &"a".repeat(10_000))]));
    let mut sent = 0;
    while sent < 100_000 && raw.try_send(&more).await {
        sent += 1;
    }
    raw.read_to_end().await;
    // A small block that refers to one large table entry thousands of times.
    raw = Raw::connect(watchdog.addr()).await;
    let mut bomb = call_headers(RECORD);
    bomb.push(0x40); // With incremental indexing: it becomes entry 62.
    bomb.extend(&hpack(&[("x-bomb", &"a".repeat(3_900))])[1..]);
    bomb.extend([0xbe; 12_000]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &bomb)).await;
    assert!(raw.next(HEADERS).await.is_none_or(|refused| refused.stream == 1));
    drop(raw);
    watchdog.end(30, Duration::from_secs(10)).await;
}

/// CVE-2023-44487, with the frames all at once and one by one.
#[apply(test!)]
#[alone]
async fn a_rapid_reset_closes_the_connection() {
    let watchdog = Watchdog::start().await;
    let headers = call_headers(MONITOR);
    let attack = |stream: u32| {
        [frame(HEADERS, END_HEADERS, stream, &headers), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())]
            .concat()
    };
    // All at once.
    let mut raw = Raw::connect(watchdog.addr()).await;
    let many: Vec<u8> = (0..50_000).flat_map(|i| attack(2 * i + 1)).collect();
    raw.try_send(&many).await;
    let frames = raw.read_to_end().await;
    assert!(goaway(&frames).is_none_or(|code| code == 11), "the GOAWAY should say ENHANCE_YOUR_CALM");

    // One by one. A PING in between gives the server time to begin each call.
    raw = Raw::connect(watchdog.addr()).await;
    let request = record_one();
    let mut opened = 0;
    for i in 0..10_000u32 {
        let stream = 2 * i + 1;
        // Half a request, so that the call cannot end before it is reset.
        let open = [
            frame(HEADERS, END_HEADERS, stream, &call_headers(RECORD)),
            frame(DATA, 0, stream, &request[..10]),
            frame(PING, 0, 0, &[7; 8]),
        ];
        if !raw.try_send(&open.concat()).await || raw.next(PING).await.is_none() {
            break;
        }
        if !raw.try_send(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await {
            break;
        }
        opened += 1;
    }
    assert!((100..1000).contains(&opened), "{opened} streams before the connection was closed");
    drop(raw);
    watchdog.end(50, Duration::from_secs(10)).await;
}

/// Floods of small frames, from a peer that reads none of the responses.
#[apply(test!)]
#[alone]
async fn floods_do_not_make_the_server_grow() {
    let watchdog = Watchdog::start().await;
    for flood in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()),
        frame(0xbe, 0, 0, b"a type of frame that nobody knows"),
    ] {
        let mut raw = Raw::connect(watchdog.addr()).await;
        let chunk = flood.repeat(1000);
        for _ in 0..300 {
            // If the socket is full, the server has stopped reading, which is fine.
            let sent = tokio::time::timeout(Duration::from_millis(300), async {
                tokio::io::AsyncWriteExt::write_all(&mut raw.stream, &chunk).await.is_ok()
            });
            if !sent.await.unwrap_or(false) {
                break;
            }
        }
    }
    // Empty DATA frames on an open stream, then 2,000 half requests.
    let mut raw = Raw::connect(watchdog.addr()).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(UPLOAD))).await;
    let empty = frame(DATA, 0, 1, &[]).repeat(1000);
    for _ in 0..300 {
        if !raw.try_send(&empty).await {
            break;
        }
    }
    raw = Raw::connect(watchdog.addr()).await;
    for i in 0..2000 {
        let open = [
            frame(HEADERS, END_HEADERS, 2 * i + 1, &call_headers(RECORD)),
            frame(DATA, 0, 2 * i + 1, b"\0\0\x0f\0\0"), // The prefix announces almost 1 MiB.
        ];
        if !raw.try_send(&open.concat()).await {
            break;
        }
    }
    drop(raw);
    watchdog.end(60, Duration::from_secs(20)).await;
}
