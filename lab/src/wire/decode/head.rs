//! The head of an HTTP/1.1 message (RFC 9112, sections 2 to 5): its first line and its header lines.

use crate::wire::cursor::Cursor;
use crate::wire::message::{Purpose, Side};

/// Maximum length of a method. Longer words are not HTTP.
const MAX_METHOD: usize = 32;

/// Headers whose values are credentials.
const CREDENTIALS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// What the headers say about the body.
#[derive(Default)]
pub(super) struct Headers {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    /// Whether the body is a stream of server-sent events.
    pub(super) events: bool,
}

/// Names header lines, up to the end of the unit. Returns what they say.
pub(super) fn header_lines(unit: &mut Cursor<'_>) -> Headers {
    let mut headers = Headers::default();
    let mut name = String::new();
    while !unit.is_empty() {
        let line = unit.peek(line_length(unit.left()));
        let mut start = 0; // where the value begins
        if trimmed(line).is_empty() {
            name = "empty line".into();
        } else if name.is_empty() || !line.starts_with(b" ") && !line.starts_with(b"\t") {
            // A line that begins with a space continues the one before.
            start = line.iter().position(|byte| *byte == b':').map_or(line.len(), |colon| colon + 1);
            name = trimmed(&line[..start]).trim_end_matches([':', ' ', '\t']).to_ascii_lowercase();
        }
        let value = trimmed(&line[start..]);
        headers.note(&name, &value.to_ascii_lowercase());
        unit.purposed(Purpose::Header, |unit| {
            if CREDENTIALS.contains(&name.as_str()) {
                start += line[start..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                unit.text(start, "field-name");
                let value = line[start..].trim_ascii_end().len();
                unit.secret(value, name.clone(), b'*');
                unit.text(line.len() - start - value, "end of line");
            } else {
                unit.take(line.len(), name.clone(), |_| value);
            }
        });
    }
    headers
}

impl Headers {
    fn note(&mut self, name: &str, value: &str) {
        match name {
            "content-length" => self.length = value.parse().ok(),
            "transfer-encoding" => self.chunked = value.ends_with("chunked"),
            "content-type" => self.events = value.starts_with("text/event-stream"),
            _ => {}
        }
    }
}

/// Names a word of the first line and the space after it, or the end of the line.
pub(super) fn word(unit: &mut Cursor<'_>, name: &'static str) -> String {
    let line = unit.peek(line_length(unit.left()));
    let length = line.iter().position(|byte| *byte == b' ').map_or(line.len(), |space| space + 1);
    trimmed(unit.take(length, name, trimmed))
}

/// Returns whether a head from this side may begin with these bytes.
pub(super) fn may_begin_head(from: Side, bytes: &[u8]) -> bool {
    match from {
        Side::Client => {
            let first = &bytes[..bytes.len().min(MAX_METHOD + 1)];
            let method = first.split(|byte| *byte == b' ').next().unwrap_or_default();
            (1..=MAX_METHOD).contains(&method.len())
                && method.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'-')
        }
        Side::Server => bytes.iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected),
    }
}

/// Returns whether the first line of a head names a version of HTTP/1.
pub(super) fn has_version(head: &[u8]) -> bool {
    head[..line_length(head)].split(|byte| *byte == b' ').any(|word| word.starts_with(b"HTTP/1."))
}

/// Returns the length of the first line with its end, or of all bytes if no line ends.
pub(super) fn line_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1)
}

/// Returns text without the spaces around it.
pub(super) fn trimmed(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
}
