//! How long to pause between two attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Growing pauses between attempts, without a limit on the number of attempts.
///
/// On average, each pause is twice as long as the one before, up to a maximum. A random
/// part (*jitter*) is added to each, so that the clients of a restarted server don't all
/// come back at the same moment.
///
/// Call [`Pauses::reset`] after real progress, such as a response or a completed job. An
/// accepted connection is not progress: if it were, a server that accepts connections but
/// refuses every request would be retried after the shortest pause each time.
#[derive(Debug)]
pub struct Pauses {
    builder: ExponentialBuilder,
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Pauses {
    /// Returns pauses that start between `shortest` and twice that, and grow to between
    /// half of `longest` and `longest`.
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(shortest)
            .with_max_delay((longest / 2).max(shortest)) // Jitter can double it.
            .with_jitter()
            .without_max_times();
        Self { builder, pauses: builder.build(), longest }
    }

    /// Returns the pause before the next attempt, in whole milliseconds.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pauses.next().unwrap_or(self.longest).min(self.longest);
        Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
    }

    /// Starts again with the shortest pause.
    pub fn reset(&mut self) {
        self.pauses = self.builder.build();
    }
}
