//! Heartbeats: how each end learns that the other is gone.
//!
//! TCP tells of a peer that closes, not of one whose cable was pulled: a
//! connection on which nobody writes stays open for ever. So each end sends a
//! ping (RFC 6455, section 5.5.2) at an interval, which the other end's library
//! answers by itself, and takes a peer from which nothing at all came for too long for dead.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// The clock of one end of a connection.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Interval,
    dead_after: Duration,
    heard: Instant,
}

/// Nothing was heard of the peer for too long.
#[derive(Debug)]
pub(crate) struct Dead;

impl Heartbeat {
    pub(crate) fn new(every: Duration, dead_after: Duration) -> Self {
        let now = Instant::now();
        let mut interval = interval_at(now + every, every);
        // After a pause (a suspended laptop) one ping is enough.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, dead_after, heard: now }
    }

    /// Something came in; what, does not matter.
    pub(crate) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Completes when the next ping is due. Cancel safe.
    pub(crate) async fn due(&mut self) -> Result<(), Dead> {
        self.interval.tick().await;
        if self.heard.elapsed() >= self.dead_after { Err(Dead) } else { Ok(()) }
    }
}
