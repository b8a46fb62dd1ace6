//! Turns the bytes of a body into a value that is known to be valid. If they are not valid,
//! the error says which fields are wrong.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};
use tcp_socket::base::json::{Object, whole_number};
use tcp_socket::base::text::check_name;

use super::model::{Metric, Reading, Station};
use super::problem::{FieldError, Problem};
use crate::limits::{
    MAX_BATCH, MAX_DETAIL, MAX_LATITUDE, MAX_LONGITUDE, MAX_NAME, MAX_QUOTE, MAX_RECORDED_AT, MAX_STATION_ID,
};

/// Parses the object in a body. Returns 400 if it isn't JSON, and 422 with a pointer to the
/// field if it is JSON of the wrong shape. Both errors give the line and column.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = shape(&mut deserializer)?;
    deserializer.end().map_err(|error| Problem::bad_request(error.to_string()))?;
    Ok(value)
}

/// Reads an object and checks its shape. The JSON may already be parsed, for example after a
/// patch was applied.
pub(crate) fn shape<'de, T, D>(deserializer: D) -> Result<T, Problem>
where
    T: DeserializeOwned,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let Object(value) = serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let (path, detail) = (error.path(), error.inner().to_string());
        // A number too large for an `f64` is still well-formed JSON.
        let well_formed =
            error.inner().classify() == Category::Data || detail.starts_with("number out of range");
        if !well_formed {
            return Problem::bad_request(detail);
        }
        let (pointer, detail) = (pointer(path, &detail), bounded(detail));
        Problem { detail: detail.clone(), ..Problem::field(&pointer, detail) }
    })?;
    Ok(value)
}

/// Shortens a message from serde, which may quote almost the whole body.
fn bounded(detail: String) -> String {
    if detail.chars().count() <= MAX_DETAIL {
        return detail;
    }
    let position = detail.rfind(" at line ").unwrap_or(detail.len());
    format!("{}…{}", detail.chars().take(MAX_DETAIL).collect::<String>(), &detail[position..])
}

/// Returns a path as a JSON pointer in a URI fragment (RFC 6901, section 6). For a missing
/// or duplicate field, serde's path ends at the object around it, and only its message names
/// the field.
fn pointer(path: &Path, detail: &str) -> String {
    let mut pointer = "#".to_owned();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer += &format!("/{index}"),
            Segment::Map { key } => push_name(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let named = ["missing field `", "duplicate field `"].iter().find_map(|start| detail.strip_prefix(start));
    if let Some((name, _rest)) = named.and_then(|named| named.split_once('`')) {
        push_name(&mut pointer, name);
    }
    pointer
}

/// Appends a field's name. The client can give an unknown field any name, so every
/// character that a pointer can't contain is escaped.
fn push_name(pointer: &mut String, name: &str) {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let name = shorten(name).replace('~', "~0").replace('/', "~1");
    *pointer += &format!("/{}", utf8_percent_encode(&name, ESCAPED));
}

/// The body of `POST /readings` as it arrives: it has the right shape, but its values are
/// not checked yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UncheckedBatch {
    readings: Vec<Object<UncheckedReading>>,
}

impl UncheckedBatch {
    /// Returns the readings, or a 422 that names each invalid field.
    pub(crate) fn check(self) -> Result<Vec<Reading>, Problem> {
        let count = self.readings.len();
        if !(1..=MAX_BATCH).contains(&count) {
            let detail = format!("a batch holds 1 to {MAX_BATCH} readings, not {count}");
            return Err(Problem::field("#/readings", detail));
        }
        let mut errors = Vec::new();
        let mut readings = Vec::with_capacity(count);
        for (index, Object(reading)) in self.readings.into_iter().enumerate() {
            readings.extend(reading.check(index, &mut errors));
        }
        if errors.is_empty() { Ok(readings) } else { Err(Problem::invalid_fields(errors)) }
    }
}

/// A reading as it arrives.
///
/// The types are wider than those of [`Reading`], so that one response can name every
/// invalid field. Parsing straight into `Reading` would stop at the first one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedReading {
    station: String,
    metric: String,
    value: f64,
    #[serde(deserialize_with = "whole_number")]
    recorded_at: i64,
}

impl UncheckedReading {
    /// Returns the reading, or adds each invalid field to `errors` and returns `None`.
    /// `index` is the reading's position in the batch.
    fn check(self, index: usize, errors: &mut Vec<FieldError>) -> Option<Reading> {
        let before = errors.len();
        let mut wrong = |field: &str, detail: String| {
            errors.push(FieldError { pointer: format!("#/readings/{index}/{field}"), detail });
        };
        if !is_station_id(&self.station) {
            wrong("station", not_an_id(&self.station));
        }
        let metric = Metric::from_name(&self.metric);
        match metric {
            None => wrong(
                "metric",
                format!("{:?} is not temperature, humidity, pressure, or wind", shorten(&self.metric)),
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

impl Station {
    /// Returns a 422 that names each invalid field, if there are any.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        let mut wrong = |pointer: &str, detail: String| {
            errors.push(FieldError { pointer: pointer.to_owned(), detail });
        };
        if !is_station_id(&self.id) {
            wrong("#/id", not_an_id(&self.id));
        }
        if !(1..=MAX_NAME).contains(&self.name.chars().count()) {
            wrong("#/name", format!("a name must have 1 to {MAX_NAME} characters"));
        } else if let Err(reason) = check_name(&self.name) {
            wrong("#/name", format!("{:?}: {reason}", shorten(&self.name)));
        }
        if self.latitude.is_some_and(|degrees| degrees.abs() > MAX_LATITUDE) {
            wrong("#/latitude", format!("must be -{MAX_LATITUDE} to {MAX_LATITUDE} degrees north"));
        }
        if self.longitude.is_some_and(|degrees| degrees.abs() > MAX_LONGITUDE) {
            wrong("#/longitude", format!("must be -{MAX_LONGITUDE} to {MAX_LONGITUDE} degrees east"));
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
    }
}

/// Returns whether `id` is a station ID (1 to 32 characters: a-z, 0-9, and -).
pub(crate) fn is_station_id(id: &str) -> bool {
    (1..=MAX_STATION_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn not_an_id(id: &str) -> String {
    format!("{:?} is not a station ID (1 to {MAX_STATION_ID} characters: a-z, 0-9, and -)", shorten(id))
}

/// Shortens a string that is quoted back to its sender.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}
