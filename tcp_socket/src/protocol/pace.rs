//! How slowly bytes may arrive.
//!
//! Silence and slowness are different faults. A peer from which nothing arrives is
//! gone. A peer on a slow link is not: its bytes show that it is alive, even if a
//! large frame takes longer than the idle timeout. But a peer that sends one byte now
//! and then, only to hold its connection (an attack called *slow loris*), looks
//! just as alive. So a frame also has a lowest rate.

use std::time::Duration;

use tokio::time::Instant;

/// The bounds on one connection, and what has arrived on it.
pub(crate) struct Pace {
    /// Time without a byte.
    silence: Duration,
    /// Time that any frame may take.
    grace: Duration,
    /// Bytes per second beyond that time.
    rate: u64,
    last_activity: Instant,
    /// When the incomplete frame began, and its bytes so far.
    began: Instant,
    arrived: usize,
}

impl Pace {
    pub(crate) fn new(silence: Duration, grace: Duration, rate: u32) -> Self {
        let now = Instant::now();
        Self { silence, grace, rate: rate.max(1).into(), last_activity: now, began: now, arrived: 0 }
    }

    /// Bytes have arrived.
    pub(crate) fn on_bytes(&mut self) {
        self.last_activity = Instant::now();
    }

    /// The whole frames are handled, if there were any, and that many bytes of the next
    /// have arrived. It is called after each read, so it must cost almost nothing.
    pub(crate) fn on_frames(&mut self, handled: bool, arrived: usize) {
        if handled || self.arrived == 0 {
            self.began = self.last_activity;
        }
        self.arrived = arrived;
    }

    /// Leaves a time out of account in which nothing was read.
    pub(crate) fn pause(&mut self, waited: Duration) {
        self.last_activity += waited;
        self.began += waited;
    }

    /// Until when more bytes have to arrive.
    pub(crate) fn deadline(&self) -> Instant {
        let silent = self.last_activity + self.silence;
        self.slow().map_or(silent, |slow| slow.min(silent))
    }

    /// Until when more bytes of the incomplete frame have to arrive, if there is one.
    pub(crate) fn slow(&self) -> Option<Instant> {
        let earned = Duration::from_millis(self.arrived as u64 * 1000 / self.rate);
        (self.arrived > 0).then(|| self.began + self.grace + earned)
    }
}
