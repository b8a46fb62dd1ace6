//! Every bound of the server in one place; a test shortens what it wants to see
//! exceeded.

use std::time::Duration;

/// The server's limits, with defaults for a small machine.
///
/// What the calls in flight can hold is bounded by `max_calls` times
/// `max_message`: 4 GiB, if each of them keeps back the last byte of a message
/// of the largest size for as long as `request_timeout` lets it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes in one message, decompressed; beyond it `RESOURCE_EXHAUSTED`.
    /// 10,000 readings take about 0.5 MB.
    pub max_message: usize,
    /// Maximum bytes in the header list of a call, counted as in RFC 9113, section
    /// 6.5.2; beyond it `RESOURCE_EXHAUSTED`. The document "gRPC over HTTP2" suggests
    /// 8 KiB.
    pub max_header_list: u32,
    /// Maximum bytes in a header list that the HTTP/2 library keeps. It answers a
    /// larger one on its own, with the HTTP status 431 and no gRPC status, and closes
    /// the connection if the list still does not end.
    pub max_kept_header_list: u32,
    /// Bytes of one call that may arrive before its handler takes them: HTTP/2
    /// flow control holds the sender back.
    pub stream_window: u32,
    /// The same for all calls of a connection together. It holds many times a
    /// stream's, so that calls which are not read do not hold up the others.
    pub connection_window: u32,
    /// Calls in flight on one connection; a client waits, or its stream is
    /// refused with `REFUSED_STREAM`, which is safe to send again.
    pub max_streams: u32,
    /// Calls in flight on all connections; beyond it `RESOURCE_EXHAUSTED`.
    pub max_calls: usize,
    /// Open connections; beyond it `GOAWAY` with `ENHANCE_YOUR_CALM`, and close.
    pub max_connections: usize,
    /// Connections beyond `max_connections` that are told so at the same time; more
    /// are closed without a word.
    pub max_refusals: usize,
    /// Calls on a connection that were given up before their answer, less those
    /// that were answered; beyond it the connection is closed. A client that
    /// opens streams and resets them at once (*rapid reset*, CVE-2023-44487)
    /// makes the server work without ever having many streams open.
    pub max_abandoned: usize,
    /// Time from the accept to the end of the client's preface and the head of
    /// its first frame; beyond it the connection is closed.
    pub handshake_timeout: Duration,
    /// Time from a call's headers to its answer, except for `Upload`; beyond it
    /// `DEADLINE_EXCEEDED`. A client that sends its request byte by byte pays
    /// with nothing but its own.
    pub request_timeout: Duration,
    /// Longest silence of an `Upload`; beyond it `DEADLINE_EXCEEDED`.
    pub upload_idle_timeout: Duration,
    /// A connection without a call is ended with `GOAWAY` after this long, or
    /// up to twice as long.
    pub idle_timeout: Duration,
    /// The server sends a `PING` this long after the last sign of life…
    pub keepalive_interval: Duration,
    /// …and closes the connection if no answer comes within this time.
    pub keepalive_timeout: Duration,
    /// After a shutdown signal, how long calls may take to finish. What is left
    /// then is answered with `UNAVAILABLE` and cut a second later.
    pub drain_timeout: Duration,
    /// After the server's last word on a connection, input is still read, and
    /// discarded, up to this many bytes and this long. Closing a socket with
    /// unread input makes the kernel send a reset, which can destroy the
    /// `GOAWAY` on its way to the client.
    pub linger_bytes: usize,
    /// See [`Limits::linger_bytes`].
    pub linger_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 1024 * 1024,
            max_header_list: 8 * 1024,
            max_kept_header_list: 16 * 1024,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            max_streams: 1024,
            max_calls: 4096,
            max_connections: 1024,
            max_refusals: 64,
            max_abandoned: 200,
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            upload_idle_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(8),
            linger_bytes: 16 * 1024 * 1024,
            linger_time: Duration::from_secs(2),
        }
    }
}
