//! What happens to every request before and after its handler: an id, a look at
//! `Host`, a place among the requests in flight, a time limit, a line in the log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};
use tracing::info;

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
    if request.version() >= Version::HTTP_11 {
        check_host(request.headers())?;
    }
    let _in_flight = app.in_flight.try_acquire().map_err(|_full| Problem {
        retry_after: Some(Duration::from_secs(1)),
        ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests in flight")
    })?;
    timeout(app.limits.request_timeout, next.run(request)).await.map_err(|_elapsed| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive or to be answered")
    })
}

/// 400 unless there is exactly one `Host` and it names one (RFC 9112, section
/// 3.2). A missing or doubled one is how requests are smuggled past a proxy.
fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none());
    let is_host = |value: &HeaderValue| {
        Authority::try_from(value.as_bytes())
            .is_ok_and(|host| !host.host().is_empty() && !host.as_str().contains('@'))
    };
    if host.is_some_and(is_host) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "a request has one Host header with a host and, if need be, a port",
    ))
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
