//! What surrounds every call of every service: its deadline, its end at a shutdown, its
//! permit among the calls in flight, and its line in the log.
//!
//! A gRPC call is one HTTP/2 stream: a request whose headers name the method and the
//! deadline, and a response whose *trailers*, sent after the last message, hold the
//! status. So this module works on HTTP requests and responses, and the handlers know
//! nothing about it. When a call ends early, its handler's future or response stream is
//! dropped, which ends the handler's work.

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tcp_socket::base::principals::Caller;
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::{Code, Status};
use tracing::{Level, enabled, info};

use super::service::Services;
use crate::limits::{Limits, MAX_LOGGED, MAX_UNKNOWN};
use crate::protocol::REQUEST_ID;
use crate::protocol::proto::METHODS;
use crate::protocol::status::{
    busy, deadline_exceeded, name, stopping, too_much_metadata, too_slow, translate,
};

/// What all calls of a server share.
pub(super) struct ServerState {
    pub(super) services: Services,
    pub(super) limits: Limits,
    /// [`Limits::max_calls`] permits, one for each call in flight.
    pub(super) permits: Arc<Semaphore>,
    /// Canceled when the server begins to stop, which ends open response streams.
    pub(super) stopping: CancellationToken,
    /// Canceled when the drain time is over, which ends calls that have no response yet.
    pub(super) drained: CancellationToken,
}

/// What all calls on one connection share.
#[derive(Default)]
pub(super) struct ConnectionState {
    /// Calls in flight.
    pub(super) open: AtomicUsize,
    /// Calls made so far.
    pub(super) total: AtomicUsize,
    /// See [`Limits::max_abandoned`].
    pub(super) abandoned: AtomicIsize,
    /// Who calls, unless the metadata of a call says otherwise.
    pub(super) caller: Caller,
    /// Calls refused because the server did not know the caller.
    pub(super) unknown: AtomicUsize,
    /// Canceled when the connection must be closed at once.
    pub(super) close: CancellationToken,
}

/// A call in flight. It is dropped when the call ends, however it ends.
pub(super) struct Call {
    server: Arc<ServerState>,
    connection: Arc<ConnectionState>,
    /// Whether, according to the proto, neither the request nor the response is a stream.
    is_unary: bool,
    /// Whether, according to the proto, the request is a stream.
    is_request_stream: bool,
    started: Instant,
    /// When the client stops waiting.
    deadline: Result<Option<Instant>, MalformedTimeout>,
    permit: Option<OwnedSemaphorePermit>,
    log: Option<LogEntry>,
    /// Whether the response, or its beginning, was handed to the connection.
    responded: bool,
}

struct LogEntry {
    uri: Uri,
    request_id: Option<HeaderValue>,
}

impl Call {
    pub(super) fn new(
        server: Arc<ServerState>,
        connection: Arc<ConnectionState>,
        request: &Request<Incoming>,
    ) -> Self {
        connection.open.fetch_add(1, Relaxed);
        connection.total.fetch_add(1, Relaxed);
        let path = request.uri().path();
        // Methods that are not in the proto (health and reflection) may be streams.
        let (_, is_request_stream, is_stream) =
            METHODS.iter().find(|(method, ..)| *method == path).copied().unwrap_or(("", false, true));
        let started = Instant::now();
        let deadline = deadline(request.headers(), started);
        let log = enabled!(Level::INFO).then(|| LogEntry {
            uri: request.uri().clone(),
            request_id: request.headers().get(REQUEST_ID).cloned(),
        });
        let is_unary = !is_request_stream && !is_stream;
        Self {
            server,
            connection,
            is_unary,
            is_request_stream,
            started,
            deadline,
            permit: None,
            log,
            responded: false,
        }
    }

    /// Returns when the client stops waiting, if it has set a deadline.
    fn deadline(&self) -> Option<Instant> {
        self.deadline.ok().flatten()
    }

    fn is_late(&self) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns the deadline if the call is a stream. A unary call's response has few
    /// bytes, so it is not worth a timer.
    pub(super) fn stream_deadline(&self) -> Option<Instant> {
        self.deadline().filter(|_| !self.is_unary)
    }

