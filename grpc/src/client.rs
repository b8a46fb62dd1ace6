//! The client: one method per call of the service, each with a typed error. The
//! two whose responses are a stream are in `client/streams.rs`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tcp_socket::base::text::printable;
use thiserror::Error;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::http;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::{FieldViolation, StatusExt};
use tower::util::MapResponse;

use crate::call::REQUEST_ID;
use crate::model::is_token;
use crate::proto::weather_service_client::WeatherServiceClient;
use crate::proto::{Reading, RecordRequest, UploadRequest, UploadResponse};
use crate::retry::retry;
use crate::status::{Local, deadline_exceeded, local_cause, name};

mod streams;

pub use streams::{Missed, Monitoring, Watched, Watching};

/// Why a call failed.
#[derive(Debug, Error)]
pub enum Error {
    /// Not the address of a server.
    #[error("{url:?} is not of the form http://host:port")]
    Address {
        /// What was given.
        url: String,
    },
    /// Not a token: it cannot stand in metadata.
    #[error("a token holds visible ASCII characters, without spaces")]
    Token,
    /// No connection: the request was never sent.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// What the transport said.
        #[source]
        source: Box<Status>,
    },
    /// The call ended with this status.
    #[error("{0}")]
    Status(Box<Failure>),
    /// The stream on which something should be sent has ended.
    #[error("the call has ended")]
    Ended,
    /// The connection broke; the call may have been executed, or not.
    #[error("the connection broke ({}); the call may have been executed", root_cause(.0))]
    Broken(Box<Status>),
}

impl Error {
    /// Returns why the connection was lost, if that is what happened. A new connection
    /// may help then.
    pub fn disconnect_reason(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } => Some(root_cause(source)),
            Self::Broken(status) => Some(root_cause(status)),
            Self::Status(failure) if failure.code == Code::Unavailable => Some(failure.message.clone()),
            _ => None,
        }
    }
}

/// Returns the last in the chain of causes. Those before it say the same in other words.
fn root_cause(status: &Status) -> String {
    let first: &dyn std::error::Error = status;
    let causes = std::iter::successors(first.source(), |cause| cause.source());
    causes.last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// A status that is not `OK`, and its details.
#[derive(Debug)]
pub struct Failure {
    /// What kind of failure.
    pub code: Code,
    /// In words, for a person.
    pub message: String,
    /// With `INVALID_ARGUMENT`: which fields are wrong, and how.
    pub violations: Vec<FieldViolation>,
    /// The reason in `google.rpc.ErrorInfo`, such as
    /// [`FELL_BEHIND`](crate::status::FELL_BEHIND), for a program.
    pub reason: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", name(self.code), printable(&self.message))?;
        for violation in &self.violations {
            write!(f, "; {} {}", printable(&violation.field), printable(&violation.description))?;
        }
        Ok(())
    }
}

/// How to talk to a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Longest time to wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time of a `Record`, all attempts together, and of the beginning
    /// of a stream. The server is told what is left of it.
    pub deadline: Duration,
    /// A `PING` is sent this long after the last sign of life…
    pub keepalive_interval: Duration,
    /// …and the connection given up if no answer comes within this time.
    pub keepalive_timeout: Duration,
    /// Sent as `authorization: Bearer <token>`.
    pub token: Option<String>,
    /// Compress requests, and accept compressed responses. The server must have
    /// been started with it.
    pub gzip: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            deadline: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            token: None,
            gzip: false,
        }
    }
}

/// The connection, with [`explain_431`] on each response.
type Transport = MapResponse<Channel, fn(http::Response<Body>) -> http::Response<Body>>;

/// Gives the HTTP status 431 a gRPC status. HTTP/2 libraries send it on their own when
/// the metadata is too large, and tonic makes UNKNOWN of it.
fn explain_431(response: http::Response<Body>) -> http::Response<Body> {
    let has_status = response.headers().contains_key(Status::GRPC_STATUS);
    if response.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE && !has_status {
        return Status::resource_exhausted("the metadata is larger than the server accepts").into_http();
    }
    response
}

