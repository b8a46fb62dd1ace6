//! What happens to every request before and after its handler: an ID, a look at the
//! header, a permit to be handled, a time limit, a line in the log. Below that are the
//! checks that handlers choose: no query string, the media type, the length of the body.

use std::error::Error;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::limits::{Limits, MAX_REQUEST_ID};
use crate::protocol::headers::{IDEMPOTENCY_KEY, IDENTITY, LAST_EVENT_ID, REQUEST_ID, is_type};
use crate::protocol::problem::Problem;

/// The requests of all connections.
pub(crate) struct Requests {
    /// One for each request that may be handled at the same time.
    permits: Semaphore,
    /// How many requests got an ID from this server.
    numbered: AtomicU64,
}

impl Requests {
    /// Allows `max_in_flight` requests at a time.
    pub(crate) fn new(max_in_flight: usize) -> Self {
        Self { permits: Semaphore::new(max_in_flight), numbered: AtomicU64::new(0) }
    }

    /// Returns the client's own ID if it is short and plain, or else the next number.
    fn id(&self, headers: &HeaderMap) -> HeaderValue {
        let plain = |id: &&HeaderValue| {
            (1..=MAX_REQUEST_ID).contains(&id.len())
                && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        };
        match headers.get(REQUEST_ID).filter(plain) {
            Some(id) => id.clone(),
            None => HeaderValue::from(self.numbered.fetch_add(1, Ordering::Relaxed) + 1),
        }
    }
}

/// Wraps all routes.
pub(crate) async fn request_layer(
    State(requests): State<Arc<Requests>>,
    State(limits): State<Arc<Limits>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = requests.id(request.headers());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = handle(&requests, limits.request_timeout, request, next).await;
    let mut response = response.unwrap_or_else(IntoResponse::into_response);
    let status = response.status();
    if matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        // The rest of the body is still to come, so this connection can't be used again.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    info!(
        "{method} {uri} {} in {:.1?} id={}",
        status.as_u16(),
        started.elapsed(),
        id.to_str().unwrap_or_default()
    );
    response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), id);
    response
}

async fn handle(
    requests: &Requests,
    request_timeout: Duration,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    check_single(request.headers())?;
    check_host(&request)?;
    let _permit = requests.permits.try_acquire().map_err(|_none_left| Problem {
        retry_after: Some(Duration::from_secs(1)),
        ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests in flight")
    })?;
    timeout(request_timeout, next.run(request)).await.map_err(|_elapsed| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive or to be answered")
    })
}

/// Header fields that may appear only once. If there were two, a proxy could believe one
/// and this server the other, which is how requests are smuggled past a proxy. hyper checks
/// `Content-Length`, and fields whose values are lists may come in several lines.
const SINGLE: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_TYPE,
    HeaderName::from_static(IDEMPOTENCY_KEY),
    HeaderName::from_static(LAST_EVENT_ID),
    HeaderName::from_static(REQUEST_ID),
];

/// Returns 400 if a field of [`SINGLE`] appears more than once (RFC 9110, section 5.3).
fn check_single(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.len() == headers.keys_len() {
        return Ok(()); // Mostly no field comes twice, and this is the cheapest way to see it.
    }
    match SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        None => Ok(()),
        Some(name) => Err(Problem::bad_request(format!("send {name} only once"))),
    }
}

/// Returns 400 unless there is a valid `Host` (RFC 9112, section 3.2). HTTP/1.0 may leave it
/// out. If the request's target names a host as well, that must be valid too.
fn check_host(request: &Request) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST);
    let present = host.is_some() || request.version() < Version::HTTP_11;
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let mut named = host.map(HeaderValue::as_bytes).into_iter().chain(target);
    if present && named.all(is_host) {
        return Ok(());
    }
    Err(Problem::bad_request("send one Host header with a host and, if needed, a port"))
}

/// Returns whether this is `host` or `host:port` (RFC 3986, section 3.2), without a user.
fn is_host(value: &[u8]) -> bool {
    // Most hosts are plain names or IPv4 addresses, and need no parser.
    let (name, port) = value.split_at(value.iter().position(|b| *b == b':').unwrap_or(value.len()));
    if !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')) {
        return is_port(port);
    }
    let Ok(authority) = Authority::try_from(value) else { return false };
    let host = authority.host();
    let Some(port) = authority.as_str().strip_prefix(host) else { return false };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    !host.is_empty()
        && address.is_none_or(|address| address.parse::<Ipv6Addr>().is_ok())
        && is_port(port.as_bytes())
}

/// Returns whether this is nothing, or a colon and perhaps a port.
fn is_port(text: &[u8]) -> bool {
    let Some(digits) = text.strip_prefix(b":") else { return text.is_empty() };
    let number = || str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u16>().ok());
    digits.iter().all(u8::is_ascii_digit) && (digits.is_empty() || number().is_some())
}

/// Refuses a query string with 400, on resources that have no parameters. A misplaced
/// parameter would otherwise be ignored silently.
pub(crate) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        if parts.uri.query().unwrap_or_default().is_empty() {
            return Ok(Self);
        }
        Err(Problem::bad_request("this request accepts no query parameters; remove the query string"))
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

/// Returns 415 (RFC 9110, section 15.5.16) unless the body has this media type and is not
/// compressed.
pub(crate) fn require_type(headers: &HeaderMap, wanted: &str) -> Result<(), Problem> {
    if !is_type(headers, wanted) {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("send {wanted}")));
    }
    let plain = headers.get_all(header::CONTENT_ENCODING).iter().all(|codings| {
        let mut codings = codings.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
        codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(IDENTITY.as_bytes()))
    });
    if plain {
        return Ok(());
    }
    Err(Problem {
        coding_refused: true,
        ..Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the body without a Content-Encoding")
    })
}

/// Reads the whole body. Returns 413 if it is longer than `max`, 400 if it breaks off.
pub(crate) async fn read_body(body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body holds at most {max} bytes"));
    // Refused before a byte of it is read, if the client says how long it is.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    to_bytes(body, max).await.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => too_large(),
        _ => Problem::bad_request("the body broke off or was badly framed"),
    })
}
