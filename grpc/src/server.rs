//! The server: accept connections, serve calls on them, stop in good order.
//!
//! tonic can run a server by itself (`tonic::transport::Server`). Here its
//! services run on hyper, the HTTP/2 library below it, because a deadline has to
//! end a stream with the right status, a silent connection has to be closed, and
//! a shutdown has to end: see [`crate::call`] and [`crate::socket`].

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval_at, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::ServingStatus::{NotServing, Serving};
use tonic_health::server::HealthReporter;
use tracing::{debug, info, warn};

use crate::call::{Calls, Peer, call, deadline};
use crate::limits::Limits;
use crate::proto::weather_service_server::{WeatherService, WeatherServiceServer};
use crate::proto::{
    MonitorRequest, MonitorResponse, RecordRequest, RecordResponse, UploadRequest, UploadResponse,
    WatchRequest, WatchResponse,
};
use crate::socket::Socket;
use crate::store::Store;
use crate::{monitor, record, services, upload, watch};

/// How long the last answers may take to be sent, and a peer to say goodbye on
/// a connection without calls.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Maximum bytes of one call that wait to be written to the socket.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// How to serve.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Every bound.
    pub limits: Limits,
    /// If set, calls of the weather service need `authorization: Bearer <token>`.
    pub token: Option<String>,
    /// Accept gzip from clients, and use it for those that accept it.
    pub gzip: bool,
}

struct Weather {
    store: Arc<Store>,
    limits: Limits,
}

/// The four kinds of call, each in its own file.
#[tonic::async_trait]
impl WeatherService for Weather {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;
    type MonitorStream = BoxStream<'static, Result<MonitorResponse, Status>>;

    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        record::record(&self.store, request.get_ref()).map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::watch(&self.store, request.get_ref()).map(Response::new)
    }

    async fn upload(
        &self,
        mut request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        upload::upload(&self.store, request.get_mut(), self.limits.upload_idle_timeout)
            .await
            .map(Response::new)
    }

    async fn monitor(
        &self,
        request: Request<Streaming<MonitorRequest>>,
    ) -> Result<Response<Self::MonitorStream>, Status> {
        Ok(Response::new(monitor::monitor(self.store.clone(), request.into_inner())))
    }
}

/// The weather service, behind the token if there is one.
fn weather(config: &Config) -> Routes {
    let weather = Weather { store: Arc::default(), limits: config.limits.clone() };
    let mut service = WeatherServiceServer::new(weather).max_decoding_message_size(config.limits.max_message);
    if config.gzip {
        service = service.accept_compressed(Gzip).send_compressed(Gzip);
    }
    match &config.token {
        None => Routes::new(service),
        Some(token) => {
            let expected = token.clone();
            // An interceptor sees the metadata before the handler, and the message not at all.
            let check = move |request: Request<()>| {
                let mut values = request.metadata().get_all("authorization").iter();
                match (values.next().and_then(bearer_token), values.next()) {
                    (Some(given), None) if same(given, expected.as_bytes()) => Ok(request),
                    _ => {
                        Err(Status::unauthenticated("send the metadata \"authorization: Bearer TOKEN\" once"))
                    }
                }
            };
            Routes::new(InterceptedService::new(service, check))
        }
    }
}

/// Returns the token of `Bearer TOKEN`. The scheme is written in upper or lower case,
/// and one space or more follow it (RFC 9110, section 11.4; RFC 6750, section 2.1).
fn bearer_token(authorization: &MetadataValue<Ascii>) -> Option<&[u8]> {
    let (scheme, rest) = authorization.as_encoded_bytes().split_at_checked("Bearer".len())?;
    let token = rest.trim_ascii_start();
    let spaces = &rest[..rest.len() - token.len()];
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer") && !spaces.is_empty();
    (is_bearer && spaces.iter().all(|byte| *byte == b' ')).then_some(token)
}