/// A client of one server. Clones share its connection; calls may run side by
/// side, each on an HTTP/2 stream of its own.
#[derive(Debug, Clone)]
pub struct Client {
    stub: WeatherServiceClient<Transport>,
    deadline: Duration,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    authorization: Option<MetadataValue<Ascii>>,
    /// The first half of every request id, and the count that is the other.
    id: u32,
    calls: AtomicU64,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:50051`. The
    /// first call connects, and so does the first after a connection broke.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`] if `url` is none, [`Error::Token`] if the token is none.
    pub fn new(url: &str, options: &Options) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"))
            .ok_or_else(|| Error::Address { url: url.to_owned() })?
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true);
        let transport: Transport = MapResponse::new(endpoint.connect_lazy(), explain_431);
        let mut stub = WeatherServiceClient::new(transport);
        if options.gzip {
            stub = stub.send_compressed(Gzip).accept_compressed(Gzip);
        }
        if options.token.as_ref().is_some_and(|token| !is_token(token)) {
            return Err(Error::Token);
        }
        let token = options.token.as_ref().map(|token| format!("Bearer {token}").parse());
        let mut authorization: Option<MetadataValue<Ascii>> = token.transpose().map_err(|_| Error::Token)?;
        if let Some(secret) = &mut authorization {
            secret.set_sensitive(true); // Not to be kept in HPACK's table, either (RFC 7541, section 7.1).
        }
        let shared =
            Shared { url: url.to_owned(), authorization, id: fastrand::u32(..), calls: AtomicU64::new(0) };
        Ok(Self { stub, deadline: options.deadline, shared: Arc::new(shared) })
    }

    /// The same client, over the same connection, with another
    /// [`Options::deadline`].
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// Records a batch, all of it or nothing, and returns how many readings
    /// were accepted. Tried again while that is safe.
    ///
    /// # Errors
    /// [`Error::Status`] with `INVALID_ARGUMENT` names each invalid field.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        let deadline = Instant::now() + self.deadline;
        let attempt = async || {
            let message = RecordRequest { readings: readings.to_vec() };
            self.stub.clone().record(self.request(message, Some(deadline))).await
        };
        let response = retry(deadline, attempt).await.map_err(|status| self.error(status))?;
        Ok(usize::try_from(response.into_inner().accepted).unwrap_or(usize::MAX))
    }

    /// Streams readings to the server, no faster than it takes them, and
    /// returns its summary, by `deadline` if there is one. Never tried again: part
    /// of them may be kept.
    ///
    /// # Errors
    /// [`Error::Broken`] if the connection does; what was received stays kept.
    pub async fn upload(
        &self,
        readings: impl Stream<Item = Reading> + Send + 'static,
        deadline: Option<Instant>,
    ) -> Result<UploadResponse, Error> {
        let requests = readings.map(|reading| UploadRequest { reading: Some(reading) });
        let response = self.stub.clone().upload(self.request(requests, deadline)).await;
        Ok(response.map_err(|status| self.error(status))?.into_inner())
    }

    /// A message with its metadata: the request id, the token, the deadline.
    fn request<T>(&self, message: T, deadline: Option<Instant>) -> Request<T> {
        let mut request = Request::new(message);
        let shared = &self.shared;
        // The letter makes it easy to tell from a number in a log.
        let id = format!("c{:08x}{:07x}", shared.id, shared.calls.fetch_add(1, Relaxed));
        if let Ok(mut id) = id.parse::<MetadataValue<Ascii>>() {
            // HPACK remembers header fields, to send a number next time. It should
            // not remember one that never comes again.
            id.set_sensitive(true);
            request.metadata_mut().insert(REQUEST_ID, id);
        }
        if let Some(authorization) = &shared.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(deadline) = deadline {
            // In whole milliseconds, rounded up: most calls then have the same
            // text here, which HPACK makes a number.
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            request.set_timeout(Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)));
        }
        request
    }

    fn error(&self, status: Status) -> Error {
        match local_cause(&status) {
            Some(Local::NotConnected) => {
                Error::Unreachable { url: self.shared.url.clone(), source: Box::new(status) }
            }
            Some(Local::Broken | Local::NotProcessed) => Error::Broken(Box::new(status)),
            Some(Local::Deadline) => failure(&deadline_exceeded()),
            Some(Local::Other) | None => failure(&status),
        }
    }
}

fn failure(status: &Status) -> Error {
    let details = status.get_error_details();
    Error::Status(Box::new(Failure {
        code: status.code(),
        message: status.message().to_owned(),
        violations: details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default(),
        reason: details.error_info().map(|info| info.reason.clone()),
    }))
}
