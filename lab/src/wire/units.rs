//! Splits a stream into the units of its protocol and has each unit decoded.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::message::{Decoder, Message, Purpose, Role, Side};

/// Maximum length of a unit. Decoding needs the whole unit in memory; all limits of the chapters
/// are lower.
pub const MAX_UNIT: usize = 16 * 1024 * 1024;

/// Maximum number of requests whose beginning is remembered while they are incomplete.
const MAX_INCOMPLETE: usize = 10_000;

/// How a connection with TLS begins: the type of the first record (handshake), and its version.
const TLS: &[u8] = &[22, 3];

/// Why bytes cannot be read, as the end of a sentence: "not HTTP/1.1", "a frame of 20 MB".
pub type Unreadable = String;

/// What a decoder has read from one unit.
pub struct Reading {
    /// One line: the unit's name first, then what matters most.
    pub summary: String,
    /// What it is in the conversation.
    pub role: Role,
    /// Whether it says that something went wrong.
    pub refused: bool,
    /// The calls that it belongs to; see [`Message::calls`].
    pub calls: Vec<u64>,
}

impl Reading {
    /// A unit that belongs to no call.
    pub fn other(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), role: Role::Other, refused: false, calls: Vec::new() }
    }

    /// A unit that belongs to one call.
    pub fn of_call(summary: impl Into<String>, role: Role, call: u64) -> Self {
        Self { summary: summary.into(), role, refused: false, calls: vec![call] }
    }

    /// Sets whether something went wrong.
    pub fn refused(self, refused: bool) -> Self {
        Self { refused, ..self }
    }
}

/// What a decoder has to know about its protocol: where a unit ends, and what its bytes mean.
/// [`Units`] does the rest.
pub trait Protocol: Send {
    /// Returns the length of the unit that `bytes` begin with, even if not all of it has arrived.
    /// `None` means that more bytes are needed to know. `bytes` are never empty.
    ///
    /// # Errors
    /// If the bytes do not belong to the protocol. The decoder then gives up on this direction.
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable>;

    /// Names the fields of a whole unit. Bytes that the method leaves become a field of their own.
    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading;

    /// Returns whether the bytes left over at the end of a direction are a whole unit, because the
    /// end of the stream is what ends it.
    fn ends_with_stream(&self, _from: Side) -> bool {
        false
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Direction {
    /// Position of the first byte in `rest`.
    start: u64,
    /// Bytes that belong to no complete unit yet.
    rest: Vec<u8>,
    /// Length of the unit that `rest` begins with, once it is known.
    length: Option<usize>,
    /// Set once the protocol could not read the bytes. From then on they are only counted.
    unreadable: bool,
    /// Number of bytes since then that no message covers yet.
    uncovered: u64,
    /// What replaces those bytes, because they may contain credentials. Encrypted bytes stay.
    filler: Option<u8>,
}

/// A decoder for a protocol that consists of units.
pub struct Units<P> {
    protocol: P,
    directions: [Direction; 2],
    /// Where each incomplete request began. One without a call gets no response.
    begun: HashMap<(Side, Option<u64>), u64>,
}

impl<P: Protocol> Units<P> {
    /// Returns a decoder for one connection.
    pub fn new(protocol: P) -> Self {
        Self { protocol, directions: Default::default(), begun: HashMap::new() }
    }

    /// Decodes the first `length` bytes that are left.
    fn decode(&mut self, from: Side, length: usize) -> Message {
        let direction = &mut self.directions[from as usize];
        let span = direction.start..direction.start + length as u64;
        let mut unit = Cursor::new(&direction.rest[..length], span.start);
        let Reading { summary, role, refused, calls } = self.protocol.read(from, &mut unit);
        unit.rest("not decoded", Purpose::Framing);
        let fields = unit.into_fields();
        direction.rest.drain(..length);
        direction.start = span.end;
        let call = (from, calls.first().copied());
        let begun = match role {
            Role::Part if self.begun.len() < MAX_INCOMPLETE => *self.begun.entry(call).or_insert(span.start),
            Role::Request => self.begun.remove(&call).unwrap_or(span.start),
            _ => span.start,
        };
        Message { from, span, summary, fields, role, refused, calls, begun }
    }

    /// Gives up on a direction.
    fn give_up(&mut self, from: Side, why: &str) -> Message {
        let direction = &mut self.directions[from as usize];
        direction.unreadable = true;
        direction.uncovered = direction.rest.len() as u64;
        let tls = direction.start == 0 && direction.rest.starts_with(TLS);
        direction.filler = (!tls).then_some(b'*');
        direction.rest = Vec::new();
        let why = if tls { "encrypted with TLS" } else { why };
        let at = direction.start;
        let summary = format!("cannot read this: {why}; it is still forwarded");
        message(from, at..at, summary, Vec::new())
    }
}

impl<P: Protocol> Decoder for Units<P> {
    fn push(&mut self, from: Side, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.directions[from as usize].unreadable {
            self.directions[from as usize].uncovered += bytes.len() as u64;
            return messages;
        }
        self.directions[from as usize].rest.extend_from_slice(bytes);
        loop {
            let direction = &mut self.directions[from as usize];
            if direction.rest.is_empty() || (direction.start == 0 && direction.rest == TLS[..1]) {
                return messages;
            }
            let length = match direction.length {
                Some(length) => Ok(Some(length)),
                None => self.protocol.length(from, &direction.rest),
            };
            match length {
                Ok(Some(length)) if (1..=direction.rest.len().min(MAX_UNIT)).contains(&length) => {
                    direction.length = None;
                    messages.push(self.decode(from, length));
                }
                Ok(Some(length)) if (1..=MAX_UNIT).contains(&length) => {
                    direction.length = Some(length);
                    return messages;
                }
                Ok(None) if direction.rest.len() <= MAX_UNIT => return messages,
                Ok(_) => messages.push(self.give_up(from, "a message is too long to decode")),
                Err(why) => messages.push(self.give_up(from, &why)),
            }
        }
    }

    fn end(&mut self, from: Side) -> Option<Message> {
        let direction = &mut self.directions[from as usize];
        if direction.unreadable {
            let span = direction.start..direction.start + direction.uncovered;
            direction.start = span.end;
            direction.uncovered = 0;
            return (!span.is_empty()).then(|| {
                let summary = format!("{} bytes that could not be read", span.end - span.start);
                message(from, span.clone(), summary, Cursor::unread(span, direction.filler))
            });
        }
        let length = direction.rest.len();
        if length == 0 {
            return None;
        }
        if self.protocol.ends_with_stream(from) {
            return Some(self.decode(from, length));
        }
        let span = direction.start..direction.start + length as u64;
        let mut unit = Cursor::new(&direction.rest, span.start);
        unit.secret(length, "incomplete", b'*'); // It may be the beginning of a credential.
        let fields = unit.into_fields();
        direction.start = span.end;
        direction.rest = Vec::new();
        Some(message(from, span, format!("the connection ended after {length} bytes of a message"), fields))
    }
}

/// A message that belongs to no call.
fn message(
    from: Side,
    span: std::ops::Range<u64>,
    summary: String,
    fields: Vec<super::message::Field>,
) -> Message {
    let begun = span.start;
    Message { from, span, summary, fields, role: Role::Other, refused: true, calls: Vec::new(), begun }
}
