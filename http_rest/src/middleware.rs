//! What happens to every request before and after its handler: an id, a look at
//! `Host`, a place among the requests in flight, a time limit, a line in the log.

use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::idempotency::IDEMPOTENCY_KEY;
use crate::live::LAST_EVENT_ID;
use crate::problem::Problem;
use crate::server::App;

/// Names a request in both ends' logs. A client may choose it; the answer repeats it.
pub const REQUEST_ID: &str = "x-request-id";

/// Longest request id that is taken from a client, in bytes.
pub const MAX_REQUEST_ID: usize = 64;

pub(crate) async fn around_each_request(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&app, request.headers());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut response = answer(&app, request, next).await.unwrap_or_else(IntoResponse::into_response);
    let status = response.status();
    if matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        // The rest of the body is still to come: this connection is of no more use.
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

async fn answer(app: &App, request: Request, next: Next) -> Result<Response, Problem> {
    check_single(request.headers())?;
    check_host(&request)?;
    let _in_flight = app.in_flight.try_acquire().map_err(|_full| Problem {
        retry_after: Some(Duration::from_secs(1)),
        ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests in flight")
    })?;
    timeout(app.limits.request_timeout, next.run(request)).await.map_err(|_elapsed| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive or to be answered")
    })
}

/// Header fields with one value. Of two, each program on the way could believe another
/// one, which is how requests are smuggled past a proxy. `Content-Length` is checked by
/// hyper, and fields whose values are lists may come in several lines.
const SINGLE: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_TYPE,
    HeaderName::from_static(IDEMPOTENCY_KEY),
    HeaderName::from_static(LAST_EVENT_ID),
    HeaderName::from_static(REQUEST_ID),
];

/// 400 if a field of [`SINGLE`] comes twice (RFC 9110, section 5.3).
fn check_single(headers: &HeaderMap) -> Result<(), Problem> {
    match SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        None => Ok(()),
        Some(name) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("send {name} only once"))),
    }
}

/// 400 unless there is a valid `Host` (RFC 9112, section 3.2), which HTTP/1.0 may lack,
/// and the target names a valid host too if it names one.
fn check_host(request: &Request) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST);
    let present = host.is_some() || request.version() < Version::HTTP_11;
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let mut named = host.map(HeaderValue::as_bytes).into_iter().chain(target);
    if present && named.all(is_host) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "a request has one Host header with a host and, if need be, a port",
    ))
}

/// Whether this is `host` or `host:port` (RFC 3986, section 3.2), without a user.
fn is_host(value: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(value) else { return false };
    let host = authority.host();
    let Some(port) = authority.as_str().strip_prefix(host) else { return false };
    let port = port.strip_prefix(':').unwrap_or(port);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    !host.is_empty()
        && address.is_none_or(|address| address.parse::<Ipv6Addr>().is_ok())
        && port.bytes().all(|b| b.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// The client's own id if it is short and plain, or the next number of ours.
fn request_id(app: &App, headers: &HeaderMap) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    match headers.get(REQUEST_ID).filter(plain) {
        Some(id) => id.clone(),
        None => HeaderValue::from(app.requests.fetch_add(1, Ordering::Relaxed) + 1),
    }
}
