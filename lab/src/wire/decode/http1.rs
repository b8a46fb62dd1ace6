//! HTTP/1.1 (RFC 9112). A unit is a head, a chunk of a body, or a whole body whose length is in its
//! head. Other bodies end with the connection.

use std::collections::VecDeque;

use super::head::{Headers, has_version, header_lines, line_length, may_begin_head, trimmed, word};
use super::sse::events;
use crate::wire::cursor::{Cursor, shown};
use crate::wire::json::Json;
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{Protocol, Reading, Units, Unreadable};

/// Maximum length of a head, of the trailers after the last chunk, and of an event without a chunk.
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
    /// The calls and methods of the requests without a response, the oldest first.
    waiting: VecDeque<(u64, String)>,
    /// Number of requests so far.
    requests: u64,
    /// Whether both sides have agreed to go on with another protocol.
    switched: bool,
}

#[derive(Default)]
struct Direction {
    next: Next,
    /// The calls of the message whose body arrives.
    calls: Vec<u64>,
    refused: bool,
    /// Whether the body is a stream of server-sent events.
    events: bool,
    /// The body so far, if it is JSON.
    json: Json,
    /// Number of bytes of an incomplete unit in which there is no empty line.
    scanned: usize,
}

/// What comes next in a direction.
#[derive(Clone, Copy, Default, PartialEq)]
enum Next {
    #[default]
    Head,
    /// A body of this many bytes.
    Body(u64),
    /// A chunk with its size.
    Chunk,
    /// A body that ends with the connection.
    UntilEnd,
}

impl Protocol for Http1 {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let direction = &mut self.directions[from as usize];
        match direction.next {
            Next::Head if self.switched => Err("the connection has switched to another protocol".into()),
            Next::Head if from == Side::Client && self.waiting.len() >= MAX_WAITING => {
                Err(format!("more than {MAX_WAITING} requests wait for a response"))
            }
            Next::Head => direction.head_length(from, bytes),
            Next::Body(length) => Ok(Some(usize::try_from(length).unwrap_or(usize::MAX))),
            Next::Chunk => direction.chunk_length(bytes),
            Next::UntilEnd if direction.events => direction.through_empty_line(bytes),
            Next::UntilEnd => Ok(None),
        }
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let direction = &mut self.directions[from as usize];
        direction.scanned = 0;
        match (direction.next, from) {
            (Next::Head, Side::Client) => self.request(unit),
            (Next::Head, Side::Server) => self.response(unit),
            _ => direction.body(from, unit),
        }
    }

    fn ends_with_stream(&self, from: Side) -> bool {
        self.directions[from as usize].next == Next::UntilEnd
    }
}

impl Http1 {
    /// Returns whether the next bytes of this side belong to the protocol that follows HTTP.
    pub(super) fn has_switched(&self, from: Side) -> bool {
        self.switched && self.directions[from as usize].next == Next::Head
    }

    /// Returns a number for a new request.
    pub(super) fn next_call(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn request(&mut self, unit: &mut Cursor<'_>) -> Reading {
        let (method, target) = unit.purposed(Purpose::Header, |unit| {
            let method = word(unit, "method");
            let target = word(unit, "request-target");
            word(unit, "HTTP-version");
            (method, target)
        });
        let headers = header_lines(unit);
        let summary = shown(format!("{method} {target}"));
        let call = self.next_call();
        self.waiting.push_back((call, method));
        let has_body = headers.chunked || headers.length.is_some_and(|length| length > 0);
        self.directions[Side::Client as usize].begin(&headers, has_body, vec![call], false);
        Reading::of_call(summary, if has_body { Role::Part } else { Role::Request }, call)
    }

    fn response(&mut self, unit: &mut Cursor<'_>) -> Reading {
        let (code, reason) = unit.purposed(Purpose::Header, |unit| {
            word(unit, "HTTP-version");
            let code = word(unit, "status-code");
            let rest = line_length(unit.left());
            (code, trimmed(unit.take(rest, "reason-phrase", trimmed)))
        });
        let (status, summary) = (code.parse().unwrap_or(0), shown(format!("{code} {reason}").trim()));
        let headers = header_lines(unit);
        if (100..200).contains(&status) && status != 101 {
            // An interim response: another one follows.
            let calls = self.waiting.front().map(|(call, _)| *call).into_iter().collect();
            return Reading { calls, ..Reading::other(summary) };
        }
        let (call, method) = self.waiting.pop_front().unzip();
        self.switched |= status == 101;
        let has_body = !matches!(status, 101 | 204 | 304)
            && method.as_deref() != Some("HEAD")
            && (headers.chunked || headers.length != Some(0));
        let calls: Vec<u64> = call.into_iter().collect();
        let refused = status >= 400;
        self.directions[Side::Server as usize].begin(&headers, has_body, calls.clone(), refused);
        // A stream of events may never end, so its head counts as the response.
        let role = if has_body && !headers.events { Role::Other } else { Role::Response };
        Reading { summary, role, refused, calls }
    }
}

impl Direction {
    /// Sets what follows a head.
    fn begin(&mut self, headers: &Headers, has_body: bool, calls: Vec<u64>, refused: bool) {
        let next = match headers.length {
            _ if !has_body => Next::Head,
            _ if headers.chunked => Next::Chunk,
            Some(length) => Next::Body(length),
            None => Next::UntilEnd,
        };
        *self = Self { next, calls, refused, events: headers.events, ..Self::default() };
    }

