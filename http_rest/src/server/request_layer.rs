//! The steps before and after the handler of every request: an ID, checks of the header, a
//! permit to be handled, a time limit, and a line in the log. Below them are the checks that
//! handlers choose: no query string, the media type, the length of the body.

use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::FromRequestParts;
use axum::extract::rejection::QueryRejection;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use hyper::body::Incoming;
use tcp_socket::base::principals::{Caller, Operation};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tower::Service;
use tracing::info;

use crate::limits::{Limits, MAX_REQUEST_ID};
use crate::protocol::headers::{IDEMPOTENCY_KEY, IDENTITY, LAST_EVENT_ID, REQUEST_ID, is_type};
use crate::protocol::problem::Problem;

/// The requests of all connections.
pub(crate) struct Requests {
    pub(crate) limits: Arc<Limits>,
    /// One for each request that may be handled at the same time.
    permits: Semaphore,
    /// Number of requests that got their ID from this server.
    numbered: AtomicU64,
}

impl Requests {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self { permits: Semaphore::new(limits.max_in_flight), numbered: AtomicU64::new(0), limits }
    }

    /// Returns the response to a request, and logs it.
    //
    // An axum middleware (`from_fn`) would do the same, but with two more heap allocations for
    // each request.
    pub(crate) async fn respond(
        &self,
        router: Router,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Response, Infallible> {
        let started = Instant::now();
        let id = self.id(request.headers());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut response =
            self.handle(router, request, caller).await.unwrap_or_else(IntoResponse::into_response);
        let status = response.status();
        let ends = [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNAUTHORIZED];
        if ends.contains(&status) {
            // The rest of the body may still be to come, so this connection can't be reused. And
            // after 401, each guess costs a client a new connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        info!(
            "{method} {uri} {} in {:.1?} id={}",
            status.as_u16(),
            started.elapsed(),
            id.to_str().unwrap_or_default()
        );
        response.headers_mut().insert(REQUEST_ID, id);
        Ok(response)
    }

    async fn handle(
        &self,
        mut router: Router,
        mut request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Response, Problem> {
        check_single(request.headers())?;
        check_host(&request)?;
        if caller.is_checked() {
            let tokens = request.headers().get_all(header::AUTHORIZATION).iter();
            let caller = caller.with_authorization(tokens.map(HeaderValue::as_bytes))?;
            if let Some(operation) = operation(request.method(), request.uri().path()) {
                caller.may(operation)?;
            }
            request.extensions_mut().insert(caller);
        }
        let _permit = self.permits.try_acquire().map_err(|_none_left| Problem {
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests in flight")
        })?;
        match timeout(self.limits.request_timeout, router.call(request)).await {
            Ok(Ok(response)) => Ok(response), // A router's error type is `Infallible`.
            Err(_elapsed) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request took too long to arrive or to be executed",
            )),
        }
    }

    /// Returns the client's own ID if it is short and plain, otherwise the next number.
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

/// Returns the operation that the caller needs permission for. `Manage` is the default, so that a
/// new route is not open to everybody by mistake.
fn operation(method: &Method, path: &str) -> Option<Operation> {
    match (method.as_str(), path) {
        ("GET" | "HEAD", "/healthz" | "/openapi.json") => None,
        ("GET" | "HEAD", "/readings/live") => Some(Operation::Subscribe),
        ("GET" | "HEAD", _) => Some(Operation::Read),
        // The handler checks whose readings they are.
        ("POST", "/readings") => Some(Operation::RecordOwn),
        _ => Some(Operation::Manage),
    }
}

/// Header fields that may appear only once. If there were two, a proxy could believe one
/// and this server the other, which is how requests are smuggled past a proxy. The list
/// lacks `Content-Length`, which hyper checks, and fields whose values are lists, which may
/// come in several lines.
const SINGLE: [HeaderName; 5] =
    [header::HOST, header::CONTENT_TYPE, IDEMPOTENCY_KEY, LAST_EVENT_ID, REQUEST_ID];

/// Returns 400 if a field of [`SINGLE`] appears more than once (RFC 9110, section 5.3).
fn check_single(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.len() == headers.keys_len() {
        return Ok(()); // Usually no field appears twice, and this is the cheapest way to check.
    }
    match SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        None => Ok(()),
        Some(name) => Err(Problem::bad_request(format!("send {name} only once"))),
    }
}

/// Returns 400 unless there is a valid `Host` (RFC 9112, section 3.2). HTTP/1.0 may leave it
/// out. If the request's target names a host as well, that must be valid too.
fn check_host(request: &Request<Incoming>) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST);
    let present = host.is_some() || request.version() < Version::HTTP_11;
    let target = request.uri().authority().map(Authority::as_str);
    if present && host.is_none_or(|host| host.to_str().is_ok_and(is_host)) && target.is_none_or(is_host) {
        return Ok(());
    }
    Err(Problem::bad_request("send one Host header with a host and, if needed, a port"))
}

/// Returns whether this is a name or an address, perhaps with a port, but without a user
/// (RFC 3986, section 3.2).
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""), // The last colon, if there is one, is part of an IPv6 address.
    };
    let is_name_byte = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'.' | b'-' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=')
    };
    let valid_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name_byte),
    };
    // A port may be empty. Rust would accept `+80`.
    let valid_port = port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
    valid_host && (port.is_empty() || valid_port)
}

/// Refuses a query string with 400, for requests that have no parameters. A misplaced
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
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the Content-Type must be {wanted}"),
        ));
    }
    let lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings = lines.flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    let plain = codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(IDENTITY.as_bytes()));
    if plain {
        return Ok(());
    }
    Err(Problem {
        coding_refused: true,
        ..Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the body without a Content-Encoding")
    })
}

/// Reads the whole body. Returns 413 if it is longer than `max`, 400 if it is incomplete.
pub(crate) async fn read_body(body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {max} bytes"));
    // If the client says that the body is too long, refuse it before reading any of it.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    to_bytes(body, max).await.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => too_large(),
        _ => Problem::bad_request("the body is incomplete or badly framed"),
    })
}
