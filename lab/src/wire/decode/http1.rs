//! HTTP/1.1 (RFC 9112). A head is a unit, and so is a body whose length the head says. Other bodies
//! arrive in chunks, each with its length, or end with the connection.

use std::collections::VecDeque;

use super::head::{
    Content, Headers, begins_head, ends_with_empty_line, header_lines, line_length, may_begin_head, trimmed,
    word,
};
use super::sse::Events;
use crate::wire::cursor::{Cursor, shorten, text};
use crate::wire::json::json;
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{MAX_UNIT, Protocol, Reading, Units, Unreadable};

/// Maximum length of a head, or of the trailers after the last chunk.
pub const MAX_HEAD: usize = 64 * 1024;

/// Maximum length of the line with a chunk's size.
const MAX_CHUNK_LINE: usize = 1024;

/// Maximum number of requests on one connection that wait for their responses.
pub const MAX_WAITING: usize = 10_000;

/// Returns a decoder for a new connection.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(Units::new(Http1::default()))
}

/// Both directions of a connection.
#[derive(Default)]
pub(super) struct Http1 {
    directions: [Direction; 2],
    /// Requests without a response, the oldest first.
    waiting: VecDeque<Asked>,
    /// Number of requests so far.
    requests: u64,
    /// What the connection speaks instead of HTTP, in small letters, after both sides agreed.
    switched: Option<String>,
}

/// A request, as far as its response depends on it.
struct Asked {
    call: u64,
    method: String,
}

#[derive(Default)]
struct Direction {
    next: Next,
    content: Content,
    /// The calls of the message whose body arrives.
    calls: Vec<u64>,
    refused: bool,
    events: Events,
    /// Number of bytes of an incomplete unit in which there is no empty line.
    scanned: usize,
}

/// What comes next in a direction.
#[derive(Clone, Copy, Default, PartialEq)]
enum Next {
    #[default]
    Head,
    /// This many bytes: a body, or a chunk that is too long for one unit.
    Bytes { left: u64, in_chunk: bool },
    /// A chunk with its size.
    Chunk,
    /// A body that ends with the connection.
    UntilEnd,
}

impl Protocol for Http1 {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let direction = &mut self.directions[from as usize];
        match direction.next {
            Next::Head => match &self.switched {
                Some(protocol) => Err(format!("the connection has changed to {protocol}")),
                None if from == Side::Client && self.waiting.len() >= MAX_WAITING => {
                    Err(format!("more than {MAX_WAITING} requests wait for a response"))
                }
                None => direction.head_length(from, bytes),
            },
            Next::Bytes { left, .. } => Ok(Some(left.min(MAX_UNIT as u64) as usize)),
            Next::Chunk => direction.chunk_length(bytes),
            Next::UntilEnd => {
                let end = match direction.content {
                    Content::Events => direction.through_empty_line(bytes),
                    Content::Json | Content::Other => None,
                };
                let is_full = bytes.len() >= MAX_UNIT;
                Ok(end.or(is_full.then_some(MAX_UNIT)).map(|length| length.min(MAX_UNIT)))
            }
        }
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let direction = &mut self.directions[from as usize];
        direction.scanned = 0;
        match direction.next {
            Next::Head => self.head(from, unit),
            _ => direction.body(from, unit),
        }
    }

    /// An incomplete head is read, too, so that its credentials are hidden.
    fn ends_with_stream(&self, from: Side) -> bool {
        matches!(self.directions[from as usize].next, Next::UntilEnd | Next::Head)
    }
}

impl Http1 {
    /// Returns whether the next bytes of this side belong to a protocol that follows HTTP.
    pub(super) fn has_switched_to(&self, protocol: &str, from: Side) -> bool {
        self.directions[from as usize].next == Next::Head && self.switched.as_deref() == Some(protocol)
    }