    fn head_length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let end = self.through_empty_line(bytes);
        let is_whole = matches!(end, Ok(Some(_)));
        if !may_begin_head(from, bytes) || (is_whole && !has_version(bytes)) {
            return Err("not HTTP/1.1".into());
        }
        end
    }

    fn chunk_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let line = line_length(&bytes[..bytes.len().min(MAX_CHUNK_LINE)]);
        match chunk_size(&bytes[..line]) {
            _ if line < MAX_CHUNK_LINE && !bytes[..line].ends_with(b"\n") => Ok(None),
            None => Err("not a chunk of a body".into()),
            Some(0) => self.through_empty_line(bytes),
            Some(size) => Ok(Some(size.saturating_add(line + 2))),
        }
    }

    /// Returns the length of the first lines, up to and including an empty one.
    fn through_empty_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let ends = |at: &usize| {
            bytes[*at] == b'\n' && (bytes[..*at].ends_with(b"\n") || bytes[..*at].ends_with(b"\n\r"))
        };
        let end = (self.scanned..bytes.len()).find(ends).map(|end| end + 1);
        self.scanned = bytes.len();
        if end.unwrap_or(bytes.len()) > MAX_HEAD {
            return Err(format!("a head or an event is longer than {MAX_HEAD} bytes"));
        }
        Ok(end)
    }

    /// Reads a body, or a part of it.
    fn body(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let summary = match self.next {
            Next::Chunk => self.chunk(unit),
            _ => self.content(unit, unit.left().len(), true, "body"),
        };
        if let Next::Body(_) = self.next {
            self.next = Next::Head;
        }
        let role = match from {
            Side::Client if self.next == Next::Head => Role::Request,
            Side::Client => Role::Part,
            Side::Server if self.next != Next::Chunk && !self.events => Role::Response,
            Side::Server => Role::Other,
        };
        Reading { summary, role, refused: self.refused, calls: self.calls.clone() }
    }

    /// Reads a chunk. Returns its summary.
    fn chunk(&mut self, unit: &mut Cursor<'_>) -> String {
        let line = line_length(unit.left());
        let size = chunk_size(unit.peek(line)).unwrap_or_default();
        unit.take(line, "chunk-size", |_| size.to_string());
        if size == 0 {
            self.next = Next::Head;
            header_lines(unit);
            return "last chunk".into();
        }
        let summary = self.content(unit, size, false, "chunk");
        unit.take(2, "end of chunk", |_| String::new());
        summary
    }

    /// Names the next `count` bytes of a body. Returns a summary.
    fn content(&mut self, unit: &mut Cursor<'_>, count: usize, is_last: bool, name: &str) -> String {
        match self.events {
            true => unit.within(count, events),
            false => format!("{name} {}", self.json.piece(unit, count, is_last)),
        }
    }
}

/// Returns the size in a chunk's first line, if the line is valid.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.strip_suffix(b"\n")?.split(|byte| *byte == b';').next()?.trim_ascii();
    let is_number = digits.iter().all(u8::is_ascii_hexdigit);
    is_number.then(|| usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten()
}
