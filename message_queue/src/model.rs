//! The content of the messages: readings of weather stations, as JSON.

use serde::de::{DeserializeOwned, Deserializer, Error, Unexpected};
use serde::{Deserialize, Serialize};
use tcp_socket::base::json::{self, Object};

use crate::limits::{MAX_ERROR, MAX_RECORDED_AT, MAX_STATION_ID};

/// What a reading measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// All metrics.
    pub const ALL: [Self; 4] = [Self::Temperature, Self::Humidity, Self::Pressure, Self::Wind];

    /// Returns its name in JSON, routing keys, and channel names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Pressure => "pressure",
            Self::Wind => "wind",
        }
    }

    /// Returns the metric with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Returns the lowest and the highest accepted value, in the metric's unit.
    pub fn range(self) -> (f64, f64) {
        match self {
            Self::Temperature => (-100.0, 70.0),
            Self::Humidity => (0.0, 100.0),
            Self::Pressure => (800.0, 1100.0),
            Self::Wind => (0.0, 120.0),
        }
    }
}

/// One measurement by one station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// The station's ID, `[a-z0-9-]{1,32}`.
    pub station: String,
    /// What was measured.
    pub metric: Metric,
    /// The value, in the metric's unit and [range](Metric::range).
    pub value: f64,
    /// Time of the measurement, in milliseconds since the Unix epoch, up to [`MAX_RECORDED_AT`].
    #[serde(deserialize_with = "whole_number")]
    pub recorded_at: u64,
}

/// Reads an object from JSON. An error gives the field's path and the reason. Both may quote a
/// very long name from the JSON, so each is cut to [`MAX_ERROR`] characters.
pub(crate) fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let short = |text: String| text.chars().take(MAX_ERROR).collect::<String>();
    let mut json = serde_json::Deserializer::from_slice(text);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, error) = (error.path().to_string(), short(error.inner().to_string()));
        if path == "." { error } else { format!("{}: {error}", short(path)) }
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Reads a list of objects: for `#[serde(deserialize_with = "objects")]`.
pub(crate) fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(json: D) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(json)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

/// Reads an integer that is not negative. A number such as `1.0` counts as an integer.
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(json: D) -> Result<u64, D::Error> {
    let number = json::whole_number(json)?;
    u64::try_from(number)
        .map_err(|_negative| D::Error::invalid_value(Unexpected::Signed(number), &"0 or more"))
}

impl Reading {
    /// Checks that each field is valid.
    ///
    /// # Errors
    /// A text that names the first field that is not.
    pub fn check(&self) -> Result<(), String> {
        if !is_station_id(&self.station) {
            return Err(format!(
                "station: {:?} must be 1 to {MAX_STATION_ID} characters: a-z, 0-9, and -",
                shorten(&self.station)
            ));
        }
        let (low, high) = self.metric.range();
        if !(low..=high).contains(&self.value) {
            return Err(format!("value: {} is outside {low} to {high}", self.value));
        }
        if self.recorded_at > MAX_RECORDED_AT {
            return Err(format!("recorded_at: {} is outside 0 to {MAX_RECORDED_AT} ms", self.recorded_at));
        }
        Ok(())
    }
}

/// Returns whether `id` is a station's ID (1 to 32 characters: `a` to `z`, `0` to `9`, and `-`).
/// Such an ID is also safe as a word of a routing key or a channel name.
pub(crate) fn is_station_id(id: &str) -> bool {
    is_id(id, MAX_STATION_ID)
}

/// Returns the first characters of a string, to quote them to its sender.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

pub(crate) fn is_id(id: &str, longest: usize) -> bool {
    (1..=longest).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