    /// Returns a number for a new request.
    pub(super) fn next_call(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn head(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        if line_length(unit.left()) == unit.left().len() && trimmed(unit.left()).is_empty() {
            unit.rest("empty line", Purpose::Header);
            return Reading::other("empty line");
        }
        if !ends_with_empty_line(unit.left()) {
            let summary = format!("the connection ended after {} bytes of a head", unit.left().len());
            header_lines(unit);
            return Reading::other(summary).refused(true);
        }
        match from {
            Side::Client => self.request(unit),
            Side::Server => self.response(unit),
        }
    }

    fn request(&mut self, unit: &mut Cursor<'_>) -> Reading {
        let (method, target) = unit.purposed(Purpose::Header, |unit| {
            let method = word(unit, "method");
            let target = word(unit, "request-target");
            word(unit, "HTTP-version");
            (method, target)
        });
        let headers = header_lines(unit);
        let summary = shorten(&format!("{method} {target}"));
        let call = self.next_call();
        self.waiting.push_back(Asked { call, method });
        let has_body = headers.chunked || headers.length.is_some_and(|length| length > 0);
        let direction = &mut self.directions[Side::Client as usize];
        direction.begin(&headers, has_body, vec![call], false);
        Reading::of_call(summary, if has_body { Role::Part } else { Role::Request }, call)
    }

    fn response(&mut self, unit: &mut Cursor<'_>) -> Reading {
        let (code, reason) = unit.purposed(Purpose::Header, |unit| {
            word(unit, "HTTP-version");
            let code = word(unit, "status-code");
            let rest = line_length(unit.left());
            let reason = trimmed(unit.take(rest, "reason-phrase", trimmed));
            (code, reason)
        });
        let status: u16 = code.parse().unwrap_or_default();
        let headers = header_lines(unit);
        if (100..200).contains(&status) && status != 101 {
            // An interim response: another one follows.
            let calls = self.waiting.front().map(|asked| asked.call).into_iter().collect();
            return Reading { calls, ..Reading::other(format!("{code} {reason}")) };
        }
        let asked = self.waiting.pop_front();
        let method = asked.as_ref().map_or("", |asked| &asked.method);
        if status == 101 {
            self.switched = Some(headers.upgrade.to_ascii_lowercase());
        } else if method == "CONNECT" && status < 300 {
            self.switched = Some("a tunnel".into());
        }
        let has_body = self.switched.is_none()
            && method != "HEAD"
            && !matches!(status, 204 | 304)
            && (headers.chunked || headers.length != Some(0));
        let calls: Vec<u64> = asked.map(|asked| asked.call).into_iter().collect();
        let refused = status >= 400;
        self.directions[Side::Server as usize].begin(&headers, has_body, calls.clone(), refused);
        // A stream of events may never end, so its head counts as the response.
        let is_response = !has_body || headers.content == Content::Events;
        let role = if is_response { Role::Response } else { Role::Other };
        Reading { summary: shorten(format!("{code} {reason}").trim()), role, refused, calls }
    }
}

impl Direction {
    /// Sets what follows a head.
    fn begin(&mut self, headers: &Headers, has_body: bool, calls: Vec<u64>, refused: bool) {
        self.next = match headers.length {
            _ if !has_body => Next::Head,
            _ if headers.chunked => Next::Chunk,
            Some(left) => Next::Bytes { left, in_chunk: false },
            None => Next::UntilEnd,
        };
        (self.content, self.events) = (headers.content, Events::default());
        (self.calls, self.refused) = (calls, refused);
    }

    fn head_length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let end = self.through_empty_line(bytes);
        let is_empty_line = end.is_some_and(|end| trimmed(&bytes[..end]).is_empty());
        // The first byte alone does not show whether the connection is encrypted with TLS.
        if !is_empty_line && bytes.len() > 1 && !may_begin_head(from, bytes) {
            return Err("not HTTP/1.1".into());
        }
        if end.unwrap_or(bytes.len()) > MAX_HEAD {
            return Err(format!("the head of a message is longer than {MAX_HEAD} bytes"));
        }
        match end {
            Some(end) if !is_empty_line && !begins_head(from, &bytes[..end]) => Err("not HTTP/1.1".into()),
            _ => Ok(end),
        }
    }

