//! Pages of a long list. A cursor says where the next page begins; unlike page
//! numbers it neither skips nor repeats an entry when others come and go.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::problem::Problem;

/// Most entries on a page.
pub const MAX_LIMIT: usize = 500;

/// Entries on a page when the client names no number.
pub const DEFAULT_LIMIT: usize = 100;

/// The page size that a query asks for: 1 to [`MAX_LIMIT`], or 400.
pub(crate) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit is 1 to {MAX_LIMIT}, not {limit}")))
}

/// `Link: <…>; rel="next"` (RFC 8288), or no header after the last page.
pub(crate) fn next_link(next: Option<String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let link = next.and_then(|target| HeaderValue::try_from(format!("<{target}>; rel=\"next\"")).ok());
    if let Some(link) = link {
        headers.insert(header::LINK, link);
    }
    headers
}

/// The query string of a resource that has none: 400 if there is one after all, since a
/// parameter that nobody reads is a mistake.
pub(crate) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        if parts.uri.query().unwrap_or_default().is_empty() {
            return Ok(Self);
        }
        Err(Problem::new(StatusCode::BAD_REQUEST, "this request has no parameters in its query string"))
    }
}
