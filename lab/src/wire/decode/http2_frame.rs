//! Frames of HTTP/2 (RFC 9113): where each ends, and what its fields are called.

use super::protobuf::shorten;
use crate::wire::cursor::{Cursor, hex, number};
use crate::wire::message::Purpose;
use crate::wire::units::{Reading, Unreadable};

/// Length of a frame's head.
pub const HEAD: usize = 9;

/// Maximum length of a frame. Without a setting that allows more, it is 16,384.
const MAX_FRAME: usize = 256 * 1024;

/// Maximum length of a header block with the heads of its frames.
const MAX_HEADER_BLOCK: usize = 64 * 1024;

/// Maximum number of characters of settings in a summary.
const MAX_SUMMARY: usize = 60;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const TYPES: &str =
    "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION";

pub const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 0x20;

const SETTING_NAMES: &str = "- HEADER_TABLE_SIZE ENABLE_PUSH MAX_CONCURRENT_STREAMS INITIAL_WINDOW_SIZE \
    MAX_FRAME_SIZE MAX_HEADER_LIST_SIZE - ENABLE_CONNECT_PROTOCOL NO_RFC7540_PRIORITIES";

const ERRORS: &str = "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED \
    FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM \
    INADEQUATE_SECURITY HTTP_1_1_REQUIRED";

/// Returns the word at this place of a list. Without one, returns what `other` calls it.
fn name_of(list: &str, number: u64, other: &str) -> String {
    let name = list.split(' ').nth(number as usize).filter(|name| *name != "-");
    name.map_or(format!("{other} {number}"), str::to_owned)
}

/// The head of a frame.
#[derive(Clone, Copy)]
pub struct Head {
    length: usize,
    /// Its type.
    pub kind: u8,
    flags: u8,
    /// The stream it belongs to, or 0.
    pub stream: u32,
}

impl Head {
    /// Returns the head that these bytes begin with, if it is complete.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.get(..HEAD)?.split_at(3);
        let stream = number(&rest[2..]) as u32 & 0x7fff_ffff;
        Some(Self { length: number(length) as usize, kind: rest[0], flags: rest[1], stream })
    }

    /// Returns whether this flag is set.
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the name of its type.
    pub fn name(self) -> String {
        name_of(TYPES, self.kind.into(), "frame type")
    }

    fn is_padded(self) -> bool {
        self.has(PADDED) && matches!(self.kind, DATA | HEADERS | PUSH_PROMISE)
    }

    /// Returns the names of the flags that are set.
    fn flag_names(self) -> String {
        let lowest = if matches!(self.kind, SETTINGS | PING) { "ACK" } else { "END_STREAM" };
        let names =
            [(1, lowest), (END_HEADERS, "END_HEADERS"), (PADDED, "PADDED"), (HAS_PRIORITY, "PRIORITY")];
        let set: Vec<&str> =
            names.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect();
        if set.is_empty() { self.flags.to_string() } else { set.join(", ") }
    }
}

/// Returns the length of a frame, or of all frames of a header block.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
    let Some(first) = Head::parse(bytes) else { return Ok(None) };
    if first.length > MAX_FRAME {
        return Err(format!("a frame of {} bytes; at most {MAX_FRAME} are decoded", first.length));
    }
    if first.kind == CONTINUATION {
        return Err("a CONTINUATION frame without HEADERS before it".into());
    }
    let begins_block = matches!(first.kind, HEADERS | PUSH_PROMISE);
    let (mut length, mut head) = (HEAD + first.length, first);
    loop {
        if begins_block && length > MAX_HEADER_BLOCK {
            return Err(format!("a header block of more than {MAX_HEADER_BLOCK} bytes"));
        }
        if !begins_block || head.has(END_HEADERS) {
            return Ok(Some(length));
        }
        let Some(next) = bytes.get(length..).and_then(Head::parse) else { return Ok(None) };
        if next.kind != CONTINUATION || next.stream != first.stream {
            return Err("a header block with another frame in it".into());
        }
        (length, head) = (length + HEAD + next.length, next);
    }
}

/// Names a frame: its head, its padding, and what `content` names.
pub fn frame<T>(head: Head, unit: &mut Cursor<'_>, content: impl FnOnce(&mut Cursor<'_>) -> T) -> T {
    unit.number(3, "Length");
    unit.coded(1, "Type", |_| head.name());
    unit.coded(1, "Flags", |_| head.flag_names());
    stream_number(unit, "Stream Identifier");
    unit.within(head.length, |unit| {
        let padding = if head.is_padded() { unit.number(1, "Pad Length") as usize } else { 0 };
        match head.kind {
            HEADERS if head.has(HAS_PRIORITY) => priority(unit),
            PUSH_PROMISE => drop(stream_number(unit, "Promised Stream ID")),
            _ => {}
        }
        let result = unit.within(unit.left().len().saturating_sub(padding), content);
        unit.rest("Padding", Purpose::Framing);
        result
    })
}

/// Names a frame that carries no part of a request or response.
pub fn control(head: Head, unit: &mut Cursor<'_>) -> Reading {
    let mut is_refused = false;
    let what = frame(head, unit, |unit| match head.kind {
        SETTINGS => settings(unit),
        GOAWAY => {
            let last = stream_number(unit, "Last-Stream-ID");
            let (is_error, error) = error_code(unit);
            is_refused = is_error;
            unit.rest("Additional Debug Data", Purpose::Framing);
            format!("{error}, last stream #{last}")
        }
        WINDOW_UPDATE => format!("+{}", stream_number(unit, "Window Size Increment")),
        kind => {
            match kind {
                PRIORITY => priority(unit),
                PING => drop(unit.take(8, "Opaque Data", hex)),
                _ => unit.rest("Payload", Purpose::Framing),
            }
            String::new()
        }
    });
    let is_ack = matches!(head.kind, SETTINGS | PING) && head.has(ACK);
    let ack = if is_ack { " ACK" } else { "" };
    let stream = if head.stream == 0 { String::new() } else { format!(" #{}", head.stream) };
    let summary = format!("{}{ack}{stream} {what}", head.name());
    let calls = if head.stream == 0 { Vec::new() } else { vec![head.stream.into()] };
    Reading { calls, ..Reading::other(summary.trim_end()) }.refused(is_refused)
}

/// Names settings. Returns them for a summary.
fn settings(unit: &mut Cursor<'_>) -> String {
    let mut all = Vec::new();
    while !unit.is_empty() {
        let name = name_of(SETTING_NAMES, number(unit.peek(2)), "setting");
        unit.group(name.clone(), |unit| {
            unit.number(2, "Identifier");
            let value = unit.number(4, "Value");
            all.push(format!("{name} {value}"));
            (value.to_string(), ())
        });
    }
    shorten(all.join(", "), MAX_SUMMARY)
}

/// Names a number of 31 bits.
fn stream_number(unit: &mut Cursor<'_>, name: &'static str) -> u64 {
    unit.coded(4, name, |number| (number & 0x7fff_ffff).to_string()) & 0x7fff_ffff
}

fn priority(unit: &mut Cursor<'_>) {
    unit.coded(4, "Stream Dependency", |number| {
        let exclusive = if number >> 31 == 1 { ", exclusive" } else { "" };
        format!("{}{exclusive}", number & 0x7fff_ffff)
    });
    unit.coded(1, "Weight", |weight| (weight + 1).to_string());
}

/// Names an error code. Returns whether it is an error, and its name.
pub fn error_code(unit: &mut Cursor<'_>) -> (bool, String) {
    let name = |code| name_of(ERRORS, code, "error");
    let code = unit.coded(4, "Error Code", name);
    (code != 0, name(code))
}