    fn chunk_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        if bytes[0] == b'\r' {
            return Ok(Some(2)); // the end of a chunk that was too long for one unit
        }
        let line = line_length(bytes);
        if line > MAX_CHUNK_LINE {
            return Err("not a chunk of a body".into());
        }
        if !bytes[..line].ends_with(b"\n") {
            return Ok(None);
        }
        match chunk_size(&bytes[..line]) {
            None => Err("not a chunk of a body".into()),
            Some(0) => match self.through_empty_line(bytes) {
                end if end.unwrap_or(bytes.len()) > MAX_HEAD => {
                    Err(format!("the trailers of a message are longer than {MAX_HEAD} bytes"))
                }
                end => Ok(end),
            },
            Some(size) => Ok(Some(whole_chunk(line, size).unwrap_or(line))),
        }
    }

    /// Returns the length of the first lines, up to and including an empty one.
    fn through_empty_line(&mut self, bytes: &[u8]) -> Option<usize> {
        let start = self.scanned;
        let end = (start..bytes.len()).find(|at| bytes[*at] == b'\n' && ends_with_empty_line(&bytes[..=*at]));
        self.scanned = bytes.len();
        end.map(|end| end + 1)
    }

    /// Reads a body, or a part of it.
    fn body(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let count = unit.left().len();
        let (summary, is_last) = match self.next {
            Next::Chunk => self.chunk(unit),
            Next::Bytes { left, in_chunk } => {
                let left = left.saturating_sub(count as u64);
                let is_whole = left == 0 && count < MAX_UNIT;
                self.next = match left {
                    0 if in_chunk => Next::Chunk,
                    0 => Next::Head,
                    left => Next::Bytes { left, in_chunk },
                };
                (self.content(unit, count, is_whole, "body"), self.next == Next::Head)
            }
            Next::Head | Next::UntilEnd => {
                let is_last = count < MAX_UNIT;
                (self.content(unit, count, is_last, "body"), is_last)
            }
        };
        let role = match (from, is_last) {
            (Side::Client, true) => Role::Request,
            (Side::Client, false) => Role::Part,
            (Side::Server, true) if self.content != Content::Events => Role::Response,
            (Side::Server, _) => Role::Other,
        };
        Reading { summary, role, refused: self.refused, calls: self.calls.clone() }
    }

    /// Reads a chunk. Returns its summary, and whether it is the last one.
    fn chunk(&mut self, unit: &mut Cursor<'_>) -> (String, bool) {
        let line = line_length(unit.left());
        if unit.peek(1) == b"\r" {
            unit.take(2, "end of chunk", |_| String::new());
            return ("end of chunk".into(), false);
        }
        let size = chunk_size(unit.peek(line)).unwrap_or_default();
        unit.take(line, "chunk-size", |_| size.to_string());
        if size == 0 {
            self.next = Next::Head;
            header_lines(unit);
            return ("last chunk".into(), true);
        }
        if unit.is_empty() {
            self.next = Next::Bytes { left: size, in_chunk: true };
            return (format!("a chunk of {size} bytes begins"), false);
        }
        let summary = self.content(unit, size as usize, true, "chunk");
        unit.take(2, "end of chunk", |_| String::new());
        (summary, false)
    }

    /// Names the next `count` bytes of a body. Returns a summary.
    fn content(&mut self, unit: &mut Cursor<'_>, count: usize, is_whole: bool, name: &'static str) -> String {
        match self.content {
            Content::Events => unit.within(count, |unit| self.events.read(unit)),
            Content::Json if is_whole => format!("{name} {}", json(unit, count)),
            _ => {
                let value = |bytes| if is_whole { text(bytes) } else { format!("a part of {count} bytes") };
                let short = shorten(&value(unit.peek(count)));
                unit.purposed(Purpose::Information, |unit| unit.take(count, name, value));
                format!("{name} {short}")
            }
        }
    }
}

/// Returns the size that a chunk's first line says.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let is_number = digits.iter().all(u8::is_ascii_hexdigit);
    is_number.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten()
}

/// Returns the length of a chunk with its first line and its end, if it fits a unit.
fn whole_chunk(line: usize, size: u64) -> Option<usize> {
    let length = usize::try_from(size).ok()?.checked_add(line + 2)?;
    (length <= MAX_UNIT).then_some(length)
}
