//! From a request's body to a value, and every way in which that fails.

use std::error::Error;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::LengthLimitError;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};
use tcp_socket::base::json::Object;

use crate::problem::{FieldError, Problem};
use crate::validation::shorten;

/// The media type of every body but errors and patches.
pub const JSON: &str = "application/json";

/// The only content coding that is accepted: none.
pub const IDENTITY: &str = "identity";

/// Maximum length of what serde says about a body, in characters, without line and column.
const MAX_DETAIL: usize = 200;

/// Returns whether a message says that its body is of this type. Parameters such as
/// `charset` are ignored: JSON and event streams are UTF-8 (RFC 8259, section 8.1).
pub(crate) fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = said.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(wanted)
}

/// Returns 415 unless the request says that its body is of this type, and not
/// compressed (RFC 9110, section 15.5.16).
pub(crate) fn require_type(headers: &HeaderMap, wanted: &str) -> Result<(), Problem> {
    if !is_type(headers, wanted) {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("send {wanted}")));
    }
    let plain = headers.get_all(header::CONTENT_ENCODING).iter().all(|codings| {
        let mut codings = codings.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
        codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(IDENTITY.as_bytes()))
    });
    if plain {
        return Ok(());
    }
    Err(Problem {
        coding_refused: true,
        ..Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the body without a Content-Encoding")
    })
}

/// The whole body: 413 if it is longer than `max`, 400 if it breaks off.
pub(crate) async fn read(body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body holds at most {max} bytes"));
    // Refused before a byte of it is read, if the client says how long it is.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    to_bytes(body, max).await.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => too_large(),
        _ => Problem::new(StatusCode::BAD_REQUEST, "the body broke off or was badly framed"),
    })
}

/// The object in a body: 400 if it is no JSON, 422 if it is JSON of another shape, both
/// with line and column, the second with a pointer to the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = shape(&mut deserializer)?;
    deserializer.end().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(value)
}

/// The second half of [`parse`], also for JSON that was read before.
pub(crate) fn shape<'de, T, D>(deserializer: D) -> Result<T, Problem>
where
    T: DeserializeOwned,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let Object(value) = serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let (path, detail) = (error.path(), error.inner().to_string());
        // A number that no double holds is well-formed JSON all the same.
        let well_formed =
            error.inner().classify() == Category::Data || detail.starts_with("number out of range");
        if !well_formed {
            return Problem::new(StatusCode::BAD_REQUEST, detail);
        }
        let (pointer, detail) = (pointer(path, &detail), bounded(detail));
        let errors = vec![FieldError { pointer, detail: detail.clone() }];
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    })?;
    Ok(value)
}

/// serde's messages quote what they were sent, which may be as long as a body.
fn bounded(detail: String) -> String {
    if detail.chars().count() <= MAX_DETAIL {
        return detail;
    }
    let place = detail.rfind(" at line ").unwrap_or(detail.len());
    format!("{}…{}", detail.chars().take(MAX_DETAIL).collect::<String>(), &detail[place..])
}

/// A path as a JSON pointer in a URI fragment (RFC 6901, section 6). serde places the
/// lack of a field, and its second occurrence, at the object around it and names the
/// field in its message.
fn pointer(path: &Path, detail: &str) -> String {
    let mut pointer = "#".to_owned();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer += &format!("/{index}"),
            Segment::Map { key } => push_name(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let named = ["missing field `", "duplicate field `"].iter().find_map(|start| detail.strip_prefix(start));
    if let Some((name, _rest)) = named.and_then(|named| named.split_once('`')) {
        push_name(&mut pointer, name);
    }
    pointer
}

/// The name of an unknown field is the sender's: all that a pointer can't hold as it is
/// becomes an escape.
fn push_name(pointer: &mut String, name: &str) {
    pointer.push('/');
    for byte in shorten(name).bytes() {
        match byte {
            b'~' => pointer.push_str("~0"),
            b'/' => pointer.push_str("~1"),
            b if b.is_ascii_alphanumeric() || b"-._".contains(&b) => pointer.push(char::from(b)),
            b => *pointer += &format!("%{b:02X}"),
        }
    }
}
