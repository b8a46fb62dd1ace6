//! TLS as it travels: records (RFC 8446, section 5). Only the two messages with which a handshake
//! begins are readable. Everything after them is encrypted.

use crate::wire::cursor::{Cursor, number};
use crate::wire::message::{Decoder, Side};
use crate::wire::units::{Protocol, Reading, Units, Unreadable};

/// Bytes of a record's header: type, version, and length.
const HEADER: usize = 5;

/// Maximum length of an encrypted record (RFC 8446, section 5.2).
const MAX_RECORD: u64 = (1 << 14) + 256;

/// Returns a decoder for one connection.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(Units::new(Tls))
}

struct Tls;

impl Protocol for Tls {
    fn length(&mut self, _from: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let Some(header) = bytes.get(..HEADER) else { return Ok(None) };
        match number(&header[3..]) {
            length if (20..=23).contains(&header[0]) && header[1] == 3 && length <= MAX_RECORD => {
                Ok(Some(HEADER + length as usize))
            }
            _ => Err("not TLS".into()),
        }
    }

    fn read(&mut self, _from: Side, unit: &mut Cursor<'_>) -> Reading {
        let kind = unit.coded(1, "type", |kind| name(kind).to_owned());
        unit.number(2, "version");
        let length = unit.number(2, "length");
        if kind != 22 {
            return Reading::other(format!("{}, {length} bytes", name(kind))).refused(kind == 21);
        }
        let hello = unit.coded(1, "message", |kind| message(kind).to_owned());
        unit.number(3, "length");
        unit.number(2, "version");
        unit.take(32, "random", |_| "32 bytes".to_owned());
        unit.take(usize::MAX, "session ID, cipher suites, and extensions", |bytes| {
            format!("{} bytes", bytes.len())
        });
        Reading::other(format!("{}, {length} bytes", message(hello)))
    }
}

fn name(kind: u64) -> &'static str {
    match kind {
        20 => "change_cipher_spec",
        21 => "alert",
        22 => "handshake",
        _ => "encrypted",
    }
}

fn message(kind: u64) -> &'static str {
    match kind {
        1 => "ClientHello",
        2 => "ServerHello",
        _ => "another message",
    }
}
