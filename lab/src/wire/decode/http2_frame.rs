//! Frames of HTTP/2 (RFC 9113): where each ends, and what its fields are called.

use crate::wire::cursor::{Cursor, hex, number, shown};
use crate::wire::message::Purpose;
use crate::wire::units::{Reading, Unreadable};

/// Length of a frame's head.
pub const HEAD: usize = 9;

/// Maximum length of a frame. Without a setting that allows more, it is 16,384.
const MAX_FRAME: usize = 256 * 1024;

/// Maximum length of a header block with the heads of its frames.
const MAX_HEADER_BLOCK: usize = 64 * 1024;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
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
const PRIORITY: u8 = 0x20;

const SETTING_NAMES: &str = "- HEADER_TABLE_SIZE ENABLE_PUSH MAX_CONCURRENT_STREAMS INITIAL_WINDOW_SIZE \
    MAX_FRAME_SIZE MAX_HEADER_LIST_SIZE - ENABLE_CONNECT_PROTOCOL NO_RFC7540_PRIORITIES";

pub const NO_ERROR: &str = "NO_ERROR";
pub const CANCEL: &str = "CANCEL";

const ERRORS: &str = "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED \
    FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM \
    INADEQUATE_SECURITY HTTP_1_1_REQUIRED";

/// Returns the word at this position of a list. If there is none, returns `other` and the number.
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
    fn name(self) -> String {
        name_of(TYPES, self.kind.into(), "frame type")
    }

    /// Returns the name of its type, and its stream if it has one.
    pub fn title(self) -> String {
        let stream = if self.stream == 0 { String::new() } else { format!(" #{}", self.stream) };
        self.name() + &stream
    }

    /// Returns the names of the flags that are set.
    fn flag_names(self) -> String {
        let lowest = if matches!(self.kind, SETTINGS | PING) { "ACK" } else { "END_STREAM" };
        let names = [(1, lowest), (END_HEADERS, "END_HEADERS"), (PADDED, "PADDED"), (PRIORITY, "PRIORITY")];
        let set: Vec<&str> =
            names.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect();
        if set.is_empty() { self.flags.to_string() } else { set.join(", ") }
    }
}

/// Returns the length of a frame, or of all frames of a header block.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
    let Some(first) = Head::parse(bytes) else { return Ok(None) };
    let mut length = HEAD + first.length;
    match first.kind {
        _ if first.length > MAX_FRAME => {
            return Err(format!("a frame of {} bytes; at most {MAX_FRAME} are decoded", first.length));
        }
        HEADERS => {}
        CONTINUATION => return Err("a CONTINUATION frame without HEADERS before it".into()),
        PUSH_PROMISE => return Err("a PUSH_PROMISE frame, which is not decoded".into()),
        _ => return Ok(Some(length)),
    }
    let mut head = first;
    while length <= MAX_HEADER_BLOCK {
        if head.has(END_HEADERS) {
            return Ok(Some(length));
        }
        let Some(next) = bytes.get(length..).and_then(Head::parse) else { return Ok(None) };
        if next.kind != CONTINUATION || next.stream != first.stream {
            return Err("a header block with another frame in it".into());
        }
        (length, head) = (length + HEAD + next.length, next);
    }
    Err(format!("a header block of more than {MAX_HEADER_BLOCK} bytes"))
}

/// Names a frame: its head, its padding, and what `content` names.
pub fn frame<T>(head: Head, unit: &mut Cursor<'_>, content: impl FnOnce(&mut Cursor<'_>) -> T) -> T {
    unit.number(3, "Length");
    unit.coded(1, "Type", |_| head.name());
    unit.coded(1, "Flags", |_| head.flag_names());
    stream_number(unit, "Stream Identifier");
    unit.within(head.length, |unit| {
        let is_padded = head.has(PADDED) && matches!(head.kind, DATA | HEADERS);
        let padding = if is_padded { unit.number(1, "Pad Length") as usize } else { 0 };
        if head.has(PRIORITY) && head.kind == HEADERS {
            unit.take(5, "Stream Dependency and Weight", hex);
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
            let error = error_code(unit);
            unit.rest("Additional Debug Data", Purpose::Framing);
            is_refused = error != NO_ERROR;
            format!("{error}, last stream #{last}")
        }
        WINDOW_UPDATE => format!("+{}", stream_number(unit, "Window Size Increment")),
        kind => {
            unit.rest(if kind == PING { "Opaque Data" } else { "Payload" }, Purpose::Framing);
            String::new()
        }
    });
    let ack = if matches!(head.kind, SETTINGS | PING) && head.has(ACK) { " ACK" } else { "" };
    let summary = format!("{}{ack} {what}", head.title());
    let calls = if head.stream == 0 { Vec::new() } else { vec![head.stream.into()] };
    Reading { calls, ..Reading::other(summary.trim_end()) }.refused(is_refused)
}

/// Names settings. Returns them for a summary.
fn settings(unit: &mut Cursor<'_>) -> String {
    let mut all = Vec::new();
    while !unit.is_empty() {
        let name = |number| name_of(SETTING_NAMES, number, "setting");
        let number = unit.coded(2, "Identifier", name);
        all.push(format!("{} {}", name(number), unit.number(4, "Value")));
    }
    shown(all.join(", "))
}

/// Names a number of 31 bits.
fn stream_number(unit: &mut Cursor<'_>, name: &'static str) -> u64 {
    unit.coded(4, name, |number| (number & 0x7fff_ffff).to_string()) & 0x7fff_ffff
}

/// Names an error code. Returns its name.
pub fn error_code(unit: &mut Cursor<'_>) -> String {
    let name = |code| name_of(ERRORS, code, "error");
    name(unit.coded(4, "Error Code", name))
}
