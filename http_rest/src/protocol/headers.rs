//! The names of header fields and media types that both sides use and that the `http` crate
//! doesn't define.

use axum::http::{HeaderMap, HeaderName, header};

/// Makes a `POST` safe to repeat (draft-ietf-httpapi-idempotency-key-header).
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks a response that was sent before, to an earlier request with the same key.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Names the event after which a live stream resumes (HTML standard, section 9.2.4).
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Identifies a request in the logs. A client may choose it; the response repeats it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The media type of stations and readings.
pub(crate) const JSON: &str = "application/json";

/// The media type of a patch (RFC 7396).
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";

/// The media type of every error (RFC 9457).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// The media type of a live stream.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// The content coding of a body that isn't compressed. The server accepts no other.
pub(crate) const IDENTITY: &str = "identity";

/// Returns whether `Content-Type` names this media type. Parameters such as `charset` don't matter:
/// JSON (RFC 8259, section 8.1) and event streams are always UTF-8.
pub(crate) fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(wanted)
}
