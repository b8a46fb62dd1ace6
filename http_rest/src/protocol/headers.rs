//! The header fields and media types that both sides use, apart from those that the
//! crate `http` names.

use axum::http::{HeaderMap, HeaderName, header};

/// Makes a `POST` safe to repeat (draft-ietf-httpapi-idempotency-key-header).
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that a response was given before, to an earlier request with the same key.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Names the event after which a live stream resumes (HTML standard, section 9.2.4).
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Names a request in both sides' logs. A client may choose it; the response repeats it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The media type of every body except errors, patches, and live streams.
pub(crate) const JSON: &str = "application/json";

/// The media type of a patch (RFC 7396).
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";

/// The media type of every error (RFC 9457).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// The media type of a live stream.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// The name of "no content coding", the only one that the server accepts.
pub(crate) const IDENTITY: &str = "identity";

/// Returns whether `Content-Type` names this media type. Parameters such as `charset` are ignored,
/// because JSON (RFC 8259, section 8.1) and event streams are always UTF-8.
pub(crate) fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(wanted)
}
