//! Hostile peers that send single frames. Each attack runs against the real server, whose
//! memory and CPU time are looked at, beside a client that must not notice.

use std::fs;
use std::time::Duration;

use tests::{Server, apply, test};

use crate::faults::memory;
use crate::support::*;

/// A client that keeps working, and the server's use of the machine.
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

    /// Other clients keep working, and the attack cost at most this much.
    async fn end(self, max_memory_mib: u64, max_cpu: Duration) {
        within(self.client.record(&[reading("oslo-1", 1.0)])).await.unwrap();
        let grown = memory(self.server.pid()).saturating_sub(self.memory) / 1024;
        assert!(grown <= max_memory_mib, "the server grew by {grown} MiB");
        let used = cpu(self.server.pid()) - self.cpu;
        assert!(used <= max_cpu, "the server used {used:?} of CPU time");
        self.server.stop().await;
    }
}

/// CPU time of a process, from the scheduler.
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
async fn silence_and_half_a_preface_are_closed() {
    let local = Local::start(|config| config.limits.handshake_timeout = Duration::from_millis(200)).await;
    let other = connect(&local.addr).await;
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for sent in [0, 1, 12, 24, 30] {
        let mut raw = Raw::tcp(&local.addr).await;
        raw.send(&hello[..sent]).await;
        assert!(raw.next(HEADERS).await.is_none(), "open after {sent} bytes");
    }
    // One byte at a time does not help.
    let mut slow = Raw::tcp(&local.addr).await;
    for byte in &hello[..32] {
        if !slow.try_send(&[*byte]).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(slow.next(HEADERS).await.is_none());
    // Having said hello in time, a connection stays.
    assert_eq!(unary(&other, RECORD, &[], record_one()).await.code(), "0");
    drop(other);
    local.stop().await;
}

#[apply(test!)]
async fn garbage_is_closed() {
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
    // Well begun, then nonsense: RFC 9113, sections 4.2, 5.1, 6.1, 6.5, 6.9, 6.10.
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

/// The GOAWAY arrives although the peer keeps sending.
#[apply(test!)]
async fn a_goaway_is_not_lost_in_unread_input() {
    let watchdog = Watchdog::start().await;
    for _ in 0..50 {
        let mut raw = Raw::connect(watchdog.addr()).await;
        raw.try_send(&frame(DATA, 0, 0, b"x")).await;
        for _ in 0..100 {
            // Many a client that fails to send never looks for an answer.
            assert!(raw.try_send(&frame(DATA, 0, 1, &[0; 10_000])).await, "the connection was reset");
        }
        assert_eq!(goaway(&raw.read_to_end().await), Some(1));
    }
    watchdog.end(20, Duration::from_secs(5)).await;
}

#[apply(test!)]
async fn half_a_frame_is_closed() {
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
    // In one frame: the stream is answered 431.
    let mut raw = Raw::connect(watchdog.addr()).await;
    let mut large = call_headers(RECORD);
    large.extend(hpack(&[("x-large", &"a".repeat(16_000)), ("x-more", &"b".repeat(1_000))]));
    raw.send(&frame(HEADERS, 0, 1, &large[..16_000])).await;
    raw.send(&frame(CONTINUATION, END_HEADERS, 1, &large[16_000..])).await;
    let refused = raw.next(HEADERS).await.unwrap();
    assert_eq!(refused.stream, 1);
    // ":status" by its index, and "431" in the Huffman code of RFC 7541, appendix B.
    assert!(refused.payload.starts_with(&[0x48, 0x83, 0x69, 0x90, 0xff]), "{:02x?}", refused.payload);
    // The connection goes on.
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &call_headers(RECORD))).await;
    assert_eq!(raw.next(HEADERS).await.unwrap().stream, 3);

    // CONTINUATION without end (CVE-2024-27316): the connection is closed.
    raw = Raw::connect(watchdog.addr()).await;
    raw.send(&frame(HEADERS, 0, 1, &call_headers(RECORD))).await;
    let more = frame(CONTINUATION, 0, 1, &hpack(&[("x-large", &"a".repeat(10_000))]));
    let mut sent = 0;
    while sent < 100_000 && raw.try_send(&more).await {
        sent += 1;
    }
    raw.read_to_end().await;
    // A small block that names one large table entry thousands of times.
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

/// CVE-2023-44487, in the two ways in which frames can arrive.
#[apply(test!)]
#[alone]
async fn rapid_reset_is_closed() {
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
    assert!(goaway(&frames).is_none_or(|code| code == 11), "ENHANCE_YOUR_CALM");

    // One by one, each after the server had time to begin with it: a PING answered in between.
    raw = Raw::connect(watchdog.addr()).await;
    let request = record_one();
    let mut opened = 0;
    for i in 0..10_000u32 {
        let stream = 2 * i + 1;
        // Half a request, so that the call can't be answered before it is reset.
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

/// Frames that cost an answer each, from a peer that does not read the answers.
#[apply(test!)]
#[alone]
async fn floods_do_not_grow_the_server() {
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
            // A full socket: the server has stopped reading, which is its right.
            let sent = tokio::time::timeout(Duration::from_millis(300), async {
                tokio::io::AsyncWriteExt::write_all(&mut raw.stream, &chunk).await.is_ok()
            });
            if !sent.await.unwrap_or(false) {
                break;
            }
        }
    }
    // Empty DATA frames on an open stream, and a thousand half requests.
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
            frame(DATA, 0, 2 * i + 1, b"\0\0\x0f\0\0"), // A megabyte will follow, it says.
        ];
        if !raw.try_send(&open.concat()).await {
            break;
        }
    }
    drop(raw);
    watchdog.end(60, Duration::from_secs(20)).await;
}
