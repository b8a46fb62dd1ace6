//! Liveness: how each end notices that the other one is gone or too slow.
//!
//! TCP reports a peer that closes its connection, but not one whose cable was pulled:
//! a connection on which nobody writes stays open forever. So each end sends a ping
//! (RFC 6455, section 5.5.2) at an interval, which the other end's library answers on
//! its own. A peer from which no byte arrived for too long is considered dead.
//!
//! Bytes count here, not messages: a large message on a slow link takes longer than
//! any sensible patience with a silent peer. How slowly it may arrive is a bound of
//! its own. Otherwise a peer could keep a half-received message in memory for as long
//! as it likes, with a byte now and then (a *slow loris*).
//!
//! The WebSocket library only reports whole messages. So a [`MeteredStream`] below it
//! counts the bytes of its TCP connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How patient one end of a connection is with the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Time between two pings. The peer is looked at each time.
    pub(crate) heartbeat: Duration,
    /// Time without a byte after which the peer is dead.
    pub(crate) dead_after: Duration,
    /// Slowest average rate of a message, in bytes per second, looked at from
    /// `dead_after` after its beginning on.
    pub(crate) min_rate: u64,
}

/// Maximum size of a control frame, in bytes: 2, a mask of 4, and a payload of 125.
const MAX_CONTROL_FRAME: u64 = 131;

/// The clock of one end of a connection.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Interval,
    patience: Patience,
    /// Bytes of a control frame of the peer before its payload.
    control_header: u64,
    meter: Arc<Meter>,
    /// Bytes received up to the last look, and the last look that found new ones.
    seen: u64,
    last_activity: Instant,
    /// Bytes received that belong to complete messages and control frames.
    complete: u64,
    /// The first look that found part of a message.
    partial_since: Option<Instant>,
}

/// Why a peer is given up.
#[derive(Debug, PartialEq)]
pub(crate) enum GiveUp {
    /// Nothing arrived for too long.
    Dead,
    /// A message arrives too slowly.
    TooSlow,
}

impl Heartbeat {
    /// `masked` is whether the peer's frames have a mask, which those of clients do.
    pub(crate) fn new(patience: Patience, masked: bool, meter: Arc<Meter>) -> Self {
        let now = Instant::now();
        let mut interval = interval_at(now + patience.heartbeat, patience.heartbeat);
        // After a pause (a suspended laptop) one ping is enough.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let control_header = if masked { 6 } else { 2 };
        let (seen, complete) = (0, 0);
        Self {
            interval,
            patience,
            control_header,
            meter,
            seen,
            last_activity: now,
            complete,
            partial_since: None,
        }
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// A message is complete. What was read beyond its end is not counted as the
    /// beginning of the next one: this is at most one read buffer.
    pub(crate) fn on_message(&mut self) {
        self.complete = self.meter.received();
        self.partial_since = None;
    }

    /// A control frame is complete, perhaps between the fragments of a message.
    pub(crate) fn on_control_frame(&mut self, payload: usize) {
        let complete = self.complete + self.control_header + payload as u64;
        self.complete = complete.min(self.meter.received());
        // What is left may be the beginning of the next one.
        if self.meter.received() - self.complete <= MAX_CONTROL_FRAME {
            self.partial_since = None;
        }
    }

    /// Completes when the next ping is due. Cancel safe.
    pub(crate) async fn due(&mut self) -> Result<(), GiveUp> {
        self.interval.tick().await;
        let (now, received) = (Instant::now(), self.meter.received());
        if received != self.seen {
            (self.seen, self.last_activity) = (received, now);
        }
        if now - self.last_activity >= self.patience.dead_after {
            return Err(GiveUp::Dead);
        }
        let partial = received - self.complete;
        if partial == 0 {
            return Ok(());
        }
        let elapsed = now - *self.partial_since.get_or_insert(now);
        let too_slow =
            elapsed >= self.patience.dead_after && is_slower(partial, elapsed, self.patience.min_rate);
        if too_slow { Err(GiveUp::TooSlow) } else { Ok(()) }
    }
}

/// Whether so many bytes in this time are less than `min_rate` bytes per second.
pub(crate) fn is_slower(bytes: u64, time: Duration, min_rate: u64) -> bool {
    (bytes as f64) < min_rate as f64 * time.as_secs_f64()
}

/// The bytes that a connection has moved so far.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Meter {
    /// Bytes from the peer.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes that the kernel has taken for the peer.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Adds to a count that only one task changes at a time.
fn add(count: &AtomicU64, more: usize) {
    count.store(count.load(Ordering::Relaxed) + more as u64, Ordering::Relaxed);
}

/// A TCP connection that counts.
#[derive(Debug)]
pub(crate) struct MeteredStream {
    stream: TcpStream,
    meter: Arc<Meter>,
}

impl MeteredStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, meter: Arc::default() }
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(crate) fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn into_inner(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        add(&self.meter.received, buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        add(&self.meter.sent, count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
