//! Names the bytes of a Protocol Buffers message.

use prost_reflect::{Kind, MessageDescriptor};

use crate::wire::cursor::{Cursor, shown, text};
use crate::wire::message::Purpose;

/// Maximum number of different fields that the text of a message shows.
const MAX_SHOWN: usize = 16;

/// Wire types, which say where the value of a field ends.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// Names all bytes of the unit as a message of this type. If the type is not known, fields have
/// numbers instead of names. Returns the message as text. Of several fields with the same name, it
/// shows how many there are, and the first.
pub fn message(unit: &mut Cursor<'_>, kind: Option<&MessageDescriptor>) -> String {
    let mut listed: Vec<(String, usize, String)> = Vec::new();
    while !unit.is_empty() && !unit.is_full() {
        let (tag, tag_length) = varint(unit.left());
        let (number, wire) = (tag >> 3, tag & 7);
        let field = kind.zip(u32::try_from(number).ok()).and_then(|(kind, number)| kind.get_field(number));
        let name = field.as_ref().map_or(format!("field {number}"), |field| field.name().to_owned());
        let text = unit.group(name.clone(), |unit| {
            unit.take(tag_length, "tag", |_| format!("field {number}, {}", wire_name(wire)));
            let text = value(unit, wire, field.map(|field| field.kind()).as_ref());
            (text.clone(), text)
        });
        let has_room = listed.len() < MAX_SHOWN;
        match listed.last_mut() {
            Some((last, count, _)) if *last == name => *count += 1,
            _ if has_room => listed.push((name, 1, text)),
            _ => {}
        }
    }
    let more = if unit.is_empty() { "" } else { "+" };
    unit.rest("not decoded", Purpose::Information);
    let fields = listed.into_iter().map(|(name, count, text)| match count {
        1 => format!("{name}: {text}"),
        _ => format!("{count}{more} {name}: {text}"),
    });
    shown(format!("{{{}}}", fields.collect::<Vec<_>>().join(", ")))
}

/// Names the value of a field, with its length if it has one. Returns the value for people.
fn value(unit: &mut Cursor<'_>, wire: u64, kind: Option<&Kind>) -> String {
    match wire {
        VARINT | FIXED64 | FIXED32 => number(unit, wire, kind),
        LENGTH => {
            let (length, count) = varint(unit.left());
            unit.take(count, "length", |_| length.to_string());
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            match kind {
                Some(Kind::Message(kind)) if unit.may_go_deeper() => {
                    unit.within(length, |unit| message(unit, Some(kind)))
                }
                _ => text(unit.purposed(Purpose::Information, |unit| unit.text(length, "value"))),
            }
        }
        _ => {
            unit.rest("not decoded", Purpose::Information);
            wire_name(wire).into()
        }
    }
}

/// Names a number. Returns what it means in a field of this type.
fn number(unit: &mut Cursor<'_>, wire: u64, kind: Option<&Kind>) -> String {
    let fixed = |count| unit.peek(count).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (value, count) = match wire {
        FIXED64 => (fixed(8), 8),
        FIXED32 => (fixed(4), 4),
        _ => varint(unit.left()),
    };
    let meaning = match kind {
        Some(Kind::Double) => f64::from_bits(value).to_string(),
        Some(Kind::Float) => f32::from_bits(value as u32).to_string(),
        Some(Kind::Bool) => (value != 0).to_string(),
        Some(Kind::Int32 | Kind::Sfixed32) => (value as i32).to_string(),
        Some(Kind::Int64 | Kind::Sfixed64) => (value as i64).to_string(),
        Some(Kind::Sint32 | Kind::Sint64) => ((value >> 1) as i64 ^ -((value & 1) as i64)).to_string(),
        Some(Kind::Enum(kind)) => {
            kind.get_value(value as i32).map_or(value.to_string(), |value| value.name().to_owned())
        }
        _ => value.to_string(),
    };
    unit.purposed(Purpose::Information, |unit| unit.take(count, "value", |_| meaning.clone()));
    meaning
}

/// Returns a number of variable length, and its length.
fn varint(bytes: &[u8]) -> (u64, usize) {
    let last = bytes.iter().take(10).position(|byte| *byte < 0x80).unwrap_or(9);
    let bytes = &bytes[..bytes.len().min(last + 1)];
    (bytes.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)), bytes.len())
}

fn wire_name(wire: u64) -> &'static str {
    ["VARINT", "I64", "LEN", "SGROUP", "EGROUP", "I32"].get(wire as usize).unwrap_or(&"not a wire type")
}
