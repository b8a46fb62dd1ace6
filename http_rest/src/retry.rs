//! When to send a request again: only where a second execution does no harm, only
//! for failures that may pass, more slowly each time, and not for ever.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::time::{Instant, timeout};

use crate::client::Error;
use crate::problem::KEY_IN_USE;

/// Attempts after the first.
pub const MAX_RETRIES: usize = 4;

/// Pause before the first retry; it doubles for each one after. A random part
/// (jitter) is added, so that the clients of a server that was restarted do not all
/// come back at once.
pub const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause of our own; a server's `Retry-After` may ask for more.
pub const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Longest time from a call to its result, all attempts and pauses included.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether a second execution of a request would do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The method is idempotent (RFC 9110, section 9.2.2): GET, PUT, DELETE.
    Idempotent,
    /// A POST that the server recognises by its `Idempotency-Key`.
    Keyed,
    /// It might: repeat it only if it certainly was not executed.
    Harmful,
}

/// Calls `attempt` until it succeeds, fails for good, or time or attempts run out.
pub(crate) async fn retry<T, F>(repeat: Repeat, attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let pauses = ExponentialBuilder::new()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_max_times(MAX_RETRIES)
        .with_jitter();
    let started = Instant::now();
    let attempts = attempt.retry(pauses).when(|error| may_pass(error, repeat)).adjust(|error, pause| {
        let pause = pause?.max(error.retry_after().unwrap_or_default());
        // Without time for another attempt, this error is the result.
        (pause < TOTAL_TIMEOUT.saturating_sub(started.elapsed())).then_some(pause)
    });
    timeout(TOTAL_TIMEOUT, attempts).await.unwrap_or(Err(Error::TimedOut))
}

/// Whether the same request may succeed, and may be sent, once more.
pub(crate) fn may_pass(error: &Error, repeat: Repeat) -> bool {
    match error {
        Error::Unreachable { .. } => true, // It was never sent.
        Error::Problem(problem) if problem.kind == KEY_IN_USE => repeat == Repeat::Keyed,
        Error::Problem(_) | Error::Unexpected { .. } => {
            let passing = matches!(error.status(), Some(429 | 502..=504)) || error.retry_after().is_some();
            passing && repeat != Repeat::Harmful
        }
        Error::Broken(_) => repeat != Repeat::Harmful,
        Error::TimedOut | Error::Address { .. } | Error::Setup(_) | Error::Redirect { .. } => false,
    }
}
