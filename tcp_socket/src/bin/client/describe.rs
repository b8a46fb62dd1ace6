//! Describes bytes for people: each field in hexadecimal, with its meaning. The tour uses it
//! to print the bytes on the wire.

use std::fmt;

use tcp_socket::base::text::printable;
use tcp_socket::protocol::frame::{BadFrame, FLAG_END, Frame, kind};
use tcp_socket::protocol::handshake::{HELLO, Hello, WELCOME, Welcome};
use tcp_socket::protocol::message::{ErrorCode, MEASUREMENT};
use tcp_socket::protocol::model::Metric;

/// One field of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    length: usize,
    hex: String,
    meaning: String,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<32}  {}", self.hex, self.meaning)
    }
}

/// Fields in the order of their bytes.
struct Fields<'a> {
    rest: &'a [u8],
    fields: Vec<Field>,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, fields: Vec::new() }
    }

    /// Adds the next `count` bytes, or as many as there are, as one field.
    fn take(&mut self, count: usize, meaning: impl Into<String>) -> &mut Self {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        // Long fields are IDs or text: without spaces, they fit on the line.
        let gap = if bytes.len() > 8 { "" } else { " " };
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.fields.push(Field { length: bytes.len(), hex: hex.join(gap), meaning: meaning.into() });
        self
    }

    /// Returns the number in the next `count` bytes, without taking them.
    fn number(&self, count: usize) -> u64 {
        self.rest.iter().take(count).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn take_number(&mut self, count: usize, name: &str) -> u64 {
        let number = self.number(count);
        self.take(count, format!("{name} {number}"));
        number
    }

    /// Adds text, 16 bytes a line.
    fn take_text(&mut self, count: usize, name: &str) {
        let count = count.min(self.rest.len());
        for start in (0..count).step_by(16) {
            let length = (count - start).min(16);
            let text = String::from_utf8_lossy(&self.rest[..length]).into_owned();
            self.take(length, format!("{name} {}", printable(&format!("{text:?}"))));
        }
    }

    fn take_measurements(&mut self, count: usize) {
        for _ in 0..count {
            let metric = Metric::from_number(self.number(1) as u8);
            self.take(1, format!("metric: {}", metric.map_or("unknown", Metric::name)));
            let value = f64::from_bits(self.number(8));
            self.take(8, format!("value {value}"));
            self.take_number(8, "recorded at");
        }
    }
}

/// Returns the fields of a `HELLO`.
pub fn hello(hello: &Hello) -> Vec<Field> {
    let bytes: [u8; HELLO] = hello.encode();
    let mut fields = Fields::new(&bytes);
    fields.take(4, "magic \"WSTN\"");
    fields.take_number(2, "lowest version");
    fields.take_number(2, "highest version");
    fields.take(16, "client ID");
    fields.fields
}

/// Returns the fields of a `WELCOME`.
pub fn welcome(welcome: &Welcome) -> Vec<Field> {
    let bytes: [u8; WELCOME] = welcome.encode();
    let mut fields = Fields::new(&bytes);
    fields.take(4, "magic \"WSTN\"");
    fields.take_number(2, "version");
    fields.take_number(2, "remembered");
    fields.take(16, "instance ID");
    fields.take_number(4, "largest payload");
    fields.take_number(4, "replies kept");
    fields.take_number(4, "most watches");
    fields.take_number(4, "idle timeout in milliseconds");
    fields.fields
}

/// Returns the fields of the frame at the beginning of `bytes`, even if it is not valid.
pub fn frame(bytes: &[u8]) -> Vec<Field> {
    let mut fields = Fields::new(bytes);
    let kind = fields.number(2) as u16;
    fields.take(2, format!("kind {}", kind_name(kind)));
    let end = fields.number(2) as u16 & FLAG_END != 0;
    fields.take(2, if end { "flags: END" } else { "flags" });
    fields.take_number(4, "request ID");
    let length = fields.take_number(4, "payload length") as usize;
    let whole = fields.rest.len().min(4 + length);
    fields.rest = &fields.rest[..whole];
    let bad = matches!(Frame::parse(bytes, u32::MAX), Err(BadFrame::Checksum { .. }));
    fields.take(4, if bad { "CRC-32C, which does not match" } else { "CRC-32C" });
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
        kind::ERROR => {
            let code = ErrorCode::from_number(fields.number(2) as u16);
            fields.take(2, code.map_or("code unknown".into(), |code| format!("code {code:?}")));
            let rest = fields.rest.len();
            fields.take_text(rest, "text");
        }
        _ => {}
    }
    if !fields.rest.is_empty() {
        fields.take(fields.rest.len(), "payload");
    }
    fields.fields
}

/// Returns the total number of bytes in these fields.
pub fn length(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.length).sum()
}

/// Returns the name that `PROTOCOL.md` gives to a kind.
pub fn kind_name(number: u16) -> &'static str {
    match number {
        kind::RECORD => "RECORD",
        kind::WATCH => "WATCH",
        kind::CANCEL => "CANCEL",
        kind::PING => "PING",
        kind::GOODBYE => "GOODBYE",
        kind::RECORDED => "RECORDED",
        kind::READING => "READING",
        kind::PONG => "PONG",
        kind::ERROR => "ERROR",
        _ => "unknown",
    }
}
