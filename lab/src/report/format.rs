//! Formats figures and times as text.

use jiff::Timestamp;

/// Shown in place of a missing figure.
pub(super) const NONE: &str = "–";

/// Formats nanoseconds as microseconds, with about three digits.
pub(super) fn micros(nanoseconds: f64) -> String {
    digits(nanoseconds / 1000.0)
}

/// Formats a figure with about three digits.
pub(super) fn digits(value: f64) -> String {
    match value {
        _ if !value.is_finite() => NONE.into(),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => grouped(value),
    }
}

/// Formats a figure for narrow columns: from 10,000 on, in thousands (k) or millions (M).
pub(super) fn short(value: f64) -> String {
    let (value, unit) = with_unit(value);
    digits(value) + unit
}

/// Formats a figure without trailing zeros, for plots.
pub(super) fn trimmed(value: f64) -> String {
    let (value, unit) = with_unit(value);
    let decimals = if value < 1.0 { 100.0 } else { 10.0 };
    let rounded = if value < 100.0 { (value * decimals).round() / decimals } else { value.round() };
    format!("{rounded}{unit}")
}

fn with_unit(value: f64) -> (f64, &'static str) {
    match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e4 => (value / 1e3, "k"),
        value => (value, ""),
    }
}

/// Formats a whole number with commas between groups of three digits.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// Formats seconds since the Unix epoch, for example as `2026-01-31 13:59 UTC`.
pub fn utc(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.map_or(NONE.into(), |moment| moment.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
