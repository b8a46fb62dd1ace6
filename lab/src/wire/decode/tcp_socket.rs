//! This repository's TCP protocol: `tcp_socket/PROTOCOL.md`. The chapter itself describes the
//! fields of each message.

use tcp_socket::protocol::describe::{self, Field};
use tcp_socket::protocol::frame::{BadFrame, FLAG_END, Frame, HEADER, kind};
use tcp_socket::protocol::handshake::{HELLO, Hello, WELCOME};

use crate::wire::cursor::{Cursor, hex, number};
use crate::wire::message::{Decoder, Purpose, Role, Side};
use crate::wire::units::{Protocol, Reading, Units, Unreadable};

/// Maximum number of bytes in a payload. The chapter's server accepts half of that by default.
const MAX_PAYLOAD: u64 = 1024 * 1024;

/// Maximum number of characters of a station ID in a summary, with its quotes.
const MAX_SHOWN: usize = 34;

/// The call to which `HELLO` and `WELCOME` belong. Request IDs are lower.
const HANDSHAKE: u64 = 1 << 32;

/// Returns a decoder for one connection.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(Units::new(TcpSocket::default()))
}

#[derive(Default)]
struct TcpSocket {
    /// Whether each side has sent its `HELLO` or `WELCOME`. Frames follow.
    greeted: [bool; 2],
    /// Whether the client has said `GOODBYE`, so that the server's is a response.
    client_said_goodbye: bool,
}

impl Protocol for TcpSocket {
    fn length(&mut self, from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        if !self.greeted[from as usize] {
            // `HELLO` and `WELCOME` begin with the same magic, which has four bytes.
            return match from {
                _ if !Hello::may_begin(bytes) => Err("not the protocol of the TCP chapter".into()),
                _ if bytes.len() < 4 => Ok(None),
                Side::Client => Ok(Some(HELLO)),
                Side::Server => Ok(Some(WELCOME)),
            };
        }
        let Some(length) = bytes.get(8..12) else { return Ok(None) };
        match number(length) {
            length if length > MAX_PAYLOAD => Err(format!("a frame with {length} bytes of payload")),
            length => Ok(Some(HEADER + length as usize)),
        }
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let bytes = unit.whole();
        if std::mem::replace(&mut self.greeted[from as usize], true) {
            let fields = describe::frame(bytes);
            name(unit, &fields);
            return self.frame(from, bytes, &fields);
        }
        if from == Side::Client {
            let fields = describe::hello(bytes);
            name(unit, &fields);
            let [lowest, highest] = ["lowest version", "highest version"].map(|name| value(&fields, name));
            return Reading::of_call(
                format!("HELLO, versions {lowest} to {highest}"),
                Role::Request,
                HANDSHAKE,
            );
        }
        let fields = describe::welcome(bytes);
        name(unit, &fields);
        let version = value(&fields, "version");
        let summary = format!("WELCOME, version {version}");
        Reading::of_call(summary, Role::Response, HANDSHAKE).refused(version == "0")
    }
}

impl TcpSocket {
    fn frame(&mut self, from: Side, bytes: &[u8], fields: &[Field<'_>]) -> Reading {
        let [kind, flags] = [0, 2].map(|at| number(&bytes[at..at + 2]) as u16);
        let id = number(&bytes[4..8]);
        let role = match (from, kind) {
            (Side::Client, kind::RECORD | kind::WATCH | kind::PING | kind::GOODBYE | kind::TOKEN) => {
                Role::Request
            }
            (Side::Server, kind::RECORDED | kind::PONG | kind::CALLER) => Role::Response,
            (Side::Server, kind::READING) if flags & FLAG_END != 0 => Role::Response,
            (Side::Server, kind::ERROR) if id != 0 => Role::Response, // 0: the whole connection.
            (Side::Server, kind::GOODBYE) if self.client_said_goodbye => Role::Response,
            _ => Role::Other,
        };
        self.client_said_goodbye |= (from, kind) == (Side::Client, kind::GOODBYE);
        let bad = matches!(Frame::parse(bytes, u32::MAX), Err(BadFrame::Checksum { .. }));
        let summary = summary(kind, id, fields) + if bad { ", bad checksum" } else { "" };
        Reading::of_call(summary, role, id).refused(bad || kind == kind::ERROR)
    }
}

/// Names the bytes of all fields.
fn name(unit: &mut Cursor<'_>, fields: &[Field<'_>]) {
    for field in fields {
        if field.name == "token" {
            unit.secret(field.bytes.len(), field.name, b'*'); // The checksum is then that of the token.
            continue;
        }
        let purpose = match field.name {
            "station ID" | "metric" | "value" | "recorded at" => Purpose::Information,
            "accepted" | "skipped" | "code" | "text" | "name" => Purpose::Information,
            _ => Purpose::Framing,
        };
        let value = |bytes: &[u8]| if field.value.is_empty() { hex(bytes) } else { field.value.clone() };
        unit.purposed(purpose, |unit| unit.take(field.bytes.len(), field.name, value));
    }
}

fn summary(kind: u16, id: u64, fields: &[Field<'_>]) -> String {
    let end = if value(fields, "flags") == "END" { " END" } else { "" };
    let id = if id == 0 { String::new() } else { format!(" #{id}") };
    let about = match kind {
        kind::RECORD | kind::READING => match fields.iter().filter(|field| field.name == "metric").count() {
            1 => ", 1 reading".into(),
            count => format!(", {count} readings"),
        },
        kind::RECORDED => format!(", accepted {}", value(fields, "accepted")),
        kind::WATCH => format!(" {:.MAX_SHOWN$}", value(fields, "station ID")),
        kind::ERROR => format!(" {}", value(fields, "code")),
        _ => String::new(),
    };
    format!("{}{end}{id}{about}", describe::kind_name(kind))
}

/// Returns the value of the first field with this name.
fn value<'a>(fields: &'a [Field<'_>], name: &str) -> &'a str {
    fields.iter().find(|field| field.name == name).map_or("", |field| &field.value)
}
