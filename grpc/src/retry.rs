//! What a client may send twice.
//!
//! `UNAVAILABLE` invites to try again, but a `Record` that is sent twice may be
//! kept twice. It is safe only if it is known that the first one had no effect:
//! there was no connection, or the server refused the stream unprocessed, or the
//! server itself answered `UNAVAILABLE`, which in this contract means just that.
//! When a connection breaks after the request was sent, nobody knows.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::status::{Local, deadline_exceeded, local_cause};

/// Tries again at most so many times.
pub const RETRIES: usize = 4;

/// The pause before the second attempt. Each further one is twice as long, and
/// all of them vary at random, so that the clients of a restarted server do not
/// come back all at once.
pub const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Whether the call certainly had no effect, and may have one soon.
pub fn is_safe(status: &Status) -> bool {
    match local_cause(status) {
        None => status.code() == Code::Unavailable,
        Some(local) => matches!(local, Local::NotConnected | Local::NotProcessed),
    }
}

/// Makes attempts until one succeeds, fails for good, or `deadline` passes.
pub(crate) async fn retry<T, F>(deadline: Instant, attempt: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let pauses =
        ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_times(RETRIES).with_jitter();
    timeout_at(deadline, attempt.retry(pauses).when(is_safe))
        .await
        .unwrap_or_else(|_elapsed| Err(deadline_exceeded()))
}
