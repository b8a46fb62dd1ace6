//! Pages of a long list. A cursor says where the next page begins. Unlike a page number,
//! it neither skips nor repeats an entry when others are added or removed. Each handler makes
//! its own: the last station's ID, or the position of the last reading.

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

/// Cuts a list to one page. If the list has more entries than fit, returns the header
/// `Link: <…>; rel="next"` (RFC 8288). Its address comes from `next`, which makes it from this
/// page's last entry.
pub(crate) fn cut<T>(entries: &mut Vec<T>, limit: usize, next: impl FnOnce(&T) -> String) -> HeaderMap {
    let more = entries.len() > limit;
    entries.truncate(limit);
    let target = entries.last().filter(|_| more).map(next);
    let link = target.and_then(|target| HeaderValue::try_from(format!("<{target}>; rel=\"next\"")).ok());
    link.map(|link| (header::LINK, link)).into_iter().collect()
}
