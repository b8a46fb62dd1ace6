//! The server: accepts connections, serves calls on them, and stops gracefully.
//!
//! tonic can run a server on its own (`tonic::transport::Server`). Here, its services run
//! on hyper, the HTTP library below it, since tonic's server cannot do two things that
//! the tests require:
//!
//! - end a stream at its deadline while the client reads nothing
//!   (`a_deadline_ends_a_stream_that_nobody_reads`);
//! - send GOAWAY on a connection without calls
//!   (`idle_connections_and_uploads_are_ended`).

use std::cell::Cell;
use std::convert::identity;
use std::future::Future;
use std::io::{self, Cursor};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tcp_socket::base::accept::Connections;
use tcp_socket::base::linger::{LingerLimits, Lingering, linger};
use tcp_socket::base::principals::{Caller, Principals};
use tcp_socket::base::tls::{Acceptor, H2, Listener, Socket, agreed_on};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval_at, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus::{NotServing, Serving};
use tonic_health::server::HealthReporter;
use tracing::{debug, info, warn};

use crate::limits::{CLOSE_TIMEOUT, Limits, MAX_SEND_BUFFER};
use call::{Call, ConnectionState, ServerState};
use service::Services;

mod call;
mod monitor;
mod record;
mod service;
mod services;
mod store;
mod upload;
mod watch;

/// Length of the client's preface (RFC 9113, section 3.4) and of the header of the
/// SETTINGS frame that must follow it.
const FIRST_BYTES: usize = 24 + 9;

/// An empty SETTINGS frame, then a GOAWAY frame with last stream 0, the code
/// ENHANCE_YOUR_CALM, and a text. Each frame has length, type, flags, stream, and payload
/// (sections 6.5 and 6.8).
const TOO_MANY_CONNECTIONS: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections";

/// The same for a client without TLS, with the code INADEQUATE_SECURITY, if the server speaks TLS.
const NOT_TLS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x37\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthis port speaks TLS: use https instead of http";

/// The same for a client that speaks TLS but does not name HTTP/2 in its handshake.
const NO_ALPN: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x2d\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthe TLS handshake must name h2 (ALPN)";

/// The server's configuration.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Every limit.
    pub limits: Limits,
    /// If set, calls of the weather service need `authorization: Bearer <token>`. Its callers may do
    /// everything. It replaces the listener's principals.
    pub token: Option<String>,
    /// Accept gzip from clients, and compress responses for clients that accept it.
    pub gzip: bool,
}

/// Serves until `shutdown` completes. Then health turns to `NOT_SERVING`, connections get
/// `GOAWAY`, and open streams end with `UNAVAILABLE`. Other calls in flight may finish
/// within [`drain_timeout`](tcp_socket::base::limits::ConnectionLimits::drain_timeout).
///
/// # Errors
/// If the listener cannot be used at all. An error on one connection ends only that
/// connection.
pub async fn serve(
    listener: impl Into<Listener>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let Listener { tcp: listener, tls, principals } = listener.into();
    listener.local_addr()?;
    let Config { limits, token, gzip } = config;
    let principals = token.map(|token| Arc::new(Principals::operator(&token))).or(principals);
    let health = HealthReporter::new();
    health.set_service_status(service::NAME, Serving).await;
    let services = Services::new(&limits, gzip, health.clone()).map_err(io::Error::other)?;
    let linger = limits.connections.linger();
    let tls = Acceptor::new(tls, limits.handshake_timeout, linger, NOT_TLS);
    let connections = Connections::new(&limits.connections);
    let server = Arc::new(ServerState {
        services,
        permits: Arc::new(Semaphore::new(limits.max_calls)),
        limits: limits.clone(),
        stopping: connections.stopping(),
        drained: CancellationToken::new(),
    });
    let serve = |stream, _peer| {
        let (server, principals) = (server.clone(), principals.clone());
        tls.handshake_then(stream, identity, connections.stopping(), move |stream, _stopping| async move {
            if !agreed_on(&stream, H2) {
                return refuse(stream, NO_ALPN, linger).await;
            }
            let caller = Caller::new(principals.as_ref(), &stream);
            connection(stream, server, caller).await;
        })
    };
    let refuse = |stream| {
        tls.handshake_then(stream, identity, connections.stopping(), move |stream, _stopping| {
            refuse(stream, TOO_MANY_CONNECTIONS, linger)
        })
    };
    connections.accept(listener, shutdown, serve, refuse).await;

    info!("stopping: no new connections; Watch and Monitor calls end, and others may finish");
    for service in ["", service::NAME] {
        health.set_service_status(service, NotServing).await;
    }
    if !connections.drain(limits.connections.drain_timeout).await {
        warn!("ending the calls that are still in flight after {:?}", limits.connections.drain_timeout);
        server.drained.cancel();
        connections.finish(CLOSE_TIMEOUT).await;
    }
    Ok(())
}

