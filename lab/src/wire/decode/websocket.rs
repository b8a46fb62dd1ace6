//! WebSocket (RFC 6455): an HTTP request and its response, then frames in both directions. A unit
//! is a frame. The messages of the chapter are JSON, and a response repeats the `id` of its request.

use std::collections::HashMap;

use serde_json::Value;

use super::http1::Http1;
use crate::wire::cursor::{Cursor, hex, number, shown, text};
use crate::wire::json::json;
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{Protocol, Reading, Units, Unreadable};

/// Maximum number of requests on one connection whose IDs are remembered.
const MAX_WAITING: usize = 10_000;

/// Maximum number of bytes of a message that are kept to find out what it says.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Members that a summary shows, in this order. Lists are counted.
const SHOWN: [&str; 12] = [
    "readings", "stations", "accepted", "room", "name", "text", "station", "metric", "value", "change",
    "code", "sequence",
];

/// Returns a decoder for a new connection.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(Units::new(WebSocket::default()))
}

#[derive(Default)]
struct WebSocket {
    http: Http1,
    /// The call and the payload so far of each side's message that is not complete yet.
    incomplete: [(u64, Vec<u8>); 2],
    /// The call of each request without a response, by its `id`.
    waiting: HashMap<u64, u64>,
}

impl Protocol for WebSocket {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        if !self.http.has_switched(from) {
            return self.http.length(from, bytes);
        }
        if name(bytes[0]) == "reserved" {
            return Err(format!("a WebSocket frame with the unknown opcode {}", bytes[0] & 0x0f));
        }
        let Some(second) = bytes.get(1) else { return Ok(None) };
        let (extended, masking_key) = lengths(*second);
        let end = 2 + extended;
        let payload = match bytes.get(2..end) {
            Some([]) => u64::from(second & 0x7f),
            Some(bytes) => number(bytes),
            None => return Ok(None),
        };
        let payload = usize::try_from(payload).unwrap_or(usize::MAX);
        Ok(Some(payload.saturating_add(end + masking_key)))
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        if self.http.has_switched(from) { self.frame(from, unit) } else { self.http.read(from, unit) }
    }

    fn ends_with_stream(&self, from: Side) -> bool {
        self.http.ends_with_stream(from)
    }
}

impl WebSocket {
    fn frame(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let first = unit.coded(1, "FIN, RSV, opcode", |bits| {
            let end = if bits & 0x80 != 0 { "FIN, " } else { "" };
            let reserved = if bits & 0x70 != 0 { "RSV, " } else { "" };
            format!("{end}{reserved}{}", name(bits as u8))
        }) as u8;
        let second = unit.coded(1, "MASK, Payload len", |bits| {
            let mask = if bits & 0x80 != 0 { "MASK, " } else { "" };
            format!("{mask}{}", bits & 0x7f)
        }) as u8;
        let (extended, masking_key) = lengths(second);
        unit.number(extended, "Extended payload length");
        let mask = unit.take(masking_key, "Masking-key", hex);
        let mut payload = unit.left().to_vec();
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        unit.instead(&payload, |unit| match name(first) {
            "close" => close(unit),
            name @ ("ping" | "pong") => {
                unit.rest("Application data", Purpose::Framing);
                Reading::other(name)
            }
            name => self.data(from, name, first & 0x80 != 0, unit),
        })
    }

    /// Reads a message, or a fragment of one.
    fn data(&mut self, from: Side, name: &str, is_final: bool, unit: &mut Cursor<'_>) -> Reading {
        let payload = unit.whole();
        match payload {
            [b'{' | b'[', ..] if is_final && name == "text" => drop(json(unit, payload.len())),
            _ => unit.rest("Payload data", Purpose::Information),
        }
        let (call, message) = &mut self.incomplete[from as usize];
        if name != "continuation" {
            *call = if from == Side::Client { self.http.next_call() } else { 0 };
            message.clear();
        }
        let room = MAX_MESSAGE.saturating_sub(message.len());
        message.extend(payload.iter().take(room));
        let call = *call;
        if is_final {
            let message = std::mem::take(message);
            return self.message(from, call, &message);
        }
        let summary = format!("{name}, a fragment of {} bytes", payload.len());
        match from {
            Side::Client => Reading::of_call(summary, Role::Part, call),
            Side::Server => Reading::other(summary),
        }
    }

    /// Returns the reading of a whole message.
    fn message(&mut self, from: Side, call: u64, payload: &[u8]) -> Reading {
        let Ok(json) = serde_json::from_slice::<Value>(payload) else {
            return Reading::other(shown(format!("message {}", text(payload))));
        };
        let kind = json.get("type").and_then(Value::as_str);
        let summary = kind.map_or_else(|| shown(payload), |kind| shown(describe(kind, &json)));
        let reading = Reading::other(summary).refused(kind == Some("error"));
        let id = json.get("id").and_then(Value::as_u64);
        match (from, id) {
            (Side::Client, Some(id)) if self.waiting.len() < MAX_WAITING => {
                self.waiting.insert(id, call);
                Reading { role: Role::Request, calls: vec![call], ..reading }
            }
            (Side::Server, Some(id)) => match self.waiting.remove(&id) {
                Some(call) => Reading { role: Role::Response, calls: vec![call], ..reading },
                None => reading,
            },
            _ => reading,
        }
    }
}

/// Reads the payload of a close frame: a code and a reason, or nothing.
fn close(unit: &mut Cursor<'_>) -> Reading {
    let code = unit.number(2, "status code");
    let reason = String::from_utf8_lossy(unit.left()).into_owned();
    unit.rest("reason", Purpose::Information);
    match code {
        0 => Reading::other("close"),
        _ => Reading::other(shown(format!("close {code} {reason}").trim())).refused(code > 1001),
    }
}

/// Returns what a JSON message says: its type, its `id`, and the members that matter most.
fn describe(kind: &str, json: &Value) -> String {
    let mut summary = kind.to_owned();
    if let Some(id) = json.get("id") {
        summary += &format!(" #{id}");
    }
    for member in SHOWN {
        let said = match json.get(member) {
            Some(Value::Array(list)) if list.len() == 1 => format!("1 {}", member.trim_end_matches('s')),
            Some(Value::Array(list)) => format!("{} {member}", list.len()),
            Some(Value::String(text)) => format!("{member} {text}"),
            Some(value) => format!("{member} {value}"),
            None => continue,
        };
        summary += &format!(", {said}");
    }
    summary
}

/// Returns how long the extended payload length and the masking key of a frame are, from its second byte.
fn lengths(second: u8) -> (usize, usize) {
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    (extended, if second & 0x80 != 0 { 4 } else { 0 })
}

/// Returns the name of the opcode in the first byte of a frame.
fn name(first: u8) -> &'static str {
    match first & 0x0f {
        0 => "continuation",
        1 => "text",
        2 => "binary",
        8 => "close",
        9 => "ping",
        10 => "pong",
        _ => "reserved",
    }
}
