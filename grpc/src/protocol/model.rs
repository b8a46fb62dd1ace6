//! What a valid reading is. The types themselves are generated from the proto,
//! which can say that a field is a number, but not which numbers make sense.

use std::borrow::Cow;

use tonic_types::FieldViolation;

use super::proto::{Metric, Reading};
use crate::limits::{MAX_ID, MAX_QUOTED, MAX_RECORDED_AT, MAX_VIOLATIONS};

impl Metric {
    /// Returns the metric's name on a command line or in a CSV file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
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

    /// Returns the lowest and the highest accepted value, in the metric's unit.
    pub(crate) fn range(self) -> (f64, f64) {
        match self {
            Self::Unspecified => (f64::NAN, f64::NAN),
            Self::Temperature => (-100.0, 70.0),
            Self::Humidity => (0.0, 100.0),
            Self::Pressure => (800.0, 1100.0),
            Self::Wind => (0.0, 120.0),
        }
    }
}

/// Returns the metric with this number. An enum field can hold any 32-bit number: a newer
/// client may know metrics that this server does not.
///
/// # Errors
/// A description of what is wrong with it.
pub(crate) fn check_metric(number: i32) -> Result<Metric, String> {
    match Metric::try_from(number) {
        Ok(Metric::Unspecified) => Err("is missing".to_owned()),
        Ok(metric) => Ok(metric),
        Err(_) => Err(format!("{number} is not a metric that this server knows")),
    }
}

/// Checks the ID of a station or threshold.
///
/// # Errors
/// A description of what is wrong with it.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let valid = (1..=MAX_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if valid {
        Ok(())
    } else {
        Err(format!("{:?} must be 1 to {MAX_ID} characters: a-z, 0-9, and -", shorten(id, MAX_QUOTED)))
    }
}

/// Calls `violation` for every invalid field, with its name and what is wrong with it. A
/// valid reading costs no allocation.
pub(crate) fn check(reading: &Reading, mut violation: impl FnMut(&'static str, String)) {
    if let Err(wrong) = check_id(&reading.station) {
        violation("station", wrong);
    }
    match check_metric(reading.metric) {
        Err(wrong) => violation("metric", wrong),
        Ok(metric) => {
            let (low, high) = metric.range();
            if !(low..=high).contains(&reading.value) {
                violation("value", format!("{} is outside {low} to {high}", reading.value));
            }
        }
    }
    if reading.recorded_at > MAX_RECORDED_AT {
        violation("recorded_at", format!("{} is outside 0 to {MAX_RECORDED_AT} ms", reading.recorded_at));
    }
}

/// Returns the first [`MAX_VIOLATIONS`] violations of a batch, and how many there are in
/// all.
pub(crate) fn check_batch(readings: &[Reading]) -> (Vec<FieldViolation>, usize) {
    let mut violations = Vec::new();
    let mut total = 0;
    for (index, reading) in readings.iter().enumerate() {
        check(reading, |field, wrong| {
            total += 1;
            if violations.len() < MAX_VIOLATIONS {
                violations.push(FieldViolation::new(format!("readings[{index}].{field}"), wrong));
            }
        });
    }
    (violations, total)
}

/// Shortens a text that is quoted back to its sender. Returns up to `max` bytes of it,
/// followed by the number of bytes left out.
pub(crate) fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return text.into();
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}… ({} more bytes)", &text[..end], text.len() - end).into()
}

/// Returns whether a token can be sent as `authorization: Bearer <token>`: it is not
/// empty, and holds only visible ASCII characters.
pub fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}
