//! WebSocket (RFC 6455): an HTTP request and its response, then frames in both directions. A unit
//! is a frame. The messages of the chapter are JSON, and a response repeats the `id` of its request.

use std::collections::HashMap;

use serde_json::Value;

use super::http1::Http1;
use crate::wire::cursor::{Cursor, hex, number, shorten, text};
use crate::wire::json::{MAX_JSON, is_json, json};
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{Protocol, Reading, Units, Unreadable};

/// Maximum number of requests on one connection whose IDs are remembered.
const MAX_WAITING: usize = 10_000;

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
    /// The message of each side that is not complete yet.
    incomplete: [Incomplete; 2],
    /// The call of each request without a response, by its `id`.
    waiting: HashMap<u64, u64>,
}

/// The fragments of a message so far.
#[derive(Default)]
struct Incomplete {
    call: u64,
    payload: Vec<u8>,
}

/// The beginning of a frame.
struct Head {
    is_final: bool,
    opcode: u8,
    is_masked: bool,
    /// Number of bytes of the extended payload length.
    extended: usize,
    payload: u64,
}

impl Head {
    /// Returns `None` if more bytes are needed.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let (extended, payload) = match second & 0x7f {
            126 => (2, number(rest.get(..2)?)),
            127 => (8, number(rest.get(..8)?)),
            length => (0, u64::from(length)),
        };
        let (is_final, is_masked) = (first & 0x80 != 0, second & 0x80 != 0);
        Some(Self { is_final, opcode: first & 0x0f, is_masked, extended, payload })
    }

    fn is_control(&self) -> bool {
        self.opcode >= 8
    }
}

impl Protocol for WebSocket {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        if !self.is_open(from) {
            return self.http.length(from, bytes);
        }
        if matches!(bytes[0] & 0x0f, 3..=7 | 11..) {
            return Err(format!("a WebSocket frame with the opcode {}", bytes[0] & 0x0f));
        }
        let Some(head) = Head::parse(bytes) else { return Ok(None) };
        if head.is_control() && (!head.is_final || head.payload > 125) {
            return Err("a WebSocket control frame that is too long or fragmented".into());
        }
        let before = 2 + head.extended + if head.is_masked { 4 } else { 0 };
        let payload = usize::try_from(head.payload).unwrap_or(usize::MAX);
        Ok(Some(payload.saturating_add(before)))
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        match Head::parse(unit.left()) {
            Some(head) if self.is_open(from) => self.frame(from, &head, unit),
            _ => self.http.read(from, unit),
        }
    }

    fn ends_with_stream(&self, from: Side) -> bool {
        !self.is_open(from) && self.http.ends_with_stream(from)
    }
}

impl WebSocket {
    fn is_open(&self, from: Side) -> bool {
        self.http.has_switched_to("websocket", from)
    }

    fn frame(&mut self, from: Side, head: &Head, unit: &mut Cursor<'_>) -> Reading {
        unit.coded(1, "FIN, RSV, opcode", |bits| {
            let end = if head.is_final { "FIN, " } else { "" };
            let reserved = if bits & 0x70 != 0 { "RSV, " } else { "" };
            format!("{end}{reserved}{}", name(head.opcode))
        });
        unit.coded(1, "MASK, Payload len", |bits| {
            let mask = if head.is_masked { "MASK, " } else { "" };
            format!("{mask}{}", bits & 0x7f)
        });
        unit.number(head.extended, "Extended payload length");
        let masked = if head.is_masked { 4 } else { 0 };
        let mask = unit.take(masked, "Masking-key", hex);
        let mut payload = unit.left().to_vec();
        if !mask.is_empty() {
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        unit.instead(&payload, |unit| match head.opcode {
            8 => close(unit),
            9 | 10 => {
                unit.rest("Application data", Purpose::Framing);
                Reading::other(name(head.opcode))
            }
            _ => self.data(from, head, unit),
        })
    }

    /// Reads a message, or a fragment of one.
    fn data(&mut self, from: Side, head: &Head, unit: &mut Cursor<'_>) -> Reading {
        let payload = unit.whole();
        if head.is_final && head.opcode == 1 && is_json(payload) {
            json(unit, payload.len());
        } else {
            unit.rest("Payload data", Purpose::Information);
        }
        let incomplete = &mut self.incomplete[from as usize];
        if head.opcode != 0 {
            let call = if from == Side::Client { self.http.next_call() } else { 0 };
            *incomplete = Incomplete { call, payload: Vec::new() };
        }
        let room = (MAX_JSON + 1).saturating_sub(incomplete.payload.len());
        incomplete.payload.extend(payload.iter().take(room));
        let call = incomplete.call;
        if !head.is_final {
            let summary = format!("{}, a fragment of {} bytes", name(head.opcode), payload.len());
            return match from {
                Side::Client => Reading::of_call(summary, Role::Part, call),
                Side::Server => Reading::other(summary),
            };
        }
        let payload = std::mem::take(&mut incomplete.payload);
        self.message(from, call, &payload)
    }

    /// Says what a whole message means.
    fn message(&mut self, from: Side, call: u64, payload: &[u8]) -> Reading {
        let json: Value = match serde_json::from_slice(payload) {
            Ok(json) if payload.len() <= MAX_JSON => json,
            _ => return Reading::other(shorten(&format!("message {}", text(payload)))),
        };
        let kind = json.get("type").and_then(Value::as_str);
        let summary = match kind {
            Some(kind) => describe(kind, &json),
            None => String::from_utf8_lossy(payload).into_owned(),
        };
        let reading = Reading::other(shorten(&summary)).refused(kind == Some("error"));
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
        _ => Reading::other(shorten(format!("close {code} {reason}").trim())).refused(code > 1001),
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

fn name(opcode: u8) -> &'static str {
    match opcode {
        0 => "continuation",
        1 => "text",
        2 => "binary",
        8 => "close",
        9 => "ping",
        10 => "pong",
        _ => "reserved",
    }
}
