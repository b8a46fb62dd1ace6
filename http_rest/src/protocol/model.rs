//! What travels: weather stations and their readings, as JSON.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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
    /// Returns the metric's name in JSON and in query strings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Pressure => "pressure",
            Self::Wind => "wind",
        }
    }

    /// Returns the metric with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Temperature, Self::Humidity, Self::Pressure, Self::Wind]
            .into_iter()
            .find(|metric| metric.name() == name)
    }

    /// Returns the lowest and the highest value accepted, in the metric's unit.
    pub(crate) fn range(self) -> (f64, f64) {
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
    /// The station's ID (1 to 32 characters: a-z, 0-9, and -).
    pub station: String,
    /// What was measured.
    pub metric: Metric,
    /// Temperature: -100 to 70 °C; humidity: 0 to 100 percent; pressure: 800 to
    /// 1100 hPa; wind: 0 to 120 m/s.
    pub value: f64,
    /// When it was measured, in ms since the Unix epoch, up to the end of the year 9999.
    pub recorded_at: u64,
}

/// The body of `POST /readings`, as a client sends it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch<'a> {
    /// Either all of them are recorded or none.
    pub(crate) readings: &'a [Reading],
}

/// The response to `POST /readings`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Recorded {
    /// Number of readings accepted: the whole batch.
    pub(crate) accepted: usize,
}

/// The query string of `GET /readings`: which readings to return.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReadingQuery {
    /// The station's ID.
    pub station: String,
    /// Only readings of this metric.
    #[param(nullable = false)]
    pub metric: Option<Metric>,
    /// Earliest `recorded_at`, in ms since the Unix epoch.
    #[param(nullable = false)]
    pub from: Option<u64>,
    /// Upper limit of `recorded_at` (exclusive), in ms since the Unix epoch.
    #[param(nullable = false)]
    pub to: Option<u64>,
    /// Maximum number of readings on this page; 100 by default.
    #[param(nullable = false)]
    pub limit: Option<usize>,
    /// The cursor in the `Link` header of the previous page.
    #[param(nullable = false, pattern = "^[0-9a-f]{16}-[0-9a-f]{1,16}$")]
    pub cursor: Option<String>,
}

/// The response to `GET /readings`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ReadingList {
    /// The readings, latest recorded first.
    pub(crate) readings: Vec<Reading>,
}

/// A weather station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "oslo-1", "name": "Oslo, Blindern", "latitude": 59.94, "longitude": 10.72}))]
pub struct Station {
    /// Chosen by the client; it never changes.
    pub id: String,
    /// A name for people to read. It contains only characters that a nickname may have (RFC 8266), and does
    /// not mix scripts that look alike (Unicode Technical Standard 39, section 5.2).
    pub name: String,
    /// Degrees north, -90 to 90; `null` if unknown.
    pub latitude: Option<f64>,
    /// Degrees east, -180 to 180; `null` if unknown.
    pub longitude: Option<f64>,
}

/// A change to some fields of a station, as a JSON merge patch (RFC 7396): absent
/// fields stay as they are.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(example = json!({"name": "Oslo, Blindern", "longitude": null}))]
pub struct StationPatch {
    /// A new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// A new latitude; `null` (in Rust `Some(None)`) removes the old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub latitude: Option<Option<f64>>,
    /// A new longitude; `null` (in Rust `Some(None)`) removes the old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub longitude: Option<Option<f64>>,
}

/// The response to `GET /stations`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct StationList {
    /// The stations, in the order of their IDs.
    pub(crate) stations: Vec<Station>,
}

/// Data of a `gap` event: some readings are missing from this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// Number of missed readings that the stream can no longer send. A stream of one
    /// station counts only those that `GET /readings` still returns. `null` if the server
    /// was restarted and can't tell.
    pub missed: Option<u64>,
}
