//! Conditional requests (RFC 9110, section 13): an entity tag names one version
//! of a resource. With it a client asks for a version that it does not have yet
//! (`If-None-Match`), or changes only the one that it has seen (`If-Match`).
//!
//! The second prevents the *lost update*: two people read version 1, both change
//! it, and the later write silently undoes the earlier. Here the later one is
//! told 412 and reads again.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::problem::Problem;

/// A strong entity tag: two equal tags mean the same representation byte for byte.
///
/// The server's boot id is part of it, because versions are counted from 1 in
/// each life of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ETag {
    /// Drawn at random when the server starts.
    pub boot_id: u64,
    /// Grows with each change of any station.
    pub version: u64,
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:016x}-{:x}\"", self.boot_id, self.version)
    }
}

impl From<ETag> for HeaderValue {
    fn from(tag: ETag) -> Self {
        // Quotes, hexadecimal digits and a hyphen are always a header value.
        HeaderValue::try_from(tag.to_string()).unwrap_or(HeaderValue::from_static("\"\""))
    }
}

/// The `If-Match` of a request that changes something.
pub(crate) struct IfMatch<'a>(&'a HeaderMap);

impl<'a> IfMatch<'a> {
    /// 428 if the client does not say which version it means to change.
    pub(crate) fn required(headers: &'a HeaderMap) -> Result<Self, Problem> {
        if headers.contains_key(header::IF_MATCH) {
            return Ok(Self(headers));
        }
        let detail = "read the resource first and send its ETag in If-Match";
        Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail))
    }

    /// 412 if the resource is no longer at that version.
    ///
    /// Strong comparison: a weak tag (`W/"…"`) matches nothing here, since it
    /// may stand for several representations.
    pub(crate) fn check(&self, current: ETag) -> Result<(), Problem> {
        if listed(self.0, &header::IF_MATCH, &current.to_string()) {
            return Ok(());
        }
        let detail = format!("the resource is now at {current}; read it again");
        Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail))
    }
}

/// Whether the client already has this version, so that 304 without a body
/// will do. Weak comparison: the `W/` does not count.
pub(crate) fn not_modified(headers: &HeaderMap, current: ETag) -> bool {
    let strong = current.to_string();
    headers.contains_key(header::IF_NONE_MATCH)
        && (listed(headers, &header::IF_NONE_MATCH, &strong)
            || listed(headers, &header::IF_NONE_MATCH, &format!("W/{strong}")))
}

/// Whether a list of entity tags is `*` or holds this one. Our tags hold no
/// comma, so that a foreign tag with one is merely two that do not match.
fn listed(headers: &HeaderMap, name: &HeaderName, tag: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|entry| entry == "*" || entry == tag)
}
