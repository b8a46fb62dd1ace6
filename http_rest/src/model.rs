//! What travels as JSON: readings. (A [`Station`](crate::stations::Station) is a chapter of its own.)

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::FieldError;

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

/// A reading as it arrives: JSON of the right shape, not yet checked.
///
/// The fields are wider than those of [`Reading`], so that one answer can name
/// every field that is out of range. Parsing straight into `Reading` would stop
/// at the first.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UncheckedReading {
    station: String,
    metric: String,
    value: f64,
    recorded_at: i64,
}

impl UncheckedReading {
    /// The reading, or what is wrong with each of its fields. `index` is its
    /// place in the batch.
    pub fn check(self, index: usize, errors: &mut Vec<FieldError>) -> Option<Reading> {
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
pub fn is_station_id(id: &str) -> bool {
    (1..=MAX_STATION_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The first characters of a string that is quoted back to its sender.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
