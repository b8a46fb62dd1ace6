//! Conditional requests (RFC 9110, section 13): an entity tag names one version
//! of a resource. With it a client asks for a version that it does not have yet
//! (`If-None-Match`), or changes only the one that it has seen (`If-Match`).
//!
//! The second prevents the *lost update*: two people read version 1, both change
//! it, and the later write silently undoes the earlier. Here the later one gets
//! 412, and its sender reads again.

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
        // Quotes, hexadecimal digits and a hyphen are always a header value.
        Self(tag.unwrap_or(HeaderValue::from_static("\"\"")))
    }
}

/// The conditions of a request, in the order in which they are evaluated (RFC 9110, section
/// 13.2.2). Conditions on a date are ignored: no resource here has a `Last-Modified`.
pub(crate) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

impl Conditions {
    /// Reads the conditions. Returns 400 if one is malformed: ignoring it would let the request do
    /// more than the client meant.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            if_match: Tags::of(headers, &header::IF_MATCH)?,
            if_none_match: Tags::of(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Checks the conditions of a GET or HEAD. Returns true if the client already has this version,
    /// so that 304 is enough, and 412 if `If-Match` is false. `current` is `None` for a resource
    /// without a tag.
    pub(crate) fn not_modified(&self, current: Option<&ETag>) -> Result<bool, Problem> {
        if self.if_match.as_ref().is_none_or(|tags| tags.contain(current, Comparison::Strong)) {
            return Ok(self
                .if_none_match
                .as_ref()
                .is_some_and(|tags| tags.contain(current, Comparison::Weak)));
        }
        Err(match current {
            Some(ETag(tag)) => {
                failed(format!("the resource is now at {}; read it again", tag.to_str().unwrap_or_default()))
            }
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

    /// Like [`Conditions::check`], and returns 428 if the client does not say which
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

/// `*`, or a list of entity tags.
enum Tags {
    Any,
    List(Vec<Tag>),
}

/// An entity tag that a client sent, whether or not this server made it.
struct Tag {
    weak: bool,
    /// With its quotes.
    opaque: Vec<u8>,
}

/// How to compare tags (RFC 9110, section 8.8.3.2).
#[derive(PartialEq)]
enum Comparison {
    /// A weak tag (`W/"…"`) matches nothing, since it may stand for several representations.
    Strong,
    /// The `W/` is ignored.
    Weak,
}

impl Tags {
    /// Reads a header field. Several lines of the same name are one list (RFC 9110,
    /// section 5.3), but `*` has to be alone.
    //
    // The `headers` crate is not used here: 0.4.2 panics in a debug build on a tag with a space,
    // and skips list members that it can't read.
    fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, Problem> {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let tags = match lines.join(&b',').as_slice() {
            _ if lines.is_empty() => return Ok(None),
            b"*" => Some(Self::Any),
            field => Self::list(field),
        };
        tags.map(Some).ok_or_else(|| {
            Problem::bad_request(format!(
                "{name} must be * or a list of ETags, each in quotes, such as \"1\""
            ))
        })
    }

    /// Reads a list of tags (RFC 9110, sections 5.6.1 and 8.8.3). Returns `None` if there is no
    /// tag or a malformed one.
    fn list(field: &[u8]) -> Option<Self> {
        // Cut at the quotes, every second part is a tag, which may have commas. The parts between
        // them are commas and spaces, and a `W/` before a weak tag.
        let parts: Vec<&[u8]> = field.split(|b| *b == b'"').collect();
        let (pairs, [end]) = parts.as_chunks() else { return None };
        let separates = |part: &[u8]| part.iter().all(|b| b" \t,".contains(b));
        let mut tags = Vec::new();
        for [before, opaque] in pairs {
            let (weak, before) = before.strip_suffix(b"W/").map_or((false, *before), |before| (true, before));
            let is_tag = opaque.iter().all(|b| matches!(b, b'!' | b'#'..=b'~' | 0x80..));
            if !is_tag || !separates(before) || !(tags.is_empty() || before.contains(&b',')) {
                return None;
            }
            tags.push(Tag { weak, opaque: [b"\"", *opaque, b"\""].concat() });
        }
        (!tags.is_empty() && separates(end)).then_some(Self::List(tags))
    }

    fn contain(&self, current: Option<&ETag>, comparison: Comparison) -> bool {
        match (self, current) {
            (Self::Any, _) => true,
            (Self::List(_), None) => false,
            (Self::List(tags), Some(ETag(current))) => tags
                .iter()
                .any(|tag| *current == tag.opaque[..] && (!tag.weak || comparison == Comparison::Weak)),
        }
    }
}
