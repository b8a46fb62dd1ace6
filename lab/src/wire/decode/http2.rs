//! HTTP/2 (RFC 9113), with gRPC in it.

use std::collections::{BTreeMap, VecDeque};

use prost_reflect::MethodDescriptor;

use super::grpc::{Messages, method};
use super::hpack::{self, Header, Hpack};
use super::http2_frame::*;
use crate::wire::cursor::{Cursor, shown};
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{Protocol, Reading, Units, Unreadable};

/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Maximum number of streams that are remembered. Beyond it, the oldest is forgotten.
const MAX_STREAMS: usize = 1_024;

/// Maximum number of bytes of incomplete messages that are kept.
const MAX_KEPT: usize = 4 * 1024 * 1024;

/// Returns a decoder for one connection.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(Units::new(Http2::default()))
}

/// One connection.
#[derive(Default)]
struct Http2 {
    /// Whether each side has sent what comes first.
    has_begun: [bool; 2],
    hpack: [Hpack; 2],
    streams: BTreeMap<u32, Stream>,
}

/// A request and its response.
#[derive(Default)]
struct Stream {
    /// The messages in its DATA frames, if these contain gRPC.
    messages: [Option<Messages>; 2],
    has_ended: [bool; 2],
    /// Whether the response says that something went wrong.
    is_refused: bool,
}

impl Protocol for Http2 {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        match (self.has_begun[from as usize], from) {
            (false, Side::Client) if !PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) => {
                Err("not HTTP/2, in which a client sends the connection preface first".into())
            }
            (false, Side::Client) => Ok((bytes.len() >= PREFACE.len()).then_some(PREFACE.len())),
            (false, Side::Server) if bytes.get(3).is_some_and(|kind| *kind != SETTINGS) => {
                Err("not HTTP/2, in which a server sends SETTINGS first".into())
            }
            _ => length(bytes),
        }
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let has_begun = std::mem::replace(&mut self.has_begun[from as usize], true);
        if from == Side::Client && !has_begun {
            unit.take(PREFACE.len(), "connection preface", |_| "PRI * HTTP/2.0 … SM".into());
            return Reading::other("connection preface");
        }
        let Some(head) = Head::parse(unit.left()) else { return Reading::other("frame") };
        match head.kind {
            HEADERS => self.headers(from, head, unit),
            DATA => self.data(from, head, unit),
            RST_STREAM => self.reset(from, head, unit),
            _ => control(head, unit),
        }
    }
}

impl Http2 {
    /// Returns what is known of a stream.
    fn stream(&mut self, id: u32) -> &mut Stream {
        if self.streams.len() >= MAX_STREAMS && !self.streams.contains_key(&id) {
            self.streams.pop_first();
        }
        self.streams.entry(id).or_default()
    }

    fn headers(&mut self, from: Side, first: Head, unit: &mut Cursor<'_>) -> Reading {
        // A header may begin in one frame and end in another, so all frames are joined first.
        let (mut block, mut frames) = (Vec::new(), Cursor::new(unit.left(), 0));
        while let Some(head) = Head::parse(frames.left()) {
            frame(head, &mut frames, |content| block.extend_from_slice(content.left()));
        }
        let mut headers = self.hpack[from as usize].read(&block);
        let what = self.apply(from, first.stream, &headers);
        while let Some(head) = Head::parse(unit.left()) {
            frame(head, unit, |unit| hpack::name(&mut headers, unit));
        }
        self.reading(from, first, &what)
    }

    /// Applies headers to their stream. Returns the most important ones as text.
    fn apply(&mut self, from: Side, id: u32, headers: &VecDeque<Header>) -> String {
        let value = |name| headers.iter().find(|header| header.name == name).map(|header| &*header.value);
        let code = |name| value(name).and_then(|value| value.parse::<u32>().ok()).unwrap_or_default();
        let stream = self.stream(id);
        stream.is_refused |= code(":status") >= 400 || code("grpc-status") != 0;
        let is_grpc = value("content-type").map(|kind| kind.starts_with("application/grpc"));
        match (from, is_grpc) {
            (Side::Client, Some(true)) => {
                let method = value(":path").and_then(method);
                let input = method.as_ref().map(MethodDescriptor::input);
                let output = method.as_ref().map(MethodDescriptor::output);
                stream.messages = [input, output].map(|kind| Some(Messages::new(kind)));
            }
            // A response that some other program sent, such as a proxy.
            (Side::Server, Some(false)) => stream.messages[from as usize] = None,
            _ => {}
        }
        let parts =
            [":method", ":path", ":status", "grpc-status", "grpc-message"].map(|name| match value(name) {
                Some(value) if name.starts_with("grpc-") => format!("{name} {value} "),
                Some(value) => format!("{value} "),
                None => String::new(),
            });
        shown(parts.concat().trim_end())
    }

    fn data(&mut self, from: Side, head: Head, unit: &mut Cursor<'_>) -> Reading {
        let all = self.streams.values().flat_map(|stream| stream.messages.iter().flatten());
        let room = MAX_KEPT.saturating_sub(all.map(Messages::kept).sum());
        let stream = self.streams.get_mut(&head.stream);
        let messages = stream.and_then(|stream| stream.messages[from as usize].as_mut());
        let what = frame(head, unit, |unit| match messages {
            Some(messages) => messages.read(unit, room),
            None => {
                let length = unit.left().len();
                unit.rest("Data", Purpose::Information);
                format!("{length} bytes")
            }
        });
        self.reading(from, head, &what)
    }

    fn reset(&mut self, from: Side, head: Head, unit: &mut Cursor<'_>) -> Reading {
        let error = frame(head, unit, error_code);
        let role = match from {
            // What the server has already sent may still arrive, so the stream is not forgotten.
            Side::Client => Role::Other,
            Side::Server => match self.streams.remove(&head.stream) {
                Some(stream) if !stream.has_ended[from as usize] => Role::Response,
                _ => Role::Other,
            },
        };
        // A client that needs no more of a response cancels it.
        let is_refused = error != NO_ERROR && (from == Side::Server || error != CANCEL);
        Reading::of_call(format!("{} {error}", head.title()), role, head.stream.into()).refused(is_refused)
    }

    /// Returns what a frame with a part of a request or response says: its name, its stream, `what`.
    fn reading(&mut self, from: Side, head: Head, what: &str) -> Reading {
        let ends = head.has(END_STREAM);
        let role = match (from, ends) {
            (Side::Client, true) => Role::Request,
            (Side::Client, false) => Role::Part,
            (Side::Server, true) => Role::Response,
            (Side::Server, false) => Role::Other,
        };
        let stream = self.stream(head.stream);
        let is_refused = stream.is_refused && from == Side::Server;
        stream.has_ended[from as usize] |= ends;
        if stream.has_ended == [true, true] {
            self.streams.remove(&head.stream);
        }
        let summary = format!("{} {what}", head.title());
        let summary = format!("{}{}", summary.trim_end(), if ends { " END_STREAM" } else { "" });
        Reading::of_call(summary, role, head.stream.into()).refused(is_refused)
    }
}
