//! Readings of weather stations. [`crate::protocol::message`] shows their bytes on the wire.

use crate::limits::MAX_STATION_ID;

/// What a reading measures. The discriminant is its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Metric {
    /// Air temperature in °C, -100 to 70.
    Temperature = 1,
    /// Relative humidity in percent, 0 to 100.
    Humidity = 2,
    /// Air pressure in hPa, 800 to 1100.
    Pressure = 3,
    /// Wind speed in m/s, 0 to 120.
    Wind = 4,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Self; 4] = [Self::Temperature, Self::Humidity, Self::Pressure, Self::Wind];

    /// Returns the metric with this number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Temperature),
            2 => Some(Self::Humidity),
            3 => Some(Self::Pressure),
            4 => Some(Self::Wind),
            _ => None,
        }
    }

    /// Returns the metric with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Returns the name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Pressure => "pressure",
            Self::Wind => "wind",
        }
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
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The station's ID, `[a-z0-9-]{1,32}`.
    pub station: String,
    /// What was measured.
    pub metric: Metric,
    /// The value in the metric's unit, within [`Metric::range`].
    pub value: f64,
    /// When it was measured, in milliseconds since the Unix epoch, up to
    /// [`MAX_RECORDED_AT`](crate::limits::MAX_RECORDED_AT).
    pub recorded_at: u64,
}

/// A reading without its station, where the context names the station once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement {
    /// What was measured.
    pub metric: Metric,
    /// The value in the metric's unit.
    pub value: f64,
    /// When it was measured, in milliseconds since the Unix epoch.
    pub recorded_at: u64,
}

/// Returns whether `id` is a station ID: 1 to 32 of `a` to `z`, `0` to `9`, and `-`.
pub(crate) fn is_station_id(id: &[u8]) -> bool {
    (1..=MAX_STATION_ID).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}
