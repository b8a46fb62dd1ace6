//! When to retry a call: only if the failed attempt certainly had no effect.
//!
//! `UNAVAILABLE` invites a retry, but a `Record` that is sent twice may be stored twice.
//! A retry is safe only if there was no connection, if the server refused the stream
//! unprocessed, or if the server itself sent `UNAVAILABLE`, which in this contract means
//! that it did nothing. If a connection breaks after the request was sent, the client
//! cannot know what the server did.

use backon::{ExponentialBuilder, Retryable};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::error::{LocalCause, local_cause};
use crate::limits::{MAX_RETRIES, MIN_PAUSE};
use crate::protocol::status::deadline_exceeded;

/// Returns whether the call certainly had no effect, and a retry may succeed soon.
pub(super) fn is_safe(status: &Status) -> bool {
    match local_cause(status) {
        None => status.code() == Code::Unavailable,
        Some(local) => matches!(local, LocalCause::NotConnected | LocalCause::NotProcessed),
    }
}

/// Tries until an attempt succeeds, a retry is not safe, all retries are used, or
/// `deadline` passes.
pub(super) async fn retry<T, F>(deadline: Instant, attempt: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let pauses =
        ExponentialBuilder::default().with_min_delay(MIN_PAUSE).with_max_times(MAX_RETRIES).with_jitter();
    timeout_at(deadline, attempt.retry(pauses).when(is_safe))
        .await
        .unwrap_or_else(|_elapsed| Err(deadline_exceeded()))
}
