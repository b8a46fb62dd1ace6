//! What is exchanged: readings of weather stations, as JSON. A
//! [`Station`](crate::stations::Station) is an idea of its own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest station id, in bytes.
pub const MAX_STATION_ID: usize = 32;

/// Most readings in one batch.
pub const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// What a reading measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// Its name in JSON and in query strings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Pressure => "pressure",
            Self::Wind => "wind",
        }
    }

    /// The metric of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Temperature, Self::Humidity, Self::Pressure, Self::Wind]
            .into_iter()
            .find(|metric| metric.name() == name)
    }

    /// The lowest and the highest value accepted, in the metric's unit.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"station": "oslo-1", "metric": "temperature", "value": -3.5, "recorded_at": 1_767_225_600_000_u64}))]
pub struct Reading {
    /// The station's id, `[a-z0-9-]{1,32}`.
    #[schema(pattern = "^[a-z0-9-]{1,32}$")]
    pub station: String,
    /// What was measured.
    pub metric: Metric,
    /// Temperature: -100 to 70 °C; humidity: 0 to 100 percent; pressure: 800 to
    /// 1100 hPa; wind: 0 to 120 m/s.
    pub value: f64,
    /// When, in milliseconds since the Unix epoch, up to the end of the year 9999.
    #[schema(minimum = 0, maximum = 253_402_300_799_999_i64)]
    pub recorded_at: u64,
}