/// Tells the client in a GOAWAY why the server refuses it, and closes the connection.
async fn refuse(mut stream: Socket, reason: &[u8], limits: LingerLimits) {
    let written = timeout(limits.time, stream.write_all(reason)).await;
    if written.is_ok_and(|written| written.is_ok()) {
        linger(stream, limits).await;
    }
}

thread_local! {
    /// When the next call that is given to [`UntilDeadline`] must end. hyper first calls
    /// the service, which sets this, and right after it the executor, which clears it.
    static NEXT_DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs each call as a task that ends soon after the call's deadline.
///
/// Usually, [`Call::run`] has ended the call by then. But while the client accepts no
/// data, hyper does not poll the response, so the call does not notice its deadline. The
/// end of the task resets such a stream.
#[derive(Clone)]
struct UntilDeadline;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for UntilDeadline {
    fn execute(&self, call: F) {
        let Some(deadline) = NEXT_DEADLINE.take() else {
            tokio::spawn(call);
            return;
        };
        tokio::spawn(timeout_at(deadline.checked_add(CLOSE_TIMEOUT).unwrap_or(deadline), call));
    }
}

/// Reads the first bytes of a connection, for which the HTTP/2 library would wait without
/// a limit. Returns `None` if they do not arrive in time.
async fn first_bytes<S: AsyncRead + Unpin>(
    stream: &mut S,
    server: &ServerState,
) -> Option<[u8; FIRST_BYTES]> {
    let mut bytes = [0; FIRST_BYTES];
    // A read that is dropped may have read some of the bytes, but then the connection is
    // closed.
    select! {
        read = timeout(server.limits.handshake_timeout, stream.read_exact(&mut bytes)) => {
            read.ok()?.ok().map(|_count| bytes)
        }
        () = async { server.stopping.cancelled().await; sleep(CLOSE_TIMEOUT).await } => None,
    }
}

/// Serves a connection. All its calls run at the same time.
async fn connection<S>(mut stream: S, server: Arc<ServerState>, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, stopping) = (server.limits.clone(), server.stopping.clone());
    let Some(first_bytes) = first_bytes(&mut stream, &server).await else {
        debug!("the client's first bytes did not arrive in time");
        let _ = timeout(CLOSE_TIMEOUT, stream.shutdown()).await; // TLS has a message for the end.
        return;
    };
    let (reader, writer) = tokio::io::split(stream);
    let socket = tokio::io::join(Cursor::new(first_bytes).chain(reader), writer);
    let socket = Lingering::new(socket, limits.connections.linger());

    let state = Arc::new(ConnectionState { caller, ..ConnectionState::default() });
    let service = service_fn({
        let state = state.clone();
        move |request: hyper::Request<Incoming>| {
            let call = Call::new(server.clone(), state.clone(), &request);
            NEXT_DEADLINE.set(call.stream_deadline());
            call.run(request)
        }
    });
    let mut connection = pin!(
        http2::Builder::new(UntilDeadline)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.max_kept_header_list)
            .max_concurrent_streams(limits.max_streams)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout)
            .serve_connection(TokioIo::new(socket), service)
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
            () = state.close.cancelled() => {
                debug!("closing a connection: too many abandoned calls, or too many from an unknown caller");
                return;
            }
            () = stopping.cancelled(), if !draining => {}
            _ = idle.tick() => {
                let calls = state.total.load(Relaxed);
                let is_quiet = calls == calls_before && state.open.load(Relaxed) == 0;
                calls_before = calls;
                if !is_quiet {
                    continue;
                }
                if draining {
                    return; // The peer has not closed its side.
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        (draining, idle) = (true, interval_at(Instant::now() + CLOSE_TIMEOUT, CLOSE_TIMEOUT));
    }
}
