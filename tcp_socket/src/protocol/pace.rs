//! How slowly bytes may arrive.
//!
//! A silent peer and a slow one need different limits. If nothing arrives for the idle
//! timeout, the peer is probably gone. Bytes that arrive slowly show that it is alive, even
//! if a large frame takes longer than that. But an attacker can also send one byte now and
//! then, only to keep a connection occupied (the *slow loris* attack). So each frame also has
//! to arrive at a minimum rate.

use std::time::Duration;

use tokio::time::Instant;

/// The limits of one connection, and what has arrived on it.
pub(crate) struct Pace {
    /// Maximum time without a byte.
    silence: Duration,
    /// Time that a frame may take at any rate.
    grace: Duration,
    /// Minimum rate of a frame that takes longer, in bytes per second.
    rate: u64,
    last_activity: Instant,
    /// When the incomplete frame began, and how many of its bytes have arrived.
    began: Instant,
    arrived: usize,
}

impl Pace {
    pub(crate) fn new(silence: Duration, grace: Duration, rate: u32) -> Self {
        let now = Instant::now();
        Self { silence, grace, rate: rate.max(1).into(), last_activity: now, began: now, arrived: 0 }
    }

    /// Notes that bytes have arrived.
    pub(crate) fn on_bytes(&mut self) {
        self.last_activity = Instant::now();
    }

    /// Notes whether whole frames were handled, and how many bytes of the next one have
    /// arrived. It is called after each read, so it must cost almost nothing.
    pub(crate) fn on_frames(&mut self, handled: bool, arrived: usize) {
        if handled || self.arrived == 0 {
            self.began = self.last_activity;
        }
        self.arrived = arrived;
    }

    /// Excludes time that was spent on writing, during which nothing was read.
    pub(crate) fn pause(&mut self, waited: Duration) {
        self.last_activity += waited;
        self.began += waited;
    }

    /// Returns when the next bytes must have arrived.
    pub(crate) fn deadline(&self) -> Instant {
        let silent = self.last_activity + self.silence;
        self.slow().map_or(silent, |slow| slow.min(silent))
    }

    /// Returns when more bytes of the incomplete frame must have arrived, if there is one.
    pub(crate) fn slow(&self) -> Option<Instant> {
        let earned = Duration::from_millis(self.arrived as u64 * 1000 / self.rate);
        (self.arrived > 0).then(|| self.began + self.grace + earned)
    }
}
