//! Decodes what passes, and makes a line of each message.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

use tcp_socket::base::text::printable;

use super::lines::Lines;
use crate::wire::cursor::hex;
use crate::wire::decode::{Format, NewDecoder};
use crate::wire::message::{Decoder, Message, Role, Side};
use crate::wire::tape::{Event, Watch, What};
use crate::wire::units::MAX_UNIT;

/// The names of the columns.
pub(super) const HEADER: &str = "     time  connection      size      took  message";

/// Maximum number of requests on a connection that wait for their responses.
const MAX_ASKED: usize = 10_000;

/// Maximum number of characters of a summary or a value.
const MAX_TEXT: usize = 100;

/// Maximum number of fields that are shown of a message.
const MAX_FIELDS: usize = 200;

/// Maximum number of bytes that are shown of a field.
const MAX_HEX: usize = 8;

/// The view of everything that passes.
pub(super) struct Live {
    new: NewDecoder,
    with_bytes: bool,
    /// What accepts the connections: a server or a broker.
    server: &'static str,
    /// What to say if nothing listens at the target.
    advice: String,
    lines: Lines,
    began: Instant,
    connections: HashMap<u32, Connection>,
}

/// A connection that has not ended.
struct Connection {
    decoder: Box<dyn Decoder>,
    /// When each request was complete.
    asked: HashMap<(Side, u64), Instant>,
    directions: [Direction; 2],
}

#[derive(Default)]
struct Direction {
    /// Number of bytes that have passed.
    passed: u64,
    /// Those that are not decoded yet, if they will be shown.
    bytes: Vec<u8>,
}

impl Live {
    pub(super) fn new(format: Format, with_bytes: bool, advice: String, lines: Lines) -> Self {
        let (new, server) = (format.decoder(), format.server());
        let (began, connections) = (Instant::now(), HashMap::new());
        Self { new, with_bytes, server, advice, lines, began, connections }
    }

    /// Shows what is left over when a direction ends.
    fn end(&mut self, at: Instant, number: u32, from: Side) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if let Some(message) = connection.decoder.end(from) {
            self.message(at, number, &message);
        }
    }

    fn message(&mut self, at: Instant, number: u32, message: &Message) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let took = connection.took(at, message);
        let arrow = if message.from == Side::Client { "->" } else { "<-" };
        let took = took.map(|took| format!("{took:.1?}")).unwrap_or_default();
        let size = message.span.end - message.span.start;
        let mut text = start(self.began, at, number);
        let _ = write!(text, " {arrow} {size:>9} B {took:>9}  {}", shown(&message.summary));
        if self.with_bytes {
            let bytes = connection.directions[message.from as usize].take(&message.span);
            fields(&mut text, message, &bytes);
        }
        self.lines.offer(text);
    }

    fn line(&self, at: Instant, number: u32, text: &str) {
        self.lines.offer(format!("{:<43}{}", start(self.began, at, number), printable(text)));
    }
}

impl Watch for Live {
    fn event(&mut self, events: &mut VecDeque<Event>) {
        let Some(Event { at, connection: number, from, what }) = events.back() else { return };
        let (at, number, from) = (*at, *number, *from);
        let name = if from == Side::Client { "client" } else { self.server };
        match what {
            What::Open { server: 0, .. } => self.line(at, number, &self.advice),
            What::Open { client, .. } => {
                self.line(at, number, &format!("the client connects from port {client}"));
                let (decoder, asked) = ((self.new)(), HashMap::new());
                let connection = Connection { decoder, asked, directions: Default::default() };
                self.connections.insert(number, connection);
            }
            What::Data(bytes) => {
                let Some(connection) = self.connections.get_mut(&number) else { return };
                connection.directions[from as usize].add(bytes, self.with_bytes);
                let messages = connection.decoder.push(from, bytes);
                let passed = connection.directions[from as usize].passed;
                for message in &messages {
                    hide(events, number, message, passed);
                    self.message(at, number, message);
                }
            }
            What::End => {
                self.end(at, number, from);
                self.line(at, number, &format!("the {name} closes its side"));
            }
            What::Reset => {
                self.end(at, number, from);
                if self.connections.contains_key(&number) {
                    self.line(at, number, &format!("the {name} resets the connection"));
                }
            }
            What::Note(text) => self.line(at, number, text),
        }
    }

