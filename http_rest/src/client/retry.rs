//! When to send a request again: only if a second execution does no harm, only after
//! failures that may pass, with growing pauses, and within a time limit.

use backon::{ExponentialBuilder, Retryable};
use tokio::time::{Instant, timeout};

use super::error::Error;
use crate::limits::{MAX_PAUSE, MAX_RETRIES, MIN_PAUSE, TOTAL_TIMEOUT};
use crate::protocol::problem::KEY_IN_USE;

/// Whether a second execution of a request would do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The method is idempotent (RFC 9110, section 9.2.2): GET, PUT, DELETE.
    Idempotent,
    /// A POST that the server recognizes by its `Idempotency-Key`.
    Keyed,
    /// A second execution might do harm: retry only if the request certainly was not executed.
    Harmful,
}

/// Calls `attempt` until it succeeds or fails for good, or until time or attempts run out.
///
/// The error is that of the last attempt. If that was not executed but an earlier one may
/// have been, the error says so.
pub(super) async fn retry<T, F>(repeat: Repeat, attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let pauses = ExponentialBuilder::new()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_max_times(MAX_RETRIES)
        .with_jitter();
    let started = Instant::now();
    let mut unknown = false;
    let attempts = attempt
        .retry(pauses)
        .when(|error| may_pass(error, repeat))
        .adjust(|error, pause| {
            let pause = pause?.max(error.retry_after().unwrap_or_default());
            // If no time is left for another attempt, this error is the result.
            (pause < TOTAL_TIMEOUT.saturating_sub(started.elapsed())).then_some(pause)
        })
        .notify(|error, _pause| unknown |= error.may_have_been_executed());
    let result = timeout(TOTAL_TIMEOUT, attempts).await.unwrap_or(Err(Error::TimedOut));
    result.map_err(|last| {
        if unknown && !last.may_have_been_executed() {
            return Error::EarlierAttempt { last: Box::new(last) };
        }
        last
    })
}

/// Returns whether the same request may be sent again, and may then succeed.
pub(super) fn may_pass(error: &Error, repeat: Repeat) -> bool {
    match error {
        Error::Unreachable { .. } => true, // It was never sent.
        Error::Problem(problem) if problem.kind == KEY_IN_USE => repeat == Repeat::Keyed,
        Error::Problem(_) | Error::Unexpected { .. } => {
            let passing = matches!(error.status(), Some(429 | 502..=504)) || error.retry_after().is_some();
            passing && repeat != Repeat::Harmful
        }
        Error::Broken(_) => repeat != Repeat::Harmful,
        Error::TimedOut
        | Error::Address { .. }
        | Error::Setup(_)
        | Error::Tls(_)
        | Error::Token(_)
        | Error::Redirect { .. }
        | Error::EarlierAttempt { .. } => false,
    }
}
