//! What surrounds every call, whichever service it is for: its deadline, its end at a
//! shutdown, its place among the calls in flight, and its line in the log.
//!
//! A gRPC call is one HTTP/2 stream: a request whose headers name the method and
//! the deadline, and a response whose *trailers*, sent after the last message,
//! hold the status. So all this is done to an HTTP request and response, and the
//! handlers know nothing of it. When a call ends early, its handler's future or
//! its response stream is dropped, and what the handler did ends there.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::{Code, Status};
use tracing::{Level, enabled, info};

use crate::limits::{Limits, MAX_LOGGED};
use crate::protocol::REQUEST_ID;
use crate::protocol::status::{
    busy, code, deadline_exceeded, limit_message, name, stopping, too_much_metadata, too_slow, translate,
};

/// What the calls of a server share.
pub(super) struct ServerState {
    pub(super) routes: Routes,
    pub(super) limits: Limits,
    /// [`Limits::max_calls`] of them.
    pub(super) permits: Arc<Semaphore>,
    /// The server is stopping: open response streams end.
    pub(super) stopping: CancellationToken,
    /// The drain time is over: calls without a response get one.
    pub(super) drained: CancellationToken,
}

/// What the calls of one connection share.
#[derive(Default)]
pub(super) struct ConnectionState {
    /// Calls in flight.
    pub(super) open: AtomicUsize,
    /// Calls ever made.
    pub(super) total: AtomicUsize,
    /// See [`Limits::max_abandoned`].
    pub(super) abandoned: AtomicIsize,
    /// Canceled when the connection is to be closed at once.
    pub(super) close: CancellationToken,
}

/// One call, from its headers to the headers of its response.
pub(super) async fn call(
    server: Arc<ServerState>,
    connection: Arc<ConnectionState>,
    request: Request<Incoming>,
    deadline: Result<Option<Instant>, MalformedTimeout>,
) -> Result<Response<CallBody>, Infallible> {
    let now = Instant::now();
    let mut open = OpenCall::new(&server.limits, connection, &request, now);
    if let Some((http_status, message)) = not_grpc(&request) {
        // UNKNOWN is also what a client concludes from the HTTP status alone ("HTTP to
        // gRPC Status Code Mapping" in the gRPC documentation).
        let mut response = open.respond(Status::unknown(message));
        *response.status_mut() = http_status;
        if http_status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110, section 15.5.6: a 405 must say which methods are allowed.
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        return Ok(response);
    }
    if header_list_size(&request) > server.limits.max_header_list as usize {
        return Ok(open.respond(too_much_metadata(server.limits.max_header_list)));
    }
    let Ok(deadline) = deadline else {
        return Ok(open.respond(Status::invalid_argument("grpc-timeout is malformed")));
    };
    let Ok(permit) = server.permits.clone().try_acquire_owned() else {
        return Ok(open.respond(busy()));
    };
    open.permit = Some(permit);

    // An upload may take any time; `upload` itself limits its pauses.
    let is_upload = request.uri().path() == "/weather.v1.WeatherService/Upload";
    let too_slow_at = (!is_upload).then(|| now + server.limits.request_timeout);
    let end = [deadline, too_slow_at].into_iter().flatten().min();
    let mut routes = server.routes.clone();
    // The timer costs nothing as long as the handler is done at once: it is
    // registered when it is first polled, which is after the handler. Cancel
    // safety: to cancel the handler is the purpose.
    let response = select! {
        biased;
        Ok(response) = routes.call(request.map(break_off_with_error)) => response,
        () = wait_until(end) => {
            return Ok(open.respond(if end == deadline { deadline_exceeded() } else { too_slow() }));
        }
        () = server.drained.cancelled() => return Ok(open.respond(stopping())),
    };

    let (mut parts, body) = response.into_parts();
    translate(&mut parts.headers);
    limit_message(&mut parts.headers);
    if let Some(code) = code(&parts.headers) {
        open.log(code);
        // A status alone is a response, unless the client left in the middle of
        // its request, or sent something that is not valid.
        open.responded = !matches!(code, Code::Cancelled | Code::Internal);
    }
    let body =
        CallBody { inner: body, deadline, server: Some(server), early_end: None, is_stream: false, open };
    Ok(Response::from_parts(parts, body))
}

/// Returns why an HTTP/2 request is not a gRPC call, with the HTTP status that says so;
/// `None` if it is one.
///
/// The document "gRPC over HTTP2" (section Requests) allows only the method POST, and
/// asks for status 415 if the content type does not begin with `application/grpc`. After
/// a `+` it may name another message format. This server reads only Protocol Buffers, and
/// refuses other formats, too.
fn not_grpc<B>(request: &Request<B>) -> Option<(StatusCode, &'static str)> {
    if request.method() != Method::POST {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "use POST: a gRPC call is a POST request"));
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
    Some((
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the content type must be application/grpc or application/grpc+proto",
    ))
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

