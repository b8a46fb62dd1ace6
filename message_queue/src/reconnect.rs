//! Connecting again, with either broker.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tracing::warn;

use crate::error::Error;

/// Pause before the second attempt to connect; it doubles for each one after. A random
/// part (jitter) is added, so that the clients of a broker that was restarted do not
/// all come back at once.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between two attempts.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Repeats an attempt until it succeeds, with growing pauses, for ever: whoever
/// does not want to wait drops the future. Only an error that no repetition can
/// cure ends it.
pub(crate) async fn until_connected<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times();
    attempt
        .retry(pauses)
        .when(Error::is_transient)
        .notify(|error, pause| warn!("{error}; connecting again in {pause:?}"))
        .await
}
