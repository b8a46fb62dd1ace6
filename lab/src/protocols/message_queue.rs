//! Code that the protocols with a broker share.

use message_queue::model::{Metric, Reading};

use super::batch::{STATION, Sample};

pub(crate) fn reading(sample: Sample) -> Reading {
    let Sample { temperature, recorded_at } = sample;
    Reading { station: STATION.into(), metric: Metric::Temperature, value: temperature, recorded_at }
}
