//! Liveness: how each end notices that the other one is gone or too slow.
//!
//! TCP reports a peer that closes its connection, but not one whose cable was pulled: a
//! connection on which nobody writes stays open forever. So each end regularly sends a ping
//! (RFC 6455, section 5.5.2), and the other end's library responds to it on its own. An end
//! that has received no byte for too long considers its peer dead.
//!
//! Bytes count here, not messages: on a slow link, a large message may take longer to arrive
//! than a peer may stay silent. A second limit says how slowly a message may arrive. Without
//! it, a peer could keep a half-received message in memory for as long as it likes by sending
//! a byte now and then (a *slow loris*).
//!
//! The WebSocket library reports only whole messages, so a [`MeteredStream`] below it counts
//! the bytes of the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::io::{InspectReader, InspectWriter};

/// How patient one end of a connection is with the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Time between two pings. The peer is checked before each one.
    pub(crate) heartbeat: Duration,
    /// Time without a byte after which the peer is considered dead.
    pub(crate) dead_after: Duration,
    /// Minimum average rate at which a message must arrive, in bytes per second. It applies
    /// once the message has been arriving for `dead_after`.
    pub(crate) min_rate: u64,
}

/// Maximum size of a control frame: a header of 2 bytes, a mask of 4, and a payload of 125.
const MAX_CONTROL_FRAME: u64 = 131;

/// Decides when one end of a connection sends a ping, and when it gives up on its peer.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Interval,
    patience: Patience,
    /// Size of the header of the peer's control frames in bytes, including the mask.
    control_header: u64,
    meter: Arc<Meter>,
    /// Bytes received up to the last check.
    seen: u64,
    /// Time of the last check that found new bytes.
    last_activity: Instant,
    /// Bytes received that belong to complete messages and control frames.
    complete: u64,
    /// Time of the first check that found part of a message.
    partial_since: Option<Instant>,
}

/// Why this end gives up on its peer.
#[derive(Debug, PartialEq)]
pub(crate) enum GiveUp {
    /// Nothing arrived for too long.
    Dead,
    /// A message arrives too slowly.
    TooSlow,
}

impl Heartbeat {
    /// Starts the clock. `masked` says whether the peer masks its frames, as clients do.
    pub(crate) fn new(patience: Patience, masked: bool, meter: Arc<Meter>) -> Self {
        let now = Instant::now();
        let mut interval = interval_at(now + patience.heartbeat, patience.heartbeat);
        // After a long pause, such as when a laptop was suspended, one ping is enough.
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

    /// Notes that a message is complete. If bytes beyond its end were read with it, they are
    /// not counted as part of the next message. They are at most one read buffer.
    pub(crate) fn on_message(&mut self) {
        self.complete = self.meter.received();
        self.partial_since = None;
    }

    /// Notes that a control frame is complete. It may have come between the fragments of a
    /// message.
    pub(crate) fn on_control_frame(&mut self, payload: usize) {
        let complete = self.complete + self.control_header + payload as u64;
        self.complete = complete.min(self.meter.received());
        // The rest may be the start of another control frame, not of a message.
        if self.meter.received() - self.complete <= MAX_CONTROL_FRAME {
            self.partial_since = None;
        }
    }

    /// Completes when the next ping is due. Cancel safe.
    ///
    /// # Errors
    /// The error says why this end gives up on its peer.
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

/// Returns whether `bytes` in `time` is a lower rate than `min_rate`, in bytes per second.
pub(crate) fn is_slower(bytes: u64, time: Duration, min_rate: u64) -> bool {
    (bytes as f64) < min_rate as f64 * time.as_secs_f64()
}

/// Counts the bytes that a connection has received and sent.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Meter {
    /// Returns the number of bytes received from the peer.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes handed to the kernel, or to TLS, which sends them to the peer.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Wraps a stream so that this meter counts its bytes.
    pub(crate) fn attach<S: AsyncRead + AsyncWrite>(self: &Arc<Self>, stream: S) -> MeteredStream<S> {
        let (received, sent) = (self.clone(), self.clone());
        let on_read: OnBytes = Box::new(move |bytes| add(&received.received, bytes.len()));
        let on_write: OnBytes = Box::new(move |bytes| add(&sent.sent, bytes.len()));
        InspectWriter::new(InspectReader::new(stream, on_read), on_write)
    }
}

/// Adds to a count. Only one task at a time changes it, so an atomic addition isn't needed.
fn add(count: &AtomicU64, more: usize) {
    count.store(count.load(Ordering::Relaxed) + more as u64, Ordering::Relaxed);
}

/// A stream whose bytes are counted.
pub(crate) type MeteredStream<S> = InspectWriter<InspectReader<S, OnBytes>, OnBytes>;

/// Called with the bytes of each read or write.
type OnBytes = Box<dyn FnMut(&[u8]) + Send + Sync>;
