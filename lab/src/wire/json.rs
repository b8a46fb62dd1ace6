//! Names the parts of JSON text: the values, and what makes them readable.

use super::cursor::{Cursor, shown, text};
use super::message::Purpose;

/// Maximum number of bytes of a member's name that become the name of its value's field.
const MAX_NAME: usize = 100;

/// Names the next `count` bytes as JSON: values as information, everything else as text. A value
/// has the name of its member. Bytes that are not JSON, or too many, become one field. Returns the
/// text shortened for a summary.
pub fn json(unit: &mut Cursor<'_>, count: usize) -> String {
    Json::default().piece(unit, count, true)
}

/// JSON that arrives in pieces, for example in several frames.
#[derive(Default)]
pub struct Json {
    /// Whether it is JSON; `None` before the first piece. Only the first piece decides it.
    readable: Option<bool>,
    /// Name of the member whose value comes next.
    member: String,
    /// Set inside a string: whether the last byte was a backslash that escapes the next one.
    string: Option<bool>,
}

impl Json {
    /// Names the next `count` bytes, like [`json`]. `last` says whether they are the end. A value or
    /// a name that is cut becomes two fields.
    pub fn piece(&mut self, unit: &mut Cursor<'_>, count: usize, last: bool) -> String {
        let bytes = unit.peek(count);
        let check = || match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
            Ok(_) => true,
            Err(error) => !last && error.is_eof(),
        };
        if !*self.readable.get_or_insert_with(check) {
            unit.purposed(Purpose::Information, |unit| unit.text(count, "body"));
            return shown(text(bytes));
        }
        unit.group("JSON", |unit| {
            unit.within(count, |unit| {
                while !unit.is_empty() && !unit.is_full() {
                    self.token(unit);
                }
            });
            let short = shown(bytes);
            (short.clone(), short)
        })
    }

    /// Names the next value or name, or what is between two of them.
    fn token(&mut self, unit: &mut Cursor<'_>) {
        let (length, is_value) = token(unit.left(), &mut self.string);
        let after = &unit.left()[length..];
        let spaces = after.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let plain = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if !is_value {
            unit.purposed(Purpose::Text, |unit| unit.take(length, "JSON", plain));
        } else if after.get(spaces) == Some(&b':') {
            let name = unit.peek(length.min(MAX_NAME));
            self.member = String::from_utf8_lossy(name).trim_matches('"').to_owned();
            unit.purposed(Purpose::Text, |unit| unit.take(length + spaces + 1, "name", plain));
        } else {
            let name = if self.member.is_empty() { "value".to_owned() } else { self.member.clone() };
            unit.purposed(Purpose::Information, |unit| unit.take(length, name, plain));
        }
    }
}

/// Returns the length of the first token, and whether it is a string, a number, or a literal:
/// otherwise, it is punctuation and spaces. `string` is [`Json::string`].
fn token(bytes: &[u8], string: &mut Option<bool>) -> (usize, bool) {
    let is_punctuation = |byte: &u8| b"{}[],: \t\r\n".contains(byte);
    let (start, mut escaped) = match (string.take(), bytes) {
        (Some(escaped), _) => (0, escaped),
        (None, [b'"', ..]) => (1, false),
        (None, _) => {
            let is_value = !bytes.first().is_some_and(is_punctuation);
            let end = bytes.iter().position(|byte| is_punctuation(byte) == is_value);
            return (end.unwrap_or(bytes.len()), is_value);
        }
    };
    let end = bytes[start..].iter().position(|byte| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    });
    if end.is_none() {
        *string = Some(escaped);
    }
    (end.map_or(bytes.len(), |end| start + end + 1), true)
}
