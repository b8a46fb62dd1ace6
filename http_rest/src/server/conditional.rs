//! Conditional requests (RFC 9110, section 13): an entity tag names one version
//! of a resource. With it, a client asks only for a version that it doesn't have yet
//! (`If-None-Match`), or changes only the version that it has seen (`If-Match`).
//!
//! `If-Match` prevents the *lost update*: two people read version 1, both change
//! it, and the later write silently undoes the earlier one. Here the later one gets
//! 412, and its sender reads the resource again.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::protocol::problem::Problem;

/// A strong entity tag: two equal tags mean the same representation byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ETag(pub(crate) HeaderValue);

impl ETag {
    /// Names a version. The server's instance ID is part of the tag, because each run of the
    /// server counts versions from 1.
    pub(crate) fn new(instance_id: u64, version: u64) -> Self {
        let tag = HeaderValue::try_from(format!("\"{instance_id:016x}-{version:x}\""));
        // Quotes, hexadecimal digits, and a hyphen always form a valid header value.
        Self(tag.unwrap_or(HeaderValue::from_static("\"\"")))
    }
}

/// The conditions of a request, in the order in which they are evaluated (RFC 9110, section
/// 13.2.2). Conditions on a date are ignored: no resource here has a `Last-Modified`.
pub(crate) struct Conditions<'a> {
    if_match: Option<Tags<'a>>,
    if_none_match: Option<Tags<'a>>,
}

impl<'a> Conditions<'a> {
    /// Reads the conditions. Returns 400 if one is malformed: ignoring it would let the request do
    /// more than the client meant.
    pub(crate) fn of(headers: &'a HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            if_match: Tags::of(headers, &header::IF_MATCH)?,
            if_none_match: Tags::of(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Checks the conditions of a GET or HEAD. Returns true if the client already has this version,
    /// so that 304 is enough, and 412 if `If-Match` is false. `current` is `None` for a resource
    /// without a tag.
    pub(crate) fn not_modified(&self, current: Option<&ETag>) -> Result<bool, Problem> {
        if self.if_match.as_ref().is_none_or(|tags| tags.contain_strongly(current)) {
            return Ok(self.if_none_match.as_ref().is_some_and(|tags| tags.contain_weakly(current)));
        }
        Err(match current {
            Some(ETag(tag)) => failed(format!(
                "the ETag is now {}; read the resource again",
                tag.to_str().unwrap_or_default()
            )),
            None => failed("this resource has no ETag; leave out If-Match or send If-Match: *"),
        })
    }

    /// Checks the conditions of any other method. Returns 412 if one is false.
    pub(crate) fn check(&self, current: Option<&ETag>) -> Result<(), Problem> {
        if self.not_modified(current)? {
            return Err(failed("If-None-Match excludes the current version of this resource"));
        }
        Ok(())
    }

    /// Like [`Conditions::check`], but also returns 428 if the client does not say which
    /// version it means to change.
    pub(crate) fn check_required(&self, current: &ETag) -> Result<(), Problem> {
        self.check(Some(current))?;
        if self.if_match.is_none() {
            let detail = "read the resource first and send its ETag in If-Match";
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail));
        }
        Ok(())
    }
}

fn failed(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::PRECONDITION_FAILED, detail)
}

/// The entity tags in a client's condition, whether or not this server made them, or only `*`.
struct Tags<'a>(Vec<&'a [u8]>);

impl<'a> Tags<'a> {
    /// Reads a header field. Its lines form one list (RFC 9110, section 5.3), which may have empty
    /// members. A `*` must be alone.
    //
    // The `headers` crate is not used here: 0.4.2 panics in a debug build on a tag with a space,
    // and skips list members that it can't read.
    fn of(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<Self>, Problem> {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        if lines == [b"*"] {
            return Ok(Some(Self(lines)));
        }
        let members = lines.iter().flat_map(|line| {
            let mut quoted = false; // A tag may contain commas.
            line.split(move |b| {
                quoted ^= *b == b'"';
                *b == b',' && !quoted
            })
        });
        let tags: Vec<&[u8]> = members.map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()).collect();
        if tags.is_empty() || !tags.iter().all(|tag| is_tag(tag)) {
            let detail = format!("{name} must be * or a list of ETags, each in quotes, such as \"1\"");
            return Err(Problem::bad_request(detail));
        }
        Ok(Some(Self(tags)))
    }

    /// Strong comparison: a weak tag (`W/"…"`) never matches, since it may stand for several
    /// representations.
    fn contain_strongly(&self, current: Option<&ETag>) -> bool {
        self.0 == [b"*"] || current.is_some_and(|ETag(current)| self.0.iter().any(|tag| **tag == *current))
    }

    /// Weak comparison: the `W/` is ignored.
    fn contain_weakly(&self, current: Option<&ETag>) -> bool {
        let tags = self.0.iter().map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag));
        Self(tags.collect()).contain_strongly(current)
    }
}

/// Returns whether this is an entity tag (RFC 9110, section 8.8.3).
fn is_tag(text: &[u8]) -> bool {
    let strong = text.strip_prefix(b"W/").unwrap_or(text);
    let is_opaque = |text: &[u8]| text.iter().all(|b| matches!(b, b'!' | b'#'..=b'~' | 0x80..));
    matches!(strong, [b'"', opaque @ .., b'"'] if is_opaque(opaque))
}