    fn closed(&mut self, connection: u32) {
        self.connections.remove(&connection);
    }
}

impl Connection {
    /// For a response, returns the time since its request was complete.
    fn took(&mut self, at: Instant, message: &Message) -> Option<Duration> {
        let mut took = None;
        for call in &message.calls {
            match message.role {
                Role::Request if self.asked.len() < MAX_ASKED => {
                    self.asked.insert((message.from, *call), at);
                }
                Role::Response => {
                    let asked = self.asked.remove(&(message.from.other(), *call));
                    took = took.or(asked.map(|asked| at - asked));
                }
                _ => {}
            }
        }
        took
    }
}

impl Direction {
    fn add(&mut self, bytes: &[u8], keep: bool) {
        self.passed += bytes.len() as u64;
        if keep {
            self.bytes.extend_from_slice(bytes);
        }
        if self.bytes.len() > MAX_UNIT + bytes.len() {
            self.bytes.clear(); // They can't be decoded.
        }
    }

    /// Returns the bytes of a message, and forgets them and everything before.
    fn take(&mut self, span: &Range<u64>) -> Vec<u8> {
        let start = self.passed - self.bytes.len() as u64;
        let end = span.end.saturating_sub(start) as usize;
        let mut bytes: Vec<u8> = self.bytes.drain(..end.min(self.bytes.len())).collect();
        bytes.drain(..(span.start.saturating_sub(start) as usize).min(bytes.len()));
        bytes
    }
}

/// Returns the beginning of a line.
fn start(began: Instant, at: Instant, number: u32) -> String {
    format!("{:>7.3} s  #{:<4}", (at - began).as_secs_f64(), number + 1)
}

/// Returns received text, shortened and in a form that is safe for a terminal.
fn shown(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// Appends one line for each field: its position in the message, its bytes, its name, and its value.
fn fields(text: &mut String, message: &Message, bytes: &[u8]) {
    for (index, field) in message.fields.iter().take(MAX_FIELDS).enumerate() {
        let position = (field.span.start - message.span.start) as usize;
        let length = (field.span.end - field.span.start) as usize;
        let is_group = message.fields.get(index + 1).is_some_and(|next| next.depth > field.depth);
        let bytes = bytes.get(position..position + length.min(MAX_HEX)).unwrap_or_default();
        let mut pairs = if is_group || field.filler.is_some() { String::new() } else { hex(bytes) };
        if !pairs.is_empty() && length > MAX_HEX {
            pairs += " …";
        }
        let (indent, name) = (usize::from(field.depth) * 2, shown(&field.name));
        let value = if is_group { String::new() } else { format!(": {}", shown(&field.value)) };
        let _ = write!(text, "\n{position:>12}  {pairs:<25}  {:indent$}{name}{value}", "");
    }
    if message.fields.len() > MAX_FIELDS {
        let _ = write!(text, "\n{:>12}  and {} more fields", "", message.fields.len() - MAX_FIELDS);
    }
}

/// Replaces the credentials of a message among the events. `passed` is the number of bytes that
/// this direction has sent.
fn hide(events: &mut VecDeque<Event>, connection: u32, message: &Message, passed: u64) {
    let secrets: Vec<(Range<u64>, u8)> = message.secrets().collect();
    let Some(first) = secrets.iter().map(|(span, _)| span.start).min() else { return };
    let mut end = passed;
    for event in events.iter_mut().rev() {
        let What::Data(bytes) = &mut event.what else { continue };
        if end <= first {
            return;
        }
        if (event.connection, event.from) != (connection, message.from) {
            continue;
        }
        let start = end.saturating_sub(bytes.len() as u64);
        for (span, filler) in &secrets {
            let hidden = span.start.clamp(start, end) - start..span.end.clamp(start, end) - start;
            bytes[hidden.start as usize..hidden.end as usize].fill(*filler);
        }
        end = start;
    }
}
