//! Names the parts of JSON text: what the program says, and what makes it readable.

use super::cursor::{Cursor, shorten, shown, text};
use super::message::Purpose;

/// Maximum number of bytes of a member's name that its values repeat.
const MAX_NAME: usize = 100;

/// Maximum length of text that is taken apart. A field takes far more memory than its bytes.
pub const MAX_JSON: usize = 1024 * 1024;

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
            return shorten(&text(bytes));
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
        let token = token(unit.left(), &mut self.string);
        let after = &unit.left()[token.length..];
        let spaces = after.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if !token.is_value {
            unit.purposed(Purpose::Text, |unit| unit.text(token.length, "JSON"));
        } else if after.get(spaces) == Some(&b':') {
            let name = unit.peek(token.length.min(MAX_NAME));
            self.member = String::from_utf8_lossy(name).trim_matches('"').to_owned();
            unit.purposed(Purpose::Text, |unit| unit.text(token.length + spaces + 1, "name"));
        } else {
            let name = if self.member.is_empty() { "value".to_owned() } else { self.member.clone() };
            unit.purposed(Purpose::Information, |unit| {
                unit.take(token.length, name, |value| String::from_utf8_lossy(value).into_owned())
            });
        }
    }
}

/// Returns whether the bytes are JSON, and few enough to take apart.
pub fn is_json(bytes: &[u8]) -> bool {
    bytes.len() <= MAX_JSON && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

struct Token {
    length: usize,
    /// A string, a number, or a literal; otherwise punctuation and spaces.
    is_value: bool,
}

/// Returns the first token of valid JSON. `string` is [`Json::string`].
fn token(bytes: &[u8], string: &mut Option<bool>) -> Token {
    let is_punctuation = |byte: &u8| b"{}[],: \t\r\n".contains(byte);
    let count = |stop: &dyn Fn(&u8) -> bool| bytes.iter().position(stop).unwrap_or(bytes.len());
    let inside = match (string.take(), bytes) {
        (Some(escaped), _) => Some((0, escaped)),
        (None, [b'"', ..]) => Some((1, false)),
        (None, _) => None,
    };
    if let Some((start, mut escaped)) = inside {
        let end = bytes[start..].iter().position(|byte| {
            let closes = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            closes
        });
        if end.is_none() {
            *string = Some(escaped);
        }
        return Token { length: end.map_or(bytes.len(), |end| start + end + 1), is_value: true };
    }
    match bytes {
        [first, ..] if is_punctuation(first) => {
            Token { length: count(&|byte| !is_punctuation(byte)), is_value: false }
        }
        _ => Token { length: count(&is_punctuation).max(1), is_value: true },
    }
}
