//! From a request's body to a value, and every way in which that fails.

use std::error::Error;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::problem::Problem;

/// The media type of every body but errors and patches.
pub const JSON: &str = "application/json";

/// 415 unless the request says that its body is of this type. Parameters such
/// as `charset` are ignored: JSON is UTF-8 (RFC 8259, section 8.1).
pub(crate) fn require_type(headers: &HeaderMap, wanted: &str) -> Result<(), Problem> {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = said.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("send {wanted}")))
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

/// The value in a body: 400 if it is no JSON, 422 if it is JSON of another
/// shape, both with line and column.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let status = match error.classify() {
            Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            Category::Syntax | Category::Eof | Category::Io => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, error.to_string())
    })
}