/// Compares without telling by its duration how much was right.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Serves until `shutdown` completes. Then health turns to `NOT_SERVING`,
/// connections get `GOAWAY`, open streams end with `UNAVAILABLE`, and calls in
/// flight finish within [`Limits::drain_timeout`].
///
/// # Errors
/// Only if the listener cannot be used at all; whatever goes wrong on one
/// connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let limits = config.limits.clone();
    let health = HealthReporter::new();
    let reflection = services::reflection(limits.max_message).map_err(io::Error::other)?;
    health.set_service_status(WeatherServiceServer::<Weather>::NAME, Serving).await;

    let routes = weather(&config)
        .add_service(services::health(health.clone(), limits.max_message))
        .add_service(services::Alpha(reflection.clone()))
        .add_service(reflection)
        .prepare();
    let calls = Arc::new(Calls {
        routes,
        slots: Arc::new(Semaphore::new(limits.max_calls)),
        limits: limits.clone(),
        stopping: CancellationToken::new(),
        drained: CancellationToken::new(),
    });
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let refusals = Arc::new(Semaphore::new(limits.max_refusals));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();

    let mut shutdown = pin!(shutdown);
    loop {
        // Cancel safe: an accept that is dropped has taken no connection.
        let stream = select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    // Most often out of descriptors: wait for some to be closed.
                    warn!("accept: {error}");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            connections.spawn(connection(stream, calls.clone(), cut.child_token(), slot));
        } else if let Ok(refusal) = refusals.clone().try_acquire_owned() {
            let socket = Socket::new(stream, &limits);
            connections.spawn(async move {
                socket.refuse().await;
                drop(refusal);
            });
        }
    }
    drop(listener); // From here on a new connection is refused, not left waiting.
    info!("stopping: no new connections, calls in flight are finished");
    for service in ["", WeatherServiceServer::<Weather>::NAME] {
        health.set_service_status(service, NotServing).await;
    }
    calls.stopping.cancel();
    connections.close();
    if timeout(limits.drain_timeout, connections.wait()).await.is_err() {
        warn!(
            "{} connections are still open after {:?}: their calls end",
            connections.len(),
            limits.drain_timeout
        );
        calls.drained.cancel();
        if timeout(LAST_WORDS, connections.wait()).await.is_err() {
            cut.cancel();
            connections.wait().await;
        }
    }
    Ok(())
}

/// Runs each call as a task which ends soon after the call's deadline.
///
/// Mostly [`crate::call`] has ended the call by then. But as long as a client
/// takes nothing of what was sent, hyper does not ask for more, and would not
/// see that the end has come. Such a stream is reset.
#[derive(Clone, Default)]
struct UntilDeadline {
    /// hyper calls the service and then, before anything else, this.
    next: Arc<Mutex<Option<Instant>>>,
}

impl UntilDeadline {
    fn set(&self, deadline: Option<Instant>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for UntilDeadline {
    fn execute(&self, call: F) {
        match self.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => tokio::spawn(call),
            Some(deadline) => tokio::spawn(async move {
                let end = deadline.checked_add(LAST_WORDS).unwrap_or(deadline);
                let _ = timeout_at(end, call).await;
            }),
        };
    }
}

/// One connection and, side by side on it, all its calls.
async fn connection(
    stream: TcpStream,
    calls: Arc<Calls>,
    close: CancellationToken,
    _slot: OwnedSemaphorePermit,
) {
    // A status is one small write; Nagle's algorithm would hold it back until
    // the client acknowledges the message before.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("nodelay: {error}");
    }
    let limits = calls.limits.clone();
    let stopping = calls.stopping.clone();
    let peer = Arc::new(Peer { close: close.clone(), ..Peer::default() });
    let executor = UntilDeadline::default();
    let service = service_fn({
        let (peer, next) = (peer.clone(), executor.clone());
        move |request: hyper::Request<Incoming>| {
            let deadline = deadline(request.headers());
            // The answer to a Record is a few bytes and no stream: not worth a timer.
            let is_stream = request.uri().path() != "/weather.v1.WeatherService/Record";
            next.set(deadline.as_ref().ok().copied().flatten().filter(|_| is_stream));
            call(calls.clone(), peer.clone(), request, deadline)
        }
    });
    let mut connection = pin!(
        http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.max_kept_header_list)
            .max_concurrent_streams(limits.max_streams)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout)
            .serve_connection(TokioIo::new(Socket::new(stream, &limits)), service)
    );
    let mut idle = interval_at(Instant::now() + limits.idle_timeout, limits.idle_timeout);
    let mut calls_before = 0;
    let mut draining = false;
    loop {
        // Cancel safe: polling borrows the connection, which keeps its state.
        select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!("connection ended: {error}");
                }
                return;
            }
            () = close.cancelled() => {
                debug!("connection closed");
                return;
            }
            () = stopping.cancelled(), if !draining => {
                connection.as_mut().graceful_shutdown();
                (draining, idle) = (true, interval_at(Instant::now() + LAST_WORDS, LAST_WORDS));
            }
            _ = idle.tick() => {
                let calls = peer.total.load(Relaxed);
                let is_quiet = calls == calls_before && peer.open.load(Relaxed) == 0;
                calls_before = calls;
                if is_quiet && draining {
                    return; // The peer takes no part in the goodbye.
                }
                if is_quiet {
                    connection.as_mut().graceful_shutdown();
                    (draining, idle) = (true, interval_at(Instant::now() + LAST_WORDS, LAST_WORDS));
                }
            }
        }
    }
}
