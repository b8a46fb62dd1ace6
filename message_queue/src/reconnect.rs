//! Reconnecting to either broker.

use std::time::Duration;

use tcp_socket::base::retry::Pauses;
use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::error::{Error, SPEAKS_TLS};
use crate::limits::{MAX_PAUSE, MIN_PAUSE};

/// Number of failures in a row after which the log names a possible reason.
const HINT_AFTER: u32 = 3;

/// Decides after each error whether to try again, and when.
///
/// A broker can accept every connection and then refuse all the work. So the pauses
/// grow until some work has succeeded, not just until a connection has.
pub(crate) struct Retry {
    pauses: Pauses,
    /// Number of connections in a row that something accepted, but without a response.
    unanswered: u32,
}

impl Retry {
    pub(crate) fn new() -> Self {
        Self { pauses: Pauses::new(MIN_PAUSE, MAX_PAUSE), unanswered: 0 }
    }

    /// Notes that the broker has confirmed, delivered, or accepted something, so that the next
    /// pause is the shortest one again.
    pub(crate) fn progress(&mut self) {
        self.pauses.reset();
        self.unanswered = 0;
    }

    /// Returns the pause before the next attempt.
    ///
    /// # Errors
    /// The error itself if no further attempt can cure it.
    pub(crate) fn pause_after(&mut self, error: Error) -> Result<Duration, Error> {
        if !error.is_transient() {
            return Err(error);
        }
        if let Error::NoBroker { reached: true, url, .. } = &error {
            self.unanswered += 1;
            if self.unanswered == HINT_AFTER {
                warn!("{url} does not respond: {SPEAKS_TLS}");
            }
        }
        Ok(self.pauses.next_pause())
    }

    /// Pauses as after an error, for example while a queue on the broker is full.
    pub(crate) async fn pause(&mut self) {
        self.pause_until(Instant::now() + MAX_PAUSE).await;
    }

    /// Does the same, but not longer than until `end`.
    pub(crate) async fn pause_until(&mut self, end: Instant) {
        sleep_until(end.min(Instant::now() + self.pauses.next_pause())).await;
    }

    /// Logs an error and waits until it is time for the next attempt.
    ///
    /// # Errors
    /// The error itself if no further attempt can cure it.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        let text = error.to_string();
        let pause = self.pause_after(error)?;
        warn!("{text}; connecting again in {pause:?}");
        sleep(pause).await;
        Ok(())
    }

    /// Repeats an attempt until it succeeds. There is no limit: to stop waiting, drop
    /// the future.
    ///
    /// # Errors
    /// The first error that no further attempt can cure.
    pub(crate) async fn retry_connect<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        loop {
            match attempt().await {
                Ok(connected) => return Ok(connected),
                Err(error) => self.after(error).await?,
            }
        }
    }

    /// Does the same as [`Retry::retry_connect`] when a program starts. If no broker answers, it
    /// fails at once: the user may have to start one first.
    pub(crate) async fn first<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        match attempt().await {
            Ok(connected) => return Ok(connected),
            Err(error @ Error::NoBroker { .. }) => return Err(error),
            Err(error) => self.after(error).await?,
        }
        self.retry_connect(attempt).await
    }

    /// Connects again after a session has ended, or returns `None` if the program is done: the
    /// session returned `Ok`, or `shutdown` came. A shutdown does not wait for a connection, since
    /// without one there is nothing to finish.
    ///
    /// # Errors
    /// The first error that no further attempt can cure.
    pub(crate) async fn next<C, F: Future<Output = Result<C, Error>>>(
        &mut self,
        ended: Result<(), Error>,
        attempt: impl Fn() -> F,
        shutdown: &CancellationToken,
    ) -> Result<Option<C>, Error> {
        let Err(error) = ended else { return Ok(None) };
        if shutdown.is_cancelled() && error.is_transient() {
            return Ok(None);
        }
        let reconnected = async {
            self.after(error).await?;
            self.retry_connect(attempt).await
        };
        // Cancel safe: nothing is held while there is no connection.
        select! {
            biased; // An error that ends the program takes precedence over the shutdown.
            connected = reconnected => connected.map(Some),
            () = shutdown.cancelled() => Ok(None),
        }
    }
}
