//! Connecting again, with either broker.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tracing::warn;

use crate::error::Error;

/// Repeats an attempt until it succeeds, with growing pauses, for ever: whoever
/// does not want to wait drops the future. Only an error that no repetition can
/// cure ends it.
pub(crate) async fn until_connected<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times();
    attempt
        .retry(pauses)
        .when(Error::is_transient)
        .notify(|error, pause| warn!("{error}; trying again in {pause:?}"))
        .await
}
