//! Server-sent events (HTML standard, section 9.2): lines with a name and a value. An empty line
//! ends an event.

use super::head::{line_length, trimmed};
use crate::wire::cursor::{Cursor, shown};
use crate::wire::json::json;
use crate::wire::message::Purpose;

/// Names all bytes of the unit, which are lines of an event stream. Returns a summary.
pub(super) fn events(unit: &mut Cursor<'_>) -> String {
    let mut said = Vec::new();
    while !unit.is_empty() {
        let line = unit.peek(line_length(unit.left()));
        let (name, start) = field(line);
        let value = trimmed(&line[start..]);
        match name {
            "data" => said.push(data(unit, line, start)),
            _ => drop(unit.purposed(Purpose::Header, |unit| unit.take(line.len(), name, |_| value.clone()))),
        }
        if matches!(name, "comment" | "event" | "retry") {
            said.push(format!("{name} {value}"));
        }
    }
    if said.is_empty() { "event without data".into() } else { shown(said.join(" ")) }
}

/// Returns the name of a line, and where its value begins: after the colon and one space.
fn field(line: &[u8]) -> (&'static str, usize) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let name = match &line[..colon] {
        b"data" => "data",
        b"event" => "event",
        b"id" => "id",
        b"retry" => "retry",
        b"" => "comment",
        b"\n" | b"\r\n" => return ("end of event", 0),
        _ => return ("unknown field", 0),
    };
    (name, line.len().min(colon + 1 + usize::from(line[colon..].starts_with(b": "))))
}

/// Names a line of data. Returns it for a summary.
fn data(unit: &mut Cursor<'_>, line: &[u8], start: usize) -> String {
    unit.purposed(Purpose::Text, |unit| unit.text(start, "name"));
    let value = line[start..].trim_ascii_end();
    let summary = match value {
        [b'{' | b'[', ..] => json(unit, value.len()),
        _ => shown(unit.purposed(Purpose::Information, |unit| unit.text(value.len(), "data"))),
    };
    let end = line.len() - start - value.len();
    unit.purposed(Purpose::Text, |unit| unit.text(end, "end of line"));
    summary
}