    /// Runs the call from its headers to the headers of its response.
    pub(super) fn run(
        mut self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> {
        let handler = self.handler(request);
        async move {
            let server = &self.server;
            let too_slow_at = (!self.is_request_stream).then(|| self.started + server.limits.request_timeout);
            let end = [self.deadline(), too_slow_at].into_iter().flatten().min();
            // The timer costs nothing if the handler finishes at once: it is registered
            // when it is first polled, which is after the handler. Cancel safety does not
            // matter: canceling the handler is the purpose.
            let mut response = select! {
                biased;
                Ok(response) = handler => response,
                () = wait_until(end) => {
                    let status = if end == self.deadline() { deadline_exceeded() } else { too_slow() };
                    status.into_http()
                }
                () = server.drained.cancelled() => stopping().into_http(),
            };
            if let Some(code) = translate(response.headers_mut()) {
                self.log(code);
                if code == Code::Unauthenticated
                    && self.connection.unknown.fetch_add(1, Relaxed) >= MAX_UNKNOWN
                {
                    self.connection.close.cancel(); // Guesses cost the client a new connection.
                }
                // A status alone counts as a response, unless the client left in the
                // middle of its request or sent something invalid.
                self.responded = !matches!(code, Code::Cancelled | Code::Internal);
            }
            Ok(response.map(|handlers| {
                if handlers.is_end_stream() {
                    return handlers;
                }
                let body = ResponseBody { handlers, is_stream: false, call: self };
                Body::new(StreamBody::new(stream::try_unfold(body, ResponseBody::next)))
            }))
        }
    }

    /// Returns the handler's future, or the response that refuses the call.
    fn handler(&mut self, request: Request<Incoming>) -> BoxFuture<Response<Body>, Infallible> {
        let server = &self.server;
        let max_header_list = server.limits.max_header_list;
        let refusal = if let Some(refusal) = not_grpc(&request) {
            refusal
        } else if header_list_size(&request) > max_header_list as usize {
            too_much_metadata(max_header_list).into_http()
        } else if self.deadline.is_err() {
            Status::invalid_argument(
                "send grpc-timeout at most once, as 1 to 8 digits and a unit, such as 250m",
            )
            .into_http()
        } else if let Ok(permit) = server.permits.clone().try_acquire_owned() {
            self.permit = Some(permit);
            return server.services.call(request.map(break_off_with_error), &self.connection.caller);
        } else {
            busy().into_http()
        };
        Box::pin(ready(Ok(refusal)))
    }

    /// Writes the call's line to the log, once. This happens before the status is sent,
    /// so a client that has the status finds the line.
    fn log(&mut self, code: Code) {
        let Some(log) = self.log.take() else { return };
        let method: String = log.uri.path().chars().take(MAX_LOGGED).collect();
        let elapsed = self.started.elapsed();
        let id = log.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-");
        info!("{method} {} in {elapsed:.1?} id={}", name(code), &id[..id.len().min(MAX_LOGGED)]);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.connection.open.fetch_sub(1, Relaxed);
        let abandoned = &self.connection.abandoned;
        if !self.responded {
            let max = self.server.limits.max_abandoned;
            if abandoned.fetch_add(1, Relaxed) >= isize::try_from(max).unwrap_or(isize::MAX) {
                self.connection.close.cancel();
            }
        } else if abandoned.load(Relaxed) > 0 {
            abandoned.fetch_sub(1, Relaxed);
        }
        // If there was no status yet, the client ended the call.
        self.log(Code::Cancelled);
    }
}

/// Returns the response to an HTTP/2 request that is not a gRPC call, or `None` if it is
/// one.
///
/// The document "gRPC over HTTP2" (section Requests) allows only the method POST, and
/// asks for status 415 if the content type does not begin with `application/grpc`. After
/// a `+`, the content type may name another message format. This server reads only
/// Protocol Buffers, so it also refuses other formats.
fn not_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    // UNKNOWN is also what a client concludes from the HTTP status alone ("HTTP to gRPC
    // Status Code Mapping" in the gRPC documentation).
    let refuse = |http_status, message| {
        let mut response = Status::unknown(message).into_http::<Body>();
        *response.status_mut() = http_status;
        response
    };
    if request.method() != Method::POST {
        let message = "use POST: a gRPC call is a POST request";
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, message);
        // RFC 9110, section 15.5.6: a 405 must say which methods are allowed.
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    let mut values = request.headers().get_all(CONTENT_TYPE).iter();
    let (content_type, another) = (values.next(), values.next());
    let media_type = content_type.and_then(|value| value.to_str().ok()?.split(';').next());
    let is_grpc = |media_type: &str| {
        let media_type = media_type.trim_end_matches([' ', '\t']);
        ["application/grpc", "application/grpc+proto"]
            .iter()
            .any(|known| media_type.eq_ignore_ascii_case(known))
    };
    if media_type.is_some_and(is_grpc) && another.is_none() {
        return None;
    }
    let message = "the content type must be application/grpc or application/grpc+proto";
    Some(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// Returns the size of a request's header list as RFC 9113, section 6.5.2, defines it:
/// the name and value of each field, plus 32 bytes per field.
fn header_list_size<B>(request: &Request<B>) -> usize {
    let field = |name: &str, value: usize| name.len() + value + 32;
    let uri = request.uri();
    let pseudo = field(":method", request.method().as_str().len())
        + field(":scheme", uri.scheme_str().map_or(0, str::len))
        + field(":authority", uri.authority().map_or(0, |authority| authority.as_str().len()))
        + field(":path", uri.path_and_query().map_or(0, |path| path.as_str().len()));
    let fields = request.headers().iter().map(|(name, value)| field(name.as_str(), value.len()));
    pseudo + fields.sum::<usize>()
}

/// Returns the request's body, which yields an error if the client breaks off.
///
/// Without this error, the requests would end as if the client had no more to send. A
/// handler has to tell the two apart: an upload that broke off is not complete.
/// [`translate`] turns the status into CANCELLED.
fn break_off_with_error(body: Incoming) -> impl hyper::body::Body<Data = Bytes, Error = Status> {
    body.map_err(|error| Status::aborted(error.to_string()))
}

/// The header `grpc-timeout` is not a time, or it was sent twice.
#[derive(Clone, Copy)]
struct MalformedTimeout;

/// Returns the deadline in the header `grpc-timeout`: up to eight digits and a unit, such
/// as `250m` for 250 ms.
fn deadline(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>, MalformedTimeout> {
    let mut values = headers.get_all("grpc-timeout").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(MalformedTimeout); // Which of the two deadlines would count?
    }
    let text = value.to_str().map_err(|_| MalformedTimeout)?;
    let (digits, unit) = text.split_at_checked(text.len().max(1) - 1).ok_or(MalformedTimeout)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(MalformedTimeout);
    }
    let amount: u64 = digits.parse().map_err(|_| MalformedTimeout)?;
    let timeout = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return Err(MalformedTimeout),
    };
    // The clock may not reach eleven thousand years ahead. Such a timeout means no
    // deadline.
    Ok(now.checked_add(timeout))
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// The body of a response: the messages and, after them, the status as trailers. It ends
/// early, with a status of its own, if the deadline passes, or if the server stops while
/// the handler has nothing to send.
struct ResponseBody {
    handlers: Body,
    /// Whether a message was sent; another one makes the response a stream.
    is_stream: bool,
    call: Call,
}

impl ResponseBody {
    async fn next(mut self) -> Result<Option<(Frame<Bytes>, Self)>, Status> {
        self.call.responded = true;
        // Cancel safe: the handler's body keeps what it has not yielded, and the other
        // two only wait.
        let early_end = select! {
            biased;
            frame = self.handlers.frame() => match frame.transpose()? {
                None => return Ok(None),
                // A handler that always has something to send never reaches the wait
                // below.
                Some(frame) if frame.is_data() && self.is_stream && self.call.is_late() => deadline_exceeded(),
                Some(mut frame) => {
                    self.is_stream = true;
                    if let Some(trailers) = frame.trailers_mut() {
                        let code = translate(trailers).unwrap_or(Code::Unknown);
                        self.call.log(code);
                    }
                    return Ok(Some((frame, self)));
                }
            },
            () = wait_until(self.call.deadline()) => deadline_exceeded(),
            () = self.call.server.stopping.cancelled() => stopping(),
        };
        // Drops the handler's stream, which ends its work.
        self.handlers = Body::empty();
        self.call.log(early_end.code());
        let mut trailers = HeaderMap::new();
        early_end.add_header(&mut trailers)?;
        Ok(Some((Frame::trailers(trailers), self)))
    }
}
