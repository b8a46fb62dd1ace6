//! Names the parts of JSON text: what the program says, and what makes it readable.

use super::cursor::{Cursor, shorten, text};
use super::message::Purpose;

/// Maximum length of text that is taken apart. A field takes far more memory than its bytes.
pub const MAX_JSON: usize = 1024 * 1024;

/// Names the next `count` bytes as JSON: values as information, everything else as text. A value
/// has the name of its member. Bytes that are not JSON, or too many, become one field. Returns the
/// text shortened for a summary.
pub fn json(unit: &mut Cursor<'_>, count: usize) -> String {
    let bytes = unit.peek(count);
    if !is_json(bytes) {
        unit.purposed(Purpose::Information, |unit| unit.text(count, "body"));
        return shorten(&text(bytes));
    }
    unit.group("JSON", |unit| {
        unit.within(count, |unit| {
            let mut member = String::from("value");
            while !unit.is_empty() {
                let token = token(unit.left());
                let after = &unit.left()[token.length..];
                let spaces = after.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                if !token.is_value {
                    unit.purposed(Purpose::Text, |unit| unit.text(token.length, "JSON"));
                } else if after.get(spaces) == Some(&b':') {
                    let name = unit.peek(token.length);
                    member = String::from_utf8_lossy(name).trim_matches('"').to_owned();
                    unit.purposed(Purpose::Text, |unit| unit.text(token.length + spaces + 1, "name"));
                } else {
                    unit.purposed(Purpose::Information, |unit| {
                        unit.take(token.length, member.clone(), |value| {
                            String::from_utf8_lossy(value).into_owned()
                        })
                    });
                }
            }
        });
        let short = shorten(&String::from_utf8_lossy(bytes));
        (short.clone(), short)
    })
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

/// Returns the first token of valid JSON.
fn token(bytes: &[u8]) -> Token {
    let is_punctuation = |byte: &u8| b"{}[],: \t\r\n".contains(byte);
    let count = |stop: &dyn Fn(&u8) -> bool| bytes.iter().position(stop).unwrap_or(bytes.len());
    match bytes {
        [b'"', string @ ..] => {
            let mut escaped = false;
            let end = string.iter().position(|byte| {
                let closes = *byte == b'"' && !escaped;
                escaped = *byte == b'\\' && !escaped;
                closes
            });
            Token { length: end.map_or(bytes.len(), |end| end + 2), is_value: true }
        }
        [first, ..] if is_punctuation(first) => {
            Token { length: count(&|byte| !is_punctuation(byte)), is_value: false }
        }
        _ => Token { length: count(&is_punctuation).max(1), is_value: true },
    }
}
