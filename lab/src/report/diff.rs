//! Compares two runs: which figures changed by more than their ranges?

use serde_json::{Map, Value};

use super::format::digits;
use super::results::Results;
use super::statistic::Spread;
use super::table::Table;

/// The fields that distinguish the rows of a protocol.
const LEVELS: [&str; 9] = [
    "in_flight",
    "offered",
    "readings",
    "delay",
    "bandwidth",
    "subscribers",
    "messages",
    "connections",
    "connection",
];

/// The figures that are measured once, so they have no range.
const ONCE: [&str; 8] =
    ["request", "response", "set_up", "set_up_bytes", "request_bytes", "at_rest", "per_connection", "memory"];

/// The range that such a figure gets, as a share of it in each direction.
const ASSUMED: f64 = 0.05;

/// The name of a figure: measurement, row, and field. And the figure itself.
type Figure = ([String; 3], Spread);

/// Returns a table of the figures that changed from `old` to `new`, and how many were compared. A
/// figure has changed if its two ranges don't overlap.
///
/// # Errors
/// If the results can't be represented as JSON.
pub fn diff(old: &Results, new: &Results) -> anyhow::Result<(Table, usize)> {
    let mut table = Table::new(
        "Figures that changed by more than their ranges".into(),
        "old and new: the median over the rounds, and its range. For a figure that is measured once, the range is \
         assumed to be 5% in each direction. ×: new divided by old.",
        &["measurement", "row", "figure", "old", "range", "new", "range", "×"],
    );
    let (before, mut compared) = (figures(old)?, 0);
    for (name, new) in figures(new)? {
        let Some((_, old)) = before.iter().find(|(other, _)| *other == name) else { continue };
        compared += 1;
        if old.low <= new.high && new.low <= old.high {
            continue;
        }
        let (factor, unit) = unit(&name);
        let [measurement, row, field] = name.map(|part| part.replace('_', " "));
        let mut cells = vec![measurement, row, field + unit];
        for Spread { median, low, high } in [old.scaled(factor), new.scaled(factor)] {
            cells.extend([digits(median), format!("{}–{}", digits(low), digits(high))]);
        }
        cells.push(digits(new.median / old.median));
        table.rows.push(cells);
    }
    if old.conditions.machine != new.conditions.machine {
        table.note += " The machines differ.";
    }
    Ok((table, compared))
}

/// Returns what to multiply a figure by in a table, and the unit that it then has.
fn unit([measurement, _, field]: &[String; 3]) -> (f64, &'static str) {
    match (measurement.as_str(), field.as_str()) {
        ("round_trips", _) => (1.0, ""),
        ("bytes", _) | (_, "memory" | "at_rest" | "per_connection" | "set_up_bytes" | "request_bytes") => {
            (1.0, ", bytes")
        }
        (_, "per_second" | "achieved" | "without" | "with") => (1.0, ", per second"),
        (_, field) if field.ends_with("busy") => (100.0, ", %"),
        _ => (1e-3, ", µs"),
    }
}

/// Collects all figures.
fn figures(results: &Results) -> anyhow::Result<Vec<Figure>> {
    let mut all = Vec::new();
    let Value::Object(sections) = serde_json::to_value(results)? else { return Ok(all) };
    for (measurement, section) in sections {
        let rows = section.get("rows").unwrap_or(&section).as_array().cloned().unwrap_or_default();
        for row in rows.iter().filter_map(Value::as_object) {
            let Some(protocol) = row.get("protocol").and_then(Value::as_str) else { continue };
            let levels = LEVELS.iter().filter_map(|level| match row.get(*level)? {
                Value::Number(value) => Some(format!(", {level} {value}")),
                Value::String(value) => Some(format!(", {value} {level}")),
                _ => None,
            });
            let named = protocol.to_owned() + &levels.collect::<String>();
            let named = |field: &str| [measurement.clone(), named.clone(), field.to_owned()];
            all.extend(row.iter().filter_map(|(field, _)| Some((named(field), figure(row, field)?))));
        }
    }
    Ok(all)
}

fn figure(row: &Map<String, Value>, field: &str) -> Option<Spread> {
    let value = row.get(field)?;
    if let Some(once) = value.as_f64().filter(|_| ONCE.contains(&field)) {
        return Some(Spread { median: once, low: once * (1.0 - ASSUMED), high: once * (1.0 + ASSUMED) });
    }
    serde_json::from_value(value.clone()).ok()
}
