//! The client: one method per call of the service, each with a typed error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::http;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower::util::MapResponse;

use crate::protocol::proto::weather_service_client::WeatherServiceClient;
use crate::protocol::proto::{Reading, RecordRequest, UploadRequest, UploadResponse};
use crate::protocol::{REQUEST_ID, is_token};
use retry::retry;

mod error;
mod monitor;
mod retry;
mod watch;

pub use error::{Error, Failure};
pub use monitor::Monitoring;
pub use watch::{Event, Missed, Watching};

/// How to talk to a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Longest time to wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time of a `Record`, all attempts together, and of the beginning
    /// of a stream. The server is told what is left of it.
    pub deadline: Duration,
    /// A `PING` is sent after this long without input…
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
    /// The first half of every request ID, and the count that is the other.
    id: u32,
    calls: AtomicU64,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:50051`. The
    /// first call connects, and so does the first after a connection broke.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`] if `url` is not of that form, [`Error::Token`] if the token has
    /// other characters.
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

    /// Records a batch, all of it or nothing, and returns how many readings
    /// were accepted. Retries while that is safe.
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
    /// returns its summary, by `deadline` if there is one. Never retries: part
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

    /// A message with its metadata: the request ID, the token, the deadline.
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
        Error::new(status, &self.shared.url)
    }
}
