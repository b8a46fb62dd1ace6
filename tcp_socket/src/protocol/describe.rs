//! Describes bytes for people: each field with its name and its value. The client's tour and the
//! lab use it to show what is on the wire.

use crate::base::text::printable;
use crate::protocol::frame::{BadFrame, FLAG_END, Frame, kind};
use crate::protocol::message::{ErrorCode, MEASUREMENT};
use crate::protocol::model::Metric;

/// One field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// What the field is.
    pub name: &'static str,
    /// What its bytes mean. Empty if they have no meaning of their own, as those of an ID.
    pub value: String,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Fields in the order of their bytes.
struct Fields<'a> {
    rest: &'a [u8],
    fields: Vec<Field<'a>>,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, fields: Vec::new() }
    }

    /// Adds the next `count` bytes, or as many as there are, as one field.
    fn take(&mut self, count: usize, name: &'static str, value: impl Into<String>) {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        if !bytes.is_empty() {
            self.fields.push(Field { name, value: value.into(), bytes });
        }
    }

    /// Returns the number in the next `count` bytes, without taking them.
    fn number(&self, count: usize) -> u64 {
        self.rest.iter().take(count).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn take_number(&mut self, count: usize, name: &'static str) -> u64 {
        let number = self.number(count);
        self.take(count, name, number.to_string());
        number
    }

    fn take_text(&mut self, count: usize, name: &'static str) {
        let text = quoted(&self.rest[..count.min(self.rest.len())]);
        self.take(count, name, text);
    }

    fn take_measurements(&mut self, count: usize) {
        for _ in 0..count {
            if self.rest.is_empty() {
                return; // The frame announces more readings than it holds.
            }
            let metric = Metric::from_number(self.number(1) as u8);
            self.take(1, "metric", metric.map_or("unknown", Metric::name));
            let value = f64::from_bits(self.number(8));
            self.take(8, "value", value.to_string());
            self.take_number(8, "recorded at");
        }
    }
}

/// Returns text in quotes, with escapes for everything that is not safe to show.
pub fn quoted(text: &[u8]) -> String {
    printable(&format!("{:?}", String::from_utf8_lossy(text))).into_owned()
}

/// Returns the fields of a `HELLO`.
pub fn hello(bytes: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Fields::new(bytes);
    fields.take_text(4, "magic");
    fields.take_number(2, "lowest version");
    fields.take_number(2, "highest version");
    fields.take(16, "client ID", "");
    fields.fields
}

/// Returns the fields of a `WELCOME`.
pub fn welcome(bytes: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Fields::new(bytes);
    fields.take_text(4, "magic");
    fields.take_number(2, "version");
    fields.take_number(2, "remembered");
    fields.take(16, "instance ID", "");
    fields.take_number(4, "largest payload");
    fields.take_number(4, "replies kept");
    fields.take_number(4, "most watches");
    fields.take_number(4, "idle timeout in milliseconds");
    fields.fields
}

/// Returns the fields of the frame at the beginning of `bytes`, even if it is not valid.
pub fn frame(bytes: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Fields::new(bytes);
    let kind = fields.number(2) as u16;
    fields.take(2, "kind", kind_name(kind));
    let end = fields.number(2) as u16 & FLAG_END != 0;
    fields.take(2, "flags", if end { "END" } else { "" });
    fields.take_number(4, "request ID");
    let length = fields.take_number(4, "payload length") as usize;
    let whole = fields.rest.len().min(4 + length);
    fields.rest = &fields.rest[..whole];
    let bad = matches!(Frame::parse(bytes, u32::MAX), Err(BadFrame::Checksum { .. }));
    fields.take(4, "CRC-32C", if bad { "which does not match" } else { "" });
    match kind {
        kind::RECORD => {
            fields.take_number(8, "batch ID");
            while !fields.rest.is_empty() {
                let length = fields.take_number(1, "station ID length") as usize;
                fields.take_text(length, "station ID");
                let count = fields.take_number(2, "readings in the run") as usize;
                fields.take_measurements(count);
            }
        }
        kind::RECORDED => drop(fields.take_number(4, "accepted")),
        kind::WATCH => fields.take_text(fields.rest.len(), "station ID"),
        kind::READING => {
            fields.take_number(8, "skipped");
            fields.take_measurements(fields.rest.len() / MEASUREMENT);
        }
        // Anyone who reads a recording could use the token.
        kind::TOKEN => fields.take(fields.rest.len(), "token", "(hidden)"),
        kind::CALLER => fields.take_text(fields.rest.len(), "name"),
        kind::ERROR => {
            let code = ErrorCode::from_number(fields.number(2) as u16);
            fields.take(2, "code", code.map_or("unknown".into(), |code| format!("{code:?}")));
            fields.take_text(fields.rest.len(), "text");
        }
        _ => {}
    }
    if !fields.rest.is_empty() {
        fields.take(fields.rest.len(), "payload", "");
    }
    fields.fields
}

/// Returns the name that `PROTOCOL.md` gives to a kind.
pub fn kind_name(number: u16) -> &'static str {
    match number {
        kind::RECORD => "RECORD",
        kind::WATCH => "WATCH",
        kind::CANCEL => "CANCEL",
        kind::PING => "PING",
        kind::GOODBYE => "GOODBYE",
        kind::TOKEN => "TOKEN",
        kind::RECORDED => "RECORDED",
        kind::READING => "READING",
        kind::PONG => "PONG",
        kind::CALLER => "CALLER",
        kind::ERROR => "ERROR",
        _ => "unknown",
    }
}
