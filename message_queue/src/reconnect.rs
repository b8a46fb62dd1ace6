//! Connecting again, with either broker.

use std::time::Duration;

use tcp_socket::base::retry::Pauses;
use tokio::time::sleep;
use tracing::warn;

use crate::error::Error;
use crate::limits::{MAX_PAUSE, MIN_PAUSE};

/// Decides after each error whether to try again, and when.
///
/// A broker can accept every connection and then refuse all the work. So the pauses
/// grow until some work has succeeded, not just until a connection has.
pub(crate) struct Retry(Pauses);

impl Retry {
    pub(crate) fn new() -> Self {
        Self(Pauses::new(MIN_PAUSE, MAX_PAUSE))
    }

    /// Says that the broker has confirmed, delivered, or answered something. The
    /// next pause is the shortest one again.
    pub(crate) fn progress(&mut self) {
        self.0.reset();
    }

    /// Returns the pause before the next attempt.
    ///
    /// # Errors
    /// The error itself if no further attempt can cure it.
    pub(crate) fn pause_after(&mut self, error: Error) -> Result<Duration, Error> {
        if error.is_transient() { Ok(self.0.next_pause()) } else { Err(error) }
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
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        loop {
            match attempt().await {
                Ok(connected) => return Ok(connected),
                Err(error) => self.after(error).await?,
            }
        }
    }

    /// [`Retry::after`], then [`Retry::retry_connect`].
    pub(crate) async fn reconnect<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        error: Error,
        attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        self.after(error).await?;
        self.retry_connect(attempt).await
    }

    /// [`Retry::retry_connect`] for a program that starts. Without any broker it
    /// fails at once: the person who started it may have to start the broker too.
    pub(crate) async fn first<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        match attempt().await {
            Err(error @ Error::NoBroker { .. }) => Err(error),
            Err(error) => self.reconnect(error, attempt).await,
            Ok(connected) => Ok(connected),
        }
    }
}
