//! What arrives is checked before it is kept, and every wrong field is named.

use serde::Deserialize;
use tcp_socket::base::json::whole_number;

use crate::model::{MAX_RECORDED_AT, MAX_STATION_ID, Metric, Reading};
use crate::problem::FieldError;

/// A reading as it arrives: JSON of the right shape, not yet checked.
///
/// The fields are wider than those of [`Reading`], so that one answer can name
/// every field that is out of range. Parsing straight into `Reading` would stop
/// at the first.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UncheckedReading {
    station: String,
    metric: String,
    value: f64,
    #[serde(deserialize_with = "whole_number")]
    recorded_at: i64,
}

impl UncheckedReading {
    /// The reading, or what is wrong with each of its fields. `index` is its
    /// place in the batch.
    pub(crate) fn check(self, index: usize, errors: &mut Vec<FieldError>) -> Option<Reading> {
        let before = errors.len();
        let mut wrong = |field: &str, detail: String| {
            errors.push(FieldError { pointer: format!("#/readings/{index}/{field}"), detail });
        };
        if !is_station_id(&self.station) {
            wrong(
                "station",
                format!("{:?} is not of the form [a-z0-9-]{{1,{MAX_STATION_ID}}}", shorten(&self.station)),
            );
        }
        let metric = Metric::from_name(&self.metric);
        match metric {
            None => wrong(
                "metric",
                format!("{:?} is none of temperature, humidity, pressure, wind", shorten(&self.metric)),
            ),
            Some(metric) => {
                let (low, high) = metric.range();
                if !(low..=high).contains(&self.value) {
                    wrong("value", format!("{} is outside {low} to {high}", self.value));
                }
            }
        }
        let recorded_at = u64::try_from(self.recorded_at).ok().filter(|at| *at <= MAX_RECORDED_AT);
        if recorded_at.is_none() {
            wrong("recorded_at", format!("{} is outside 0 to {MAX_RECORDED_AT} ms", self.recorded_at));
        }
        if errors.len() > before {
            return None;
        }
        Some(Reading { station: self.station, metric: metric?, value: self.value, recorded_at: recorded_at? })
    }
}

/// Whether `id` is a station id: 1 to 32 of `a` to `z`, `0` to `9` and `-`.
pub(crate) fn is_station_id(id: &str) -> bool {
    (1..=MAX_STATION_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The first characters of a string that is quoted back to its sender.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