/// The request's body, broken off or whole.
///
/// When a client resets its stream, tonic lets the requests end as if the client had no
/// more. A handler has to tell the two apart: an upload that broke off is not complete.
fn break_off_with_error(body: Incoming) -> impl hyper::body::Body<Data = Bytes, Error = Status> {
    body.map_err(|error| Status::unknown(error.to_string()))
}

/// The header `grpc-timeout` is not a time.
pub(super) struct MalformedTimeout;

/// When the client stops waiting, from the header `grpc-timeout`: up to eight
/// digits and a unit, such as `250m` for 250 ms.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, MalformedTimeout> {
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
    // The clock may not reach eleven thousand years ahead: that is like no deadline.
    Ok(Instant::now().checked_add(timeout))
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// A call's place among those in flight. However the call ends, this is
/// dropped with it.
struct OpenCall {
    connection: Arc<ConnectionState>,
    max_abandoned: isize,
    permit: Option<OwnedSemaphorePermit>,
    log: Option<LogEntry>,
    /// The response, or its beginning, was handed to the connection.
    responded: bool,
}

struct LogEntry {
    uri: Uri,
    request_id: Option<HeaderValue>,
    started: Instant,
}

impl OpenCall {
    fn new(
        limits: &Limits,
        connection: Arc<ConnectionState>,
        request: &Request<Incoming>,
        now: Instant,
    ) -> Self {
        connection.open.fetch_add(1, Relaxed);
        connection.total.fetch_add(1, Relaxed);
        let log = enabled!(Level::INFO).then(|| LogEntry {
            uri: request.uri().clone(),
            request_id: request.headers().get(REQUEST_ID).cloned(),
            started: now,
        });
        let max_abandoned = isize::try_from(limits.max_abandoned).unwrap_or(isize::MAX);
        Self { connection, max_abandoned, permit: None, log, responded: false }
    }

    /// Writes the line in the log, once, and before the status is sent: a client that has
    /// the status finds the line.
    fn log(&mut self, code: Code) {
        let Some(log) = self.log.take() else { return };
        let method: String = log.uri.path().chars().take(MAX_LOGGED).collect();
        let elapsed = log.started.elapsed();
        let id = log.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-");
        info!("{method} {} in {elapsed:.1?} id={}", name(code), &id[..id.len().min(MAX_LOGGED)]);
    }

    /// Returns a response that is nothing but a status.
    fn respond(mut self, status: Status) -> Response<CallBody> {
        self.responded = true;
        self.log(status.code());
        let (parts, body) = status.into_http::<Body>().into_parts();
        let body = CallBody {
            inner: body,
            deadline: None,
            server: None,
            early_end: None,
            is_stream: false,
            open: self,
        };
        Response::from_parts(parts, body)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.connection.open.fetch_sub(1, Relaxed);
        let abandoned = &self.connection.abandoned;
        if !self.responded {
            if abandoned.fetch_add(1, Relaxed) >= self.max_abandoned {
                self.connection.close.cancel();
            }
        } else if abandoned.load(Relaxed) > 0 {
            abandoned.fetch_sub(1, Relaxed);
        }
        // If there was no status, the client ended the call.
        self.log(Code::Cancelled);
    }
}

/// The body of a response: the messages and, after them, the status as trailers.
/// Ends early, with a status of its own, when the deadline passes or the server
/// stops while the handler has nothing to send.
pub(super) struct CallBody {
    inner: Body,
    deadline: Option<Instant>,
    /// `None` if there is nothing that could end early.
    server: Option<Arc<ServerState>>,
    /// Waits for the reason to end early. Made when the handler first has nothing to
    /// send: a unary call never gets that far.
    early_end: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
    /// A message was sent, so another one makes it a stream.
    is_stream: bool,
    open: OpenCall,
}

impl CallBody {
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Drops the handler's stream: its work ends here.
        self.inner = Body::empty();
        self.server = None;
        self.early_end = None;
        self.open.log(status.code());
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl hyper::body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.open.responded = true;
        if let Poll::Ready(mut frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Some(Ok(frame)) = &mut frame {
                if let Some(trailers) = frame.trailers_mut() {
                    translate(trailers);
                    limit_message(trailers);
                    this.open.log(code(trailers).unwrap_or(Code::Unknown));
                } else if this.is_stream && this.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    // It always has something to send, and never comes to the wait below.
                    return this.end(&deadline_exceeded());
                }
                this.is_stream = true;
            }
            return Poll::Ready(frame);
        }
        let Some(server) = &this.server else { return Poll::Pending };
        let deadline = this.deadline;
        let early_end = this.early_end.get_or_insert_with(|| {
            let stopping = server.stopping.clone();
            Box::pin(async move {
                // Cancel safe: both only wait.
                select! {
                    () = wait_until(deadline) => deadline_exceeded(),
                    () = stopping.cancelled() => crate::protocol::status::stopping(),
                }
            })
        });
        let status = ready!(early_end.as_mut().poll(cx));
        this.end(&status)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
