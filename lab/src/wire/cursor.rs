//! Names the bytes of a unit, one field after the other.

use std::borrow::Cow;
use std::ops::Range;

use super::message::{Field, Purpose};

/// Maximum depth of fields inside fields. Deeper ones become one field.
pub const MAX_DEPTH: u8 = 32;

/// Maximum number of fields of a message, beyond which [`Cursor::is_full`] says so.
pub const MAX_FIELDS: usize = 50_000;

/// Maximum number of characters that [`shown`] leaves.
const MAX_SHORT: usize = 60;

/// Goes through the bytes of a unit and names them. It never reads past the end: where bytes are
/// missing, a field has fewer bytes, and a missing number is 0.
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    base: u64,
    depth: u8,
    purpose: Purpose,
    fields: Vec<Field>,
}

impl<'a> Cursor<'a> {
    /// Starts at the first of these bytes, which is at position `base` of its stream.
    pub fn new(bytes: &'a [u8], base: u64) -> Self {
        Self { bytes, at: 0, base, depth: 0, purpose: Purpose::Framing, fields: Vec::new() }
    }

    /// Returns one field for bytes that were counted but not kept.
    pub(super) fn unread(span: Range<u64>, filler: Option<u8>) -> Vec<Field> {
        let (name, value) = ("not decoded".into(), String::new());
        vec![Field { span, depth: 0, name, value, purpose: Purpose::Framing, filler }]
    }

    /// Returns the fields.
    pub fn into_fields(self) -> Vec<Field> {
        self.fields
    }

    /// Returns the bytes that have no name yet.
    pub fn left(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Returns the whole unit, or the part of it that [`within`](Self::within) allows.
    pub fn whole(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the next `count` bytes, or as many as there are, without naming them.
    pub fn peek(&self, count: usize) -> &'a [u8] {
        &self.left()[..count.min(self.left().len())]
    }

    /// Returns whether every byte has a name.
    pub fn is_empty(&self) -> bool {
        self.left().is_empty()
    }

    /// Names the next `count` bytes. `value` says what they mean.
    pub fn take(
        &mut self,
        count: usize,
        name: impl Into<Cow<'static, str>>,
        value: impl FnOnce(&'a [u8]) -> String,
    ) -> &'a [u8] {
        let bytes = self.peek(count);
        if bytes.is_empty() {
            return bytes;
        }
        self.add(bytes.len(), name.into(), value(bytes));
        self.at += bytes.len();
        bytes
    }

    /// Names a number in network byte order.
    pub fn number(&mut self, count: usize, name: impl Into<Cow<'static, str>>) -> u64 {
        number(self.take(count, name, |bytes| number(bytes).to_string()))
    }

    /// Names a number in network byte order. `meaning` says what it stands for.
    pub fn coded(
        &mut self,
        count: usize,
        name: impl Into<Cow<'static, str>>,
        meaning: impl FnOnce(u64) -> String,
    ) -> u64 {
        number(self.take(count, name, |bytes| meaning(number(bytes))))
    }

    /// Names text, or bytes that may be text.
    pub fn text(&mut self, count: usize, name: impl Into<Cow<'static, str>>) -> &'a [u8] {
        self.take(count, name, text)
    }

    /// Names a credential. Its value is not shown, and each of its bytes may be replaced by `filler`.
    pub fn secret(&mut self, count: usize, name: impl Into<Cow<'static, str>>, filler: u8) {
        let before = self.fields.len();
        self.take(count, name, |_| "hidden".into());
        if let Some(field) = self.fields.get_mut(before) {
            field.filler = Some(filler);
        }
    }

    /// Names all bytes that are left, if any.
    pub fn rest(&mut self, name: &'static str, purpose: Purpose) {
        let count = self.left().len();
        self.purposed(purpose, |unit| unit.text(count, name));
    }

    /// Sets the purpose of all fields that `inside` names.
    pub fn purposed<T>(&mut self, purpose: Purpose, inside: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.purpose, purpose);
        let result = inside(self);
        self.purpose = before;
        result
    }

    /// Adds a field around those that `inside` names. `inside` returns the value of that field.
    pub fn group<T>(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        inside: impl FnOnce(&mut Self) -> (String, T),
    ) -> T {
        let (index, start) = (self.fields.len(), self.position());
        self.add(0, name.into(), String::new());
        self.depth += 1;
        let (value, result) = inside(self);
        self.depth -= 1;
        let end = self.position();
        if start == end {
            self.fields.truncate(index); // A field without bytes cannot be a leaf.
        } else {
            let field = &mut self.fields[index];
            (field.value, field.span.end) = (value, end);
        }
        result
    }

    /// Returns whether another [`group`](Self::group) may open here.
    pub fn may_go_deeper(&self) -> bool {
        self.depth < MAX_DEPTH && !self.is_full()
    }

    /// Returns whether the message has as many fields as it may have. A loop over elements that
    /// the sender counts has to stop then, and leave the other bytes.
    pub fn is_full(&self) -> bool {
        self.fields.len() >= MAX_FIELDS
    }

    /// Lets `inside` see only the next `count` bytes. Bytes that it leaves become a field.
    pub fn within<T>(&mut self, count: usize, inside: impl FnOnce(&mut Self) -> T) -> T {
        let whole = self.bytes;
        self.bytes = &whole[..self.at.saturating_add(count).min(whole.len())];
        let result = inside(self);
        self.rest("not decoded", self.purpose);
        self.bytes = whole;
        result
    }

    /// Lets `inside` see `readable` instead of the next bytes, which have the same length: for example
    /// a payload without its mask. Bytes that `inside` leaves become a field.
    pub fn instead<T>(&mut self, readable: &[u8], inside: impl FnOnce(&mut Cursor<'_>) -> T) -> T {
        let bytes = &readable[..readable.len().min(self.left().len())];
        let (base, depth, purpose) = (self.position(), self.depth, self.purpose);
        let fields = std::mem::take(&mut self.fields);
        let mut unit = Cursor { bytes, at: 0, base, depth, purpose, fields };
        let result = inside(&mut unit);
        unit.rest("not decoded", purpose);
        self.fields = unit.fields;
        self.at += bytes.len();
        result
    }

    /// Adds a field without moving on.
    fn add(&mut self, length: usize, name: Cow<'static, str>, value: String) {
        let span = self.position()..self.position() + length as u64;
        self.fields.push(Field { span, depth: self.depth, name, value, purpose: self.purpose, filler: None });
    }

    fn position(&self) -> u64 {
        self.base + self.at as u64
    }
}

/// Returns these bytes as a number in network byte order. Only the first eight count.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Returns text in quotes, a few bytes in hexadecimal, or the number of bytes.
pub fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(|c| !c.is_control() || "\r\n\t".contains(c)) => format!("{text:?}"),
        _ if bytes.len() > 24 => format!("{} bytes", bytes.len()),
        _ => hex(bytes),
    }
}

/// Returns the beginning of text, or of bytes that may be text, in one line: for a summary.
pub fn shown(text: impl AsRef<[u8]>) -> String {
    let bytes = text.as_ref(); // A character has at most four bytes.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_SHORT + 4)]);
    let in_line = |c: char| if c.is_control() { ' ' } else { c };
    let end = if text.chars().nth(MAX_SHORT).is_some() { "…" } else { "" };
    text.chars().take(MAX_SHORT).map(in_line).collect::<String>() + end
}

/// Returns the bytes in hexadecimal, with a space between them.
pub fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(" ")
}
