//! What all calls share: the connection, which is opened when a call needs it, and what
//! every call carries besides its messages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tcp_socket::base::tls::{self, H2, Socket};
use tcp_socket::base::token::Token;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::rustls::Error::AlertReceived;
use tokio_rustls::rustls::{AlertDescription, ClientConfig};
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::http;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{self, Endpoint};
use tonic::{Request, Status};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

use super::balance::{Transport, balanced};
use super::error::Error;
use crate::protocol::proto::weather_service_client::WeatherServiceClient;
use crate::protocol::{REQUEST_ID, is_token};

/// How to connect to a server and call it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum time to wait for a connection.
    pub connect_timeout: Duration,
    /// Maximum time for a `Record`, including its retries, and for opening a `Watch` or
    /// `Monitor`. Each attempt of a `Record` tells the server how much of it is left.
    pub deadline: Duration,
    /// Time without input after which the client sends a `PING`.
    pub keepalive_interval: Duration,
    /// Maximum time to wait for the acknowledgement of a `PING`; then the connection is
    /// closed.
    pub keepalive_timeout: Duration,
    /// Token to send as `authorization: Bearer <token>`.
    pub token: Option<String>,
    /// Compress requests, and accept compressed responses. The server must have been
    /// started with `--gzip`, too.
    pub gzip: bool,
    /// For an address that begins with `https`: which servers to trust, and which certificate
    /// to show.
    pub tls: tls::ClientOptions,
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
            tls: tls::ClientOptions::default(),
        }
    }
}

/// Adds a gRPC status to a response with HTTP status 431. HTTP/2 libraries send such a
/// response on their own when the metadata is too large, and tonic would turn it into
/// UNKNOWN.
fn explain_431(response: http::Response<Body>) -> http::Response<Body> {
    let has_status = response.headers().contains_key(Status::GRPC_STATUS);
    if response.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE && !has_status {
        return Status::resource_exhausted("the metadata is larger than the server accepts").into_http();
    }
    response
}

/// Connects to a server over TLS. It must confirm that it speaks HTTP/2 (RFC 9113, section 3.2).
async fn open(uri: http::Uri, tls: Arc<ClientConfig>) -> io::Result<Socket> {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
    let stream = TcpStream::connect(format!("{host}:{port}")).await?;
    stream.set_nodelay(true)?;
    let stream = tls::connect(tls, host, stream).await?;
    if !tls::agreed_on(&stream, H2) {
        return Err(io::Error::other(AlertReceived(AlertDescription::NoApplicationProtocol)));
    }
    Ok(stream)
}

/// Returns a connection to the server at `url`. It opens when a call needs it.
fn connection(url: &str, options: &Options) -> Result<transport::Channel, Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .ok()
        .filter(|endpoint| matches!(endpoint.uri().scheme_str(), Some("http" | "https")))
        .ok_or_else(|| Error::Address { url: url.to_owned() })?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true);
    let tls = options.tls.config(endpoint.uri().scheme_str() == Some("https"), Some(H2));
    Ok(match tls.map_err(|error| Error::Tls(format!("{error:#}")))? {
        None => endpoint.connect_lazy(),
        Some(tls) => endpoint.connect_with_connector_lazy(service_fn(move |uri| {
            let tls = tls.clone();
            async move { open(uri, tls).await.map(TokioIo::new) }
        })),
    })
}

/// The connections, one per server, and the metadata of the calls. Clones share both.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    pub(super) stub: WeatherServiceClient<Transport>,
    pub(super) deadline: Duration,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The addresses, for errors.
    url: String,
    authorization: Option<MetadataValue<Ascii>>,
    /// The first part of every request ID. The second is the call's number, from `calls`.
    id: u32,
    calls: AtomicU64,
}

impl Channel {
    /// See [`Client::balanced`](super::Client::balanced).
    pub(super) fn new(urls: &[impl AsRef<str>], options: &Options) -> Result<Self, Error> {
        let servers: Result<Vec<_>, _> = urls.iter().map(|url| connection(url.as_ref(), options)).collect();
        let mut servers = servers?;
        let url = urls.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" or ");
        let transport: Transport = match servers.len() {
            0 => return Err(Error::Address { url }),
            1 => BoxCloneSyncService::new(
                servers
                    .remove(0)
                    .map_err(|error: transport::Error| Status::from_error(error.into()))
                    .map_response(explain_431),
            ),
            _ => BoxCloneSyncService::new(balanced(servers).map_response(explain_431)),
        };
        let mut stub = WeatherServiceClient::new(transport);
        if options.gzip {
            stub = stub.send_compressed(Gzip).accept_compressed(Gzip);
        }
        if options.token.as_ref().is_some_and(|token| !is_token(token)) {
            return Err(Error::Token);
        }
        let from_file = options.tls.token().map_err(|error| Error::TokenFile(format!("{error:#}")))?;
        let token = options.token.as_deref().or(from_file.as_ref().map(Token::secret));
        let token = token.map(|token| format!("Bearer {token}").parse());
        let mut authorization: Option<MetadataValue<Ascii>> = token.transpose().map_err(|_| Error::Token)?;
        if let Some(secret) = &mut authorization {
            secret.set_sensitive(true); // This also keeps it out of HPACK's table (RFC 7541, section 7.1).
        }
        let shared = Shared { url, authorization, id: fastrand::u32(..), calls: AtomicU64::new(0) };
        Ok(Self { stub, deadline: options.deadline, shared: Arc::new(shared) })
    }

    /// Returns a request: the message and its metadata (request ID, token, deadline).
    pub(super) fn request<T>(&self, message: T, deadline: Option<Instant>) -> Request<T> {
        let mut request = Request::new(message);
        let shared = &self.shared;
        // The letter distinguishes the ID from a number in a log.
        let id = format!("c{:08x}{:07x}", shared.id, shared.calls.fetch_add(1, Relaxed));
        if let Ok(mut id) = id.parse::<MetadataValue<Ascii>>() {
            // HPACK remembers header fields, so that it can send an index next time. It
            // should not remember one that is never sent again.
            id.set_sensitive(true);
            request.metadata_mut().insert(REQUEST_ID, id);
        }
        if let Some(authorization) = &shared.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(deadline) = deadline {
            // Whole milliseconds, rounded up: then most calls have the same value here,
            // which HPACK sends as an index.
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            request.set_timeout(Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)));
        }
        request
    }

    pub(super) fn error(&self, status: Status) -> Error {
        Error::new(status, &self.shared.url)
    }
}
