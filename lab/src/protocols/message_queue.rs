//! What the protocols through a broker share.

use message_queue::model::{Metric, Reading};
use tokio_util::sync::CancellationToken;

use super::{STATION, Sample};
use crate::server::owner_is_gone;

pub(super) fn reading(sample: Sample) -> Reading {
    let Sample { temperature, recorded_at } = sample;
    Reading { station: STATION.into(), metric: Metric::Temperature, value: temperature, recorded_at }
}

/// Cancelled when the lab closes this process's stdin.
pub(super) fn until_owner_is_gone() -> CancellationToken {
    let shutdown = CancellationToken::new();
    let cancelled = shutdown.clone();
    tokio::spawn(async move {
        owner_is_gone().await;
        cancelled.cancel();
    });
    shutdown
}
