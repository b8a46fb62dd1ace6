//! Server-sent events (HTML standard, section 9.2): lines with a name and a value. An empty line
//! ends an event.

use super::head::{line_length, trimmed};
use crate::wire::cursor::{Cursor, shorten};
use crate::wire::json::json;
use crate::wire::message::Purpose;

/// Names the lines of an event stream.
#[derive(Default)]
pub(super) struct Events {
    /// The name of the last line, if the bytes so far end within it.
    cut: Option<&'static str>,
}

impl Events {
    /// Names all bytes of the unit. Returns a summary.
    pub(super) fn read(&mut self, unit: &mut Cursor<'_>) -> String {
        let (mut said, mut has_id) = (Vec::new(), false);
        while !unit.is_empty() {
            let line = unit.peek(line_length(unit.left()));
            let (name, start) = match self.cut.take() {
                Some(name) => (name, 0),
                None => field(line),
            };
            self.cut = (!line.ends_with(b"\n")).then_some(name);
            let value = trimmed(&line[start..]);
            if name == "data" {
                said.push(data(unit, line, start));
                continue;
            }
            unit.purposed(Purpose::Header, |unit| unit.take(line.len(), name, |_| value.clone()));
            match name {
                "comment" | "event" | "retry" => said.push(format!("{name} {value}")),
                _ => has_id |= name == "id",
            }
        }
        match said.is_empty() {
            true if has_id => "event ID".into(),
            true => "part of an event".into(),
            false => shorten(&said.join(" ")),
        }
    }
}

/// Returns the name of a line, and where its value begins: after the colon and one space.
fn field(line: &[u8]) -> (&'static str, usize) {
    let colon = line.iter().position(|byte| *byte == b':');
    let start = colon.map_or(line.len(), |colon| colon + 1);
    let name = match line[..start].trim_ascii_end() {
        b"data:" => "data",
        b"event:" => "event",
        b"id:" => "id",
        b"retry:" => "retry",
        b":" => "comment",
        b"" => return ("end of event", 0),
        _ => return ("unknown field", 0),
    };
    (name, start + usize::from(line[start..].starts_with(b" ")))
}

/// Names a line of data. Returns it for a summary.
fn data(unit: &mut Cursor<'_>, line: &[u8], start: usize) -> String {
    unit.purposed(Purpose::Text, |unit| unit.text(start, "name"));
    let value = line[start..].trim_ascii_end();
    let summary = match value {
        [b'{' | b'[', ..] => json(unit, value.len()),
        _ => {
            unit.purposed(Purpose::Information, |unit| unit.text(value.len(), "data"));
            shorten(&trimmed(value))
        }
    };
    let end = line.len() - start - value.len();
    unit.purposed(Purpose::Text, |unit| unit.text(end, "end of line"));
    summary
}
