//! Pages of a long list. A cursor says where the next page begins; unlike page
//! numbers it neither skips nor repeats an entry when others come and go.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::limits::{DEFAULT_LIMIT, MAX_LIMIT};
use crate::protocol::problem::Problem;

/// Returns the page size that a query asks for: 1 to [`MAX_LIMIT`], or 400.
pub(crate) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad_request(format!("limit must be 1 to {MAX_LIMIT}, not {limit}")))
}

/// Returns `Link: <…>; rel="next"` (RFC 8288), or no header after the last page.
pub(crate) fn next_link(next: Option<String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let link = next.and_then(|target| HeaderValue::try_from(format!("<{target}>; rel=\"next\"")).ok());
    if let Some(link) = link {
        headers.insert(header::LINK, link);
    }
    headers
}
