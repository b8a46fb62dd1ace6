//! The readings of weather stations, as JSON.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tcp_socket::base::json::whole_number;

use crate::limits::{MAX_BATCH, MAX_ID, MAX_RECORDED_AT};

/// What a reading measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Air temperature in °C, -100 to 70.
    Temperature,
    /// Relative humidity in percent, 0 to 100.
    Humidity,
    /// Air pressure in hPa, 800 to 1100.
    Pressure,
    /// Wind speed in m/s, 0 to 120.
    Wind,
}

impl Metric {
    /// All metrics. The index of a metric is `metric as usize`.
    pub const ALL: [Self; 4] = [Self::Temperature, Self::Humidity, Self::Pressure, Self::Wind];

    /// Returns the metric's name in JSON.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    const NAMES: [&'static str; 4] = ["temperature", "humidity", "pressure", "wind"];

    /// Returns the metric with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Returns the lowest and the highest accepted value, in the metric's unit.
    pub(crate) fn range(self) -> (f64, f64) {
        match self {
            Self::Temperature => (-100.0, 70.0),
            Self::Humidity => (0.0, 100.0),
            Self::Pressure => (800.0, 1100.0),
            Self::Wind => (0.0, 120.0),
        }
    }
}

impl<'de> Deserialize<'de> for Metric {
    /// Accepts only a string. The code that serde derives for an enum would also accept an
    /// object, such as `{"wind": null}`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Metric;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a metric")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Metric, E> {
                Metric::from_name(name).ok_or_else(|| E::unknown_variant(name, &Metric::NAMES))
            }
        }

        deserializer.deserialize_str(Name)
    }
}

/// One measurement by one station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// The station's ID, 1 to 32 characters: a-z, 0-9, and -.
    pub station: String,
    /// What was measured.
    pub metric: Metric,
    /// The value in the metric's unit and range: see [`Metric`].
    pub value: f64,
    /// Time of the measurement, in milliseconds since the Unix epoch, up to the end of the
    /// year 9999.
    #[serde(deserialize_with = "whole_number")]
    pub recorded_at: u64,
}

impl Reading {
    /// Checks that each field is within its range.
    ///
    /// # Errors
    /// The error names the first field that isn't.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (low, high) = self.metric.range();
        if !is_id(&self.station) {
            return Err(format!(
                "station: {:?} must be 1 to {MAX_ID} characters: a-z, 0-9, and -",
                shorten(&self.station)
            ));
        }
        if !(low..=high).contains(&self.value) {
            return Err(format!("value: {} is outside {low} to {high}", self.value));
        }
        if self.recorded_at > MAX_RECORDED_AT {
            return Err(format!("recorded_at: {} is outside 0 to {MAX_RECORDED_AT} ms", self.recorded_at));
        }
        Ok(())
    }
}

/// Checks that a batch has 1 to [`MAX_BATCH`] readings, each within its range.
///
/// # Errors
/// The error names the first field that is wrong, and counts the readings from 0.
pub(crate) fn check_batch(readings: &[Reading]) -> Result<(), String> {
    if !(1..=MAX_BATCH).contains(&readings.len()) {
        return Err(format!("a batch holds 1 to {MAX_BATCH} readings, not {}", readings.len()));
    }
    let wrong = |(index, reading): (usize, &Reading)| {
        reading.check().err().map(|reason| format!("readings[{index}].{reason}"))
    };
    readings.iter().enumerate().find_map(wrong).map_or(Ok(()), Err)
}

/// Returns whether `id` is valid for a station or a room: 1 to 32 characters a-z, 0-9, and -.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Returns the first 40 characters of a text, to quote it in an error.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
