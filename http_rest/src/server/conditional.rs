//! Conditional requests (RFC 9110, section 13): an entity tag names one version
//! of a resource. With it a client asks for a version that it does not have yet
//! (`If-None-Match`), or changes only the one that it has seen (`If-Match`).
//!
//! The second prevents the *lost update*: two people read version 1, both change
//! it, and the later write silently undoes the earlier. Here the later one gets
//! 412, and its sender reads again.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::protocol::problem::Problem;

/// A strong entity tag: two equal tags mean the same representation byte for byte.
///
/// The server's instance ID is part of it, because each run of the server counts
/// versions from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ETag {
    /// Chosen at random when the server starts.
    pub(crate) instance_id: u64,
    /// Grows with each change of any station.
    pub(crate) version: u64,
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:016x}-{:x}\"", self.instance_id, self.version)
    }
}

impl From<ETag> for HeaderValue {
    fn from(tag: ETag) -> Self {
        // Quotes, hexadecimal digits and a hyphen are always a header value.
        HeaderValue::try_from(tag.to_string()).unwrap_or(HeaderValue::from_static("\"\""))
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
    pub(crate) fn not_modified(&self, current: Option<ETag>) -> Result<bool, Problem> {
        self.check_if_match(current)?;
        Ok(self.if_none_match.as_ref().is_some_and(|tags| tags.contain_weakly(current)))
    }

    /// Checks the conditions of any other method. Returns 412 if one is false.
    pub(crate) fn check(&self, current: Option<ETag>) -> Result<(), Problem> {
        if self.not_modified(current)? {
            return Err(failed("If-None-Match excludes the current version of this resource"));
        }
        Ok(())
    }

    /// Like [`Conditions::check`], and returns 428 if the client does not say which
    /// version it means to change.
    pub(crate) fn check_required(&self, current: ETag) -> Result<(), Problem> {
        self.check(Some(current))?;
        if self.if_match.is_none() {
            let detail = "read the resource first and send its ETag in If-Match";
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail));
        }
        Ok(())
    }

    fn check_if_match(&self, current: Option<ETag>) -> Result<(), Problem> {
        if self.if_match.as_ref().is_none_or(|tags| tags.contain_strongly(current)) {
            return Ok(());
        }
        Err(match current {
            Some(tag) => failed(format!("the resource is now at {tag}; read it again")),
            None => failed("this resource has no ETag; leave out If-Match or send If-Match: *"),
        })
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

impl Tags {
    /// Reads a header field. Several lines of the same name are one list (RFC 9110,
    /// section 5.3), but `*` has to be alone.
    //
    // The `headers` crate is not used here: 0.4.2 panics in a debug build on a tag with a space,
    // and skips list members that it can't read.
    fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, Problem> {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let field = lines.join(&b',');
        if field == b"*" {
            return Ok(Some(Self::Any));
        }
        Self::list(&field).map(Some).ok_or_else(|| {
            Problem::bad_request(format!(
                "{name} must be * or a list of ETags, each in quotes, such as \"1\""
            ))
        })
    }

    /// RFC 9110, sections 5.6.1 (lists, which may have empty members) and 8.8.3 (tags,
    /// which may have commas). Returns `None` if there is no tag or a malformed one.
    fn list(mut rest: &[u8]) -> Option<Self> {
        let mut tags = Vec::new();
        loop {
            rest = rest.trim_ascii_start();
            if !rest.is_empty() && rest[0] != b',' {
                let weak = rest.starts_with(b"W/");
                let quoted = if weak { &rest[2..] } else { rest }.strip_prefix(b"\"")?;
                let length = quoted.iter().position(|b| !matches!(b, b'!' | b'#'..=b'~' | 0x80..))?;
                let (opaque, after) = quoted.split_at(length);
                tags.push(Tag { weak, opaque: [b"\"", opaque, b"\""].concat() });
                rest = after.strip_prefix(b"\"")?.trim_ascii_start();
            }
            match rest.split_first() {
                Some((b',', after)) => rest = after,
                Some(_) => return None,
                None => return (!tags.is_empty()).then_some(Self::List(tags)),
            }
        }
    }

    /// Strong comparison: a weak tag (`W/"…"`) matches nothing here, since it may stand
    /// for several representations.
    fn contain_strongly(&self, current: Option<ETag>) -> bool {
        self.contain(current, |tag| !tag.weak)
    }

    /// Weak comparison: the `W/` is ignored.
    fn contain_weakly(&self, current: Option<ETag>) -> bool {
        self.contain(current, |_tag| true)
    }

    fn contain(&self, current: Option<ETag>, counts: impl Fn(&Tag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => current.is_some_and(|current| {
                let current = current.to_string();
                tags.iter().any(|tag| counts(tag) && tag.opaque == current.as_bytes())
            }),
        }
    }
}
